// SPDX-License-Identifier: Apache-2.0
//
// PollPolicy: how long to look before sleeping.
//
// Being woken is what costs, not the ring: on a virtual machine a sleep and a wake take 20 to 50 us, a request found by
// looking takes none of that. Looking for exactly as long as a wake-up costs is never worse than twice the best choice
// made with hindsight, so the window is the *measured* wake cost of this machine (measure_wake_cost()), not a constant:
// a constant that was right on one machine has made others slower than plain events. Two things switch it off: windows
// that keep finding nothing (then one window in 64 is tried again), and a host short of CPU (a look that took far
// longer than looking can take was preempted).
//
// Thread: the owner of the reactor.
#pragma once

#include <cstdint>

namespace ringback {

// Nanoseconds of CLOCK_MONOTONIC.
[[nodiscard]] uint64_t monotonic_ns();
// The same clock as of the last timer tick, some milliseconds ago: a tenth of the cost.
[[nodiscard]] uint64_t coarse_monotonic_ns();
// Median cost of one eventfd wake-up between two threads, in nanoseconds. Takes about a millisecond; starts a thread.
[[nodiscard]] uint64_t measure_wake_cost();

class PollPolicy {
  public:
    struct Limits {
        uint64_t window_ns = 0;  // 0: never poll
        bool always = false;     // poll for ever (a core of one's own; benchmarks)
    };

    explicit PollPolicy(Limits limits) : limits_(limits) {}

    // Whether a window is worth opening.
    [[nodiscard]] bool open();
    // Whether the open window may go on; it began at the first call. False ends it as a miss.
    [[nodiscard]] bool go_on(uint64_t now);
    void hit();
    [[nodiscard]] uint64_t window_ns() const { return limits_.window_ns; }

  private:
    void miss();

    Limits limits_;
    uint64_t opened_ = 0;  // 0: not asked for the time yet
    uint64_t last_look_ = 0;
    uint32_t misses_ = 0;  // in a row, saturating
    uint32_t skip_ = 0;    // windows not to open any more
};

}  // namespace ringback
