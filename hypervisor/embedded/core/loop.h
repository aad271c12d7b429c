// SPDX-License-Identifier: Apache-2.0
//
// The core's event loop: one thread, epoll, and timers in a map. Everything in the core runs on it, which is
// what makes a hypercall atomic. Callbacks may add and remove descriptors, including their own.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>

#include "hypervisor/embedded/fd.h"

namespace ringback::xen::embedded {

class Loop {
  public:
    using Clock = std::chrono::steady_clock;
    using Callback = std::function<void(std::uint32_t events)>;

    Loop();
    void add(int fd, std::uint32_t events, Callback callback);
    void modify(int fd, std::uint32_t events);
    void remove(int fd);
    void at(Clock::time_point when, std::function<void()> action) {
        timers_.emplace(when, std::move(action));
    }
    void run();
    void stop() { stopping_ = true; }

  private:
    int run_timers();  // returns milliseconds until the next one, or -1

    Fd epoll_;
    bool stopping_ = false;
    std::unordered_map<int, std::shared_ptr<Callback>> callbacks_;
    std::multimap<Clock::time_point, std::function<void()>> timers_;
};

}  // namespace ringback::xen::embedded
