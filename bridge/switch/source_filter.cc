// SPDX-License-Identifier: Apache-2.0
#include "bridge/switch/source_filter.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <sstream>

namespace ringback::bridge {

namespace {

using Address = std::array<uint8_t, 16>;

constexpr uint16_t kIpv4 = 0x0800;
constexpr uint16_t kArp = 0x0806;
constexpr uint16_t kIpv6 = 0x86dd;
constexpr uint8_t kUdp = 17;
constexpr uint8_t kIcmpv6 = 58;
constexpr uint16_t kDhcpClient = 68;
constexpr uint16_t kDhcpServer = 67;

// Extension headers of IPv6 (RFC 8200, RFC 4302).
constexpr uint8_t kHopByHop = 0;
constexpr uint8_t kRouting = 43;
constexpr uint8_t kFragment = 44;
constexpr uint8_t kAuthentication = 51;
constexpr uint8_t kDestinationOptions = 60;

// ICMPv6 (RFC 4861; listeners: RFC 2710, RFC 3810).
constexpr uint8_t kListenerReport = 131;
constexpr uint8_t kListenerDone = 132;
constexpr uint8_t kRouterSolicitation = 133;
constexpr uint8_t kRouterAdvertisement = 134;
constexpr uint8_t kNeighbourSolicitation = 135;
constexpr uint8_t kNeighbourAdvertisement = 136;
constexpr uint8_t kRedirect = 137;
constexpr uint8_t kListenerReport2 = 143;
constexpr uint8_t kSourceLinkAddress = 1;
constexpr uint8_t kTargetLinkAddress = 2;

Result<IpNetwork> parse_network(const std::string& text) {
    const size_t slash = text.find('/');
    const std::string address = text.substr(0, slash);
    IpNetwork network;
    network.v6 = address.find(':') != std::string::npos ? 1 : 0;
    const unsigned most = network.v6 != 0 ? 128 : 32;
    unsigned bits = most;
    if (slash != std::string::npos) {
        const char* end = text.data() + text.size();
        const auto [stop, error] = std::from_chars(text.data() + slash + 1, end, bits);
        if (error != std::errc() || stop != end || bits > most) bits = most + 1;
    }
    if (bits > most || ::inet_pton(network.v6 != 0 ? AF_INET6 : AF_INET, address.c_str(), network.address.data()) != 1) {
        return Error{EINVAL, fmt::format("\"{}\" is no IP address", text)};
    }
    network.bits = static_cast<uint8_t>(bits);
    return network;
}

bool contains(const IpNetwork& network, const uint8_t* address) {
    const size_t whole = network.bits / 8;
    if (std::memcmp(network.address.data(), address, whole) != 0) return false;
    const unsigned rest = network.bits % 8;
    return rest == 0 || ((network.address[whole] ^ address[whole]) & (0xff00U >> rest & 0xffU)) == 0;
}

bool given_to(std::span<const IpNetwork> given, bool v6, const uint8_t* address) {
    return std::any_of(given.begin(), given.end(), [&](const IpNetwork& network) {
        return (network.v6 != 0) == v6 && contains(network, address);
    });
}

bool zero(const uint8_t* address, size_t size) {
    return std::all_of(address, address + size, [](uint8_t byte) { return byte == 0; });
}
bool link_local(const uint8_t* address) { return address[0] == 0xfe && (address[1] & 0xc0) == 0x80; }
uint16_t word(const uint8_t* at) { return static_cast<uint16_t>(at[0] << 8 | at[1]); }

bool ipv4_allowed(std::span<const uint8_t> packet, std::span<const IpNetwork> given) {
    if (packet.size() < 20 || packet[0] >> 4 != 4) return false;
    if (!zero(&packet[12], 4)) return given_to(given, false, &packet[12]);
    const size_t header = (packet[0] & 15U) * size_t{4};
    const bool fragment = (word(&packet[6]) & 0x1fff) != 0;
    return header >= 20 && !fragment && packet[9] == kUdp && packet.size() >= header + 4 &&
           word(&packet[header]) == kDhcpClient && word(&packet[header + 2]) == kDhcpServer;
}

bool arp_allowed(std::span<const uint8_t> packet, const MacAddress& own, std::span<const IpNetwork> given) {
    // Of Ethernet and IPv4, or not at all.
    constexpr std::array<uint8_t, 6> kForm{0, 1, 0x08, 0, 6, 4};
    if (packet.size() < 28 || !std::equal(kForm.begin(), kForm.end(), packet.begin())) return false;
    if (!std::equal(own.begin(), own.end(), &packet[8])) return false;
    const bool probe = zero(&packet[14], 4);
    return given_to(given, false, &packet[probe ? 24 : 14]);
}

// What the headers of an IPv6 packet lead to.
struct Upper {
    uint8_t protocol = 0;
    bool fragment = false;
    bool later = false;  // a fragment that is not the first: what it carries is anywhere in the packet
    std::span<const uint8_t> bytes{};
};

// nullopt: not all headers are there.
std::optional<Upper> upper_of(std::span<const uint8_t> packet) {
    Upper upper{.protocol = packet[6], .bytes = packet.subspan(40)};
    for (;;) {
        const size_t said = upper.bytes.size() < 2 ? 0 : upper.bytes[1];
        size_t size = 8;
        switch (upper.protocol) {
            case kHopByHop:
            case kRouting:
            case kDestinationOptions: size = 8 * (said + 1); break;
            case kAuthentication: size = 4 * (said + 2); break;
            case kFragment: break;
            default: return upper;
        }
        if (upper.bytes.size() < size) return std::nullopt;
        const bool fragment = upper.protocol == kFragment;
        upper.protocol = upper.bytes[0];
        upper.fragment = upper.fragment || fragment;
        upper.later = fragment && (word(&upper.bytes[2]) & 0xfff8) != 0;
        upper.bytes = upper.bytes.subspan(size);
        if (upper.later) return upper;
    }
}

// Link-layer addresses among the options of neighbour discovery.
bool own_link_addresses(std::span<const uint8_t> options, const MacAddress& own) {
    while (!options.empty()) {
        const size_t size = options.size() < 2 ? 0 : options[1] * size_t{8};
        if (size == 0 || size > options.size()) return false;
        const bool link = options[0] == kSourceLinkAddress || options[0] == kTargetLinkAddress;
        if (link && !std::equal(own.begin(), own.end(), &options[2])) return false;
        options = options.subspan(size);
    }
    return true;
}

bool ipv6_allowed(std::span<const uint8_t> packet, const MacAddress& own, std::span<const IpNetwork> given) {
    if (packet.size() < 40 || packet[0] >> 4 != 6) return false;
    // Behind the end of a short packet is what a wire has added. A length of 0 may stand for one that does not fit.
    const size_t length = word(&packet[4]);
    const bool whole = length != 0 && 40 + length <= packet.size();
    if (whole) packet = packet.first(40 + length);
    const bool nobody = zero(&packet[8], 16);
    const auto ours = [&](const uint8_t* address) { return link_local(address) || given_to(given, true, address); };
    if (!nobody && !ours(&packet[8])) return false;
    const auto upper = upper_of(packet);
    if (!upper) return false;
    if (upper->later || upper->protocol != kIcmpv6) return !nobody;
    if (upper->bytes.empty()) return false;
    const uint8_t type = upper->bytes[0];
    const bool listener = type == kListenerReport || type == kListenerDone || type == kListenerReport2;
    if (type < kRouterSolicitation || type > kRedirect) return !nobody || (listener && !upper->fragment);
    if (upper->fragment || type == kRouterAdvertisement || type == kRedirect) return false;
    const size_t fixed = type == kRouterSolicitation ? 8 : 24;
    if (!whole || upper->bytes.size() < fixed || !own_link_addresses(upper->bytes.subspan(fixed), own)) return false;
    if (type == kRouterSolicitation) return true;
    // Who asks for another's address names it as the target; who has none asks for its own to be.
    if (type == kNeighbourSolicitation) return !nobody || ours(&upper->bytes[8]);
    return !nobody && ours(&upper->bytes[8]);
}

}  // namespace

Result<std::vector<IpNetwork>> parse_networks(const std::string& text) {
    std::vector<IpNetwork> networks;
    std::istringstream words(text);
    for (std::string word; words >> word;) networks.push_back(TRY(parse_network(word)));
    return networks;
}

bool source_allowed(std::span<const std::byte> frame, size_t network, uint16_t type, const MacAddress& own,
                    std::span<const IpNetwork> given) {
    if (network > frame.size()) return false;
    const std::span<const uint8_t> packet(reinterpret_cast<const uint8_t*>(frame.data()) + network, frame.size() - network);
    switch (type) {
        case kIpv4: return ipv4_allowed(packet, given);
        case kArp: return arp_allowed(packet, own, given);
        case kIpv6: return ipv6_allowed(packet, own, given);
        default: return false;
    }
}

}  // namespace ringback::bridge
