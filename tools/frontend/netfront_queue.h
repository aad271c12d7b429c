// SPDX-License-Identifier: Apache-2.0
//
// One queue of a netif frontend on the embedded core: a tx and an rx ring, one event channel or two, and a page for each
// slot of either.
//
// It is as strict with its backend as Linux's netfront (drivers/net/xen-netfront.c, Linux 6.1), because that is the
// frontend a backend has to live with: a response with an id that is not pending, more responses than requests, a page
// that is still in use when its slot is answered, a packet without its last slots, and the queue is broken for good
// (broken()).
//
// Packets are copied between the caller's memory and granted pages. Nothing is allocated per packet.
//
// Thread: one at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "hypervisor/embedded/guest.h"
#include "hypervisor/netif_abi.h"
#include "hypervisor/ring.h"
#include "runtime/result.h"

namespace ringback::frontend {

// What is said of a packet beside its bytes, in both directions.
struct PacketInfo {
    bool csum_blank = false;
    bool data_validated = false;
    xen::netif::GsoType gso = xen::netif::GsoType::none;
    uint16_t gso_size = 0;
};

struct NetQueueCounters {
    uint64_t tx_packets = 0;
    uint64_t tx_failed = 0;  // answered with an error
    uint64_t rx_packets = 0;
    uint64_t rx_failed = 0;
    uint64_t notifies = 0;
    uint64_t events = 0;
};

class NetQueue {
  public:
    struct Options {
        uint16_t backend_domid = 0;
        bool split_ports = true;
        uint32_t rx_buffers = xen::netif::kRxEntries;  // at most so many are posted
    };
    using Receiver = std::function<void(std::span<const std::byte> packet, const PacketInfo& info)>;

    // Allocates and grants rings and pages, and a port or two for the backend.
    [[nodiscard]] static Result<NetQueue> create(xen::embedded::Guest& guest, const Options& options);
    NetQueue(NetQueue&&) noexcept = default;
    NetQueue& operator=(NetQueue&&) noexcept = delete;
    ~NetQueue();

    [[nodiscard]] uint32_t tx_ring_ref() const { return refs_[kTxRing]; }
    [[nodiscard]] uint32_t rx_ring_ref() const { return refs_[kRxRing]; }
    [[nodiscard]] uint32_t tx_port() const { return tx_port_.number(); }
    [[nodiscard]] uint32_t rx_port() const { return split_ ? rx_port_.number() : tx_port_.number(); }
    // Readable when the backend has notified; the same twice with one port.
    [[nodiscard]] int tx_fd() const { return tx_port_.fd(); }
    [[nodiscard]] int rx_fd() const { return split_ ? rx_port_.fd() : tx_port_.fd(); }
    void clear_events();

    // Puts a packet on the tx ring, in parts of `piece` bytes at most. False: no room now, or broken.
    [[nodiscard]] bool send(std::span<const std::byte> packet, const PacketInfo& info = {},
                            size_t piece = 4096);
    // Adds an address to the backend's list for this NIC, or takes it away.
    [[nodiscard]] bool name_multicast(const std::array<uint8_t, 6>& address, bool add);
    // Shows the backend what was sent, and buffers for what it may send; notifies if it asked for that.
    void push();
    // Takes all responses there are, and with `arm` makes the next one bring an event.
    void reap(const Receiver& receiver, bool arm = true);
    [[nodiscard]] uint32_t tx_in_flight() const { return tx_prod_ - tx_cons_; }

    [[nodiscard]] const std::string& broken() const { return broken_; }
    [[nodiscard]] const NetQueueCounters& counters() const { return counters_; }
    // Takes all grants back. Returns how many the backend still has in use.
    [[nodiscard]] uint32_t release();

    // The rings as they are, for tests that play a hostile frontend.
    [[nodiscard]] std::byte* tx_shared() const { return tx_ring_; }
    [[nodiscard]] std::byte* rx_shared() const { return rx_ring_; }
    [[nodiscard]] std::byte* tx_page(uint32_t index) const { return pages_ + (2 + index) * size_t{4096}; }
    [[nodiscard]] uint32_t tx_page_ref(uint32_t index) const { return refs_[2 + index]; }
    void grant_tx_page(uint32_t index) const;
    void notify_tx() { tx_port_.notify(); }
    void notify_rx() { (split_ ? rx_port_ : tx_port_).notify(); }

  private:
    static constexpr size_t kTxRing = 0;
    static constexpr size_t kRxRing = 1;
    static constexpr uint32_t kEntries = xen::netif::kTxEntries;
    static constexpr uint32_t kPages = 2 + 2 * kEntries;

    NetQueue() = default;
    [[nodiscard]] xen::SharedRingHeader& tx_header() const {
        return *reinterpret_cast<xen::SharedRingHeader*>(tx_ring_);
    }
    [[nodiscard]] xen::SharedRingHeader& rx_header() const {
        return *reinterpret_cast<xen::SharedRingHeader*>(rx_ring_);
    }
    [[nodiscard]] std::byte* rx_page(uint32_t slot) const { return pages_ + (2 + kEntries + slot) * size_t{4096}; }
    [[nodiscard]] uint32_t rx_ref(uint32_t slot) const { return refs_[2 + kEntries + slot]; }
    void reap_tx();
    void reap_rx(const Receiver& receiver);
    // One packet from rx_cons_ on; false: broken.
    [[nodiscard]] bool take_packet(uint32_t rsp_prod, const Receiver& receiver);
    void post_buffers();
    void fail(std::string why);

    xen::embedded::Guest* guest_ = nullptr;
    bool split_ = true;
    bool released_ = false;
    uint32_t rx_buffers_ = 0;
    uint32_t first_frame_ = 0;
    std::byte* pages_ = nullptr;
    std::byte* tx_ring_ = nullptr;
    std::byte* rx_ring_ = nullptr;
    std::vector<uint32_t> refs_;
    xen::embedded::GuestPort tx_port_;
    xen::embedded::GuestPort rx_port_;
    std::vector<uint16_t> free_tx_;
    std::vector<bool> tx_pending_;
    uint32_t tx_prod_ = 0;
    uint32_t tx_pushed_ = 0;
    uint32_t tx_cons_ = 0;
    uint32_t rx_prod_ = 0;
    uint32_t rx_pushed_ = 0;
    uint32_t rx_cons_ = 0;
    std::vector<std::byte> packet_;
    uint16_t backend_ = 0;
    std::string broken_;
    NetQueueCounters counters_;
};

}  // namespace ringback::frontend
