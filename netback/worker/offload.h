// SPDX-License-Identifier: Apache-2.0
//
// Offload: from netif's way of saying what is left to be done to a packet to the vnet header's, and back.
//
// netif says "checksum blank" and, in an extra, "cut it in segments of this size"; where the checksum is, both sides have
// to find out from the packet itself. The vnet header names the places. So a guest's packet is parsed here, in our own
// copy of it, and a packet that is not what its flags claim is refused: its place in the header would be made up.
//
// Pure functions on private memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "bridge/vnet_header.h"
#include "hypervisor/netif_abi.h"

namespace ringback::net::worker {

// Where the parts of a TCP or UDP packet begin.
struct Layers {
    bool v6 = false;
    bool tcp = false;
    uint16_t network = 0;    // offset of the IP header
    uint16_t transport = 0;  // of the TCP or UDP header, which is wholly there
    uint16_t payload = 0;    // of what follows it
};

// nullopt: not TCP or UDP over IP, a fragment, or cut short.
[[nodiscard]] std::optional<Layers> find_layers(std::span<const std::byte> packet);

struct TxOffload {
    bool csum_blank = false;
    xen::netif::GsoType gso = xen::netif::GsoType::none;
    uint16_t gso_size = 0;
};

// The header that goes before a guest's packet; nullopt: the packet is not what the frontend says it is. A packet to be
// segmented whose checksum is not blank gets the sum of its pseudo header, as whoever segments it expects. `packet` may be its
// head only, with all headers; `size` is the whole packet's.
[[nodiscard]] std::optional<bridge::VnetHeader> to_vnet(std::span<std::byte> packet, const TxOffload& offload, size_t size);
[[nodiscard]] inline std::optional<bridge::VnetHeader> to_vnet(std::span<std::byte> packet, const TxOffload& offload) {
    return to_vnet(packet, offload, packet.size());
}

// What a frontend takes unfinished.
struct RxAbilities {
    bool csum_blank4 = false;
    bool csum_blank6 = false;
    bool gso_tcp4 = false;
    bool gso_tcp6 = false;
};
struct RxOffload {
    uint16_t flags = 0;  // of the first slot
    xen::netif::GsoType gso = xen::netif::GsoType::none;
    uint16_t gso_size = 0;
};

// The other way; completes a checksum that the frontend does not take blank. nullopt: the frontend cannot take it.
[[nodiscard]] std::optional<RxOffload> from_vnet(std::span<std::byte> packet, const bridge::VnetHeader& header,
                                                 const RxAbilities& abilities);

// Completes the checksum of everything from `start`; what stands at start + offset is the sum of the pseudo header.
// False: the places are outside the packet.
[[nodiscard]] bool complete_checksum(std::span<std::byte> packet, size_t start, size_t offset);

}  // namespace ringback::net::worker
