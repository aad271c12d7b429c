// SPDX-License-Identifier: Apache-2.0
//
// From the guest, through the switch, to other guests: without a bounce.
//
// The head of each packet is read once, into our memory; what the switch decides and what the flags claim is checked on that
// copy, and that copy is what goes on: reading it again from the guest's page would be a second fetch behind every filter.
// What follows the head goes from the sender's pages into the receiver's by a copy from grant to grant. So a packet costs two
// grant operations if the head was all of it, and one more for each run of payload within a page.
//
// Checksums left blank and packets to be cut later are passed on as they are. Only for who does not take them so, for who has no
// room now, and for floods the whole packet is read; then it is completed, cut, kept or copied from here.
#include <algorithm>

#include "netback/worker/checksum.h"
#include "netback/worker/queue.h"
#include "netback/worker/round.h"
#include "netback/worker/segment.h"

namespace ringback::net::worker {

using namespace xen::netif;
using bridge::Fate;
using bridge::Form;
using bridge::VnetHeader;

namespace {

constexpr size_t kAddresses = 12;
constexpr uint32_t kTag = 4;

// What has to be done to a packet for this guest, and what it is told.
struct Fit {
    bool complete = false;
    bool cut = false;
    RxOffload offload;
};

Fit fit(const Plan& plan, bool tagged, const Connect& can) {
    // A tag hides from a frontend where the checksum is.
    const bool blank = !tagged && (plan.v6 ? can.csum_blank6 : can.csum_blank4) != 0;
    const bool gso = blank && (plan.v6 ? can.gso_tcp6 : can.gso_tcp4) != 0;
    Fit fit;
    if (plan.header.gso_type != bridge::kVnetGsoNone) {
        fit.cut = !gso;
        fit.offload.flags = fit.cut ? kRxDataValidated : kRxCsumBlank | kRxDataValidated;
        if (fit.cut) return fit;
        fit.offload.gso = plan.v6 ? GsoType::tcp6 : GsoType::tcp4;
        fit.offload.gso_size = plan.header.gso_size;
    } else if (plan.header.flags == bridge::kVnetNeedsCsum) {
        fit.complete = !blank;
        fit.offload.flags = blank ? kRxCsumBlank | kRxDataValidated : kRxDataValidated;
    } else if (plan.completed) {
        fit.offload.flags = kRxDataValidated;
    }
    return fit;
}

// Slots that it takes at most, as far as planning needs to know.
uint32_t slots_for(const Plan& plan, const Fit& fit, uint32_t size) {
    if (!fit.cut) return slots_of(size + kTag, fit.offload);
    const uint32_t header = plan.header.header_length;
    const uint32_t segments = (size - header + plan.header.gso_size - 1) / plan.header.gso_size;
    return segments * pages_of(header + kTag + plan.header.gso_size);
}

// How the head of a frame lies when its tag is taken off or put on. Returns the number of pieces.
size_t dress(const Plan& plan, bool tagged, const std::byte* head, uint32_t size, Round& round, std::span<Piece> pieces) {
    const bool keep = tagged ? plan.verdict.named : plan.verdict.tag == 0;
    if (keep) {
        pieces[0] = {.local = head, .size = size};
        return 1;
    }
    size_t count = 0;
    pieces[count++] = {.local = head, .size = kAddresses};
    if (tagged) {
        const std::span<std::byte> tag(round.scribble(kTag), kTag);
        put_word(tag, 0, 0x8100);
        put_word(tag, 2, plan.verdict.vlan);
        pieces[count++] = {.local = tag.data(), .size = kTag};
    }
    const auto skip = static_cast<uint32_t>(kAddresses + plan.verdict.tag);
    pieces[count++] = {.local = head + skip, .size = size - skip};
    return count;
}

uint32_t total(std::span<const Piece> pieces) {
    uint32_t size = 0;
    for (const Piece& piece : pieces) size += piece.size;
    return size;
}

}  // namespace

// True: there may be more.
bool Queue::forward() {
    const uint32_t available = to_transmit();
    if (available == 0) return false;
    const bool all = take_tx(available, kHead);
    Batch& batch = vif_.batch;
    ++vif_.link->round->number;
    const uint64_t now = monotonic_ns();
    batch.copies.clear();
    batch.owners.clear();
    for (size_t i = 0; i < batch.tx.size(); ++i) decide(i, now);
    run_tx_copies();
    for (size_t i = 0; i < batch.tx.size(); ++i) spread(i);
    finish(vif_);
    answer_tx();
    return !all || tx_.available().value_or(1) != 0;
}

Queue* Queue::queue_of(VifContext* vif) const {
    if (vif == nullptr || vif->broken != nullptr || vif->ending || vif->queues.empty()) return nullptr;
    // A flow stays in one queue of its sender, so it stays in one of its receiver too.
    return vif->queues[number_ % vif->queues.size()];
}

void Queue::decide(size_t number, uint64_t now) {
    Plan& plan = vif_.link->round->plans[number];
    plan = {};
    Batch::Tx& tx = vif_.batch.tx[number];
    if (tx.packet.status != kOkay || tx.packet.multicast != ExtraType::none) return;
    const uint32_t known = std::min(tx.packet.size, kHead);
    const std::span<std::byte> head(tx.data, known);
    const auto header = to_vnet(head, tx.packet.offload, tx.packet.size);
    if (!header) {
        ++vif_.stats.tx_dropped;
        tx.packet.status = kError;
        return;
    }
    plan.header = *header;
    plan.verdict = vif_.link->decide->classify(vif_.link->port, head, tx.packet.size, now);
    const size_t network = kEthernetHeader + plan.verdict.tag;
    plan.v6 = network < known && byte_at(head, network) >> 4 == 6;
    if (plan.verdict.fate == Fate::one) decide_one(number, plan);
    if (plan.verdict.fate == Fate::dropped) {
        ++vif_.stats.tx_dropped;
        tx.packet.status = kDropped;
        return;
    }
    if (plan.verdict.fate == Fate::all) {
        plan.whole = true;
        for (const bridge::PortIndex port : vif_.link->decide->ports()) {
            Queue* to = queue_of((*vif_.link->vifs)[port]);
            const Form form = vif_.link->decide->form(port, plan.verdict.vlan);
            if (to == nullptr || port == vif_.link->port || form == Form::none) continue;
            (void)to->reserve(slots_for(plan, fit(plan, form == Form::tagged, to->vif_.parameters), tx.packet.size));
        }
    }
    if (plan.whole && tx.packet.size > known) copy_tx(number, known, tx.packet.size);
}

void Queue::decide_one(size_t number, Plan& plan) {
    Queue* to = queue_of((*vif_.link->vifs)[plan.verdict.to]);
    if (to == nullptr) {
        plan.verdict.fate = Fate::dropped;
        return;
    }
    const bool tagged = vif_.link->decide->form(plan.verdict.to, plan.verdict.vlan) == Form::tagged;
    const Fit needs = fit(plan, tagged, to->vif_.parameters);
    const bool room = to->reserve(slots_for(plan, needs, vif_.batch.tx[number].packet.size));
    plan.whole = needs.cut || needs.complete || !room;
}

void Queue::spread(size_t number) {
    Plan& plan = vif_.link->round->plans[number];
    const Batch::Tx& tx = vif_.batch.tx[number];
    if (plan.verdict.fate == Fate::dropped || tx.packet.status != kOkay) return;
    ++vif_.stats.tx_packets;
    vif_.stats.tx_bytes += tx.packet.size;
    if (plan.header.gso_type != bridge::kVnetGsoNone) ++vif_.stats.tx_gso;
    bridge::Switch& decide = *vif_.link->decide;
    const auto goes_to = [&](bridge::PortIndex port) {
        return plan.verdict.fate == Fate::one ? port == plan.verdict.to
                                              : port != vif_.link->port && decide.form(port, plan.verdict.vlan) != Form::none;
    };
    // All get the same memory: if one wants its checksum completed, it is completed for all, before anybody gets it.
    const auto wants_sum = [&](bridge::PortIndex port) {
        const Queue* to = goes_to(port) ? queue_of((*vif_.link->vifs)[port]) : nullptr;
        const bool tagged = to != nullptr && decide.form(port, plan.verdict.vlan) == Form::tagged;
        return to != nullptr && fit(plan, tagged, to->vif_.parameters).complete;
    };
    const bool complete = plan.header.flags == bridge::kVnetNeedsCsum &&
                          (plan.verdict.fate == Fate::one ? wants_sum(plan.verdict.to)
                                                          : std::any_of(decide.ports().begin(), decide.ports().end(), wants_sum));
    if (complete && complete_checksum({tx.data, tx.packet.size}, plan.header.csum_start, plan.header.csum_offset)) {
        plan.header.flags = 0;
        plan.completed = true;
    }
    if (plan.verdict.fate == Fate::one) return hand_to(plan.verdict.to, number);
    for (const bridge::PortIndex port : decide.ports()) {
        if (goes_to(port)) hand_to(port, number);
    }
}

void Queue::hand_to(bridge::PortIndex port, size_t number) {
    Round& round = *vif_.link->round;
    const Plan& plan = round.plans[number];
    const Batch::Tx& tx = vif_.batch.tx[number];
    Queue* to = queue_of((*vif_.link->vifs)[port]);
    if (to == nullptr) return;
    if (!to->vif_.wants(tx.data)) {
        ++to->vif_.stats.rx_filtered;
        return;
    }
    const bool tagged = vif_.link->decide->form(port, plan.verdict.vlan) == Form::tagged;
    const Fit told = fit(plan, tagged, to->vif_.parameters);
    if (told.cut) return cut_to(*to, tagged, number);
    if (round.full()) finish(vif_);
    std::array<Piece, 3 + kFatalSlots> pieces;
    const uint32_t here = plan.whole ? tx.packet.size : std::min(tx.packet.size, kHead);
    size_t count = dress(plan, tagged, tx.data, here, round, pieces);
    // The rest is in the guest's pages still.
    uint32_t at = 0;
    for (uint16_t i = 0; i < tx.packet.slot_count && !plan.whole; ++i) {
        const TxSlot& slot = tx.packet.slots[i];
        const uint32_t skip = std::min<uint32_t>(here > at ? here - at : 0, slot.size);
        at += slot.size;
        if (skip == slot.size) continue;
        pieces[count++] = {.gref = slot.gref,
                           .domid = vif_.domid,
                           .offset = static_cast<uint16_t>(slot.offset + skip),
                           .size = slot.size - skip};
    }
    const std::span<const Piece> all(pieces.data(), count);
    to->take_over(all, total(all), told.offload, plan.whole ? kNoSource : static_cast<uint16_t>(number));
}

void Queue::cut_to(Queue& to, bool tagged, size_t number) {
    Round& round = *vif_.link->round;
    const Plan& plan = round.plans[number];
    const Batch::Tx& tx = vif_.batch.tx[number];
    const auto segments = Segments::of({tx.data, tx.packet.size}, plan.header);
    if (!segments) {
        ++to.vif_.stats.rx_dropped;
        return;
    }
    const RxOffload told{.flags = kRxDataValidated};
    for (size_t i = 0; i < segments->count() && to.vif_.broken == nullptr; ++i) {
        if (round.full()) finish(vif_);
        const std::span<std::byte> header(round.scribble(segments->header_size()), segments->header_size());
        const auto payload = segments->cut(i, header);
        std::array<Piece, 4> pieces;
        size_t count = dress(plan, tagged, header.data(), static_cast<uint32_t>(header.size()), round, pieces);
        pieces[count++] = {.local = payload.data(), .size = static_cast<uint32_t>(payload.size())};
        const std::span<const Piece> all(pieces.data(), count);
        to.take_over(all, total(all), told, kNoSource);
    }
}

}  // namespace ringback::net::worker
