// SPDX-License-Identifier: Apache-2.0
//
// A guest's names: domain name, domid, UUID; each is as good as another wherever a command takes a guest.
#pragma once

#include <string>

#include "hypervisor/store.h"
#include "runtime/result.h"

namespace ringback::xen {

// "": none, or no such guest.
[[nodiscard]] std::string guest_name(const Store& store, Domid domid);
[[nodiscard]] std::string guest_uuid(const Store& store, Domid domid);
// A name made of digits only is taken for a domid, as xl does.
[[nodiscard]] Result<Domid> find_guest(const Store& store, const std::string& guest);

}  // namespace ringback::xen
