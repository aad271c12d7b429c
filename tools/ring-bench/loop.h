// SPDX-License-Identifier: Apache-2.0
//
// What the two loops under comparison have in common: the job, the addresses, the clock.
#pragma once

#include <cstdint>
#include <ctime>

namespace ringback::bench {

inline constexpr uint32_t kBlock = 4096;

struct Job {
    bool write = false;
    uint32_t depth = 32;
    uint64_t blocks = 0;  // of the file
    bool polled = false;  // the frontend looks at its ring and asks for no event
};

// xorshift64*: the same addresses for both loops, at a few nanoseconds each.
class Addresses {
  public:
    explicit Addresses(uint64_t blocks) : blocks_(blocks) {}
    uint64_t next() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return static_cast<uint64_t>(
            (static_cast<unsigned __int128>(state_ * 2685821657736338717ULL) * blocks_) >> 64);
    }

  private:
    uint64_t state_ = 0x9e3779b97f4a7c15;
    uint64_t blocks_;
};

[[nodiscard]] inline uint64_t thread_cpu_ns() {
    timespec t{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

struct Slice {
    uint64_t operations = 0;
    uint64_t timed_ns = 0;  // what the comparison is about
    uint64_t wall_ns = 0;
    uint64_t cpu_ns = 0;  // of this thread: unmoved by others on the same core
    uint64_t errors = 0;
};

}  // namespace ringback::bench
