// SPDX-License-Identifier: Apache-2.0
//
// What the built-in switch carries from guest to guest, and what it keeps from whom.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <map>
#include <random>

#include "switch_rig.h"

using namespace ringback;
using namespace ringback::test;
using xen::netif::GsoType;

namespace {

using Bytes = std::vector<std::byte>;

unsigned at(const Bytes& bytes, size_t where) { return std::to_integer<unsigned>(bytes[where]); }
unsigned word(const Bytes& bytes, size_t where) { return at(bytes, where) << 8 | at(bytes, where + 1); }
unsigned long_word(const Bytes& bytes, size_t where) { return word(bytes, where) << 16 | word(bytes, where + 2); }

Bytes to_all(Bytes packet) {
    std::fill_n(packet.begin(), 6, std::byte{0xff});
    return packet;
}

Bytes with_tag(const Bytes& packet, unsigned vlan) {
    Bytes tagged(packet.begin(), packet.begin() + 12);
    for (const unsigned byte : {0x81U, 0U, vlan >> 8, vlan & 0xff}) tagged.push_back(static_cast<std::byte>(byte));
    tagged.insert(tagged.end(), packet.begin() + 12, packet.end());
    return tagged;
}

// What is left of a packet cut in segments: together they must be it.
void check_segments(const std::vector<GuestPacket>& segments, const Bytes& whole, size_t size, bool v6) {
    const size_t l4 = 14 + (v6 ? 40 : 20);
    const size_t header = l4 + 20;
    REQUIRE(segments.size() == (whole.size() - header + size - 1) / size);
    size_t done = 0;
    for (size_t i = 0; i < segments.size(); ++i) {
        const Bytes& segment = segments[i].data;
        INFO("segment " << i);
        REQUIRE(segment.size() > header);
        CHECK(segment.size() - header <= size);
        CHECK(checksum_right(segment));
        CHECK_FALSE(segments[i].info.csum_blank);
        CHECK(segments[i].info.gso == GsoType::none);
        CHECK(long_word(segment, l4 + 4) == long_word(whole, l4 + 4) + done);
        if (v6) {
            CHECK(word(segment, 18) == segment.size() - 54);
        } else {
            CHECK(word(segment, 16) == segment.size() - 14);
            unsigned sum = 0;
            for (size_t k = 14; k < 34; k += 2) sum += word(segment, k);
            CHECK((sum & 0xffff) + (sum >> 16) == 0xffff);
            CHECK(word(segment, 18) == ((word(whole, 18) + i) & 0xffff));
        }
        const bool last = i + 1 == segments.size();
        CHECK((at(segment, l4 + 13) & 0x09) == (last ? at(whole, l4 + 13) & 0x09 : 0U));
        REQUIRE(std::equal(segment.begin() + static_cast<std::ptrdiff_t>(header), segment.end(),
                           whole.begin() + static_cast<std::ptrdiff_t>(header + done)));
        done += segment.size() - header;
    }
    CHECK(done == whole.size() - header);
}

}  // namespace

TEST_CASE("packets of every size reach the other guest as they are, and nobody else") {
    SwitchRig rig({{}, {}, {}});
    const size_t size = GENERATE(14U, 60U, 255U, 256U, 257U, 1514U, 4095U, 4096U, 4097U, 9014U, 65535U);
    const size_t piece = GENERATE(4096U, 4000U);
    const auto packet = rig.addressed(raw_packet(size), 0, 1);
    rig.send(0, packet, {}, piece);
    REQUIRE(rig.turn_until([&] { return !rig.guests[1].received.empty(); }));
    CHECK(rig.guests[1].received[0].data == packet);
    CHECK_FALSE(rig.guests[1].received[0].info.csum_blank);
    CHECK(rig.guests[2].received.empty());
    CHECK(rig.guests[0].received.empty());
    CHECK(rig.guests[0].queues[0].counters().tx_failed == 0);
    CHECK(rig.stats(0).port.forwarded == 1);
}

TEST_CASE("headers split over many slots are read in one piece") {
    SwitchRig rig({{}, {}});
    const auto packet = rig.addressed(make_packet({.payload = 60}), 0, 1);
    rig.send(0, packet, {}, 7);
    REQUIRE(rig.turn_until([&] { return !rig.guests[1].received.empty(); }));
    CHECK(rig.guests[1].received[0].data == packet);
}

TEST_CASE("random traffic between three guests arrives whole, once and in order") {
    const uint32_t seed = GENERATE(1U, 2U, 3U);
    SwitchRig rig({{.queues = 2}, {}, {.queues = 3}});
    std::mt19937 random(seed);
    const auto pick = [&](size_t below) { return random() % below; };
    // By receiver, sender and the sender's queue: each flow in its own order.
    std::map<std::tuple<size_t, size_t, size_t>, std::vector<GuestPacket>> sent;
    size_t expected = 0;
    for (int i = 0; i < 1500; ++i) {
        const size_t from = pick(3);
        const size_t queue = pick(rig.guests[from].queues.size());
        const size_t to = (from + 1 + pick(2)) % 3;
        Bytes packet;
        frontend::PacketInfo info;
        if (pick(2) == 0) {
            packet = raw_packet(14 + pick(pick(10) == 0 ? 65000 : 2000));
        } else {
            const bool v6 = pick(2) == 0;
            packet = make_packet({.v6 = v6, .udp = pick(3) == 0, .payload = pick(pick(4) == 0 ? 60000 : 1400), .blank = true});
            info.csum_blank = true;
            const bool tcp = at(packet, v6 ? 20 : 23) == 6;
            if (tcp && packet.size() > 1600) {
                info.gso = v6 ? GsoType::tcp6 : GsoType::tcp4;
                info.gso_size = 1400;
            }
        }
        packet = rig.addressed(packet, from, to);
        const bool flood = pick(10) == 0;
        if (flood) packet = to_all(packet);
        // The queue's number, where it disturbs nothing: the last byte.
        if (packet.size() > 100 && !info.csum_blank) packet.back() = static_cast<std::byte>(queue);
        const size_t piece = pick(3) == 0 ? 4000 : 4096;
        REQUIRE(rig.turn_until([&] { return rig.guests[from].queues[queue].send(packet, info, piece); }));
        for (size_t receiver = 0; receiver < 3; ++receiver) {
            if (receiver == from || (!flood && receiver != to)) continue;
            sent[{receiver, from, queue}].push_back({info, packet});
            ++expected;
        }
        if (pick(4) == 0) rig.turn();
    }
    const auto arrived = [&] { return rig.guests[0].received.size() + rig.guests[1].received.size() + rig.guests[2].received.size(); };
    REQUIRE(rig.turn_until([&] { return arrived() == expected; }));
    for (size_t receiver = 0; receiver < 3; ++receiver) {
        for (const GuestPacket& got : rig.guests[receiver].received) {
            const size_t from = at(got.data, 11) - 1;
            bool found = false;
            for (size_t queue = 0; queue < rig.guests[from].queues.size() && !found; ++queue) {
                auto& flow = sent[{receiver, from, queue}];
                if (flow.empty() || flow.front().data != got.data) continue;
                CHECK(flow.front().info.csum_blank == got.info.csum_blank);
                CHECK(flow.front().info.gso == got.info.gso);
                CHECK(flow.front().info.gso_size == got.info.gso_size);
                flow.erase(flow.begin());
                found = true;
            }
            REQUIRE(found);
        }
        const auto stats = rig.stats(receiver);
        CHECK(stats.tx_errors + stats.rx_errors + stats.tx_dropped + stats.rx_dropped == 0);
    }
}

TEST_CASE("a packet to be segmented goes whole to who takes it, and in segments to who does not") {
    const bool v6 = GENERATE(false, true);
    const size_t payload = GENERATE(3000U, 60000U);
    const bool gso = GENERATE(false, true);
    const bool sum = GENERATE(false, true);
    SwitchRig rig({{}, {.scatter_gather = sum, .gso = gso && sum, .csum4 = sum, .csum6 = sum}});
    auto whole = rig.addressed(make_packet({.v6 = v6, .payload = payload, .blank = true}), 0, 1);
    whole[14 + (v6 ? 40U : 20U) + 13] = std::byte{0x19};  // ACK, PSH, FIN
    rig.send(0, whole, {.csum_blank = true, .gso = v6 ? GsoType::tcp6 : GsoType::tcp4, .gso_size = 1400});
    const bool takes = gso && sum;
    REQUIRE(rig.turn_until([&] { return rig.guests[1].received.size() == (takes ? 1 : (payload + 1399) / 1400); }));
    if (!takes) return check_segments(rig.guests[1].received, whole, 1400, v6);
    CHECK(rig.guests[1].received[0].data == whole);
    CHECK(rig.guests[1].received[0].info.gso_size == 1400);
    CHECK(rig.guests[1].received[0].info.csum_blank);
}

TEST_CASE("a blank checksum stays blank for who takes it, and is right for who does not, in one flood too") {
    const bool v6 = GENERATE(false, true);
    const bool udp = GENERATE(false, true);
    const size_t payload = GENERATE(10U, 1000U);
    const bool flood = GENERATE(false, true);
    SwitchRig rig({{}, {.csum4 = false, .csum6 = false}, {}});
    Bytes packet = rig.addressed(make_packet({.v6 = v6, .udp = udp, .payload = payload, .blank = true}), 0, 1);
    if (flood) packet = to_all(packet);
    rig.send(0, packet, {.csum_blank = true});
    REQUIRE(rig.turn_until([&] { return !rig.guests[1].received.empty() && rig.guests[2].received.empty() == !flood; }));
    CHECK(checksum_right(rig.guests[1].received[0].data));
    CHECK_FALSE(rig.guests[1].received[0].info.csum_blank);
    if (flood) CHECK(checksum_right(rig.guests[2].received[0].data) == !rig.guests[2].received[0].info.csum_blank);
    const auto direct = rig.addressed(make_packet({.v6 = v6, .udp = udp, .payload = payload, .blank = true}), 0, 2);
    rig.guests[2].received.clear();
    rig.send(0, direct, {.csum_blank = true});
    REQUIRE(rig.turn_until([&] { return !rig.guests[2].received.empty(); }));
    CHECK(rig.guests[2].received[0].data == direct);
    CHECK(rig.guests[2].received[0].info.csum_blank);
}

TEST_CASE("a frame that is not what it claims to be, or not its sender's, goes nowhere") {
    SwitchRig rig({{.given = "192.0.2.7"}, {}});
    const auto nothing = [&](const Bytes& packet, const frontend::PacketInfo& info = {}) {
        rig.send(0, packet, info);
        for (int i = 0; i < 5; ++i) rig.turn();
        CHECK(rig.guests[1].received.empty());
    };
    Bytes right = rig.addressed(make_packet({}), 0, 1);
    const std::array<uint8_t, 4> own{192, 0, 2, 7};
    for (size_t i = 0; i < 4; ++i) right[26 + i] = static_cast<std::byte>(own[i]);
    Bytes other_ip = right;
    other_ip[29] = std::byte{8};
    nothing(other_ip);
    CHECK(rig.stats(0).port.spoofed == 1);
    nothing(rig.addressed(right, 1, 1));
    CHECK(rig.stats(0).port.spoofed == 2);
    nothing(rig.addressed(raw_packet(100), 0, 1), {.csum_blank = true});  // there is no checksum in it
    nothing(with_tag(right, 9));
    CHECK(rig.stats(0).port.vlan_refused == 1);
    rig.send(0, right);
    REQUIRE(rig.turn_until([&] { return !rig.guests[1].received.empty(); }));
    CHECK(rig.guests[1].received[0].data == right);
    CHECK(rig.stats(0).tx_dropped == 4);
}

TEST_CASE("tags are put on and taken off, and VLANs are kept apart") {
    SwitchRig rig({{.vlan = 2}, {.vlan = 3, .trunks = {2}}, {.vlan = 3}, {.vlan = 2}});
    const size_t payload = GENERATE(20U, 5000U);
    const auto up = rig.addressed(make_packet({.payload = payload, .blank = true}), 0, 1);
    rig.send(0, up, {.csum_blank = true});
    REQUIRE(rig.turn_until([&] { return !rig.guests[1].received.empty(); }));
    const GuestPacket got = rig.guests[1].received[0];
    const Bytes expected = with_tag(up, 2);
    CHECK(got.data.size() == expected.size());
    CHECK(std::equal(got.data.begin(), got.data.begin() + 34, expected.begin()));
    CHECK_FALSE(got.info.csum_blank);  // nobody looks for it behind a tag
    CHECK(checksum_right(got.data));

    const auto plain = rig.addressed(raw_packet(payload + 50), 1, 0);
    rig.send(1, with_tag(plain, 2));
    REQUIRE(rig.turn_until([&] { return !rig.guests[0].received.empty(); }));
    CHECK(rig.guests[0].received[0].data == plain);
    // Broadcasts: of VLAN 2 from the trunk, and of VLAN 3 without a tag.
    for (auto& guest : rig.guests) guest.received.clear();
    rig.send(1, with_tag(to_all(plain), 2));
    rig.send(1, to_all(plain));
    REQUIRE(rig.turn_until([&] { return !rig.guests[0].received.empty() && !rig.guests[2].received.empty() && !rig.guests[3].received.empty(); }));
    for (const size_t guest : {0U, 2U, 3U}) {
        CHECK(rig.guests[guest].received.size() == 1);
        CHECK(rig.guests[guest].received[0].data == to_all(plain));
    }
    // A guest of another VLAN is not there.
    rig.send(2, rig.addressed(raw_packet(100), 2, 0));
    for (int i = 0; i < 5; ++i) rig.turn();
    CHECK(rig.guests[0].received.size() == 1);
}

TEST_CASE("a segmented packet for a trunk wears its tag on every segment") {
    SwitchRig rig({{.vlan = 2}, {.vlan = 3, .trunks = {2}}});
    const auto whole = rig.addressed(make_packet({.payload = 5000, .blank = true}), 0, 1);
    rig.send(0, whole, {.csum_blank = true, .gso = GsoType::tcp4, .gso_size = 1000});
    REQUIRE(rig.turn_until([&] { return rig.guests[1].received.size() == 5; }));
    for (const GuestPacket& segment : rig.guests[1].received) {
        CHECK(word(segment.data, 12) == 0x8100);
        CHECK(word(segment.data, 14) == 2);
        CHECK(checksum_right(segment.data));
    }
}

TEST_CASE("a guest that does not read loses its own packets, in bounded memory, and nobody else's time") {
    SwitchRig rig({{}, {}, {}});
    rig.guests[1].reads = false;
    constexpr size_t kMany = 3000;
    size_t to_reader = 0;
    for (size_t i = 0; i < kMany; ++i) {
        rig.send(0, rig.addressed(raw_packet(100 + i % 1000), 0, 1));
        if (i % 3 != 0) continue;
        rig.send(0, rig.addressed(raw_packet(100 + i % 1000), 0, 2));
        ++to_reader;
    }
    REQUIRE(rig.turn_until([&] { return rig.guests[2].received.size() == to_reader; }));
    const auto stats = rig.stats(1);
    CHECK(stats.rx_packets == 256);       // its ring
    CHECK(stats.rx_waited == 256);        // what may wait
    CHECK(stats.rx_dropped == kMany - 512);
    // When it reads again it gets what came first, in order.
    rig.guests[1].reads = true;
    REQUIRE(rig.turn_until([&] { return rig.guests[1].received.size() == 512; }));
    for (size_t i = 0; i < 512; ++i) REQUIRE(rig.guests[1].received[i].data == rig.addressed(raw_packet(100 + i), 0, 1));
    rig.send(0, rig.addressed(raw_packet(77), 0, 1));
    REQUIRE(rig.turn_until([&] { return rig.guests[1].received.size() == 513; }));
}

TEST_CASE("large packets wait for buffers whole, whatever is still to be done to them") {
    SwitchRig rig({{}, {.rx_buffers = 40}});
    rig.guests[1].reads = false;
    const auto whole = rig.addressed(make_packet({.payload = 60000, .blank = true}), 0, 1);
    for (int i = 0; i < 6; ++i) rig.send(0, whole, {.csum_blank = true, .gso = GsoType::tcp4, .gso_size = 1400});
    CHECK(rig.stats(1).rx_waited == 4);
    rig.guests[1].reads = true;
    REQUIRE(rig.turn_until([&] { return rig.guests[1].received.size() == 6; }));
    for (const auto& got : rig.guests[1].received) {
        CHECK(got.data == whole);
        CHECK(got.info.gso_size == 1400);
    }
}

TEST_CASE("broadcasts to guests that do not read wait in bounded memory, which comes back when the guests go") {
    SwitchRig rig({{}, {}, {}, {}});
    rig.guests[1].reads = rig.guests[2].reads = false;
    constexpr size_t kSize = 9000;
    constexpr size_t kOnRing = 256 / 3;             // three pages each
    constexpr size_t kWait = (512U << 10) / kSize;  // by bytes: far fewer than 256 packets
    constexpr size_t kMany = 300;
    const auto broadcast = to_all(rig.addressed(raw_packet(kSize), 0, 1));
    for (size_t i = 0; i < kMany; ++i) rig.send(0, broadcast);
    REQUIRE(rig.turn_until([&] { return rig.guests[3].received.size() == kMany; }));
    CHECK(rig.guests[3].received.back().data == broadcast);
    for (const size_t deaf : {1U, 2U}) {
        CHECK(rig.stats(deaf).rx_packets == kOnRing);
        CHECK(rig.stats(deaf).rx_waited == kWait);
        CHECK(rig.stats(deaf).rx_dropped == kMany - kOnRing - kWait);
    }
    // Together more than the worker has memory for, if any of it were kept.
    for (int round = 0; round < 20; ++round) {
        for (const size_t deaf : {1U, 2U}) {
            rig.disconnect(deaf);
            must(rig.try_connect(deaf, true));
        }
        for (size_t i = 0; i < kWait; ++i) rig.send(0, broadcast);
        for (const size_t deaf : {1U, 2U}) REQUIRE(rig.stats(deaf).rx_waited == kWait);
    }
}

TEST_CASE("guests that do not read leave room for what waits for one that does") {
    SwitchRig rig({{.queues = 8},
                   {.queues = 8, .rx_buffers = 20},
                   {.queues = 8, .rx_buffers = 20},
                   {.queues = 8, .rx_buffers = 20},
                   {.queues = 8, .rx_buffers = 20},
                   {.rx_buffers = 20}});
    constexpr size_t kGood = 5;
    for (size_t deaf = 1; deaf < kGood; ++deaf) rig.guests[deaf].reads = false;
    rig.disconnect(kGood);
    const auto broadcast = to_all(rig.addressed(raw_packet(2049), 0, 1));  // two buffers each
    for (size_t queue = 0; queue < 8; ++queue) {
        for (int i = 0; i < 20 + 256; ++i) rig.send(0, broadcast, {}, 4096, queue);
    }
    for (size_t deaf = 1; deaf < kGood; ++deaf) {
        CHECK(rig.stats(deaf).rx_waited > 256);
        CHECK(rig.stats(deaf).rx_dropped > 256);
    }
    must(rig.try_connect(kGood, true));
    rig.guests[kGood].reads = false;  // for a moment
    for (size_t i = 0; i < 80; ++i) rig.send(0, rig.addressed(raw_packet(100 + i), 0, kGood));
    CHECK(rig.stats(kGood).rx_waited == 60);
    CHECK(rig.stats(kGood).rx_dropped == 0);
    rig.guests[kGood].reads = true;
    REQUIRE(rig.turn_until([&] { return rig.guests[kGood].received.size() == 80; }));
}

TEST_CASE("a guest that floods is held to its share") {
    SwitchRig rig({{.floods_per_second = 10}, {}});
    for (int i = 0; i < 200; ++i) rig.send(0, to_all(rig.addressed(raw_packet(60), 0, 1)));
    const auto stats = rig.stats(0);
    CHECK(stats.port.storm + stats.port.flooded == 200);
    CHECK(stats.port.storm >= 100);
    CHECK(rig.guests[1].received.size() == stats.port.flooded);
}

TEST_CASE("a packet costs two grant operations, or three, in a few calls") {
    SwitchRig rig({{}, {}});
    const size_t size = GENERATE(60U, 1514U);
    rig.send(0, rig.addressed(raw_packet(size), 0, 1));
    const auto before = rig.stats(0);
    for (int i = 0; i < 32; ++i) REQUIRE(rig.guests[0].queues[0].send(rig.addressed(raw_packet(size), 0, 1)));
    REQUIRE(rig.turn_until([&] { return rig.guests[1].received.size() == 33; }));
    const auto after = rig.stats(0);
    CHECK(after.grant_copy_segments - before.grant_copy_segments == (size == 60 ? 64 : 96));
    CHECK(after.grant_copy_calls - before.grant_copy_calls == 2);
}

TEST_CASE("a page that cannot be read costs the packet and nothing else") {
    SwitchRig rig({{}, {}});
    const auto packet = rig.addressed(raw_packet(9000), 0, 1);
    REQUIRE(rig.guests[0].queues[0].send(packet));
    // The second slot's grant is taken back before the backend sees the request.
    auto* second = reinterpret_cast<xen::netif::TxRequest*>(rig.guests[0].queues[0].tx_shared() + 64) + 1;
    second->gref = 0x7fffffff;
    REQUIRE(rig.turn_until([&] { return rig.guests[0].queues[0].tx_in_flight() == 0; }));
    CHECK(rig.guests[0].queues[0].counters().tx_failed > 0);
    CHECK(rig.stats(0).tx_errors == 1);
    CHECK(rig.stats(1).rx_errors == 1);
    rig.send(0, packet);
    REQUIRE(rig.turn_until([&] { return !rig.guests[1].received.empty(); }));
    CHECK(rig.guests[1].received.size() == 1);
    CHECK(rig.guests[1].received[0].data == packet);
}

TEST_CASE("a guest whose rx ring is broken is lost alone") {
    SwitchRig rig({{}, {}, {}});
    reinterpret_cast<xen::SharedRingHeader*>(rig.guests[1].queues[0].rx_shared())->req_prod += 5000;
    rig.guests[1].reads = false;
    rig.send(0, to_all(rig.addressed(raw_packet(100), 0, 1)));
    CHECK(rig.guests[1].failure != "");
    rig.send(0, rig.addressed(raw_packet(101), 0, 1));
    rig.send(0, rig.addressed(raw_packet(102), 0, 2));
    REQUIRE(rig.turn_until([&] { return rig.guests[2].received.size() == 2; }));
    CHECK(rig.guests[0].failure == "");
}

TEST_CASE("who leaves is gone, who comes back is found, and an address is taken once") {
    SwitchRig rig({{}, {}});
    rig.disconnect(1);
    rig.send(0, rig.addressed(raw_packet(100), 0, 1));  // flooded to nobody
    must(rig.try_connect(1, true));
    rig.send(0, rig.addressed(raw_packet(101), 0, 1));
    REQUIRE(rig.turn_until([&] { return rig.guests[1].received.size() == 1; }));
    CHECK(rig.guests[1].received[0].data.size() == 101);
    rig.disconnect(1);
    rig.guests[1].address = rig.guests[0].address;
    const auto again = rig.try_connect(1, true);
    REQUIRE(!again);
    CHECK(again.error().code == EEXIST);
}

TEST_CASE("a successor of the switch goes on where the rings stand") {
    SwitchRig rig({{}, {}});
    for (int i = 0; i < 300; ++i) rig.send(0, rig.addressed(raw_packet(60), 0, 1));
    REQUIRE(rig.turn_until([&] { return rig.guests[1].received.size() == 300; }));
    for (const size_t guest : {0U, 1U}) rig.disconnect(guest);
    for (const size_t guest : {0U, 1U}) must(rig.try_connect(guest, true));
    rig.send(0, rig.addressed(raw_packet(61), 0, 1));
    rig.send(1, rig.addressed(raw_packet(62), 1, 0));
    REQUIRE(rig.turn_until([&] { return rig.guests[1].received.size() == 301 && rig.guests[0].received.size() == 1; }));
}

TEST_CASE("a ring left half answered is recovered before another guest's packets are put there") {
    using namespace xen::netif;
    SwitchRig rig({{}, {}});
    SwitchGuest& victim = rig.guests[1];
    rig.turn();
    for (const size_t guest : {0U, 1U}) rig.disconnect(guest);
    // As a worker leaves it that dies between writing a packet's answers and showing them: these are no requests any more.
    auto journal = must(net::worker::Journal::map(victim.journal.get()));
    std::byte* slots = victim.queues[0].rx_shared() + sizeof(xen::SharedRingHeader);
    std::array<uint16_t, 2> ids{};
    for (size_t i = 0; i < ids.size(); ++i) {
        RxRequest request;
        std::memcpy(&request, slots + i * sizeof request, sizeof request);
        ids[i] = journal.queue(0).rx_ids[i] = request.id;
    }
    journal.queue(0).rx_answered = 2;
    const RxResponse written{ids[0], 0, kRxCsumBlank | kRxDataValidated | kRxExtraInfo, 1000};
    std::memcpy(slots, &written, sizeof written);
    Extra extra{};
    extra.type = static_cast<uint8_t>(ExtraType::gso);
    extra.gso.size = 500;
    extra.gso.type = static_cast<uint8_t>(GsoType::tcp4);
    std::memcpy(slots + sizeof written, &extra, sizeof extra);
    const std::array packets{rig.addressed(raw_packet(100), 0, 1), rig.addressed(raw_packet(101), 0, 1)};
    for (const auto& packet : packets) REQUIRE(rig.guests[0].queues[0].send(packet));
    // The sender runs first.
    victim.reads = false;
    must(rig.try_connect(0, true));
    must(rig.try_connect(1, true));
    REQUIRE(rig.turn_until([&] { return rig.guests[0].queues[0].tx_in_flight() == 0 || !rig.guests[0].failure.empty(); }));
    for (size_t i = 0; i < ids.size(); ++i) {
        RxResponse response;
        std::memcpy(&response, slots + i * sizeof response, sizeof response);
        CHECK(response.id == ids[i]);
        CHECK(response.status == kError);
    }
    victim.reads = true;
    REQUIRE(rig.turn_until([&] { return victim.received.size() == packets.size(); }));
    for (size_t i = 0; i < packets.size(); ++i) CHECK(victim.received[i].data == packets[i]);
    CHECK(victim.queues[0].counters().rx_failed == 2);
}

TEST_CASE("the table says which guest is behind which address") {
    SwitchRig rig({{}, {.any_source = true}});
    Bytes packet = rig.addressed(raw_packet(100), 1, 0);
    packet[11] = std::byte{0x77};
    rig.send(1, packet);
    net::TablePage page;
    rig.fabric.list({net::Text<32>("lan0"), 0}, page);
    CHECK(page.cursor == 0);
    REQUIRE(page.count == 3);
    size_t learned = 0;
    for (size_t i = 0; i < page.count; ++i) {
        const net::TableEntry& entry = page.entries[i];
        const bool own = entry.address == rig.guests[0].address;
        CHECK(entry.domid == rig.guests[own ? 0 : 1].domid);
        if (entry.pinned == 0) CHECK(entry.address[5] == 0x77);
        learned += entry.pinned == 0 ? 1 : 0;
    }
    CHECK(learned == 1);
    rig.fabric.list({net::Text<32>("other"), 0}, page);
    CHECK(page.count == 0);
}
