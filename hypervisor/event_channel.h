// SPDX-License-Identifier: Apache-2.0
//
// EventChannels: one handle of the event channel device and the ports bound on it, over libxenevtchn.
//
// A port that fired is masked until it is written back (unmask()). That is the brake on a guest that storms us: we see
// at most one event a port between two write-backs, so the owner unmasks only after it has worked through the ring.
//
// Thread: one owner.
#pragma once

#include <cstdint>
#include <optional>

#include "hypervisor/store.h"
#include "runtime/result.h"

struct xenevtchn_handle;

namespace ringback::xen {

using Port = uint32_t;

class EventChannels {
  public:
    [[nodiscard]] static Result<EventChannels> open();
    EventChannels(EventChannels&& other) noexcept;
    EventChannels& operator=(EventChannels&& other) noexcept;
    ~EventChannels();

    // Confines this handle to event channels with `domid`, for good. Domain 0 cannot be named: EINVAL.
    [[nodiscard]] Result<void> restrict_to(Domid domid);
    // Binds to the port that `domid` offers. The new local port is pending at once, so a ring is looked at even if
    // its frontend notified before we came.
    [[nodiscard]] Result<Port> bind(Domid domid, Port remote_port);
    void unbind(Port port);

    [[nodiscard]] int fd() const;
    // A port that fired, or nullopt. The descriptor is non-blocking: never waits.
    [[nodiscard]] std::optional<Port> pending();
    void unmask(Port port);
    void notify(Port port);

  private:
    explicit EventChannels(xenevtchn_handle* handle) : handle_(handle) {}
    xenevtchn_handle* handle_ = nullptr;
};

}  // namespace ringback::xen
