// SPDX-License-Identifier: Apache-2.0
//
// Cache: L2 and refcount tables in memory, in slices of at most 4096 bytes.
//
// A slice is known by its place in the file. It is loaded when somebody needs it and thrown out when nobody
// does (second chance). It is pinned while somebody works on it across a wait.
//
// Changing a slice:  wait until it is not being written  ->  change it  ->  co_await commit(slice).
// The slice is written at the end of the reactor's turn: whoever changed it in that turn shares one write,
// and what the kernel reads does not change under it. commit() returns when the file has the change. If the
// write fails the slice stays dirty; it keeps its place and is written again with the next commit, which
// everybody who builds on what it says has to do (dirty()).
//
// Thread: the reactor's owner.
#pragma once

#include <vector>

#include "disk-images/qcow2/file.h"

namespace ringback::image::qcow2 {

struct Slice {
    uint64_t offset = 0;
    std::byte* bytes = nullptr;
    uint32_t pins = 0;
    bool used = false;  // holds, or will hold, what is at offset
    bool loading = false;
    bool writing = false;
    bool queued = false;  // to be written at the end of this turn
    bool dirty = false;
    bool chance = false;
    uint32_t next = 0;    // in its hash chain: index + 1; 0: none
    WaitList loaders;     // for it to be loaded
    WaitList changers;    // for it not to be written
    WaitList committers;  // for the next write of it
    iovec vector{};
};

class Cache {
  public:
    Cache(ImageFile& file, Wakeups& wakeups, Reactor& reactor, FramePool& frames, size_t slices,
          size_t slice_bytes);
    ~Cache();
    Cache(const Cache&) = delete;
    Cache& operator=(const Cache&) = delete;

    [[nodiscard]] FramePool& frames() { return frames_; }
    [[nodiscard]] size_t slice_bytes() const { return slice_bytes_; }
    // Null: not in memory, or not yet.
    [[nodiscard]] Slice* find(uint64_t offset);
    // 0: `slice` is in memory and pinned.
    Co get(uint64_t offset, Slice*& slice);
    void pin(Slice& slice) { ++slice.pins; }
    void unpin(Slice& slice);
    // Before a change: while (slice.writing) co_await slice.changers.wait();
    struct [[nodiscard]] Commit : Waiter {
        Cache& cache;
        Slice& slice;
        int32_t result = 0;
        Commit(Cache& in, Slice& which) : cache(in), slice(which) {}
        bool await_ready() const noexcept { return !slice.dirty && !slice.writing; }
        void await_suspend(std::coroutine_handle<> self) noexcept {
            handle = self;
            slice.committers.push(*this);
            if (!slice.writing) cache.queue(slice);
        }
        int32_t await_resume() const noexcept { return result; }
    };
    // The slice is pinned.
    Commit commit(Slice& slice) { return Commit(*this, slice); }
    // Writes what earlier failures have left.
    Co commit_leftovers();
    // A cluster is about to become a table: forgets what it held when it was another one. Waits for who still
    // reads it.
    Co forget(uint64_t offset, uint64_t bytes);

  private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    struct WriteTask : Task {
        Cache* cache;
    };

    [[nodiscard]] size_t chain_of(uint64_t offset) const {
        return static_cast<size_t>((offset / slice_bytes_ * 0x9e3779b97f4a7c15) >> 32) & (chains_.size() - 1);
    }
    [[nodiscard]] Slice* look_up(uint64_t offset);
    void link(Slice& slice);
    void unlink(Slice& slice);
    Slice* victim();
    [[nodiscard]] bool anything_moves() const;
    void queue(Slice& slice);
    void write_queued();
    Detached write_out(Slice& slice);

    ImageFile& file_;
    Wakeups& wakeups_;
    Reactor& reactor_;
    FramePool& frames_;
    size_t slice_bytes_;
    std::unique_ptr<std::byte[], Free> memory_;
    std::vector<Slice> slices_;
    std::vector<uint32_t> chains_;  // index + 1
    std::vector<Slice*> queue_;     // reserved for all slices
    size_t hand_ = 0;
    WaitList room_;  // for a slice to become free
    WriteTask write_task_;
};

}  // namespace ringback::image::qcow2
