// SPDX-License-Identifier: Apache-2.0
//
// Change: an image that becomes another one, in one step, while nobody else has it.
//
// Whatever changes is written anew behind what is there: L2 tables, L1 tables, the table of snapshots, the directory of bitmaps, and
// all refcounts, counted from what the new tables say. Then the first cluster, which names them all, is written, and that is the
// change. All that it says about the disk and its snapshots is in its first sector. Cut off before, the image is what it was, and
// the file longer; after it, the image is new. It costs a copy of the metadata (16 MiB for each 100 GiB that are in use, with
// clusters of 64 KiB); what became free is given back to the file system afterwards.
//
// The disk shares clusters of data with snapshots, and no L2 table. "Copied" marks are kept true in the active tables only: the
// format asks for no more.
//
// Source: QEMU's docs/interop/qcow2.txt.
//
// Thread: any. Blocks. The caller holds the image's lock.
#pragma once

#include <vector>

#include "disk-images/qcow2/bitmaps.h"
#include "disk-images/qcow2/check.h"
#include "disk-images/qcow2/snapshots.h"

namespace ringback::image::qcow2 {

class Change {
  public:
    // Both for one file, borrowed. `what` is being changed, for messages.
    Change(BlockingFile& file, int fd, std::string what) : file_(file), fd_(fd), what_(std::move(what)) {}
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

    // Reads all of it. EUCLEAN: it is damaged. What a crash has left is put in order before.
    [[nodiscard]] Result<void> begin();
    [[nodiscard]] Result<void> commit();
    [[nodiscard]] Result<std::vector<uint64_t>> read_l1(uint64_t offset, uint32_t entries);
    // Behind the end, at a cluster's begin; where that is.
    [[nodiscard]] Result<uint64_t> append(std::span<const std::byte> data);
    [[nodiscard]] Result<uint64_t> append_l1(const std::vector<uint64_t>& table);
    void set_bitmaps(std::vector<Bitmap> list);

    Header header;
    std::vector<Snapshot> list;
    std::vector<Bitmap> bitmaps;   // set_bitmaps() changes them
    std::vector<uint64_t> active;  // places of L2 tables; 0: none

  private:
    [[nodiscard]] Result<void> count_all();
    [[nodiscard]] Result<void> count_l2(uint64_t offset);
    [[nodiscard]] Result<void> count_table(uint64_t offset, const std::vector<uint64_t>& l2s);
    [[nodiscard]] Result<void> count_bitmaps();
    void use(uint64_t offset, uint64_t bytes);
    [[nodiscard]] Result<void> own_l2(uint64_t& place);
    [[nodiscard]] Result<void> write_header();
    [[nodiscard]] Result<void> give_back();

    BlockingFile& file_;
    int fd_;
    std::string what_;
    bool bitmaps_changed_ = false;
    Counts counts_;
    uint64_t end_ = 0;  // where the next new thing is written
};

}  // namespace ringback::image::qcow2
