// SPDX-License-Identifier: Apache-2.0
//
// See netfront_queue.h.
#include "tools/frontend/netfront_queue.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>

namespace ringback::frontend {

using namespace xen::netif;

namespace {

constexpr size_t kPage = 4096;

uint32_t load(uint32_t& shared) { return std::atomic_ref(shared).load(std::memory_order_acquire); }

template <typename Entry>
std::byte* entry(std::byte* ring, uint32_t index) {
    return ring + sizeof(xen::SharedRingHeader) + (index % kTxEntries) * sizeof(Entry);
}

// Publishes req_prod; true: the backend wants to be notified of one of them.
bool publish(xen::SharedRingHeader& header, uint32_t before, uint32_t now) {
    std::atomic_ref(header.req_prod).store(now, std::memory_order_release);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return now - std::atomic_ref(header.req_event).load(std::memory_order_relaxed) < now - before;
}

void start_ring(std::byte* ring) {
    std::memset(ring, 0, kPage);
    auto& header = *reinterpret_cast<xen::SharedRingHeader*>(ring);
    header.req_event = header.rsp_event = 1;
}

}  // namespace

Result<NetQueue> NetQueue::create(xen::embedded::Guest& guest, const Options& options) {
    NetQueue queue;
    queue.guest_ = &guest;
    queue.split_ = options.split_ports;
    queue.backend_ = options.backend_domid;
    queue.rx_buffers_ = std::min(options.rx_buffers, kRxEntries);
    queue.first_frame_ = TRY(guest.alloc_pages(kPages));
    queue.pages_ = reinterpret_cast<std::byte*>(guest.page(queue.first_frame_));
    queue.tx_ring_ = queue.pages_;
    queue.rx_ring_ = queue.pages_ + kPage;
    queue.refs_ = TRY(guest.alloc_refs(kPages));
    start_ring(queue.tx_ring_);
    start_ring(queue.rx_ring_);
    for (const size_t ring : {kTxRing, kRxRing}) {
        guest.grant_at(queue.refs_[ring], queue.first_frame_ + static_cast<uint32_t>(ring), queue.backend_, false);
    }
    queue.tx_port_ = TRY(guest.alloc_unbound_port(queue.backend_));
    if (queue.split_) queue.rx_port_ = TRY(guest.alloc_unbound_port(queue.backend_));
    queue.tx_pending_.resize(kEntries);
    for (uint32_t i = kEntries; i > 0; --i) queue.free_tx_.push_back(static_cast<uint16_t>(i - 1));
    queue.packet_.reserve(size_t{32} * kPage);
    queue.post_buffers();
    return queue;
}

NetQueue::~NetQueue() {
    if (guest_ != nullptr && !refs_.empty()) (void)release();
}

uint32_t NetQueue::release() {
    tx_port_.close();
    rx_port_.close();
    if (released_) return 0;
    uint32_t in_use = 0;
    for (const uint32_t ref : refs_) in_use += guest_->end_access(ref) ? 0 : 1;
    if (in_use != 0) return in_use;
    released_ = true;
    guest_->free_refs(refs_);
    guest_->free_pages(first_frame_, kPages);
    return 0;
}

void NetQueue::fail(std::string why) {
    if (broken_.empty()) broken_ = std::move(why);
}

void NetQueue::clear_events() {
    if (tx_port_.clear()) ++counters_.events;
    if (split_ && rx_port_.clear()) ++counters_.events;
}

void NetQueue::grant_tx_page(uint32_t index) const {
    guest_->grant_at(refs_[2 + index], first_frame_ + 2 + index, backend_, true);
}

bool NetQueue::send(std::span<const std::byte> packet, const PacketInfo& info, size_t piece) {
    const size_t parts = std::max<size_t>(1, (packet.size() + piece - 1) / piece);
    const bool gso = info.gso != GsoType::none;
    const size_t slots = parts + (gso ? 1 : 0);
    if (!broken_.empty() || slots > kEntries - tx_in_flight() || parts > free_tx_.size()) return false;
    for (size_t part = 0; part < parts; ++part) {
        const auto data = packet.subspan(part * piece, std::min(piece, packet.size() - part * piece));
        const uint16_t id = free_tx_.back();
        free_tx_.pop_back();
        tx_pending_[id] = true;
        std::memcpy(tx_page(id), data.data(), data.size());
        grant_tx_page(id);
        TxRequest request{};
        request.gref = tx_page_ref(id);
        request.id = id;
        request.size = static_cast<uint16_t>(part == 0 ? packet.size() : data.size());
        if (part == 0 && info.csum_blank) request.flags |= kTxCsumBlank | kTxDataValidated;
        if (part == 0 && info.data_validated) request.flags |= kTxDataValidated;
        if (part == 0 && gso) request.flags |= kTxExtraInfo;
        if (part + 1 < parts) request.flags |= kTxMoreData;
        std::memcpy(entry<TxRequest>(tx_ring_, tx_prod_++), &request, sizeof request);
        if (part > 0 || !gso) continue;
        Extra extra{};
        extra.type = static_cast<uint8_t>(ExtraType::gso);
        extra.gso.size = info.gso_size;
        extra.gso.type = static_cast<uint8_t>(info.gso);
        std::memcpy(entry<TxRequest>(tx_ring_, tx_prod_++), &extra, sizeof extra);
    }
    ++counters_.tx_packets;
    return true;
}

bool NetQueue::name_multicast(const std::array<uint8_t, 6>& address, bool add) {
    if (!broken_.empty() || kEntries - tx_in_flight() < 2 || free_tx_.empty()) return false;
    const uint16_t id = free_tx_.back();
    free_tx_.pop_back();
    tx_pending_[id] = true;
    const TxRequest request{0, 0, kTxExtraInfo, id, 0};
    std::memcpy(entry<TxRequest>(tx_ring_, tx_prod_++), &request, sizeof request);
    Extra extra{};
    extra.type = static_cast<uint8_t>(add ? ExtraType::multicast_add : ExtraType::multicast_del);
    std::memcpy(extra.multicast.address, address.data(), address.size());
    std::memcpy(entry<TxRequest>(tx_ring_, tx_prod_++), &extra, sizeof extra);
    return true;
}

void NetQueue::post_buffers() {
    while (rx_prod_ - rx_cons_ < rx_buffers_) {
        const uint32_t slot = rx_prod_ % kRxEntries;
        guest_->grant_at(rx_ref(slot), first_frame_ + 2 + kEntries + slot, backend_, false);
        const RxRequest request{static_cast<uint16_t>(slot), 0, rx_ref(slot)};
        std::memcpy(entry<RxRequest>(rx_ring_, rx_prod_++), &request, sizeof request);
    }
    if (rx_prod_ == rx_pushed_) return;
    const bool notify = publish(rx_header(), rx_pushed_, rx_prod_);
    rx_pushed_ = rx_prod_;
    if (notify && rx_port_) {
        ++counters_.notifies;
        rx_port_.notify();
    } else if (notify && !split_ && tx_port_) {
        ++counters_.notifies;
        tx_port_.notify();
    }
}

void NetQueue::push() {
    if (!broken_.empty()) return;
    post_buffers();
    if (tx_prod_ == tx_pushed_) return;
    const bool notify = publish(tx_header(), tx_pushed_, tx_prod_);
    tx_pushed_ = tx_prod_;
    if (!notify) return;
    ++counters_.notifies;
    tx_port_.notify();
}

void NetQueue::reap(const Receiver& receiver, bool arm) {
    do {
        reap_tx();
        reap_rx(receiver);
        if (!arm || !broken_.empty()) return;
        std::atomic_ref(tx_header().rsp_event).store(tx_cons_ + 1, std::memory_order_relaxed);
        std::atomic_ref(rx_header().rsp_event).store(rx_cons_ + 1, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
    } while (load(tx_header().rsp_prod) != tx_cons_ || load(rx_header().rsp_prod) != rx_cons_);
}

void NetQueue::reap_tx() {
    const uint32_t rsp_prod = load(tx_header().rsp_prod);
    if (rsp_prod - tx_cons_ > tx_pushed_ - tx_cons_) return fail("more tx responses than requests");
    for (; tx_cons_ != rsp_prod; ++tx_cons_) {
        TxResponse response;
        std::memcpy(&response, entry<TxRequest>(tx_ring_, tx_cons_), sizeof response);
        if (response.status == kNull) continue;
        if (response.id >= kEntries || !tx_pending_[response.id]) return fail("a tx response for nothing pending");
        if (response.status != kOkay) ++counters_.tx_failed;
        if (!guest_->end_access(tx_page_ref(response.id))) return fail("a tx page is in use when it is answered");
        tx_pending_[response.id] = false;
        free_tx_.push_back(response.id);
    }
}

void NetQueue::reap_rx(const Receiver& receiver) {
    const uint32_t rsp_prod = load(rx_header().rsp_prod);
    if (rsp_prod - rx_cons_ > rx_pushed_ - rx_cons_) return fail("more rx responses than requests");
    while (rx_cons_ != rsp_prod) {
        if (!take_packet(rsp_prod, receiver)) return;
    }
}

bool NetQueue::take_packet(uint32_t rsp_prod, const Receiver& receiver) {
    PacketInfo info;
    packet_.clear();
    bool failed = false;
    bool first = true;
    for (bool more = true; more; first = false) {
        if (rx_cons_ == rsp_prod) return fail("an rx packet without its last slots"), false;
        const uint32_t slot = rx_cons_ % kRxEntries;
        RxResponse response;
        std::memcpy(&response, entry<RxRequest>(rx_ring_, rx_cons_++), sizeof response);
        if (response.id != slot) return fail("an rx response with another slot's id"), false;
        if (!guest_->end_access(rx_ref(slot))) return fail("an rx page is in use when it is answered"), false;
        if (response.status < 0 || response.offset + static_cast<size_t>(response.status) > kPage) {
            failed = true;
        } else {
            const std::byte* data = rx_page(slot) + response.offset;
            packet_.insert(packet_.end(), data, data + response.status);
        }
        more = (response.flags & kRxMoreData) != 0;
        if (!first) continue;
        info.csum_blank = (response.flags & kRxCsumBlank) != 0;
        info.data_validated = (response.flags & kRxDataValidated) != 0;
        bool extras = (response.flags & kRxExtraInfo) != 0;
        while (extras) {
            if (rx_cons_ == rsp_prod) return fail("an rx packet without its extra slots"), false;
            Extra extra;
            const uint32_t extra_slot = rx_cons_ % kRxEntries;
            std::memcpy(&extra, entry<RxRequest>(rx_ring_, rx_cons_++), sizeof extra);
            if (!guest_->end_access(rx_ref(extra_slot))) return fail("an extra's page is in use"), false;
            if (extra.type == static_cast<uint8_t>(ExtraType::gso)) {
                info.gso = static_cast<GsoType>(extra.gso.type);
                info.gso_size = extra.gso.size;
            } else {
                return fail("an rx extra of an unknown type"), false;
            }
            extras = (extra.flags & kExtraMore) != 0;
        }
    }
    if (failed) {
        ++counters_.rx_failed;
        return true;
    }
    ++counters_.rx_packets;
    receiver(packet_, info);
    return true;
}

}  // namespace ringback::frontend
