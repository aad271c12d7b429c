// SPDX-License-Identifier: Apache-2.0
//
// What copying and comparing do to a disk: ask what it holds, move parts of it through buffers.
#pragma once

#include <cstdlib>
#include <memory>

#include "disk-images/vdisk/disk.h"

namespace ringback::vdisk {

struct FreeMemory {
    void operator()(std::byte* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<std::byte[], FreeMemory>;
// Aligned for direct I/O; null: no memory.
[[nodiscard]] inline Buffer make_buffer(size_t bytes) {
    return Buffer(static_cast<std::byte*>(std::aligned_alloc(4096, bytes)));
}

// What a disk holds from `offset` on, without asking again for what is known.
class Cursor {
  public:
    explicit Cursor(Disk* disk) : disk_(disk) {}
    [[nodiscard]] Result<image::Extent> at(uint64_t offset) {
        if (offset < begin_ || offset >= begin_ + extent_.length) {
            extent_ = TRY((*disk_)->extent(offset));
            begin_ = offset;
        }
        image::Extent rest = extent_;
        rest.length -= offset - begin_;
        return rest;
    }

  private:
    Disk* disk_;
    uint64_t begin_ = 0;
    image::Extent extent_{};  // of length 0: none
};

// `io` knows who is told; `vector` lives as long as it. No memory: nothing is moved (zero).
inline void submit(Disk& disk, image::Io& io, image::Op op, uint64_t offset, uint64_t bytes, iovec& vector,
                   std::byte* memory) {
    io.op = op;
    io.offset = offset;
    io.length = bytes;
    vector = {memory, bytes};
    io.vectors = memory == nullptr ? std::span<iovec>() : std::span<iovec>(&vector, 1);
    image::Io* one = &io;
    disk->submit({&one, 1});
}

}  // namespace ringback::vdisk
