// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <unordered_map>

namespace ringback::mac {

namespace {

Key random_key() {
    std::random_device random;
    const auto word = [&] { return static_cast<uint64_t>(random()) << 32 | random(); };
    return {word(), word()};
}

}  // namespace

Result<bool> Pool::init(Store& store, Settings request, std::optional<Key> key) {
    std::ranges::sort(request.ranges);
    std::ranges::sort(request.exclusions);
    request.key = key.value_or(random_key());
    const Space space = TRY(Space::make(request.ranges, request.exclusions));
    bool tried = false;
    bool made = false;
    TRY(store.transact([&](Transaction& transaction) -> Result<void> {
        const auto text = TRY(transaction.get(key::kSettings));
        if (text) {
            Settings there;
            TRY(read(key::kSettings, *text, there));
            // Perhaps by our own earlier try, whose outcome the store did not tell.
            made = tried && there.key == request.key;
            if (there.same_request(request)) return {};
            std::string ranges;
            for (const Range& range : there.ranges)
                ranges += " " + range.text();
            return Error{
                EEXIST,
                fmt::format("there is a pool already, with other ranges, exclusions or rest; it has{}",
                            ranges)};
        }
        transaction.put(key::kSettings, write(request));
        transaction.put(key::kProgress, write(Progress{0, space.size(), 0}));
        tried = made = true;
        return {};
    }));
    return made;
}

Result<Pool> Pool::open(std::unique_ptr<Store> store, Clock clock) {
    std::unique_ptr<Rules> rules;
    TRY(store->transact([&](Transaction& transaction) -> Result<void> {
        const auto text = TRY(transaction.get(key::kSettings));
        if (!text)
            return Error{ENOENT, fmt::format("no pool at {}; `macpool init` makes one", store->name())};
        Settings settings;
        TRY(read(key::kSettings, *text, settings));
        Space space = TRY(Space::make(settings.ranges, settings.exclusions));
        const Permutation permutation(settings.key, space.size());
        rules = std::make_unique<Rules>(Rules{std::move(settings), std::move(space), permutation});
        return {};
    }));
    return Pool(std::move(store), std::move(clock), std::move(rules));
}

Result<void> Pool::together(const std::function<Result<void>(Ledger&)>& work) {
    return store_->transact([&](Transaction& transaction) {
        Ledger ledger(transaction, *rules_, clock_());
        return work(ledger);
    });
}

Result<void> Pool::together(size_t count, const std::function<Result<void>(Ledger&, size_t from, size_t to)>& work) {
    return store_->transact_all(count, [&](Transaction& transaction, size_t from, size_t to) {
        Ledger ledger(transaction, *rules_, clock_());
        return work(ledger, from, to);
    });
}

Result<Granted> Pool::allocate(const Guest& guest, unsigned nic) {
    Granted granted;
    TRY(together([&](Ledger& ledger) -> Result<void> {
        granted = TRY(ledger.allocate(guest, nic));
        return {};
    }));
    return granted;
}

Result<Granted> Pool::reserve(Mac mac, const std::optional<Guest>& guest, unsigned nic) {
    Granted granted;
    TRY(together([&](Ledger& ledger) -> Result<void> {
        granted = TRY(ledger.reserve(mac, guest, nic, Origin::hand, {}));
        return {};
    }));
    return granted;
}

Result<bool> Pool::release(Mac mac) {
    bool held = false;
    TRY(together([&](Ledger& ledger) -> Result<void> {
        // Or an earlier try did it, whose outcome the store did not tell.
        held = TRY(ledger.release(mac)) || held;
        return {};
    }));
    return held;
}

Result<std::vector<Mac>> Pool::release(const Guest& guest, std::optional<unsigned> nic) {
    std::vector<Mac> released;
    TRY(together([&](Ledger& ledger) -> Result<void> {
        auto now = TRY(ledger.release(guest, nic));
        if (!now.empty()) released = std::move(now);
        return {};
    }));
    return released;
}

Result<std::optional<Lease>> Pool::holder(Mac mac) {
    std::optional<Lease> lease;
    TRY(together([&](Ledger& ledger) -> Result<void> {
        lease = TRY(ledger.holder(mac));
        return {};
    }));
    return lease;
}

Result<std::optional<Resting>> Pool::resting(Mac mac) {
    std::optional<Resting> resting;
    TRY(together([&](Ledger& ledger) -> Result<void> {
        resting = TRY(ledger.resting(mac));
        return {};
    }));
    return resting;
}

Result<std::optional<GuestRecord>> Pool::find(const Guest& guest) {
    std::optional<GuestRecord> record;
    TRY(together([&](Ledger& ledger) -> Result<void> {
        record = TRY(ledger.find(guest));
        return {};
    }));
    return record;
}

Result<void> Pool::each_lease(const std::function<void(const Lease&)>& each) {
    std::unordered_map<std::string, Guest> guests;
    Result<void> damage;
    TRY(store_->scan(key::kGuests, [&](const Entry& entry) {
        GuestRecord record;
        const auto done = read(entry.first, entry.second, record);
        if (!done.ok()) damage = done;
        guests[entry.first.substr(key::kGuests.size())] = record.guest;
    }));
    TRY(store_->scan(key::kMacs, [&](const Entry& entry) {
        Holding holding;
        const auto mac = mac_of_key(entry.first);
        const auto done = read(entry.first, entry.second, holding);
        if (!done.ok()) damage = done;
        if (!mac.ok()) damage = mac.error();
        if (!damage.ok()) return;
        Lease lease{mac.value(), {}, holding.nic, holding.origin, holding.since, holding.note};
        if (const auto guest = guests.find(holding.guest); guest != guests.end()) {
            lease.guest = guest->second;
        } else if (!holding.guest.empty()) {
            // A guest that came between the two scans. Its id says who it is.
            const bool named = holding.guest.starts_with("name=");
            lease.guest = named ? Guest{holding.guest.substr(5), {}} : Guest{{}, holding.guest};
        }
        each(lease);
    }));
    return damage;
}

Result<void> Pool::each_resting(const std::function<void(Mac, const Resting&)>& each) {
    Result<void> damage;
    TRY(store_->scan(key::kResting, [&](const Entry& entry) {
        Resting resting;
        const auto mac = mac_of_key(entry.first);
        const auto done = read(entry.first, entry.second, resting);
        if (!done.ok()) damage = done;
        if (!mac.ok()) damage = mac.error();
        if (damage.ok()) each(mac.value(), resting);
    }));
    return damage;
}

Result<Progress> Pool::progress() {
    Progress progress;
    TRY(store_->transact([&](Transaction& transaction) -> Result<void> {
        const auto text = TRY(transaction.get(key::kProgress));
        if (!text) return Error{EUCLEAN, "the pool is damaged: its record " + key::kProgress + " is absent"};
        return read(key::kProgress, *text, progress);
    }));
    return progress;
}

Result<Stats> Pool::stats() {
    const Progress state = TRY(progress());
    Stats stats;
    stats.size = rules_->space.size();
    stats.untouched = state.end - state.next;
    stats.in_use = TRY(store_->count(key::kMacs));
    stats.released = TRY(store_->count(key::kResting));
    stats.guests = TRY(store_->count(key::kGuests));
    // What is held inside is all that is neither to be drawn nor released.
    const uint64_t inside = stats.size - stats.untouched - stats.released;
    stats.outside = stats.in_use > inside ? stats.in_use - inside : 0;
    return stats;
}

}  // namespace ringback::mac
