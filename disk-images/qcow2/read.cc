// SPDX-License-Identifier: Apache-2.0
//
// Looking up and reading.
#include "disk-images/qcow2/image.h"

namespace ringback::image::qcow2 {

bool Qcow2Image::table_valid(uint64_t table) const {
    return (table & (cluster_ - 1)) == 0 && table < file_end();
}

// Of the table that `at` has.
uint64_t Qcow2Image::slice_of(uint64_t at) const {
    const uint64_t index = (at >> header_.cluster_bits) % header_.l2_entries();
    return table_of(at) + index / per_slice_ * cache_->slice_bytes();
}

// What the disk has at `at`, for at most `limit` bytes of one kind, in one place.
Co Qcow2Image::map(uint64_t at, uint64_t limit, Mapping& mapping) {
    const uint64_t table = table_of(at);
    mapping = {};
    if (table == 0) {
        mapping.length = std::min(limit, header_.l2_coverage() - at % header_.l2_coverage());
        if (!backed(at)) mapping.kind = Mapping::Kind::zero;
        co_return 0;
    }
    if (!table_valid(table))
        co_return corrupt("an L2 table is outside the file or not at a cluster's begin:", table);
    const uint64_t where = slice_of(at);
    if (Slice* slice = cache_->find(where)) co_return walk(*slice, at, limit, mapping);
    Slice* slice = nullptr;
    int32_t result = co_await cache_->get(where, slice);
    if (result < 0) co_return result;
    result = walk(*slice, at, limit, mapping);
    cache_->unpin(*slice);
    co_return result;
}

Qcow2Image::Mapping::Kind Qcow2Image::kind_of(const Cluster& cluster, uint64_t in_cluster) const {
    if (cluster.compressed) return Mapping::Kind::compressed;
    const uint32_t bit = 1U << (in_cluster / header_.subcluster());
    if ((cluster.allocated & bit) != 0) return Mapping::Kind::data;
    return (cluster.zeros & bit) != 0 ? Mapping::Kind::zero : Mapping::Kind::backing;
}

int32_t Qcow2Image::walk(const Slice& slice, uint64_t at, uint64_t limit, Mapping& mapping) {
    const uint64_t unit = header_.subcluster();
    const uint64_t mask = cluster_ - 1;
    uint64_t index = index_in_slice(at);
    uint64_t done = 0;
    for (; done < limit && index < per_slice_; ++index) {
        const Cluster cluster = decode(slice.bytes + index * header_.l2_entry_bytes(), format_);
        if (!cluster.valid)
            return corrupt("an L2 entry makes no sense, for the cluster at", (at + done) & ~mask);
        if (!data_file_ && (cluster.present || cluster.compressed) && cluster.offset >= file_end()) {
            return corrupt("an L2 entry points behind the end of the file:", cluster.offset);
        }
        if (cluster.compressed && done == 0) {
            mapping.kind = Mapping::Kind::compressed;
            mapping.host = cluster.offset;
            mapping.compressed_bytes = cluster.bytes;
            mapping.length = std::min(limit, cluster_ - (at & mask));
            return 0;
        }
        do {
            const uint64_t in_cluster = (at + done) & mask;
            const Mapping::Kind kind = kind_of(cluster, in_cluster);
            const uint64_t host = cluster.offset + in_cluster;
            if (done == 0) {
                mapping.kind = kind;
                mapping.host = host;
                mapping.in_place = kind == Mapping::Kind::data && cluster.copied;
            } else if (kind != mapping.kind ||
                       (kind == Mapping::Kind::data &&
                        (host != mapping.host + done || cluster.copied != mapping.in_place))) {
                mapping.length = done;
                return 0;
            }
            done += std::min(limit - done, unit - in_cluster % unit);
        } while (done < limit && ((at + done) & mask) != 0);
    }
    mapping.length = done;
    return 0;
}

Co Qcow2Image::read(Operation& operation, Cursor& cursor, uint64_t at, uint64_t length, bool lock) {
    while (length > 0) {
        uint64_t piece = std::min(length, cursor.limit(kParts - 2));
        const uint64_t first = at >> header_.cluster_bits;
        piece = std::min(piece, ((first + kClustersPerPiece) << header_.cluster_bits) - at);
        const ClusterLocks::Range range{first, ((at + piece - 1) >> header_.cluster_bits) - first + 1,
                                        ClusterLocks::Mode::shared};
        if (lock) {
            for (WaitList* wait = locks_.take(range, false); wait != nullptr; wait = locks_.take(range, true))
                co_await wait->wait();
        }
        Mapping mapping;
        int32_t result = co_await map(at, piece, mapping);
        if (result == 0) result = co_await read_piece(operation, cursor, at, mapping);
        if (lock) locks_.release(range);
        if (result < 0) co_return result;
        at += mapping.length;
        length -= mapping.length;
    }
    co_return 0;
}

Co Qcow2Image::read_piece(Operation& operation, Cursor& cursor, uint64_t at, const Mapping& mapping) {
    uint64_t length = mapping.length;
    if (mapping.kind == Mapping::Kind::compressed) co_return co_await read_compressed(cursor, at, mapping);
    if (mapping.kind == Mapping::Kind::data) {
        const std::span<iovec> parts = cursor.take(length, operation.parts);
        co_return co_await data().read(mapping.host, length, parts, operation.buffer);
    }
    if (mapping.kind == Mapping::Kind::backing && backed(at)) {
        const uint64_t share = std::min(length, backing_->geometry().bytes - at);
        const std::span<iovec> parts = cursor.take(share, operation.parts);
        const int32_t result = co_await BackingRead(*this, at, share, parts, operation.buffer);
        if (result < 0) co_return result;
        length -= share;
    }
    cursor.clear(length);
    co_return 0;
}

Co Qcow2Image::read_compressed(Cursor& cursor, uint64_t at, const Mapping& mapping) {
    const uint64_t in_cluster = at & (cluster_ - 1);
    Unpacked* found = nullptr;
    for (;;) {
        for (Unpacked& one : unpacked_) {
            if (!one.busy && one.key == mapping.host) found = &one;
        }
        if (found != nullptr) {
            cursor.copy_in(found->data + in_cluster, mapping.length);
            co_return 0;
        }
        for (size_t i = 0; i < unpacked_.size() && found == nullptr; ++i) {
            next_unpacked_ = (next_unpacked_ + 1) % unpacked_.size();
            if (!unpacked_[next_unpacked_].busy) found = &unpacked_[next_unpacked_];
        }
        if (found != nullptr) break;
        co_await unpackers_.wait();
    }
    found->busy = true;
    found->key = 0;
    const uint64_t skip = mapping.host % kSectorSize;
    const uint64_t bytes = skip + mapping.compressed_bytes;
    found->vector = {found->packed, bytes};
    int32_t result = co_await file_->read(mapping.host - skip, bytes, {&found->vector, 1});
    if (result == 0) {
        result = decompressor_.run({found->packed + skip, mapping.compressed_bytes}, {found->data, cluster_});
    }
    found->busy = false;
    if (result == 0) {
        found->key = mapping.host;
        cursor.copy_in(found->data + in_cluster, mapping.length);
    }
    wakeups_.wake_all(unpackers_);
    co_return result;
}

}  // namespace ringback::image::qcow2
