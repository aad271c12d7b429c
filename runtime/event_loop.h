// SPDX-License-Identifier: Apache-2.0
//
// EventLoop: epoll and timers, for a supervisor's one thread.
//
// The io_uring reactor is made for the data path; here a handful of descriptors change all the time and nothing is
// fast, so readiness and closures are the simpler tool. A callback may forget its own or any other descriptor.
#pragma once

#include <sys/epoll.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback {

class EventLoop {
  public:
    using Clock = std::chrono::steady_clock;
    using Callback = std::function<void(uint32_t events)>;
    using Timer = std::pair<Clock::time_point, uint64_t>;

    [[nodiscard]] static Result<EventLoop> create();

    // Level-triggered. `fd` stays the caller's, who forgets it before closing it.
    [[nodiscard]] Result<void> watch(int fd, uint32_t events, Callback callback);
    void change(int fd, uint32_t events);
    void forget(int fd);

    Timer after(std::chrono::milliseconds delay, std::function<void()> callback);
    void cancel(const Timer& timer);

    // One wait, if it may, and all that is ready then.
    void turn(bool may_wait);
    // Turns until stop(). `before_wait` runs before each: work that callbacks have left behind.
    void run(const std::function<void()>& before_wait);
    void stop() { stopping_ = true; }

  private:
    explicit EventLoop(UniqueFd epoll) : epoll_(std::move(epoll)) {}
    void run_timers();
    [[nodiscard]] int timeout() const;

    UniqueFd epoll_;
    std::unordered_map<int, std::shared_ptr<Callback>> callbacks_;
    std::map<Timer, std::function<void()>> timers_;
    uint64_t next_timer_ = 1;
    bool stopping_ = false;
};

}  // namespace ringback
