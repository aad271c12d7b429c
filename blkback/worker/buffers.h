// SPDX-License-Identifier: Apache-2.0
//
// BufferPool: page-aligned memory registered with io_uring, for data that is grant-copied.
//
// A request of up to 1 MiB needs one contiguous buffer, so that one READ_FIXED or WRITE_FIXED serves it. The pool is made
// of slabs of 1 MiB, each registered once and cut into pieces of one size (4 KiB times a power of four); a slab whose
// pieces are all free can be cut anew for another size. That wastes at most three quarters of a piece and makes both taking and giving
// back a few instructions, without a search.
//
// The pool grows to its limit and then refuses; the ring parks the request and is scheduled again when a piece comes
// back. Registered memory is locked: the limit is what a guest can make us hold.
//
// Thread: the reactor that owns it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/reactor.h"

namespace ringback::blk::worker {

struct Buffer {
    std::byte* data = nullptr;
    uint16_t slab = 0;
    uint16_t piece = 0;
    uint16_t registered = 0;  // slot in the reactor's buffer table
    explicit operator bool() const { return data != nullptr; }
};

class BufferPool {
  public:
    static constexpr size_t kSlabBytes = 1U << 20;

    // limit_bytes: rounded down to slabs, at least one.
    BufferPool(Reactor& reactor, size_t limit_bytes);
    ~BufferPool();
    BufferPool(const BufferPool&) = delete;
    BufferPool& operator=(const BufferPool&) = delete;

    // Makes and registers one slab now. Set-up calls it once, to learn of a missing permission before a guest waits.
    [[nodiscard]] Result<void> reserve();
    // bytes: 1..kSlabBytes. An empty Buffer: none is left.
    [[nodiscard]] Buffer take(size_t bytes);
    void give_back(Buffer buffer);
    // Runs when a piece is given back, once.
    void wait(Task& task);
    void forget(Task& task);
    [[nodiscard]] size_t bytes_locked() const { return slabs_.size() * kSlabBytes; }

  private:
    static constexpr size_t kClasses = 5;  // 4 KiB, 16 KiB, 64 KiB, 256 KiB, 1 MiB
    static constexpr size_t kMaxPieces = kSlabBytes / 4096;
    struct Slab {
        std::byte* memory = nullptr;
        uint16_t registered = 0;
        uint8_t size_class = 0;
        uint16_t free_count = 0;
        int32_t next_in_class = -1;  // list of slabs of this class with free pieces
        bool listed = false;
        std::array<uint16_t, kMaxPieces> free_pieces{};
    };
    static size_t piece_bytes(size_t size_class) { return size_t{4096} << (2 * size_class); }
    bool add_slab(size_t size_class);
    void cut(Slab& slab, size_t size_class);
    void list(uint16_t number);
    void unlist(uint16_t number);

    Reactor& reactor_;
    size_t limit_;
    std::vector<std::unique_ptr<Slab>> slabs_;
    std::array<int32_t, kClasses> classes_;
    std::vector<Task*> waiters_;
};

}  // namespace ringback::blk::worker
