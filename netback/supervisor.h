// SPDX-License-Identifier: Apache-2.0
//
// Supervisor: finds the vifs of all guests, keeps each one going, and answers for all of them.
//
// It never touches a ring or a packet, and looks at each vif that may have changed (device_watch.h). Its own death pauses
// nothing: the worker goes on, finds the next supervisor, and presents what it has.
//
// Thread: one, the supervisor's; libxenstore's reader thread only feeds a queue.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "bridge/link.h"
#include "bridge/open_vswitch.h"
#include "hypervisor/device_watch.h"
#include "hypervisor/store.h"
#include "netback/config.h"
#include "netback/device.h"
#include "netback/pool_watch.h"
#include "netback/worker_process.h"
#include "runtime/control.h"
#include "runtime/event_loop.h"
#include "runtime/unique_fd.h"

namespace ringback::net {

class Supervisor {
  public:
    // Ready when it returns: both sockets listen, every vif that exists has been looked at.
    [[nodiscard]] static Result<std::unique_ptr<Supervisor>> start(EventLoop& loop, const Config& config);
    ~Supervisor();
    Supervisor(const Supervisor&) = delete;
    Supervisor& operator=(const Supervisor&) = delete;

    // Before each wait of the loop.
    void work();
    // Why the loop was stopped, if not by a signal.
    [[nodiscard]] Result<void> verdict() const;

  private:
    Supervisor(EventLoop& loop, const Config& config, xen::Store store, bridge::Links links);
    [[nodiscard]] Result<void> listen();
    void remove_leftovers();
    void take_store_events();
    void look(const xen::DeviceId& id);

    // supervisor_macs.cc
    // What the store says of a vif; none without a proper address.
    [[nodiscard]] std::optional<mac::ActiveVif> identity(const xen::DeviceId& id) const;
    // Why this vif must not become active; names both guests.
    [[nodiscard]] std::optional<std::string> mac_refusal(const xen::DeviceId& id) const;
    void ask_pool(const Device& device);

    // supervisor_commands.cc
    void command(const ControlRequest& request, Responder respond);
    void status(const ControlRequest& request, Responder respond);
    void switch_table(const ControlRequest& request, Responder respond);  // supervisor_switch.cc
    void doctor_info(Responder respond);
    [[nodiscard]] nlohmann::json describe(const Device& device) const;

    EventLoop& loop_;
    const Config& config_;
    UniqueFd lock_;
    xen::Store store_;
    xen::DeviceWatch watch_;
    bridge::Links links_;
    SwitchWorker worker_;
    ControlServer control_;
    std::unique_ptr<bridge::OpenVSwitch> open_vswitch_;  // no bridge of it configured: none
    Surroundings around_;
    std::unique_ptr<PoolWatch> pool_;  // none configured: none
    std::map<xen::DeviceId, std::unique_ptr<Device>> devices_;
    bool starting_ = true;
    bool store_lost_ = false;
};

}  // namespace ringback::net
