// SPDX-License-Identifier: Apache-2.0
#include "tools/netbench/switch_bench.h"

#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <fstream>

#include "bridge/switch/dpdk.h"
#include "runtime/check.h"
#include "runtime/poll_policy.h"
#include "tools/ring-bench/allocations.h"
#include "tools/ring-bench/loop.h"

namespace ringback::netbench {

namespace {

constexpr size_t kMegabytes = 48;
constexpr size_t kSegment = 1448;

// RssAnon of this process.
double own_memory() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("RssAnon:")) return std::stod(line.substr(8)) * 1024;
    }
    return 0;
}

// IPv4, UDP; a large one TCP with its checksum left blank.
std::vector<std::byte> make_packet(const bridge::MacAddress& from, const bridge::MacAddress& to, size_t size) {
    std::array<std::byte, 54> head;
    head.fill(std::byte{0x5a});
    const auto put = [&](size_t at, size_t value) {
        head[at] = static_cast<std::byte>(value >> 8 & 0xff);
        head[at + 1] = static_cast<std::byte>(value & 0xff);
    };
    std::memcpy(head.data(), to.data(), to.size());
    std::memcpy(head.data() + 6, from.data(), from.size());
    put(12, 0x0800);
    put(14, 0x4500);
    put(16, size - 14);
    put(20, 0);
    put(22, 64U << 8 | (size > xen::kPageSize ? 6U : 17U));
    put(46, 0x5010);
    std::vector<std::byte> packet(size, std::byte{0x5a});
    std::copy_n(head.begin(), std::min(size, head.size()), packet.begin());
    return packet;
}

}  // namespace

struct SwitchBench::Guest {
    uint16_t domid = 0;
    bridge::MacAddress address{};
    std::unique_ptr<xen::embedded::Guest> guest;
    std::unique_ptr<frontend::NetQueue> queue;
    UniqueFd journal;
    std::unique_ptr<net::worker::Vif> vif;
    std::string failure;

    [[nodiscard]] uint32_t answered() const {
        auto& header = *reinterpret_cast<xen::SharedRingHeader*>(queue->tx_shared());
        return std::atomic_ref(header.rsp_prod).load(std::memory_order_acquire);
    }
    uint32_t asked = 0;  // slots so far
};

struct SwitchBench::Watch : Completion {
    SwitchBench* bench = nullptr;
};

Result<std::unique_ptr<SwitchBench>> SwitchBench::create(size_t guests) {
    std::unique_ptr<SwitchBench> bench(new SwitchBench);
    TRY(bench->start(guests));
    return bench;
}

Result<void> SwitchBench::start(size_t guests) {
    toolstack_ = std::make_unique<xen::embedded::Toolstack>(TRY(xen::embedded::Toolstack::connect()));
    // Rings are looked at as long as they are busy, as a busy worker does, without the luck of a window.
    reactor_ = TRY(Reactor::create({.polling = {.window_ns = 1'000'000, .always = true}}));
    events_ = std::make_unique<xen::EventChannels>(TRY(xen::EventChannels::open()));
    grants_.push_back(TRY(xen::GrantTable::open()));
    TRY(reactor_->start());
    watch_ = std::make_unique<Watch>();
    watch_->bench = this;
    watch_->on_complete = [](Completion& self, int32_t, uint32_t flags) noexcept {
        SwitchBench& bench = *static_cast<Watch&>(self).bench;
        while (const auto port = bench.events_->pending()) {
            if (*port < bench.queues_by_port_.size() && bench.queues_by_port_[*port] != nullptr) {
                bench.queues_by_port_[*port]->on_event(*port);
            }
        }
        if ((flags & IORING_CQE_F_MORE) == 0) bench.reactor_->watch_readable(bench.events_->fd(), self);
    };
    reactor_->watch_readable(events_->fd(), *watch_);
    for (size_t i = 0; i < guests; ++i) {
        auto one = std::make_unique<Guest>();
        one->domid = TRY(toolstack_->create_domain({.name = "bench" + std::to_string(i), .memory_mib = 4}));
        one->address = {0x00, 0x16, 0x3e, 1, static_cast<uint8_t>(i >> 8), static_cast<uint8_t>(i)};
        one->guest = std::make_unique<xen::embedded::Guest>(TRY(xen::embedded::Guest::connect(one->domid)));
        one->queue = std::make_unique<frontend::NetQueue>(TRY(frontend::NetQueue::create(*one->guest, {.split_ports = false})));
        one->journal.reset(::memfd_create("journal", MFD_CLOEXEC));
        if (!one->journal || ::ftruncate(one->journal.get(), static_cast<off_t>(net::kJournalBytes)) != 0) return os_error("make a journal");
        guests_.push_back(std::move(one));
    }
    // What the first one starts (DPDK, the pool) is the worker's, not a vif's.
    TRY(connect(*guests_[0]));
    const double before = own_memory();
    for (size_t i = 1; i < guests; ++i) TRY(connect(*guests_[i]));
    for (int i = 0; i < 8; ++i) reactor_->turn(false);
    bytes_per_vif_ = (own_memory() - before) / static_cast<double>(std::max<size_t>(guests - 1, 1));
    return {};
}

Result<void> SwitchBench::connect(Guest& guest) {
    net::Connect connect{};
    connect.queue_count = 1;
    connect.scatter_gather = connect.gso_tcp4 = connect.gso_tcp6 = connect.csum_blank4 = connect.csum_blank6 = connect.rx_notify = 1;
    connect.kind = net::PortKind::switched;
    connect.port.name = net::Text<32>("lan0");
    connect.port.address = guest.address;
    connect.port.vlan = 1;
    connect.port.table_entries = 4096;
    connect.port.ageing_s = 300;
    connect.port.floods_per_second = 2000;
    connect.queues[0] = {guest.queue->tx_ring_ref(), guest.queue->rx_ring_ref(), guest.queue->tx_port(), guest.queue->rx_port()};
    guest.vif = TRY(net::worker::Vif::connect({*reactor_, *events_, grants_, batch_, queues_by_port_, &fabric_}, {guest.domid, 0}, connect,
                                              UniqueFd(::dup(guest.journal.get())), {},
                                              {.failed = [&guest](net::worker::Vif& failed) { guest.failure = failed.broken(); },
                                               .tick_wanted = [](net::worker::Vif&) {}}));
    return {};
}

SwitchBench::~SwitchBench() {
    for (const auto& guest : guests_) {
        if (guest->vif) guest->vif->end();
    }
    for (int i = 0; i < 8 && reactor_; ++i) reactor_->turn(false);
    for (const auto& guest : guests_) guest->vif.reset();
    if (reactor_) reactor_->turn(false);
}

bool SwitchBench::answered(size_t active) const {
    return std::all_of(guests_.begin(), guests_.begin() + static_cast<std::ptrdiff_t>(active),
                       [](const auto& guest) { return guest->answered() == guest->asked || !guest->failure.empty(); });
}

void SwitchBench::reap(size_t active, bool events, uint64_t& received) {
    const frontend::NetQueue::Receiver count = [&received](std::span<const std::byte>, const frontend::PacketInfo&) { ++received; };
    for (size_t i = 0; i < active; ++i) {
        if (events) guests_[i]->queue->clear_events();
        guests_[i]->queue->reap(count, events);
    }
}

Result<Cost> SwitchBench::run(size_t active, size_t size, size_t burst, bool events, double seconds) {
    std::vector<std::vector<std::byte>> packets;
    for (size_t i = 0; i < active; ++i) packets.push_back(make_packet(guests_[i]->address, guests_[i ^ 1]->address, size));
    const bool gso = size > xen::kPageSize;
    const frontend::PacketInfo info{.csum_blank = gso, .gso = gso ? xen::netif::GsoType::tcp4 : xen::netif::GsoType::none,
                                    .gso_size = static_cast<uint16_t>(gso ? kSegment : 0)};
    const auto slots = static_cast<uint32_t>((size + xen::kPageSize - 1) / xen::kPageSize + (gso ? 1 : 0));
    Cost cost;
    const auto counters = [&] {
        Cost now;
        for (size_t i = 0; i < active; ++i) {
            const net::Stats stats = guests_[i]->vif->stats();
            now.grant_operations += stats.grant_copy_segments;
            now.grant_calls += stats.grant_copy_calls;
            now.notifies += stats.notifies_sent;
            now.events += stats.events_taken;
        }
        return now;
    };
    Cost before;
    uint64_t ticks = 0, received = 0, ns = 0;
    const auto turn = [&](size_t i) {
        for (size_t k = 0; k < burst; ++k) {
            INVARIANT(guests_[i]->queue->send(packets[i], info));
            guests_[i]->asked += slots;
        }
        guests_[i]->queue->push();
    };
    uint64_t began = 0;
    const auto length = static_cast<uint64_t>(seconds * 1e9);
    // The first rounds warm the caches and get all that will be polled polled.
    for (size_t round = 0;; ++round) {
        if (round == 16) {
            before = counters();
            cost = {};
            ticks = ns = received = 0;
            began = monotonic_ns();
        }
        if (round > 16 && monotonic_ns() - began > length) break;
        for (size_t i = 0; i < active; ++i) turn(i);
        const uint64_t allocations = bench::allocations();
        const uint64_t start_ns = monotonic_ns(), start = __rdtsc();
        while (!answered(active)) reactor_->turn(true);
        ticks += __rdtsc() - start;
        ns += monotonic_ns() - start_ns;
        cost.allocations += bench::allocations() - allocations;
        cost.packets += active * burst;
        reap(active, events, received);
    }
    for (size_t i = 0; i < active; ++i) {
        if (!guests_[i]->failure.empty()) return Error{EPROTO, "measure the switch: " + guests_[i]->failure};
        if (!guests_[i]->queue->broken().empty()) return Error{EPROTO, "measure the switch: " + guests_[i]->queue->broken()};
    }
    const Cost after = counters();
    const auto all = static_cast<double>(cost.packets);
    cost.bytes = cost.packets * size;
    cost.ns_per_packet = static_cast<double>(ns) / all;
    cost.cycles_per_packet = static_cast<double>(ticks) / all;
    cost.grant_operations = after.grant_operations - before.grant_operations;
    cost.grant_calls = after.grant_calls - before.grant_calls;
    cost.notifies = after.notifies - before.notifies;
    cost.events = after.events - before.events;
    cost.lost = cost.packets - std::min(received, cost.packets);
    return cost;
}

double SwitchBench::idle_cpu(double seconds) {
    struct Alarm : Completion {
        bool rang = false;
    } alarm;
    alarm.on_complete = [](Completion& self, int32_t, uint32_t) noexcept { static_cast<Alarm&>(self).rang = true; };
    __kernel_timespec delay{static_cast<int64_t>(seconds), static_cast<long long>((seconds - static_cast<double>(static_cast<int64_t>(seconds))) * 1e9)};
    for (int i = 0; i < 8; ++i) reactor_->turn(false);
    reactor_->submit(alarm, [&delay](io_uring_sqe* sqe) { io_uring_prep_timeout(sqe, &delay, 0, 0); });
    const uint64_t began = monotonic_ns(), cpu = bench::thread_cpu_ns();
    while (!alarm.rang) reactor_->turn(true);
    return static_cast<double>(bench::thread_cpu_ns() - cpu) / static_cast<double>(monotonic_ns() - began);
}

Result<double> lookup_ns(uint32_t entries) {
    constexpr uint32_t kLooks = 1U << 20;
    TRY(bridge::start_dpdk(kMegabytes));
    auto table = TRY(bridge::MacTable::create({.entries = entries, .per_port = entries, .ageing_ns = UINT64_MAX}));
    std::vector<bridge::MacKey> keys;
    for (uint32_t i = 0; i < entries; ++i) {
        const bridge::MacAddress address{0x00, 0x16, 0x3e, static_cast<uint8_t>(i >> 16), static_cast<uint8_t>(i >> 8), static_cast<uint8_t>(i)};
        keys.push_back(bridge::mac_key(address, 1));
        if (table->learn(keys.back(), static_cast<bridge::PortIndex>(i % 1000), 1) != bridge::MacTable::Learned::yes) {
            return Error{ENOSPC, "fill a table of addresses"};
        }
    }
    bench::Addresses random(entries);
    uint64_t found = 0;
    const uint64_t began = monotonic_ns();
    for (uint32_t i = 0; i < kLooks; ++i) {
        bridge::MacTable::Hint hint;
        found += table->find(keys[random.next()], 2, hint).has_value() ? 1 : 0;
    }
    const double ns = static_cast<double>(monotonic_ns() - began) / kLooks;
    INVARIANT(found == kLooks);
    return ns;
}

double copy_ns(size_t size) {
    constexpr size_t kPages = 2 * xen::netif::kTxEntries;
    constexpr uint32_t kCopies = 1U << 18;
    std::vector<std::byte> memory((kPages + 16) * xen::kPageSize, std::byte{1});
    const uint64_t began = monotonic_ns();
    for (uint32_t i = 0; i < kCopies; ++i) {
        const size_t page = i % (kPages / 2);
        std::memcpy(&memory[(kPages / 2 + page) * xen::kPageSize], &memory[page * xen::kPageSize], size);
        asm volatile("" ::: "memory");
    }
    return static_cast<double>(monotonic_ns() - began) / kCopies;
}

}  // namespace ringback::netbench
