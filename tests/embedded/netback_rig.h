// SPDX-License-Identifier: Apache-2.0
//
// A guest's queues and the worker's half of the same vif in one thread. A socket pair stands for the TAP: packets with a
// vnet header go through it in the same form. Everything is the product's code but XenBus, the process boundary and the
// network device, which other tests cover.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "bridge/vnet_header.h"
#include "core_fixture.h"
#include "netback/worker/vif.h"
#include "tools/frontend/netfront_queue.h"

namespace ringback::test {

struct NetRigOptions {
    uint16_t queues = 1;
    bool split_ports = true;
    bool scatter_gather = true;
    bool gso = true;
    bool csum4 = true;
    bool csum6 = true;
    bool rx_notify = true;
    uint32_t rx_buffers = 256;
    net::Rate rate{};
    net::PortState port_state{1, 1, 1, 1};
    bool connect = true;
};

// A packet as it goes through the port.
struct PortPacket {
    bridge::VnetHeader header{};
    std::vector<std::byte> data;
};
struct GuestPacket {
    frontend::PacketInfo info;
    std::vector<std::byte> data;
};

// Tells each queue of the events on its ports.
class EventsWatch : Completion {
  public:
    void start(Reactor& reactor, xen::EventChannels& events, const std::vector<net::worker::Queue*>& queues_by_port);

  private:
    xen::EventChannels* events_ = nullptr;
    const std::vector<net::worker::Queue*>* queues_ = nullptr;
};

class NetRig {
  public:
    explicit NetRig(const NetRigOptions& options = {});
    ~NetRig();

    Result<void> try_connect(bool resumed = false);
    // As the worker does: end, run what is scheduled, destroy.
    void disconnect();
    // Destroys it at once, as a crash would, with the guest's rings as they stand.
    void crash();
    // One turn of the guest and the worker.
    void turn();
    template <typename Condition>
    bool turn_until(Condition condition) {
        return repeat_until(condition, [this] { turn(); });
    }
    // From the guest, waited for until it is answered and has left the port; nothing: it did not come out.
    std::vector<PortPacket> transmit(const std::vector<std::byte>& packet, const frontend::PacketInfo& info = {},
                                     size_t piece = 4096);
    void inject(const PortPacket& packet, size_t queue = 0);
    // What the port has to give, of this queue.
    std::vector<PortPacket> take_port(size_t queue = 0);

    [[nodiscard]] net::Stats stats() const { return vif->stats(); }

    NetRigOptions options;
    CoreWithGuest core;
    std::unique_ptr<Reactor> reactor;
    std::unique_ptr<xen::EventChannels> events;
    std::vector<xen::GrantTable> grants;
    net::worker::Batch batch;
    std::vector<net::worker::Queue*> queues_by_port;
    UniqueFd journal;
    std::vector<UniqueFd> ports;  // our ends
    std::vector<UniqueFd> worker_ports;
    std::unique_ptr<net::worker::Vif> vif;
    std::vector<frontend::NetQueue> queues;
    std::vector<GuestPacket> received;
    std::vector<std::string> failures;
    bool tick_wanted = false;

  private:
    EventsWatch watch_;
};

// Packets for tests: whole, with right checksums unless said otherwise.
struct TcpShape {
    bool v6 = false;
    bool udp = false;
    bool vlan = false;
    size_t payload = 100;
    bool blank = false;  // only the pseudo header's sum in the checksum field
};
std::vector<std::byte> make_packet(const TcpShape& shape = {});
// Whether the TCP or UDP checksum of a packet that make_packet() could have made is right.
bool checksum_right(const std::vector<std::byte>& packet);
std::vector<std::byte> raw_packet(size_t size);

}  // namespace ringback::test
