// SPDX-License-Identifier: Apache-2.0
#include "disk-images/vdisk/partitions.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "disk-images/vdisk/commands.h"

namespace ringback::vdisk {

namespace {

constexpr uint64_t kSector = 512;
constexpr size_t kMostLogical = 128;
constexpr uint32_t kMostGptEntries = 1024;
constexpr size_t kMostLvmText = 1U << 20;

using Bytes = std::vector<std::byte>;

template <typename T>
T little(std::span<const std::byte> data, size_t at) {
    T value = 0;
    for (size_t i = sizeof(T); i-- > 0;) value = static_cast<T>(value << 8 | std::to_integer<T>(data[at + i]));
    return value;
}
template <>
uint8_t little<uint8_t>(std::span<const std::byte> data, size_t at) {
    return std::to_integer<uint8_t>(data[at]);
}

Result<Bytes> read(Disk& disk, uint64_t offset, size_t bytes) {
    const size_t whole = (bytes + kSector - 1) / kSector * kSector;
    std::unique_ptr<std::byte[], decltype(&std::free)> memory(static_cast<std::byte*>(std::aligned_alloc(4096, (whole + 4095) / 4096 * 4096)),
                                                              &std::free);
    if (!memory) return os_error(ENOMEM, "read " + disk.spec().path);
    TRY(disk.read(offset, {memory.get(), whole}));
    return Bytes(memory.get(), memory.get() + bytes);
}

bool inside(const Disk& disk, uint64_t start, uint64_t bytes) {
    return start <= disk.bytes() && bytes <= disk.bytes() - start;
}

std::string guid(std::span<const std::byte> data) {
    std::string text = fmt::format("{:08x}-{:04x}-{:04x}-", little<uint32_t>(data, 0), little<uint16_t>(data, 4),
                                   little<uint16_t>(data, 6));
    for (size_t i = 8; i < 16; ++i) text += fmt::format("{:02x}{}", little<uint8_t>(data, i), i == 9 ? "-" : "");
    return text;
}

// UTF-16LE; what a terminal could obey is left out.
std::string name_of(std::span<const std::byte> data) {
    std::string name;
    for (size_t i = 0; i + 1 < data.size(); i += 2) {
        const auto unit = little<uint16_t>(data, i);
        if (unit == 0) break;
        if (unit < 0x20 || (unit >= 0x7f && unit < 0xa0) || (unit >= 0xd800 && unit < 0xe000)) {
            name += '?';
        } else if (unit < 0x80) {
            name += static_cast<char>(unit);
        } else if (unit < 0x800) {
            name += static_cast<char>(0xc0 | unit >> 6);
            name += static_cast<char>(0x80 | (unit & 0x3f));
        } else {
            name += static_cast<char>(0xe0 | unit >> 12);
            name += static_cast<char>(0x80 | (unit >> 6 & 0x3f));
            name += static_cast<char>(0x80 | (unit & 0x3f));
        }
    }
    return name;
}

// The physical volume's label is in one of the first four sectors; its header names the text that names the group.
Result<std::string> lvm_content(Disk& disk, uint64_t start, uint64_t bytes) {
    if (bytes < 8 * kSector) return std::string();
    const Bytes labels = TRY(read(disk, start, 4 * kSector));
    for (size_t sector = 0; sector < 4; ++sector) {
        const std::span<const std::byte> label = std::span(labels).subspan(sector * kSector, kSector);
        if (std::memcmp(label.data(), "LABELONE", 8) != 0 || std::memcmp(label.data() + 24, "LVM2 001", 8) != 0) continue;
        const uint32_t header = little<uint32_t>(label, 20);
        if (header > kSector - 56) return std::string("LVM physical volume");
        // Identity (32), size (8), then lists of areas: data, an empty one, metadata.
        size_t at = header + 40;
        for (int lists = 0; lists < 1 && at + 16 <= kSector; at += 16) {
            if (little<uint64_t>(label, at) == 0 && little<uint64_t>(label, at + 8) == 0) ++lists;
        }
        if (at + 16 > kSector) return std::string("LVM physical volume");
        const uint64_t area = little<uint64_t>(label, at);
        if (area == 0 || area > bytes || bytes - area < kSector || area % kSector != 0) return std::string("LVM physical volume");
        const Bytes metadata = TRY(read(disk, start + area, kSector));
        const uint64_t text_at = little<uint64_t>(metadata, 40);
        const uint64_t text_bytes = std::min<uint64_t>(little<uint64_t>(metadata, 48), kMostLvmText);
        if (std::memcmp(metadata.data() + 4, " LVM2 x[5A%r0N*>", 16) != 0 || text_bytes == 0 || text_at % kSector != 0 ||
            text_at > bytes - area || bytes - area - text_at < kSector) {
            return std::string("LVM physical volume, in no group");
        }
        // "name {" is how the text begins.
        const Bytes text = TRY(read(disk, start + area + text_at, kSector));
        std::string group;
        for (const std::byte b : text) {
            const char c = std::to_integer<char>(b);
            const bool good = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                              std::strchr("+_.-", c) != nullptr;
            if (!good || c == '\0' || group.size() == 127) break;
            group += c;
        }
        return group.empty() ? std::string("LVM physical volume") : "LVM physical volume of group " + group;
    }
    return std::string();
}

Result<bool> read_gpt_at(Disk& disk, uint64_t at, PartitionTable& table) {
    if (!inside(disk, at, kSector)) return false;
    Bytes header = TRY(read(disk, at, kSector));
    if (std::memcmp(header.data(), "EFI PART", 8) != 0) return false;
    const uint32_t size = little<uint32_t>(header, 12);
    if (size < 92 || size > kSector) return false;
    const uint32_t sum = little<uint32_t>(header, 16);
    std::memset(header.data() + 16, 0, 4);
    if (crc32(0, reinterpret_cast<const Bytef*>(header.data()), size) != sum) return false;
    const uint64_t entries_at = little<uint64_t>(header, 72);
    const uint32_t count = little<uint32_t>(header, 80);
    const uint32_t entry_bytes = little<uint32_t>(header, 84);
    if (count > kMostGptEntries || entry_bytes < 128 || entry_bytes > 4096 || entries_at > disk.bytes() / kSector ||
        !inside(disk, entries_at * kSector, uint64_t{count} * entry_bytes)) {
        return false;
    }
    const Bytes entries = TRY(read(disk, entries_at * kSector, size_t{count} * entry_bytes));
    if (crc32(0, reinterpret_cast<const Bytef*>(entries.data()), static_cast<uInt>(entries.size())) != little<uint32_t>(header, 88)) {
        return false;
    }
    table.kind = "gpt";
    table.id = guid(std::span(header).subspan(56, 16));
    table.partitions.clear();
    for (uint32_t i = 0; i < count; ++i) {
        const std::span<const std::byte> entry = std::span(entries).subspan(size_t{i} * entry_bytes, 128);
        if (std::all_of(entry.begin(), entry.begin() + 16, [](std::byte b) { return b == std::byte{0}; })) continue;
        const uint64_t first = little<uint64_t>(entry, 32);
        const uint64_t last = little<uint64_t>(entry, 40);
        Partition partition{.number = i + 1, .type = guid(entry), .name = name_of(entry.subspan(56, 72)),
                            .bootable = (little<uint64_t>(entry, 48) & 4) != 0, .content = {}};
        if (first > last || last >= disk.bytes() / kSector) {
            table.warnings.push_back(fmt::format("partition {} lies outside the disk", i + 1));
            continue;
        }
        partition.start = first * kSector;
        partition.bytes = (last - first + 1) * kSector;
        table.partitions.push_back(std::move(partition));
    }
    return true;
}

struct MbrEntry {
    uint8_t type;
    bool bootable;
    uint64_t start;
    uint64_t sectors;
};
std::array<MbrEntry, 4> mbr_entries(const Bytes& sector) {
    std::array<MbrEntry, 4> entries{};
    for (size_t i = 0; i < entries.size(); ++i) {
        const size_t at = 446 + i * 16;
        entries[i] = {little<uint8_t>(sector, at + 4), little<uint8_t>(sector, at) == 0x80, little<uint32_t>(sector, at + 8),
                      little<uint32_t>(sector, at + 12)};
    }
    return entries;
}
bool is_mbr(const Bytes& sector) { return little<uint16_t>(sector, 510) == 0xaa55; }
bool is_extended(uint8_t type) { return type == 0x05 || type == 0x0f || type == 0x85; }

void add(Disk& disk, PartitionTable& table, unsigned number, const MbrEntry& entry, uint64_t base) {
    const uint64_t start = (base + entry.start) * kSector;
    if (entry.sectors == 0 || !inside(disk, start, entry.sectors * kSector)) {
        table.warnings.push_back(fmt::format("partition {} lies outside the disk", number));
        return;
    }
    table.partitions.push_back({.number = number, .start = start, .bytes = entry.sectors * kSector,
                                .type = fmt::format("0x{:02x}", entry.type), .name = {}, .bootable = entry.bootable, .content = {}});
}

// A chain of boot records, each with one logical partition and where the next is.
Result<void> read_logical(Disk& disk, PartitionTable& table, uint64_t extended) {
    uint64_t at = extended;
    unsigned number = 5;
    for (size_t i = 0; i < kMostLogical; ++i) {
        if (!inside(disk, at * kSector, kSector)) break;
        const Bytes sector = TRY(read(disk, at * kSector, kSector));
        if (!is_mbr(sector)) break;
        const auto entries = mbr_entries(sector);
        if (entries[0].type != 0) add(disk, table, number++, entries[0], at);
        if (!is_extended(entries[1].type) || entries[1].start == 0) return {};
        const uint64_t next = extended + entries[1].start;
        if (next <= at) break;  // forwards only: no loops
        at = next;
    }
    table.warnings.emplace_back("the chain of logical partitions is damaged");
    return {};
}

}  // namespace

Result<PartitionTable> read_partitions(Disk& disk) {
    PartitionTable table;
    table.kind = "none";
    const Bytes first = TRY(read(disk, 0, kSector));
    const bool mbr = is_mbr(first);
    const auto entries = mbr_entries(first);
    if (TRY(read_gpt_at(disk, kSector, table))) {
        PartitionTable copy;
        if (!TRY(read_gpt_at(disk, disk.bytes() - kSector, copy))) {
            table.warnings.emplace_back("the copy of the partition table at the disk's end is missing or damaged");
        }
    } else if (mbr && entries[0].type == 0xee && TRY(read_gpt_at(disk, disk.bytes() - kSector, table))) {
        table.warnings.emplace_back("the partition table is damaged; this is its copy at the disk's end");
    } else if (mbr && std::all_of(entries.begin(), entries.end(), [](const MbrEntry& e) { return e.type == 0 || e.sectors != 0; }) &&
               std::any_of(entries.begin(), entries.end(), [](const MbrEntry& e) { return e.type != 0; })) {
        table.kind = "mbr";
        table.id = fmt::format("0x{:08x}", little<uint32_t>(first, 440));
        for (unsigned i = 0; i < entries.size(); ++i) {
            if (entries[i].type == 0) continue;
            add(disk, table, i + 1, entries[i], 0);
            if (is_extended(entries[i].type)) TRY(read_logical(disk, table, entries[i].start));
        }
    }
    for (Partition& partition : table.partitions) partition.content = TRY(lvm_content(disk, partition.start, partition.bytes));
    if (table.kind == "none") table.content = TRY(lvm_content(disk, 0, disk.bytes()));
    return table;
}

Result<int> partitions(const std::string& file, const std::string& format, const Output& output) {
    const Spec spec = TRY(find_image(file, format));
    const auto reactor = TRY(make_reactor());
    Disk disk = TRY(Disk::open(spec, false, *reactor));
    const PartitionTable table = TRY(read_partitions(disk));
    if (output.json) {
        nlohmann::ordered_json json{{"table", table.kind}, {"id", table.id}, {"content", table.content}, {"warnings", table.warnings}};
        json["partitions"] = nlohmann::ordered_json::array();
        for (const Partition& one : table.partitions) {
            json["partitions"].push_back({{"number", one.number}, {"start", one.start}, {"size", one.bytes}, {"type", one.type},
                                          {"name", one.name}, {"bootable", one.bootable}, {"content", one.content}});
        }
        fmt::print("{}\n", json.dump(2));
        return kDone;
    }
    fmt::print("partition table: {}{}{}\n", table.kind, table.id.empty() ? "" : " ", table.id);
    if (!table.content.empty()) fmt::print("whole disk: {}\n", table.content);
    for (const Partition& one : table.partitions) {
        fmt::print("{:>3} {:>14} {:>14} {:>10}  {}{}{}{}{}\n", one.number, one.start, one.bytes, human_size(one.bytes), one.type,
                   one.bootable ? " bootable" : "", one.name.empty() ? "" : " ", one.name,
                   one.content.empty() ? "" : " (" + one.content + ")");
    }
    for (const std::string& warning : table.warnings) fmt::print("warning: {}\n", warning);
    return kDone;
}

}  // namespace ringback::vdisk
