// SPDX-License-Identifier: Apache-2.0
//
// Discard and zero: clusters that are given up whole. The L2 entry goes first; when the file has that, the
// host cluster is given back, and is found again only after its hole is punched (allocator.h).
//
// A discarded cluster reads as zeros afterwards where the format can say so. It never shows again what the
// backing file has there: version 2 with a backing file cannot say "zeros", so there nothing is discarded.
#include "disk-images/qcow2/image.h"

namespace ringback::image::qcow2 {

Co Qcow2Image::drop(Operation& operation, uint64_t at, uint64_t length, bool must_be_zero) {
    const bool by_writing = backing_ != nullptr && header_.version < 3;
    while (length > 0) {
        const uint64_t coverage = header_.l2_coverage();
        if (table_of(at) == 0 && (!must_be_zero || !backed(at))) {
            const uint64_t skipped = std::min(length, coverage - at % coverage);
            at += skipped;
            length -= skipped;
            continue;
        }
        const uint64_t in_cluster = at & (cluster_ - 1);
        uint64_t count = std::min<uint64_t>(length >> header_.cluster_bits, kDropped);
        count = std::min(count, per_slice_ - index_in_slice(at));
        // The disk may end inside its last cluster, which is whole all the same.
        if (count == 0 && at + length == geometry_.bytes) count = 1;
        uint64_t step = std::min(length, count << header_.cluster_bits);
        int32_t result = 0;
        if (in_cluster != 0 || count == 0 || by_writing) {
            step = std::min(length, cluster_ - in_cluster);
            if (must_be_zero) {
                Cursor zeros = Cursor::of_zeros();
                operation.buffer = kNoBuffer;
                result = co_await write(operation, zeros, at, step);
            }
        } else {
            const ClusterLocks::Range range{at >> header_.cluster_bits, count, ClusterLocks::Mode::exclusive};
            for (WaitList* wait = locks_.take(range, false); wait != nullptr; wait = locks_.take(range, true))
                co_await wait->wait();
            result = co_await drop_clusters(operation, at, count, must_be_zero);
            locks_.release(range);
        }
        if (result < 0) co_return result;
        at += step;
        length -= step;
    }
    co_return 0;
}

Co Qcow2Image::drop_clusters(Operation& operation, uint64_t at, uint64_t count, bool must_be_zero) {
    int32_t result = co_await writable_table(at);
    if (result < 0) co_return result;
    Slice* slice = nullptr;
    result = co_await cache_->get(slice_of(at), slice);
    if (result < 0) co_return result;
    while (slice->writing)
        co_await slice->changers.wait();
    const uint64_t index = index_in_slice(at);
    for (uint64_t i = 0; i < count && result == 0; ++i) {
        const Cluster old = decode(slice->bytes + (index + i) * header_.l2_entry_bytes(), format_);
        if (!old.valid)
            result =
                corrupt("an L2 entry makes no sense, for the cluster at", at + (i << header_.cluster_bits));
    }
    size_t changed = 0;
    for (uint64_t i = 0; i < count && result == 0; ++i) {
        std::byte* entry = slice->bytes + (index + i) * header_.l2_entry_bytes();
        const Cluster old = decode(entry, format_);
        operation.old[i] = 0;
        const bool held = old.present || old.compressed;
        if (!held && (!must_be_zero || old.zeros == format_.all || !backing_)) continue;
        if (held) operation.old[i] = get64(entry);
        Cluster now;
        if (backing_) now.zeros = format_.all;
        encode(entry, now, format_);
        ++changed;
    }
    if (changed > 0 && result == 0) {
        slice->dirty = true;
        result = co_await cache_->commit(*slice);
        if (result < 0) leftovers_ = true;
        for (uint64_t i = 0; i < count && result == 0; ++i)
            result = co_await give_back_entry(operation.old[i]);
        if (result == 0 && data_file_) {
            result = co_await data_file_->punch(at, count << header_.cluster_bits);
            // Whoever reads the data file as a raw image would still see what was there.
            if (result == -EOPNOTSUPP && (!must_be_zero || (header_.autoclear & autoclear::kRawData) == 0))
                result = 0;
        }
    }
    cache_->unpin(*slice);
    co_return result;
}

}  // namespace ringback::image::qcow2
