// SPDX-License-Identifier: Apache-2.0
//
// Check and repair: every cluster's uses are counted from all tables that can name it, and compared with its
// refcount.
//
//   leak         counted higher than used: costs space, never data
//   corruption   counted lower than used (its next user would overwrite it), a table or entry that makes no
//   sense, a
//                "copied" mark that is wrong
//
// Repair raises counts and syncs before it lowers any, so that it may be cut off at any point. Where refcount
// blocks are missing or unusable it writes a whole new refcount structure behind the end of the file and then
// switches the header over (rebuild). It never throws an L2 entry away: what makes no sense is reported and
// left.
//
// Memory grows with the clusters that are in use, not with what the file claims to be long.
//
// Thread: any. Blocks.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "disk-images/qcow2/blocking_file.h"
#include "disk-images/qcow2/header.h"

namespace ringback::image::qcow2 {

enum class Repair : uint8_t { none, leaks, all, rebuild };

struct CheckReport {
    uint64_t corruptions = 0;
    uint64_t corruptions_fixed = 0;
    uint64_t leaks = 0;
    uint64_t leaks_fixed = 0;
    uint64_t clusters = 0;            // of the disk
    uint64_t allocated_clusters = 0;  // of these: have data here, compressed or not
    uint64_t compressed_clusters = 0;
    uint64_t image_end = 0;             // behind the last cluster in use
    std::vector<std::string> messages;  // the first hundred
    [[nodiscard]] bool clean() const { return corruptions == corruptions_fixed && leaks == leaks_fixed; }
};

[[nodiscard]] Result<Header> read_header(BlockingFile& file);
[[nodiscard]] Result<CheckReport> check(BlockingFile& file, Repair repair);

// Bytes of refcount table with which a writer never has to make it longer, whatever the guest writes.
[[nodiscard]] uint64_t refcount_table_wanted(const Header& header, uint64_t file_bytes);

// Uses of clusters, of those that have any.
class Counts {
  public:
    void add(uint64_t cluster);
    [[nodiscard]] uint32_t of(uint64_t cluster) const;
    [[nodiscard]] bool any(uint64_t first, uint64_t count) const;
    [[nodiscard]] uint64_t end() const { return end_; }  // behind the last one that has any

  private:
    static constexpr uint64_t kChunk = 1024;
    using Chunk = std::array<uint16_t, kChunk>;
    std::unordered_map<uint64_t, std::unique_ptr<Chunk>> chunks_;
    uint64_t last_ = ~uint64_t{0};
    Chunk* last_chunk_ = nullptr;
    uint64_t end_ = 0;
};

// A new refcount structure from cluster `base` on, which nothing uses. Sets the header's fields; the caller
// writes them.
[[nodiscard]] Result<void> write_refcounts(BlockingFile& file, Header& header, Counts& counts, uint64_t base);

}  // namespace ringback::image::qcow2
