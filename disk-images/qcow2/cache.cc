// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/cache.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>

namespace ringback::image::qcow2 {

Cache::Cache(ImageFile& file, Wakeups& wakeups, Reactor& reactor, FramePool& frames, size_t slices,
             size_t slice_bytes)
    : file_(file),
      wakeups_(wakeups),
      reactor_(reactor),
      frames_(frames),
      slice_bytes_(slice_bytes),
      memory_(static_cast<std::byte*>(std::aligned_alloc(4096, (slices * slice_bytes + 4095) / 4096 * 4096))),
      slices_(slices),
      chains_(std::bit_ceil(slices)) {
    if (!memory_) throw std::bad_alloc();
    for (size_t i = 0; i < slices; ++i)
        slices_[i].bytes = memory_.get() + i * slice_bytes;
    queue_.reserve(slices);
    write_task_.cache = this;
    write_task_.run = [](Task& self) noexcept { static_cast<WriteTask&>(self).cache->write_queued(); };
}

Cache::~Cache() {
    INVARIANT(!write_task_.scheduled);
}

void Cache::link(Slice& slice) {
    uint32_t& head = chains_[chain_of(slice.offset)];
    slice.next = head;
    head = static_cast<uint32_t>(&slice - slices_.data()) + 1;
    slice.used = true;
}

void Cache::unlink(Slice& slice) {
    uint32_t* at = &chains_[chain_of(slice.offset)];
    while (&slices_[*at - 1] != &slice)
        at = &slices_[*at - 1].next;
    *at = slice.next;
    slice.used = false;
}

Slice* Cache::look_up(uint64_t offset) {
    uint32_t at = chains_[chain_of(offset)];
    while (at != 0 && slices_[at - 1].offset != offset)
        at = slices_[at - 1].next;
    return at != 0 ? &slices_[at - 1] : nullptr;
}

Slice* Cache::find(uint64_t offset) {
    Slice* slice = look_up(offset);
    if (slice == nullptr || slice->loading) return nullptr;
    slice->chance = true;
    return slice;
}

Slice* Cache::victim() {
    for (size_t looked = 0; looked < 2 * slices_.size(); ++looked) {
        Slice& slice = slices_[hand_];
        hand_ = (hand_ + 1) % slices_.size();
        if (slice.pins > 0 || slice.dirty || slice.writing || slice.loading) continue;
        if (slice.used && std::exchange(slice.chance, false)) continue;
        if (slice.used) unlink(slice);
        return &slice;
    }
    return nullptr;
}

bool Cache::anything_moves() const {
    return std::any_of(slices_.begin(), slices_.end(),
                       [](const Slice& slice) { return slice.pins > 0 || slice.writing || slice.loading; });
}

Co Cache::get(uint64_t offset, Slice*& out) {
    for (;;) {
        Slice* slice = look_up(offset);
        if (slice != nullptr && !slice->loading) {
            slice->chance = true;
            ++slice->pins;
            out = slice;
            co_return 0;
        }
        if (slice != nullptr) {
            co_await slice->loaders.wait();
            continue;
        }
        slice = victim();
        if (slice == nullptr) {
            // Full of what could not be written: nothing will free a slice.
            if (!anything_moves()) co_return -EIO;
            co_await room_.wait();
            continue;
        }
        slice->offset = offset;
        slice->loading = true;
        slice->pins = 1;
        link(*slice);
        slice->vector = {slice->bytes, slice_bytes_};
        const int32_t result = co_await file_.read(offset, slice_bytes_, {&slice->vector, 1});
        slice->loading = false;
        slice->chance = true;
        wakeups_.wake_all(slice->loaders);
        if (result < 0) {
            unlink(*slice);
            unpin(*slice);
            co_return result;
        }
        out = slice;
        co_return 0;
    }
}

void Cache::unpin(Slice& slice) {
    if (--slice.pins == 0 && !room_.empty()) wakeups_.wake_all(room_);
}

void Cache::queue(Slice& slice) {
    if (std::exchange(slice.queued, true)) return;
    queue_.push_back(&slice);
    reactor_.schedule(write_task_);
}

void Cache::write_queued() {
    for (Slice* slice : queue_) {
        slice->queued = false;
        write_out(*slice);
    }
    queue_.clear();
}

Detached Cache::write_out(Slice& slice) {
    ++slice.pins;
    slice.writing = true;
    IntrusiveList<Waiter> committers = slice.committers.take();
    slice.vector = {slice.bytes, slice_bytes_};
    const int32_t result = co_await file_.write(slice.offset, slice_bytes_, {&slice.vector, 1});
    slice.writing = false;
    slice.dirty = result < 0;
    wakeups_.wake_all(slice.changers);
    while (!committers.empty()) {
        Waiter& waiter = committers.pop();
        static_cast<Commit&>(waiter).result = result;
        wakeups_.wake(waiter);
    }
    // Who came while it was being written wants no more than that the file has what the slice says.
    if (!slice.committers.empty()) {
        if (slice.dirty) {
            queue(slice);
        } else {
            wakeups_.wake_all(slice.committers);
        }
    }
    unpin(slice);
}

Co Cache::commit_leftovers() {
    for (Slice& slice : slices_) {
        if (!slice.dirty || slice.writing || slice.queued) continue;
        ++slice.pins;
        const int32_t result = co_await commit(slice);
        unpin(slice);
        if (result < 0) co_return result;
    }
    co_return 0;
}

Co Cache::forget(uint64_t offset, uint64_t bytes) {
    for (uint64_t at = offset; at < offset + bytes; at += slice_bytes_) {
        Slice* slice = look_up(at);
        while (slice != nullptr && (slice->loading || slice->pins > 0)) {
            if (slice->loading) {
                co_await slice->loaders.wait();
            } else {
                co_await room_.wait();
            }
            slice = look_up(at);
        }
        if (slice == nullptr) continue;
        slice->dirty = false;
        unlink(*slice);
    }
    co_return 0;
}

}  // namespace ringback::image::qcow2
