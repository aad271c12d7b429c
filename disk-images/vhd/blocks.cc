// SPDX-License-Identifier: Apache-2.0
//
// Blocks put into the table, and whole ones taken out of it.
#include <algorithm>

#include "disk-images/vhd/dynamic.h"
#include "disk-images/vhd/walk.h"

namespace ringback::image::vhd {

bool DynamicImage::allocating(uint32_t block) const {
    if (allocating_ == 0) return false;
    return std::any_of(allocations_.begin(), allocations_.end(),
                       [block](const Allocation& one) { return one.active && one.block == block; });
}

void DynamicImage::allocate(Io& io, uint32_t block) {
    Allocation* free = nullptr;
    for (Allocation& one : allocations_) {
        if (one.active && one.block == block) return one.waiting.push(io);
        if (!one.active) free = &one;
    }
    if (free == nullptr) return waiting_for_allocation_.push(io);
    free->active = true;
    ++allocating_;
    free->block = block;
    free->slot = kUnused;
    free->waiting.push(io);
    start(*free);
}

void DynamicImage::start(Allocation& allocation) {
    allocation.slot = space_.take();
    if (allocation.slot == kUnused) {
        if (!space_.growing()) space_.grow();
        return;  // on_grown() comes back to it
    }
    if (parent_) return link(allocation, 0);
    allocation.bitmap.set(Op::write, uint64_t{allocation.slot} * 512, ones_.get(), bitmap_bytes_);
    Io* one = &allocation.bitmap;
    file_->submit({&one, 1});
}

void DynamicImage::on_grown(int32_t result) {
    for (Allocation& one : allocations_) {
        if (!one.active || one.slot != kUnused) continue;
        if (result != 0) {
            end(one, result);
        } else {
            start(one);
        }
    }
}

void DynamicImage::link(Allocation& allocation, int32_t result) {
    if (result != 0) {
        space_.give_back(allocation.slot);
        return end(allocation, result);
    }
    table_.set(allocation.block, allocation.slot);
    table_writer_.write(allocation);
}

void DynamicImage::end(Allocation& allocation, int32_t result) {
    if (result != 0) {
        // A slot that the table may name after all (the write failed, who knows how far) is not used again.
        table_.set(allocation.block, kUnused);
        complete_[allocation.block] = false;
    } else if (!parent_) {
        complete_[allocation.block] = true;
    }
    allocation.active = false;
    --allocating_;
    resume_all(allocation.waiting.take(), result);
    resume_all(waiting_for_allocation_.take(), 0);
}

// Takes whole blocks of a disk without a parent out of the table, as many as have their entries in one sector of it and
// have nothing under way. False: none.
bool DynamicImage::gather(Io& io, const Place& at) {
    if (unmapping_) return true;  // unmap() waits
    const uint64_t end = io.offset + io.length;
    const uint32_t sector = at.block / Table::kEntriesPerSector;
    unmap_.block = at.block;
    unmap_.count = 0;
    for (uint32_t block = at.block; block < table_.blocks() && block / Table::kEntriesPerSector == sector; ++block) {
        if (uint64_t{block} * block_bytes_ + bytes_in(block) > end || allocating(block)) break;
        if (table_.get(block) != kUnused && !bitmaps_.forget(block)) break;
        unmap_.slots[unmap_.count++] = table_.get(block);
        table_.set(block, kUnused);
        complete_[block] = false;
    }
    if (unmap_.count == 0) return false;
    const uint32_t last = at.block + unmap_.count - 1;
    walk(io).length = (unmap_.count - 1) * block_bytes_ + bytes_in(last);
    return true;
}

bool DynamicImage::unmap(Io& io) {
    if (unmapping_) {
        waiting_for_unmap_.push(io);
        return false;
    }
    unmapping_ = true;
    unmap_.outer = &io;
    unmap_.at = 0;
    table_writer_.write(unmap_);
    return false;
}

void DynamicImage::punch_next(int32_t result) {
    Unmap& mine = unmap_;
    if (result != 0) {
        for (uint32_t i = 0; i < mine.count; ++i) {
            const uint32_t block = mine.block + i;
            if (mine.slots[i] != kUnused && table_.get(block) == kUnused && !allocating(block)) table_.set(block, mine.slots[i]);
        }
        mine.at = mine.count;
        walk(*mine.outer).result = result;
    }
    while (mine.at < mine.count && mine.slots[mine.at] == kUnused) ++mine.at;
    if (mine.at < mine.count) {
        mine.punch.op = Op::zero;
        mine.punch.offset = uint64_t{mine.slots[mine.at]} * 512;
        mine.punch.length = uint64_t{bitmap_bytes_} + block_bytes_;
        Io* one = &mine.punch;
        return file_->submit({&one, 1});
    }
    unmapping_ = false;
    Io& outer = *mine.outer;
    advance(outer, walk(outer).length);
    resume(outer, 0);
    resume_all(waiting_for_unmap_.take(), 0);
}

}  // namespace ringback::image::vhd
