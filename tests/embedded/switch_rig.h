// SPDX-License-Identifier: Apache-2.0
//
// Several guests on one switch in one thread: their queues, and the worker's half of their vifs. As netback_rig.h without
// TAPs; everything is the product's code but XenBus and the process boundary.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "netback/worker/fabric.h"
#include "netback_rig.h"

namespace ringback::test {

struct SwitchGuestOptions {
    uint16_t queues = 1;
    bool scatter_gather = true;
    bool gso = true;
    bool csum4 = true;
    bool csum6 = true;
    uint32_t rx_buffers = 256;
    uint16_t vlan = 1;
    std::vector<uint16_t> trunks{};
    bool any_source = false;
    std::string given{};  // IP addresses
    uint64_t floods_per_second = 0;
};

struct SwitchGuest {
    SwitchGuestOptions options;
    uint16_t domid = 0;
    bridge::MacAddress address{};
    std::unique_ptr<xen::embedded::Guest> guest;
    UniqueFd journal;
    std::unique_ptr<net::worker::Vif> vif;
    std::vector<frontend::NetQueue> queues;
    std::vector<GuestPacket> received;
    bool reads = true;  // takes its packets and offers new buffers
    std::string failure;
};

class SwitchRig {
  public:
    explicit SwitchRig(const std::vector<SwitchGuestOptions>& options);
    ~SwitchRig();

    Result<void> try_connect(size_t guest, bool resumed = false);
    void disconnect(size_t guest);
    void turn();
    template <typename Condition>
    bool turn_until(Condition condition) {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        while (!condition()) {
            if (std::chrono::steady_clock::now() > deadline) return false;
            turn();
        }
        return true;
    }
    // Sends, and turns until the sender is answered and has nothing under way.
    void send(size_t guest, const std::vector<std::byte>& packet, const frontend::PacketInfo& info = {}, size_t piece = 4096,
              size_t queue = 0);
    // With these guests' addresses; `to` past the last guest: nobody's.
    [[nodiscard]] std::vector<std::byte> addressed(std::vector<std::byte> packet, size_t from, size_t to) const;
    [[nodiscard]] net::Stats stats(size_t guest) const { return guests[guest].vif->stats(); }
    // What the worker's handle to the grants has counted.
    [[nodiscard]] const xen::GrantCounters& counters() const { return grants.front().counters(); }

    CoreProcess core;
    xen::embedded::Toolstack toolstack;
    std::unique_ptr<Reactor> reactor;
    std::unique_ptr<xen::EventChannels> events;
    std::vector<xen::GrantTable> grants;
    net::worker::Batch batch;
    net::worker::Fabric fabric;
    std::vector<net::worker::Queue*> queues_by_port;
    std::vector<SwitchGuest> guests;

  private:
    EventsWatch watch_;
};

}  // namespace ringback::test
