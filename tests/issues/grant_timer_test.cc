// SPDX-License-Identifier: Apache-2.0
//
// Two mistakes about the timer that gives unused persistent grants back. A request that found its grants only after the
// disconnect had begun started it anew, and the disconnect, which waits for it, took its 20 seconds, busy all the
// time. And a request of which only some grants could be mapped did not start it: those pages stayed mapped for good.
#include <catch2/catch_test_macros.hpp>

#include "raw_ring.h"

using namespace ringback;
using namespace ringback::test;
using xen::blkif::kRead;

TEST_CASE("a request that waited for memory starts no timer when the ring is going") {
    Rig rig({.persistent = true, .buffer_bytes = 1 << 20});
    RawRing ring(rig);
    RawPage page(rig, true);  // read-only: cannot be kept mapped
    blk::worker::Buffer elsewhere = rig.buffers->take(1 << 20);
    ring.put(data_request(kRead, 1, 0, {{page.ref, 0, 7, 0}}));
    ring.push();
    REQUIRE(ring.until([&] { return rig.device->stats().in_flight == 1; }));
    rig.device->disconnect();
    rig.core.guest.grant_at(page.ref, page.frame, 0, false);
    rig.buffers->give_back(elsewhere);
    CHECK(ring.until([&] { return rig.disconnected == 1; }));
    CHECK(ring.take_responses().size() == 1);
}

TEST_CASE("grants that were mapped for a request that was copied in the end are given back too") {
    Rig rig({.persistent = true});
    RawRing ring(rig);
    RawPage good(rig);
    const uint64_t before = rig.reactor->in_flight();
    CHECK(ring.run(data_request(kRead, 1, 0, {{good.ref, 0, 7, 0}, {4'000'000, 0, 7, 0}})) == xen::blkif::kError);
    CHECK(rig.device->stats().persistent_grants == 1);
    CHECK(rig.reactor->in_flight() == before + 1);  // the timer
}
