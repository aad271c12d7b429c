// SPDX-License-Identifier: Apache-2.0
//
// Who takes over when: strikes, turns, and the bucket.
#include "blkback/recoveries.h"

#include <catch2/catch_test_macros.hpp>

using namespace ringback;
using namespace ringback::blk;
using namespace std::chrono_literals;

namespace {

const xen::DeviceId kBad{"vbd", 3, 51712};
const xen::DeviceId kGood{"vbd", 3, 51728};
const xen::DeviceId kNeighbour{"vbd", 4, 51712};
const Recoveries::Clock::time_point kNow{1000s};

}  // namespace

TEST_CASE("kills from outside are made up for at once, however many, as long as each takes over") {
    Recoveries recoveries;
    for (int kill = 0; kill < 1000; ++kill) {
        const auto now = kNow + kill * 200ms;
        recoveries.worker_died(3, now);
        REQUIRE(recoveries.enter(kBad, now));
        CHECK(recoveries.pause(kBad) == 0ms);
        CHECK(recoveries.begin(kBad, now));
        recoveries.leave(kBad);
    }
}

TEST_CASE("what kills every worker is found out and given up; the guest's other disk goes on") {
    Recoveries recoveries;
    int deaths = 0;
    for (;; ++deaths) {
        REQUIRE(deaths < 10);
        const auto now = kNow + deaths * 2s;
        recoveries.worker_died(3, now);
        if (!recoveries.enter(kBad, now)) break;
        REQUIRE(recoveries.enter(kGood, now));
        const bool good = recoveries.begin(kGood, now);
        if (recoveries.begin(kBad, now)) continue;  // and the worker dies of it
        REQUIRE(good);
        recoveries.leave(kGood);
        REQUIRE(recoveries.begin(kBad, now));
    }
    CHECK(deaths == static_cast<int>(Recoveries::kMaxStrikes));
    recoveries.worker_died(4, kNow);
    CHECK(recoveries.enter(kNeighbour, kNow));
    CHECK(recoveries.pause(kNeighbour) == 0ms);
}

TEST_CASE("from the second strike on it takes longer, and one goes at a time") {
    Recoveries recoveries;
    for (unsigned strike = 0; strike < 2; ++strike) {
        REQUIRE(recoveries.enter(kBad, kNow));
        CHECK(recoveries.pause(kBad) == 0ms);
        REQUIRE(recoveries.begin(kBad, kNow));
    }
    REQUIRE(recoveries.enter(kBad, kNow));
    CHECK(recoveries.pause(kBad) == 200ms);
    REQUIRE(recoveries.enter(kGood, kNow));
    CHECK_FALSE(recoveries.begin(kBad, kNow));
    REQUIRE(recoveries.enter(kNeighbour, kNow));
    CHECK(recoveries.begin(kNeighbour, kNow));  // another guest's
    // One that waits for its guest keeps nobody waiting for ever.
    CHECK(recoveries.begin(kBad, kNow + Recoveries::kTurn + 1s));
    CHECK_FALSE(recoveries.begin(kGood, kNow + Recoveries::kTurn + 1s));
    recoveries.leave(kBad);
    CHECK(recoveries.begin(kGood, kNow + Recoveries::kTurn + 1s));
}

TEST_CASE("a guest that kills each worker anew gets ten a second") {
    Recoveries recoveries;
    auto now = kNow;
    int restarts = 0;
    while (now < kNow + 10s) {
        recoveries.worker_died(3, now);
        REQUIRE(recoveries.enter(kBad, now));
        now += recoveries.pause(kBad) + 1ms;
        CHECK(recoveries.begin(kBad, now));
        recoveries.leave(kBad);
        ++restarts;
    }
    CHECK(restarts <= 115);
    CHECK(restarts >= 90);
}
