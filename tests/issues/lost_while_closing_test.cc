// SPDX-License-Identifier: Apache-2.0
//
// A worker that died while a frontend was closing was to be replaced on rings that nobody used any more: the vif counted as one to
// be resumed until its next connection, which was with new rings, an old journal, and a Connected that was never written.
#include <signal.h>

#include <catch2/catch_test_macros.hpp>

#include "netback_fixture.h"

using namespace ringback;
using namespace ringback::test;
using xen::XenbusState;

TEST_CASE("a frontend that closed while the worker died is connected anew") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front();
    must(front->attach());
    bed.check_traffic(*front, bed.interface());
    must(front->set_state(XenbusState::closing));
    bed.wait_node(bed.back() + "/state", "5");
    ::kill(bed.daemon.worker(), SIGKILL);
    REQUIRE(eventually([&] { return bed.daemon.worker() == 0; }));
    must(front->set_state(XenbusState::closed));
    bed.wait_node(bed.back() + "/state", "6");
    must(front->set_state(XenbusState::initialising));
    bed.wait_node(bed.back() + "/state", "2");
    must(front->attach());
    bed.check_traffic(*front, bed.interface());
}
