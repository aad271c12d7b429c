// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <set>

#include "tests/macpool/fixture.h"

namespace ringback::test {

using namespace mac;

void check_whole(Store& store, const Pool& pool) {
    std::map<std::string, std::string> entries;
    for (const char* prefix :
         {"guest/", "mac/", "moved/", "name/", "pause/", "pool", "progress", "queue/", "resting/"}) {
        must(store.scan(prefix, [&](const Entry& entry) { entries.insert(entry); }));
    }
    Progress progress;
    must(read("progress", entries.at("progress"), progress));
    const Settings& settings = pool.settings();
    const Space space = must(Space::make(settings.ranges, settings.exclusions));
    const Permutation permutation(settings.key, space.size());
    REQUIRE(progress.next <= progress.end);
    REQUIRE(progress.end <= space.size());

    std::set<Mac> held;
    std::set<Mac> resting;
    uint64_t named_nics = 0;
    uint64_t held_by_guests = 0;
    for (const auto& [key, value] : entries) {
        if (key.starts_with("guest/")) {
            GuestRecord record;
            must(read(key, value, record));
            REQUIRE("guest/" + guest_id(record.guest) == key);
            REQUIRE_FALSE(record.nics.empty());
            if (!record.guest.uuid.empty() && !record.guest.name.empty()) {
                REQUIRE(entries.contains(mac::key::name(record.guest.name, record.guest.uuid)));
            }
            for (const auto& [nic, address] : record.nics) {
                ++named_nics;
                Holding holding;
                must(read("mac/", entries.at(mac::key::mac(address)), holding));
                REQUIRE(holding.guest == guest_id(record.guest));
                REQUIRE(holding.nic == nic);
            }
        } else if (key.starts_with("mac/")) {
            Holding holding;
            must(read(key, value, holding));
            if (!holding.guest.empty()) ++held_by_guests;
            held.insert(must(mac_of_key(key)));
        } else if (key.starts_with("resting/")) {
            Resting rest;
            must(read(key, value, rest));
            const Mac address = must(mac_of_key(key));
            resting.insert(address);
            uint64_t queued = 0;
            must(read("queue/", entries.at(mac::key::queue(rest.number)), queued));
            REQUIRE(queued == address.value);
        } else if (key.starts_with("name/")) {
            REQUIRE(entries.contains("guest/" + key.substr(key.rfind('/') + 1)));
        }
    }
    REQUIRE(named_nics == held_by_guests);

    uint64_t to_draw = 0;
    for (uint64_t position = progress.next; position < progress.end; ++position) {
        uint64_t draw = position;
        const auto moved = entries.find(mac::key::draw_at(position));
        if (moved != entries.end()) must(read(moved->first, moved->second, draw));
        const Mac address = space.at(permutation.forward(draw));
        REQUIRE_FALSE(held.contains(address));
        REQUIRE_FALSE(resting.contains(address));
        ++to_draw;
    }
    uint64_t inside = 0;
    for (const Mac address : held) {
        if (space.rank(address)) ++inside;
        REQUIRE_FALSE(resting.contains(address));
    }
    REQUIRE(inside + resting.size() + to_draw == space.size());
    uint64_t moved_at = 0;
    uint64_t moved_to = 0;
    uint64_t queued = 0;
    for (const auto& [key, value] : entries) {
        if (key.starts_with("moved/at/")) {
            ++moved_at;
            uint64_t draw = 0;
            must(read(key, value, draw));
            REQUIRE(entries.contains(mac::key::position_of(draw)));
        }
        if (key.starts_with("moved/to/")) ++moved_to;
        if (key.starts_with("queue/")) ++queued;
    }
    REQUIRE(moved_at == moved_to);
    REQUIRE(queued == resting.size());
}

}  // namespace ringback::test
