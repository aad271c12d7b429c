// SPDX-License-Identifier: Apache-2.0
//
// What a file or a block device demands and offers, asked of the kernel once at open.
//
// Works on the descriptor alone: the process that serves the data opens nothing. The one exception is sysfs,
// which knows a device's discard limits; where it cannot be read, discards are offered with the physical
// block as granularity.
//
// Direct I/O has rules about offsets and memory that differ between file systems, devices and kernels.
// statx() tells them since Linux 6.1 (STATX_DIOALIGN); where a file system does not answer, small reads find
// them out.
//
// Thread: any.
#pragma once

#include <cstdint>

#include "disk-images/image.h"

namespace ringback::image {

struct RawLayout {
    Geometry geometry;
    bool block_device = false;
    bool direct = false;          // as the descriptor is now; probe_layout() may have switched it off
    uint32_t unit = kSectorSize;  // offsets, lengths and vectors of what is sent to the kernel
    uint32_t memory_align =
        kSectorSize;  // base of every vector; at least kSectorSize, which callers promise anyway
};

// ENODEV/EISDIR/EINVAL with a text for what cannot be a disk. A file whose size is no multiple of what direct
// I/O needs there is switched to buffered I/O: its last sectors could not be written without growing it.
[[nodiscard]] Result<RawLayout> probe_layout(const File& file, const OpenOptions& options);

// Size in bytes, rounded down to sectors.
[[nodiscard]] Result<uint64_t> read_size(const File& file, bool block_device);

}  // namespace ringback::image
