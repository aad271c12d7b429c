// SPDX-License-Identifier: Apache-2.0
//
// GuestStatus: the answer to `status` (docs/control-protocol.md): the guests, each with its devices, each of these with
// the counters its worker has for it.
//
// Counters are asked for and come when they come, so that the answer waits, but not for ever: a worker that is busy
// opening something, or hangs, costs its devices their counters and nobody else anything.
//
// Thread: the supervisor's.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "hypervisor/guest.h"
#include "runtime/control.h"
#include "runtime/event_loop.h"

namespace ringback::xen {

class GuestStatus {
  public:
    // nullptr: it was asked wrongly, and that was the answer. `devices` names each guest's list of them.
    [[nodiscard]] static std::shared_ptr<GuestStatus> start(EventLoop& loop, const Store& store, const char* devices,
                                                            const ControlRequest& request, Responder respond);

    [[nodiscard]] nlohmann::json& answer() { return answer_; }
    [[nodiscard]] bool wants(Domid domid) const { return !only_ || domid == *only_; }
    // The guest's entry; made when there is none.
    [[nodiscard]] nlohmann::json& guest(Domid domid);
    // Its place among the guest's devices.
    size_t add(Domid domid, nlohmann::json device);

    // Each expect() is followed by one got(); an empty object is no counters.
    void expect() { ++expected_; }
    void got(Domid domid, size_t device, nlohmann::json counters);
    // All is asked for.
    void finish() { one_less(); }

  private:
    GuestStatus(const Store& store, const char* devices, std::optional<Domid> only, Responder respond)
        : store_(store), devices_(devices), only_(only), respond_(std::move(respond)) {}
    void one_less();
    void send();

    const Store& store_;
    const char* const devices_;
    const std::optional<Domid> only_;
    Responder respond_;
    nlohmann::json answer_{{"ok", true}, {"guests", nlohmann::json::array()}};
    std::map<Domid, size_t> places_;  // in the list of guests
    size_t expected_ = 1;             // the caller's own, until finish()
    bool sent_ = false;
};

}  // namespace ringback::xen
