// SPDX-License-Identifier: Apache-2.0
//
// Worker: the switch worker. Owns the rings and ports of all guests' vifs.
//
// It reads what guests write, so it is the process that an attacker would break first; it owns nothing but descriptors it
// was handed and two device handles. prepare() opens those and makes the reactor while the process is privileged, main()
// drops privileges, run() enables the reactor on the thread that stays its owner.
//
// The supervisor may come and go: when its connection ends the worker goes on serving, and says hello to the next one,
// presenting its vifs with their descriptors, so that the new one holds the ports too.
//
// One timer serves all vifs that wait for time to pass, and ends for the first of them; with none it is not running.
//
// Thread: one.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "netback/channel.h"
#include "netback/worker/vif.h"
#include "runtime/log.h"

namespace ringback::net::worker {

class Worker {
  public:
    struct Options {
        std::string supervisor;  // path of its socket
        PollPolicy::Limits polling;
    };

    [[nodiscard]] static Result<std::unique_ptr<Worker>> prepare(const Options& options);
    ~Worker();
    // Serves until the supervisor says quit. An error: the worker cannot go on.
    [[nodiscard]] Result<void> run();
    // The same for who turns it himself; turn() is false after quit.
    [[nodiscard]] Result<void> start();
    [[nodiscard]] bool turn(bool may_sleep);

  private:
    struct Watch : Completion {
        Worker* worker = nullptr;
        int fd = -1;  // below 0: not watched (any more)
        void (Worker::*on_readable)() = nullptr;
    };
    struct Timer : Completion {
        Worker* worker = nullptr;
        __kernel_timespec delay{};
        bool running = false;
        uint64_t end = 0;  // CLOCK_MONOTONIC; 0: it is being cancelled
    };
    explicit Worker(Options options) : options_(std::move(options)) {}

    void watch(Watch& watch, int fd, void (Worker::*on_readable)());
    void on_events();
    void on_supervisor();
    void on_supervisor_gone(const Error& error);
    void retry_later();
    [[nodiscard]] Result<void> greet();
    void handle(Received received);
    [[nodiscard]] Result<void> connect(Received& received);
    void send(const Message& message);
    void answer(const Message& request, const Result<void>& result, const Vif* vif = nullptr);
    void answer_table(const Message& request);
    void on_failed(const Vif& vif);
    void disconnect(const Message& message);
    void bury();
    // When a vif wants tick() called; 0: it does not.
    void arm_tick(uint64_t wanted);
    void on_tick();

    Options options_;
    UniqueFd alive_;  // locked for as long as this process lives: a new supervisor sees at once whether to wait for it
    std::vector<xen::GrantTable> grants_;
    std::unique_ptr<Reactor> reactor_;
    std::unique_ptr<xen::EventChannels> events_;
    Batch batch_;
    std::unique_ptr<Channel> supervisor_;
    std::vector<Queue*> queues_by_port_;
    Fabric fabric_;
    std::map<VifId, std::unique_ptr<Vif>> vifs_;
    struct Ending {
        std::unique_ptr<Vif> vif;
        Message request;
    };
    struct BuryTask : Task {
        Worker* worker;
    };
    std::vector<Ending> ending_;  // ended, not yet destroyed
    BuryTask bury_{};
    Watch events_watch_{};
    Watch supervisor_watch_{};
    Timer retry_{};
    LogLimiter losses_;  // one that will not have us hangs up on every try
    Timer tick_{};
};

}  // namespace ringback::net::worker
