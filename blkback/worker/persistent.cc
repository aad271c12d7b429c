// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker/persistent.h"

namespace ringback::blk::worker {

PersistentGrants::PersistentGrants(xen::GrantTable& grants, xen::Domid domid, Stats& stats)
    : grants_(grants), domid_(domid), stats_(stats) {}

PersistentGrants::~PersistentGrants() {
    while (oldest_ != kNone) {
        INVARIANT(entries_[oldest_].users == 0);
        erase(oldest_);
    }
}

size_t PersistentGrants::find(xen::GrantRef ref) const {
    size_t bucket = home(ref);
    while (buckets_[bucket] != kNone && entries_[buckets_[bucket]].ref != ref) bucket = (bucket + 1) % kBuckets;
    return bucket;
}

std::byte* PersistentGrants::acquire(xen::GrantRef ref) {
    if (buckets_.empty()) {
        // Made at the first grant, so that a disk whose frontend has none to keep costs nothing.
        buckets_.assign(kBuckets, kNone);
        entries_.resize(kMaxMapped);
        free_.reserve(kMaxMapped);
        for (size_t i = kMaxMapped; i > 0; --i) free_.push_back(static_cast<uint16_t>(i - 1));
    }
    size_t bucket = find(ref);
    uint16_t number = buckets_[bucket];
    if (number == kNone) {
        if (free_.empty()) {
            if (!evict_oldest()) return nullptr;
            bucket = find(ref);  // eviction may have moved the empty place
        }
        std::byte* page = grants_.map_page(domid_, ref, true);
        if (page == nullptr) return nullptr;
        number = free_.back();
        free_.pop_back();
        entries_[number] = {ref, 0, kNone, kNone, now_, page};
        buckets_[bucket] = number;
        ++mapped_;
        ++stats_.persistent_maps;
    } else {
        unlink(number);
    }
    Entry& entry = entries_[number];
    ++entry.users;
    entry.last_used = now_;
    append(number);
    return entry.page;
}

void PersistentGrants::release(xen::GrantRef ref) {
    const uint16_t number = buckets_[find(ref)];
    INVARIANT(number != kNone && entries_[number].users > 0);
    --entries_[number].users;
}

size_t PersistentGrants::expire(uint64_t before) {
    uint16_t number = oldest_;
    while (number != kNone && entries_[number].last_used < before) {
        const uint16_t newer = entries_[number].newer;
        if (entries_[number].users == 0) erase(number);
        number = newer;
    }
    return mapped_;
}

bool PersistentGrants::evict_oldest() {
    for (uint16_t number = oldest_; number != kNone; number = entries_[number].newer) {
        if (now_ - entries_[number].last_used < kKeepNs) return false;  // and all that follow
        if (entries_[number].users == 0) {
            erase(number);
            return true;
        }
    }
    return false;
}

void PersistentGrants::erase(uint16_t number) {
    size_t hole = find(entries_[number].ref);
    grants_.unmap_page(entries_[number].page);
    unlink(number);
    free_.push_back(number);
    --mapped_;
    ++stats_.persistent_unmaps;
    // Linear probing without tombstones: move up whatever may no longer be found across the hole.
    buckets_[hole] = kNone;
    for (size_t next = (hole + 1) % kBuckets; buckets_[next] != kNone; next = (next + 1) % kBuckets) {
        const size_t wanted = home(entries_[buckets_[next]].ref);
        if ((next - wanted) % kBuckets >= (next - hole) % kBuckets) {
            buckets_[hole] = buckets_[next];
            buckets_[next] = kNone;
            hole = next;
        }
    }
}

void PersistentGrants::unlink(uint16_t number) {
    const Entry& entry = entries_[number];
    (entry.older == kNone ? oldest_ : entries_[entry.older].newer) = entry.newer;
    (entry.newer == kNone ? newest_ : entries_[entry.newer].older) = entry.older;
}

void PersistentGrants::append(uint16_t number) {
    entries_[number].older = newest_;
    entries_[number].newer = kNone;
    (newest_ == kNone ? oldest_ : entries_[newest_].newer) = number;
    newest_ = number;
}

}  // namespace ringback::blk::worker
