// SPDX-License-Identifier: Apache-2.0
//
// Persistent bitmaps of changed blocks, from a writer's point of view who does not keep them; and the list of them.
//
// A bitmap with the flag "auto" promises to know every change since it was begun. Before the first change
// that is not entered into it, it is marked "in use" on stable storage, which is the format's word for "not
// to be trusted any more": qemu-img and backup tools refuse it by name. A bitmap without "auto" records
// nothing and stays as it is. A directory that cannot be understood loses its autoclear bit, which says the
// same of all of it.
//
// Source: QEMU's docs/interop/qcow2.txt, "Bitmaps".
//
// Thread: any. Blocks.
#pragma once

#include <vector>

#include "disk-images/qcow2/blocking_file.h"
#include "disk-images/qcow2/header.h"

namespace ringback::image::qcow2 {

// Clears the bit in `header` (not in the file) if need be.
[[nodiscard]] Result<void> mark_bitmaps_in_use(BlockingFile& file, Header& header);

struct Bitmap {
    std::string name;
    uint32_t flags = 0;
    uint8_t type = 1;
    uint8_t granularity_bits = 16;
    uint64_t table_offset = 0;
    uint32_t table_entries = 0;
    std::vector<std::byte> extra;
    [[nodiscard]] bool in_use() const { return (flags & 1) != 0; }     // not to be trusted
    [[nodiscard]] bool recording() const { return (flags & 2) != 0; }  // wants to know of every write
};

// Empty as well where they are nobody's any more (a writer who did not know them).
[[nodiscard]] Result<std::vector<Bitmap>> read_bitmaps(BlockingFile& file, const Header& header);
[[nodiscard]] std::vector<std::byte> encode_bitmaps(const std::vector<Bitmap>& list);

// As one step (change.h), but for the header's first cluster, which may take several sectors. A new bitmap records, and says that
// nothing has changed.
[[nodiscard]] Result<Bitmap> add_bitmap(BlockingFile& file, int fd, const std::string& name, uint64_t granularity);
[[nodiscard]] Result<Bitmap> remove_bitmap(BlockingFile& file, int fd, const std::string& name);

}  // namespace ringback::image::qcow2
