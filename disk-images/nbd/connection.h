// SPDX-License-Identifier: Apache-2.0
//
// Connection: one connection to an NBD server, through libnbd, on the reactor.
//
//     none --start()--> connecting --> handshake --> ready --(it breaks)--> draining --> none
//
// libnbd has the protocol; this drives it by the readiness of its socket: one poll request for each direction that
// libnbd waits for. It takes a lock of its own and allocates for each command: a network disk is the one place where a request does,
// and a round trip to another process costs a hundred times that.
//
// What is under way when a connection breaks is given back "lost", to be done again on another one. A broken connection is
// drained: we say that we send no more (shutdown) and read until the server closes. A server that finishes what it has before it
// closes has then done it, so nothing of it lands behind a newer write: the fence of docs/recovery.md. Its owner waits for that
// (draining()) before he does again what was lost.
//
// Callbacks come from a task, never from inside start(), submit() and stop(). Thread: the reactor's.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "disk-images/image.h"
#include "disk-images/nbd/address.h"

struct nbd_handle;

namespace ringback::image::nbd {

// What the server says of the export.
struct Export {
    uint64_t bytes = 0;
    uint32_t smallest = 1;   // what it takes
    uint32_t preferred = 0;  // 0: it does not say
    uint32_t largest = 0;    // of a read or write
    bool writable = false, flush = false, fua = false, trim = false, zero = false, multi = false;
};

class Connection {
  public:
    // Its owner, who outlives it.
    struct Events {
        virtual void ready(Connection&) noexcept = 0;
        // It broke, or was never made. Drained; may be started again.
        virtual void ended(Connection&, const std::string& why) noexcept = 0;
        // All of it was done, with this result; or (lost) none of it counts.
        virtual void done(Io&, int32_t result, bool lost) noexcept = 0;

      protected:
        ~Events() = default;
    };

    Connection(Reactor& reactor, const Address& address, Events& events);
    ~Connection();  // idle()
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    void start(UniqueFd socket);
    // The same, waiting on this thread until it is ready; then serve() puts it on the reactor. ENOTCONN: it is not, and idle.
    [[nodiscard]] Result<void> start_now(UniqueFd socket, std::chrono::milliseconds patience);
    void serve();
    [[nodiscard]] bool ready() const { return state_ == State::ready && !leaving_; }
    [[nodiscard]] bool draining() const { return state_ == State::draining || leaving_; }
    // Nothing refers to it: may be started, or destroyed.
    [[nodiscard]] bool idle() const { return state_ == State::none && !in_.armed && !out_.armed && !task_.scheduled; }
    [[nodiscard]] uint32_t in_flight() const { return in_flight_; }
    [[nodiscard]] const Export& what() const { return export_; }

    // ready(). Uses the Io's scratch.
    void submit(Io& io, bool fua);
    // Says goodbye if nothing is in flight, else breaks it off, losing that. No `ended` afterwards.
    void stop();

  private:
    enum class State : uint8_t { none, connecting, handshake, ready, draining };
    struct Poll : Completion {
        Connection* connection = nullptr;
        bool armed = false;
    };
    struct StepTask : Task {
        Connection* connection = nullptr;
    };

    [[nodiscard]] Result<void> begin(UniqueFd socket);
    void advance();  // as far as it goes
    void begin_handshake();
    void learn();
    void pump();
    [[nodiscard]] short wanted_events() const;
    void arm();
    void wait_for(Poll& poll, short events);
    void run();  // the task: goes on, tells, waits for the socket
    void fail(std::string why);
    void drain();
    void let_go();
    void issue_data(Io& io, uint32_t flags);
    void issue_range(Io& io);
    void issued(Io& io, int64_t cookie);
    void part_done(Io& io, int error);

    Reactor& reactor_;
    const Address& address_;
    Events& events_;
    State state_ = State::none;
    nbd_handle* handle_ = nullptr;
    UniqueFd socket_;  // libnbd has a descriptor of its own for the same connection
    Export export_;
    bool leaving_ = false;  // the server is being shut down: it answers what it has, and gets no more
    bool tell_ready_ = false;
    bool tell_ended_ = false;
    std::string why_;
    Poll in_, out_;
    uint32_t in_flight_ = 0;  // Ios, told ones not
    IoList retired_;          // to be told
    StepTask task_;
};

}  // namespace ringback::image::nbd
