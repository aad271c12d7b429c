// SPDX-License-Identifier: Apache-2.0
//
// PacketPool and WaitingQueue: memory for packets that have to wait for their guest.
//
// One pool per worker, of DPDK's buffers (rte_mbuf), fixed at its start: what is full is full, and a packet that finds no
// place is dropped and counted. A queue is bounded in packets and in bytes; all queues of a NIC together by its share. One half
// of the pool is kept for shares: each NIC has some buffers there that nobody else takes, enough for a packet of the largest size
// as long as there are not hundreds of NICs. The other half is for whoever comes first, but no NIC gets more than a quarter
// of it. So guests that do not read, however many, leave room for the packets of one that does. Packets that do not have to wait
// never come here.
//
// Thread: one owner. Nothing here allocates from the heap after creation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/result.h"

struct rte_mbuf;
struct rte_mempool;

namespace ringback::bridge {

class PacketPool {
  public:
    // DPDK runs.
    [[nodiscard]] static Result<std::unique_ptr<PacketPool>> create(uint32_t buffers);
    // Of one NIC; outlives its queues.
    class Share {
      public:
        explicit Share(PacketPool& pool) : pool_(pool) { ++pool_.shares_; }
        ~Share() { --pool_.shares_; }
        Share(const Share&) = delete;
        Share& operator=(const Share&) = delete;
        [[nodiscard]] size_t held() const { return own_ + common_; }

      private:
        friend class WaitingQueue;
        [[nodiscard]] bool take(size_t buffers);
        void give_back(size_t buffers);
        PacketPool& pool_;
        size_t own_ = 0;     // of what is kept for it
        size_t common_ = 0;  // of what is there for all
    };
    ~PacketPool();
    PacketPool(const PacketPool&) = delete;
    PacketPool& operator=(const PacketPool&) = delete;
    [[nodiscard]] uint32_t free() const;

  private:
    friend class WaitingQueue;
    explicit PacketPool(uint32_t buffers) : half_(buffers / 2), common_left_(half_) {}
    rte_mempool* pool_ = nullptr;
    const size_t half_;
    size_t common_left_;
    size_t shares_ = 0;
};

class WaitingQueue {
  public:
    static constexpr size_t kMostParts = 40;  // that a packet may come in or be kept in

    WaitingQueue(PacketPool::Share& share, size_t packets, size_t bytes);
    ~WaitingQueue();
    WaitingQueue(const WaitingQueue&) = delete;
    WaitingQueue& operator=(const WaitingQueue&) = delete;

    // Copies the packet. False: no room. `note` comes back with it.
    [[nodiscard]] bool push(std::span<const std::span<const std::byte>> parts, uint64_t note);
    [[nodiscard]] bool empty() const { return count_ == 0; }
    [[nodiscard]] size_t count() const { return count_; }
    [[nodiscard]] size_t bytes() const { return bytes_; }

    // The i-th from the front.
    [[nodiscard]] uint32_t size(size_t i) const { return at(i).size; }
    [[nodiscard]] uint64_t note(size_t i) const { return at(i).note; }
    // Returns how many parts it lies in.
    [[nodiscard]] size_t parts(size_t i, std::span<std::span<std::byte>> to) const;
    void pop(size_t packets);

  private:
    struct Place {
        rte_mbuf* first = nullptr;
        uint32_t size = 0;
        uint64_t note = 0;
    };
    [[nodiscard]] static size_t buffers_for(size_t size);
    [[nodiscard]] const Place& at(size_t i) const { return places_[(head_ + i) % places_.size()]; }

    PacketPool::Share& share_;
    const size_t most_bytes_;
    std::vector<Place> places_;
    size_t head_ = 0;
    size_t count_ = 0;
    size_t bytes_ = 0;
};

}  // namespace ringback::bridge
