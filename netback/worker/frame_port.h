// SPDX-License-Identifier: Apache-2.0
//
// FramePort: what a vif's queue sends frames to and reads them from, each with a vnet header that says what is still to be done to
// it: a queue of a TAP, or a pair of rings that Open vSwitch works on the other end of. The built-in switch is none: it moves no
// frames, it lets guests' pages be copied (queue_switch.cc).
//
// Thread: the reactor's. Nothing blocks.
#pragma once

#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "bridge/vhost/queue_pair.h"
#include "bridge/vnet_header.h"

namespace ringback::net::worker {

class FramePort {
  public:
    static constexpr size_t kMostParts = 2;

    // `fd` is a queue of a TAP, or what the device on these rings notifies; it stays the vif's.
    explicit FramePort(int fd) : fd_(fd) {}
    FramePort(int fd, bridge::vhost::RingPair& rings) : fd_(fd), rings_(std::make_unique<bridge::vhost::QueuePair>(rings)) {}

    // False: it takes nothing now, and the frame is lost as on a wire.
    [[nodiscard]] bool send(const bridge::VnetHeader& header, std::span<const std::span<const std::byte>> parts) {
        if (rings_) return rings_->send(header, parts);
        std::array<iovec, 1 + kMostParts> vector{{{const_cast<bridge::VnetHeader*>(&header), sizeof header}}};
        size_t count = 1;
        ssize_t size = sizeof header;
        for (const auto& part : parts) {
            vector[count++] = {const_cast<std::byte*>(part.data()), part.size()};
            size += static_cast<ssize_t>(part.size());
        }
        return ::writev(fd_, vector.data(), static_cast<int>(count)) == size;
    }
    // The next frame behind its vnet header; 0: none, and fd() tells of the next one. What is larger than `to` comes cut off, or
    // with its whole size and no content.
    [[nodiscard]] size_t receive(std::span<std::byte> to) {
        if (rings_) return rings_->receive(to);
        const ssize_t got = ::read(fd_, to.data(), to.size());
        return got < 0 ? 0 : static_cast<size_t>(got);
    }
    // Known without asking the kernel.
    [[nodiscard]] bool has_frames() const { return rings_ && rings_->has_packets(); }
    [[nodiscard]] int fd() const { return fd_; }
    // What fd() has told is known.
    void acknowledge() const {
        uint64_t count = 0;
        if (rings_) (void)!::read(fd_, &count, sizeof count);
    }
    [[nodiscard]] bool broken() const { return rings_ && rings_->broken(); }

  private:
    int fd_;
    std::unique_ptr<bridge::vhost::QueuePair> rings_;
};

}  // namespace ringback::net::worker
