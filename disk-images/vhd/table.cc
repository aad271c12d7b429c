// SPDX-License-Identifier: Apache-2.0
#include "disk-images/vhd/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace ringback::image::vhd {

namespace {

constexpr uint32_t kMaxLocator = 4096;

Error damaged(const std::string& name, const std::string& what) {
    return Error{EINVAL, fmt::format("open {}: the VHD is damaged: {}", name, what)};
}

struct Read {
    bool present = false;  // a cookie is there
    Result<Footer> footer = Error{};
};

Result<Read> read_footer(const SyncIo& file, uint64_t offset) {
    std::array<std::byte, kFooterBytes> data{};
    TRY(file.read(offset, data));
    return Read{has_footer_cookie(data), parse_footer(data, file.name())};
}

Result<void> choose_footer(const SyncIo& file, Layout& layout) {
    const uint64_t at_end = (layout.file_bytes - kFooterBytes) / 512 * 512;
    const Read end = TRY(read_footer(file, at_end));
    const Read front = TRY(read_footer(file, 0));
    if (!end.present && !front.present) return Error{EINVAL, fmt::format("open {}: it is no VHD (no footer)", file.name())};
    layout.footer_at_end = end.footer.ok();
    layout.footer_in_front = front.footer.ok();
    if (end.footer.ok() && end.footer.value().type == Type::fixed) {
        if (front.footer.ok()) {
            return damaged(file.name(), "it has two footers that disagree: a fixed disk by the one at its end, a dynamic "
                                        "one by the one in front");
        }
        layout.footer = end.footer.value();
        return {};
    }
    if (!end.footer.ok() && !front.footer.ok()) return end.present ? end.footer.error() : front.footer.error();
    if (end.footer.ok() && front.footer.ok()) {
        if (end.footer.value().id != front.footer.value().id || end.footer.value().type != front.footer.value().type) {
            return damaged(file.name(), "its two footers are of different disks");
        }
    }
    layout.footer = front.footer.ok() ? front.footer.value() : end.footer.value();
    if (layout.footer.type == Type::fixed) return damaged(file.name(), "the footer of a fixed disk is not at its end");
    return {};
}

}  // namespace

Result<Layout> read_layout(const SyncIo& file) {
    Layout layout;
    layout.file_bytes = TRY(file.size());
    if (layout.file_bytes < kFooterBytes) {
        return Error{EINVAL, fmt::format("open {}: it is no VHD ({} bytes)", file.name(), layout.file_bytes)};
    }
    TRY(choose_footer(file, layout));
    if (layout.footer.saved_state) {
        return Error{ENOTSUP, fmt::format("open {}: the VHD belongs to a saved state of a virtual machine", file.name())};
    }
    const uint64_t bytes = layout.footer.disk_bytes();
    if (!layout.dynamic()) {
        if (layout.file_bytes < bytes + kFooterBytes) {
            return damaged(file.name(), fmt::format("a fixed disk of {} bytes in a file of {}", bytes, layout.file_bytes));
        }
        return layout;
    }
    const uint64_t at = layout.footer.data_offset;
    if (at % 512 != 0 || at < kFooterBytes || at > layout.file_bytes || layout.file_bytes - at < kHeaderBytes) {
        return damaged(file.name(), fmt::format("its dynamic header would be at {}", at));
    }
    std::array<std::byte, kHeaderBytes> data{};
    TRY(file.read(at, data));
    layout.header = TRY(parse_header(data, file.name()));
    const uint64_t table_bytes = uint64_t{layout.header.entries} * 4;
    const uint64_t table = layout.header.table_offset;
    if (table % 512 != 0 || table < kFooterBytes || table > layout.file_bytes || layout.file_bytes - table < table_bytes) {
        return damaged(file.name(), fmt::format("its table of {} entries would be at {}", layout.header.entries, table));
    }
    if (layout.blocks() > layout.header.entries) {
        return damaged(file.name(), fmt::format("a disk of {} blocks has a table for {}", layout.blocks(),
                                                layout.header.entries));
    }
    return layout;
}

Result<Table> Table::load(const SyncIo& file, const Layout& layout) {
    Table table;
    table.blocks_ = layout.blocks();
    table.offset_ = layout.header.table_offset;
    // Whole sectors, as they are written: what lies behind the last entry in its sector stays what it is.
    const size_t bytes = (size_t{table.blocks_} * 4 + 511) / 512 * 512;
    table.memory_.reset(static_cast<std::byte*>(std::aligned_alloc(512, bytes)));
    if (!table.memory_) return os_error(ENOMEM, fmt::format("open {}: {} bytes for its table", file.name(), bytes));
    const size_t there = static_cast<size_t>(std::min<uint64_t>(bytes, layout.file_bytes - table.offset_));
    std::memset(table.memory_.get(), 0xff, bytes);
    TRY(file.read(table.offset_, {table.memory_.get(), there}));
    TRY(table.check(file, layout));
    return table;
}

Result<void> Table::check(const SyncIo& file, const Layout& layout) {
    const uint64_t block_bytes = uint64_t{bitmap_bytes(layout.header.block_bytes)} + layout.header.block_bytes;
    const auto rounded = [](uint64_t bytes) { return (bytes + 511) / 512 * 512; };
    std::vector<Range> used{{0, kFooterBytes},
                            {layout.footer.data_offset, layout.footer.data_offset + kHeaderBytes},
                            {offset_, rounded(offset_ + uint64_t{layout.header.entries} * 4)}};
    for (const Locator& locator : layout.header.locators) {
        if (locator.platform == 0 || locator.length == 0 || locator.length > kMaxLocator) continue;
        if (locator.offset > layout.file_bytes || layout.file_bytes - locator.offset < locator.length) {
            return damaged(file.name(), fmt::format("a parent's name would be at {}", locator.offset));
        }
        used.push_back({locator.offset, rounded(locator.offset + locator.length)});
    }
    for (const Range& range : used) metadata_end_ = std::max(metadata_end_, range.end);
    for (uint32_t block = 0; block < blocks_; ++block) {
        const uint32_t sector = get(block);
        if (sector == kUnused) continue;
        const uint64_t begin = uint64_t{sector} * 512;
        if (begin > layout.file_bytes || layout.file_bytes - begin < block_bytes) {
            return damaged(file.name(), fmt::format("block {} would be at {}, past the end of the file ({} bytes)", block,
                                                    begin, layout.file_bytes));
        }
        used.push_back({begin, begin + block_bytes});
        ++used_blocks_;
    }
    const size_t metadata = used.size() - used_blocks_;
    uint64_t first_block = ~uint64_t{0};
    for (size_t i = metadata; i < used.size(); ++i) first_block = std::min(first_block, used[i].begin);
    std::sort(used.begin(), used.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    for (const Range& range : used) {
        if (range.begin < end_) {
            return damaged(file.name(), fmt::format("two things are at {} of the file (blocks or headers overlap)",
                                                    range.begin));
        }
        if (range.begin > end_ && end_ > first_block) gaps_.push_back({end_, range.begin});
        end_ = range.end;
    }
    return {};
}

uint32_t Table::get(uint32_t block) const {
    uint32_t value = 0;
    std::memcpy(&value, memory_.get() + size_t{block} * 4, 4);
    return __builtin_bswap32(value);
}

void Table::set(uint32_t block, uint32_t sector) {
    const uint32_t value = __builtin_bswap32(sector);
    std::memcpy(memory_.get() + size_t{block} * 4, &value, 4);
}

std::span<const std::byte, 512> Table::sector_content(uint32_t block) const {
    return std::span<const std::byte, 512>(memory_.get() + size_t{block / kEntriesPerSector} * 512, 512);
}

Result<std::string> parent_name(const SyncIo& file, const Layout& layout) {
    for (const uint32_t platform : {kRelativeWindows, kUri}) {
        for (const Locator& locator : layout.header.locators) {
            if (locator.platform != platform || locator.length == 0 || locator.length > kMaxLocator) continue;
            if (locator.offset > layout.file_bytes || layout.file_bytes - locator.offset < locator.length) {
                return damaged(file.name(), fmt::format("a parent's name would be at {}", locator.offset));
            }
            std::vector<std::byte> data(locator.length);
            TRY(file.read(locator.offset, data));
            if (auto path = locator_path(platform, data)) return std::move(*path);
        }
    }
    // Only its last part: where it was is another host's affair.
    std::string name = layout.header.parent_name;
    name.erase(0, name.find_last_of("/\\") + 1);
    if (!name.empty() && name != "." && name != "..") return name;
    return Error{EINVAL, fmt::format("open {}: the VHD needs a parent and names none that this host could have", file.name())};
}

}  // namespace ringback::image::vhd
