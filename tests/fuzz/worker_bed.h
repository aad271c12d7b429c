// SPDX-License-Identifier: Apache-2.0
//
// WorkerBed: a worker and the supervisor that talks to it, in one thread. To make a worker costs a hundred times what most
// executions do, so one serves many: at the end of each it is told to let go of everything, and only where it lost its
// supervisor, or was told to quit, is it ended and made anew.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "fake_xen.h"
#include "runtime/socket_channel.h"
#include "target.h"

namespace ringback::fuzz {

struct WorkerSocket {
    std::string directory = "/dev/shm/ringback-fuzz-XXXXXX";
    std::string path;
    UniqueFd listener;
    WorkerSocket() {
        INVARIANT(::mkdtemp(directory.data()) != nullptr);
        path = directory + "/socket";
        listener = must(channel::bind(path, SOCK_SEQPACKET));
        INVARIANT(::listen(listener.get(), 8) == 0);
    }
    ~WorkerSocket() {
        (void)::unlink(path.c_str());
        (void)::unlink((path + ".lock").c_str());
        (void)::rmdir(directory.c_str());
    }
};

template <typename Worker, typename Channel>
class WorkerBed {
  public:
    explicit WorkerBed(std::unique_ptr<Worker> worker, const WorkerSocket& socket) : socket_(socket), worker_(std::move(worker)) {
        INVARIANT(worker_->start().ok());
        accept();
        INVARIANT(static_cast<bool>(channel_));
    }
    // The end of an execution: `let_go` tells the worker to. True: it can serve the next one.
    template <typename Words>
    [[nodiscard]] bool end(const Words& let_go) {
        turn(4);
        listen([](const auto&) {});
        const bool lost = !channel_;
        for (int tries = 0; tries < 200 && !ended_; ++tries) {
            if (!channel_) {  // it tries again after a while
                ended_ = !worker_->turn(true);
                accept();
                continue;
            }
            let_go();
            listen([](const auto&) {});
            if (!channel_) continue;
            if (FakeXen::get().mapped() > 0 || FakeXen::get().bound() > 0) continue;
            if (!lost) return true;
            decltype(typename Channel::Received{}.message) quit;
            quit.type = decltype(quit.type)::quit;
            (void)channel_.send(quit);
            turn(50);
        }
        INVARIANT(ended_);
        channel_ = Channel();
        for (int i = 0; i < 20; ++i) (void)worker_->turn(false);  // what the kernel still has to tell
        worker_.reset();
        INVARIANT(FakeXen::get().mapped() == 0 && FakeXen::get().bound() == 0);
        return false;
    }
    void turn(uint32_t times) {
        for (uint32_t i = 0; i < times && ended_ == false; ++i) ended_ = !worker_->turn(false);
    }
    [[nodiscard]] bool ended() const { return ended_; }
    // Passes on what the worker said.
    template <typename Hear>
    void listen(const Hear& hear) {
        while (channel_) {
            auto received = channel_.receive();
            if (!received) return hang_up();
            if (!received->has_value()) return;
            hear(**received);
        }
    }
    void hang_up() { channel_ = Channel(); }
    [[nodiscard]] Channel& channel() { return channel_; }

  private:
    void accept() {
        UniqueFd fd(::accept4(socket_.listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (fd) channel_ = Channel(std::move(fd));
    }
    const WorkerSocket& socket_;
    std::unique_ptr<Worker> worker_;
    Channel channel_;
    bool ended_ = false;
};

}  // namespace ringback::fuzz
