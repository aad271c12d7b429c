// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/bitmaps.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "disk-images/qcow2/bytes.h"
#include "disk-images/qcow2/change.h"
#include "runtime/log.h"

namespace ringback::image::qcow2 {

Result<void> mark_bitmaps_in_use(BlockingFile& file, Header& header) {
    constexpr uint32_t kInUse = 1U << 0;
    constexpr uint32_t kAuto = 1U << 1;
    constexpr uint64_t kEntry = 24;
    if ((header.autoclear & autoclear::kBitmaps) == 0) return {};
    std::vector<std::byte> directory(header.bitmap_directory_bytes);
    TRY(file.read(header.bitmap_directory_offset, directory));
    uint64_t at = 0;
    bool changed = false;
    for (uint32_t i = 0; i < header.bitmaps; ++i) {
        const uint64_t left = directory.size() - at;
        std::byte* entry = directory.data() + at;
        const uint64_t bytes =
            left < kEntry ? 0 : (kEntry + uint64_t{get32(entry + 20)} + get16(entry + 18) + 7) / 8 * 8;
        if (bytes == 0 || bytes > left) {
            log::notice("{}: its bitmap directory is damaged; its bitmaps are given up", file.name());
            header.autoclear &= ~autoclear::kBitmaps;
            return {};
        }
        const uint32_t flags = get32(entry + 12);
        if ((flags & kAuto) != 0 && (flags & kInUse) == 0) {
            put32(entry + 12, flags | kInUse);
            changed = true;
        }
        at += bytes;
    }
    if (!changed) return {};
    log::notice("{}: its bitmaps do not record what is written now, and are marked as in use", file.name());
    TRY(file.write(header.bitmap_directory_offset, directory));
    return file.sync();
}

Result<std::vector<Bitmap>> read_bitmaps(BlockingFile& file, const Header& header) {
    constexpr uint64_t kEntry = 24;
    std::vector<Bitmap> list;
    if ((header.autoclear & autoclear::kBitmaps) == 0) return list;
    std::vector<std::byte> directory(header.bitmap_directory_bytes);
    TRY(file.read(header.bitmap_directory_offset, directory));
    uint64_t at = 0;
    for (uint32_t i = 0; i < header.bitmaps; ++i) {
        const uint64_t left = directory.size() - at;
        const std::byte* entry = directory.data() + at;
        const uint64_t extra = left < kEntry ? 0 : get32(entry + 20);
        const uint64_t name = left < kEntry ? 0 : get16(entry + 18);
        if (left < kEntry || extra > left || name > left || kEntry + extra + name > left || uint64_t{get32(entry + 8)} * 8 > kMaxL1Bytes) {
            return Error{EUCLEAN, fmt::format("read the bitmaps of {}: number {} makes no sense", file.name(), i + 1)};
        }
        Bitmap& one = list.emplace_back();
        one.table_offset = get64(entry);
        one.table_entries = get32(entry + 8);
        one.flags = get32(entry + 12);
        one.type = static_cast<uint8_t>(entry[16]);
        one.granularity_bits = static_cast<uint8_t>(entry[17]);
        one.extra.assign(entry + kEntry, entry + kEntry + extra);
        one.name.assign(reinterpret_cast<const char*>(entry + kEntry + extra), name);
        at += std::min(left, (kEntry + extra + name + 7) / 8 * 8);
    }
    return list;
}

std::vector<std::byte> encode_bitmaps(const std::vector<Bitmap>& list) {
    std::vector<std::byte> out;
    for (const Bitmap& one : list) {
        const size_t begin = out.size();
        out.resize(begin + (24 + one.extra.size() + one.name.size() + 7) / 8 * 8);
        std::byte* at = out.data() + begin;
        put64(at, one.table_offset);
        put32(at + 8, one.table_entries);
        put32(at + 12, one.flags);
        at[16] = static_cast<std::byte>(one.type);
        at[17] = static_cast<std::byte>(one.granularity_bits);
        put16(at + 18, static_cast<uint16_t>(one.name.size()));
        put32(at + 20, static_cast<uint32_t>(one.extra.size()));
        at = std::copy(one.extra.begin(), one.extra.end(), at + 24);
        std::memcpy(at, one.name.data(), one.name.size());
    }
    return out;
}

Result<Bitmap> add_bitmap(BlockingFile& file, int fd, const std::string& name, uint64_t granularity) {
    constexpr uint32_t kAuto = 1U << 1;
    if (name.empty() || name.size() > 1023) return Error{EINVAL, fmt::format("add a bitmap to {}: a name of 1 to 1023 bytes is needed", file.name())};
    if (!std::has_single_bit(granularity) || granularity < 512 || granularity > (uint64_t{1} << 31)) {
        return Error{EINVAL, fmt::format("add a bitmap to {}: its granularity is a power of two from 512 bytes to 2 GiB", file.name())};
    }
    Change change(file, fd, "change the bitmaps");
    TRY(change.begin());
    if (change.header.version < 3) return Error{ENOTSUP, fmt::format("add a bitmap to {}: version 2 of qcow2 has none", file.name())};
    std::vector<Bitmap> list = change.bitmaps;
    if (std::any_of(list.begin(), list.end(), [&](const Bitmap& one) { return one.name == name; })) {
        return Error{EEXIST, fmt::format("add a bitmap to {}: it has a bitmap \"{}\" already", file.name(), name)};
    }
    const uint64_t bits = (change.header.bytes + granularity - 1) / granularity;
    const uint64_t entries = ((bits + 7) / 8 + change.header.cluster() - 1) >> change.header.cluster_bits;
    if (list.size() >= kMaxBitmaps || entries * 8 > kMaxL1Bytes) {
        return Error{EFBIG, fmt::format("add a bitmap to {}: it would be too large, or one too many", file.name())};
    }
    Bitmap added;
    added.name = name;
    added.flags = kAuto;
    added.granularity_bits = static_cast<uint8_t>(std::countr_zero(granularity));
    added.table_entries = static_cast<uint32_t>(entries);
    added.table_offset = TRY(change.append_l1(std::vector<uint64_t>(entries)));
    list.push_back(added);
    change.set_bitmaps(std::move(list));
    TRY(change.commit());
    return added;
}

Result<Bitmap> remove_bitmap(BlockingFile& file, int fd, const std::string& name) {
    Change change(file, fd, "change the bitmaps");
    TRY(change.begin());
    std::vector<Bitmap> list = change.bitmaps;
    const auto found = std::find_if(list.begin(), list.end(), [&](const Bitmap& one) { return one.name == name; });
    if (found == list.end()) return Error{ENOENT, fmt::format("{} has no bitmap \"{}\"", file.name(), name)};
    const Bitmap gone = *found;
    list.erase(found);
    change.set_bitmaps(std::move(list));
    TRY(change.commit());
    return gone;
}

}  // namespace ringback::image::qcow2
