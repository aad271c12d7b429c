// SPDX-License-Identifier: Apache-2.0
//
// QueuePair: the driver's side of two virtio rings: packets to the device, packets from it, each with a vnet header.
//
// A packet is copied between the caller's memory and the ring's buffers, in as many slots as it takes. Slots are used in
// turn and given back in turn, as the device that this is for does (VIRTIO_F_IN_ORDER); so all that a successor has to know is
// in the shared memory: what was sent and not taken is still under way, and what was received and not read is still there.
//
// The device is another process and may be wrong: each number of its is read once and checked, and rings that make no sense are
// broken for good, which costs the vif. The device polls, so it is never notified; it notifies the event descriptor
// only after receive() has found nothing.
//
// Source: virtio 1.2, 2.7 and 5.1.6. Thread: one owner. No allocation, no lock, no system call.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "bridge/vhost/ring_memory.h"
#include "bridge/vnet_header.h"

namespace ringback::bridge::vhost {

class QueuePair {
  public:
    explicit QueuePair(RingPair& memory);

    // False: no room now, as the device does not take what it was given.
    [[nodiscard]] bool send(const VnetHeader& header, std::span<const std::span<const std::byte>> parts);
    // The next packet and its header before it. 0: there is none, and the device notifies of the next one. More than `to` holds:
    // it was too large, and is gone.
    [[nodiscard]] size_t receive(std::span<std::byte> to);
    [[nodiscard]] bool has_packets() const;
    [[nodiscard]] bool broken() const { return broken_; }

  private:
    void reclaim();
    [[nodiscard]] uint16_t waiting();

    RingPair& rings_;
    uint16_t received_;           // packets' slots read so far, as the ring counts
    uint16_t sent_;
    uint16_t done_;               // of these: given back
    uint16_t next_ = 0;           // the slot after the last packet's
    uint16_t free_ = kSlots;
    bool armed_ = false;          // the device notifies
    bool broken_ = false;
    std::array<uint16_t, kSlots> lengths_{};  // slots of each packet under way
};

}  // namespace ringback::bridge::vhost
