// SPDX-License-Identifier: Apache-2.0
//
// Throttle: how fast a disk's requests may be taken.
//
// The generic cell rate algorithm, once for requests and once for bytes: each keeps the moment at which all that was taken
// would have been taken at the allowed rate, and requests are taken while that is not further ahead than the burst. A token
// bucket does the same with two more variables, and has to be filled.
//
// A request is admitted before its size is known, and charged for all of it: what was taken too much delays what comes next.
// What is held back stays in the guest's ring and costs us nothing.
//
// Thread: the reactor's.
#pragma once

#include <cstdint>

#include "blkback/worker_protocol.h"

namespace ringback::blk::worker {

class Throttle {
  public:
    // What was taken too much at the former rate is worked off at the new one.
    void set(const Limit& limit, uint64_t now_ns);
    [[nodiscard]] bool limited() const { return operations_.rate != 0 || bytes_.rate != 0; }
    [[nodiscard]] const Limit& limit() const { return limit_; }

    // May a request be taken now?
    [[nodiscard]] bool admits(uint64_t now_ns) const {
        return operations_.taken_until <= now_ns + burst_ns_ && bytes_.taken_until <= now_ns + burst_ns_;
    }
    void charge_operation(uint64_t now_ns) { operations_.charge(1, now_ns); }
    void charge_bytes(uint64_t bytes, uint64_t now_ns) { bytes_.charge(bytes, now_ns); }
    void refund_bytes(uint64_t bytes) { bytes_.refund(bytes); }
    // When admits() will be true again; at least kLeastPauseNs from now, so that a fast disk is not woken for each request.
    [[nodiscard]] uint64_t pause_ns(uint64_t now_ns) const;

    static constexpr uint64_t kLeastPauseNs = 1'000'000;

  private:
    struct Meter {
        uint64_t rate = 0;         // a second; 0: not limited
        uint64_t taken_until = 0;  // ns, monotonic

        void charge(uint64_t amount, uint64_t now_ns);
        void refund(uint64_t amount);
        void set(uint64_t new_rate, uint64_t now_ns);
    };

    Limit limit_{};
    uint64_t burst_ns_ = 0;
    Meter operations_;
    Meter bytes_;
};

}  // namespace ringback::blk::worker
