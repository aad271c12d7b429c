// SPDX-License-Identifier: Apache-2.0
//
// PacketPool and WaitingQueue: memory for packets that have to wait for their guest.
//
// One pool per worker, of DPDK's buffers (rte_mbuf), fixed at its start: what is full is full, and a packet that finds no
// place is dropped and counted. A queue is bounded in packets and in bytes, so that one guest that does not read takes its
// own share and no more. Packets that do not have to wait never come here.
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
    ~PacketPool();
    PacketPool(const PacketPool&) = delete;
    PacketPool& operator=(const PacketPool&) = delete;
    [[nodiscard]] uint32_t free() const;

  private:
    friend class WaitingQueue;
    PacketPool() = default;
    rte_mempool* pool_ = nullptr;
};

class WaitingQueue {
  public:
    static constexpr size_t kMostParts = 40;  // that a packet may come in or be kept in

    WaitingQueue(PacketPool& pool, size_t packets, size_t bytes);
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
    [[nodiscard]] const Place& at(size_t i) const { return places_[(head_ + i) % places_.size()]; }

    PacketPool& pool_;
    const size_t most_bytes_;
    std::vector<Place> places_;
    size_t head_ = 0;
    size_t count_ = 0;
    size_t bytes_ = 0;
};

}  // namespace ringback::bridge
