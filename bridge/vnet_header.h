// SPDX-License-Identifier: Apache-2.0
//
// VnetHeader: what stands before each packet that goes through a TAP opened with IFF_VNET_HDR (virtio 1.0, 5.1.6), in
// the form that says what is still to be done to the packet: its checksum to be completed, or to be cut in segments.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ringback::bridge {

struct VnetHeader {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t header_length;  // up to the end of the TCP header
    uint16_t gso_size;
    uint16_t csum_start;     // from the start of the packet
    uint16_t csum_offset;    // from csum_start
};
static_assert(sizeof(VnetHeader) == 10);
static_assert(offsetof(VnetHeader, header_length) == 2 && offsetof(VnetHeader, gso_size) == 4);
static_assert(offsetof(VnetHeader, csum_start) == 6 && offsetof(VnetHeader, csum_offset) == 8);

inline constexpr uint8_t kVnetNeedsCsum = 1;
inline constexpr uint8_t kVnetDataValid = 2;
inline constexpr uint8_t kVnetGsoNone = 0;
inline constexpr uint8_t kVnetGsoTcp4 = 1;
inline constexpr uint8_t kVnetGsoTcp6 = 4;
inline constexpr uint8_t kVnetGsoEcn = 0x80;  // beside the type

}  // namespace ringback::bridge
