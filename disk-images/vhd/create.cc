// SPDX-License-Identifier: Apache-2.0
//
// Making and resizing VHD files. In a new file lie: footer (dynamic disks: its copy), dynamic header, the names of the
// parent, the table, and the footer at the end. The table is written out, not left as a hole, so that entering a block
// into it never needs space.
#include <fmt/format.h>

#include <algorithm>

#include "disk-images/vhd/image.h"

namespace ringback::image::vhd {

namespace {

constexpr uint64_t kHeaderAt = kFooterBytes;
constexpr uint64_t kLocatorsAt = kHeaderAt + kHeaderBytes;
constexpr uint64_t kAlign = 4096;

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

Error too_large(const std::string& name, uint64_t bytes) {
    return Error{EFBIG, fmt::format("{}: a VHD holds at most 2040 GiB ({} bytes), not {}; use qcow2 or raw", name, kMaxBytes,
                                    bytes)};
}

Result<void> write_table(const SyncIo& file, uint64_t offset, uint64_t bytes) {
    const std::vector<std::byte> unused(std::min<uint64_t>(bytes, 65536), std::byte{0xff});
    for (uint64_t done = 0; done < bytes; done += unused.size()) {
        const auto count = static_cast<size_t>(std::min<uint64_t>(unused.size(), bytes - done));
        TRY(file.write(offset + done, {unused.data(), count}));
    }
    return {};
}

Result<void> write_dynamic(const SyncIo& file, Footer& footer, const CreateOptions& options) {
    DynamicHeader header;
    header.block_bytes = options.block_bytes;
    header.entries = static_cast<uint32_t>((footer.current_bytes + header.block_bytes - 1) / header.block_bytes);
    uint64_t at = kLocatorsAt;
    if (options.type == Type::differencing) {
        header.parent_id = options.parent_id;
        header.parent_timestamp = options.parent_timestamp;
        header.parent_name = options.parent.substr(options.parent.rfind('/') + 1);
        size_t next = 0;
        const bool absolute = options.parent.starts_with('/');
        for (const uint32_t platform : {kUri, absolute ? uint32_t{0} : kRelativeWindows}) {
            if (platform == 0) continue;
            const std::vector<std::byte> data = format_locator(platform, options.parent);
            if (data.size() > kAlign) return Error{ENAMETOOLONG, fmt::format("{}: the parent's name is too long", file.name())};
            TRY(file.write(at, data));
            const auto space = static_cast<uint32_t>(round_up(data.size(), 512));
            header.locators[next++] = {platform, space, static_cast<uint32_t>(data.size()), at};
            at += space;
        }
    }
    header.table_offset = round_up(at, kAlign);
    const uint64_t table_bytes = round_up(uint64_t{header.entries} * 4, 512);
    TRY(write_table(file, header.table_offset, table_bytes));
    footer.data_offset = kHeaderAt;
    TRY(file.write(kHeaderAt, format_header(header)));
    TRY(file.write(0, format_footer(footer)));
    const uint64_t end = round_up(header.table_offset + table_bytes + kFooterBytes, kAlign);
    TRY(file.truncate(end));
    return file.write(end - kFooterBytes, format_footer(footer));
}

// A larger table: behind everything else, because nothing says how much room is behind the present one.
Result<void> move_table(const SyncIo& file, Layout& layout, uint32_t entries, uint64_t end) {
    std::vector<std::byte> old(size_t{layout.header.entries} * 4);
    TRY(file.read(layout.header.table_offset, old));
    const uint64_t bytes = round_up(uint64_t{entries} * 4, 512);
    const uint64_t at = round_up(end, kAlign);
    const uint64_t footer_at = round_up(at + bytes + kFooterBytes, kAlign) - kFooterBytes;
    TRY(file.truncate(std::max(layout.file_bytes, footer_at + kFooterBytes)));
    TRY(write_table(file, at, bytes));
    TRY(file.write(at, old));
    TRY(file.write(footer_at, format_footer(layout.footer)));
    TRY(file.truncate(footer_at + kFooterBytes));
    TRY(file.sync());
    layout.header.table_offset = at;
    layout.header.entries = entries;
    layout.file_bytes = footer_at + kFooterBytes;
    TRY(file.write(layout.footer.data_offset, format_header(layout.header)));
    return file.sync();
}

}  // namespace

Result<uint64_t> create(const SyncIo& file, const CreateOptions& options) {
    Footer footer;
    footer.timestamp = now_2000();
    footer.id = random_uuid();
    footer.type = options.type;
    uint64_t bytes = round_up(options.bytes, 512);
    if (options.geometry_size) {
        bytes = round_to_geometry(bytes);
        footer.creator = {'v', 'p', 'c', ' '};
    }
    if (bytes == 0) return Error{EINVAL, fmt::format("create {}: a disk of 0 bytes", file.name())};
    if (bytes > kMaxBytes) return too_large(fmt::format("create {}", file.name()), options.bytes);
    footer.original_bytes = footer.current_bytes = bytes;
    footer.chs = geometry_of(bytes / 512);
    if (options.type == Type::fixed) {
        TRY(file.truncate(bytes + kFooterBytes));
        TRY(file.write(bytes, format_footer(footer)));
    } else {
        TRY(write_dynamic(file, footer, options));
    }
    return bytes;
}

Result<void> resize(const SyncIo& file, uint64_t bytes) {
    Layout layout = TRY(read_layout(file));
    const Table table = layout.dynamic() ? TRY(Table::load(file, layout)) : Table();
    const uint64_t old = layout.footer.disk_bytes();
    if (bytes == 0 || bytes % 512 != 0) {
        return Error{EINVAL, fmt::format("resize {}: {} bytes are no whole number of sectors", file.name(), bytes)};
    }
    if (bytes > kMaxBytes) return too_large(fmt::format("resize {}", file.name()), bytes);
    layout.footer.current_bytes = bytes;
    layout.footer.chs = geometry_of(bytes / 512);
    // Whoever means the geometry would not see the new size exactly.
    if (layout.footer.disk_bytes() != bytes) layout.footer.creator = Footer{}.creator;
    if (!layout.dynamic()) {
        // The new footer first: while both are in the file the one at its end counts.
        if (bytes > old) {
            TRY(file.truncate(bytes + kFooterBytes));
            TRY(file.write(bytes, format_footer(layout.footer)));
            const std::vector<std::byte> zeros(kFooterBytes);
            TRY(file.write(old, zeros));
        } else {
            TRY(file.write(bytes, format_footer(layout.footer)));
            TRY(file.truncate(bytes + kFooterBytes));
        }
        return file.sync();
    }
    const uint64_t block = layout.header.block_bytes;
    const auto blocks = static_cast<uint32_t>((bytes + block - 1) / block);
    for (uint32_t i = blocks; i < table.blocks(); ++i) {
        if (table.get(i) == kUnused) continue;
        return Error{EBUSY, fmt::format("resize {} to {} bytes: there is data behind that (at {}); discard it first", file.name(),
                                        bytes, uint64_t{i} * block)};
    }
    if (bytes < old && bytes % block != 0 && table.get(blocks - 1) != kUnused) {
        return Error{EBUSY, fmt::format("resize {} to {} bytes: the last block would be cut through; use a multiple of {}",
                                        file.name(), bytes, block)};
    }
    // A part of the last block that was no part of the disk reads as zeros only if nobody wrote there.
    if (bytes > old && old % block != 0 && table.get(table.blocks() - 1) != kUnused) {
        const uint64_t data = uint64_t{table.get(table.blocks() - 1)} * 512 + bitmap_bytes(layout.header.block_bytes);
        const std::vector<std::byte> zeros(static_cast<size_t>(block - old % block));
        TRY(file.write(data + old % block, zeros));
    }
    if (blocks > layout.header.entries) {
        const uint64_t end = std::max(table.end(), layout.footer_at_end ? layout.file_bytes - kFooterBytes : layout.file_bytes);
        TRY(move_table(file, layout, blocks, end));
    }
    TRY(file.write(0, format_footer(layout.footer)));
    if (layout.footer_at_end) TRY(file.write((layout.file_bytes - kFooterBytes) / 512 * 512, format_footer(layout.footer)));
    return file.sync();
}

}  // namespace ringback::image::vhd
