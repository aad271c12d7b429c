// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/allocator.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "runtime/log.h"

namespace ringback::image::qcow2 {

namespace {

constexpr uint64_t kFirstRun = 1U << 20;
constexpr uint64_t kLargestRun = 64U << 20;
constexpr uint64_t kSlicesPerSearch = 64;

}  // namespace

Allocator::Allocator(ImageFile& file, Cache& cache, Wakeups& wakeups, FramePool& frames, const Header& header,
                     std::vector<uint64_t> table, uint64_t file_bytes)
    : file_(file),
      cache_(cache),
      wakeups_(wakeups),
      frames_(frames),
      bits_(header.cluster_bits),
      order_(header.refcount_order),
      per_block_(header.refcounts_per_block()),
      per_slice_((cache.slice_bytes() * 8) >> header.refcount_order),
      table_offset_(header.refcount_table_offset),
      table_(std::move(table)),
      // Of a device only whole clusters can be used; a file's last one grows when it is written.
      end_(file.block_device() ? file_bytes >> bits_ : (file_bytes + header.cluster() - 1) >> bits_),
      run_(std::max<uint64_t>(kFirstRun >> bits_, 16)),
      sector_(static_cast<std::byte*>(std::aligned_alloc(4096, 4096)), std::free) {
    if (!sector_) throw std::bad_alloc();
}

Allocator::~Allocator() {
    INVARIANT(idle());
}

uint64_t Allocator::slice_of(uint64_t cluster) const {
    return table_[cluster / per_block_] + cluster % per_block_ / per_slice_ * cache_.slice_bytes();
}
uint64_t Allocator::index_in_slice(uint64_t cluster) const {
    return cluster % per_block_ % per_slice_;
}

uint64_t Allocator::limit() const {
    const uint64_t counted = table_.size() * per_block_;
    return file_.block_device() ? std::min(end_, counted) : std::min(counted, uint64_t{1} << (55 - bits_));
}

Co Allocator::take(uint64_t wanted, uint64_t& offset, uint64_t& count) {
    while (reserve_.empty()) {
        if (!refilling_) refill();
        if (refilling_) co_await takers_.wait();
        if (reserve_.empty() && !refilling_ && refilled_ < 0) co_return refilled_;
    }
    Run& run = reserve_.front();
    count = std::min(wanted, run.count);
    offset = run.first << bits_;
    run.first += count;
    run.count -= count;
    if (run.count == 0) (void)reserve_.pop();
    reserved_ -= count;
    if (reserved_ < run_ / 2 && !refilling_ && refilled_ == 0 && reserve_.size() <= kFound) refill();
    co_return 0;
}

Detached Allocator::refill() {
    refilling_ = true;
    refilled_ = co_await fetch();
    refilling_ = false;
    wakeups_.wake_all(takers_);
    wakeups_.wake_all(finishers_);
}

Co Allocator::fetch() {
    found_runs_ = 0;
    found_clusters_ = 0;
    // A hole in what is there already, if one can be found without long searching; the rest at the end of the
    // file.
    const uint64_t hint = hint_;
    int32_t result = co_await search(hint, std::min(end_, limit()),
                                     file_.block_device() ? ~uint64_t{0} : kSlicesPerSearch);
    if (result < 0) co_return result;
    if (hint_ == hint) hint_ = searched_;
    if (!file_.block_device()) {
        result = co_await search(end_, limit(), ~uint64_t{0});
        if (result < 0) co_return result;
    }
    if (found_runs_ == 0) co_return -ENOSPC;
    const uint64_t end_before = end_;
    uint64_t end = end_;
    for (size_t i = 0; i < found_runs_; ++i) {
        result = co_await count_as_used(found_[i]);
        // Behind the end of the file there are zeros already.
        Run old = found_[i];
        old.count = old.first < end_before ? std::min(old.count, end_before - old.first) : 0;
        if (result == 0) result = co_await make_zero(old);
        if (result < 0) {
            leaks_ = true;
            co_return result;
        }
        end = std::max(end, found_[i].first + found_[i].count);
    }
    result = co_await extend(end);
    if (result == 0) result = co_await file_.sync();
    if (result < 0) {
        leaks_ = true;
        co_return result;
    }
    for (size_t i = 0; i < found_runs_; ++i) {
        if (found_[i].count == 0) continue;
        reserve_.push(found_[i]);
        reserved_ += found_[i].count;
    }
    run_ = std::min({run_ * 2, std::max<uint64_t>(kLargestRun >> bits_, 16), kBlocksPerRun * per_block_});
    co_return 0;
}

void Allocator::add_found(uint64_t cluster, uint64_t count) {
    count = std::min(count, run_ - found_clusters_);
    found_clusters_ += count;
    if (found_runs_ > 0 && found_[found_runs_ - 1].first + found_[found_runs_ - 1].count == cluster) {
        found_[found_runs_ - 1].count += count;
    } else {
        found_[found_runs_++] = {cluster, count};
    }
}

Co Allocator::search(uint64_t from, uint64_t to, uint64_t slices) {
    uint64_t at = from;
    while (at < to && found_clusters_ < run_ && found_runs_ < kRunsPerSearch) {
        const uint64_t block_end = std::min(to, (at / per_block_ + 1) * per_block_);
        if (table_[at / per_block_] == 0) {
            const uint64_t before = found_clusters_;
            add_found(at, block_end - at);
            at += found_clusters_ - before;
            continue;
        }
        if (slices-- == 0) break;
        Slice* slice = nullptr;
        const int32_t result = co_await cache_.get(slice_of(at), slice);
        if (result < 0) co_return result;
        const uint64_t slice_end = std::min(to, at - index_in_slice(at) + per_slice_);
        for (; at < slice_end && found_clusters_ < run_ && found_runs_ < kRunsPerSearch; ++at) {
            if (get_refcount(slice->bytes, index_in_slice(at), order_) == 0) add_found(at, 1);
        }
        cache_.unpin(*slice);
    }
    searched_ = at;
    co_return 0;
}

// The run may lose clusters, and be cut in two there: they have become refcount blocks.
Co Allocator::count_as_used(Run& run) {
    uint64_t at = run.first;
    const uint64_t end = run.first + run.count;
    while (at < end) {
        if (table_[at / per_block_] == 0) {
            const int32_t result = co_await make_block(at / per_block_, at);
            if (result < 0) co_return result;
            ++at;
            if (at - 1 == run.first) {
                run = {at, end - at};
                continue;
            }
            INVARIANT(found_runs_ < kFound);
            found_[found_runs_++] = {at, end - at};
            run.count = at - 1 - run.first;
            co_return 0;
        }
        Slice* slice = nullptr;
        int32_t result = co_await cache_.get(slice_of(at), slice);
        if (result < 0) co_return result;
        while (slice->writing)
            co_await slice->changers.wait();
        const uint64_t slice_end = std::min(end, at - index_in_slice(at) + per_slice_);
        for (; at < slice_end; ++at)
            put_refcount(slice->bytes, index_in_slice(at), order_, 1);
        slice->dirty = true;
        result = co_await cache_.commit(*slice);
        cache_.unpin(*slice);
        if (result < 0) co_return result;
    }
    co_return 0;
}

Co Allocator::make_block(uint64_t block, uint64_t cluster) {
    const uint64_t offset = cluster << bits_;
    int32_t result = 0;
    if (cluster < end_) {
        result = co_await make_zero({cluster, 1});
    } else {
        result = co_await extend(cluster + 1);
    }
    if (result == 0) result = co_await cache_.forget(offset, uint64_t{1} << bits_);
    if (result < 0) co_return result;
    Slice* slice = nullptr;
    const uint64_t own = offset + cluster % per_block_ / per_slice_ * cache_.slice_bytes();
    result = co_await cache_.get(own, slice);
    if (result < 0) co_return result;
    put_refcount(slice->bytes, index_in_slice(cluster), order_, 1);
    slice->dirty = true;
    result = co_await cache_.commit(*slice);
    cache_.unpin(*slice);
    // The table may name the block only when the block's content is there to stay.
    if (result == 0) result = co_await file_.sync();
    if (result < 0) co_return result;
    table_[block] = offset;
    result = co_await write_table_entry(block);
    if (result < 0) table_[block] = 0;
    co_return result;
}

Co Allocator::write_table_entry(uint64_t block) {
    const uint64_t first = block / 64 * 64;
    for (uint64_t i = 0; i < 64; ++i)
        put64(sector_.get() + i * 8, first + i < table_.size() ? table_[first + i] : 0);
    sector_vector_ = {sector_.get(), 512};
    co_return co_await file_.write(table_offset_ + first * 8, 512, {&sector_vector_, 1});
}

Co Allocator::make_zero(Run run) {
    if (run.count == 0) co_return 0;
    uint64_t offset = run.first << bits_;
    uint64_t left = run.count << bits_;
    const int32_t result = co_await file_.punch(offset, left);
    if (result != -EOPNOTSUPP) co_return result;
    while (left > 0) {
        uint64_t piece = 0;
        size_t vectors = 0;
        for (; vectors < zero_vectors_.size() && piece < left; ++vectors) {
            zero_vectors_[vectors] = {zero_page(),
                                      static_cast<size_t>(std::min<uint64_t>(4096, left - piece))};
            piece += zero_vectors_[vectors].iov_len;
        }
        const int32_t written = co_await file_.write(offset, piece, std::span(zero_vectors_).first(vectors));
        if (written < 0) co_return written;
        offset += piece;
        left -= piece;
    }
    co_return 0;
}

// The file gets that many clusters: what refers to a place behind the end of its file is corrupt.
Co Allocator::extend(uint64_t clusters) {
    if (clusters <= end_) co_return 0;
    zero_vectors_[0] = {zero_page(), 512};
    const int32_t result =
        co_await file_.write((clusters << bits_) - 512, 512, std::span(zero_vectors_).first(1));
    if (result == 0) end_ = clusters;
    co_return result;
}

Co Allocator::give_back(uint64_t offset, uint64_t count) {
    while (given_back_.full())
        co_await givers_.wait();
    given_back_.push({offset >> bits_, count});
    if (!reclaiming_) reclaim();
    co_return 0;
}

Detached Allocator::reclaim() {
    reclaiming_ = true;
    while (!given_back_.empty()) {
        const size_t count = given_back_.size();
        const int32_t synced = co_await file_.sync();
        for (size_t i = 0; i < count; ++i) {
            const Run run = given_back_.pop();
            int32_t result = synced;
            if (result == 0) result = co_await lower(run, true);
            if (result < 0) leaks_ = true;
        }
        wakeups_.wake_all(givers_);
    }
    reclaiming_ = false;
    wakeups_.wake_all(finishers_);
}

Co Allocator::lower(Run run, bool punch) {
    while (run.count > 0) {
        const uint64_t block = run.first / per_block_;
        if (block >= table_.size() || table_[block] == 0) co_return -EIO;
        const uint64_t share = std::min(run.count, per_slice_ - index_in_slice(run.first));
        const int32_t result = co_await lower_in_slice({run.first, share}, punch);
        if (result < 0) co_return result;
        run.first += share;
        run.count -= share;
    }
    co_return 0;
}

Co Allocator::lower_in_slice(Run run, bool punch) {
    Slice* slice = nullptr;
    int32_t result = co_await cache_.get(slice_of(run.first), slice);
    if (result < 0) co_return result;
    const uint64_t end = run.first + run.count;
    for (uint64_t at = run.first; at < end;) {
        const uint64_t uses = get_refcount(slice->bytes, index_in_slice(at), order_);
        uint64_t last = at + 1;
        if (uses == 1) {
            while (last < end && get_refcount(slice->bytes, index_in_slice(last), order_) == 1)
                ++last;
            // A file system without holes keeps its blocks; the next taker makes them zeros.
            if (punch) result = co_await file_.punch(at << bits_, (last - at) << bits_);
            if (result == -EOPNOTSUPP) result = 0;
        } else if (uses == 0) {
            if (!leaks_)
                log::error("{}: a cluster at {:#x} was in use and not counted", file_.name(), at << bits_);
            result = -EIO;
        }
        if (result < 0) break;
        while (slice->writing)
            co_await slice->changers.wait();
        for (uint64_t i = at; i < last; ++i)
            put_refcount(slice->bytes, index_in_slice(i), order_, uses - 1);
        slice->dirty = true;
        if (uses == 1) hint_ = std::min(hint_, at);
        at = last;
    }
    if (slice->dirty) {
        const int32_t written = co_await cache_.commit(*slice);
        if (result == 0) result = written;
    }
    cache_.unpin(*slice);
    co_return result;
}

Co Allocator::finish() {
    while (!idle())
        co_await finishers_.wait();
    while (!reserve_.empty()) {
        const Run run = reserve_.pop();
        reserved_ -= run.count;
        // Nothing ever referred to them, on no storage: no sync first.
        const int32_t result = co_await lower(run, false);
        if (result < 0) {
            leaks_ = true;
            co_return result;
        }
    }
    const int32_t result = co_await cache_.commit_leftovers();
    if (result < 0) co_return result;
    co_return co_await file_.sync();
}

}  // namespace ringback::image::qcow2
