// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/event_channel.h"

#include <fcntl.h>
extern "C" {
#include <xenevtchn.h>
}

#include <utility>

namespace ringback::xen {

Result<EventChannels> EventChannels::open() {
    xenevtchn_handle* handle = xenevtchn_open(nullptr, 0);
    if (handle == nullptr) return os_error("open the event channel device");
    EventChannels channels(handle);
    const int flags = fcntl(channels.fd(), F_GETFL);
    if (flags < 0 || fcntl(channels.fd(), F_SETFL, flags | O_NONBLOCK) < 0) {
        return os_error("make the event channel device non-blocking");
    }
    return channels;
}

EventChannels::EventChannels(EventChannels&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

EventChannels& EventChannels::operator=(EventChannels&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
}

EventChannels::~EventChannels() {
    if (handle_ != nullptr) xenevtchn_close(handle_);
}

Result<void> EventChannels::restrict_to(Domid domid) {
    if (xenevtchn_restrict(handle_, domid) == 0) return {};
    return os_error("restrict the event channel device to domain " + std::to_string(domid));
}

Result<Port> EventChannels::bind(Domid domid, Port remote_port) {
    const auto port = xenevtchn_bind_interdomain(handle_, domid, remote_port);
    if (port >= 0) return static_cast<Port>(port);
    return os_error("bind event channel " + std::to_string(remote_port) + " of domain " + std::to_string(domid));
}

void EventChannels::unbind(Port port) { INVARIANT(xenevtchn_unbind(handle_, port) == 0); }

int EventChannels::fd() const { return xenevtchn_fd(handle_); }

std::optional<Port> EventChannels::pending() {
    const auto port = xenevtchn_pending(handle_);
    if (port < 0) return std::nullopt;
    return static_cast<Port>(port);
}

void EventChannels::unmask(Port port) { INVARIANT(xenevtchn_unmask(handle_, port) == 0); }

void EventChannels::notify(Port port) { INVARIANT(xenevtchn_notify(handle_, port) == 0); }

}  // namespace ringback::xen
