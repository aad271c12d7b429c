// SPDX-License-Identifier: Apache-2.0
//
// SwitchWorker: the one worker as the supervisor sees it: started, recognised, spoken to, missed.
//
// It connects to us, not the other way round, so that a worker which outlived a supervisor finds the next one. Who
// connects is decided by the kernel's word (SO_PEERCRED), never by what the hello says: under systemd the process must be
// in the control group of netback-worker.service, as a child it must run our worker program.
//
// Requests are answered in any order, matched by their id. A worker that dies, or says anything the protocol does not
// have, is ended: each open request is answered with ECONNRESET, then `on_lost` is told once. The next request starts
// another one; one that dies again and again is started ever less often, as all vifs hang on it.
//
// Thread: the supervisor's.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/xenbus.h"
#include "netback/channel.h"
#include "netback/config.h"
#include "runtime/child_process.h"
#include "runtime/event_loop.h"
#include "runtime/unique_fd.h"

namespace ringback::net {

using Reply = std::function<void(const Answer&)>;

class SwitchWorker {
  public:
    struct Events {
        std::function<void()> on_lost;
        std::function<void(const xen::DeviceId&, const std::string& why)> on_vif_failed;
        // A vif that the worker has from an earlier supervisor; false: it shall give it up.
        std::function<bool(const xen::DeviceId&, const Connect&, std::vector<UniqueFd>)> on_present;
        std::function<void()> on_all_presented;
    };

    SwitchWorker(EventLoop& loop, const Config& config) : loop_(loop), config_(config) {}
    ~SwitchWorker();
    SwitchWorker(const SwitchWorker&) = delete;
    SwitchWorker& operator=(const SwitchWorker&) = delete;

    [[nodiscard]] Result<void> listen(Events events);

    // Sends the request to the worker, which is started when there is none. `reply` is called once, never from inside
    // this call.
    void request(Message message, std::vector<UniqueFd> descriptors, Reply reply);
    // Waits for the worker of an earlier supervisor to find us, without starting one.
    void expect(std::chrono::milliseconds patience);
    [[nodiscard]] pid_t pid() const { return channel_ ? pid_ : 0; }
    // No vif is left.
    void quit();

  private:
    struct Queued {
        Message message;
        std::vector<UniqueFd> descriptors;
    };
    struct Stranger {  // connected, no hello yet
        Channel channel;
        EventLoop::Timer deadline{};
    };

    void start();
    void accept_one();
    void greet(int socket);
    void flush();
    void receive();
    void handle(Received received);
    void lose(const std::string& why);
    void end_process();
    void set_deadline(std::chrono::milliseconds patience, std::function<void()> late);

    EventLoop& loop_;
    const Config& config_;
    Events events_;
    UniqueFd listener_;
    Channel channel_;
    pid_t pid_ = 0;
    bool ours_ = false;      // a child of this supervisor
    bool starting_ = false;  // it was started and has not connected
    std::optional<EventLoop::Timer> deadline_;
    std::chrono::steady_clock::time_point last_start_{};
    std::chrono::milliseconds pause_{0};
    bool quitting_ = false;
    uint32_t to_present_ = 0;  // vifs of its hello that it has not presented
    uint64_t next_id_ = 1;
    std::deque<Queued> queue_;
    std::map<uint64_t, Reply> open_;
    std::map<int, Stranger> strangers_;
    Children children_{loop_};
};

}  // namespace ringback::net
