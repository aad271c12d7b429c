// SPDX-License-Identifier: Apache-2.0
//
// Workers as the supervisor sees them: started, recognised, spoken to, missed.
//
// One worker a guest. It connects to us, not the other way round, so that a worker which outlived a supervisor finds the
// next one. Who connects is decided by the kernel's word (SO_PEERCRED), never by what the hello says: under systemd
// the process must be in the control group of blkback-worker@<domid>.service, as a child it must run our worker program.
//
// Requests are answered in any order, matched by their id. A worker that dies, or says anything the protocol does not
// have, is ended, and waited for: only when the kernel says that its process is gone is each open request answered with
// ECONNRESET and `on_lost` told, once. Its successor gets journals that nobody else has mapped any more.
//
// Which process is a guest's worker stands in a file beside the journals, so that a new supervisor does not wait for one
// that died with the old.
//
// Thread: the supervisor's.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "blkback/channel.h"
#include "blkback/config.h"
#include "blkback/policy.h"
#include "runtime/child_process.h"
#include "runtime/event_loop.h"
#include "blkback/worker_protocol.h"
#include "hypervisor/xenbus.h"
#include "runtime/log.h"
#include "runtime/unique_fd.h"

namespace ringback::blk {

using Reply = std::function<void(const Answer&)>;

// What goes with a request: at most an image and a journal.
using Descriptors = std::array<UniqueFd, 2>;

class WorkerPool {
  public:
    struct Events {
        std::function<void(xen::Domid, const std::string& why)> on_lost;
        std::function<void(const xen::DeviceId&, const std::string& why)> on_device_failed;
        // What a dead worker owed to this device's frontend is answered.
        std::function<void(const xen::DeviceId&, const Answer&)> on_recovered;
        // A device that the worker of an earlier supervisor still has.
        std::function<void(const xen::DeviceId&)> on_present;
        // A worker that outlived an earlier supervisor, or one nobody waits for; true: it is wanted.
        std::function<bool(xen::Domid)> on_unexpected;
        // A device's image names another file; the worker gets it, or why not.
        std::function<Result<OpenedFile>(const xen::DeviceId&, const std::string& name, bool writable)> on_open_file;
    };

    WorkerPool(EventLoop& loop, const Config& config) : loop_(loop), config_(config) {}
    ~WorkerPool();
    WorkerPool(const WorkerPool&) = delete;
    WorkerPool& operator=(const WorkerPool&) = delete;

    [[nodiscard]] Result<void> listen(Events events);

    // Sends the request to the guest's worker, which is started when there is none. `reply` is called once, never from
    // inside this call.
    void request(xen::Domid domid, Message message, Descriptors descriptors, Reply reply);
    // Waits for a worker of an earlier supervisor to find us, without starting one. on_lost after `patience` (the longest
    // that was asked for). Not for one that is known to be dead.
    void expect(xen::Domid domid, std::chrono::milliseconds patience);
    [[nodiscard]] bool connected(xen::Domid domid) const;
    [[nodiscard]] pid_t pid(xen::Domid domid) const;  // 0: none
    // Its worker is ended as if it had died: another is started for what it was serving.
    void replace(xen::Domid domid) { lose(domid, "it is replaced"); }
    // No device is left.
    void quit(xen::Domid domid);

  private:
    struct Queued {
        Message message;
        Descriptors descriptors;
    };
    struct Worker {
        xen::Domid domid = 0;
        Channel channel;
        pid_t pid = 0;
        bool ours = false;  // started by this supervisor (not adopted)
        UniqueFd process;   // pidfd, once it said hello
        UniqueFd awaited;   // pidfd of the one on record, until then
        std::string why_lost;  // not empty: it is ended, and its process not gone yet
        EventLoop::Timer deadline{};
        uint64_t next_id = 1;
        std::deque<Queued> queue;
        std::map<uint64_t, Reply> open;
    };
    struct Stranger {  // connected, no hello yet
        Channel channel;
        EventLoop::Timer deadline{};
        pid_t pid = 0;
    };

    Worker& start(xen::Domid domid);
    void accept_one();
    void greet(int socket);
    [[nodiscard]] Result<pid_t> check_peer(int socket, xen::Domid domid) const;
    [[nodiscard]] bool is_not_child(const Worker& worker, pid_t pid) const;
    void flush(Worker& worker);
    void receive(xen::Domid domid);
    [[nodiscard]] bool hand_over(Worker& worker, const Message& asked);
    void lose(xen::Domid domid, std::string why);
    void lost(xen::Domid domid);
    void end_process(const Worker& worker);
    [[nodiscard]] std::string record_path(xen::Domid domid) const;
    void record(const Worker& worker) const;
    [[nodiscard]] Result<UniqueFd> watch_recorded(xen::Domid domid) const;
    void await_no_more(Worker& worker);

    EventLoop& loop_;
    const Config& config_;
    Events events_;
    UniqueFd listener_;
    std::map<xen::Domid, std::unique_ptr<Worker>> workers_;
    std::map<int, Stranger> strangers_;
    Children children_{loop_};
    LogLimiter complaints_{20};  // about who connects
};

}  // namespace ringback::blk
