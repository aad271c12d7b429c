// SPDX-License-Identifier: Apache-2.0
//
// What a network backend asks before it lets a vif on: is its address in use on that network, and is it the
// one that the pool holds for that guest?
//
// Two questions with two answers. A duplicate takes another guest's packets, so that vif is refused. An
// address that the pool does not know may be the site's own decision, so it is reported and served.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hypervisor/store.h"
#include "mac-pool/pool.h"

namespace ringback::mac {

struct ActiveVif {
    std::string network;  // xl's bridge=
    Mac mac;
    Guest guest;
    xen::Domid domid = 0;
    unsigned devid = 0;
};

// Whether vifs there meet: one bridge, and a VLAN in common (BRIDGE[.VLAN][:TRUNK...], as for vif-openvswitch).
[[nodiscard]] bool same_network(std::string_view one, std::string_view other);

// Why `wanted` must not become active beside `active`; names both guests. One UUID twice is a migration on
// one host, and legal; one name twice is not, for two guests can have that.
[[nodiscard]] std::optional<std::string> refusal(const std::vector<ActiveVif>& active,
                                                 const ActiveVif& wanted);

// How the pool sees it differently: it holds another address for this NIC, or this address for another guest,
// or for nobody.
[[nodiscard]] Result<std::optional<std::string>> disagreement(Pool& pool, const ActiveVif& vif);

}  // namespace ringback::mac
