// SPDX-License-Identifier: Apache-2.0
//
// Writing. The order of every first write: host cluster counted (allocator.h)  ->  data in it  ->  where the
// disk had anything but zeros: sync  ->  L2 entry in the file  ->  answer. Only then is what the entry named
// before given back.
//
// Why the sync: a power cut may keep the L2 entry and lose the data. Where there were zeros, zeros are what
// is found then (the allocator's clusters are zeros), which is fair for data that was not flushed. Elsewhere
// what was there before, and was flushed long ago, must not go: beside the guest's data in the cluster, and
// under it.
#include "disk-images/qcow2/image.h"

namespace ringback::image::qcow2 {

Co Qcow2Image::write(Operation& operation, Cursor& cursor, uint64_t at, uint64_t length) {
    while (length > 0) {
        uint64_t piece = std::min(length, cursor.limit(kParts - 2));
        const uint64_t first = at >> header_.cluster_bits;
        piece = std::min(piece, ((first + kClustersPerPiece) << header_.cluster_bits) - at);
        ClusterLocks::Range range{first, ((at + piece - 1) >> header_.cluster_bits) - first + 1,
                                  ClusterLocks::Mode::shared};
        for (WaitList* wait = locks_.take(range, false); wait != nullptr; wait = locks_.take(range, true))
            co_await wait->wait();
        Mapping mapping;
        int32_t result = co_await map(at, piece, mapping);
        uint64_t moved = 0;
        if (result == 0 && mapping.in_place) {
            moved = mapping.length;
            if (may_be_data(mapping.host, moved)) {
                const std::span<iovec> parts = cursor.take(moved, operation.parts);
                result = co_await data().write(mapping.host, moved, parts, operation.buffer);
                if (result == 0) result = co_await settle(at);
            } else {
                result = corrupt("an L2 entry points into the image's own tables:", mapping.host);
            }
        }
        locks_.release(range);
        if (result == 0 && moved == 0) {
            range.mode = ClusterLocks::Mode::exclusive;
            for (WaitList* wait = locks_.take(range, false); wait != nullptr; wait = locks_.take(range, true))
                co_await wait->wait();
            result = co_await write_new(operation, cursor, at, piece, moved);
            locks_.release(range);
        }
        if (result < 0) co_return result;
        at += moved;
        length -= moved;
    }
    co_return 0;
}

// Whatever an L2 entry says: the header and the tables that are known by heart are not a guest's to write.
bool Qcow2Image::may_be_data(uint64_t host, uint64_t bytes) const {
    if (data_file_) return true;
    const auto apart = [&](uint64_t offset, uint64_t size) {
        return host >= offset + size || host + bytes <= offset;
    };
    return apart(0, cluster_) && apart(header_.l1_offset, uint64_t{header_.l1_entries} * 8) &&
           apart(header_.refcount_table_offset,
                 uint64_t{header_.refcount_table_clusters} << header_.cluster_bits);
}

// An earlier request may have failed to write the tables that this one builds on.
Co Qcow2Image::settle(uint64_t at) {
    Slice* slice = cache_->find(slice_of(at));
    if (slice == nullptr || !slice->dirty) {
        if (l1_unwritten_count_ > 0) co_return co_await writable_table(at);
        co_return 0;
    }
    cache_->pin(*slice);
    int32_t result = co_await cache_->commit(*slice);
    cache_->unpin(*slice);
    if (result == 0 && l1_unwritten_count_ > 0) result = co_await writable_table(at);
    co_return result;
}

uint32_t Qcow2Image::bits_of(uint64_t from, uint64_t to) const {
    if (!header_.extended()) return 1;
    const uint64_t first = from / header_.subcluster();
    const uint64_t count = (to - 1) / header_.subcluster() - first + 1;
    return static_cast<uint32_t>(((uint64_t{1} << count) - 1) << first);
}

// Whether [from, to) of this cluster can be written into a new host cluster without a look at what was there
// before.
bool Qcow2Image::plain(const Cluster& cluster, uint64_t at, uint64_t from, uint64_t to) const {
    if (!cluster.valid) return false;
    const bool whole = from == 0 && to == cluster_;
    if (cluster.present && cluster.copied) return false;
    if (whole) return true;
    if (cluster.present || cluster.compressed || data_file_) return false;
    const uint64_t unit = header_.subcluster();
    const bool zeros = !backed(at & ~(cluster_ - 1));
    const auto reads_as_zeros = [&](uint64_t where) {
        return zeros || (cluster.zeros & bits_of(where, where + 1)) != 0;
    };
    return (from % unit == 0 || reads_as_zeros(from)) && (to % unit == 0 || reads_as_zeros(to - 1));
}

// The clusters of [at, at + length) are this operation's alone.
Co Qcow2Image::write_new(Operation& operation, Cursor& cursor, uint64_t at, uint64_t length,
                         uint64_t& moved) {
    int32_t result = co_await writable_table(at);
    if (result < 0) co_return result;
    Slice* slice = nullptr;
    result = co_await cache_->get(slice_of(at), slice);
    if (result < 0) co_return result;
    uint64_t index = index_in_slice(at);
    uint64_t clusters = 0;
    uint64_t run = 0;
    for (; run < length && index < per_slice_; ++index, ++clusters) {
        const uint64_t from = (at + run) & (cluster_ - 1);
        const uint64_t to = std::min(cluster_, from + length - run);
        if (!plain(decode(slice->bytes + index * header_.l2_entry_bytes(), format_), at + run, from, to))
            break;
        run += to - from;
    }
    if (clusters > 0) {
        result = co_await write_run(operation, cursor, *slice, at, run, clusters, moved);
    } else {
        moved = std::min(length, cluster_ - (at & (cluster_ - 1)));
        result = co_await write_one(operation, cursor, *slice, at, moved);
    }
    cache_->unpin(*slice);
    co_return result;
}

Co Qcow2Image::write_run(Operation& operation, Cursor& cursor, Slice& slice, uint64_t at, uint64_t length,
                         uint64_t clusters, uint64_t& moved) {
    const uint64_t in_cluster = at & (cluster_ - 1);
    uint64_t host = at - in_cluster;
    if (!data_file_) {
        uint64_t got = 0;
        const int32_t taken = co_await allocator_->take(clusters, host, got);
        if (taken < 0) co_return taken;
        clusters = got;
        length = std::min(length, (clusters << header_.cluster_bits) - in_cluster);
    }
    const std::span<iovec> parts = cursor.take(length, operation.parts);
    int32_t result = co_await data().write(host + in_cluster, length, parts, operation.buffer);
    if (result == 0 && replaces_data(slice, at, clusters)) result = co_await data().sync();
    if (result < 0) {
        if (!data_file_) co_await allocator_->give_back(host, clusters);
        co_return result;
    }
    while (slice.writing)
        co_await slice.changers.wait();
    const uint64_t index = index_in_slice(at);
    for (uint64_t i = 0; i < clusters; ++i) {
        std::byte* entry = slice.bytes + (index + i) * header_.l2_entry_bytes();
        const Cluster old = decode(entry, format_);
        operation.old[i] = get64(entry);
        const uint64_t from = i == 0 ? in_cluster : 0;
        const uint64_t to = std::min(cluster_, in_cluster + length - (i << header_.cluster_bits));
        Cluster now;
        now.present = now.copied = true;
        now.offset = host + (i << header_.cluster_bits);
        now.allocated = bits_of(from, to);
        now.zeros = old.compressed ? 0 : old.zeros & ~now.allocated;
        encode(entry, now, format_);
    }
    slice.dirty = true;
    result = co_await cache_->commit(slice);
    if (result < 0) leftovers_ = true;
    for (uint64_t i = 0; i < clusters && result == 0; ++i)
        result = co_await give_back_entry(operation.old[i]);
    moved = length;
    co_return result;
}

// Whether these clusters of the disk have anything but zeros, or get host clusters that may.
bool Qcow2Image::replaces_data(const Slice& slice, uint64_t at, uint64_t clusters) const {
    if (data_file_) return true;
    const uint64_t index = index_in_slice(at);
    const uint64_t base = at & ~(cluster_ - 1);
    for (uint64_t i = 0; i < clusters; ++i) {
        const Cluster old = decode(slice.bytes + (index + i) * header_.l2_entry_bytes(), format_);
        if (old.compressed || old.allocated != 0) return true;
        if (old.zeros != format_.all && backed(base + (i << header_.cluster_bits))) return true;
    }
    return false;
}

// One cluster, of which something has to be kept.
Co Qcow2Image::write_one(Operation& operation, Cursor& cursor, Slice& slice, uint64_t at, uint64_t length) {
    std::byte* entry = slice.bytes + index_in_slice(at) * header_.l2_entry_bytes();
    const uint64_t old_entry = get64(entry);
    const Cluster old = decode(entry, format_);
    const uint64_t from = at & (cluster_ - 1);
    const uint64_t to = from + length;
    const uint64_t base = at - from;
    if (!old.valid) co_return corrupt("an L2 entry makes no sense, for the cluster at", base);
    const bool copy_all = old.compressed || (old.present && !old.copied);
    const bool reuse = data_file_ || (old.present && old.copied);
    uint64_t host = data_file_ ? base : old.offset;
    int32_t result = 0;
    if (!reuse) {
        uint64_t got = 0;
        result = co_await allocator_->take(1, host, got);
    } else if (!may_be_data(host, cluster_)) {
        result = corrupt("an L2 entry points into the image's own tables:", host);
    }
    if (result < 0) co_return result;

    // Where the subclusters at both ends are not all the guest's: what they held goes with them. A cluster
    // fresh from the allocator is zeros already.
    uint64_t low = copy_all ? 0 : from;
    uint64_t high = copy_all ? cluster_ : to;
    if (!copy_all) {
        const uint64_t unit = header_.subcluster();
        const auto to_be_filled = [&](uint64_t where) {
            const Mapping::Kind kind = kind_of(old, where);
            if (kind == Mapping::Kind::data) return false;
            return reuse || (kind == Mapping::Kind::backing && backed(base));
        };
        if (from % unit != 0 && to_be_filled(from)) low = from / unit * unit;
        if (to % unit != 0 && to_be_filled(to - 1)) high = (to + unit - 1) / unit * unit;
    }
    CopyBuffer* copy = nullptr;
    if (low < from || high > to) {
        result = co_await take_copy_buffer(copy);
        result = co_await copy_around(operation, *copy, base, low, from, to, high);
    }
    if (result == 0) {
        const std::span<iovec> all(operation.parts);
        size_t used = 0;
        if (low < from) all[used++] = {copy->data + low, from - low};
        used += cursor.take(length, all.subspan(used)).size();
        if (high > to) all[used++] = {copy->data + to, high - to};
        result = co_await data().write(host + low, high - low, all.first(used),
                                       copy == nullptr ? operation.buffer : kNoBuffer);
    }
    const uint32_t added = bits_of(low, high) & ~old.allocated;
    const bool shown = added != 0 && (reuse || ((added & ~old.zeros) != 0 && backed(base)));
    if (result == 0 && (copy != nullptr || copy_all || shown)) result = co_await data().sync();
    if (copy != nullptr) give_copy_buffer(*copy);
    if (result < 0) {
        if (!reuse) co_await allocator_->give_back(host, 1);
        co_return result;
    }
    while (slice.writing)
        co_await slice.changers.wait();
    Cluster now;
    now.present = now.copied = true;
    now.offset = host;
    now.allocated = copy_all ? format_.all : (old.allocated | bits_of(low, high));
    now.zeros = copy_all ? 0 : old.zeros & ~now.allocated;
    encode(entry, now, format_);
    slice.dirty = true;
    result = co_await cache_->commit(slice);
    if (result < 0) leftovers_ = true;
    if (result == 0 && copy_all) result = co_await give_back_entry(old_entry);
    co_return result;
}

Co Qcow2Image::copy_around(Operation& operation, CopyBuffer& buffer, uint64_t base, uint64_t low,
                           uint64_t from, uint64_t to, uint64_t high) {
    const uint16_t registered = std::exchange(operation.buffer, kNoBuffer);
    int32_t result = 0;
    if (low < from) {
        const iovec head{buffer.data + low, from - low};
        Cursor cursor({&head, 1});
        result = co_await read(operation, cursor, base + low, from - low, false);
    }
    if (result == 0 && high > to) {
        const iovec tail{buffer.data + to, high - to};
        Cursor cursor({&tail, 1});
        result = co_await read(operation, cursor, base + to, high - to, false);
    }
    operation.buffer = registered;
    co_return result;
}

Co Qcow2Image::take_copy_buffer(CopyBuffer*& buffer) {
    while (free_copy_buffers_ == nullptr)
        co_await copiers_.wait();
    buffer = std::exchange(free_copy_buffers_, free_copy_buffers_->next);
    co_return 0;
}

void Qcow2Image::give_copy_buffer(CopyBuffer& buffer) {
    buffer.next = std::exchange(free_copy_buffers_, &buffer);
    if (!copiers_.empty()) wakeups_.wake(copiers_.pop());
}

Co Qcow2Image::give_back_entry(uint64_t entry) {
    if ((entry & kCompressed) != 0) {
        const uint32_t shift = 62 - (header_.cluster_bits - 8);
        const uint64_t offset = entry & ((uint64_t{1} << shift) - 1);
        const uint64_t sectors = ((entry & (kCompressed - 1)) >> shift) + 1;
        const uint64_t end = offset + sectors * 512 - offset % 512;
        for (Unpacked& one : unpacked_) {
            if (one.key == offset) one.key = 0;
        }
        const uint64_t first = offset & ~(cluster_ - 1);
        co_return co_await allocator_->give_back(first, (end - 1 - first) / cluster_ + 1);
    }
    if ((entry & kOffsetMask) == 0 || data_file_) co_return 0;
    co_return co_await allocator_->give_back(entry & kOffsetMask, 1);
}

Co Qcow2Image::writable_table(uint64_t at) {
    const uint64_t index = at / header_.l2_coverage();
    if ((l1_[index] & kCopied) != 0 && l1_unwritten_count_ == 0) co_return 0;
    co_await tables_.lock();
    int32_t result = co_await write_l1_leftovers();
    if (result == 0 && (l1_[index] & kCopied) == 0) result = co_await make_table(index);
    tables_.unlock();
    co_return result;
}

// A new L2 table: an empty one is what the allocator gives; one that a snapshot has too is copied.
Co Qcow2Image::make_table(uint64_t index) {
    const uint64_t old = l1_[index] & kOffsetMask;
    if (old != 0 && !table_valid(old))
        co_return corrupt("an L2 table is outside the file or not at a cluster's begin:", old);
    uint64_t table = 0;
    uint64_t got = 0;
    int32_t result = co_await allocator_->take(1, table, got);
    if (result < 0) co_return result;
    result = co_await cache_->forget(table, cluster_);
    if (old != 0) {
        result = co_await copy_table(old, table);
        if (result == 0) result = co_await file_->sync();
    }
    if (result < 0) {
        co_await cache_->forget(table, cluster_);
        co_await allocator_->give_back(table, 1);
        co_return result;
    }
    l1_[index] = table | kCopied;
    result = co_await write_l1(index);
    if (result < 0) {
        leftovers_ = true;
        co_return result;
    }
    if (old != 0) co_return co_await allocator_->give_back(old, 1);
    co_return 0;
}

Co Qcow2Image::copy_table(uint64_t from, uint64_t to) {
    const uint64_t step = cache_->slice_bytes();
    for (uint64_t done = 0; done < cluster_; done += step) {
        Slice* source = nullptr;
        Slice* target = nullptr;
        int32_t result = co_await cache_->get(from + done, source);
        if (result < 0) co_return result;
        result = co_await cache_->get(to + done, target);
        if (result == 0) {
            std::memcpy(target->bytes, source->bytes, step);
            target->dirty = true;
            result = co_await cache_->commit(*target);
            cache_->unpin(*target);
        }
        cache_->unpin(*source);
        if (result < 0) co_return result;
    }
    co_return 0;
}

// The sector of the L1 table that has the entry. tables_ is locked.
Co Qcow2Image::write_l1(uint64_t index) {
    const uint64_t sector = index / 64;
    std::byte* bytes = sectors_.get() + kSectorSize;
    for (uint64_t i = 0; i < 64; ++i)
        put64(bytes + i * 8, sector * 64 + i < l1_.size() ? l1_[sector * 64 + i] : 0);
    l1_vector_ = {bytes, kSectorSize};
    const int32_t result =
        co_await file_->write(header_.l1_offset + sector * kSectorSize, kSectorSize, {&l1_vector_, 1});
    const auto unwritten = static_cast<uint8_t>(result < 0 ? 1 : 0);
    l1_unwritten_count_ += unwritten;
    l1_unwritten_count_ -= std::exchange(l1_unwritten_[sector], unwritten);
    co_return result;
}

Co Qcow2Image::write_l1_leftovers() {
    for (uint64_t sector = 0; sector < l1_unwritten_.size() && l1_unwritten_count_ > 0; ++sector) {
        if (l1_unwritten_[sector] == 0) continue;
        const int32_t result = co_await write_l1(sector * 64);
        if (result < 0) co_return result;
    }
    co_return 0;
}

}  // namespace ringback::image::qcow2
