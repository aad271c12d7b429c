// SPDX-License-Identifier: Apache-2.0
//
// Worker: serves the disks of one guest.
//
// It parses images and touches guest memory, so it is the process that an attacker would break first; it owns nothing but
// descriptors it was handed and two device handles. Set-up order matters, because later maps, hot attach and resume need
// what only a privileged process can make: prepare() opens the grant and event channel devices, creates the reactor
// (disabled) with its tables and registers the first buffer; then main() drops privileges (sandbox.h); then run() enables
// the reactor on the thread that stays its owner.
//
// The supervisor may come and go: when its connection ends the worker goes on serving, and says hello to the next
// one, describing the devices it has, with what became of them meanwhile. A supervisor that does not read its answers
// counts as gone: an answer is sent or its connection ends, so that nobody waits for one that was dropped.
//
// Thread: one.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "blkback/channel.h"
#include "blkback/worker/device.h"
#include "disk-images/image.h"
#include "runtime/log.h"

namespace ringback::blk::worker {

class Worker {
  public:
    struct Options {
        xen::Domid domid = 0;
        std::string supervisor;          // path of its socket
        size_t buffer_bytes = 16U << 20; // locked memory for copied data, at most
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
    struct Retry : Completion {
        Worker* worker = nullptr;
    };
    struct QuitTask : Task {
        Worker* worker = nullptr;
    };
    // A device's way to the supervisor for further files.
    struct DeviceOpener final : image::Opener {
        DeviceOpener(Worker& of, xen::DeviceId device) : worker(of), id(std::move(device)) {}
        Result<image::File> open(const std::string& name, Access access) override { return worker.open_named(id, name, access); }
        void open_later(const std::string& name, Access access, Opening& opening) override {
            worker.open_named_later(id, name, access, opening);
        }
        void forget(Opening& opening) override;
        Worker& worker;
        const xen::DeviceId id;
    };
    explicit Worker(Options options) : options_(std::move(options)) {}

    void watch(Watch& watch, int fd, void (Worker::*on_readable)());
    void on_events();
    void on_supervisor();
    void on_supervisor_gone(const Error& error);
    void retry_later();
    [[nodiscard]] Result<void> greet();
    void handle(Received received);
    void quit();
    void attach(Received& received);
    void send(const Message& message);
    void answer(const Message& request, const Result<void>& result, const Device* device = nullptr);
    static void describe(const Device& device, Answer& answer);
    Device* find(const Message& message);
    void on_disconnected(Device& device);
    [[nodiscard]] Result<Message> ask_for(const xen::DeviceId& id, const std::string& name, image::Opener::Access access);
    [[nodiscard]] Result<image::File> open_named(const xen::DeviceId& id, const std::string& name, image::Opener::Access access);
    void open_named_later(const xen::DeviceId& id, const std::string& name, image::Opener::Access access,
                          image::Opener::Opening& opening);
    void opened(Received& received);
    void fail_openings();
    static Result<image::File> take_file(Received& received, const std::string& name);

    Options options_;
    std::vector<xen::GrantTable> grants_;
    std::unique_ptr<Reactor> reactor_;
    std::unique_ptr<xen::EventChannels> events_;
    std::unique_ptr<BufferPool> buffers_;
    std::unique_ptr<Channel> supervisor_;
    std::vector<Ring*> rings_by_port_;
    std::map<uint64_t, image::Opener::Opening*> openings_;  // asked for, by the number of the question
    std::map<xen::DeviceId, std::unique_ptr<Device>> devices_;
    std::multimap<xen::DeviceId, Message> disconnecting_;  // to be answered when drained
    std::deque<Received> deferred_;                   // came while an image was being opened
    Watch events_watch_{};
    Watch supervisor_watch_{};
    Retry retry_{};
    LogLimiter losses_;  // one that will not have us hangs up on every try
    __kernel_timespec retry_delay_{};
    uint64_t next_id_ = 1;
    bool quitting_ = false;
    QuitTask quit_task_;
};

}  // namespace ringback::blk::worker
