// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/ledger.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <map>

namespace ringback::mac {

namespace {

Error damaged(const std::string& what) {
    return {EUCLEAN, "the pool is damaged: " + what};
}

}  // namespace

std::string holder_text(const Lease& lease) {
    const std::string guest = lease.guest.text();
    if (!guest.empty()) return fmt::format("{} nic {}", guest, lease.nic);
    return lease.note.empty() ? "no guest" : fmt::format("no guest ({})", lease.note);
}

template <typename Record>
Result<std::optional<Record>> Ledger::load(const std::string& key) {
    const auto text = TRY(transaction_.get(key));
    if (!text) return std::optional<Record>();
    Record record{};
    TRY(read(key, *text, record));
    return std::optional<Record>(std::move(record));
}

Result<Progress> Ledger::progress() {
    const auto progress = TRY(load<Progress>(key::kProgress));
    if (!progress || progress->next > progress->end || progress->end > rules_.space.size()) {
        return damaged("its record " + key::kProgress + " is absent or out of range");
    }
    return *progress;
}

Result<void> Ledger::expect(const std::vector<std::pair<Mac, std::optional<Guest>>>& coming) {
    std::vector<std::string> keys{key::kProgress};
    for (const auto& [mac, guest] : coming) {
        keys.push_back(key::mac(mac));
        if (guest && !guest->uuid.empty()) keys.push_back(key::guest(guest->uuid));
        if (guest && !guest->name.empty()) keys.push_back(key::guest("name=" + guest->name));
        const auto rank = rules_.space.rank(mac);
        if (!rank) continue;
        keys.push_back(key::resting(mac));
        keys.push_back(key::position_of(rules_.permutation.backward(*rank)));
    }
    TRY(transaction_.prefetch(keys));
    // Each one takes the draw from the end of the list.
    const Progress state = TRY(progress());
    keys.clear();
    for (uint64_t position = state.end; position > state.next && keys.size() < coming.size(); --position) {
        keys.push_back(key::draw_at(position - 1));
    }
    return transaction_.prefetch(keys);
}

// --- Guests ---

Result<std::optional<GuestRecord>> Ledger::find(const Guest& guest) {
    if (!guest.uuid.empty()) {
        auto known = TRY(load<GuestRecord>(key::guest(guest.uuid)));
        if (known || guest.name.empty()) return known;
        // A name that no UUID has claimed yet.
        return load<GuestRecord>(key::guest("name=" + guest.name));
    }
    auto unclaimed = TRY(load<GuestRecord>(key::guest("name=" + guest.name)));
    const std::string prefix = key::names(guest.name);
    const auto claimed = TRY(transaction_.keys(prefix));
    if (claimed.size() + (unclaimed ? 1 : 0) > 1) {
        std::string list;
        for (const std::string& name : claimed)
            list += " " + name.substr(prefix.size());
        return Error{EEXIST, fmt::format("several guests are called {}; name one by its UUID:{}{}",
                                         guest.name, list, unclaimed ? " (and one without)" : "")};
    }
    if (unclaimed || claimed.empty()) return unclaimed;
    return load<GuestRecord>(key::guest(claimed.front().substr(prefix.size())));
}

Result<GuestRecord> Ledger::enter(const Guest& guest) {
    auto known = TRY(find(guest));
    if (!known) {
        const GuestRecord record{guest, {}};
        save(record);
        return record;
    }
    GuestRecord record = *known;
    if (!guest.uuid.empty() && record.guest.uuid.empty()) {
        forget(record);
        record.guest.uuid = guest.uuid;
        save(record);
        for (const auto& [nic, mac] : record.nics) {
            auto holding = TRY(load<Holding>(key::mac(mac)));
            if (!holding) return damaged(fmt::format("{} of guest {} is not held", mac.text(), guest.text()));
            holding->guest = guest.uuid;
            transaction_.put(key::mac(mac), write(*holding));
        }
    } else if (!guest.name.empty() && record.guest.name != guest.name) {
        if (!record.guest.name.empty()) transaction_.remove(key::name(record.guest.name, record.guest.uuid));
        record.guest.name = guest.name;
        save(record);
    }
    return record;
}

void Ledger::save(const GuestRecord& record) {
    transaction_.put(key::guest(guest_id(record.guest)), write(record));
    if (!record.guest.uuid.empty() && !record.guest.name.empty()) {
        transaction_.put(key::name(record.guest.name, record.guest.uuid), "");
    }
}

void Ledger::forget(const GuestRecord& record) {
    transaction_.remove(key::guest(guest_id(record.guest)));
    if (!record.guest.uuid.empty() && !record.guest.name.empty()) {
        transaction_.remove(key::name(record.guest.name, record.guest.uuid));
    }
}

// --- Addresses ---

Result<std::optional<Lease>> Ledger::holder(Mac mac) {
    const auto holding = TRY(load<Holding>(key::mac(mac)));
    if (!holding) return std::optional<Lease>();
    Lease lease{mac, {}, holding->nic, holding->origin, holding->since, holding->note};
    if (!holding->guest.empty()) {
        const auto record = TRY(load<GuestRecord>(key::guest(holding->guest)));
        if (!record) return damaged(fmt::format("the holder of {} is unknown", mac.text()));
        lease.guest = record->guest;
    }
    return std::optional<Lease>(std::move(lease));
}

Result<std::optional<Resting>> Ledger::resting(Mac mac) {
    return load<Resting>(key::resting(mac));
}

Result<Granted> Ledger::allocate(const Guest& guest, unsigned nic) {
    const GuestRecord record = TRY(enter(guest));
    if (const auto had = record.nics.find(nic); had != record.nics.end()) {
        auto lease = TRY(holder(had->second));
        if (!lease)
            return damaged(fmt::format("{} of guest {} is not held", had->second.text(), guest.text()));
        return Granted{*lease, false, {}};
    }
    auto mac = TRY(draw());
    if (!mac) mac = TRY(take_rested());
    TRY(bind(*mac, record.guest, {guest_id(record.guest), nic, Origin::pool, now_, {}}));
    return Granted{{*mac, record.guest, nic, Origin::pool, now_, {}}, true, {}};
}

Result<Granted> Ledger::reserve(Mac mac, const std::optional<Guest>& guest, unsigned nic, Origin origin,
                                const std::string& note) {
    const auto lease = TRY(holder(mac));
    if (lease) {
        const auto record = guest ? TRY(find(*guest)) : std::nullopt;
        const bool same =
            guest ? record && record->guest == lease->guest && lease->nic == nic : lease->guest == Guest{};
        if (!same) return Error{EEXIST, fmt::format("{} is held by {}", mac.text(), holder_text(*lease))};
        // A name may have become a UUID.
        if (guest)
            return Granted{
                {mac, TRY(enter(*guest)).guest, nic, lease->origin, lease->since, lease->note}, false, {}};
        return Granted{*lease, false, {}};
    }
    Holding holding{{}, nic, origin, now_, note};
    Guest holder;
    if (guest) {
        const GuestRecord record = TRY(enter(*guest));
        if (const auto has = record.nics.find(nic); has != record.nics.end()) {
            return Error{EEXIST, fmt::format("{} nic {} already has {}; release that first",
                                             record.guest.text(), nic, has->second.text())};
        }
        holder = record.guest;
        holding.guest = guest_id(holder);
    }
    Granted granted{{mac, holder, nic, origin, now_, note}, true, {}};
    if (const auto rank = rules_.space.rank(mac)) {
        if (const auto rest = TRY(resting(mac))) {
            end_rest(mac, *rest);
            if (now_ < rest->until)
                granted.note = fmt::format("it was released only {} s ago and should have rested {} s more",
                                           now_ - rest->since, rest->until - now_);
        } else {
            TRY(withdraw(mac, *rank));
        }
    }
    TRY(bind(mac, holder, holding));
    return granted;
}

Result<void> Ledger::move(Mac mac, const Guest& guest, unsigned nic) {
    const auto lease = TRY(holder(mac));
    if (!lease) return Error{ENOENT, fmt::format("nobody holds {}", mac.text())};
    // Before the new holder is entered: with its last address the old one goes, and its name with it.
    TRY(unbind(mac, *lease));
    const GuestRecord record = TRY(enter(guest));
    if (const auto has = record.nics.find(nic); has != record.nics.end()) (void)TRY(release(has->second));
    // That may have been the last one of the new holder.
    const GuestRecord again = TRY(enter(guest));
    return bind(mac, again.guest, {guest_id(again.guest), nic, lease->origin, lease->since, lease->note});
}

Result<void> Ledger::renumber(const Guest& guest, const std::map<unsigned, Mac>& wanted) {
    if (wanted.empty()) return {};
    GuestRecord record = TRY(enter(guest));
    for (const auto& [nic, mac] : wanted) {
        std::erase_if(record.nics, [&address = mac](const auto& held) { return held.second == address; });
    }
    for (const auto& [nic, mac] : wanted) {
        auto holding = TRY(load<Holding>(key::mac(mac)));
        if (!holding || !record.nics.emplace(nic, mac).second) {
            return damaged(fmt::format("{} cannot become nic {} of {}", mac.text(), nic, guest.text()));
        }
        holding->nic = nic;
        transaction_.put(key::mac(mac), write(*holding));
    }
    save(record);
    return {};
}

Result<bool> Ledger::release(Mac mac) {
    const auto lease = TRY(holder(mac));
    if (!lease) return false;
    TRY(unbind(mac, *lease));
    if (!rules_.space.rank(mac)) return true;
    Progress state = TRY(progress());
    const Resting rest{state.released++, now_, now_ + rules_.settings.rest_seconds};
    transaction_.put(key::kProgress, write(state));
    transaction_.put(key::queue(rest.number), write(mac.value));
    transaction_.put(key::resting(mac), write(rest));
    if (rules_.settings.rest_seconds > 0) {
        transaction_.put_expiring(key::paused(mac), "", rules_.settings.rest_seconds);
    }
    return true;
}

Result<std::vector<Mac>> Ledger::release(const Guest& guest, std::optional<unsigned> nic) {
    const auto record = TRY(find(guest));
    std::vector<Mac> released;
    if (!record) return released;
    for (const auto& [number, mac] : record->nics) {
        if (nic && number != *nic) continue;
        (void)TRY(release(mac));
        released.push_back(mac);
    }
    return released;
}

Result<void> Ledger::bind(Mac mac, const Guest& guest, const Holding& holding) {
    transaction_.put(key::mac(mac), write(holding));
    if (holding.guest.empty()) return {};
    auto record = TRY(load<GuestRecord>(key::guest(holding.guest)));
    if (!record) record = GuestRecord{guest, {}};
    record->nics[holding.nic] = mac;
    save(*record);
    return {};
}

Result<void> Ledger::unbind(Mac mac, const Lease& lease) {
    transaction_.remove(key::mac(mac));
    if (lease.guest == Guest{}) return {};
    auto record = TRY(load<GuestRecord>(key::guest(guest_id(lease.guest))));
    if (!record) return damaged(fmt::format("the holder of {} is unknown", mac.text()));
    record->nics.erase(lease.nic);
    if (record->nics.empty()) {
        forget(*record);
    } else {
        save(*record);
    }
    return {};
}

// --- Drawing ---

Result<uint64_t> Ledger::draw_at(uint64_t position) {
    const auto moved = TRY(load<uint64_t>(key::draw_at(position)));
    return moved.value_or(position);
}

void Ledger::place(uint64_t position, uint64_t draw) {
    if (position == draw) {
        transaction_.remove(key::draw_at(position));
        transaction_.remove(key::position_of(draw));
    } else {
        transaction_.put(key::draw_at(position), write(draw));
        transaction_.put(key::position_of(draw), write(position));
    }
}

Result<std::optional<Mac>> Ledger::draw() {
    Progress state = TRY(progress());
    if (state.next == state.end) return std::optional<Mac>();
    const uint64_t draw = TRY(draw_at(state.next));
    if (draw >= rules_.space.size()) return damaged("a draw is out of range");
    if (draw != state.next) {
        transaction_.remove(key::draw_at(state.next));
        transaction_.remove(key::position_of(draw));
    }
    ++state.next;
    transaction_.put(key::kProgress, write(state));
    return std::optional<Mac>(rules_.space.at(rules_.permutation.forward(draw)));
}

Result<Mac> Ledger::take_rested() {
    const uint64_t size = rules_.space.size();
    const auto head = TRY(transaction_.first(key::kQueue));
    if (!head) return Error{ENOSPC, fmt::format("pool exhausted: all {} addresses are in use", size)};
    uint64_t value = 0;
    TRY(read(head->first, head->second, value));
    const Mac mac{value};
    const auto rest = TRY(resting(mac));
    if (!rest) return damaged(fmt::format("{} is queued and does not rest", mac.text()));
    if (TRY(transaction_.get(key::paused(mac)))) {
        return Error{
            ENOSPC,
            fmt::format(
                "pool exhausted: of {} addresses the next one, {}, rests until {:%Y-%m-%d %H:%M:%S} UTC",
                size, mac.text(), fmt::gmtime(static_cast<std::time_t>(rest->until)))};
    }
    end_rest(mac, *rest);
    return mac;
}

void Ledger::end_rest(Mac mac, const Resting& resting) {
    transaction_.remove(key::queue(resting.number));
    transaction_.remove(key::resting(mac));
    transaction_.remove(key::paused(mac));
}

Result<void> Ledger::withdraw(Mac mac, uint64_t rank) {
    Progress state = TRY(progress());
    const uint64_t draw = rules_.permutation.backward(rank);
    const auto moved = TRY(load<uint64_t>(key::position_of(draw)));
    const uint64_t position = moved.value_or(draw);
    if (position < state.next || position >= state.end) {
        return damaged(fmt::format("{} is neither held nor resting nor to be drawn", mac.text()));
    }
    const uint64_t last = --state.end;
    const uint64_t last_draw = TRY(draw_at(last));
    transaction_.remove(key::draw_at(last));
    transaction_.remove(key::position_of(draw));
    if (position != last) place(position, last_draw);
    transaction_.put(key::kProgress, write(state));
    return {};
}

}  // namespace ringback::mac
