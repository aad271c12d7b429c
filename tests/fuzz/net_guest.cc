// SPDX-License-Identifier: Apache-2.0
#include "net_guest.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

namespace ringback::fuzz {

using namespace net;
using namespace xen::netif;

namespace {

constexpr uint32_t kFirstData = 17;

void set16(std::vector<std::byte>& bytes, size_t at, size_t value) {
    bytes[at] = static_cast<std::byte>(value >> 8);
    bytes[at + 1] = static_cast<std::byte>(value);
}

}  // namespace

NetBackend& NetBackend::get() {
    static NetBackend only;
    return only;
}

std::vector<std::byte> some_frame(Input& input) {
    const uint8_t kind = input.byte();
    const bool tagged = (kind & 1) != 0;
    const bool v6 = (kind & 2) != 0;
    const bool tcp = (kind & 4) != 0;
    const bool arp = (kind & 8) != 0 && !v6;
    const size_t payload = (kind & 16) != 0 ? input.take<uint16_t>() : input.below(128);
    const size_t network = kEthernetHeader + (tagged ? 4 : 0);
    const size_t transport = network + (arp ? 0 : v6 ? 40 : 20);
    const size_t headers = transport + (arp ? 28 : tcp ? 20 : 8);
    std::vector<std::byte> frame(std::min(headers + payload, kMaxPacket));
    // From 00:16:3e:00:00:N to one of them, to all, or to nobody.
    const uint8_t to = input.byte();
    if ((to & 4) != 0) {
        std::fill_n(frame.begin(), 6, std::byte{0xff});
    } else {
        set16(frame, 0, 0x0016);
        frame[2] = std::byte{0x3e};
        frame[5] = static_cast<std::byte>(to & 3);
    }
    set16(frame, 6, 0x0016);
    frame[8] = std::byte{0x3e};
    frame[11] = static_cast<std::byte>(to >> 4 & 3);
    if (tagged) {
        set16(frame, 12, 0x8100);
        set16(frame, 14, to >> 6);
    }
    set16(frame, network - 2, arp ? 0x0806 : v6 ? 0x86dd : 0x0800);
    if (arp) {
        set16(frame, network, 1);
        set16(frame, network + 2, 0x0800);
        set16(frame, network + 4, 0x0604);
    } else if (v6) {
        frame[network] = std::byte{0x60};
        set16(frame, network + 4, frame.size() - network - 40);
        frame[network + 6] = tcp ? std::byte{6} : std::byte{17};
    } else {
        frame[network] = std::byte{0x45};
        set16(frame, network + 2, frame.size() - network);
        frame[network + 9] = tcp ? std::byte{6} : std::byte{17};
    }
    if (!arp && tcp) frame[transport + 12] = std::byte{0x50};
    if (!arp && !tcp) set16(frame, transport + 4, frame.size() - transport);
    for (uint32_t changes = input.below(6); changes > 0; --changes) {
        const size_t at = input.byte();
        const auto value = static_cast<std::byte>(input.byte());
        if (at < frame.size()) frame[at] = value;
    }
    return frame;
}

void change_memory(Input& input) {
    if (input.empty()) return;
    const auto page = FakeXen::get().page(1 + input.below(kPages));
    const size_t at = input.take<uint16_t>() % xen::kPageSize;
    input.fill(page.subspan(at, std::min<size_t>(input.below(16), page.size() - at)));
}

NetGuest::NetGuest(Input& input, uint32_t handle, uint32_t first_page, bool switched)
    : input_(input), id_{kGuest, handle}, switched_(switched), journal_(::memfd_create("journal", MFD_CLOEXEC)) {
    INVARIANT(journal_ && ::ftruncate(journal_.get(), static_cast<off_t>(kJournalBytes)) == 0);
    const auto flags = input_.take<uint16_t>();
    parameters_.queue_count = static_cast<uint16_t>(1 + (flags & 1));
    parameters_.scatter_gather = flags >> 1 & 1;
    parameters_.gso_tcp4 = flags >> 2 & 1;
    parameters_.gso_tcp6 = flags >> 3 & 1;
    parameters_.csum_blank4 = flags >> 4 & 1;
    parameters_.csum_blank6 = flags >> 5 & 1;
    parameters_.rx_notify = flags >> 6 & 1;
    parameters_.multicast_control = flags >> 7 & 1;
    if ((flags & 0x100) != 0) parameters_.rate = {10'000, 10'000'000, 0};
    if (switched_) {
        SwitchPort& port = parameters_.port;
        port.name = Text<32>("sw");
        port.address = {0x00, 0x16, 0x3e, 0, 0, static_cast<uint8_t>(handle)};
        port.any_source = flags >> 9 & 1;
        port.vlan = bridge::kDefaultVlan;
        if ((flags & 0x400) != 0) {
            port.trunk_count = 2;
            port.trunks = {1, 2};
        }
        if ((flags & 0x800) != 0) {
            port.given_count = 1;
            port.given[0] = {.address = {192, 0, 2, 1}, .v6 = 0, .bits = 24};
        }
        port.table_entries = 16;
        port.ageing_s = 300;
    }
    for (uint16_t i = 0; i < parameters_.queue_count; ++i) {
        const bool split = (flags & 0x1000) != 0;
        parameters_.queues[i] = {first_page + i * 2U, first_page + i * 2U + 1, i * 2U + 1, i * 2U + (split ? 2U : 1U)};
    }
    connect(false);
}

NetGuest::~NetGuest() { disconnect(); }

void NetGuest::connect(bool resumed) {
    using worker::Vif;
    std::vector<UniqueFd> ports;
    wires_.clear();
    for (uint16_t i = 0; i < parameters_.queue_count; ++i) {
        for (const uint32_t ref : {parameters_.queues[i].tx_ring_ref, parameters_.queues[i].rx_ring_ref}) {
            if (resumed) continue;
            ring(ref) = {};
            ring(ref).req_event = ring(ref).rsp_event = 1;
        }
        if (!resumed) tx_produced_[i] = rx_produced_[i] = 0;
        if (switched_) continue;
        std::array<int, 2> pair{};
        INVARIANT(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair.data()) == 0);
        ports.emplace_back(pair[0]);
        wires_.emplace_back(pair[1]);
    }
    NetBackend& backend = NetBackend::get();
    parameters_.resumed = resumed ? 1 : 0;
    vif_ = must(Vif::connect({reactor(), backend.events, backend.grants, backend.batch, backend.queues_by_port, &backend.fabric}, id_,
                             parameters_, UniqueFd(::dup(journal_.get())), std::move(ports),
                             {.failed =
                                  [this](Vif& vif) {
                                      INVARIANT(vif.broken() != nullptr && ++failed_ == 1);
                                  },
                              .tick_wanted = [](Vif& vif) { (void)vif.next_tick(); }}));
}

void NetGuest::disconnect() {
    if (!vif_) return;
    vif_->end();
    turn_until([this] { return !vif_->scheduled(); });
    vif_.reset();
    failed_ = 0;
    wires_.clear();
    if (!switched_) turn_until([] { return reactor().in_flight() == 0; });
}

xen::GrantRef NetGuest::data_page() { return kFirstData + input_.below(kPages - kFirstData + 3); }  // some of them nobody granted

template <typename Entry>
void NetGuest::put(uint32_t ref, uint32_t& produced, const Entry& entry) {
    const auto page = FakeXen::get().page(ref);
    const size_t at = sizeof(xen::SharedRingHeader) + produced % kTxEntries * sizeof(Entry);
    std::memcpy(page.data() + at, &entry, sizeof entry);
    ++produced;
    std::atomic_ref(ring(ref).req_prod).store(produced, std::memory_order_release);
}

void NetGuest::put_packet() {
    const uint16_t queue = this->queue();
    const uint32_t ref = parameters_.queues[queue].tx_ring_ref;
    const uint8_t form = input_.byte();
    const uint32_t parts = (form & 0x80) != 0 ? input_.below(24) + 1 : 1 + (form & 3);
    const uint32_t extras = form >> 2 & 3;
    const auto frame = some_frame(input_);
    TxRequest request{};
    uint32_t rest = static_cast<uint32_t>(frame.size());
    for (uint32_t part = 0; part < parts; ++part) {
        request.gref = data_page();
        request.offset = input_.below(8) == 0 ? input_.take<uint16_t>() : uint16_t{0};
        const uint32_t room = request.offset < xen::kPageSize ? static_cast<uint32_t>(xen::kPageSize) - request.offset : 0;
        const uint32_t own = std::min(part + 1 == parts ? rest : rest / (parts - part), room);
        if (FakeXen::granted(request.gref) && own > 0) {
            std::memcpy(FakeXen::get().page(request.gref).data() + request.offset, frame.data() + (frame.size() - rest), own);
        }
        rest -= own;
        request.id = static_cast<uint16_t>(tx_produced_[queue]);
        request.size = static_cast<uint16_t>(part == 0 ? frame.size() : own);
        if (part == 0 && input_.below(8) == 0) request.size = input_.take<uint16_t>();
        request.flags = part + 1 < parts ? uint16_t{kTxMoreData} : uint16_t{0};
        if (part == 0 && (form & 0x10) != 0) request.flags |= kTxCsumBlank;
        if (part == 0 && extras > 0) request.flags |= kTxExtraInfo;
        put(ref, tx_produced_[queue], request);
        for (uint32_t extra = 0; part == 0 && extra < extras; ++extra) {
            TxRequest slot{};
            Extra info{};
            info.type = static_cast<uint8_t>(input_.below(7));
            info.flags = extra + 1 < extras ? kExtraMore : uint8_t{0};
            info.gso.size = input_.take<uint16_t>();
            info.gso.type = static_cast<uint8_t>(input_.below(4));
            std::memcpy(&slot, &info, sizeof info);
            put(ref, tx_produced_[queue], slot);
        }
    }
}

void NetGuest::put_raw() {
    const uint16_t queue = this->queue();
    if (input_.flag()) {
        put(parameters_.queues[queue].tx_ring_ref, tx_produced_[queue], input_.take<TxRequest>());
    } else {
        put(parameters_.queues[queue].rx_ring_ref, rx_produced_[queue], input_.take<RxRequest>());
    }
}

void NetGuest::put_buffers() {
    const uint16_t queue = this->queue();
    for (uint32_t count = input_.below(64); count > 0; --count) {
        const uint32_t gref = kFirstData + rx_produced_[queue] % (kReadOnlyFrom - kFirstData + 1);
        put(parameters_.queues[queue].rx_ring_ref, rx_produced_[queue],
            RxRequest{static_cast<uint16_t>(rx_produced_[queue]), 0, gref});
    }
}

void NetGuest::from_port() {
    if (wires_.empty()) return;
    std::vector<std::byte> packet;
    if (input_.below(4) == 0) {
        packet.resize(input_.below(80));
        input_.fill(packet);
    } else {
        bridge::VnetHeader header{};
        header.flags = input_.byte() & 3;
        header.gso_type = input_.byte();
        header.gso_size = input_.take<uint16_t>();
        header.header_length = input_.byte();
        header.csum_start = input_.byte();
        header.csum_offset = input_.byte();
        packet.resize(sizeof header);
        std::memcpy(packet.data(), &header, sizeof header);
        const auto frame = some_frame(input_);
        packet.insert(packet.end(), frame.begin(), frame.end());
    }
    (void)::send(wires_[queue()].get(), packet.data(), packet.size(), MSG_NOSIGNAL);
}

// What is handed to a network device has to be what its header says: the kernel would be the next to believe it.
void NetGuest::look_at_port() {
    static std::array<std::byte, sizeof(bridge::VnetHeader) + kMaxPacket + 1> packet;
    for (const UniqueFd& wire : wires_) {
        for (ssize_t got; (got = ::recv(wire.get(), packet.data(), packet.size(), MSG_DONTWAIT)) >= 0;) {
            bridge::VnetHeader header;
            const auto size = static_cast<size_t>(got);
            INVARIANT(size >= sizeof header + kEthernetHeader && size <= sizeof header + kMaxPacket);
            std::memcpy(&header, packet.data(), sizeof header);
            const size_t frame = size - sizeof header;
            if ((header.flags & bridge::kVnetNeedsCsum) != 0) {
                INVARIANT(size_t{header.csum_start} + header.csum_offset + 2 <= frame);
            }
            if (header.gso_type != bridge::kVnetGsoNone) INVARIANT(header.gso_size > 0 && header.header_length <= frame);
        }
    }
}

void NetGuest::scribble_journal() {
    void* memory = ::mmap(nullptr, kJournalBytes, PROT_READ | PROT_WRITE, MAP_SHARED, journal_.get(), 0);
    INVARIANT(memory != MAP_FAILED);
    auto& file = *static_cast<worker::JournalFile*>(memory);
    for (worker::QueueJournal& queue : file.queues) {
        queue.tx_answered += static_cast<uint32_t>(static_cast<int8_t>(input_.byte()));
        queue.rx_answered += static_cast<uint32_t>(static_cast<int8_t>(input_.byte()));
        if (&queue == &file.queues[1]) break;
    }
    if (input_.below(4) == 0) file.multicast.count = input_.take<uint32_t>();
    ::munmap(memory, kJournalBytes);
}

void NetGuest::turn(uint32_t times) {
    if (!vif_) return;
    auto& by_port = NetBackend::get().queues_by_port;
    for (size_t port = 0; port < by_port.size(); ++port) {
        if (by_port[port] != nullptr) by_port[port]->on_event(static_cast<xen::Port>(port));
    }
    for (uint32_t i = 0; i < times; ++i) reactor().turn(false);
    look_at_port();
}

void NetGuest::step() {
    switch (input_.below(12)) {
        case 0:
        case 1:
        case 2: put_packet(); break;
        case 3: put_raw(); break;
        case 4: put_buffers(); break;
        case 5:
        case 6: turn(input_.below(4) + 1); break;
        case 7: from_port(); break;
        case 8: change_memory(input_); break;
        case 9: {
            const uint16_t queue = this->queue();
            const auto by = static_cast<uint32_t>(static_cast<int8_t>(input_.byte()));
            const bool tx = input_.flag();
            uint32_t& produced = tx ? tx_produced_[queue] : rx_produced_[queue];
            produced += by;
            const auto& rings = parameters_.queues[queue];
            std::atomic_ref(ring(tx ? rings.tx_ring_ref : rings.rx_ring_ref).req_prod).store(produced, std::memory_order_release);
            break;
        }
        case 10: {
            const auto& rings = parameters_.queues[queue()];
            ring(input_.flag() ? rings.tx_ring_ref : rings.rx_ring_ref).rsp_event = input_.take<uint32_t>();
            if (vif_) vif_->tick(monotonic_ns() + input_.byte() * uint64_t{1'000'000'000});
            break;
        }
        default:
            switch (input_.below(8)) {
                case 0: {
                    const bool resumed = input_.flag();
                    disconnect();
                    if (resumed) scribble_journal();
                    connect(resumed);
                    break;
                }
                case 1: vif_->adjust(input_.take<Adjust>()); break;
                default: turn(1);
            }
    }
}

}  // namespace ringback::fuzz
