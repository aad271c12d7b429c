// SPDX-License-Identifier: Apache-2.0
//
// ClusterLocks: who may do what with which clusters of the disk at a time.
//
// Requests that leave the tables as they are (reads, writes into clusters that are there) share a cluster. A
// request that changes what the tables say about a cluster (it gets a host cluster, loses it, is copied) has
// it for itself, from the look at the table to the write of the table. So two first writes into one cluster
// cannot both allocate, and no host cluster is given up while a request that found it in the table is on its
// way to it.
//
// Clusters are locked by their number modulo kBuckets: a false conflict costs time, never correctness. A
// request takes all its clusters at once or none, and holds no others while it waits: no deadlock. Who comes
// new waits behind who waits already, so a stream of readers does not starve a writer.
//
// Thread: the reactor's owner.
#pragma once

#include <array>

#include "disk-images/qcow2/co.h"

namespace ringback::image::qcow2 {

class ClusterLocks {
  public:
    static constexpr uint64_t kBuckets = 1024;

    explicit ClusterLocks(Wakeups& wakeups) : wakeups_(wakeups) {}

    enum class Mode : uint8_t { shared, exclusive };
    struct Range {
        uint64_t first = 0;
        uint64_t count = 0;  // at most kBuckets
        Mode mode = Mode::shared;
    };

    // Null: locked. Otherwise the list to wait in before trying again (`again`).
    //     for (WaitList* wait = locks.take(range, false); wait != nullptr; wait = locks.take(range, true))
    //         co_await wait->wait();
    [[nodiscard]] WaitList* take(const Range& range, bool again) {
        for (uint64_t i = 0; i < range.count; ++i) {
            Bucket& bucket = bucket_of(range.first + i);
            const bool taken = bucket.exclusive || (range.mode == Mode::exclusive && bucket.shared > 0);
            if (taken || (!again && !bucket.waiting.empty())) return &bucket.waiting;
        }
        for (uint64_t i = 0; i < range.count; ++i) {
            Bucket& bucket = bucket_of(range.first + i);
            if (range.mode == Mode::exclusive) {
                bucket.exclusive = true;
            } else {
                ++bucket.shared;
            }
        }
        return nullptr;
    }

    void release(const Range& range) {
        for (uint64_t i = 0; i < range.count; ++i) {
            Bucket& bucket = bucket_of(range.first + i);
            if (range.mode == Mode::exclusive) {
                bucket.exclusive = false;
            } else {
                --bucket.shared;
            }
            if (bucket.shared == 0) wakeups_.wake_all(bucket.waiting);
        }
    }

  private:
    struct Bucket {
        uint32_t shared = 0;
        bool exclusive = false;
        WaitList waiting;
    };
    Bucket& bucket_of(uint64_t cluster) { return buckets_[cluster % kBuckets]; }

    Wakeups& wakeups_;
    std::array<Bucket, kBuckets> buckets_{};
};

}  // namespace ringback::image::qcow2
