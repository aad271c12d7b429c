// SPDX-License-Identifier: Apache-2.0
#include "netback/worker/offload.h"

#include "netback/worker/checksum.h"

namespace ringback::net::worker {

namespace {

using bridge::VnetHeader;
using xen::netif::GsoType;

constexpr uint16_t kIpv4 = 0x0800;
constexpr uint16_t kIpv6 = 0x86dd;
constexpr uint16_t kVlan = 0x8100;
constexpr uint16_t kServiceVlan = 0x88a8;
constexpr uint8_t kTcp = 6;
constexpr uint8_t kUdp = 17;
constexpr size_t kTcpHeader = 20;
constexpr size_t kUdpHeader = 8;
constexpr size_t kTcpChecksum = 16;
constexpr size_t kUdpChecksum = 6;
constexpr int kMaxTags = 2;
constexpr int kMaxIpv6Headers = 8;

std::optional<uint8_t> skip_ipv6_headers(std::span<const std::byte> packet, uint8_t next, size_t& at) {
    for (int headers = 0; headers < kMaxIpv6Headers; ++headers) {
        switch (next) {
            case 0:     // hop by hop
            case 43:    // routing
            case 60: {  // destination options
                if (at + 8 > packet.size()) return std::nullopt;
                next = byte_at(packet, at);
                at += (size_t{byte_at(packet, at + 1)} + 1) * 8;
                break;
            }
            case 51: {  // authentication
                if (at + 8 > packet.size()) return std::nullopt;
                next = byte_at(packet, at);
                at += (size_t{byte_at(packet, at + 1)} + 2) * 4;
                break;
            }
            default: return next;
        }
    }
    return std::nullopt;
}

}  // namespace

std::optional<Layers> find_layers(std::span<const std::byte> packet) {
    Layers layers;
    size_t at = 12;
    if (at + 2 > packet.size()) return std::nullopt;
    uint16_t type = word_at(packet, at);
    at += 2;
    for (int tags = 0; tags < kMaxTags && (type == kVlan || type == kServiceVlan); ++tags) {
        if (at + 4 > packet.size()) return std::nullopt;
        type = word_at(packet, at + 2);
        at += 4;
    }
    layers.network = static_cast<uint16_t>(at);
    uint8_t protocol = 0;
    if (type == kIpv4) {
        if (at + 20 > packet.size() || byte_at(packet, at) >> 4 != 4) return std::nullopt;
        const size_t header = (byte_at(packet, at) & 15U) * size_t{4};
        if (header < 20 || at + header > packet.size()) return std::nullopt;
        if ((word_at(packet, at + 6) & 0x3fff) != 0) return std::nullopt;  // a fragment
        protocol = byte_at(packet, at + 9);
        at += header;
    } else if (type == kIpv6) {
        if (at + 40 > packet.size() || byte_at(packet, at) >> 4 != 6) return std::nullopt;
        layers.v6 = true;
        const uint8_t next = byte_at(packet, at + 6);
        at += 40;
        const auto found = skip_ipv6_headers(packet, next, at);
        if (!found) return std::nullopt;
        protocol = *found;
    } else {
        return std::nullopt;
    }
    layers.transport = static_cast<uint16_t>(at);
    if (protocol == kTcp) {
        if (at + kTcpHeader > packet.size()) return std::nullopt;
        const size_t header = (byte_at(packet, at + 12) >> 4) * size_t{4};
        if (header < kTcpHeader || at + header > packet.size()) return std::nullopt;
        layers.tcp = true;
        layers.payload = static_cast<uint16_t>(at + header);
    } else if (protocol == kUdp) {
        if (at + kUdpHeader > packet.size()) return std::nullopt;
        layers.payload = static_cast<uint16_t>(at + kUdpHeader);
    } else {
        return std::nullopt;
    }
    return layers;
}

std::optional<VnetHeader> to_vnet(std::span<std::byte> packet, const TxOffload& offload, size_t size) {
    VnetHeader header{};
    const bool gso = offload.gso != GsoType::none;
    if (!offload.csum_blank && !gso) return header;
    const auto layers = find_layers(packet);
    if (!layers) return std::nullopt;
    const size_t checksum = layers->tcp ? kTcpChecksum : kUdpChecksum;
    if (gso) {
        if (!layers->tcp || layers->v6 != (offload.gso == GsoType::tcp6)) return std::nullopt;
        if (!offload.csum_blank) {
            put_word(packet, layers->transport + checksum,
                     pseudo_sum(packet, *layers, size - layers->transport));
        }
        // What fits in one segment needs no cutting.
        if (size - layers->payload > offload.gso_size) {
            header.gso_type = layers->v6 ? bridge::kVnetGsoTcp6 : bridge::kVnetGsoTcp4;
            header.gso_size = offload.gso_size;
            header.header_length = layers->payload;
        }
    }
    header.flags = bridge::kVnetNeedsCsum;
    header.csum_start = layers->transport;
    header.csum_offset = static_cast<uint16_t>(checksum);
    return header;
}

bool complete_checksum(std::span<std::byte> packet, size_t start, size_t offset) {
    if (start > packet.size() || offset + 2 > packet.size() - start) return false;
    uint16_t sum = static_cast<uint16_t>(~fold(sum_words(packet.subspan(start))));
    // Of UDP 0 means "none"; of TCP both forms of zero are the same.
    if (sum == 0) sum = 0xffff;
    put_word(packet, start + offset, sum);
    return true;
}

std::optional<RxOffload> from_vnet(std::span<std::byte> packet, const VnetHeader& header,
                                   const RxAbilities& abilities) {
    RxOffload offload;
    switch (header.gso_type & ~bridge::kVnetGsoEcn) {
        case bridge::kVnetGsoNone: break;
        case bridge::kVnetGsoTcp4:
            if (!abilities.gso_tcp4) return std::nullopt;
            offload.gso = GsoType::tcp4;
            break;
        case bridge::kVnetGsoTcp6:
            if (!abilities.gso_tcp6) return std::nullopt;
            offload.gso = GsoType::tcp6;
            break;
        default: return std::nullopt;
    }
    if (offload.gso != GsoType::none) {
        if (header.gso_size == 0) return std::nullopt;
        offload.gso_size = header.gso_size;
    }
    if ((header.flags & bridge::kVnetNeedsCsum) != 0) {
        const auto layers = abilities.csum_blank4 != abilities.csum_blank6 ? find_layers(packet) : std::nullopt;
        const bool takes_blank = abilities.csum_blank4 == abilities.csum_blank6 ? abilities.csum_blank4
                                 : !layers                                      ? false
                                 : layers->v6                                   ? abilities.csum_blank6
                                                                                : abilities.csum_blank4;
        if (takes_blank) {
            offload.flags = xen::netif::kRxCsumBlank | xen::netif::kRxDataValidated;
        } else if (offload.gso != GsoType::none || !complete_checksum(packet, header.csum_start, header.csum_offset)) {
            return std::nullopt;
        } else {
            offload.flags = xen::netif::kRxDataValidated;
        }
    } else if ((header.flags & bridge::kVnetDataValid) != 0) {
        offload.flags = xen::netif::kRxDataValidated;
    }
    return offload;
}

}  // namespace ringback::net::worker
