// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/bitmaps.h"

#include "disk-images/qcow2/bytes.h"
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

}  // namespace ringback::image::qcow2
