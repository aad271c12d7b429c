// SPDX-License-Identifier: Apache-2.0
//
// What ring.cc (taking and answering) and transfer.cc (moving the data) share and nobody else needs.
#pragma once

#include "blkback/worker/ring.h"

namespace ringback::blk::worker {

// A request's segments, and where they are mapped if they are. Too large to touch for every slot of an idle ring, so they lie in
// a mapping of their own.
struct Ring::Segments {
    std::array<xen::blkif::Segment, kMaxSegments> list;
    std::array<std::byte*, kMaxSegments> mapped;
};

inline constexpr size_t kCopyBatch = 1024;  // segments in one grant copy call

}  // namespace ringback::blk::worker
