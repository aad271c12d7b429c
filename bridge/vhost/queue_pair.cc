// SPDX-License-Identifier: Apache-2.0
#include "bridge/vhost/queue_pair.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace ringback::bridge::vhost {

namespace {

// As the device sees it: our header, and how many slots a packet from it takes (virtio_net_hdr_v1).
struct DeviceHeader {
    VnetHeader header;
    uint16_t slots;
};
static_assert(sizeof(DeviceHeader) == 12);

uint16_t load(uint16_t& shared) { return std::atomic_ref(shared).load(std::memory_order_acquire); }
void store(uint16_t& shared, uint16_t value) { std::atomic_ref(shared).store(value, std::memory_order_release); }
uint16_t minus(uint16_t a, uint16_t b) { return static_cast<uint16_t>(a - b); }
uint16_t plus(uint16_t a, size_t b) { return static_cast<uint16_t>(a + b); }

}  // namespace

QueuePair::QueuePair(RingPair& memory)
    : rings_(memory),
      received_(minus(load(memory.to_driver.available.index), kSlots)),
      sent_(load(memory.to_device.available.index)),
      done_(load(memory.to_device.used.index)) {
    // What an earlier worker sent and the device has not given back.
    const Ring& ring = rings_.to_device;
    if (minus(sent_, done_) > kSlots) broken_ = true;
    for (uint16_t at = done_; at != sent_ && !broken_; ++at) {
        const uint16_t first = ring.available.ring[at % kSlots];
        uint16_t length = 1;
        while (length <= free_ && (ring.descriptors[plus(first, length - size_t{1}) % kSlots].flags & kChained) != 0) ++length;
        broken_ = length > free_;
        if (broken_) break;
        lengths_[at % kSlots] = length;
        free_ = minus(free_, length);
        next_ = plus(first, length) % kSlots;
    }
}

void QueuePair::reclaim() {
    const uint16_t done = load(rings_.to_device.used.index);
    if (minus(done, done_) > minus(sent_, done_)) {
        broken_ = true;
        return;
    }
    for (; done_ != done; ++done_) free_ = plus(free_, lengths_[done_ % kSlots]);
}

bool QueuePair::send(const VnetHeader& header, std::span<const std::span<const std::byte>> parts) {
    size_t size = sizeof(DeviceHeader);
    for (const auto& part : parts) size += part.size();
    const size_t slots = (size + kBufferBytes - 1) / kBufferBytes;
    if (free_ < slots) reclaim();
    if (free_ < slots || broken_) return false;
    Ring& ring = rings_.to_device;
    const uint16_t first = next_;
    const DeviceHeader head{header, 0};
    std::memcpy(ring.buffers[first].data(), &head, sizeof head);
    size_t used = sizeof head;  // of the slot's buffer
    for (std::span<const std::byte> part : parts) {
        while (!part.empty()) {
            if (used == kBufferBytes) {
                ring.descriptors[next_].length = kBufferBytes;
                ring.descriptors[next_].flags = kChained;
                next_ = plus(next_, 1) % kSlots;
                used = 0;
            }
            const size_t some = std::min(part.size(), kBufferBytes - used);
            std::memcpy(ring.buffers[next_].data() + used, part.data(), some);
            used += some;
            part = part.subspan(some);
        }
    }
    ring.descriptors[next_].length = static_cast<uint32_t>(used);
    ring.descriptors[next_].flags = 0;
    next_ = plus(next_, 1) % kSlots;
    free_ = minus(free_, static_cast<uint16_t>(slots));
    lengths_[sent_ % kSlots] = static_cast<uint16_t>(slots);
    ring.available.ring[sent_ % kSlots] = first;
    store(ring.available.index, ++sent_);
    return true;
}

bool QueuePair::has_packets() const { return load(rings_.to_driver.used.index) != received_ && !broken_; }

// Slots that the device has filled; 0: none, and it has been asked to notify.
uint16_t QueuePair::waiting() {
    Ring& ring = rings_.to_driver;
    uint16_t filled = minus(load(ring.used.index), received_);
    if (filled == 0 && !armed_) {
        store(ring.available.flags, 0);
        armed_ = true;
        std::atomic_thread_fence(std::memory_order_seq_cst);
        filled = minus(load(ring.used.index), received_);
    }
    if (filled != 0 && armed_) {
        store(ring.available.flags, kNoInterrupt);
        armed_ = false;
    }
    if (filled > kSlots) broken_ = true;
    return broken_ ? uint16_t{0} : filled;
}

size_t QueuePair::receive(std::span<std::byte> to) {
    const uint16_t filled = waiting();
    if (filled == 0) return 0;
    Ring& ring = rings_.to_driver;
    DeviceHeader head;
    std::memcpy(&head, ring.buffers[received_ % kSlots].data(), sizeof head);
    if (head.slots == 0 || head.slots > filled) {
        broken_ = true;
        return 0;
    }
    std::array<uint32_t, kSlots> lengths;
    for (uint16_t i = 0; i < head.slots; ++i) {
        UsedElement element;
        std::memcpy(&element, &ring.used.ring[plus(received_, i) % kSlots], sizeof element);
        lengths[i] = element.length;
        if (element.id != plus(received_, i) % kSlots || element.length > kBufferBytes) broken_ = true;
    }
    if (lengths[0] < sizeof head) broken_ = true;
    if (broken_) return 0;
    size_t size = 0;
    const auto add = [&](const std::byte* from, size_t count) {
        if (size + count <= to.size()) std::memcpy(to.data() + size, from, count);
        size += count;
    };
    add(reinterpret_cast<const std::byte*>(&head.header), sizeof head.header);
    for (uint16_t i = 0; i < head.slots; ++i) {
        const size_t skip = i == 0 ? sizeof head : 0;
        add(ring.buffers[plus(received_, i) % kSlots].data() + skip, lengths[i] - skip);
    }
    received_ = plus(received_, head.slots);
    store(ring.available.index, plus(received_, kSlots));
    return size;
}

}  // namespace ringback::bridge::vhost
