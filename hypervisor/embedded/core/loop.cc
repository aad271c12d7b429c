// SPDX-License-Identifier: Apache-2.0
//
// See loop.h.
#include "hypervisor/embedded/core/loop.h"

#include <sys/epoll.h>

#include <cerrno>
#include <system_error>

namespace ringback::xen::embedded {

Loop::Loop() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    if (!epoll_) throw std::system_error(errno, std::generic_category(), "epoll_create1");
}

void Loop::add(int fd, std::uint32_t events, Callback callback) {
    callbacks_[fd] = std::make_shared<Callback>(std::move(callback));
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
        throw std::system_error(errno, std::generic_category(), "epoll_ctl");
}

void Loop::modify(int fd, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void Loop::remove(int fd) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    callbacks_.erase(fd);
}

int Loop::run_timers() {
    while (!timers_.empty()) {
        auto first = timers_.begin();
        auto left =
            std::chrono::duration_cast<std::chrono::microseconds>(first->first - Clock::now()).count();
        if (left > 0) return static_cast<int>((left + 999) / 1000);
        auto action = std::move(first->second);
        timers_.erase(first);
        action();
    }
    return -1;
}

void Loop::run() {
    while (!stopping_) {
        int timeout = run_timers();
        // One event at a time: a callback may close descriptors that a longer batch would still name.
        epoll_event event{};
        int n = ::epoll_wait(epoll_.get(), &event, 1, timeout);
        if (n < 0 && errno != EINTR) throw std::system_error(errno, std::generic_category(), "epoll_wait");
        if (n <= 0) continue;
        auto found = callbacks_.find(event.data.fd);
        if (found == callbacks_.end()) continue;
        std::shared_ptr<Callback> keep = found->second;
        (*keep)(event.events);
    }
}

}  // namespace ringback::xen::embedded
