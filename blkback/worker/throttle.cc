// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker/throttle.h"

#include <algorithm>

namespace ringback::blk::worker {

namespace {

constexpr uint64_t kSecond = 1'000'000'000;

}  // namespace

// `amount` is at most 1 MiB (kMaxSegments pages), so that the product fits.
void Throttle::Meter::charge(uint64_t amount, uint64_t now_ns) {
    if (rate == 0) return;
    taken_until = std::max(taken_until, now_ns) + amount * kSecond / rate;
}

void Throttle::Meter::refund(uint64_t amount) {
    if (rate != 0) taken_until -= std::min(taken_until, amount * kSecond / rate);
}

void Throttle::Meter::set(uint64_t new_rate, uint64_t now_ns) {
    if (rate != 0 && new_rate != 0 && taken_until > now_ns) {
        const double ahead = static_cast<double>(taken_until - now_ns) * static_cast<double>(rate) / static_cast<double>(new_rate);
        taken_until = now_ns + static_cast<uint64_t>(std::min(ahead, 1e18));
    }
    rate = new_rate;
    if (new_rate == 0) taken_until = 0;
}

void Throttle::set(const Limit& limit, uint64_t now_ns) {
    limit_ = limit;
    burst_ns_ = uint64_t{limit.burst_ms} * 1'000'000;
    operations_.set(limit.operations, now_ns);
    bytes_.set(limit.bytes, now_ns);
}

uint64_t Throttle::pause_ns(uint64_t now_ns) const {
    const uint64_t until = std::max(operations_.taken_until, bytes_.taken_until);
    const uint64_t from = now_ns + burst_ns_;
    return std::max(kLeastPauseNs, until > from ? until - from : 0);
}

}  // namespace ringback::blk::worker
