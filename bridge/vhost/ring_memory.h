// SPDX-License-Identifier: Apache-2.0
//
// RingMemory: the rings and packet buffers that a virtio network driver shares with its device, in a file of their own.
//
// The device is another process (Open vSwitch with DPDK), which maps the file; the driver is the switch worker. Nothing but this
// is shared with it: no guest's page and no heap. Everything has its fixed place, so that the file alone says where both
// sides stand, and a successor of a worker that died goes on with it (queue_pair.h). The file cannot be made shorter, so no
// access to it can fault; what stands in it is believed by nobody.
//
// Layout: virtio 1.2, 2.7 (split virtqueues) and 5.1 (network device). Slot i has buffer i for ever; in the ring towards the
// guest all slots are the device's from the first.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback::bridge::vhost {

inline constexpr uint16_t kSlots = 256;
inline constexpr uint32_t kBufferBytes = 2048;  // a packet of 1500 bytes fits one
inline constexpr uint16_t kChained = 1;         // of a descriptor: goes on in the next one
inline constexpr uint16_t kDeviceWrites = 2;
inline constexpr uint16_t kNoInterrupt = 1;     // of an available ring

struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};
struct Available {
    uint16_t flags;
    uint16_t index;
    std::array<uint16_t, kSlots> ring;
    uint16_t used_event;
};
struct UsedElement {
    uint32_t id;
    uint32_t length;
};
struct Used {
    uint16_t flags;
    uint16_t index;
    std::array<UsedElement, kSlots> ring;
    uint16_t available_event;
};
static_assert(sizeof(Descriptor) == 16 && sizeof(UsedElement) == 8 && offsetof(Used, ring) == 4);

struct Ring {
    std::array<Descriptor, kSlots> descriptors;
    alignas(64) Available available;
    alignas(64) Used used;
    alignas(4096) std::array<std::array<std::byte, kBufferBytes>, kSlots> buffers;
};
struct RingPair {
    Ring to_driver;
    Ring to_device;
};
static_assert(sizeof(RingPair) % 4096 == 0);

class RingMemory {
  public:
    // Where the device is told that it begins.
    static constexpr uint64_t kBase = uint64_t{1} << 32;

    // New rings, nothing on them.
    [[nodiscard]] static Result<RingMemory> create(size_t pairs);
    // Those of a file that create() has made, in whatever state they are.
    [[nodiscard]] static Result<RingMemory> map(UniqueFd file, size_t pairs);
    RingMemory(RingMemory&& other) noexcept;
    RingMemory& operator=(RingMemory&&) = delete;
    ~RingMemory();

    [[nodiscard]] RingPair& pair(size_t number) const { return pairs_[number]; }
    [[nodiscard]] size_t pairs() const { return count_; }
    [[nodiscard]] size_t bytes() const { return count_ * sizeof(RingPair); }
    [[nodiscard]] int fd() const { return file_.get(); }
    // As the device names the place.
    [[nodiscard]] static uint64_t address_of(size_t pair, size_t offset) { return kBase + pair * sizeof(RingPair) + offset; }

  private:
    RingMemory(UniqueFd file, RingPair* pairs, size_t count) : file_(std::move(file)), pairs_(pairs), count_(count) {}
    UniqueFd file_;
    RingPair* pairs_;
    size_t count_;
};

}  // namespace ringback::bridge::vhost
