// SPDX-License-Identifier: Apache-2.0
#include "switch_rig.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>

namespace ringback::test {

SwitchRig::SwitchRig(const std::vector<SwitchGuestOptions>& options) : toolstack(must(xen::embedded::Toolstack::connect())) {
    reactor = must(Reactor::create({}));
    events = std::make_unique<xen::EventChannels>(must(xen::EventChannels::open()));
    grants.push_back(must(xen::GrantTable::open()));
    must(reactor->start());
    watch_.start(*reactor, *events, queues_by_port);
    guests.resize(options.size());
    for (size_t i = 0; i < options.size(); ++i) {
        SwitchGuest& one = guests[i];
        one.options = options[i];
        one.domid = must(toolstack.create_domain({.name = "guest" + std::to_string(i), .memory_mib = 64}));
        one.guest = std::make_unique<xen::embedded::Guest>(must(xen::embedded::Guest::connect(one.domid)));
        one.address = {0x00, 0x16, 0x3e, 0, 0, static_cast<uint8_t>(i + 1)};
        one.journal.reset(memfd_create("journal", MFD_CLOEXEC));
        REQUIRE(ftruncate(one.journal.get(), static_cast<off_t>(net::kJournalBytes)) == 0);
        for (uint16_t q = 0; q < one.options.queues; ++q) {
            one.queues.push_back(must(frontend::NetQueue::create(*one.guest, {.rx_buffers = one.options.rx_buffers})));
        }
        must(try_connect(i));
    }
}

SwitchRig::~SwitchRig() {
    for (size_t i = 0; i < guests.size(); ++i) {
        if (guests[i].vif) disconnect(i);
    }
}

Result<void> SwitchRig::try_connect(size_t guest, bool resumed) {
    SwitchGuest& one = guests[guest];
    net::Connect connect{};
    connect.queue_count = one.options.queues;
    connect.scatter_gather = one.options.scatter_gather ? 1 : 0;
    connect.gso_tcp4 = connect.gso_tcp6 = one.options.gso ? 1 : 0;
    connect.csum_blank4 = one.options.csum4 ? 1 : 0;
    connect.csum_blank6 = one.options.csum6 ? 1 : 0;
    connect.rx_notify = 1;
    connect.resumed = resumed ? 1 : 0;
    connect.kind = net::PortKind::switched;
    connect.port.name = net::Text<32>("lan0");
    connect.port.address = one.address;
    connect.port.any_source = one.options.any_source ? 1 : 0;
    connect.port.vlan = one.options.vlan;
    connect.port.table_entries = 1024;
    connect.port.ageing_s = 300;
    connect.port.floods_per_second = one.options.floods_per_second;
    for (const uint16_t vlan : one.options.trunks) connect.port.trunks[connect.port.trunk_count++] = vlan;
    for (const auto& network : must(bridge::parse_networks(one.options.given))) {
        connect.port.given[connect.port.given_count++] = network;
    }
    for (uint16_t q = 0; q < one.options.queues; ++q) {
        connect.queues[q] = {one.queues[q].tx_ring_ref(), one.queues[q].rx_ring_ref(), one.queues[q].tx_port(),
                             one.queues[q].rx_port()};
    }
    // By place: the vector of guests may not move while vifs are connected, and does not.
    one.vif = TRY(net::worker::Vif::connect({*reactor, *events, grants, batch, queues_by_port, &fabric}, {one.domid, 0}, connect,
                                            UniqueFd(dup(one.journal.get())), {},
                                            {.failed = [&one](net::worker::Vif& failed) { one.failure = failed.broken(); },
                                             .tick_wanted = [](net::worker::Vif&) {}}));
    return {};
}

void SwitchRig::disconnect(size_t guest) {
    guests[guest].vif->end();
    REQUIRE(turn_until([&] { return !guests[guest].vif->scheduled(); }));
    guests[guest].vif.reset();
    reactor->turn(false);
}

void SwitchRig::turn() {
    for (SwitchGuest& one : guests) {
        for (auto& queue : one.queues) queue.push();
    }
    reactor->turn(false);
    for (SwitchGuest& one : guests) {
        if (!one.reads) continue;
        for (auto& queue : one.queues) {
            queue.clear_events();
            queue.reap([&one](std::span<const std::byte> packet, const frontend::PacketInfo& info) {
                one.received.push_back({info, {packet.begin(), packet.end()}});
            });
            INFO(queue.broken());
            REQUIRE(queue.broken().empty());
        }
    }
}

void SwitchRig::send(size_t guest, const std::vector<std::byte>& packet, const frontend::PacketInfo& info, size_t piece,
                     size_t queue) {
    SwitchGuest& one = guests[guest];
    REQUIRE(turn_until([&] { return one.queues[queue].send(packet, info, piece) || !one.failure.empty(); }));
    REQUIRE(turn_until([&] { return one.queues[queue].tx_in_flight() == 0 || !one.failure.empty(); }));
}

std::vector<std::byte> SwitchRig::addressed(std::vector<std::byte> packet, size_t from, size_t to) const {
    const auto put = [&](size_t at, size_t guest) {
        bridge::MacAddress address{0x00, 0x16, 0x3e, 0, 0, static_cast<uint8_t>(guest + 1)};
        if (guest < guests.size()) address = guests[guest].address;
        for (size_t i = 0; i < address.size(); ++i) packet[at + i] = static_cast<std::byte>(address[i]);
    };
    put(0, to);
    put(6, from);
    return packet;
}

}  // namespace ringback::test
