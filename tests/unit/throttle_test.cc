// SPDX-License-Identifier: Apache-2.0
//
// What a throttle lets through, by a clock of the test's own; how a rate is shared.
#include "blkback/worker/throttle.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <limits>
#include <numeric>

#include "blkback/throttle_share.h"

using namespace ringback;
using namespace ringback::blk;
using worker::Throttle;

namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMs = 1'000'000;
constexpr double kAll = std::numeric_limits<double>::infinity();

// Requests of this size that are taken until `end`, by a disk that always has another one.
uint64_t taken(Throttle& throttle, uint64_t& now, uint64_t end, uint64_t bytes) {
    uint64_t count = 0;
    while (now < end) {
        if (!throttle.admits(now)) {
            now += throttle.pause_ns(now);
            continue;
        }
        throttle.charge_operation(now);
        throttle.charge_bytes(bytes, now);
        ++count;
    }
    return count;
}

uint64_t sum(const std::vector<uint64_t>& shares) { return std::accumulate(shares.begin(), shares.end(), uint64_t{0}); }

}  // namespace

TEST_CASE("a busy disk takes what it may, by requests or by bytes, whichever is less") {
    const uint64_t rate = GENERATE(uint64_t{7}, uint64_t{500}, uint64_t{30'000});
    const bool by_bytes = GENERATE(false, true);
    Throttle throttle;
    uint64_t now = 5 * kSecond;
    throttle.set({by_bytes ? 1'000'000 : rate, by_bytes ? rate * 4096 : 0, 100}, now);
    const uint64_t count = taken(throttle, now, now + 20 * kSecond, 4096);
    // The burst once, and the rate for twenty seconds; one request more than is whole.
    CHECK(count >= 20 * rate);
    CHECK(count <= 20 * rate + rate / 10 + rate / 500 + 2);
}

TEST_CASE("an idle disk takes its burst at once, and no more however long it was idle") {
    Throttle throttle;
    uint64_t now = kSecond;
    throttle.set({1000, 0, 500}, now);
    now += 3600 * kSecond;
    uint64_t count = 0;
    while (throttle.admits(now)) {
        throttle.charge_operation(now);
        ++count;
    }
    CHECK(count == 501);
    CHECK(throttle.pause_ns(now) == kMs);
}

TEST_CASE("what was estimated is given back") {
    Throttle throttle;
    const uint64_t now = kSecond;
    throttle.set({0, 4096, 1}, now);
    throttle.charge_bytes(16 * 4096, now);
    CHECK(throttle.pause_ns(now) == 16 * kSecond - kMs);
    throttle.refund_bytes(15 * 4096);
    CHECK(throttle.pause_ns(now) == kSecond - kMs);
}

TEST_CASE("a debt made at a slow rate is worked off at the new one, and gone with the limit") {
    Throttle throttle;
    const uint64_t now = kSecond;
    throttle.set({1, 0, 1}, now);
    for (int i = 0; i < 100; ++i) throttle.charge_operation(now);
    CHECK(throttle.pause_ns(now) == 100 * kSecond - kMs);
    throttle.set({1000, 0, 1}, now);
    CHECK(throttle.pause_ns(now) == 99 * kMs);
    throttle.set({}, now);
    CHECK_FALSE(throttle.limited());
    CHECK(throttle.admits(now));
}

TEST_CASE("who wants all gets his weight's part") {
    const std::vector<Claim> claims{{kAll, 100}, {kAll, 300}};
    CHECK(share(1000, claims) == std::vector<uint64_t>{250, 750});
}

TEST_CASE("what one does not use the others have, by weight") {
    const std::vector<Claim> claims{{100, 100}, {kAll, 100}, {kAll, 200}};
    CHECK(share(1000, claims) == std::vector<uint64_t>{100, 300, 600});
}

TEST_CASE("what nobody asks for is shared too, and one that asks for nothing can begin") {
    CHECK(share(1000, std::vector<Claim>{{0, 100}, {0, 300}}) == std::vector<uint64_t>{250, 750});
    const auto shares = share(1000, std::vector<Claim>{{0, 100}, {kAll, 100}});
    CHECK(shares[0] == 25);
    CHECK(shares[1] == 975);
}

TEST_CASE("shares never exceed the rate, whatever is asked for, but for one each at the least") {
    for (uint64_t seed = 1; seed < 2000; ++seed) {
        std::vector<Claim> claims;
        for (uint64_t i = 0; i < 1 + seed % 7; ++i) {
            const uint64_t chance = (seed * 7919 + i * 104729) % 1000;
            claims.push_back({chance < 200 ? kAll : static_cast<double>(chance * chance), static_cast<double>(1 + (seed * (i + 1)) % 500)});
        }
        const uint64_t rate = 1 + seed * seed % 100'000;
        const auto shares = share(rate, claims);
        REQUIRE(shares.size() == claims.size());
        REQUIRE(sum(shares) <= rate + claims.size());
        REQUIRE(sum(shares) + claims.size() >= rate);
        for (const uint64_t one : shares) REQUIRE(one >= 1);
    }
}
