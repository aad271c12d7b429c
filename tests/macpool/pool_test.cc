// SPDX-License-Identifier: Apache-2.0
//
// The rules of the pool, on every store.
#include <catch2/matchers/catch_matchers_string.hpp>
#include <chrono>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "tests/macpool/fixture.h"

using namespace ringback;
using namespace ringback::mac;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr const char* kSixteen = "00:16:3e:00:00:00-00:16:3e:00:00:0f";
constexpr const char* kUuid = "6f2c7c9e-1b1a-4f4e-8f3a-0123456789ab";

}  // namespace

TEST_CASE("the same guest and NIC get the same address for ever") {
    Place place(any_store());
    Pool pool = place.make(kSixteen);
    const auto first = must(pool.allocate(named("web"), 0));
    CHECK(first.fresh);
    const auto other = must(pool.allocate(named("web"), 1));
    CHECK(other.lease.mac != first.lease.mac);
    place.now += 1'000'000'000;
    Pool later = place.pool();
    const auto again = must(later.allocate(named("web"), 0));
    CHECK_FALSE(again.fresh);
    CHECK(again.lease.mac == first.lease.mac);
    CHECK(again.lease.since == first.lease.since);
    check_whole(*place.store(), pool);
}

TEST_CASE(
    "every address comes once, to the last, whatever was reserved by hand; then the pool is exhausted") {
    Place place(any_store());
    Pool pool = place.make(kSixteen, 3600, "00:16:3e:00:00:04-00:16:3e:00:00:05");
    std::set<Mac> seen;
    const auto by_hand = [&](const char* text) {
        const Mac mac = address(text);
        CHECK(must(pool.reserve(mac, std::nullopt, 0)).fresh);
        CHECK_FALSE(must(pool.reserve(mac, std::nullopt, 0)).fresh);
        CHECK(seen.insert(mac).second);
    };
    by_hand("00:16:3e:00:00:0f");
    by_hand("00:16:3e:00:00:00");
    for (unsigned nic = 0; nic < 5; ++nic)
        CHECK(seen.insert(must(pool.allocate(named("web"), nic)).lease.mac).second);
    for (const char* text : {"00:16:3e:00:00:01", "00:16:3e:00:00:02", "00:16:3e:00:00:03"}) {
        if (!seen.contains(address(text))) by_hand(text);
        check_whole(*place.store(), pool);
    }
    for (unsigned nic = 5; seen.size() < 14; ++nic)
        CHECK(seen.insert(must(pool.allocate(named("web"), nic)).lease.mac).second);
    CHECK_FALSE(seen.contains(address("00:16:3e:00:00:04")));
    CHECK_FALSE(seen.contains(address("00:16:3e:00:00:05")));
    const Error error = must_fail(pool.allocate(named("late"), 0));
    CHECK(error.code == ENOSPC);
    CHECK(error.message == "pool exhausted: all 14 addresses are in use");
    CHECK(must(pool.holder(*seen.begin())).has_value());
    check_whole(*place.store(), pool);
}

TEST_CASE("an address outside the ranges is held by hand and leaves no trace when it is released") {
    Place place(any_store());
    Pool pool = place.make(kSixteen);
    const Mac mac = address("52:54:00:12:34:56");
    CHECK(must(pool.reserve(mac, named("web"), 0)).fresh);
    CHECK(must(pool.stats()).outside == 1);
    CHECK(must(pool.allocate(named("web"), 0)).lease.mac == mac);
    CHECK(must(pool.release(mac)));
    CHECK_FALSE(must(pool.release(mac)));
    CHECK_FALSE(must(pool.resting(mac)).has_value());
    CHECK_FALSE(must(pool.find(named("web"))).has_value());
    check_whole(*place.store(), pool);
}

TEST_CASE("what is held is refused to everybody else, by name") {
    Place place(any_store());
    Pool pool = place.make(kSixteen);
    const Mac mac = must(pool.allocate(named("web"), 3)).lease.mac;
    Error error = must_fail(pool.reserve(mac, named("db"), 0));
    CHECK(error.code == EEXIST);
    CHECK(error.message == mac.text() + " is held by web nic 3");
    error = must_fail(pool.reserve(mac, std::nullopt, 0));
    CHECK(error.message == mac.text() + " is held by web nic 3");
    error = must_fail(pool.reserve(address("00:16:3e:ff:ff:ff"), named("web"), 3));
    CHECK_THAT(error.message, ContainsSubstring("web nic 3 already has " + mac.text()));
    CHECK_FALSE(must(pool.find(named("db"))).has_value());
    check_whole(*place.store(), pool);
}

TEST_CASE("a released address rests before it comes again, the longest released first") {
    Place place(Kind::sqlite);
    Pool pool = place.make("00:16:3e:00:00:00-00:16:3e:00:00:02", 3600);
    std::vector<Mac> macs;
    for (unsigned nic = 0; nic < 3; ++nic)
        macs.push_back(must(pool.allocate(named("web"), nic)).lease.mac);
    CHECK(must(pool.release(macs[2])));
    place.now += 100;
    CHECK(must(pool.release(macs[0])));
    CHECK_FALSE(must(pool.release(macs[0])));
    check_whole(*place.store(), pool);
    place.now += 3499;
    const Error error = must_fail(pool.allocate(named("db"), 0));
    CHECK(error.code == ENOSPC);
    CHECK_THAT(error.message, ContainsSubstring("of 3 addresses the next one, " + macs[2].text() +
                                                ", rests until 2027-01-15 09:00:00 UTC"));
    place.now += 1;
    CHECK(must(pool.allocate(named("db"), 0)).lease.mac == macs[2]);
    CHECK(must_fail(pool.allocate(named("db"), 1)).code == ENOSPC);
    place.now += 100;
    CHECK(must(pool.allocate(named("db"), 1)).lease.mac == macs[0]);
    check_whole(*place.store(), pool);
}

TEST_CASE("the rest period ends by the cluster's own clock") {
    Place place(Kind::etcd);
    Pool pool = place.make("00:16:3e:00:00:00", 2);
    const Mac mac = must(pool.allocate(named("web"), 0)).lease.mac;
    CHECK(must(pool.release(mac)));
    const auto released = std::chrono::steady_clock::now();
    place.now += 1'000'000;  // this host's clock does not count
    CHECK(must_fail(pool.allocate(named("db"), 0)).code == ENOSPC);
    auto granted = pool.allocate(named("db"), 0);
    while (!granted.ok() && std::chrono::steady_clock::now() < released + std::chrono::seconds(30)) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        granted = pool.allocate(named("db"), 0);
    }
    CHECK(must(std::move(granted)).lease.mac == mac);
    CHECK(std::chrono::steady_clock::now() - released >= std::chrono::seconds(2));
    check_whole(*place.store(), pool);
}

TEST_CASE("new addresses come before released ones") {
    Place place(any_store());
    Pool pool = place.make("00:16:3e:00:00:00-00:16:3e:00:00:03", 0);
    std::vector<Mac> macs;
    for (unsigned turn = 0; turn < 12; ++turn) {
        macs.push_back(must(pool.allocate(named("web"), 0)).lease.mac);
        CHECK(must(pool.release(named("web"), std::nullopt)).size() == 1);
    }
    CHECK(std::set<Mac>(macs.begin(), macs.begin() + 4).size() == 4);
    for (size_t turn = 4; turn < macs.size(); ++turn)
        CHECK(macs[turn] == macs[turn - 4]);
    check_whole(*place.store(), pool);
}

TEST_CASE("by hand an address that rests can be had at once, with a word about it") {
    Place place(any_store());
    Pool pool = place.make("00:16:3e:00:00:00-00:16:3e:00:00:01", 3600);
    const Mac mac = must(pool.allocate(named("web"), 0)).lease.mac;
    CHECK(must(pool.release(mac)));
    place.now += 10;
    const auto granted = must(pool.reserve(mac, named("db"), 0));
    CHECK_THAT(granted.note, ContainsSubstring("released only 10 s ago"));
    CHECK(must(pool.stats()).released == 0);
    check_whole(*place.store(), pool);
}

TEST_CASE("a name is taken over by the first UUID that comes with it, and can change then") {
    Place place(any_store());
    Pool pool = place.make(kSixteen);
    const Mac mac = must(pool.allocate(named("web"), 0)).lease.mac;
    const auto same = must(pool.allocate({"web", kUuid}, 0));
    CHECK(same.lease.mac == mac);
    CHECK(same.lease.guest == Guest{"web", kUuid});
    check_whole(*place.store(), pool);
    CHECK(must(pool.allocate(named("web"), 0)).lease.mac == mac);
    CHECK(must(pool.allocate({{}, kUuid}, 0)).lease.mac == mac);
    CHECK(must(pool.allocate({"www", kUuid}, 0)).lease.mac == mac);
    CHECK_FALSE(must(pool.find(named("web"))).has_value());
    CHECK(must(pool.find(named("www"))).has_value());
    check_whole(*place.store(), pool);
}

TEST_CASE("two guests of one name must be told apart by their UUIDs") {
    Place place(any_store());
    Pool pool = place.make(kSixteen);
    const std::string other = "11111111-2222-4333-8444-555555555555";
    const Mac one = must(pool.allocate({"web", kUuid}, 0)).lease.mac;
    CHECK(must(pool.allocate({"web", other}, 0)).lease.mac != one);
    const Error error = must_fail(pool.allocate(named("web"), 0));
    CHECK(error.code == EEXIST);
    CHECK_THAT(error.message, ContainsSubstring(kUuid) && ContainsSubstring(other));
    CHECK(must(pool.release({{}, other}, std::nullopt)).size() == 1);
    CHECK(must(pool.allocate(named("web"), 0)).lease.mac == one);
    check_whole(*place.store(), pool);
}

TEST_CASE("a pool is made once; another one is not made over it") {
    Place place(any_store());
    Settings settings;
    settings.ranges = {must(parse_range("00:16:3e"))};
    settings.rest_seconds = 60;
    CHECK(must(Pool::init(*place.store(), settings)));
    const Key key = place.pool().settings().key;
    CHECK_FALSE(must(Pool::init(*place.store(), settings)));
    CHECK(place.pool().settings().key == key);
    settings.rest_seconds = 61;
    const Error error = must_fail(Pool::init(*place.store(), settings));
    CHECK(error.code == EEXIST);
    CHECK_THAT(error.message, ContainsSubstring("00:16:3e:00:00:00-00:16:3e:ff:ff:ff"));
}

TEST_CASE("two pools do not draw the same addresses") {
    Place one(Kind::sqlite);
    Place two(Kind::sqlite);
    Settings settings;
    settings.ranges = {must(parse_range("00:16:3e"))};
    must(Pool::init(*one.store(), settings));
    must(Pool::init(*two.store(), settings));
    Pool first = one.pool();
    Pool second = two.pool();
    std::set<Mac> seen;
    for (unsigned nic = 0; nic < 8; ++nic) {
        seen.insert(must(first.allocate(named("web"), nic)).lease.mac);
        seen.insert(must(second.allocate(named("web"), nic)).lease.mac);
    }
    CHECK(seen.size() > 8);
}

TEST_CASE("without init there is no pool") {
    Place place(any_store());
    const Error error = must_fail(Pool::open(place.store(), place.clock()));
    CHECK(error.code == ENOENT);
    CHECK_THAT(error.message, ContainsSubstring("macpool init"));
}

// Random operations beside a model that is obviously right: a map of who has what.
TEST_CASE("whatever is done to a pool, it stays whole") {
    const Kind kind = any_store();
    Place place(kind);
    Pool pool = place.make("00:16:3e:00:00:00-00:16:3e:00:00:3f", 50);
    std::minstd_rand random(7);
    const auto below = [&](unsigned limit) { return static_cast<unsigned>(random() % limit); };
    std::map<std::pair<std::string, unsigned>, Mac> held;
    std::set<Mac> taken;
    for (int step = 0; step < (kind == Kind::sqlite ? 3000 : 250); ++step) {
        const std::string guest = "g" + std::to_string(below(8));
        const unsigned nic = below(12);
        const auto have = held.find({guest, nic});
        const unsigned dice = below(10);
        if (dice < 5) {
            const auto granted = pool.allocate(named(guest), nic);
            if (have != held.end()) {
                REQUIRE(must(granted).lease.mac == have->second);
            } else if (granted.ok()) {
                REQUIRE(taken.insert(granted.value().lease.mac).second);
                held[{guest, nic}] = granted.value().lease.mac;
            } else {
                REQUIRE(granted.error().code == ENOSPC);
            }
        } else if (dice < 7) {
            const Mac mac{address("00:16:3e:00:00:00").value + below(70)};
            const auto granted = pool.reserve(mac, named(guest), nic);
            const bool same = have != held.end() && have->second == mac;
            REQUIRE(granted.ok() == (same || (have == held.end() && !taken.contains(mac))));
            if (granted.ok()) {
                held[{guest, nic}] = mac;
                taken.insert(mac);
            }
        } else if (have != held.end()) {
            REQUIRE(must(pool.release(have->second)));
            taken.erase(have->second);
            held.erase(have);
        }
        if (kind == Kind::sqlite) place.now += below(4);
    }
    check_whole(*place.store(), pool);
    CHECK(must(pool.stats()).in_use == taken.size());
}
