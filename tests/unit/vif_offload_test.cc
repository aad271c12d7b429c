// SPDX-License-Identifier: Apache-2.0
//
// Packets that are not what their flags claim. (What is right is checked with data, tests/embedded/netback_data_test.cc.)
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstring>
#include <vector>

#include "netback/worker/offload.h"

using namespace ringback;
using namespace ringback::net::worker;
using xen::netif::GsoType;

namespace {

std::vector<std::byte> bytes(std::initializer_list<int> list, size_t size = 0) {
    std::vector<std::byte> out;
    for (const int value : list) out.push_back(static_cast<std::byte>(value));
    if (size > out.size()) out.resize(size);
    return out;
}

// Ethernet, IPv4 or IPv6 with this next header, and nothing more but `rest` bytes of zero.
std::vector<std::byte> ip4(int protocol, size_t rest, int first = 0x45, int fragment = 0) {
    auto packet = bytes({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, first, 0, 0, 0, 0, 0, fragment >> 8, fragment & 255, 0, protocol});
    packet.resize(14 + 20 + rest);
    return packet;
}
std::vector<std::byte> ip6(int next, size_t rest) {
    auto packet = bytes({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next});
    packet.resize(14 + 40 + rest);
    return packet;
}
void set(std::vector<std::byte>& packet, size_t at, int value) { packet[at] = static_cast<std::byte>(value); }

}  // namespace

TEST_CASE("layers: what is cut short, fragmented or unknown has none") {
    CHECK_FALSE(find_layers(bytes({}, 5)));
    CHECK_FALSE(find_layers(bytes({}, 14)));
    CHECK_FALSE(find_layers(ip4(6, 19)));                     // TCP header cut
    CHECK_FALSE(find_layers(ip4(17, 7)));                     // UDP header cut
    CHECK_FALSE(find_layers(ip4(6, 20)));                     // TCP header length 0
    CHECK_FALSE(find_layers(ip4(1, 100)));                    // ICMP
    CHECK_FALSE(find_layers(ip4(17, 100, 0x44)));             // IP header too short
    CHECK_FALSE(find_layers(ip4(17, 100, 0x65)));             // not version 4
    CHECK_FALSE(find_layers(ip4(17, 20, 0x4f)));              // options past the end
    CHECK_FALSE(find_layers(ip4(17, 100, 0x45, 0x2000)));     // first fragment
    CHECK_FALSE(find_layers(ip4(17, 100, 0x45, 0x0010)));     // a later one
    CHECK(find_layers(ip4(17, 100, 0x45, 0x4000)));           // "do not fragment" is none
    CHECK_FALSE(find_layers(ip6(44, 100)));                   // fragment header
    CHECK_FALSE(find_layers(ip6(6, 10)));
    auto long_tcp = ip4(6, 40);
    set(long_tcp, 34 + 12, 0xf0);
    CHECK_FALSE(find_layers(long_tcp));                       // 60 bytes of header, 40 there
}

TEST_CASE("layers: extension headers are walked, but not past the end nor for ever") {
    auto packet = ip6(0, 8 + 24 + 20);
    set(packet, 54, 60);      // hop by hop, then destination options of 24 bytes, then TCP
    set(packet, 54 + 8, 6);
    set(packet, 54 + 9, 2);
    set(packet, 54 + 32 + 12, 0x50);
    const auto layers = find_layers(packet);
    REQUIRE(layers);
    CHECK(layers->v6);
    CHECK(layers->tcp);
    CHECK(layers->transport == 54 + 32);
    CHECK(layers->payload == 54 + 52);
    set(packet, 54 + 9, 255);
    CHECK_FALSE(find_layers(packet));
    auto endless = ip6(0, 4000);  // every header says that another one follows
    CHECK_FALSE(find_layers(endless));
}

TEST_CASE("to_vnet: a claim that the packet does not bear out is refused") {
    auto icmp = ip4(1, 100);
    CHECK_FALSE(to_vnet(icmp, {.csum_blank = true}));
    CHECK(to_vnet(icmp, {}));
    auto udp = ip4(17, 3000);
    CHECK(to_vnet(udp, {.csum_blank = true}));
    CHECK_FALSE(to_vnet(udp, {.csum_blank = true, .gso = GsoType::tcp4, .gso_size = 1000}));
    auto tcp = ip4(6, 3000);
    set(tcp, 34 + 12, 0x50);
    CHECK(to_vnet(tcp, {.csum_blank = true, .gso = GsoType::tcp4, .gso_size = 1000}));
    CHECK_FALSE(to_vnet(tcp, {.csum_blank = true, .gso = GsoType::tcp6, .gso_size = 1000}));
    // What fits in one segment is not to be cut.
    const auto small = to_vnet(tcp, {.csum_blank = true, .gso = GsoType::tcp4, .gso_size = 2980});
    REQUIRE(small);
    CHECK(small->gso_type == bridge::kVnetGsoNone);
    CHECK(small->flags == bridge::kVnetNeedsCsum);
}

TEST_CASE("from_vnet: what a frontend does not take is not given to it") {
    auto packet = ip4(6, 3000);
    const RxAbilities all{true, true, true, true};
    const auto header = [](uint8_t type) {
        return bridge::VnetHeader{bridge::kVnetNeedsCsum, type, 54, 1000, 34, 16};
    };
    CHECK(from_vnet(packet, header(bridge::kVnetGsoTcp4), all));
    CHECK(from_vnet(packet, header(bridge::kVnetGsoTcp4 | bridge::kVnetGsoEcn), all));
    CHECK_FALSE(from_vnet(packet, header(bridge::kVnetGsoTcp4), {true, true, false, true}));
    CHECK_FALSE(from_vnet(packet, header(bridge::kVnetGsoTcp6), {true, true, true, false}));
    CHECK_FALSE(from_vnet(packet, header(3), all));   // UFO
    auto no_size = header(bridge::kVnetGsoTcp4);
    no_size.gso_size = 0;
    CHECK_FALSE(from_vnet(packet, no_size, all));
    auto outside = header(bridge::kVnetGsoNone);
    outside.csum_start = 60000;
    CHECK_FALSE(from_vnet(packet, outside, {}));
    outside.csum_start = static_cast<uint16_t>(packet.size() - 1);
    CHECK_FALSE(from_vnet(packet, outside, {}));
}
