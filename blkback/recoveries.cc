// SPDX-License-Identifier: Apache-2.0
#include "blkback/recoveries.h"

#include <algorithm>
#include <utility>

namespace ringback::blk {

using std::chrono::milliseconds;

void Recoveries::worker_died(xen::Domid domid, Clock::time_point now) {
    const auto full = [now](const Bucket& bucket) {
        return now - bucket.filled > std::chrono::duration<double>(kBurst / kPerSecond);
    };
    std::erase_if(buckets_, [&](const auto& entry) { return entry.first != domid && full(entry.second); });
    Bucket& bucket = buckets_.try_emplace(domid, Bucket{kBurst, now, milliseconds(0)}).first->second;
    const double passed = std::chrono::duration<double>(now - bucket.filled).count();
    bucket.tokens = std::min(kBurst, bucket.tokens + passed * kPerSecond) - 1;
    bucket.filled = now;
    bucket.pause = milliseconds(bucket.tokens >= 0 ? 0 : static_cast<int64_t>(-bucket.tokens * 1000 / kPerSecond));
}

bool Recoveries::enter(const xen::DeviceId& id, Clock::time_point now) {
    Entry& entry = devices_[id];
    entry.seen = now;
    if (std::exchange(entry.at_it, false)) ++entry.strikes;
    if (entry.strikes < kMaxStrikes) return true;
    devices_.erase(id);
    return false;
}

milliseconds Recoveries::pause(const xen::DeviceId& id) const {
    const auto bucket = buckets_.find(id.domid);
    const auto entry = devices_.find(id);
    const unsigned strikes = entry == devices_.end() ? 0 : entry->second.strikes;
    return std::max(bucket == buckets_.end() ? milliseconds(0) : bucket->second.pause,
                    strikes < 2 ? milliseconds(0) : milliseconds(50U << strikes));
}

bool Recoveries::begin(const xen::DeviceId& id, Clock::time_point now) {
    Entry& mine = devices_[id];
    mine.seen = now;
    if (mine.at_it) return true;
    const auto of_guest = [&](const auto& entry) { return entry.first.domid == id.domid; };
    const bool careful = std::any_of(devices_.begin(), devices_.end(),
                                     [&](const auto& entry) { return of_guest(entry) && entry.second.strikes >= 2; });
    const bool others_first = careful && std::any_of(devices_.begin(), devices_.end(), [&](const auto& entry) {
        if (!of_guest(entry) || entry.first == id || now - entry.second.seen > kTurn) return false;
        return entry.second.at_it || entry.second.strikes < mine.strikes ||
               (entry.second.strikes == mine.strikes && entry.first < id);
    });
    mine.at_it = !others_first;
    return mine.at_it;
}

}  // namespace ringback::blk
