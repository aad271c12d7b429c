// SPDX-License-Identifier: Apache-2.0
//
// What tools ask a dynamic VHD beside I/O: where its data is, and another size.
#include <algorithm>

#include "disk-images/vhd/dynamic.h"
#include "disk-images/vhd/image.h"

namespace ringback::image::vhd {

Result<Extent> DynamicImage::extent(uint64_t offset) {
    INVARIANT(offset < geometry_.bytes && offset % kSectorSize == 0);
    const auto first = static_cast<uint32_t>(offset / block_bytes_);
    if (table_.get(first) != kUnused) return extent_in(first, offset);
    uint32_t block = first;
    while (block < table_.blocks() && table_.get(block) == kUnused) ++block;
    const uint64_t length = std::min(uint64_t{block} * block_bytes_, geometry_.bytes) - offset;
    return extent_below(offset, length);
}

// What the parent, or nobody, has at `offset`.
Result<Extent> DynamicImage::extent_below(uint64_t offset, uint64_t length) {
    if (!parent_ || offset >= parent_->geometry().bytes) {
        return Extent{.kind = Extent::Kind::zero, .here = false, .length = length};
    }
    Extent extent = TRY(parent_->extent(offset));
    extent.here = false;
    extent.host_offset = Extent::kNowhere;
    extent.length = std::min(extent.length, length);
    return extent;
}

Result<Extent> DynamicImage::extent_in(uint32_t block, uint64_t offset) {
    const uint64_t begin = uint64_t{block} * block_bytes_;
    const auto sector = static_cast<uint32_t>((offset - begin) / 512);
    uint64_t length = begin + bytes_in(block) - offset;
    if (!complete_[block]) {
        if (extent_block_ != block) {
            extent_bitmap_.resize(bitmap_bytes_);
            const SyncIo sync(fd_, name_);
            TRY(sync.read(uint64_t{table_.get(block)} * 512, extent_bitmap_));
            extent_block_ = block;
        }
        length = uint64_t{Bitmaps::run(extent_bitmap_.data(), sector, static_cast<uint32_t>(length / 512))} * 512;
        if (!Bitmaps::test(extent_bitmap_.data(), sector)) return extent_below(offset, length);
    }
    // In the file's block there may be a hole.
    const uint64_t at = data_at(block) + (offset - begin);
    Extent extent = TRY(file_->extent(at));
    extent.length = std::min(extent.length, length);
    return extent;
}

Result<void> DynamicImage::resize(uint64_t bytes) {
    INVARIANT(in_flight_ == 0 && bytes % kSectorSize == 0);
    if (!writable_) return os_error(EROFS, "resize " + name_);
    TRY(space_.settle(name_));
    const SyncIo sync(fd_, name_);
    TRY(vhd::resize(sync, bytes));
    const Layout layout = TRY(read_layout(sync));
    table_ = TRY(Table::load(sync, layout));
    TRY(file_->resize(layout.file_bytes));
    geometry_.bytes = layout.footer.disk_bytes();
    bitmaps_.set_disk_bytes(geometry_.bytes);
    complete_.assign(table_.blocks(), false);
    extent_block_ = kUnused;
    return space_.prepare(sync, layout, table_);
}

}  // namespace ringback::image::vhd
