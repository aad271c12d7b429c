// SPDX-License-Identifier: Apache-2.0
#include "runtime/poll_policy.h"

#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <thread>

#include "runtime/unique_fd.h"

namespace ringback {

namespace {
constexpr uint32_t kMissesBeforeRest = 4;
constexpr uint32_t kWindowsSkipped = 64;
constexpr uint64_t kPreemptedNs = 1'000'000;  // the looks between two calls take well under ten microseconds

uint64_t read_clock(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

uint64_t monotonic_ns() { return read_clock(CLOCK_MONOTONIC); }

uint64_t coarse_monotonic_ns() { return read_clock(CLOCK_MONOTONIC_COARSE); }

uint64_t measure_wake_cost() {
    constexpr size_t kRounds = 21;
    UniqueFd ping(eventfd(0, EFD_CLOEXEC));
    UniqueFd pong(eventfd(0, EFD_CLOEXEC));
    if (!ping || !pong) return 0;
    std::thread peer([&] {
        uint64_t value = 0;
        for (size_t i = 0; i < kRounds; ++i) {
            if (read(ping.get(), &value, sizeof value) != sizeof value) return;
            value = 1;
            if (write(pong.get(), &value, sizeof value) != sizeof value) return;
        }
    });
    std::array<uint64_t, kRounds> samples{};
    for (uint64_t& sample : samples) {
        uint64_t value = 1;
        const uint64_t begin = monotonic_ns();
        if (write(ping.get(), &value, sizeof value) != sizeof value) break;
        if (read(pong.get(), &value, sizeof value) != sizeof value) break;
        sample = (monotonic_ns() - begin) / 2;
    }
    peer.join();
    std::sort(samples.begin(), samples.end());
    return samples[kRounds / 2];
}

bool PollPolicy::open() {
    if (limits_.window_ns == 0 && !limits_.always) return false;
    if (skip_ > 0) {
        --skip_;
        return false;
    }
    opened_ = 0;
    return true;
}

bool PollPolicy::go_on(uint64_t now) {
    if (limits_.always) return true;
    if (opened_ == 0) {
        opened_ = last_look_ = now;
        return true;
    }
    if (now - last_look_ > kPreemptedNs) {
        misses_ = kMissesBeforeRest;
        miss();
        return false;
    }
    last_look_ = now;
    if (now - opened_ < limits_.window_ns) return true;
    miss();
    return false;
}

void PollPolicy::hit() { misses_ = 0; }

void PollPolicy::miss() {
    if (++misses_ >= kMissesBeforeRest) {
        misses_ = kMissesBeforeRest - 1;  // the next single miss after the rest closes again
        skip_ = kWindowsSkipped;
    }
}

}  // namespace ringback
