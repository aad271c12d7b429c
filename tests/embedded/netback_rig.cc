// SPDX-License-Identifier: Apache-2.0
#include "netback_rig.h"

#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <cstring>

namespace ringback::test {

namespace {

constexpr int kSocketBuffer = 4 << 20;

uint32_t sum_of(const std::vector<std::byte>& bytes, size_t from, size_t to) {
    uint32_t sum = 0;
    for (size_t at = from; at < to; at += 2) {
        sum += std::to_integer<uint32_t>(bytes[at]) << 8;
        if (at + 1 < to) sum += std::to_integer<uint32_t>(bytes[at + 1]);
    }
    return sum;
}
uint16_t folded(uint32_t sum) {
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(sum);
}
void put16(std::vector<std::byte>& bytes, size_t at, size_t value) {
    bytes[at] = static_cast<std::byte>(value >> 8 & 0xff);
    bytes[at + 1] = static_cast<std::byte>(value & 0xff);
}
size_t network_of(const std::vector<std::byte>& packet) { return packet[12] == std::byte{0x81} ? 18 : 14; }

// The sum of the pseudo header of what begins at `l4`.
uint32_t pseudo(const std::vector<std::byte>& packet, size_t l3, size_t l4, bool v6, bool udp) {
    const uint32_t addresses = v6 ? sum_of(packet, l3 + 8, l3 + 40) : sum_of(packet, l3 + 12, l3 + 20);
    return addresses + (udp ? 17 : 6) + static_cast<uint32_t>(packet.size() - l4);
}

}  // namespace

std::vector<std::byte> raw_packet(size_t size) {
    std::vector<std::byte> packet(size);
    for (size_t i = 0; i < size; ++i) packet[i] = static_cast<std::byte>(i * 7 + size);
    if (size >= 14) put16(packet, 12, 0x88b5);  // for experiments: nobody looks inside
    return packet;
}

std::vector<std::byte> make_packet(const TcpShape& shape) {
    const size_t l3 = shape.vlan ? 18 : 14;
    const size_t l4 = l3 + (shape.v6 ? 40 : 20);
    const size_t header = shape.udp ? 8 : 20;
    std::vector<std::byte> packet = raw_packet(l4 + header + shape.payload);
    if (shape.vlan) {
        put16(packet, 12, 0x8100);
        put16(packet, 14, 5);
    }
    put16(packet, l3 - 2, shape.v6 ? 0x86dd : 0x0800);
    if (shape.v6) {
        packet[l3] = std::byte{0x60};
        put16(packet, l3 + 4, packet.size() - l4);
        packet[l3 + 6] = std::byte{shape.udp ? uint8_t{17} : uint8_t{6}};
    } else {
        packet[l3] = std::byte{0x45};
        put16(packet, l3 + 2, packet.size() - l3);
        put16(packet, l3 + 6, 0);
        packet[l3 + 9] = std::byte{shape.udp ? uint8_t{17} : uint8_t{6}};
        put16(packet, l3 + 10, 0);
        put16(packet, l3 + 10, static_cast<uint16_t>(~folded(sum_of(packet, l3, l4))));
    }
    const size_t checksum = l4 + (shape.udp ? 6 : 16);
    if (shape.udp) {
        put16(packet, l4 + 4, packet.size() - l4);
    } else {
        packet[l4 + 12] = std::byte{0x50};
    }
    const uint16_t start = folded(pseudo(packet, l3, l4, shape.v6, shape.udp));
    put16(packet, checksum, start);
    if (!shape.blank) {
        const uint16_t sum = static_cast<uint16_t>(~folded(sum_of(packet, l4, packet.size())));
        put16(packet, checksum, sum == 0 ? 0xffff : sum);
    }
    return packet;
}

bool checksum_right(const std::vector<std::byte>& packet) {
    const size_t l3 = network_of(packet);
    const bool v6 = packet[l3 - 2] == std::byte{0x86};
    const size_t l4 = l3 + (v6 ? 40 : 20);
    const bool udp = packet[v6 ? l3 + 6 : l3 + 9] == std::byte{17};
    return folded(pseudo(packet, l3, l4, v6, udp) + sum_of(packet, l4, packet.size())) == 0xffff;
}

void EventsWatch::start(Reactor& reactor, xen::EventChannels& events, const std::vector<net::worker::Queue*>& queues_by_port) {
    events_ = &events;
    queues_ = &queues_by_port;
    on_complete = [](Completion& self, int32_t, uint32_t) noexcept {
        const auto& watch = static_cast<EventsWatch&>(self);
        while (const auto port = watch.events_->pending()) {
            if (*port < watch.queues_->size() && (*watch.queues_)[*port] != nullptr) (*watch.queues_)[*port]->on_event(*port);
        }
    };
    reactor.watch_readable(events.fd(), *this);
}

NetRig::NetRig(const NetRigOptions& wanted) : options(wanted), core({}, {.memory_mib = 64}) {
    journal.reset(memfd_create("journal", MFD_CLOEXEC));
    REQUIRE(ftruncate(journal.get(), static_cast<off_t>(net::kJournalBytes)) == 0);
    for (uint16_t i = 0; i < options.queues; ++i) {
        int pair[2];
        REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
        for (const int end : pair) {
            REQUIRE(setsockopt(end, SOL_SOCKET, SO_SNDBUFFORCE, &kSocketBuffer, sizeof kSocketBuffer) == 0);
        }
        ports.emplace_back(pair[0]);
        worker_ports.emplace_back(pair[1]);
    }
    reactor = must(Reactor::create({}));
    events = std::make_unique<xen::EventChannels>(must(xen::EventChannels::open()));
    grants.push_back(must(xen::GrantTable::open()));
    must(reactor->start());
    watch_.start(*reactor, *events, queues_by_port);
    for (uint16_t i = 0; i < options.queues; ++i) {
        queues.push_back(must(frontend::NetQueue::create(
            core.guest, {.split_ports = options.split_ports, .rx_buffers = options.rx_buffers})));
    }
    if (options.connect) must(try_connect());
}

NetRig::~NetRig() {
    if (vif) disconnect();
}

Result<void> NetRig::try_connect(bool resumed) {
    net::Connect connect{};
    connect.queue_count = options.queues;
    connect.scatter_gather = options.scatter_gather ? 1 : 0;
    connect.gso_tcp4 = connect.gso_tcp6 = options.gso ? 1 : 0;
    connect.csum_blank4 = options.csum4 ? 1 : 0;
    connect.csum_blank6 = options.csum6 ? 1 : 0;
    connect.rx_notify = options.rx_notify ? 1 : 0;
    connect.resumed = resumed ? 1 : 0;
    connect.rate = options.rate;
    connect.port_state = options.port_state;
    std::vector<UniqueFd> handed;
    for (uint16_t i = 0; i < options.queues; ++i) {
        connect.queues[i] = {queues[i].tx_ring_ref(), queues[i].rx_ring_ref(), queues[i].tx_port(), queues[i].rx_port()};
        handed.emplace_back(dup(worker_ports[i].get()));
    }
    vif = TRY(net::worker::Vif::connect({*reactor, *events, grants, batch, queues_by_port}, {core.domid, 0}, connect,
                                        UniqueFd(dup(journal.get())), std::move(handed),
                                        {.failed = [this](net::worker::Vif& failed) { failures.push_back(failed.broken()); },
                                         .tick_wanted = [this](net::worker::Vif&) { tick_wanted = true; }}));
    return {};
}

void NetRig::disconnect() {
    vif->end();
    REQUIRE(turn_until([this] { return !vif->scheduled(); }));
    vif.reset();
    reactor->turn(false);
}

void NetRig::crash() { disconnect(); }

void NetRig::turn() {
    for (auto& queue : queues) queue.push();
    reactor->turn(false);
    if (vif && tick_wanted && vif->next_tick() != 0) vif->tick(monotonic_ns());
    for (auto& queue : queues) {
        queue.clear_events();
        queue.reap([this](std::span<const std::byte> packet, const frontend::PacketInfo& info) {
            received.push_back({info, {packet.begin(), packet.end()}});
        });
    }
}

std::vector<PortPacket> NetRig::take_port(size_t queue) {
    std::vector<PortPacket> packets;
    std::vector<std::byte> buffer(70000);
    for (;;) {
        const ssize_t got = ::recv(ports[queue].get(), buffer.data(), buffer.size(), 0);
        if (got < 0) return packets;
        REQUIRE(static_cast<size_t>(got) >= sizeof(bridge::VnetHeader));
        PortPacket packet;
        std::memcpy(&packet.header, buffer.data(), sizeof packet.header);
        packet.data.assign(buffer.begin() + sizeof packet.header, buffer.begin() + got);
        packets.push_back(std::move(packet));
    }
}

std::vector<PortPacket> NetRig::transmit(const std::vector<std::byte>& packet, const frontend::PacketInfo& info,
                                         size_t piece) {
    REQUIRE(queues[0].send(packet, info, piece));
    INFO(queues[0].broken());
    REQUIRE(turn_until([this] { return queues[0].tx_in_flight() == 0 || !queues[0].broken().empty() || !failures.empty(); }));
    CHECK(queues[0].broken() == "");
    return take_port();
}

void NetRig::inject(const PortPacket& packet, size_t queue) {
    std::vector<std::byte> bytes(sizeof packet.header + packet.data.size());
    std::memcpy(bytes.data(), &packet.header, sizeof packet.header);
    std::memcpy(bytes.data() + sizeof packet.header, packet.data.data(), packet.data.size());
    REQUIRE(::send(ports[queue].get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
}

}  // namespace ringback::test
