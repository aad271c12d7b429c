// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/header.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "disk-images/qcow2/bytes.h"

namespace ringback::image::qcow2 {

namespace {

constexpr uint32_t kLengthV2 = 72;
constexpr uint32_t kLengthV3 = 104;
constexpr uint32_t kMaxName = 1023;

enum Extension : uint32_t {
    kEnd = 0,
    kBackingFormat = 0xe2792aca,
    kFeatureNames = 0x6803f857,
    kBitmaps = 0x23852875,
    kEncryption = 0x0537be77,
    kDataFile = 0x44415441,
};

// Every refusal begins alike.
struct Refusal {
    const std::string& name;
    template <typename... Arguments>
    Error operator()(int code, fmt::format_string<Arguments...> text, Arguments&&... arguments) const {
        return {code, fmt::format("open {} as qcow2: {}", name,
                                  fmt::format(text, std::forward<Arguments>(arguments)...))};
    }
};

std::string text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Names are shown to people: nothing that moves a cursor.
std::string printable(std::string text) {
    std::replace_if(
        text.begin(), text.end(), [](unsigned char c) { return c < 32 || c == 127; }, '?');
    return text;
}

Result<void> parse_fields(std::span<const std::byte> start, Header& header, const Refusal& refuse) {
    const std::byte* at = start.data();
    if (const uint32_t method = get32(at + 32); method != 0) {
        return refuse(ENOTSUP,
                      "it is encrypted ({}), which is not supported; decrypt it with: qemu-img convert",
                      method == 1   ? "AES"
                      : method == 2 ? "LUKS"
                                    : "by an unknown method");
    }
    header.bytes = get64(at + field::kSize);
    header.l1_entries = get32(at + field::kL1);
    header.l1_offset = get64(at + field::kL1 + 4);
    header.refcount_table_offset = get64(at + field::kRefcountTable);
    header.refcount_table_clusters = get32(at + field::kRefcountTable + 8);
    header.snapshots = get32(at + field::kSnapshots);
    header.snapshots_offset = get64(at + field::kSnapshots + 4);
    header.length = kLengthV2;
    if (header.version == 2) return {};
    header.incompatible = get64(at + field::kIncompatible);
    header.compatible = get64(at + field::kIncompatible + 8);
    header.autoclear = get64(at + field::kIncompatible + 16);
    header.refcount_order = get32(at + 96);
    header.length = get32(at + 100);
    if (header.length < kLengthV3 || header.length % 8 != 0 || header.length > start.size()) {
        return refuse(EINVAL, "its header says that it is {} bytes long", header.length);
    }
    if (header.length > kLengthV3) {
        const auto type = static_cast<unsigned>(at[104]);
        if (type > 1) return refuse(ENOTSUP, "its clusters are compressed by an unknown method ({})", type);
        header.compression = static_cast<Compression>(type);
    }
    if ((header.compression != Compression::zlib) !=
        ((header.incompatible & incompatible::kCompression) != 0)) {
        return refuse(EINVAL, "its header contradicts itself about the compression method");
    }
    if (header.refcount_order > 6)
        return refuse(EINVAL, "its refcounts are 2^{} bits wide", header.refcount_order);
    if (header.extended() && header.cluster_bits < 14) {
        return refuse(EINVAL, "its clusters of {} bytes are too small for subclusters", header.cluster());
    }
    return {};
}

// The name of an unknown feature, if the image brings it along.
std::string feature_name(std::span<const std::byte> table, unsigned bit) {
    for (; table.size() >= 48; table = table.subspan(48)) {
        if (table[0] != std::byte{0} || static_cast<unsigned>(table[1]) != bit) continue;
        std::string name = text_of(table.subspan(2, 46));
        name.resize(std::min(name.find('\0'), name.size()));
        return fmt::format("\"{}\"", printable(name));
    }
    return fmt::format("bit {}", bit);
}

Result<void> parse_extensions(std::span<const std::byte> start, uint64_t end, Header& header,
                              const Refusal& refuse) {
    std::span<const std::byte> features;
    bool found_bitmaps = false;
    uint64_t at = header.length;
    while (at + 8 <= end) {
        const uint32_t type = get32(start.data() + at);
        const uint32_t length = get32(start.data() + at + 4);
        at += 8;
        if (type == kEnd) break;
        if (length > end - at) {
            return refuse(EINVAL, "its header extension {:#x} of {} bytes does not fit", type, length);
        }
        const std::span<const std::byte> data = start.subspan(at, length);
        switch (type) {
            case kBackingFormat:
                if (length > 15)
                    return refuse(EINVAL, "its backing file's format has a name of {} bytes", length);
                header.backing_format = text_of(data);
                break;
            case kDataFile:
                if (length > kMaxName) return refuse(EINVAL, "its data file has a name of {} bytes", length);
                header.data_file_name = text_of(data);
                break;
            case kFeatureNames:
                features = data;
                break;
            case kEncryption:
                return refuse(ENOTSUP, "it is encrypted (LUKS), which is not supported");
            case kBitmaps:
                if (length != 24) return refuse(EINVAL, "its bitmaps extension is {} bytes long", length);
                found_bitmaps = true;
                header.bitmaps = get32(data.data());
                header.bitmap_directory_bytes = get64(data.data() + 8);
                header.bitmap_directory_offset = get64(data.data() + 16);
                break;
            default:
                break;
        }
        at += (uint64_t{length} + 7) / 8 * 8;
    }
    if (const uint64_t unknown = header.incompatible & ~incompatible::kKnown; unknown != 0) {
        return refuse(ENOTSUP, "it needs the unknown feature {}",
                      feature_name(features, static_cast<unsigned>(__builtin_ctzll(unknown))));
    }
    if (!found_bitmaps && (header.autoclear & autoclear::kBitmaps) != 0) {
        return refuse(EINVAL, "its header says that it has bitmaps, and not where");
    }
    return {};
}

// Whether `bytes` at `offset` are in the file, whose last cluster may be cut short.
bool inside(const Header& header, uint64_t offset, uint64_t bytes, uint64_t file_bytes) {
    const uint64_t end = (file_bytes + header.cluster() - 1) & ~(header.cluster() - 1);
    return offset <= end && bytes <= end - offset;
}

Result<void> check_places(const Header& header, uint64_t file_bytes, const Refusal& refuse) {
    const uint64_t mask = header.cluster() - 1;
    if (header.bytes % 512 != 0 || header.bytes == 0) {
        return refuse(EINVAL, "the disk's size is {} bytes, which is no positive multiple of 512",
                      header.bytes);
    }
    if (header.bytes > (uint64_t{1} << 62))
        return refuse(EINVAL, "the disk's size is {} bytes", header.bytes);
    if (uint64_t{header.l1_entries} * 8 > kMaxL1Bytes) {
        return refuse(EFBIG, "its L1 table has {} entries", header.l1_entries);
    }
    if (header.l1_entries < header.l1_needed(header.bytes)) {
        return refuse(EINVAL, "its L1 table has {} entries; a disk of {} bytes needs {}", header.l1_entries,
                      header.bytes, header.l1_needed(header.bytes));
    }
    if ((header.l1_offset & mask) != 0 || header.l1_offset == 0 ||
        !inside(header, header.l1_offset, uint64_t{header.l1_entries} * 8, file_bytes)) {
        return refuse(EINVAL, "its L1 table at {:#x} is not in the file, or not at a cluster's begin",
                      header.l1_offset);
    }
    if (header.refcount_table_clusters == 0 ||
        header.refcount_table_clusters >
            std::max(kMaxRefcountTableBytes >> header.cluster_bits, uint64_t{1})) {
        return refuse(EINVAL, "its refcount table has {} clusters", header.refcount_table_clusters);
    }
    if ((header.refcount_table_offset & mask) != 0 || header.refcount_table_offset == 0 ||
        !inside(header, header.refcount_table_offset,
                uint64_t{header.refcount_table_clusters} << header.cluster_bits, file_bytes)) {
        return refuse(EINVAL, "its refcount table at {:#x} is not in the file, or not at a cluster's begin",
                      header.refcount_table_offset);
    }
    if (header.snapshots > kMaxSnapshots || header.snapshots_offset % 8 != 0 ||
        (header.snapshots > 0 &&
         !inside(header, header.snapshots_offset, uint64_t{header.snapshots} * 40, file_bytes))) {
        return refuse(EINVAL, "its snapshot table of {} entries at {:#x} is not in the file",
                      header.snapshots, header.snapshots_offset);
    }
    if (header.bitmaps > kMaxBitmaps || header.bitmap_directory_offset % 8 != 0 ||
        !inside(header, header.bitmap_directory_offset, header.bitmap_directory_bytes, file_bytes) ||
        header.bitmap_directory_bytes > uint64_t{kMaxBitmaps} * 2048) {
        return refuse(EINVAL, "its bitmap directory of {} bytes at {:#x} is not in the file",
                      header.bitmap_directory_bytes, header.bitmap_directory_offset);
    }
    return {};
}

}  // namespace

Result<uint64_t> header_bytes_wanted(std::span<const std::byte> start, const std::string& name) {
    const Refusal refuse{name};
    if (start.size() < kLengthV2 || get32(start.data()) != kMagic) {
        return refuse(EINVAL, "it does not begin like a qcow2 image");
    }
    const uint32_t version = get32(start.data() + 4);
    if (version != 2 && version != 3)
        return refuse(ENOTSUP, "version {} of the format is not known", version);
    const uint32_t bits = get32(start.data() + 20);
    if (bits < 9 || bits > 21) {
        return refuse(EINVAL, "its clusters are 2^{} bytes; 512 bytes to 2 MiB are possible", bits);
    }
    return uint64_t{1} << bits;
}

Result<Header> parse_header(std::span<const std::byte> start, uint64_t file_bytes, const std::string& name) {
    const Refusal refuse{name};
    Header header;
    header.cluster_bits = static_cast<uint32_t>(__builtin_ctzll(TRY(header_bytes_wanted(start, name))));
    header.version = get32(start.data() + 4);
    start = start.first(std::min<uint64_t>(start.size(), header.cluster()));
    if (header.version == 3 && start.size() < kLengthV3) return refuse(EINVAL, "it ends inside its header");
    TRY(parse_fields(start, header, refuse));
    const uint64_t backing_offset = get64(start.data() + 8);
    const uint32_t backing_length = get32(start.data() + 16);
    uint64_t extensions_end = start.size();
    if (backing_offset != 0) {
        if (backing_length > kMaxName || backing_offset < header.length || backing_offset > start.size() ||
            backing_length > start.size() - backing_offset) {
            return refuse(EINVAL, "its backing file's name ({} bytes at {:#x}) is not in its first cluster",
                          backing_length, backing_offset);
        }
        header.backing_name = text_of(start.subspan(backing_offset, backing_length));
        extensions_end = backing_offset;
    }
    TRY(parse_extensions(start, extensions_end, header, refuse));
    TRY(check_places(header, file_bytes, refuse));
    if (header.has_data_file() && header.snapshots > 0) {
        return refuse(EINVAL, "it has a data file and internal snapshots, which exclude each other");
    }
    return header;
}

Result<std::vector<std::byte>> encode_header(const Header& header, const std::string& name) {
    std::vector<std::byte> out(header.cluster());
    std::byte* at = out.data();
    put32(at, kMagic);
    put32(at + 4, header.version);
    put32(at + 20, header.cluster_bits);
    put64(at + field::kSize, header.bytes);
    put32(at + field::kL1, header.l1_entries);
    put64(at + field::kL1 + 4, header.l1_offset);
    put64(at + field::kRefcountTable, header.refcount_table_offset);
    put32(at + field::kRefcountTable + 8, header.refcount_table_clusters);
    put32(at + field::kSnapshots, header.snapshots);
    put64(at + field::kSnapshots + 4, header.snapshots_offset);
    uint64_t end = kLengthV2;
    if (header.version >= 3) {
        end = header.compression == Compression::zlib ? kLengthV3 : kLengthV3 + 8;
        put64(at + field::kIncompatible, header.incompatible);
        put64(at + field::kIncompatible + 8, header.compatible);
        put64(at + field::kIncompatible + 16, header.autoclear);
        put32(at + 96, header.refcount_order);
        put32(at + 100, static_cast<uint32_t>(end));
        if (end > kLengthV3) at[104] = static_cast<std::byte>(header.compression);
    }
    const auto extension = [&](uint32_t type, const std::string& text) {
        if (text.empty() || end + 8 + text.size() + 8 > out.size()) return text.empty();
        put32(at + end, type);
        put32(at + end + 4, static_cast<uint32_t>(text.size()));
        std::memcpy(at + end + 8, text.data(), text.size());
        end += 8 + (text.size() + 7) / 8 * 8;
        return true;
    };
    bool fits =
        extension(kBackingFormat, header.backing_format) && extension(kDataFile, header.data_file_name);
    end += 8;  // the end of the extensions
    fits = fits && end + header.backing_name.size() <= out.size() && header.backing_name.size() <= kMaxName;
    if (!fits) {
        return Error{ENAMETOOLONG,
                     fmt::format("create {}: the names of its files do not fit into its header", name)};
    }
    if (!header.backing_name.empty()) {
        put64(at + 8, end);
        put32(at + 16, static_cast<uint32_t>(header.backing_name.size()));
        std::memcpy(at + end, header.backing_name.data(), header.backing_name.size());
    }
    return out;
}

Result<std::vector<std::byte>> change_header(std::span<const std::byte> old, const Header& header, const std::string& name) {
    std::vector<std::byte> out(old.begin(), old.begin() + header.length);
    const auto extension = [&](uint32_t type, std::span<const std::byte> data) {
        const size_t at = out.size();
        out.resize(at + 8 + (data.size() + 7) / 8 * 8);
        put32(out.data() + at, type);
        put32(out.data() + at + 4, static_cast<uint32_t>(data.size()));
        std::copy(data.begin(), data.end(), out.begin() + static_cast<ptrdiff_t>(at + 8));
    };
    if (!header.backing_name.empty()) extension(kBackingFormat, std::as_bytes(std::span(header.backing_format)));
    const uint64_t old_name = get64(old.data() + 8);
    const uint64_t end = old_name != 0 ? old_name : old.size();
    for (uint64_t at = header.length; at + 8 <= end;) {
        const uint32_t type = get32(old.data() + at);
        const uint32_t length = get32(old.data() + at + 4);
        if (type == kEnd || length > end - at - 8) break;
        if (type != kBackingFormat && type != kBitmaps) extension(type, old.subspan(at + 8, length));
        at += 8 + (uint64_t{length} + 7) / 8 * 8;
    }
    if (header.bitmaps > 0) {
        std::array<std::byte, 24> bitmaps{};
        put32(bitmaps.data(), header.bitmaps);
        put64(bitmaps.data() + 8, header.bitmap_directory_bytes);
        put64(bitmaps.data() + 16, header.bitmap_directory_offset);
        extension(kBitmaps, bitmaps);
    }
    extension(kEnd, {});
    const size_t place = out.size();
    if (place + header.backing_name.size() > old.size() || header.backing_name.size() > kMaxName) {
        return Error{ENAMETOOLONG, fmt::format("write the header of {}: what belongs into it does not fit", name)};
    }
    out.resize(old.size());
    std::memcpy(out.data() + place, header.backing_name.data(), header.backing_name.size());
    put64(out.data() + 8, header.backing_name.empty() ? 0 : place);
    put32(out.data() + 16, static_cast<uint32_t>(header.backing_name.size()));
    if (header.version >= 3) put64(out.data() + field::kIncompatible + 16, header.autoclear);
    return out;
}

}  // namespace ringback::image::qcow2
