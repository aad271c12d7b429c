// SPDX-License-Identifier: Apache-2.0
//
// The header of a qcow2 image and its extensions: parsed, judged and written.
//
// A header is hostile input. Everything it says about sizes and places is checked here against the file
// before anybody allocates or reads by it; what it demands and we do not know is refused by name, never
// ignored. The checks are on bytes alone: no file is read here, so a fuzzer can drive it.
//
// Source: QEMU's docs/interop/qcow2.txt (the format's specification); limits as QEMU has them (32 MiB of L1
// table, 8 MiB of refcount table, names of 1023 bytes).
//
// Thread: any.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/result.h"

namespace ringback::image::qcow2 {

inline constexpr uint32_t kMagic = 0x514649fb;
inline constexpr uint64_t kMaxL1Bytes = 32U << 20;
inline constexpr uint64_t kMaxRefcountTableBytes = 8U << 20;
inline constexpr uint32_t kMaxSnapshots = 65536;
inline constexpr uint32_t kMaxBitmaps = 65535;

namespace incompatible {
inline constexpr uint64_t kDirty = 1U << 0;
inline constexpr uint64_t kCorrupt = 1U << 1;
inline constexpr uint64_t kDataFile = 1U << 2;
inline constexpr uint64_t kCompression = 1U << 3;
inline constexpr uint64_t kExtendedL2 = 1U << 4;
inline constexpr uint64_t kKnown = kDirty | kCorrupt | kDataFile | kCompression | kExtendedL2;
}  // namespace incompatible
inline constexpr uint64_t kLazyRefcounts = 1U << 0;  // compatible
namespace autoclear {
inline constexpr uint64_t kBitmaps = 1U << 0;
inline constexpr uint64_t kRawData = 1U << 1;
inline constexpr uint64_t kKnown = kBitmaps | kRawData;
}  // namespace autoclear

enum class Compression : uint8_t { zlib = 0, zstd = 1 };

struct Header {
    uint32_t version = 3;
    uint32_t cluster_bits = 16;
    uint64_t bytes = 0;  // virtual size
    uint32_t l1_entries = 0;
    uint64_t l1_offset = 0;
    uint64_t refcount_table_offset = 0;
    uint32_t refcount_table_clusters = 0;
    uint32_t snapshots = 0;
    uint64_t snapshots_offset = 0;
    uint64_t incompatible = 0;
    uint64_t compatible = 0;
    uint64_t autoclear = 0;
    uint32_t refcount_order = 4;
    uint32_t length = 104;
    Compression compression = Compression::zlib;

    std::string backing_name;
    std::string backing_format;
    std::string data_file_name;
    uint32_t bitmaps = 0;
    uint64_t bitmap_directory_offset = 0;
    uint64_t bitmap_directory_bytes = 0;

    [[nodiscard]] uint64_t cluster() const { return uint64_t{1} << cluster_bits; }
    [[nodiscard]] bool extended() const { return (incompatible & incompatible::kExtendedL2) != 0; }
    [[nodiscard]] bool has_data_file() const { return (incompatible & incompatible::kDataFile) != 0; }
    [[nodiscard]] uint32_t l2_entry_bytes() const { return extended() ? 16 : 8; }
    [[nodiscard]] uint64_t l2_entries() const { return cluster() / l2_entry_bytes(); }
    [[nodiscard]] uint64_t l2_coverage() const { return l2_entries() << cluster_bits; }
    [[nodiscard]] uint32_t subclusters() const { return extended() ? 32 : 1; }
    [[nodiscard]] uint64_t subcluster() const { return cluster() / subclusters(); }
    [[nodiscard]] uint64_t refcounts_per_block() const { return (cluster() * 8) >> refcount_order; }
    // L1 entries that `size` bytes need.
    [[nodiscard]] uint64_t l1_needed(uint64_t size) const {
        return (size + l2_coverage() - 1) / l2_coverage();
    }
};

// How many bytes of the file parse_header() wants: its first cluster, as far as the file goes. `start`: at
// least the first 104 bytes, or all of a shorter file.
[[nodiscard]] Result<uint64_t> header_bytes_wanted(std::span<const std::byte> start, const std::string& name);
// `start`: the first cluster. `file_bytes`: what the file has. `name` is for messages.
[[nodiscard]] Result<Header> parse_header(std::span<const std::byte> start, uint64_t file_bytes,
                                          const std::string& name);

// The first cluster of a new image. The backing file's name has to fit.
[[nodiscard]] Result<std::vector<std::byte>> encode_header(const Header& header, const std::string& name);

// The first cluster of an image with the names and bitmaps of `header` in it; all else, unknown extensions too, as it stands in `old`.
[[nodiscard]] Result<std::vector<std::byte>> change_header(std::span<const std::byte> old, const Header& header,
                                                           const std::string& name);

// Byte offsets of what is changed in a header that is in use.
namespace field {
inline constexpr uint64_t kSize = 24;
inline constexpr uint64_t kL1 = 36;             // entries (4), offset (8)
inline constexpr uint64_t kRefcountTable = 48;  // offset (8), clusters (4)
inline constexpr uint64_t kSnapshots = 60;      // number (4), offset (8)
inline constexpr uint64_t kIncompatible = 72;   // incompatible, compatible, autoclear: 8 each
}  // namespace field

}  // namespace ringback::image::qcow2
