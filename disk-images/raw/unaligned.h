// SPDX-License-Identifier: Apache-2.0
//
// Unaligned: a request that direct I/O on this storage does not take as it is.
//
// A disk has sectors of 512 bytes for its guest whatever the storage has, because frontends do not agree on
// anything else. On storage with blocks of 4096 a request may therefore begin or end inside a block; then the
// blocks are read, the guest's part is put in, and they are written back. The same path copies requests whose
// memory or whose vectors are not aligned as the storage wants, without the read.
//
// This class only says what to do next: begin() and then each next() name one aligned transfer between the
// storage and the bounce buffer (an Io like any other), until the request is done. The image does them, so
// that partial transfers and errors are handled in one place, and sees to it that nothing else touches the
// disk meanwhile. A request longer than the buffer is done in pieces. Such requests are rare (a guest that is
// told the physical block size aligns to it), so one buffer and one request at a time will do.
//
// Thread: the owner of the image.
#pragma once

#include <array>
#include <cstdlib>
#include <memory>

#include "disk-images/image.h"

namespace ringback::image {

class Unaligned {
  public:
    // Offsets and lengths have to be multiples of `unit`, memory of `memory_align`.
    [[nodiscard]] static Result<std::unique_ptr<Unaligned>> create(uint32_t unit, uint32_t memory_align);
    Unaligned(const Unaligned&) = delete;
    Unaligned& operator=(const Unaligned&) = delete;

    // Whether `io` has to go this way.
    [[nodiscard]] bool wants(const Io& io) const;
    [[nodiscard]] bool busy() const { return outer_ != nullptr; }
    // The first transfer of a read or write that is not empty.
    [[nodiscard]] Io& begin(Io& io);
    // After a transfer that ended well: the next one, or null when the request is done.
    [[nodiscard]] Io* next();
    // Ends with the request, done or failed.
    Io& end();

  private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    enum class Step : uint8_t { read, read_before_write, write };

    Unaligned(uint32_t unit, uint32_t memory_align, std::unique_ptr<std::byte[], Free> buffer, size_t size);
    [[nodiscard]] Io& start_piece();
    [[nodiscard]] Io& move_blocks(Op op);
    // The guest's share of this piece, between the buffer and the request's vectors.
    void copy(bool to_buffer);

    uint32_t unit_;
    uint32_t memory_align_;
    std::unique_ptr<std::byte[], Free> buffer_;
    size_t size_;
    Io* outer_ = nullptr;
    uint64_t done_ = 0;         // bytes of the request
    uint64_t blocks_ = 0;       // this piece: where its first block is on the disk,
    size_t blocks_length_ = 0;  // how much of the disk its blocks are,
    size_t piece_ = 0;          // and how much of that is the guest's
    Step step_ = Step::read;
    Io inner_;
    std::array<iovec, 1> vector_{};
};

}  // namespace ringback::image
