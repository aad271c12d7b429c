// SPDX-License-Identifier: Apache-2.0
//
// The switch's table comes from the worker page by page, and a worker that always had one more kept netbackd, and whoever had asked
// it, busy for ever.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "netback_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("a switch worker whose table does not end is not asked for ever") {
    NetBed bed({.worker_program = RINGBACK_ENDLESS_TABLE_WORKER});
    xen::embedded::NicSpec nic;
    nic.bridge = "lan0";
    nic.script = "/etc/xen/scripts/vif-ringback";
    must(bed.xl.attach_nic(bed.t.domid, nic));
    auto front = bed.front();
    must(front->attach());
    for (int way = 1; way <= 4; ++way) {
        INFO("way " << way);
        const auto answer = bed.daemon.ask({{"command", "switch-table"}, {"switch", "lan0"}});
        REQUIRE(answer["ok"] == false);
        CHECK_THAT(answer["error"].get<std::string>(), ContainsSubstring("table does not end"));
    }
    const auto answer = bed.daemon.ask({{"command", "switch-table"}, {"switch", "lan0"}});
    REQUIRE(answer["ok"] == true);
    CHECK(answer["entries"].size() == 64);
}
