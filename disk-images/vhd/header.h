// SPDX-License-Identifier: Apache-2.0
//
// The headers of a VHD: footer, dynamic header, parent locators. Source: Microsoft's "Virtual Hard Disk Image Format
// Specification", version 1.0 (2006); what programs do where it is silent is in docs/vhd.md.
//
// All numbers on disk are big-endian; the structures here hold them in the host's order and only what means something.
// parse_*() judges one structure by itself: cookie, checksum, version, range. What needs the file's size or another
// structure is judged by table.h.
//
// The size of a disk stands twice in a footer: in bytes, and as cylinders, heads and sectors, which can say less.
// Virtual PC and old QEMU mean the second, everybody else the first; the creator's name decides (disk_bytes()). We
// write "qem2", because QEMU takes the size of a creator it does not know from the geometry, which cuts a disk off.
//
// Thread: any; nothing here does I/O.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/result.h"

namespace ringback::image::vhd {

inline constexpr size_t kFooterBytes = 512;
inline constexpr size_t kHeaderBytes = 1024;
inline constexpr uint64_t kMaxBytes = uint64_t{0xff000000} * 512;  // 2040 GiB: what a table can address
inline constexpr uint32_t kDefaultBlock = 2U << 20;
inline constexpr uint32_t kUnused = 0xffffffff;  // a block that is not in the file

enum class Type : uint32_t { fixed = 2, dynamic = 3, differencing = 4 };
[[nodiscard]] const char* type_name(Type type);

using Uuid = std::array<uint8_t, 16>;
[[nodiscard]] Uuid random_uuid();
[[nodiscard]] std::string to_text(const Uuid& uuid);

struct Chs {
    uint16_t cylinders = 0;
    uint8_t heads = 0;
    uint8_t sectors = 0;
    [[nodiscard]] uint64_t total() const { return uint64_t{cylinders} * heads * sectors; }
    friend bool operator==(const Chs&, const Chs&) = default;
};
inline constexpr Chs kLargestChs{65535, 16, 255};
// The specification's appendix: the largest geometry that holds at most this many sectors.
[[nodiscard]] Chs geometry_of(uint64_t sectors);
// The smallest size that a geometry says exactly and that holds `bytes`: what qemu-img create makes of a size without
// force_size. Beyond what geometries say (127.5 GiB) the size itself.
[[nodiscard]] uint64_t round_to_geometry(uint64_t bytes);

struct Footer {
    uint64_t data_offset = ~uint64_t{0};  // of the dynamic header
    uint32_t timestamp = 0;               // seconds since the year 2000
    std::array<char, 4> creator{'q', 'e', 'm', '2'};
    uint32_t creator_version = 0x00010000;
    uint64_t original_bytes = 0;
    uint64_t current_bytes = 0;
    Chs chs;
    Type type = Type::dynamic;
    Uuid id{};
    bool saved_state = false;

    [[nodiscard]] uint64_t disk_bytes() const;
    [[nodiscard]] bool made_by(const char* name) const;
};

struct Locator {
    uint32_t platform = 0;
    uint32_t space = 0;   // bytes or, by the letter of the specification, sectors: both are found
    uint32_t length = 0;  // bytes
    uint64_t offset = 0;
};
inline constexpr uint32_t kRelativeWindows = 0x57327275;  // "W2ru", UTF-16LE
inline constexpr uint32_t kAbsoluteWindows = 0x57326b75;  // "W2ku", UTF-16LE
inline constexpr uint32_t kUri = 0x4d616358;              // "MacX", a file URI in UTF-8

struct DynamicHeader {
    uint64_t table_offset = 0;
    uint32_t entries = 0;
    uint32_t block_bytes = kDefaultBlock;
    Uuid parent_id{};
    uint32_t parent_timestamp = 0;
    std::string parent_name;  // UTF-8
    std::array<Locator, 8> locators{};
};

[[nodiscard]] bool has_footer_cookie(std::span<const std::byte> data);
// `name` is for messages.
[[nodiscard]] Result<Footer> parse_footer(std::span<const std::byte, kFooterBytes> data, const std::string& name);
[[nodiscard]] std::array<std::byte, kFooterBytes> format_footer(const Footer& footer);
[[nodiscard]] Result<DynamicHeader> parse_header(std::span<const std::byte, kHeaderBytes> data, const std::string& name);
[[nodiscard]] std::array<std::byte, kHeaderBytes> format_header(const DynamicHeader& header);

// Bytes of the bitmap in front of each block's data.
[[nodiscard]] inline uint32_t bitmap_bytes(uint32_t block_bytes) {
    const uint32_t bytes = (block_bytes / 512 + 7) / 8;
    return (bytes + 511) / 512 * 512;
}

// Seconds since the year 2000, now.
[[nodiscard]] uint32_t now_2000();

// Parent names: what a locator's data says as a path of this host, relative to the child's directory unless it begins
// with '/'; nullopt for what is no such path.
[[nodiscard]] std::optional<std::string> locator_path(uint32_t platform, std::span<const std::byte> data);
[[nodiscard]] std::vector<std::byte> format_locator(uint32_t platform, const std::string& path);

}  // namespace ringback::image::vhd
