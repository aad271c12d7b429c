// SPDX-License-Identifier: Apache-2.0
//
// What is where in a VHD file: its headers, judged together and against the file's size, and the table of its blocks
// (the specification's block allocation table, BAT).
//
// Which of the two footers of a dynamic disk counts: the one at the end, if it is whole, decides the type, because the
// guest of a *fixed* disk writes the file's first sector and could put a footer there that names files of the host. Where
// the one at the end is missing (a program was killed while the file grew) the copy in front stands in. If the end says
// "fixed" and the front holds a footer as well, nobody can tell which is meant, and the image is refused.
//
// The table in memory has the form it has on disk, so that its sectors are written as they are. All entries were checked
// when it was loaded: each block lies in the file, behind what it may not overlap, and no two overlap. So the file's
// size bounds the memory a header can make us take.
//
// Thread: the owner of the image.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "disk-images/sync_io.h"
#include "disk-images/vhd/header.h"

namespace ringback::image::vhd {

struct Layout {
    Footer footer;
    DynamicHeader header;       // not of fixed disks
    uint64_t file_bytes = 0;
    bool footer_at_end = true;  // false: missing or damaged there
    bool footer_in_front = true;
    [[nodiscard]] bool dynamic() const { return footer.type != Type::fixed; }
    [[nodiscard]] uint32_t blocks() const {
        return static_cast<uint32_t>((footer.disk_bytes() + header.block_bytes - 1) / header.block_bytes);
    }
};

[[nodiscard]] Result<Layout> read_layout(const SyncIo& file);

class Table {
  public:
    static constexpr uint32_t kEntriesPerSector = 128;
    // A range of the file that is in use.
    struct Range {
        uint64_t begin = 0;
        uint64_t end = 0;
    };

    Table() = default;
    [[nodiscard]] static Result<Table> load(const SyncIo& file, const Layout& layout);

    [[nodiscard]] uint32_t blocks() const { return blocks_; }
    // The file's sector where the block's bitmap begins, or kUnused.
    [[nodiscard]] uint32_t get(uint32_t block) const;
    void set(uint32_t block, uint32_t sector);
    // The sector of the table on disk that holds a block's entry, and its content now.
    [[nodiscard]] uint64_t sector_offset(uint32_t block) const { return offset_ + uint64_t{block / kEntriesPerSector} * 512; }
    [[nodiscard]] std::span<const std::byte, 512> sector_content(uint32_t block) const;

    // Where the last thing ends that is in use (footer apart).
    [[nodiscard]] uint64_t end() const { return end_; }
    // The same of headers, table and names: a table that has grown lies behind the blocks.
    [[nodiscard]] uint64_t metadata_end() const { return metadata_end_; }
    // Between blocks: ranges that nothing uses. Only what lies behind the first block is looked at: programs put things
    // of their own between the table and the blocks.
    [[nodiscard]] const std::vector<Range>& gaps() const { return gaps_; }
    [[nodiscard]] uint32_t used_blocks() const { return used_blocks_; }

  private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    [[nodiscard]] Result<void> check(const SyncIo& file, const Layout& layout);

    std::unique_ptr<std::byte[], Free> memory_;
    uint64_t offset_ = 0;
    uint32_t blocks_ = 0;
    uint32_t used_blocks_ = 0;
    uint64_t end_ = 0;
    uint64_t metadata_end_ = 0;
    std::vector<Range> gaps_;
};

// The parent's name as the child has it: a path, relative to the child's directory unless it begins with '/'.
[[nodiscard]] Result<std::string> parent_name(const SyncIo& file, const Layout& layout);

}  // namespace ringback::image::vhd
