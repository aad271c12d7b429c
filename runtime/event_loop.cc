// SPDX-License-Identifier: Apache-2.0
#include "runtime/event_loop.h"

#include <algorithm>
#include <array>

namespace ringback {

Result<EventLoop> EventLoop::create() {
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) return os_error("create an epoll descriptor");
    return EventLoop(std::move(epoll));
}

Result<void> EventLoop::watch(int fd, uint32_t events, Callback callback) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return os_error("watch a descriptor");
    callbacks_[fd] = std::make_shared<Callback>(std::move(callback));
    return {};
}

void EventLoop::change(int fd, uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    INVARIANT(::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) == 0);
}

void EventLoop::forget(int fd) {
    if (callbacks_.erase(fd) != 0) (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::Timer EventLoop::after(std::chrono::milliseconds delay, std::function<void()> callback) {
    const Timer timer{Clock::now() + delay, next_timer_++};
    timers_.emplace(timer, std::move(callback));
    return timer;
}

void EventLoop::cancel(const Timer& timer) { timers_.erase(timer); }

void EventLoop::run_timers() {
    const Clock::time_point now = Clock::now();
    while (!timers_.empty() && timers_.begin()->first.first <= now) {
        const auto node = timers_.extract(timers_.begin());
        node.mapped()();
    }
}

int EventLoop::timeout() const {
    if (timers_.empty()) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first.first - Clock::now());
    return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 3'600'000));
}

void EventLoop::turn(bool may_wait) {
    std::array<epoll_event, 64> events{};
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), may_wait ? timeout() : 0);
    INVARIANT(count >= 0 || errno == EINTR);
    for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<size_t>(i)];
        const auto found = callbacks_.find(event.data.fd);
        if (found == callbacks_.end()) continue;  // forgotten by an earlier callback of this turn
        const std::shared_ptr<Callback> callback = found->second;
        (*callback)(event.events);
    }
    run_timers();
}

void EventLoop::run(const std::function<void()>& before_wait) {
    while (true) {
        before_wait();
        if (stopping_) return;
        turn(true);
    }
}

}  // namespace ringback
