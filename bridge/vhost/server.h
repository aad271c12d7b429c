// SPDX-License-Identifier: Apache-2.0
//
// Server: the driver's end of vhost-user, on the listening side: how Open vSwitch (dpdkvhostuserclient) is handed a vif's rings.
//
// Open vSwitch connects, and connects again each second when it has lost us; so both sides may be restarted in any order. It
// is told the rings once they are there (start()), and again each time. What is on them stays: a new device goes on behind what
// the former one has given back. When that is done the connection is silent until it ends, and can be handed to a successor
// (connection(), adopt()): Open vSwitch does not notice then that this process has been replaced.
//
// Not DPDK's own virtio_user driver: its probe blocks until somebody connects, its memory is the process's whole heap, and its
// rings go with its process. Here the rings are a file (ring_memory.h) that outlives whoever serves them.
//
// Source: QEMU, docs/interop/vhost-user.rst (front-end is the driver). Thread: the event loop's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bridge/vhost/ring_memory.h"
#include "runtime/event_loop.h"
#include "runtime/unique_fd.h"

namespace ringback::bridge::vhost {

// What a side takes unfinished: a blank checksum, TCP to be cut.
struct Abilities {
    bool checksum = false;
    bool tcp4 = false;  // with checksum only
    bool tcp6 = false;
    bool operator==(const Abilities&) const = default;
};

class Server {
  public:
    struct Events {
        std::function<void(const Abilities&)> up;     // the device works on the rings
        std::function<void()> down;                   // it does no more, after it did
        std::function<void(const std::string&)> bad;  // a device that cannot be used: why
    };

    // A socket in the place of whatever was there. Nobody is answered before start().
    [[nodiscard]] static Result<std::unique_ptr<Server>> listen(EventLoop& loop, std::string path, Events events);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    // `events`: of each pair, what the device notifies; it is lent, as is the memory, until stop().
    void start(const RingMemory& memory, std::vector<int> events, const Abilities& guest);
    // The device lets go of the rings: its connection ends.
    void stop();
    // After start(): a connection whose device works on these rings already.
    void adopt(UniqueFd connection, const Abilities& device);
    [[nodiscard]] int connection() const { return step_ == Step::up ? connection_.get() : -1; }

  private:
    enum class Step : uint8_t { idle, features, protocol, rings, up };
    struct Message;

    Server(EventLoop& loop, std::string path, Events events)
        : loop_(loop), path_(std::move(path)), events_(std::move(events)) {}
    void accept_one();
    [[nodiscard]] Result<void> watch_connection();
    void readable();
    [[nodiscard]] Result<void> receive();
    [[nodiscard]] Result<void> handle(const Message& message);
    [[nodiscard]] Result<void> hand_over_rings();
    [[nodiscard]] Result<void> describe_ring(uint32_t number, Ring& ring, size_t address, int event);
    [[nodiscard]] Result<void> ask(uint32_t request);
    [[nodiscard]] Result<void> send(const Message& message, int descriptor = -1);
    void begin();
    void drop();

    EventLoop& loop_;
    const std::string path_;
    Events events_;
    UniqueFd listener_;
    UniqueFd connection_;
    Step step_ = Step::idle;
    const RingMemory* memory_ = nullptr;
    std::vector<int> notify_;
    Abilities guest_;
    uint64_t features_ = 0;   // the device's, then those that both have
    bool many_queues_ = false;
};

}  // namespace ringback::bridge::vhost
