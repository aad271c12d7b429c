// SPDX-License-Identifier: Apache-2.0
//
// A ring of 512 entries can name one persistent grant 131,072 times at once. The count of its users had 16 bits: at 65,536
// it was zero, the page could be unmapped under running I/O, and the next release ended the worker.
#include <catch2/catch_test_macros.hpp>

#include "raw_ring.h"

using namespace ringback;
using namespace ringback::test;

TEST_CASE("one persistent grant in every segment of every request") {
    Rig rig({.ring_order = 4, .persistent = true, .max_segments = 11});
    RawRing ring(rig);
    RawPage data(rig);
    RawPage list(rig);
    auto* segments = reinterpret_cast<xen::blkif::Segment*>(list.data());
    for (uint32_t i = 0; i < blk::kMaxSegments; ++i) segments[i] = {data.ref, 3, 3, 0};
    for (uint32_t i = 0; i < ring.entries(); ++i) {
        ring.put(indirect_request(xen::blkif::kRead, i, 0, blk::kMaxSegments, list.ref));
    }
    ring.push();
    REQUIRE(ring.settle());
    for (const RawResponse& response : ring.take_responses()) CHECK(response.status == xen::blkif::kOkay);
    CHECK(rig.device->stats().persistent_grants == 1);
    rig.disconnect();
    CHECK(eventually([&] { return rig.core.guest.end_access(data.ref); }));
}
