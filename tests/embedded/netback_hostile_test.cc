// SPDX-License-Identifier: Apache-2.0
//
// Frontends that keep no rule: each loses its own vif at most, and none makes the worker wait, grow or fall.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstring>
#include <fstream>

#include "netback_rig.h"

using namespace ringback;
using namespace ringback::test;
using namespace xen::netif;

namespace {

// The tx ring in the hands of a frontend that writes what it likes.
class RawTx {
  public:
    explicit RawTx(NetRig& rig) : rig_(rig), queue_(rig.queues[0]) {}
    [[nodiscard]] xen::SharedRingHeader& header() const {
        return *reinterpret_cast<xen::SharedRingHeader*>(queue_.tx_shared());
    }
    template <typename Entry>
    void put(const Entry& entry) {
        std::memcpy(slot(prod_++), &entry, sizeof entry);
    }
    [[nodiscard]] std::byte* slot(uint32_t index) const {
        return queue_.tx_shared() + sizeof(xen::SharedRingHeader) + index % kTxEntries * sizeof(TxRequest);
    }
    void data(uint16_t size, uint16_t flags = 0, uint32_t gref = 0, uint16_t offset = 0) {
        queue_.grant_tx_page(0);
        put(TxRequest{gref == 0 ? queue_.tx_page_ref(0) : gref, offset, flags, static_cast<uint16_t>(prod_ % 256), size});
    }
    void push() { push_to(prod_); }
    void push_to(uint32_t value) {
        std::atomic_ref(header().req_prod).store(value, std::memory_order_release);
        queue_.notify_tx();
    }
    [[nodiscard]] uint32_t answered() const {
        return std::atomic_ref(header().rsp_prod).load(std::memory_order_acquire);
    }
    [[nodiscard]] TxResponse response(uint32_t index) const {
        TxResponse response;
        std::memcpy(&response, slot(index), sizeof response);
        return response;
    }
    template <typename Condition>
    bool until(Condition condition) {
        return repeat_until(condition, [this] { rig_.reactor->turn(false); });
    }
    bool settle() {
        return until([this] { return answered() == prod_; });
    }
    bool breaks() {
        return until([this] { return !rig_.failures.empty(); });
    }

  private:
    NetRig& rig_;
    frontend::NetQueue& queue_;
    uint32_t prod_ = 0;
};

size_t resident_bytes() {
    std::ifstream file("/proc/self/statm");
    size_t total = 0, resident = 0;
    file >> total >> resident;
    return resident * 4096;
}

Extra extra_of(ExtraType type, uint8_t flags) {
    Extra extra{};
    extra.type = static_cast<uint8_t>(type);
    extra.flags = flags;
    extra.gso.type = 1;
    extra.gso.size = 1448;
    return extra;
}

}  // namespace

TEST_CASE("a req_prod past the ring breaks the vif, on either ring") {
    NetRig rig;
    RawTx tx(rig);
    SECTION("tx") { tx.push_to(GENERATE(257U, 1000U, 0x80000000U, 0xffffffffU)); }
    SECTION("rx") {
        auto& header = *reinterpret_cast<xen::SharedRingHeader*>(rig.queues[0].rx_shared());
        std::atomic_ref(header.req_prod).store(5000, std::memory_order_release);
        rig.inject({{}, raw_packet(60)});
        rig.queues[0].notify_rx();
    }
    REQUIRE(tx.breaks());
    CHECK(rig.failures.size() == 1);
    CHECK(rig.stats().failed == 1);
}

TEST_CASE("a broken chain breaks the vif and sends nothing of it") {
    NetRig rig;
    RawTx tx(rig);
    SECTION("the rest of the packet is missing") { tx.data(200, kTxMoreData); }
    SECTION("an extra is missing") { tx.data(200, kTxExtraInfo); }
    SECTION("extras without end") {
        tx.data(200, kTxExtraInfo);
        for (uint32_t i = 1; i < kTxEntries; ++i) tx.put(extra_of(ExtraType::hash, kExtraMore));
    }
    SECTION("slots without end") {
        for (uint32_t i = 0; i < kTxEntries; ++i) tx.data(i == 0 ? 60000 : 1, kTxMoreData);
    }
    SECTION("past its page") { tx.data(200, 0, 0, 4000); }
    tx.push();
    REQUIRE(tx.breaks());
    CHECK(rig.take_port().empty());
}

TEST_CASE("a broken vif costs nothing any more, and its neighbours go on") {
    NetRig rig({.queues = 2});
    RawTx tx(rig);
    tx.push_to(5000);
    REQUIRE(tx.breaks());
    for (int i = 0; i < 100; ++i) {
        rig.queues[0].notify_tx();
        rig.reactor->turn(false);
    }
    // The port stays masked after the first: no storm gets through.
    CHECK(rig.stats().events_taken <= 6);
    CHECK(rig.failures.size() == 1);
}

TEST_CASE("a vif that broke while it waited for its rate is not looked at any more") {
    NetRig rig({.rate = {100, 3'600'000'000, 0}});
    RawTx tx(rig);
    for (int i = 0; i < 10; ++i) tx.data(100);
    tx.push();
    REQUIRE(tx.until([&] { return rig.vif->next_tick() != 0; }));
    tx.push_to(5000);
    REQUIRE(tx.breaks());
    CHECK(rig.vif->next_tick() == 0);
}

TEST_CASE("data that cannot be had is an error to its packet and to no other") {
    NetRig rig;
    RawTx tx(rig);
    const uint32_t bad = GENERATE(0xfffffffU, 600U, 0xffffffffU);
    tx.data(100);
    tx.data(100, 0, bad);
    tx.data(100);
    tx.push();
    REQUIRE(tx.settle());
    CHECK(tx.response(0).status == kOkay);
    CHECK(tx.response(1).status == kError);
    CHECK(tx.response(2).status == kOkay);
    CHECK(rig.take_port().size() == 2);
    CHECK(rig.stats().tx_errors == 1);
    CHECK(rig.failures.empty());
}

TEST_CASE("every slot gets one answer: its own id, or none for an extra") {
    NetRig rig;
    RawTx tx(rig);
    tx.data(300, kTxMoreData | kTxExtraInfo);
    tx.put(extra_of(ExtraType::hash, kExtraMore));
    tx.put(extra_of(ExtraType::xdp, 0));
    tx.data(0, kTxMoreData);
    tx.data(100);
    tx.push();
    REQUIRE(tx.settle());
    CHECK(tx.response(0).id == 0);
    CHECK(tx.response(0).status == kOkay);
    CHECK(tx.response(1).status == kNull);
    CHECK(tx.response(2).status == kNull);
    CHECK(tx.response(3).id == 3);
    CHECK(tx.response(4).id == 4);
    CHECK(rig.take_port().size() == 1);
}

TEST_CASE("a blank checksum where there is none to be, is an error and no fault") {
    NetRig rig;
    const auto out = rig.transmit(raw_packet(100), {.csum_blank = true});
    CHECK(out.empty());
    CHECK(rig.queues[0].counters().tx_failed == 1);
    CHECK(rig.stats().tx_dropped == 1);
    CHECK(rig.transmit(raw_packet(100)).size() == 1);
}

TEST_CASE("a guest that gives no buffers: what waits stays in the port, and memory stays as it is") {
    NetRigOptions options;
    options.rx_buffers = GENERATE(0U, 1U, 16U);  // never enough for the largest packet
    options.rx_notify = GENERATE(true, false);
    NetRig rig(options);
    for (int i = 0; i < 10; ++i) rig.inject({{}, raw_packet(9000)});
    const size_t before = resident_bytes();
    for (int i = 0; i < 2000; ++i) rig.turn();
    CHECK(rig.received.empty());
    CHECK(resident_bytes() < before + (1U << 20));
    CHECK(rig.tick_wanted);  // it will be looked at again
    // Sending goes on meanwhile.
    CHECK(rig.transmit(raw_packet(100)).size() == 1);
}

TEST_CASE("a guest without scatter-gather gets what fits in a page, and a missing buffer only delays") {
    NetRig rig({.scatter_gather = false, .gso = false, .rx_buffers = 1});
    for (size_t i = 0; i < 50; ++i) rig.inject({{}, raw_packet(60 + i)});
    rig.inject({{}, raw_packet(5000)});
    rig.inject({{}, raw_packet(64)});
    REQUIRE(rig.turn_until([&] { return rig.received.size() == 51; }));
    CHECK(rig.received.back().data == raw_packet(64));
    CHECK(rig.stats().rx_dropped == 1);
    CHECK(rig.queues[0].broken() == "");
}

TEST_CASE("buffers that cannot be written are answered with an error, and cost nothing else") {
    NetRig rig;
    // The guest takes its grants back behind the backend's back.
    auto& queue = rig.queues[0];
    queue.push();
    for (uint32_t slot = 0; slot < 2; ++slot) {
        RxRequest request;
        std::byte* entry = queue.rx_shared() + sizeof(xen::SharedRingHeader) + slot * sizeof request;
        std::memcpy(&request, entry, sizeof request);
        request.gref = 0xffffff;
        std::memcpy(entry, &request, sizeof request);
    }
    for (int i = 0; i < 4; ++i) rig.inject({{}, raw_packet(100 + static_cast<size_t>(i))});
    REQUIRE(rig.turn_until([&] { return rig.received.size() == 2; }));
    CHECK(rig.received[0].data == raw_packet(102));
    CHECK(queue.counters().rx_failed == 2);
    CHECK(rig.stats().rx_errors == 2);
    CHECK(rig.failures.empty());
}

TEST_CASE("answers that were written and not shown are lost packets to the successor, not requests") {
    NetRig rig;
    RawTx tx(rig);
    rig.disconnect();
    // As a worker leaves it that dies between writing the answers of a batch and showing them.
    tx.data(100, kTxExtraInfo);
    tx.put(extra_of(ExtraType::gso, 0));
    tx.data(100);
    tx.data(200);
    auto journal = must(net::worker::Journal::map(rig.journal.get()));
    journal.queue(0).tx_answered = 3;
    journal.queue(0).tx_extra[0] = 0;
    journal.queue(0).tx_extra[1] = 1;
    journal.queue(0).tx_extra[2] = 0;
    for (uint32_t i = 0; i < 3; ++i) {
        const TxResponse written{static_cast<uint16_t>(i), kOkay};
        std::memcpy(tx.slot(i), &written, sizeof written);
    }
    journal.queue(0).rx_answered = 2;
    journal.queue(0).rx_ids[0] = 0;
    journal.queue(0).rx_ids[1] = 1;
    rig.queues[0].push();
    std::memset(rig.queues[0].rx_shared() + sizeof(xen::SharedRingHeader), 0xee, 2 * sizeof(RxRequest));
    tx.push_to(4);
    must(rig.try_connect(true));
    REQUIRE(tx.until([&] { return tx.answered() == 4; }));
    CHECK(tx.response(0).status == kDropped);
    CHECK(tx.response(1).status == kNull);
    CHECK(tx.response(2).status == kDropped);
    CHECK(tx.response(3).status == kOkay);
    const auto out = rig.take_port();
    REQUIRE(out.size() == 1);
    CHECK(out[0].data.size() == 200);
    rig.inject({{}, raw_packet(100)});
    REQUIRE(tx.until([&] {
        rig.queues[0].reap([&](std::span<const std::byte> packet, const frontend::PacketInfo& info) {
            rig.received.push_back({info, {packet.begin(), packet.end()}});
        });
        return rig.received.size() == 1;
    }));
    CHECK(rig.queues[0].counters().rx_failed == 2);
}

TEST_CASE("a journal that says anything is believed within the ring's length only") {
    NetRig rig;
    rig.disconnect();
    auto journal = must(net::worker::Journal::map(rig.journal.get()));
    journal.queue(0).tx_answered = GENERATE(1U, 200U, 0x7fffffffU, 0xffffffffU);
    journal.queue(0).rx_answered = GENERATE(1U, 5000U, 0xffffff00U);
    must(rig.try_connect(true));
    CHECK(rig.transmit(raw_packet(100)).size() <= 1);
    CHECK(rig.failures.empty());
}

TEST_CASE("rings, ports and journals that are not there are errors, and leave nothing behind") {
    NetRig rig({.connect = false});
    const auto refs = GENERATE(0, 1, 2);
    net::Connect connect{};
    connect.queue_count = 1;
    connect.queues[0] = {rig.queues[0].tx_ring_ref(), rig.queues[0].rx_ring_ref(), rig.queues[0].tx_port(),
                         rig.queues[0].rx_port()};
    if (refs == 0) connect.queues[0].tx_ring_ref = 0xffffff;
    if (refs == 1) connect.queues[0].rx_ring_ref = 0xffffff;
    if (refs == 2) connect.queues[0].rx_port = 9999;
    std::vector<UniqueFd> ports;
    ports.emplace_back(dup(rig.worker_ports[0].get()));
    const auto vif = net::worker::Vif::connect({*rig.reactor, *rig.events, rig.grants, rig.batch, rig.queues_by_port},
                                               {rig.core.domid, 0}, connect, UniqueFd(dup(rig.journal.get())),
                                               std::move(ports), {});
    CHECK_FALSE(vif.ok());
    must(rig.try_connect());
    CHECK(rig.transmit(raw_packet(100)).size() == 1);
}

TEST_CASE("a port that goes away ends its vif, and is not asked for ever") {
    NetRig rig;
    rig.ports.clear();
    rig.worker_ports.clear();
    REQUIRE(rig.turn_until([&] { return !rig.failures.empty(); }));
    CHECK(rig.failures[0] == "its port is gone");
    const auto before = rig.reactor->counters().completed;
    for (int i = 0; i < 50; ++i) rig.reactor->turn(false);
    CHECK(rig.reactor->counters().completed - before <= 2);
}
