// SPDX-License-Identifier: Apache-2.0
//
// Drop-in libxenevtchn.so.1: Xen's ABI (xenevtchn.h) over the embedded core. A handle's descriptor is an
// epoll of its ports' eventfds, each armed for one event: a port that has fired stays masked until it is
// written back with xenevtchn_unmask, as with /dev/xen/evtchn, and what arrives meanwhile is delivered then.
// A notification is one write to the peer's eventfd, with no call to the core.
//
// The descriptor can be polled but not read or written directly, and cannot be handed to xenevtchn_fdopen.
extern "C" {
#include <xenevtchn.h>
}

#include <fcntl.h>
#include <sys/epoll.h>

#include <cerrno>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "hypervisor/embedded/connection.h"

namespace ringback::xen::embedded {

class EventHandle {
  public:
    int open(bool close_on_exec) {
        if (int error = core_.open(CoreConnection::default_domid(), close_on_exec); error != 0) return error;
        epoll_ = Fd(::epoll_create1(close_on_exec ? EPOLL_CLOEXEC : 0));
        return epoll_ ? 0 : errno;
    }
    int fd() const { return epoll_.get(); }

    int bind(Op op, std::uint32_t domid, std::uint32_t remote_port) {
        CallResult result = core_.call(op, {domid, remote_port});
        if (result.error != 0) return fail(result.error);
        if (result.fds.size() != 2) return fail(EPROTO);
        auto number = static_cast<std::uint32_t>(result.values[0]);
        auto port = std::make_unique<Port>();
        port->in = std::move(result.fds[0]);
        port->out = std::move(result.fds[1]);
        if (result.values[1] >= 0) port->counter = &core_.shared()->notifies[result.values[1]];
        std::unique_lock lock(mutex_);
        if (ports_.size() <= number) ports_.resize(number + 1);
        epoll_event event{};
        event.events = EPOLLIN | EPOLLONESHOT;
        event.data.u32 = number;
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, port->in.get(), &event) != 0) {
            int error = errno;
            core_.call(Op::close_port, {number});
            return fail(error);
        }
        ports_[number] = std::move(port);
        return static_cast<int>(number);
    }

    int unbind(std::uint32_t number) {
        std::unique_lock lock(mutex_);
        if (find(number) == nullptr) return fail(ENOTCONN);
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, ports_[number]->in.get(), nullptr);
        ports_[number].reset();
        int error = core_.call(Op::close_port, {number}).error;
        return error == 0 ? 0 : fail(error);
    }

    int notify(std::uint32_t number) {
        std::shared_lock lock(mutex_);
        Port* port = find(number);
        if (port == nullptr) return fail(ENOTCONN);
        const std::uint64_t one = 1;
        // A full counter means that an event is pending already.
        if (::write(port->out.get(), &one, sizeof one) < 0 && errno != EAGAIN) return -1;
        if (port->counter != nullptr) port->counter->fetch_add(1, std::memory_order_relaxed);
        return 0;
    }

    int unmask(std::uint32_t number) {
        std::shared_lock lock(mutex_);
        Port* port = find(number);
        // The kernel ignores ports that are not the caller's.
        if (port == nullptr) return 0;
        epoll_event event{};
        event.events = EPOLLIN | EPOLLONESHOT;
        event.data.u32 = number;
        return ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, port->in.get(), &event);
    }

    // Blocks unless the descriptor was made non-blocking, as a read of /dev/xen/evtchn does.
    int pending() {
        const bool block = (::fcntl(epoll_.get(), F_GETFL) & O_NONBLOCK) == 0;
        for (;;) {
            epoll_event event{};
            int n = ::epoll_wait(epoll_.get(), &event, 1, block ? -1 : 0);
            if (n < 0) return -1;
            if (n == 0) return fail(EAGAIN);
            std::shared_lock lock(mutex_);
            Port* port = find(event.data.u32);
            std::uint64_t count;
            if (port != nullptr && ::read(port->in.get(), &count, sizeof count) == sizeof count)
                return static_cast<int>(event.data.u32);
        }
    }

    int restrict_to(std::uint16_t domid) {
        int error = core_.call(Op::restrict_evtchn, {domid}).error;
        return error == 0 ? 0 : fail(error);
    }

  private:
    struct Port {
        Fd in, out;
        std::atomic<std::uint64_t>* counter = nullptr;
    };

    static int fail(int error) {
        errno = error;
        return -1;
    }
    Port* find(std::uint32_t number) const { return number < ports_.size() ? ports_[number].get() : nullptr; }

    CoreConnection core_;
    Fd epoll_;
    std::shared_mutex mutex_;
    std::vector<std::unique_ptr<Port>> ports_;
};

}  // namespace ringback::xen::embedded

struct xenevtchn_handle : ringback::xen::embedded::EventHandle {};

using ringback::xen::embedded::Op;

extern "C" {

xenevtchn_handle* xenevtchn_open(xentoollog_logger*, unsigned int flags) {
    if ((flags & ~static_cast<unsigned>(XENEVTCHN_NO_CLOEXEC)) != 0) {
        errno = EINVAL;
        return nullptr;
    }
    auto handle = std::make_unique<xenevtchn_handle>();
    if (int error = handle->open((flags & XENEVTCHN_NO_CLOEXEC) == 0); error != 0) {
        errno = error;
        return nullptr;
    }
    return handle.release();
}

xenevtchn_handle* xenevtchn_fdopen(xentoollog_logger*, int, unsigned) {
    errno = EOPNOTSUPP;
    return nullptr;
}

int xenevtchn_close(xenevtchn_handle* xce) {
    delete xce;
    return 0;
}

int xenevtchn_fd(xenevtchn_handle* xce) {
    return xce->fd();
}

int xenevtchn_notify(xenevtchn_handle* xce, evtchn_port_t port) {
    return xce->notify(port);
}

xenevtchn_port_or_error_t xenevtchn_bind_unbound_port(xenevtchn_handle* xce, uint32_t domid) {
    return xce->bind(Op::alloc_unbound, domid, 0);
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle* xce, uint32_t domid,
                                                     evtchn_port_t remote_port) {
    return xce->bind(Op::bind_interdomain, domid, remote_port);
}

// The core raises no virtual interrupts; who wants to hear of domains watches the store.
xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle*, unsigned int) {
    errno = EINVAL;
    return -1;
}

int xenevtchn_unbind(xenevtchn_handle* xce, evtchn_port_t port) {
    return xce->unbind(port);
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle* xce) {
    return xce->pending();
}

int xenevtchn_unmask(xenevtchn_handle* xce, evtchn_port_t port) {
    return xce->unmask(port);
}

int xenevtchn_restrict(xenevtchn_handle* xce, domid_t domid) {
    return xce->restrict_to(domid);
}

}  // extern "C"
