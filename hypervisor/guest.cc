// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/guest.h"

#include <fmt/format.h>

namespace ringback::xen {

std::string guest_name(const Store& store, Domid domid) {
    return store.read(fmt::format("/local/domain/{}/name", domid)).value_or("");
}

std::string guest_uuid(const Store& store, Domid domid) {
    const std::string vm = store.read(fmt::format("/local/domain/{}/vm", domid)).value_or("");
    return vm.starts_with("/vm/") ? vm.substr(4) : "";
}

Result<Domid> find_guest(const Store& store, const std::string& guest) {
    if (const auto domid = parse_number(guest, 0, 0x7fef)) return static_cast<Domid>(*domid);
    for (const std::string& entry : store.list("/local/domain")) {
        const auto domid = parse_number(entry, 0, 0x7fef);
        if (!domid) continue;
        const auto candidate = static_cast<Domid>(*domid);
        if (guest_name(store, candidate) == guest || guest_uuid(store, candidate) == guest) return candidate;
    }
    return Error{ENOENT, fmt::format("there is no guest \"{}\" (a name, a domid or a UUID)", guest)};
}

}  // namespace ringback::xen
