// SPDX-License-Identifier: Apache-2.0
//
// To the guest: packets read from the port, copied into the pages the guest has offered, answered in the same order.
#include <algorithm>
#include <cstring>

#include "netback/worker/queue.h"
#include "netback/worker/round.h"

namespace ringback::net::worker {

using namespace xen::netif;
using bridge::VnetHeader;

namespace {

// An IP packet of the largest size, with its Ethernet header and a VLAN tag; one byte more tells what is larger.
constexpr uint32_t kMaxFrame = 65535 + 18;
constexpr size_t kLargest = sizeof(VnetHeader) + kMaxFrame + 1;

}  // namespace

uint32_t Queue::slots_needed() const {
    if (waiting_) return waiting_->empty() ? 1 : slots_of(waiting_->size(0), unpack(waiting_->note(0)));
    // The largest packet it can be given, and the extra that says how to cut it.
    const Connect& can = vif_.parameters;
    if (can.scatter_gather == 0) return 1;
    return pages_of(kMaxFrame) + (can.gso_tcp4 != 0 || can.gso_tcp6 != 0 ? 1U : 0U);
}

// True: there may be more.
bool Queue::receive() {
    if (!port_ready_) return false;
    const auto available = rx_.available();
    if (!available) {
        break_vif("the frontend claims more requests than its rx ring holds");
        return false;
    }
    if (*available < slots_needed()) {
        const uint64_t now = monotonic_ns();
        if (blocked_since_ == 0) blocked_since_ = now;
        if (now - blocked_since_ >= kStallNs) throw_away();
        return false;
    }
    blocked_since_ = 0;
    Batch& batch = vif_.batch;
    batch.rx.clear();
    batch.copies.clear();
    batch.owners.clear();
    const size_t count = gather_rx(*available);
    std::array<RxRequest, kRxEntries> slots;
    for (size_t i = 0; i < count; ++i) rx_.take(reinterpret_cast<std::byte*>(&slots[i]));
    size_t first = 0;
    for (Batch::Rx& rx : batch.rx) {
        plan_rx(rx, slots, first);
        first += rx.slots;
    }
    run_copies(vif_, batch.copies, batch.owners, [&batch](uint16_t owner) { batch.rx[owner].failed = true; });
    answer_rx(slots);
    if (port_->broken()) break_vif(kPortBroken);
    return port_ready_;
}

// The slots that the packets read will take.
size_t Queue::gather_rx(uint32_t available) {
    Batch& batch = vif_.batch;
    const Connect& can = vif_.parameters;
    const RxAbilities abilities{can.csum_blank4 != 0, can.csum_blank6 != 0, can.gso_tcp4 != 0, can.gso_tcp6 != 0};
    const uint32_t needed = slots_needed();
    size_t used = 0;
    size_t slots = 0;
    while (batch.rx.size() < Batch::kPackets && available - slots >= needed && used + Batch::kRoom + kLargest < Batch::kBytes &&
           slots + needed <= Batch::kCopies) {
        std::byte* data = batch.bytes.get() + used + Batch::kRoom;
        const size_t got = port_->receive({data - sizeof(VnetHeader), kLargest});
        if (got == 0) {
            port_ready_ = false;
            break;
        }
        if (got < sizeof(VnetHeader) + kEthernetHeader) continue;
        if (got > kLargest) {
            ++vif_.stats.rx_dropped;
            continue;
        }
        if (!vif_.wants(data)) {
            ++vif_.stats.rx_filtered;
            continue;
        }
        VnetHeader header;
        std::memcpy(&header, data - sizeof header, sizeof header);
        Batch::Rx rx{};
        rx.data = data;
        rx.size = static_cast<uint32_t>(got - sizeof header);
        const auto offload = rx.size <= kMaxFrame && pages_of(rx.size) <= needed
                                 ? from_vnet({data, rx.size}, header, abilities)
                                 : std::nullopt;
        if (!offload) {
            ++vif_.stats.rx_dropped;
            continue;
        }
        rx.offload = *offload;
        rx.slots = slots_of(rx.size, rx.offload);
        slots += rx.slots;
        used = Batch::behind(used, rx.size);
        batch.rx.push_back(rx);
    }
    return slots;
}

void Queue::plan_rx(Batch::Rx& rx, const std::array<RxRequest, kRxEntries>& slots, size_t first) {
    Batch& batch = vif_.batch;
    const size_t extra = rx.offload.gso != GsoType::none ? 1 : 0;
    for (uint16_t page = 0; page < pages_of(rx.size); ++page) {
        // The extra takes the second slot.
        const RxRequest& slot = slots[first + page + (page > 0 ? extra : 0)];
        const uint32_t offset = page * static_cast<uint32_t>(xen::kPageSize);
        xen::CopySegment& copy = batch.copies.emplace_back();
        copy = {};
        copy.source.virt = rx.data + offset;
        copy.dest.foreign = {slot.gref, 0, vif_.domid};
        copy.len = static_cast<uint16_t>(std::min<uint32_t>(rx.size - offset, xen::kPageSize));
        copy.flags = GNTCOPY_dest_gref;
        batch.owners.push_back(static_cast<uint16_t>(&rx - batch.rx.data()));
    }
}

void Queue::answer_rx(const std::array<RxRequest, kRxEntries>& slots) {
    const RxRequest* slot = slots.data();
    uint32_t index = rx_.rsp_prod();
    for (const Batch::Rx& rx : vif_.batch.rx) {
        note_rx(slot, index, rx.slots);
        slot += rx.slots;
        index += rx.slots;
    }
    journal_.rx_answered = index;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    slot = slots.data();
    for (const Batch::Rx& rx : vif_.batch.rx) {
        respond(slot, rx.size, rx.offload, rx.failed);
        slot += rx.slots;
    }
    if (rx_.unpublished() && rx_.publish()) notify(rx_port_);
}

// For a successor: the ids of the slots from `index` on, as the ring counts. They count when rx_answered is past them.
void Queue::note_rx(const RxRequest* slots, uint32_t index, uint16_t count) {
    for (uint16_t i = 0; i < count; ++i) journal_.rx_ids[(index + i) % kRxEntries] = slots[i].id;
}

// Answers the slots of one packet, of which `slot` is the first.
void Queue::respond(const RxRequest* slot, uint32_t size, const RxOffload& offload, bool failed) {
    const bool gso = offload.gso != GsoType::none;
    const uint16_t pages = pages_of(size);
    for (uint16_t page = 0; page < pages; ++page) {
        const uint32_t rest = size - page * static_cast<uint32_t>(xen::kPageSize);
        RxResponse response{slot++->id, 0, 0, static_cast<int16_t>(std::min<uint32_t>(rest, xen::kPageSize))};
        if (failed) response.status = kError;
        if (page == 0) response.flags = offload.flags;
        if (page == 0 && gso) response.flags |= kRxExtraInfo;
        if (page + 1 < pages) response.flags |= kRxMoreData;
        std::memcpy(rx_.next_response(), &response, sizeof response);
        if (page > 0 || !gso) continue;
        Extra extra{};
        extra.type = static_cast<uint8_t>(ExtraType::gso);
        extra.gso.size = offload.gso_size;
        extra.gso.type = static_cast<uint8_t>(offload.gso);
        std::memcpy(rx_.next_response(), &extra, sizeof extra);
        ++slot;
    }
    if (failed) {
        ++vif_.stats.rx_errors;
        return;
    }
    ++vif_.stats.rx_packets;
    vif_.stats.rx_bytes += size;
    if (gso) ++vif_.stats.rx_gso;
}

// The guest has not taken anything for long: what waits is old.
void Queue::throw_away() {
    constexpr int kAtOnce = 1024;
    Batch& batch = vif_.batch;
    for (int i = 0; i < kAtOnce; ++i) {
        if (port_->receive({batch.bytes.get(), kLargest}) == 0) {
            port_ready_ = false;
            return;
        }
        ++vif_.stats.rx_dropped;
    }
    kick();
}

}  // namespace ringback::net::worker
