// SPDX-License-Identifier: Apache-2.0
//
// PersistentGrants: the pages that one ring's frontend keeps granted, mapped once; a copy then needs no hypervisor.
//
// A hash table of fixed size from grant reference to page, and a list in order of last use. Bounded like the kernel's
// backend (1056 a ring): mapped grants are a resource of the whole host. What does not fit is grant-copied, so a
// frontend that names more grants than that loses speed and nothing else: a place is taken from another grant only
// when that one was not used for a second, because a frontend that goes through its grants in turn would otherwise cost
// a map and an unmap each time, which are far dearer than the copy. A grant unused for a minute is unmapped, so that a
// guest can take its pages back; a grant of a request under way never is.
//
// Thread: the reactor that owns the ring.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "blkback/worker_protocol.h"
#include "hypervisor/grants.h"

namespace ringback::blk::worker {

class PersistentGrants {
  public:
    static constexpr size_t kMaxMapped = 1056;

    static constexpr uint64_t kKeepNs = 1'000'000'000;

    // Counts its maps and unmaps in `stats`.
    PersistentGrants(xen::GrantTable& grants, xen::Domid domid, Stats& stats);
    ~PersistentGrants();  // no grant is in use
    PersistentGrants(const PersistentGrants&) = delete;
    PersistentGrants& operator=(const PersistentGrants&) = delete;

    // The page of `ref`, mapped now if it was not, and in use until release(). Null: cannot be mapped (bad grant,
    // or all places are taken by grants that are or were just in use).
    [[nodiscard]] std::byte* acquire(xen::GrantRef ref);
    void release(xen::GrantRef ref);
    // Unmaps what was not used since `before` (monotonic_ns). Returns how many stay mapped.
    size_t expire(uint64_t before);
    [[nodiscard]] size_t mapped() const { return mapped_; }
    // Time stamp for the acquisitions that follow; set once a batch, not read from the clock per grant.
    void set_now(uint64_t now) { now_ = now; }

  private:
    static constexpr size_t kBuckets = 4096;  // at most a quarter full
    static constexpr uint16_t kNone = 0xffff;
    struct Entry {
        xen::GrantRef ref;
        uint32_t users;  // a frontend may name one page in all segments of all requests: more than 16 bits count
        uint16_t older, newer;
        uint64_t last_used;
        std::byte* page;
    };
    [[nodiscard]] static size_t home(xen::GrantRef ref) { return (ref * 2654435761U) >> 20; }
    [[nodiscard]] size_t find(xen::GrantRef ref) const;  // bucket that holds it, or the empty one where it belongs
    void erase(uint16_t number);
    void unlink(uint16_t number);
    void append(uint16_t number);
    bool evict_oldest();

    xen::GrantTable& grants_;
    xen::Domid domid_;
    Stats& stats_;
    std::vector<Entry> entries_;
    std::vector<uint16_t> free_;
    std::vector<uint16_t> buckets_;
    uint16_t oldest_ = kNone, newest_ = kNone;
    size_t mapped_ = 0;
    uint64_t now_ = 0;
};

}  // namespace ringback::blk::worker
