// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/running.h"

#include <fmt/format.h>

namespace ringback::mac {

namespace {

Guest identity(const xen::Store& store, xen::Domid domid) {
    const std::string home = fmt::format("/local/domain/{}", domid);
    Guest guest;
    // "/vm/UUID"
    const std::string vm = store.read(home + "/vm").value_or("");
    if (vm.starts_with("/vm/")) {
        const auto uuid = parse_uuid(std::string_view(vm).substr(4));
        if (uuid.ok()) guest.uuid = uuid.value();
    }
    const auto name = parse_guest_name(store.read(home + "/name").value_or(""));
    if (name.ok()) guest.name = name.value();
    return guest;
}

std::vector<RunningVif> vifs(const xen::Store& store, xen::Domid domid) {
    std::vector<RunningVif> found;
    const std::string directory = fmt::format("/libxl/{}/device/vif", domid);
    for (const std::string& name : store.list(directory)) {
        const auto devid = xen::parse_number(name, 0, 0xffff);
        if (!devid) continue;
        const auto mac = parse_unicast(store.read(directory + "/" + name + "/mac").value_or(""));
        if (mac.ok()) found.push_back({static_cast<unsigned>(*devid), mac.value()});
    }
    return found;
}

}  // namespace

std::vector<RunningGuest> running_guests(const xen::Store& store) {
    std::vector<RunningGuest> guests;
    const auto own = store.own_domid();
    for (const std::string& name : store.list("/local/domain")) {
        const auto number = xen::parse_number(name, 1, 0x7fef);
        if (!number || (own.ok() && *number == own.value())) continue;
        const auto domid = static_cast<xen::Domid>(*number);
        RunningGuest guest{domid, identity(store, domid), vifs(store, domid)};
        if (!(guest.guest == Guest{})) guests.push_back(std::move(guest));
    }
    return guests;
}

Result<Guest> resolve_guest(Pool& pool, std::string_view word) {
    const GuestWord kind = classify_guest(word);
    if (kind == GuestWord::uuid) return Guest{{}, TRY(parse_uuid(word))};
    if (kind == GuestWord::domid) {
        const xen::Store store = TRY(xen::Store::open());
        const auto domid = xen::parse_number(word, 0, 0x7fef);
        const Guest guest = domid ? identity(store, static_cast<xen::Domid>(*domid)) : Guest{};
        if (guest.uuid.empty()) return Error{ENOENT, fmt::format("no domain {} on this host", word)};
        return guest;
    }
    Guest guest{TRY(parse_guest_name(word)), {}};
    const auto known = TRY(pool.find(guest));
    if (known) return known->guest;
    // No xenstore, no running guests.
    const auto store = xen::Store::open();
    if (!store.ok()) return guest;
    std::string uuid;
    for (const RunningGuest& running : running_guests(store.value())) {
        if (running.guest.name != guest.name) continue;
        // Two of one name: a migration on this host, or a riddle that is not ours to solve.
        if (!uuid.empty() && uuid != running.guest.uuid) return guest;
        uuid = running.guest.uuid;
    }
    guest.uuid = uuid;
    return guest;
}

}  // namespace ringback::mac
