// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/xenbus.h"

#include <catch2/catch_test_macros.hpp>

using namespace ringback::xen;

TEST_CASE("numbers in the store are whole decimal numbers in range, or nothing") {
    CHECK(parse_number("0", 0, 10) == 0U);
    CHECK(parse_number("10", 0, 10) == 10U);
    for (const char* bad : {"", " 1", "1 ", "+1", "-1", "0x1", "1.0", "11", "99999999999999999999", "1\n", "one"}) {
        INFO('[' << bad << ']');
        CHECK_FALSE(parse_number(bad, 0, 10).has_value());
    }
}

TEST_CASE("anything that is not a state is Unknown") {
    CHECK(parse_state("4") == XenbusState::connected);
    for (const char* bad : {"", "9", "-1", "4 ", "255", "connected"}) CHECK(parse_state(bad) == XenbusState::unknown);
    CHECK(parse_state(std::nullopt) == XenbusState::unknown);
}

TEST_CASE("device ids are read back as they are written") {
    const DeviceId id{"vbd", 3, 51712};
    CHECK(id.text() == "vbd/3/51712");
    CHECK(DeviceId::parse("vbd/3/51712") == id);
    for (const char* bad : {"", "vbd", "vbd/3", "/3/1", "vbd/x/1", "vbd/3/", "vbd/3/1/2", "vbd/99999/1", "vbd//1"}) {
        INFO(bad);
        CHECK_FALSE(DeviceId::parse(bad).has_value());
    }
}
