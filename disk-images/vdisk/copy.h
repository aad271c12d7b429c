// SPDX-License-Identifier: Apache-2.0
//
// Copying between two images, and comparing them: the engine of convert, dd, commit and compare.
//
// Both walk over windows of the disk. At the beginning of each the images are asked what they hold there (Extent), with
// nothing in flight, as image.h wants it; then the parts that hold data are moved with many requests at a time through
// a fixed set of buffers, so that memory stays flat however large the disk is. Holes cost no read. Data that turns out
// to be zeros is not written where the target is known to be zero, else zeroed.
//
// Thread: the reactor's.
#pragma once

#include <atomic>
#include <functional>
#include <optional>

#include "disk-images/vdisk/disk.h"

namespace ringback::vdisk {

using Progress = std::function<void(uint64_t done, uint64_t total)>;

struct CopyJob {
    uint64_t from = 0;
    uint64_t to = 0;
    uint64_t bytes = 0;
    bool target_is_zero = false;  // as a new image is
    bool only_here = false;       // what the source itself says, not what is below it
};
struct CopyCounts {
    uint64_t read = 0;
    uint64_t written = 0;
    uint64_t zeroed = 0;
};
[[nodiscard]] Result<CopyCounts> copy(Disk& from, Disk& to, Reactor& reactor, const CopyJob& job, const Progress& progress);

// The first byte that differs below `bytes`; nullopt: none.
[[nodiscard]] Result<std::optional<uint64_t>> first_difference(Disk& a, Disk& b, Reactor& reactor, uint64_t bytes,
                                                               const Progress& progress);
// The first byte from `offset` on that is not zero.
[[nodiscard]] Result<std::optional<uint64_t>> first_nonzero(Disk& disk, Reactor& reactor, uint64_t offset,
                                                            const Progress& progress);

[[nodiscard]] bool all_zero(const std::byte* data, size_t bytes);

}  // namespace ringback::vdisk
