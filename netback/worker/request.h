// SPDX-License-Identifier: Apache-2.0
//
// Request: one packet that a guest sends, as its slots on the tx ring describe it (io/netif.h).
//
// The slots of a packet are: the first, whose size is that of the whole packet; extras, if it says so; then the other
// parts, each with its own size. The first part's size is what the others leave of the whole. Everything is checked here,
// on private copies, before a byte of data is touched:
//   fatal      what no frontend does by mistake, or what leaves the place of the next packet unknown: the vif is broken
//   kError     the packet is dropped, its slots are answered, and the vif goes on
//
// Pure: slots come from any Source with  bool next(std::byte* to)  , false when the ring holds no more.
#pragma once

#include <array>
#include <cstring>

#include "hypervisor/grants.h"
#include "hypervisor/netif_abi.h"
#include "netback/worker/offload.h"

namespace ringback::net::worker {

// Slots with data that are still answered politely, though no packet may have so many. More is an attack.
inline constexpr size_t kFatalSlots = 20;

struct TxSlot {
    xen::GrantRef gref;
    uint16_t offset;
    uint16_t size;
    uint16_t id;
};

struct TxPacket {
    std::array<TxSlot, kFatalSlots> slots;
    uint16_t slot_count;
    uint16_t extras;       // slots between the first and the others, answered with kNull
    uint32_t size;         // of the whole
    int16_t status;
    TxOffload offload;
    // Not a packet at all: the frontend adds or takes an address of its list. `none`: a packet.
    xen::netif::ExtraType multicast;
    std::array<uint8_t, 6> address;
};

namespace detail {

template <typename Source>
[[nodiscard]] const char* read_extras(Source& source, TxPacket& packet) {
    using namespace xen::netif;
    uint8_t more = kExtraMore;
    while (more != 0) {
        std::array<std::byte, sizeof(TxRequest)> raw;
        if (!source.next(raw.data())) return "a packet's extra slots are missing";
        ++packet.extras;
        Extra extra;
        std::memcpy(&extra, raw.data(), sizeof extra);
        more = extra.flags & kExtraMore;
        switch (static_cast<ExtraType>(extra.type)) {
            case ExtraType::gso:
                if (extra.gso.type != static_cast<uint8_t>(GsoType::tcp4) &&
                    extra.gso.type != static_cast<uint8_t>(GsoType::tcp6)) {
                    return "a packet of an unknown segmentation type";
                }
                if (extra.gso.size == 0) return "a packet to be cut in segments of no size";
                packet.offload.gso = static_cast<GsoType>(extra.gso.type);
                packet.offload.gso_size = extra.gso.size;
                break;
            case ExtraType::multicast_add:
            case ExtraType::multicast_del:
                packet.multicast = static_cast<ExtraType>(extra.type);
                std::memcpy(packet.address.data(), extra.multicast.address, packet.address.size());
                break;
            case ExtraType::hash:
            case ExtraType::xdp: break;
            case ExtraType::none:
            default: return "an extra slot of an unknown type";
        }
    }
    return nullptr;
}

}  // namespace detail

// Null: `packet` is whole, and its status says whether it is good. Otherwise the reason why the ring is broken.
template <typename Source>
[[nodiscard]] const char* read_packet(Source& source, TxPacket& packet) {
    using namespace xen::netif;
    TxRequest request;
    if (!source.next(reinterpret_cast<std::byte*>(&request))) return "a packet without slots";
    packet.slots[0] = {request.gref, request.offset, request.size, request.id};
    packet.slot_count = 1;
    packet.extras = 0;
    packet.size = request.size;
    packet.status = kOkay;
    packet.offload = {};
    packet.multicast = ExtraType::none;
    packet.offload.csum_blank = (request.flags & kTxCsumBlank) != 0;
    if ((request.flags & kTxExtraInfo) != 0) {
        if (const char* broken = detail::read_extras(source, packet)) return broken;
        if (packet.multicast != ExtraType::none) return nullptr;  // whatever else it says: it ends here
    }
    uint32_t rest = packet.size;
    while ((request.flags & kTxMoreData) != 0) {
        if (packet.slot_count == kFatalSlots) return "a packet of too many slots";
        if (!source.next(reinterpret_cast<std::byte*>(&request))) return "a packet's slots are missing";
        packet.slots[packet.slot_count++] = {request.gref, request.offset, request.size, request.id};
        if (uint32_t{request.offset} + request.size > xen::kPageSize) return "a slot that crosses its page";
        // A packet past 65535 bytes shows here too: its size has wrapped, and frontends that did so exist.
        if (request.size > rest) {
            packet.status = kError;
            rest = 0;
        } else {
            rest -= request.size;
        }
    }
    if (packet.slot_count > kMaxSlots) packet.status = kError;
    if (packet.status != kOkay) return nullptr;
    if (packet.size < kEthernetHeader) return "a packet shorter than its Ethernet header";
    if (packet.slots[0].offset + rest > xen::kPageSize) return "a slot that crosses its page";
    packet.slots[0].size = static_cast<uint16_t>(rest);
    return nullptr;
}

}  // namespace ringback::net::worker
