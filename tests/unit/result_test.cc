// SPDX-License-Identifier: Apache-2.0
#include "runtime/result.h"

#include <catch2/catch_test_macros.hpp>

#include "runtime/log.h"

using ringback::Error;
using ringback::LogLimiter;
using ringback::Result;

namespace {
Result<int> half(int value) {
    if (value % 2 != 0) return ringback::os_error(EINVAL, "halve " + std::to_string(value));
    return value / 2;
}
Result<int> quarter(int value) { return TRY(half(TRY(half(value)))); }
}  // namespace

TEST_CASE("TRY passes the value on, or returns the first error") {
    CHECK(quarter(12).value() == 3);
    const auto failed = quarter(6);
    REQUIRE_FALSE(failed.ok());
    CHECK(failed.error().code == EINVAL);
    CHECK(failed.error().message == "halve 3: Invalid argument");
}

TEST_CASE("a log limiter passes its burst and counts the rest") {
    LogLimiter limiter(3, std::chrono::hours(1));
    int passed = 0;
    for (int i = 0; i < 10; ++i) passed += limiter.allow() ? 1 : 0;
    CHECK(passed == 3);
    CHECK(limiter.take_suppressed() == 7);
    CHECK(limiter.take_suppressed() == 0);
}
