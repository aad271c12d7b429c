// SPDX-License-Identifier: Apache-2.0
//
// Running: the guests of this host as its xenstore has them.
//
// A guest's own directory is its to write; so what identifies it comes from nodes that only dom0 writes: vm,
// name, and the toolstack's /libxl/DOMID, which also has a copy of every vif's backend nodes, mac among them.
#pragma once

#include <string_view>
#include <vector>

#include "hypervisor/store.h"
#include "mac-pool/pool.h"

namespace ringback::mac {

struct RunningVif {
    unsigned devid = 0;
    Mac mac;
};

struct RunningGuest {
    xen::Domid domid = 0;
    Guest guest;
    std::vector<RunningVif> vifs;
};

// All guests but this domain itself. What is being built or torn down may be incomplete, and is then left
// out.
[[nodiscard]] std::vector<RunningGuest> running_guests(const xen::Store& store);

// Who is meant by what a person typed. A number is a domid and is looked up in xenstore. A name means the
// guest that the pool knows by it; if it knows none, the running guest of that name, if there is one, adds
// its UUID.
[[nodiscard]] Result<Guest> resolve_guest(Pool& pool, std::string_view word);

}  // namespace ringback::mac
