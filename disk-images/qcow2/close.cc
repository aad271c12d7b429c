// SPDX-License-Identifier: Apache-2.0
//
// The end of an image's service, and what tools ask of an image that serves nobody.
#include <fmt/format.h>

#include "disk-images/qcow2/image.h"

namespace ringback::image::qcow2 {

void Qcow2Image::close(Closing& closing) {
    INVARIANT(in_flight_ == 0 && closing_ == nullptr);
    closing_ = &closing;
    shut(closing);
}

// The mark goes last: what it says has to be true on stable storage before it is taken away.
Detached Qcow2Image::shut(Closing&) {
    int32_t result = 0;
    if (writable_) {
        result = co_await flush();
        const int32_t finished = co_await allocator_->finish();
        if (result == 0) result = finished;
        if (result == 0 && (leftovers_ || allocator_->leaks() || corrupt_)) result = -EUCLEAN;
        if (result == 0 && (header_.incompatible & incompatible::kDirty) != 0) {
            header_.incompatible &= ~incompatible::kDirty;
            put64(sectors_.get() + field::kIncompatible, header_.incompatible);
            result = co_await write_header();
            if (result == 0) result = co_await file_->sync();
        }
    }
    closing_result_ = result;
    reactor_.schedule(closer_);
}

// Its first sector, as it is in memory.
Co Qcow2Image::write_header() {
    header_vector_ = {sectors_.get(), kSectorSize};
    co_return co_await file_->write(0, kSectorSize, {&header_vector_, 1});
}

Detached Qcow2Image::run_and_tell(Co& what, int32_t& result, bool& done) {
    result = co_await what;
    done = true;
}

template <typename Make>
int32_t Qcow2Image::run_to_end(Make&& make) {
    INVARIANT(in_flight_ == 0);
    Co what = make();
    int32_t result = 0;
    bool done = false;
    run_and_tell(what, result, done);
    while (!done)
        reactor_.turn(reactor_.in_flight() > 0);
    return result;
}

Co Qcow2Image::find_extent(uint64_t at, Extent& extent) {
    constexpr uint64_t kEnough = 1U << 30;
    Mapping first;
    int32_t result = co_await map(at, geometry_.bytes - at, first);
    if (result < 0) co_return result;
    const bool data = first.kind == Mapping::Kind::data;
    extent.compressed = first.kind == Mapping::Kind::compressed;
    extent.kind = data || extent.compressed ? Extent::Kind::data : Extent::Kind::zero;
    extent.length = first.length;
    extent.host_offset = data ? first.host : Extent::kNowhere;
    // What says nothing itself, and what no table says anything about.
    extent.here = first.kind != Mapping::Kind::backing && table_of(at) != 0;
    while (extent.length < std::min(kEnough, geometry_.bytes - at)) {
        const uint64_t next_at = at + extent.length;
        Mapping next;
        result = co_await map(next_at, geometry_.bytes - next_at, next);
        if (result < 0) co_return result;
        const bool here = next.kind != Mapping::Kind::backing && table_of(next_at) != 0;
        if (next.kind != first.kind || here != extent.here) break;
        if (data && next.host != first.host + extent.length) break;
        extent.length += next.length;
    }
    if (first.kind == Mapping::Kind::backing && backed(at))
        extent.kind = Extent::Kind::data;  // to be asked below
    co_return 0;
}

Result<Extent> Qcow2Image::extent(uint64_t offset) {
    INVARIANT(offset < geometry_.bytes && offset % kSectorSize == 0);
    Extent found;
    const int32_t result = run_to_end([&] { return find_extent(offset, found); });
    if (result < 0) return os_error(-result, fmt::format("look up {} of {}", offset, file_->name()));
    if (found.here || found.kind != Extent::Kind::data) return found;
    Extent below = TRY(backing_->extent(offset));
    below.here = false;
    below.length = std::min(below.length, found.length);
    return below;
}

Result<void> Qcow2Image::resize(uint64_t bytes) {
    const auto refuse = [&](int code, const char* why) {
        return Error{code, fmt::format("resize {} to {} bytes: {}", file_->name(), bytes, why)};
    };
    if (!writable_) return refuse(EROFS, "it is open for reading only");
    if (bytes == 0 || bytes % kSectorSize != 0) return refuse(EINVAL, "a positive multiple of 512 is needed");
    if (header_.l1_needed(bytes) * 8 > kMaxL1Bytes)
        return refuse(EFBIG, "its clusters are too small for so large a disk");
    if (header_.bitmaps > 0)
        return refuse(ENOTSUP, "it has bitmaps, which are for the old size; remove them first");
    if (header_.snapshots > 0 && bytes < geometry_.bytes)
        return refuse(ENOTSUP, "it has snapshots, and would shrink");
    if ((header_.autoclear & autoclear::kRawData) != 0)
        return refuse(ENOTSUP, "its data file is raw; resize that first");
    const int32_t result = run_to_end([&] { return grow_or_shrink(bytes); });
    if (result < 0) return os_error(-result, fmt::format("resize {} to {} bytes", file_->name(), bytes));
    return {};
}

Co Qcow2Image::grow_or_shrink(uint64_t bytes) {
    int32_t result = 0;
    if (bytes < geometry_.bytes) {
        Operation& operation = operations_.front();
        const uint64_t from = (bytes + cluster_ - 1) & ~(cluster_ - 1);
        if (from < geometry_.bytes) result = co_await drop(operation, from, geometry_.bytes - from, false);
        // Sectors of the last cluster that are cut off must not come back when the disk grows again.
        if (result == 0 && bytes < from) {
            Cursor zeros = Cursor::of_zeros();
            operation.buffer = kNoBuffer;
            result = co_await write(operation, zeros, bytes, std::min(from, geometry_.bytes) - bytes);
        }
    } else if (header_.l1_needed(bytes) > l1_.size()) {
        result = co_await move_l1(header_.l1_needed(bytes));
    }
    // What is added reads as zeros, also where the backing file is longer than the disk was.
    if (result == 0 && bytes > geometry_.bytes && backed(geometry_.bytes)) {
        const uint64_t shown = std::min(bytes, backing_->geometry().bytes) - geometry_.bytes;
        result = co_await drop(operations_.front(), geometry_.bytes, shown, true);
    }
    if (result == 0) result = co_await flush();
    if (result < 0) co_return result;
    put64(sectors_.get() + field::kSize, bytes);
    result = co_await write_header();
    if (result == 0) result = co_await file_->sync();
    if (result < 0) co_return result;
    header_.bytes = geometry_.bytes = bytes;
    co_return 0;
}

// A longer L1 table: what the old one has and zeros. In place if its last cluster has room.
Co Qcow2Image::move_l1(uint64_t entries) {
    const uint64_t old_offset = header_.l1_offset;
    const uint64_t old_clusters = (l1_.size() * 8 + cluster_ - 1) / cluster_;
    const uint64_t clusters = (entries * 8 + cluster_ - 1) / cluster_;
    uint64_t place = old_offset;
    if (clusters > old_clusters) {
        // Neighbouring clusters; what comes in between goes back.
        uint64_t have = 0;
        while (have < clusters) {
            uint64_t offset = 0;
            uint64_t got = 0;
            const int32_t taken = co_await allocator_->take(clusters - have, offset, got);
            if (taken < 0) co_return taken;
            if (have > 0 && offset != place + have * cluster_) {
                co_await allocator_->give_back(place, have);
                have = 0;
            }
            if (have == 0) place = offset;
            have += got;
        }
    }
    const uint64_t old_entries = l1_.size();
    l1_.resize(entries);
    l1_unwritten_.resize((entries + 63) / 64);
    header_.l1_offset = place;
    int32_t result = 0;
    for (uint64_t index = place == old_offset ? old_entries : 0; index < entries && result == 0;
         index += 64 - index % 64)
        result = co_await write_l1(index);
    if (result == 0) result = co_await file_->sync();
    if (result < 0) {
        header_.l1_offset = old_offset;
        l1_.resize(old_entries);
        std::fill(l1_unwritten_.begin(), l1_unwritten_.end(), uint8_t{0});
        l1_unwritten_count_ = 0;
        l1_unwritten_.resize((old_entries + 63) / 64);
        leftovers_ = true;
        co_return result;
    }
    header_.l1_entries = static_cast<uint32_t>(entries);
    put32(sectors_.get() + field::kL1, header_.l1_entries);
    put64(sectors_.get() + field::kL1 + 4, place);
    result = co_await write_header();
    if (result == 0) result = co_await file_->sync();
    if (result == 0 && place != old_offset) result = co_await allocator_->give_back(old_offset, old_clusters);
    co_return result;
}

}  // namespace ringback::image::qcow2
