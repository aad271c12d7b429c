// SPDX-License-Identifier: Apache-2.0
//
// A block request: decoded from the guest's layout, and checked.
//
// Both work on private memory only. Checks are made here and nowhere else, in this order: the operation is one that this
// disk offers, the number of segments is one the protocol allows, each segment lies in its page, the whole range lies
// on the disk. What fails is the frontend's fault: it gets an error response, and a counter; no log line.
//
// Sources: xen/io/blkif.h; limits as Linux's blkback has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "blkback/worker/journal.h"
#include "hypervisor/blkif_abi.h"

namespace ringback::blk::worker {

struct DiskLimits {
    uint64_t sectors = 0;  // of 512 bytes
    bool writable = false;
    bool discard = false;
};

// `raw` is one ring entry, already copied: entry_size(abi) bytes. Goes straight into the journal's slot; of the segments
// only those are written that the request says it has.
void decode(xen::blkif::Abi abi, const std::byte* raw, StoredRequest& request);

// What is known without the segments. nullopt: go on; else the status to answer with.
[[nodiscard]] std::optional<xen::blkif::Status> check_request(const StoredRequest& request,
                                                              const DiskLimits& limits);

// Sectors that the segments hold together, or nullopt when one leaves its page or the range leaves the disk.
[[nodiscard]] std::optional<uint64_t> check_segments(std::span<const xen::blkif::Segment> segments, uint64_t sector,
                                                     const DiskLimits& limits);

}  // namespace ringback::blk::worker
