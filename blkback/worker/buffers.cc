// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker/buffers.h"

#include <sys/mman.h>

#include <algorithm>

namespace ringback::blk::worker {

BufferPool::BufferPool(Reactor& reactor, size_t limit_bytes)
    : reactor_(reactor), limit_(std::max<size_t>(1, limit_bytes / kSlabBytes)) {
    classes_.fill(-1);
    slabs_.reserve(limit_);
    waiters_.reserve(256);
}

BufferPool::~BufferPool() {
    for (const auto& slab : slabs_) {
        reactor_.drop_buffer(slab->registered);
        munmap(slab->memory, kSlabBytes);
    }
}

Result<void> BufferPool::reserve() {
    void* memory = mmap(nullptr, kSlabBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return os_error("allocate a data buffer of 1 MiB");
    auto registered = reactor_.put_buffer({static_cast<std::byte*>(memory), kSlabBytes});
    if (!registered) {
        munmap(memory, kSlabBytes);
        return registered.error();
    }
    auto slab = std::make_unique<Slab>();
    slab->memory = static_cast<std::byte*>(memory);
    slab->registered = static_cast<uint16_t>(*registered);
    slabs_.push_back(std::move(slab));
    cut(*slabs_.back(), 0);
    list(static_cast<uint16_t>(slabs_.size() - 1));
    return {};
}

void BufferPool::cut(Slab& slab, size_t size_class) {
    const size_t pieces = kSlabBytes / piece_bytes(size_class);
    slab.size_class = static_cast<uint8_t>(size_class);
    slab.free_count = static_cast<uint16_t>(pieces);
    for (size_t i = 0; i < pieces; ++i) slab.free_pieces[i] = static_cast<uint16_t>(pieces - 1 - i);
}

bool BufferPool::add_slab(size_t size_class) {
    // As rare as a change of the guest's request sizes, so a search is cheap enough: first a slab nobody uses.
    for (size_t i = 0; i < slabs_.size(); ++i) {
        Slab& slab = *slabs_[i];
        if (slab.free_count < kSlabBytes / piece_bytes(slab.size_class)) continue;
        unlist(static_cast<uint16_t>(i));
        cut(slab, size_class);
        list(static_cast<uint16_t>(i));
        return true;
    }
    if (slabs_.size() >= limit_) return false;
    if (!reserve()) {
        limit_ = slabs_.size();  // not tried again for every request of a busy guest
        return false;
    }
    return add_slab(size_class);
}

void BufferPool::list(uint16_t number) {
    Slab& slab = *slabs_[number];
    slab.next_in_class = classes_[slab.size_class];
    classes_[slab.size_class] = number;
    slab.listed = true;
}

void BufferPool::unlist(uint16_t number) {
    Slab& slab = *slabs_[number];
    int32_t* link = &classes_[slab.size_class];
    while (*link != number) link = &slabs_[static_cast<size_t>(*link)]->next_in_class;
    *link = slab.next_in_class;
    slab.listed = false;
}

Buffer BufferPool::take(size_t bytes) {
    INVARIANT(bytes > 0 && bytes <= kSlabBytes);
    size_t size_class = 0;
    while (piece_bytes(size_class) < bytes) ++size_class;
    if (classes_[size_class] < 0 && !add_slab(size_class)) return {};
    const auto number = static_cast<uint16_t>(classes_[size_class]);
    Slab& slab = *slabs_[number];
    const uint16_t piece = slab.free_pieces[--slab.free_count];
    if (slab.free_count == 0) unlist(number);
    return {slab.memory + piece * piece_bytes(size_class), number, piece, slab.registered};
}

void BufferPool::give_back(Buffer buffer) {
    Slab& slab = *slabs_[buffer.slab];
    slab.free_pieces[slab.free_count++] = buffer.piece;
    if (!slab.listed) list(buffer.slab);
    for (Task* task : waiters_) reactor_.schedule(*task);
    waiters_.clear();
}

void BufferPool::wait(Task& task) {
    if (std::find(waiters_.begin(), waiters_.end(), &task) == waiters_.end()) waiters_.push_back(&task);
}

void BufferPool::forget(Task& task) { std::erase(waiters_, &task); }

}  // namespace ringback::blk::worker
