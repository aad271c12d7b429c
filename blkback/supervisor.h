// SPDX-License-Identifier: Apache-2.0
//
// Supervisor: finds the devices under the claimed roots, keeps each one going, and answers for all of them.
//
// It never touches a ring and never parses an image, and looks at each device that may have changed (device_watch.h). Its
// own death pauses nothing: workers go on and find the next supervisor, which asks them what they have.
//
// Thread: one, the supervisor's; libxenstore's reader thread only feeds a queue.
#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blkback/config.h"
#include "runtime/control.h"
#include "blkback/device.h"
#include "runtime/event_loop.h"
#include "blkback/throttler.h"
#include "blkback/worker_process.h"
#include "hypervisor/device_watch.h"
#include "hypervisor/store.h"
#include "runtime/unique_fd.h"

namespace ringback::blk {

class Supervisor {
  public:
    // Ready when it returns: both sockets listen, every device that exists has been looked at.
    [[nodiscard]] static Result<std::unique_ptr<Supervisor>> start(EventLoop& loop, const Config& config);
    ~Supervisor();
    Supervisor(const Supervisor&) = delete;
    Supervisor& operator=(const Supervisor&) = delete;

    // Before each wait of the loop.
    void work();
    // Why the loop was stopped, if not by a signal.
    [[nodiscard]] Result<void> verdict() const;

  private:
    struct Waiter {
        xen::DeviceId id;
        Responder respond;
        EventLoop::Timer deadline;
    };

    struct Replacement {
        xen::Domid domid;
        pid_t former;
        Responder respond;
        EventLoop::Timer deadline;
    };

    Supervisor(EventLoop& loop, const Config& config, xen::Store store);
    void let_go(const xen::DeviceId& id);
    void remove_stale_journals();
    void expect_workers();
    void look_after_store();
    void take_store_events();
    void look(const xen::DeviceId& id);
    void answer_waiters();

    // supervisor_commands.cc
    void command(const ControlRequest& request, Responder respond);
    void wait_ready(const ControlRequest& request, Responder respond);
    void status(const ControlRequest& request, Responder respond);
    void resize(const ControlRequest& request, Responder respond);
    void doctor_info(Responder respond);
    // supervisor_replace.cc
    void replace_worker(const ControlRequest& request, Responder respond);
    void answer_replacements();
    // What a worker has to be alike in to take over from this blkbackd's.
    [[nodiscard]] static std::string interface();
    [[nodiscard]] nlohmann::json describe(const Device& device) const;

    EventLoop& loop_;
    const Config& config_;
    UniqueFd lock_;
    xen::Store store_;
    xen::DeviceWatch watch_;
    WorkerPool workers_;
    Recoveries recoveries_;
    ControlServer control_;
    Surroundings around_;
    std::map<xen::DeviceId, std::unique_ptr<Device>> devices_;
    Throttler throttler_;
    std::list<Waiter> waiters_;
    std::list<Replacement> replacements_;
    bool starting_ = true;
    bool store_lost_ = false;
};

}  // namespace ringback::blk
