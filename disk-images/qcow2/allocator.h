// SPDX-License-Identifier: Apache-2.0
//
// Allocator: which clusters of the file are in use. Keeps the refcounts true in the file, not only in memory.
//
// Taking. A cluster must be counted on stable storage before any table on stable storage refers to it. A sync
// for each would be the end of every first write, so clusters are taken ahead: a run of free ones is looked
// for, counted as used, made to read as zeros, and all of that synced once; take() then hands them out of
// memory (the reserve). When half of it is gone the next run is fetched. Runs grow as long as they are used
// up, from 1 MiB to 64 MiB. Because the clusters of the reserve are zeros on stable storage, whoever takes
// one for a write into its middle need not write the rest of it, nor sync it.
//
// Giving back. What a table does not refer to any more may still be referred to by the table on stable
// storage. So: sync, then punch the hole, and when that is complete lower the count; only then can the
// cluster be found again. This goes on in the background, many clusters with one sync.
//
// A crash leaves the reserve, and what was about to be given back, counted and unused: leaked, never lost.
// The dirty mark in the header (image.h) has the next opening look for it.
//
// A refcount block that is missing is made out of the first cluster it is to count. The refcount table does
// not grow here: opening gave it room for whatever the disk's size can need (rebuild.h).
//
// Thread: the reactor's owner.
#pragma once

#include <array>
#include <vector>

#include "disk-images/qcow2/cache.h"
#include "disk-images/qcow2/table.h"

namespace ringback::image::qcow2 {

class Allocator {
  public:
    // `table`: the refcount table, decoded. `file_bytes`: what the file has now.
    Allocator(ImageFile& file, Cache& cache, Wakeups& wakeups, FramePool& frames, const Header& header,
              std::vector<uint64_t> table, uint64_t file_bytes);
    ~Allocator();
    Allocator(const Allocator&) = delete;
    Allocator& operator=(const Allocator&) = delete;

    [[nodiscard]] FramePool& frames() { return frames_; }

    // From 1 to `wanted` neighbouring clusters, which read as zeros.
    Co take(uint64_t wanted, uint64_t& offset, uint64_t& count);
    // One use less of each. To be called when the file (not yet its stable storage) refers to them no more.
    Co give_back(uint64_t offset, uint64_t count);
    // Ends what goes on in the background, gives the reserve back, writes what is left, syncs.
    Co finish();

    [[nodiscard]] bool idle() const { return !refilling_ && !reclaiming_; }
    // Clusters that should be free could not be made so, or a count was wrong: the next opening has to look.
    [[nodiscard]] bool leaks() const { return leaks_; }
    // The first byte behind all clusters the file is known to have.
    [[nodiscard]] uint64_t end() const { return end_ << bits_; }

  private:
    struct Run {
        uint64_t first = 0;
        uint64_t count = 0;
    };
    // A ring of runs, made once.
    class Runs {
      public:
        explicit Runs(size_t room) : runs_(room) {}
        [[nodiscard]] bool empty() const { return count_ == 0; }
        [[nodiscard]] bool full() const { return count_ == runs_.size(); }
        [[nodiscard]] size_t size() const { return count_; }
        [[nodiscard]] Run& front() { return runs_[first_]; }
        void push(Run run) {
            INVARIANT(!full());
            runs_[(first_ + count_++) % runs_.size()] = run;
        }
        Run pop() {
            const Run run = runs_[first_];
            first_ = (first_ + 1) % runs_.size();
            --count_;
            return run;
        }

      private:
        std::vector<Run> runs_;
        size_t first_ = 0;
        size_t count_ = 0;
    };
    static constexpr size_t kFound = 128;
    static constexpr size_t kRunsPerSearch = 32;
    static constexpr uint64_t kBlocksPerRun = 32;  // each may cut a run in two
    static constexpr size_t kGivenBack = 4096;
    static constexpr uint64_t kZeroVectors = 64;

    [[nodiscard]] uint64_t slice_of(uint64_t cluster) const;  // its offset in the file
    [[nodiscard]] uint64_t index_in_slice(uint64_t cluster) const;
    [[nodiscard]] uint64_t limit() const;
    Detached refill();
    Co fetch();
    Co search(uint64_t from, uint64_t to, uint64_t slices);
    void add_found(uint64_t cluster, uint64_t count);
    Co count_as_used(Run& run);
    Co make_block(uint64_t block, uint64_t cluster);
    Co make_zero(Run run);
    Co extend(uint64_t clusters);
    Co write_table_entry(uint64_t block);
    Detached reclaim();
    Co lower(Run run, bool punch);
    Co lower_in_slice(Run run, bool punch);

    ImageFile& file_;
    Cache& cache_;
    Wakeups& wakeups_;
    FramePool& frames_;
    const uint32_t bits_;
    const uint32_t order_;
    const uint64_t per_block_;
    const uint64_t per_slice_;
    const uint64_t table_offset_;
    std::vector<uint64_t> table_;
    uint64_t end_;           // clusters of the file
    uint64_t hint_ = 0;      // nothing below is known to be free
    uint64_t searched_ = 0;  // where search() stopped
    uint64_t run_;           // clusters to take ahead
    uint64_t reserved_ = 0;
    Runs reserve_{2 * kFound};
    Runs given_back_{kGivenBack};
    std::array<Run, kFound> found_{};
    size_t found_runs_ = 0;
    uint64_t found_clusters_ = 0;
    bool refilling_ = false;
    bool reclaiming_ = false;
    bool leaks_ = false;
    int32_t refilled_ = 0;  // how the last refill ended
    WaitList takers_;
    WaitList givers_;  // for room in given_back_
    WaitList finishers_;
    std::array<iovec, kZeroVectors> zero_vectors_{};
    std::unique_ptr<std::byte[], void (*)(void*)> sector_;  // of the refcount table
    iovec sector_vector_{};
};

}  // namespace ringback::image::qcow2
