// SPDX-License-Identifier: Apache-2.0
//
// Space: where in the file the next blocks go. A slot is room for one block: its bitmap, and its data on a multiple of
// 4096 bytes, because direct writes that begin inside a file system's block are slow.
//
// The file grows by runs of slots, because growing costs a sync: a table that points past the end of the file is what a
// power cut may not leave. With each run the footer moves to the file's new end. What is in a slot when it is taken reads
// as zeros: the file's new end does, what a program that was killed left behind is punched out before it is used again,
// and so are slots of discarded blocks. These are used again only after a sync, as the table on disk may have two blocks
// in one slot otherwise. Closing gives back what at the file's end no block uses; slots between blocks stay, as holes.
//
// Thread: the owner of the image.
#pragma once

#include <vector>

#include "disk-images/raw/image.h"
#include "disk-images/vhd/table.h"
#include "disk-images/vhd/walk.h"

namespace ringback::image::vhd {

class Space {
  public:
    using Grown = void (*)(void* owner, int32_t result) noexcept;

    // `file` and `fd`, its descriptor, are borrowed. `grown` is called at the end of a growth, never from inside grow().
    Space(RawImage& file, int fd, uint32_t bitmap_bytes, uint32_t block_bytes, Grown grown, void* owner);

    // Before the disk is served, and after its size changed: finds what may be used, and puts the footers right.
    [[nodiscard]] Result<void> prepare(const SyncIo& sync, const Layout& layout, const Table& table);
    // After it was: the file ends where its content does, with the footer.
    [[nodiscard]] Result<void> settle(const std::string& name);

    // A slot's first sector (its bitmap's); kUnused: grow() first.
    [[nodiscard]] uint32_t take();
    void give_back(uint32_t sector) { free_.push_back(sector); }
    // Its hole has been punched.
    void discarded(uint32_t sector) { discarded_.push_back(sector); }
    // Around each sync of the file.
    void sync_begins();
    void sync_ends(bool good);

    [[nodiscard]] bool growing() const { return growing_; }
    void grow();

  private:
    [[nodiscard]] uint64_t slot_at(uint64_t end) const;  // the first one that begins at `end` or later
    [[nodiscard]] uint64_t slot_bytes() const { return uint64_t{bitmap_bytes_} + block_bytes_; }
    [[nodiscard]] bool punch(int fd, uint64_t begin, uint64_t end) const;
    void on_written(int32_t result);
    void finish(int32_t result);

    struct Transfer : OwnIo {
        Space* space = nullptr;
    };

    RawImage& file_;
    const int fd_;
    const uint32_t bitmap_bytes_;
    const uint32_t block_bytes_;
    const Grown grown_;
    void* const owner_;
    std::vector<uint32_t> free_;
    std::vector<uint32_t> discarded_;  // since the last sync began
    std::vector<uint32_t> syncing_;    // before
    uint64_t used_end_ = 0;    // bytes: the end of what has been taken of the file's end
    uint64_t run_end_ = 0;     // bytes: the end of what may be taken there
    uint64_t metadata_end_ = 0;  // nothing before it is given back
    uint64_t footer_at_ = 0;
    uint64_t next_footer_at_ = 0;
    uint64_t next_run_end_ = 0;
    uint32_t run_slots_ = 1;
    bool growing_ = false;
    bool reusable_ = false;    // what no block uses is nobody's
    bool moved_ = false;       // the file's end is not as it was found
    uint32_t writes_ = 0;
    int32_t result_ = 0;
    alignas(4096) std::array<std::byte, 512> footer_{};
    alignas(4096) std::array<std::byte, 512> zeros_{};
    Transfer footer_io_;
    Transfer zeros_io_;
    Transfer sync_io_;
};

}  // namespace ringback::image::vhd
