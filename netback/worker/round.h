// SPDX-License-Identifier: Apache-2.0
//
// Round: the frames that are on their way to guests in one go through the built-in switch, and the planning for them.
//
// A frame takes its slots when it is planned; all copies of a round are one call, or a few when a flood is large. Then every
// queue that got something is journalled, answered, published once and at most once notified. One round serves a worker; it
// is empty between two tasks. Its memory is fixed.
//
// Thread: the reactor's.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "bridge/switch/switch.h"
#include "netback/worker/queue.h"

namespace ringback::net::worker {

// Of a guest's packet, so much is read at once and looked at. All headers that are understood fit.
inline constexpr uint32_t kHead = 256;
inline constexpr uint16_t kNoSource = UINT16_MAX;

[[nodiscard]] inline uint16_t pages_of(uint32_t size) {
    return static_cast<uint16_t>((size + xen::kPageSize - 1) / xen::kPageSize);
}
[[nodiscard]] inline uint16_t slots_of(uint32_t size, const RxOffload& offload) {
    return static_cast<uint16_t>(pages_of(size) + (offload.gso != xen::netif::GsoType::none ? 1 : 0));
}

// For a packet that waits.
[[nodiscard]] inline uint64_t pack(const RxOffload& offload) {
    return uint64_t{offload.flags} << 32 | static_cast<uint64_t>(offload.gso) << 16 | offload.gso_size;
}
[[nodiscard]] inline RxOffload unpack(uint64_t note) {
    return {static_cast<uint16_t>(note >> 32), static_cast<xen::netif::GsoType>(note >> 16 & 0xff),
            static_cast<uint16_t>(note)};
}

// What was decided about a packet of the batch.
struct Plan {
    bridge::Verdict verdict;
    bridge::VnetHeader header{};
    bool v6 = false;
    bool whole = false;      // all of it has to be read: it is changed, kept, or for several
    bool completed = false;  // its checksum was blank and is not any more
};

// A frame that has its slots.
struct RoundFrame {
    Queue* to;
    uint32_t index;       // of its first slot, as the ring counts
    uint32_t first_slot;  // in Round::slots
    uint32_t size;
    RxOffload offload;
    uint16_t slots;
    uint16_t source;  // the packet of the batch whose grants are read, if so
    bool failed;
};

struct Round {
    static constexpr size_t kFrames = 1024;
    static constexpr size_t kSlots = 4096;
    static constexpr size_t kCopies = 4096;
    static constexpr size_t kScratch = 64U << 10;
    // Of one frame.
    static constexpr size_t kFrameSlots = 18;
    static constexpr size_t kFrameCopies = bridge::WaitingQueue::kMostParts + kFrameSlots;

    Round() : scratch(std::make_unique<std::byte[]>(kScratch)) {
        frames.reserve(kFrames);
        slots.reserve(kSlots);
        copies.reserve(kCopies);
        owners.reserve(kCopies);
        touched.reserve(kFrames);
    }
    // No room for another frame and its headers.
    [[nodiscard]] bool full() const {
        return frames.size() == kFrames || slots.size() + kFrameSlots > kSlots || copies.size() + kFrameCopies > kCopies ||
               scratch_used + kHead + 2 * sizeof(uint32_t) > kScratch;
    }
    // Memory until the end of the round.
    [[nodiscard]] std::byte* scribble(size_t size) {
        std::byte* place = scratch.get() + scratch_used;
        scratch_used += size;
        return place;
    }

    std::vector<RoundFrame> frames;
    std::vector<xen::netif::RxRequest> slots;
    std::vector<xen::CopySegment> copies;
    std::vector<uint16_t> owners;  // of each copy: the frame
    std::vector<Queue*> touched;
    std::array<Plan, Batch::kPackets> plans;
    std::unique_ptr<std::byte[]> scratch;
    size_t scratch_used = 0;
    uint64_t number = 0;
};

}  // namespace ringback::net::worker
