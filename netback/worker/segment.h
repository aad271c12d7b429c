// SPDX-License-Identifier: Apache-2.0
//
// Segments: a TCP packet cut in pieces that fit on a wire, for a guest that does not take it whole.
//
// Each segment is headers made anew (length, identification, sequence number, flags, both checksums) and a part of the
// packet's own payload, which stays where it is. Not DPDK's rte_gso: that wants the packet in its own buffers and leaves the
// checksums to hardware that a guest's ring does not have.
//
// Pure, on private memory.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "bridge/vnet_header.h"
#include "netback/worker/offload.h"

namespace ringback::net::worker {

class Segments {
  public:
    // More than any packet of an honest size has; a hostile one gets no more work done than this.
    static constexpr size_t kMost = 128;

    // nullopt: not TCP, or too many. The packet stays where it is while this is used.
    [[nodiscard]] static std::optional<Segments> of(std::span<const std::byte> packet, const bridge::VnetHeader& header);
    [[nodiscard]] size_t count() const { return count_; }
    [[nodiscard]] size_t header_size() const { return layers_.payload; }
    // Writes the headers of a segment and returns its payload.
    [[nodiscard]] std::span<const std::byte> cut(size_t number, std::span<std::byte> header) const;

  private:
    Segments(std::span<const std::byte> packet, const Layers& layers, size_t size);
    std::span<const std::byte> packet_;
    Layers layers_;
    size_t size_;  // of a segment's payload
    size_t count_;
};

}  // namespace ringback::net::worker
