// SPDX-License-Identifier: Apache-2.0
//
// What a vif carries: both directions, every size, every way to say what is left to be done.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "netback_rig.h"

using namespace ringback;
using namespace ringback::test;
using xen::netif::GsoType;

TEST_CASE("packets of every size go out as they are, however they are cut") {
    NetRig rig;
    const size_t size = GENERATE(14U, 60U, 1514U, 4095U, 4096U, 4097U, 9014U, 65535U);
    const size_t piece = GENERATE(4096U, 4000U);
    const auto packet = raw_packet(size);
    const auto out = rig.transmit(packet, {}, piece);
    REQUIRE(out.size() == 1);
    CHECK(out[0].data == packet);
    CHECK(out[0].header.flags == 0);
    CHECK(out[0].header.gso_type == bridge::kVnetGsoNone);
    CHECK(rig.queues[0].counters().tx_failed == 0);
}

TEST_CASE("headers split over many slots arrive in one piece") {
    NetRig rig;
    const auto packet = make_packet({.payload = 60});
    const auto out = rig.transmit(packet, {}, 7);
    REQUIRE(out.size() == 1);
    CHECK(out[0].data == packet);
}

TEST_CASE("packets of every size come in as they are") {
    NetRig rig;
    const size_t size = GENERATE(14U, 60U, 1514U, 4095U, 4096U, 4097U, 9014U, 65535U, 65553U);
    const PortPacket packet{{}, raw_packet(size)};
    rig.inject(packet);
    REQUIRE(rig.turn_until([&] { return !rig.received.empty(); }));
    CHECK(rig.received[0].data == packet.data);
    CHECK_FALSE(rig.received[0].info.csum_blank);
    CHECK(rig.queues[0].broken() == "");
}

TEST_CASE("thousands both ways on one event channel or two keep their order") {
    NetRigOptions options;
    options.split_ports = GENERATE(true, false);
    NetRig rig(options);
    constexpr size_t kCount = 3000;
    size_t sent = 0, injected = 0, out = 0;
    REQUIRE(rig.turn_until([&] {
        for (int i = 0; i < 20 && sent < kCount; ++i) {
            if (!rig.queues[0].send(raw_packet(60 + sent % 5000))) break;
            ++sent;
        }
        for (int i = 0; i < 20 && injected < kCount; ++i) rig.inject({{}, raw_packet(60 + injected++ % 5000)});
        for (const PortPacket& packet : rig.take_port()) REQUIRE(packet.data == raw_packet(60 + out++ % 5000));
        return out == kCount && rig.received.size() == kCount;
    }));
    for (size_t i = 0; i < kCount; ++i) REQUIRE(rig.received[i].data == raw_packet(60 + i % 5000));
    CHECK(rig.queues[0].broken() == "");
    const auto stats = rig.stats();
    CHECK(stats.tx_packets == kCount);
    CHECK(stats.rx_packets == kCount);
    CHECK(stats.tx_dropped + stats.rx_dropped + stats.tx_errors + stats.rx_errors == 0);
    // Batched: many grants a call.
    CHECK(stats.grant_copy_calls < kCount);
}

TEST_CASE("a blank checksum goes out with its place named") {
    NetRig rig;
    const bool v6 = GENERATE(false, true);
    const bool udp = GENERATE(false, true);
    const bool vlan = GENERATE(false, true);
    const auto packet = make_packet({.v6 = v6, .udp = udp, .vlan = vlan, .blank = true});
    const auto out = rig.transmit(packet, {.csum_blank = true});
    REQUIRE(out.size() == 1);
    CHECK(out[0].data == packet);
    CHECK(out[0].header.flags == bridge::kVnetNeedsCsum);
    CHECK(out[0].header.csum_start == (vlan ? 18 : 14) + (v6 ? 40 : 20));
    CHECK(out[0].header.csum_offset == (udp ? 6 : 16));
}

TEST_CASE("a packet to be segmented goes out whole, with its size of segments") {
    NetRig rig;
    const bool v6 = GENERATE(false, true);
    const auto packet = make_packet({.v6 = v6, .payload = 60000, .blank = true});
    const auto out = rig.transmit(
        packet, {.csum_blank = true, .gso = v6 ? GsoType::tcp6 : GsoType::tcp4, .gso_size = 1448});
    REQUIRE(out.size() == 1);
    CHECK(out[0].data == packet);
    CHECK(out[0].header.gso_type == (v6 ? bridge::kVnetGsoTcp6 : bridge::kVnetGsoTcp4));
    CHECK(out[0].header.gso_size == 1448);
    CHECK(out[0].header.header_length == 14 + (v6 ? 40 : 20) + 20);
    CHECK(rig.stats().tx_gso == 1);
}

TEST_CASE("what the port does not take undone is done before") {
    const bool v6 = GENERATE(false, true);
    NetRig rig({.port_state = {.up = 1, .checksum = 0, .tcp4 = 0, .tcp6 = 0}});
    const auto blank = make_packet({.v6 = v6, .payload = 333, .blank = true});
    auto out = rig.transmit(blank, {.csum_blank = true});
    REQUIRE(out.size() == 1);
    CHECK(out[0].header.flags == 0);
    CHECK(out[0].data == make_packet({.v6 = v6, .payload = 333}));
    const auto large = make_packet({.v6 = v6, .payload = 60000, .blank = true});
    out = rig.transmit(large, {.csum_blank = true, .gso = v6 ? GsoType::tcp6 : GsoType::tcp4, .gso_size = 1448});
    REQUIRE(out.size() == 42);
    const size_t headers = 14 + (v6 ? 40 : 20) + 20;
    std::vector<std::byte> payload;
    for (const PortPacket& one : out) {
        CHECK(one.header.gso_type == bridge::kVnetGsoNone);
        CHECK(one.header.flags == 0);
        CHECK(checksum_right(one.data));
        payload.insert(payload.end(), one.data.begin() + static_cast<std::ptrdiff_t>(headers), one.data.end());
    }
    CHECK(std::equal(payload.begin(), payload.end(), large.begin() + static_cast<std::ptrdiff_t>(headers), large.end()));
    // What does not need to be cut leaves as it came.
    out = rig.transmit(raw_packet(1500));
    REQUIRE(out.size() == 1);
    CHECK(out[0].data == raw_packet(1500));
}

TEST_CASE("a port that is down takes nothing, and the guest has its slots back") {
    NetRig rig({.port_state = {}});
    CHECK(rig.transmit(raw_packet(500)).empty());
    CHECK(rig.transmit(make_packet({.blank = true}), {.csum_blank = true}).empty());
    CHECK(rig.stats().tx_dropped == 2);
    rig.vif->adjust({{}, 0, {}, {1, 1, 1, 1}}, {});
    CHECK(rig.transmit(raw_packet(500)).size() == 1);
}

TEST_CASE("what the port left undone is told to the guest, or done for it") {
    const bool v6 = GENERATE(false, true);
    const bool takes = GENERATE(false, true);
    NetRigOptions options;
    (v6 ? options.csum6 : options.csum4) = takes;
    NetRig rig(options);
    const PortPacket packet{{.flags = bridge::kVnetNeedsCsum,
                             .gso_type = 0,
                             .header_length = 0,
                             .gso_size = 0,
                             .csum_start = static_cast<uint16_t>(14 + (v6 ? 40 : 20)),
                             .csum_offset = 16},
                            make_packet({.v6 = v6, .payload = 333, .blank = true})};
    rig.inject(packet);
    REQUIRE(rig.turn_until([&] { return !rig.received.empty(); }));
    CHECK(rig.received[0].info.csum_blank == takes);
    CHECK(rig.received[0].info.data_validated);
    CHECK(checksum_right(rig.received[0].data) == !takes);
}

TEST_CASE("a packet to be segmented comes in whole, with an extra that says so") {
    NetRig rig;
    const PortPacket packet{{.flags = bridge::kVnetNeedsCsum,
                             .gso_type = bridge::kVnetGsoTcp4,
                             .header_length = 54,
                             .gso_size = 1400,
                             .csum_start = 34,
                             .csum_offset = 16},
                            make_packet({.payload = 64000, .blank = true})};
    rig.inject(packet);
    rig.inject({{}, raw_packet(100)});
    REQUIRE(rig.turn_until([&] { return rig.received.size() == 2; }));
    CHECK(rig.received[0].data == packet.data);
    CHECK(rig.received[0].info.gso == GsoType::tcp4);
    CHECK(rig.received[0].info.gso_size == 1400);
    CHECK(rig.received[1].data == raw_packet(100));
    CHECK(rig.stats().rx_gso == 1);
}

TEST_CASE("every queue of a vif is served") {
    NetRig rig({.queues = 4});
    for (size_t i = 0; i < 4; ++i) {
        REQUIRE(rig.queues[i].send(raw_packet(100 + i)));
        rig.inject({{}, raw_packet(200 + i)}, i);
    }
    REQUIRE(rig.turn_until([&] { return rig.received.size() == 4 && rig.stats().tx_packets == 4; }));
    for (size_t i = 0; i < 4; ++i) {
        const auto out = rig.take_port(i);
        REQUIRE(out.size() == 1);
        CHECK(out[0].data == raw_packet(100 + i));
    }
}

TEST_CASE("a guest sends no faster than its rate") {
    // 10 kB each 100 ms: a debt of one packet is paid before the next goes.
    NetRig rig({.rate = {10'000, 100'000, 0}});
    const uint64_t begin = monotonic_ns();
    size_t sent = 0;
    REQUIRE(rig.turn_until([&] {
        while (sent < 50 && rig.queues[0].send(raw_packet(1000))) ++sent;
        return rig.stats().tx_packets == 50;
    }));
    CHECK(monotonic_ns() - begin >= 300'000'000);
    CHECK(rig.stats().rate_waits > 0);
    CHECK(rig.take_port().size() == 50);
}

TEST_CASE("a vif that is disconnected gives everything back, and can be connected again") {
    NetRig rig;
    REQUIRE(rig.transmit(raw_packet(60)).size() == 1);
    rig.disconnect();
    CHECK(eventually([&] { return rig.queues[0].release() == 0; }));
    rig.queues.clear();
    rig.queues.push_back(must(frontend::NetQueue::create(rig.core.guest, {})));
    must(rig.try_connect());
    CHECK(rig.transmit(raw_packet(61)).size() == 1);
}

TEST_CASE("a successor goes on where the rings stand") {
    NetRig rig;
    for (int i = 0; i < 300; ++i) {
        REQUIRE(rig.transmit(raw_packet(60)).size() == 1);
        rig.inject({{}, raw_packet(64)});
    }
    REQUIRE(rig.turn_until([&] { return rig.received.size() == 300; }));
    rig.crash();
    must(rig.try_connect(true));
    CHECK(rig.transmit(raw_packet(61)).size() == 1);
    rig.inject({{}, raw_packet(65)});
    REQUIRE(rig.turn_until([&] { return rig.received.size() == 301; }));
    CHECK(rig.queues[0].broken() == "");
}

TEST_CASE("a guest that names its multicasts gets those, and every broadcast") {
    NetRig rig;
    const auto to = [](std::initializer_list<int> address) {
        auto packet = raw_packet(100);
        size_t i = 0;
        for (const int byte : address) packet[i++] = static_cast<std::byte>(byte);
        return PortPacket{{}, packet};
    };
    const auto group = to({0x01, 0, 0x5e, 0, 0, 1}), other = to({0x01, 0, 0x5e, 0, 0, 2});
    const auto broadcast = to({0xff, 0xff, 0xff, 0xff, 0xff, 0xff}), unicast = to({0x02, 0, 0, 0, 0, 1});
    const auto arrive = [&] {
        rig.received.clear();
        for (const auto& packet : {group, other, broadcast, unicast}) rig.inject(packet);
        REQUIRE(rig.turn_until([&] { return !rig.received.empty() && rig.received.back().data == unicast.data; }));
        return rig.received.size();
    };
    CHECK(arrive() == 4);
    rig.vif->adjust({{}, 1, {}, {1, 1, 1, 1}}, {});
    CHECK(arrive() == 2);
    REQUIRE(rig.queues[0].name_multicast({0x01, 0, 0x5e, 0, 0, 1}, true));
    REQUIRE(rig.turn_until([&] { return rig.queues[0].tx_in_flight() == 0; }));
    CHECK(arrive() == 3);
    // It outlives the worker.
    rig.crash();
    must(rig.try_connect(true));
    rig.vif->adjust({{}, 1, {}, {1, 1, 1, 1}}, {});
    CHECK(arrive() == 3);
    REQUIRE(rig.queues[0].name_multicast({0x01, 0, 0x5e, 0, 0, 1}, false));
    REQUIRE(rig.turn_until([&] { return rig.queues[0].tx_in_flight() == 0; }));
    CHECK(arrive() == 2);
    CHECK(rig.take_port().empty());
    // Sixty-four, and no more.
    for (uint8_t i = 0; i < 65; ++i) {
        REQUIRE(rig.queues[0].name_multicast({0x33, 0x33, 0, 0, 0, i}, true));
        REQUIRE(rig.turn_until([&] { return rig.queues[0].tx_in_flight() == 0; }));
        CHECK(rig.queues[0].counters().tx_failed == (i < 64 ? 0 : 1));
    }
}
