// SPDX-License-Identifier: Apache-2.0
//
// Frames as the switch and segmentation see them: Ethernet, VLAN, IPv4, IPv6, TCP, UDP, ARP and neighbour discovery headers
// that a guest or a wire made up. Each frame lies in memory of exactly its size.
#include <vector>

#include "bridge/switch/source_filter.h"
#include "bridge/switch/switch.h"
#include "netback/worker/offload.h"
#include "netback/worker/segment.h"
#include "target.h"

using namespace ringback;
using namespace ringback::fuzz;
using namespace ringback::net::worker;

namespace {

using Bytes = std::vector<std::byte>;

Bytes rest_of(Input& input) {
    Bytes bytes(input.left());
    input.fill(bytes);
    return bytes;
}

// As queue_switch.cc and queue_tx.cc do it with what a guest sends.
void from_guest(Input& input) {
    net::worker::TxOffload offload;
    offload.csum_blank = input.flag();
    offload.gso = static_cast<xen::netif::GsoType>(input.below(3));
    offload.gso_size = input.take<uint16_t>();
    const auto larger = input.take<uint16_t>();  // the packet may go on where nobody has looked
    Bytes packet = rest_of(input);
    (void)find_layers(packet);
    if (packet.size() < xen::netif::kEthernetHeader) return;
    Bytes head = packet;
    (void)to_vnet(head, offload, std::min<size_t>(head.size() + larger, xen::netif::kMaxPacket));
    const auto header = to_vnet(packet, offload);
    if (!header) return;
    const auto segments = Segments::of(packet, *header);
    if (!segments) return;
    INVARIANT(segments->count() <= Segments::kMost && segments->header_size() <= packet.size());
    Bytes cut(segments->header_size());
    size_t payload = 0;
    for (size_t i = 0; i < segments->count(); ++i) {
        const auto part = segments->cut(i, cut);
        INVARIANT(part.empty() || (part.data() >= packet.data() && part.data() + part.size() <= packet.data() + packet.size()));
        payload += part.size();
    }
    INVARIANT(payload == packet.size() - segments->header_size());
}

// As queue_rx.cc does it with what a port gives.
void to_guest(Input& input) {
    const auto can = input.byte();
    const RxAbilities abilities{(can & 1) != 0, (can & 2) != 0, (can & 4) != 0, (can & 8) != 0};
    const auto header = input.take<bridge::VnetHeader>();
    Bytes packet = rest_of(input);
    if (packet.size() < xen::netif::kEthernetHeader) return;
    (void)from_vnet(packet, header, abilities);
    (void)complete_checksum(packet, header.csum_start, header.csum_offset);
}

void filter(Input& input) {
    const auto own = input.take<bridge::MacAddress>();
    std::vector<bridge::IpNetwork> given(input.below(4));
    for (bridge::IpNetwork& network : given) {
        network.v6 = input.flag() ? 1 : 0;
        network.bits = static_cast<uint8_t>(input.below(network.v6 != 0 ? 129 : 33));
        input.fill(std::as_writable_bytes(std::span(network.address)));
    }
    const auto type = input.take<uint16_t>();
    const bool tagged = input.flag();
    const Bytes frame = rest_of(input);
    const size_t network = xen::netif::kEthernetHeader + (tagged ? 4 : 0);
    if (frame.size() >= network) (void)bridge::source_allowed(frame, network, type, own, given);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input(data, size);
    switch (input.below(4)) {
        case 0: from_guest(input); break;
        case 1: to_guest(input); break;
        case 2: filter(input); break;
        default: {
            const std::string text = input.rest();
            (void)bridge::parse_networks(text);
            (void)bridge::parse_bridge_name(text);
        }
    }
    return 0;
}
