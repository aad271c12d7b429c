// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/active.h"

#include <fmt/format.h>

#include <algorithm>

namespace ringback::mac {

namespace {

// The bridge and the VLANs that a vif is on, from xl's BRIDGE[.VLAN][:TRUNK...] (Xen's vif-openvswitch); no
// VLAN is 0.
std::pair<std::string_view, std::vector<std::string_view>> parse_network(std::string_view text) {
    std::vector<std::string_view> vlans;
    for (size_t colon = text.rfind(':'); colon != std::string_view::npos; colon = text.rfind(':')) {
        vlans.push_back(text.substr(colon + 1));
        text.remove_suffix(text.size() - colon);
    }
    if (const size_t dot = text.rfind('.'); dot != std::string_view::npos) {
        vlans.push_back(text.substr(dot + 1));
        text.remove_suffix(text.size() - dot);
    }
    if (vlans.empty()) vlans.emplace_back("0");
    return {text, vlans};
}

std::string vif_text(const ActiveVif& vif) {
    return fmt::format("guest {} (domain {}, vif {})", vif.guest.text(), vif.domid, vif.devid);
}

}  // namespace

bool same_network(std::string_view one, std::string_view other) {
    const auto [bridge, vlans] = parse_network(one);
    const auto [other_bridge, other_vlans] = parse_network(other);
    return bridge == other_bridge && std::ranges::find_first_of(vlans, other_vlans) != vlans.end();
}

std::optional<std::string> refusal(const std::vector<ActiveVif>& active, const ActiveVif& wanted) {
    for (const ActiveVif& other : active) {
        if (other.mac != wanted.mac || !same_network(other.network, wanted.network)) continue;
        if (other.domid == wanted.domid && other.devid == wanted.devid) continue;
        const bool migrates = other.domid != wanted.domid && !wanted.guest.uuid.empty() &&
                              other.guest.uuid == wanted.guest.uuid;
        if (migrates) continue;
        return fmt::format("MAC {} of {} is in use on {} by {}", wanted.mac.text(), vif_text(wanted),
                           wanted.network, vif_text(other));
    }
    return std::nullopt;
}

Result<std::optional<std::string>> disagreement(Pool& pool, const ActiveVif& vif) {
    std::optional<std::string> text;
    TRY(pool.together([&](Ledger& ledger) -> Result<void> {
        text.reset();
        const auto lease = TRY(ledger.holder(vif.mac));
        if (lease && !same_guest(lease->guest, vif.guest)) {
            text = fmt::format("{} has MAC {}, which the pool holds for {}", vif_text(vif), vif.mac.text(),
                               holder_text(*lease));
            return {};
        }
        const auto record = TRY(ledger.find(vif.guest));
        const auto nic = record ? record->nics.find(vif.devid) : std::map<unsigned, Mac>::const_iterator{};
        if (record && nic != record->nics.end()) {
            if (nic->second == vif.mac) return {};
            text = fmt::format("{} has MAC {}, and the pool holds {} for it", vif_text(vif), vif.mac.text(),
                               nic->second.text());
        } else if (!lease) {
            text = fmt::format("{} has MAC {}, which the pool holds for nobody", vif_text(vif), vif.mac.text());
        }
        return {};
    }));
    return text;
}

}  // namespace ringback::mac
