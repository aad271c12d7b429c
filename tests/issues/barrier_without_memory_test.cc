// SPDX-License-Identifier: Apache-2.0
//
// A barrier took the buffer for its data and then waited for all other requests; one of those waited for memory, of
// which the barrier held the last. The disk stood still for good and could not be detached.
#include <catch2/catch_test_macros.hpp>

#include "worker_rig.h"

using namespace ringback;
using namespace ringback::test;

TEST_CASE("a barrier holds no memory while it waits for a request that needs some") {
    Rig rig({.queues = 2, .max_segments = 256, .buffer_bytes = 1 << 20});
    // Another disk of the guest has a small piece of the only slab.
    blk::worker::Buffer elsewhere = rig.buffers->take(4096);
    REQUIRE(elsewhere);
    int done = 0;
    std::vector<std::byte> bytes(4096);
    frontend::Request large, barrier;
    for (frontend::Request* request : {&large, &barrier}) {
        request->owner = &done;
        request->done = [](frontend::Request& one, int status) {
            if (status == 0) ++*static_cast<int*>(one.owner);
        };
    }
    large.length = 1 << 20;
    REQUIRE(rig.queues[0].submit(large));
    REQUIRE(rig.turn_until([&] { return rig.device->stats().in_flight == 1; }));
    barrier.op = frontend::Op::barrier;
    barrier.data = bytes.data();
    barrier.length = 4096;
    REQUIRE(rig.queues[1].submit(barrier));
    REQUIRE(rig.turn_until([&] { return rig.device->stats().in_flight == 2; }));
    rig.buffers->give_back(elsewhere);
    CHECK(rig.turn_until([&] { return done == 2; }));
}
