// SPDX-License-Identifier: Apache-2.0
//
// Device: one vif as the supervisor sees it: its store nodes, its port, and how far the worker is with it.
//
// look() gathers a View, asks the handshake what to do, does it, and looks again until there is nothing to do now. All
// that takes time (the worker, the script, the frontend) ends in another look(). Every store write is conditional on
// the directory being there and on the state being the one the decision was made on, in one transaction.
//
// Its port (port.h) and its journal stay for as long as the vif exists; a worker gets duplicates of their descriptors, and so
// does its successor.
//
// Thread: the supervisor's.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/store.h"
#include "hypervisor/xenbus.h"
#include "netback/config.h"
#include "netback/handshake.h"
#include "netback/port.h"
#include "netback/worker_process.h"
#include "runtime/event_loop.h"
#include "runtime/log.h"

namespace ringback::net {

// What a Device works with; all of it outlives every Device.
struct Surroundings {
    EventLoop& loop;
    xen::Store& store;
    SwitchWorker& worker;
    PortTools ports;
    const Config& config;
    xen::Domid own_domid = 0;
    // Why a vif may not go on its network.
    std::function<std::optional<std::string>(const xen::DeviceId&)> refusal;
    std::function<void(const xen::DeviceId&)> look_again;  // soon, from the loop
    std::function<void()> store_lost;                      // nothing that is read means anything any more
};

class Device {
  public:
    using Clock = EventLoop::Clock;

    // `adopt`: the vif was there before this supervisor; a worker may be serving it.
    Device(Surroundings& surroundings, xen::DeviceId id, bool adopt);
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    // True: nothing is left of it, forget it.
    [[nodiscard]] bool look();

    // A worker that outlived an earlier supervisor serves it: [journal, queues...]. False: it is not wanted.
    [[nodiscard]] bool presented(const Connect& parameters, std::vector<UniqueFd> descriptors);
    // The worker has presented all it has.
    void all_presented();
    void worker_lost();
    void connection_failed(const std::string& why);
    void ask_stats(std::function<void(const Answer&)> done);

    [[nodiscard]] const xen::DeviceId& id() const { return id_; }
    [[nodiscard]] const std::string& error() const { return error_; }
    [[nodiscard]] const View& last_view() const { return view_; }
    [[nodiscard]] PortPhase port() const { return phase_; }
    [[nodiscard]] RingPhase ring() const { return ring_; }
    [[nodiscard]] const Connect& connected() const { return connected_; }
    // Null: there is none, and error() says why if it should be there.
    [[nodiscard]] const Port* way() const { return port_.get(); }

  private:
    void read_description();
    void watch_frontend();
    void unwatch_frontend();
    // False: the store does not answer.
    [[nodiscard]] bool gather();
    void act(Action action);
    [[nodiscard]] NicNodes read_nodes() const;
    void open_port();
    [[nodiscard]] Result<void> try_make_port();
    [[nodiscard]] Result<std::unique_ptr<Port>> make_own_port();
    void port_opened(const Result<void>& opened);
    void remove_port();
    void connect();
    [[nodiscard]] Result<void> try_connect();
    void connect_answered(const Answer& answer);
    // False: it has been waited for long enough.
    [[nodiscard]] bool wait_for_address(const std::string& why);
    void disconnect();
    void reconnect();
    void ring_gone();
    void forget_rings();
    // What may change while it is connected: the rate, whether the guest names its multicasts, what the port takes.
    void follow_wishes();
    void publish(xen::XenbusState state, const std::function<void(xen::Store::Update&)>& more);
    void write_features(xen::Store::Update& update) const;
    void write_refusal(xen::Store::Update& update) const;
    void request(MessageType type, const std::function<void(Message&)>& fill, std::vector<UniqueFd> descriptors,
                 Reply reply);
    void look_after(std::chrono::milliseconds delay);
    [[nodiscard]] uint16_t max_queues() const;
    [[nodiscard]] std::string read(const char* key) const;
    [[nodiscard]] std::string journal_path() const;
    [[nodiscard]] Result<UniqueFd> open_journal(bool fresh) const;

    // Lines that a guest can cause.
    template <typename... Args>
    void log_guest(fmt::format_string<Args...> format, Args&&... args) {
        if (limiter_.allow()) log::warning("{}: {}", id_.text(), fmt::format(format, std::forward<Args>(args)...));
    }

    Surroundings& around_;
    const xen::DeviceId id_;
    const std::string directory_;
    std::string frontend_;
    std::string watched_;  // the frontend's directory, when its nodes are watched
    std::unique_ptr<Port> port_;

    View view_;
    PortPhase phase_ = PortPhase::none;
    RingPhase ring_ = RingPhase::none;
    bool broken_ = false;
    bool announced_ = false;
    bool resume_ = false;      // the rings were served before, and stay the frontend's
    bool adopting_ = false;    // the worker may yet present it
    bool asking_stats_ = false;
    bool reborn_ = false;      // the directory was removed and made again: this object is of the former one
    bool refused_ = false;     // a kernel driver holds the node: hands off
    std::string rate_text_;
    Connect connected_{};
    std::string error_;        // why there is no port, or why the connection ended
    std::optional<Clock::time_point> closing_since_;
    std::optional<Clock::time_point> address_taken_since_;
    Clock::time_point ask_for_address_{};
    std::optional<EventLoop::Timer> timer_;
    uint32_t pending_ = 0;     // replies that will still call into this object
    LogLimiter limiter_;
};

}  // namespace ringback::net
