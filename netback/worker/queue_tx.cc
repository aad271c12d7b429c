// SPDX-License-Identifier: Apache-2.0
//
// From the guest: slots taken, data copied, packets handed to the port, slots answered in order.
#include <algorithm>
#include <cstring>

#include "netback/worker/queue.h"
#include "netback/worker/round.h"
#include "netback/worker/segment.h"

namespace ringback::net::worker {

using namespace xen::netif;
using bridge::VnetHeader;

struct Queue::TxSource {
    xen::BackRing& ring;
    uint32_t left;
    [[nodiscard]] bool next(std::byte* to) {
        if (left == 0) return false;
        --left;
        ring.take(to);
        return true;
    }
};

// How many slots may be taken now.
uint32_t Queue::to_transmit() {
    const auto available = tx_.available();
    if (!available) {
        break_vif("the frontend claims more requests than its tx ring holds");
        return 0;
    }
    if (*available == 0) return 0;
    if (!vif_.may_send()) {
        if (!rate_wait_) ++vif_.stats.rate_waits;
        rate_wait_ = true;
        return 0;
    }
    rate_wait_ = false;
    return *available;
}

// True: there may be more.
bool Queue::transmit() {
    const uint32_t available = to_transmit();
    if (available == 0) return false;
    const bool all = take_tx(available, UINT32_MAX);
    for (Batch::Tx& tx : vif_.batch.tx) {
        if (tx.packet.status == kOkay && tx.packet.multicast == ExtraType::none) send(tx);
    }
    answer_tx();
    if (port_->broken()) break_vif(kPortBroken);
    return !all || tx_.available().value_or(1) != 0;
}

void Queue::run_tx_copies() {
    Batch& batch = vif_.batch;
    run_copies(vif_, batch.copies, batch.owners, [&batch, this](uint16_t owner) {
        if (batch.tx[owner].packet.status == kOkay) ++vif_.stats.tx_errors;
        batch.tx[owner].packet.status = kError;
    });
}

// A new batch, copied: of each packet so many bytes at most; its place has room for all. False: it was full first.
bool Queue::take_tx(uint32_t available, uint32_t most) {
    Batch& batch = vif_.batch;
    batch.tx.clear();
    batch.copies.clear();
    batch.owners.clear();
    const bool all = gather_tx(available, most);
    run_tx_copies();
    return all;
}

bool Queue::gather_tx(uint32_t available, uint32_t most) {
    Batch& batch = vif_.batch;
    TxSource source{tx_, available};
    size_t used = 0;
    while (source.left > 0) {
        const bool full = batch.tx.size() == Batch::kPackets || batch.copies.size() + kFatalSlots > Batch::kCopies ||
                          used + Batch::kRoom + kMaxPacket + Batch::kAlign > Batch::kBytes;
        const bool spent = vif_.parameters.rate.bytes != 0 && vif_.credit <= 0;
        if (full || spent) return false;
        Batch::Tx& tx = batch.tx.emplace_back();
        if (const char* broken = read_packet(source, tx.packet)) {
            batch.tx.pop_back();
            break_vif(broken);
            return true;
        }
        if (tx.packet.multicast != ExtraType::none) {
            follow_list(tx.packet);
            continue;
        }
        if (vif_.parameters.rate.bytes != 0) vif_.credit -= tx.packet.size;
        if (tx.packet.status != kOkay) {
            ++vif_.stats.tx_dropped;
            continue;
        }
        tx.data = batch.bytes.get() + used + Batch::kRoom;
        copy_tx(batch.tx.size() - 1, 0, std::min(tx.packet.size, most));
        used = Batch::behind(used, tx.packet.size);
    }
    return true;
}

// Adds the copies of a part of a packet, to where it belongs in the packet's place.
void Queue::copy_tx(size_t number, uint32_t from, uint32_t end) {
    Batch& batch = vif_.batch;
    const Batch::Tx& tx = batch.tx[number];
    uint32_t at = 0;
    for (uint16_t i = 0; i < tx.packet.slot_count && at < end; ++i) {
        const TxSlot& slot = tx.packet.slots[i];
        const uint32_t first = std::max(at, from);
        const uint32_t last = std::min(at + slot.size, end);
        if (first < last) {  // and no copy of nothing
            xen::CopySegment& copy = batch.copies.emplace_back();
            copy = {};
            copy.source.foreign = {slot.gref, static_cast<uint16_t>(slot.offset + (first - at)), vif_.domid};
            copy.dest.virt = tx.data + first;
            copy.len = static_cast<uint16_t>(last - first);
            copy.flags = GNTCOPY_source_gref;
            batch.owners.push_back(static_cast<uint16_t>(number));
        }
        at += slot.size;
    }
}

void Queue::follow_list(TxPacket& packet) {
    if (packet.multicast == ExtraType::multicast_del) {
        vif_.multicast->remove(packet.address);
    } else if (!vif_.multicast->add(packet.address)) {
        packet.status = kError;
    }
}

void Queue::send(Batch::Tx& tx) {
    const auto header = to_vnet({tx.data, tx.packet.size}, tx.packet.offload);
    if (!header) {
        ++vif_.stats.tx_dropped;
        tx.packet.status = kError;
        return;
    }
    const std::span<const std::byte> whole(tx.data, tx.packet.size);
    // A port that takes nothing now (its link is down, the host has no memory) loses the packet, as a wire would.
    if (vif_.takes(*header) ? !port_->send(*header, {&whole, 1}) : !send_finished(tx, *header)) {
        ++vif_.stats.tx_dropped;
        tx.packet.status = kDropped;
        return;
    }
    ++vif_.stats.tx_packets;
    vif_.stats.tx_bytes += tx.packet.size;
    if (header->gso_type != bridge::kVnetGsoNone) ++vif_.stats.tx_gso;
}

// For a port that does not take what is still to be done: it is done here.
bool Queue::send_finished(const Batch::Tx& tx, const VnetHeader& header) {
    if (vif_.parameters.port_state.up == 0) return false;
    const std::span<std::byte> whole(tx.data, tx.packet.size);
    const VnetHeader nothing{};
    if (header.gso_type == bridge::kVnetGsoNone) {
        const std::span<const std::byte> part(whole);
        return complete_checksum(whole, header.csum_start, header.csum_offset) && port_->send(nothing, {&part, 1});
    }
    const auto segments = Segments::of(whole, header);
    if (!segments) return false;
    std::array<std::byte, kHead> head;
    if (segments->header_size() > head.size()) return false;
    for (size_t i = 0; i < segments->count(); ++i) {
        const std::array<std::span<const std::byte>, 2> parts{std::span<const std::byte>(head).first(segments->header_size()),
                                                              segments->cut(i, head)};
        if (!port_->send(nothing, parts)) return false;
    }
    return true;
}

void Queue::answer_tx() {
    const uint32_t before = tx_.rsp_prod();
    uint32_t slot = before;
    for (const Batch::Tx& tx : vif_.batch.tx) {
        journal_.tx_extra[slot++ % kTxEntries] = 0;
        for (uint16_t i = 0; i < tx.packet.extras; ++i) journal_.tx_extra[slot++ % kTxEntries] = 1;
        for (uint16_t i = 1; i < tx.packet.slot_count; ++i) journal_.tx_extra[slot++ % kTxEntries] = 0;
    }
    journal_.tx_answered = slot;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    // Four bytes, and of an extra only the status: it has no id.
    const auto put = [this](uint16_t id, int16_t status) {
        const TxResponse response{id, status};
        std::memcpy(tx_.next_response(), &response, sizeof response);
    };
    for (const Batch::Tx& tx : vif_.batch.tx) {
        put(tx.packet.slots[0].id, tx.packet.status);
        for (uint16_t i = 0; i < tx.packet.extras; ++i) put(0, kNull);
        for (uint16_t i = 1; i < tx.packet.slot_count; ++i) put(tx.packet.slots[i].id, tx.packet.status);
    }
    if (tx_.unpublished() && tx_.publish()) notify(tx_port_);
}

}  // namespace ringback::net::worker
