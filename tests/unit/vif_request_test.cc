// SPDX-License-Identifier: Apache-2.0
//
// What a guest may write on its tx ring, judged slot by slot.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstring>
#include <vector>

#include "netback/worker/request.h"

using namespace ringback;
using namespace ringback::net::worker;
using namespace xen::netif;

namespace {

struct Slots {
    std::vector<std::array<std::byte, sizeof(TxRequest)>> slots;
    size_t taken = 0;
    bool next(std::byte* to) {
        if (taken == slots.size()) return false;
        std::memcpy(to, slots[taken++].data(), sizeof(TxRequest));
        return true;
    }
    template <typename Entry>
    Slots& add(const Entry& entry) {
        slots.emplace_back();
        std::memcpy(slots.back().data(), &entry, sizeof entry);
        return *this;
    }
    Slots& data(uint16_t size, uint16_t flags = 0, uint16_t offset = 0) {
        return add(TxRequest{7, offset, flags, static_cast<uint16_t>(100 + slots.size()), size});
    }
    Slots& gso(uint16_t size, uint8_t type, uint8_t flags = 0) {
        Extra extra{};
        extra.type = static_cast<uint8_t>(ExtraType::gso);
        extra.flags = flags;
        extra.gso.size = size;
        extra.gso.type = type;
        return add(extra);
    }
    Slots& extra(uint8_t type, uint8_t flags = 0) {
        Extra one{};
        one.type = type;
        one.flags = flags;
        return add(one);
    }
};

TxPacket whole(Slots slots) {
    TxPacket packet;
    const char* broken = read_packet(slots, packet);
    INFO((broken == nullptr ? "" : broken));
    REQUIRE(broken == nullptr);
    CHECK(slots.taken == slots.slots.size());
    return packet;
}

bool breaks(Slots slots) {
    TxPacket packet;
    return read_packet(slots, packet) != nullptr;
}

}  // namespace

TEST_CASE("tx: the first slot's own size is what the others leave") {
    const auto packet = whole(Slots().data(5000, kTxMoreData | kTxCsumBlank).data(4000, kTxMoreData).data(600));
    CHECK(packet.status == kOkay);
    CHECK(packet.size == 5000);
    CHECK(packet.slot_count == 3);
    CHECK(packet.slots[0].size == 400);
    CHECK(packet.slots[1].size == 4000);
    CHECK(packet.slots[2].id == 102);
    CHECK(packet.offload.csum_blank);
}

TEST_CASE("tx: slots of no size are no fault") {
    const auto packet = whole(Slots().data(60, kTxMoreData).data(0, kTxMoreData, 4096).data(60));
    CHECK(packet.status == kOkay);
    CHECK(packet.slots[0].size == 0);
}

TEST_CASE("tx: extras stand between the first slot and the others, in any number") {
    Slots slots;
    slots.data(100, kTxMoreData | kTxExtraInfo);
    for (int i = 0; i < 40; ++i) slots.extra(static_cast<uint8_t>(4 + i % 2), kExtraMore);
    slots.gso(1448, 1);
    slots.data(50);
    const auto packet = whole(slots);
    CHECK(packet.extras == 41);
    CHECK(packet.slot_count == 2);
    CHECK(packet.offload.gso == GsoType::tcp4);
    CHECK(packet.offload.gso_size == 1448);
}

TEST_CASE("tx: eighteen slots are a packet, twenty are refused, more are an attack") {
    const auto chain = [](int count) {
        Slots slots;
        slots.data(static_cast<uint16_t>(100 * count), kTxMoreData);
        for (int i = 1; i < count; ++i) slots.data(100, i + 1 < count ? kTxMoreData : 0);
        return slots;
    };
    CHECK(whole(chain(18)).status == kOkay);
    CHECK(whole(chain(19)).status == kError);
    CHECK(whole(chain(20)).status == kError);
    CHECK(breaks(chain(21)));
}

TEST_CASE("tx: a packet past 65535 bytes, whose size has wrapped, is dropped and its slots answered") {
    Slots slots;
    slots.data(70000 - 65536, kTxMoreData);
    for (int i = 0; i < 17; ++i) slots.data(4096, i < 16 ? kTxMoreData : 0);
    const auto packet = whole(slots);
    CHECK(packet.status == kError);
    CHECK(packet.slot_count == 18);
}

TEST_CASE("tx: what no frontend writes by mistake breaks the ring") {
    CHECK(breaks(Slots().data(100, kTxMoreData)));                       // the rest is missing
    CHECK(breaks(Slots().data(100, kTxExtraInfo)));                      // so is the extra
    CHECK(breaks(Slots().data(100, kTxExtraInfo).gso(1448, 1, kExtraMore)));
    CHECK(breaks(Slots().data(100, kTxExtraInfo).extra(0)));
    CHECK(breaks(Slots().data(100, kTxExtraInfo).extra(6)));
    CHECK(breaks(Slots().data(100, kTxExtraInfo).gso(0, 1)));
    CHECK(breaks(Slots().data(100, kTxExtraInfo).gso(1448, 3)));
    CHECK(breaks(Slots().data(100, kTxExtraInfo).gso(1448, 0)));
    CHECK(breaks(Slots().data(13)));                                     // no Ethernet header
    CHECK(breaks(Slots().data(0)));
    CHECK(breaks(Slots().data(100, 0, 4000)));                           // crosses its page
    CHECK(breaks(Slots().data(5000)));
    CHECK(breaks(Slots().data(200, kTxMoreData).data(100, 0, 4000)));
    CHECK(breaks(Slots().data(200, kTxMoreData).data(100, 0, 0xffff)));
    CHECK(breaks(Slots()));
}

TEST_CASE("tx: a slot that names a multicast address is no packet, whatever else it says") {
    Slots slots;
    slots.data(0, kTxExtraInfo | kTxMoreData, 4096);
    slots.extra(2);
    const auto packet = whole(slots);
    CHECK(packet.multicast == ExtraType::multicast_add);
    CHECK(packet.slot_count == 1);
    CHECK(packet.extras == 1);
    CHECK(packet.status == kOkay);
}
