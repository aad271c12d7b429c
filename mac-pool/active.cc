// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/active.h"

#include <fmt/format.h>

namespace ringback::mac {

namespace {

std::string vif_text(const ActiveVif& vif) {
    return fmt::format("guest {} (domain {}, vif {})", vif.guest.text(), vif.domid, vif.devid);
}

}  // namespace

std::optional<std::string> refusal(const std::vector<ActiveVif>& active, const ActiveVif& wanted) {
    for (const ActiveVif& other : active) {
        if (other.mac != wanted.mac || other.network != wanted.network) continue;
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
        if (!record) return {};
        const auto nic = record->nics.find(vif.devid);
        if (nic != record->nics.end() && nic->second != vif.mac) {
            text = fmt::format("{} has MAC {}, and the pool holds {} for it", vif_text(vif), vif.mac.text(),
                               nic->second.text());
        }
        return {};
    }));
    return text;
}

}  // namespace ringback::mac
