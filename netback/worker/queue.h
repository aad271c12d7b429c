// SPDX-License-Identifier: Apache-2.0
//
// Queue: one pair of a vif's rings and the queue of the port behind it.
//
// Both directions are worked through in one go, in order, without anything left under way: a batch of slots is taken, all
// grants are copied by one call, the packets are handed over, the slots are answered, once published and at most once
// notified. So a queue owns no buffers; the batch lies in memory that all queues of a reactor share, one after the other.
//
//   tx  ring -> grant copy -> port (one write a packet) -> responses
//   rx  port (one read a packet) -> grant copy -> responses
//
// A guest that gives no receive buffers is not read for: its packets wait in the port's own bounded queue, which drops
// what is too much (frame_port.h). After kStallNs what waits is thrown away, so that a guest that comes back does not get old packets.
//
// A vif that is a port of the built-in switch has no such port: queue_switch.cc decides where its packets go and copies them
// from its guest's pages into the other's; queue_deliver.cc puts them on the rx ring, or keeps them while there is no room.
//
// Polling and sleeping are those of every ring here: reactor.h. The two event channels (or the one) stay masked from the
// event to the rest.
//
// Thread: the reactor's.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "bridge/switch/packet_pool.h"
#include "hypervisor/event_channel.h"
#include "hypervisor/grants.h"
#include "hypervisor/ring.h"
#include "netback/worker/frame_port.h"
#include "netback/worker/journal.h"
#include "netback/worker/offload.h"
#include "netback/worker/request.h"
#include "netback/worker_protocol.h"
#include "runtime/reactor.h"

namespace ringback::net::worker {

inline constexpr uint64_t kStallNs = 10'000'000'000;
inline constexpr const char* kPortBroken = "the device behind its port broke their rings";

// The memory of a batch, shared by all queues of a reactor.
struct Batch {
    static constexpr size_t kBytes = 512U << 10;
    static constexpr size_t kPackets = 128;
    static constexpr size_t kCopies = 512;
    // A packet begins here in its part of the bytes: the vnet header fits before it, and the IP header behind the
    // Ethernet header lies at a multiple of four.
    static constexpr size_t kRoom = 16 + 2;
    static constexpr size_t kAlign = 64;
    static_assert(kRoom >= sizeof(bridge::VnetHeader));
    // Where the part behind a packet's begins.
    static constexpr size_t behind(size_t begin, size_t size) {
        return (begin + kRoom + size + kAlign - 1) / kAlign * kAlign;
    }

    Batch();
    std::unique_ptr<std::byte[]> bytes;
    std::vector<xen::CopySegment> copies;
    std::vector<uint16_t> owners;  // of each copy: the packet it belongs to
    struct Tx {
        TxPacket packet;
        std::byte* data;  // behind room for the vnet header
    };
    struct Rx {
        std::byte* data;
        uint32_t size;
        RxOffload offload;
        uint16_t slots;
        uint16_t first_copy;
        bool failed;
    };
    std::vector<Tx> tx;
    std::vector<Rx> rx;
};

class Queue;
struct Round;

// A vif's place in the built-in switch (fabric.h).
struct VifContext;
struct SwitchLink {
    bridge::Switch* decide = nullptr;
    std::vector<VifContext*>* vifs = nullptr;  // by port; null: none
    bridge::PacketPool* pool = nullptr;
    Round* round = nullptr;
    bridge::PortIndex port = 0;
};

// What a vif's queues share.
struct VifContext {
    Reactor& reactor;
    xen::EventChannels& events;
    xen::GrantTable& grants;
    Batch& batch;
    xen::Domid domid = 0;
    uint32_t handle = 0;
    Connect parameters{};
    Stats stats{};
    MulticastList* multicast = nullptr;  // in the journal
    const char* broken = nullptr;
    SwitchLink* link = nullptr;   // null: its queues have frame ports
    std::vector<Queue*> queues{};
    std::optional<bridge::PacketPool::Share> waiting{};  // of the switch only
    bool ending = false;  // being disconnected: nothing more is begun
    // The guest's allowance: what is left of this interval, which may be less than nothing by one batch.
    int64_t credit = 0;
    uint64_t credit_until = 0;  // end of the interval, CLOCK_MONOTONIC nanoseconds
    // Called once when a queue found its frontend to break the protocol; when a queue wants tick() called.
    void (*on_broken)(VifContext&) noexcept = nullptr;
    void (*on_tick_wanted)(VifContext&) noexcept = nullptr;
    void* owner = nullptr;

    // True: the guest may send now.
    [[nodiscard]] bool may_send();
    // Whether its frame ports take a packet with this still to be done.
    [[nodiscard]] bool takes(const bridge::VnetHeader& header) const;
    // Whether the guest wants a packet to this address.
    [[nodiscard]] bool wants(const std::byte* address) const;
};

// Some bytes of a packet: here, or in a guest's page.
struct Piece {
    const std::byte* local = nullptr;
    xen::GrantRef gref = 0;
    xen::Domid domid = 0;
    uint16_t offset = 0;
    uint32_t size = 0;
};
struct Plan;
struct RoundFrame;

class Queue {
  public:
    struct Parameters {
        xen::GrantMapping tx_ring;
        xen::GrantMapping rx_ring;
        xen::Port tx_port = 0;
        xen::Port rx_port = 0;  // the same as tx_port: one for both
        std::optional<FramePort> port{};  // none: of the switch
        uint16_t number = 0;
        bool resumed = false;
    };

    Queue(VifContext& vif, QueueJournal& journal, Parameters parameters);
    ~Queue();
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;

    void start();
    [[nodiscard]] bool scheduled() const { return task_.scheduled; }
    void on_event(xen::Port port);
    // When it is to be looked at again for lack of an event that would tell, CLOCK_MONOTONIC; 0: not.
    [[nodiscard]] uint64_t next_tick() const;
    void tick(uint64_t now);

  private:
    struct QueueTask : Task {
        Queue* queue;
    };
    struct QueuePoll : PollSource {
        Queue* queue;
    };
    // Lives on until the kernel has told its last, which may be after the queue.
    struct PortWatch : Completion {
        Queue* queue;
        int fd;
    };
    struct TxSource;

    void kick() {
        if (!vif_.ending) vif_.reactor.schedule(task_);
    }
    void run();
    void recover();
    bool look();
    void rest();
    void go_idle();
    void break_vif(const char* reason);
    // queue_tx.cc
    bool transmit();
    [[nodiscard]] uint32_t to_transmit();
    bool take_tx(uint32_t available, uint32_t most);
    bool gather_tx(uint32_t available, uint32_t most);
    void copy_tx(size_t number, uint32_t from, uint32_t end);
    void run_tx_copies();
    void send(Batch::Tx& tx);
    [[nodiscard]] bool send_finished(const Batch::Tx& tx, const bridge::VnetHeader& header);
    void follow_list(TxPacket& packet);
    void answer_tx();
    // queue_rx.cc
    bool receive();
    [[nodiscard]] uint32_t slots_needed() const;
    size_t gather_rx(uint32_t available);
    void plan_rx(Batch::Rx& rx, const std::array<xen::netif::RxRequest, xen::netif::kRxEntries>& slots, size_t first);
    void answer_rx(const std::array<xen::netif::RxRequest, xen::netif::kRxEntries>& slots);
    void note_rx(const xen::netif::RxRequest* slots, uint32_t index, uint16_t count);
    void respond(const xen::netif::RxRequest* slot, uint32_t size, const RxOffload& offload, bool failed);
    void throw_away();
    // queue_switch.cc
    bool forward();
    void decide(size_t number, uint64_t now);
    void decide_one(size_t number, Plan& plan);
    void spread(size_t number);
    void hand_to(bridge::PortIndex port, size_t number);
    void cut_to(Queue& to, bool tagged, size_t number);
    [[nodiscard]] Queue* queue_of(VifContext* vif) const;
    // queue_deliver.cc
    bool deliver_waiting();
    void take_over(std::span<const Piece> pieces, uint32_t size, const RxOffload& offload, uint16_t source);
    void place(std::span<const Piece> pieces, uint32_t size, const RxOffload& offload, uint16_t source);
    [[nodiscard]] bool reserve(uint32_t slots);
    static void finish(VifContext& by);
    void notify(xen::Port port);

    VifContext& vif_;
    QueueJournal& journal_;
    xen::GrantMapping tx_mapping_;
    xen::GrantMapping rx_mapping_;
    xen::BackRing tx_;
    xen::BackRing rx_;
    const xen::Port tx_port_;
    const xen::Port rx_port_;
    std::optional<FramePort> port_;
    PortWatch* watch_ = nullptr;
    QueueTask task_;
    QueuePoll poll_;
    const bool resumed_;
    bool port_ready_ = true;      // it may have packets
    bool masked_tx_ = false;      // fired and was not written back
    bool masked_rx_ = false;
    uint64_t blocked_since_ = 0;  // packets wait and the guest has too few buffers
    bool rate_wait_ = false;      // requests wait for the guest's allowance
    const uint16_t number_;
    std::unique_ptr<bridge::WaitingQueue> waiting_;  // for rx slots; of the switch only
    uint64_t reserved_round_ = 0;  // of the round whose planning this is:
    uint32_t reserved_left_ = 0;   // slots not yet spoken for
    bool touched_ = false;         // has slots in this round
};

// All of them in one call, on this vif's account; `fail` is told the owner of each that went wrong.
template <typename Fail>
void run_copies(VifContext& vif, std::vector<xen::CopySegment>& copies, const std::vector<uint16_t>& owners, Fail fail) {
    if (copies.empty()) return;
    ++vif.stats.grant_copy_calls;
    vif.stats.grant_copy_segments += copies.size();
    const bool done = vif.grants.copy(copies);
    for (size_t i = 0; i < copies.size(); ++i) {
        if (!done || copies[i].status != 0) fail(owners[i]);
    }
}

}  // namespace ringback::net::worker
