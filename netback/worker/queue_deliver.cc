// SPDX-License-Identifier: Apache-2.0
//
// To the guest, from the switch: frames that fit on its rx ring are put there at once, straight from where they are; those that
// do not wait in the queue's own bounded memory, in order, and are dropped when that is full. So a guest that does not read
// loses its own packets and nobody else's time.
#include <algorithm>
#include <cstring>

#include "netback/worker/queue.h"
#include "netback/worker/round.h"

namespace ringback::net::worker {

using namespace xen::netif;

namespace {

constexpr size_t kAtOnce = 128;

}  // namespace

// Whether so many slots are free when all that this round has planned for so far is placed.
bool Queue::reserve(uint32_t slots) {
    const Round& round = *vif_.link->round;
    if (reserved_round_ != round.number) {
        reserved_round_ = round.number;
        reserved_left_ = waiting_->empty() ? rx_.available().value_or(0) : 0;
    }
    if (reserved_left_ < slots) {
        reserved_left_ = 0;  // what comes next must not overtake
        return false;
    }
    reserved_left_ -= slots;
    return true;
}

// Puts a frame on the ring, or lets it wait, or drops it. The round has room for it.
void Queue::take_over(std::span<const Piece> pieces, uint32_t size, const RxOffload& offload, uint16_t source) {
    const uint16_t slots = slots_of(size, offload);
    if (slots > Round::kFrameSlots || (vif_.parameters.scatter_gather == 0 && slots > 1)) {
        ++vif_.stats.rx_dropped;
        return;
    }
    if (waiting_->empty()) {
        const auto available = rx_.available();
        if (!available) return break_vif("the frontend claims more requests than its rx ring holds");
        if (*available >= slots) return place(pieces, size, offload, source);
    }
    // What was planned to go straight from page to page is not here to be kept.
    std::array<std::span<const std::byte>, bridge::WaitingQueue::kMostParts> parts;
    const bool here = std::all_of(pieces.begin(), pieces.end(), [](const Piece& piece) { return piece.local != nullptr; });
    for (size_t i = 0; here && i < pieces.size(); ++i) parts[i] = {pieces[i].local, pieces[i].size};
    if (!here || !waiting_->push({parts.data(), pieces.size()}, pack(offload))) {
        ++vif_.stats.rx_dropped;
        return;
    }
    ++vif_.stats.rx_waited;
    if (blocked_since_ != 0) return;
    blocked_since_ = monotonic_ns();
    kick();  // to ask the guest to tell of new buffers
}

void Queue::place(std::span<const Piece> pieces, uint32_t size, const RxOffload& offload, uint16_t source) {
    Round& round = *vif_.link->round;
    const auto number = static_cast<uint16_t>(round.frames.size());
    const RoundFrame& frame = round.frames.emplace_back(RoundFrame{.to = this,
                                                                   .index = rx_.req_cons(),
                                                                   .first_slot = static_cast<uint32_t>(round.slots.size()),
                                                                   .size = size,
                                                                   .offload = offload,
                                                                   .slots = slots_of(size, offload),
                                                                   .source = source,
                                                                   .failed = false});
    for (uint16_t i = 0; i < frame.slots; ++i) rx_.take(reinterpret_cast<std::byte*>(&round.slots.emplace_back()));
    if (!touched_) {
        touched_ = true;
        round.touched.push_back(this);
    }
    const RxRequest* slot = &round.slots[frame.first_slot];
    uint32_t page = 0;    // bytes of the slot's page that are spoken for
    for (const Piece& piece : pieces) {
        uint32_t done = 0;
        while (done < piece.size) {
            if (page == xen::kPageSize) {
                // The extra takes the second slot.
                slot += slot == &round.slots[frame.first_slot] && offload.gso != GsoType::none ? 2 : 1;
                page = 0;
            }
            const uint32_t some = std::min(piece.size - done, static_cast<uint32_t>(xen::kPageSize) - page);
            xen::CopySegment& copy = round.copies.emplace_back();
            copy = {};
            copy.flags = GNTCOPY_dest_gref;
            if (piece.local != nullptr) {
                copy.source.virt = const_cast<std::byte*>(piece.local + done);
            } else {
                copy.source.foreign = {piece.gref, static_cast<uint16_t>(piece.offset + done), piece.domid};
                copy.flags |= GNTCOPY_source_gref;
            }
            copy.dest.foreign = {slot->gref, static_cast<uint16_t>(page), vif_.domid};
            copy.len = static_cast<uint16_t>(some);
            round.owners.push_back(number);
            done += some;
            page += some;
        }
    }
}

// Copies, answers, publishes, notifies. `by`: on whose account.
void Queue::finish(VifContext& by) {
    Round& round = *by.link->round;
    run_copies(by, round.copies, round.owners, [&round](uint16_t owner) { round.frames[owner].failed = true; });
    for (const RoundFrame& frame : round.frames) {
        frame.to->note_rx(&round.slots[frame.first_slot], frame.index, frame.slots);
        frame.to->journal_.rx_answered = frame.index + frame.slots;
    }
    std::atomic_signal_fence(std::memory_order_seq_cst);
    for (const RoundFrame& frame : round.frames) {
        frame.to->respond(&round.slots[frame.first_slot], frame.size, frame.offload, frame.failed);
        // Whose page could not be copied is not told; both are told that it went wrong.
        if (frame.failed && frame.source != kNoSource) {
            by.batch.tx[frame.source].packet.status = kError;
            ++by.stats.tx_errors;
        }
    }
    for (Queue* queue : round.touched) {
        queue->touched_ = false;
        if (queue->rx_.unpublished() && queue->rx_.publish()) queue->notify(queue->rx_port_);
    }
    round.frames.clear();
    round.slots.clear();
    round.copies.clear();
    round.owners.clear();
    round.touched.clear();
    round.scratch_used = 0;
}

// True: there may be more.
bool Queue::deliver_waiting() {
    if (waiting_->empty()) {
        blocked_since_ = 0;
        return false;
    }
    Round& round = *vif_.link->round;
    size_t placed = 0;
    while (placed < waiting_->count() && placed < kAtOnce && !round.full()) {
        const RxOffload offload = unpack(waiting_->note(placed));
        const uint32_t size = waiting_->size(placed);
        const auto available = rx_.available();
        if (!available) {
            break_vif("the frontend claims more requests than its rx ring holds");
            break;
        }
        if (*available < slots_of(size, offload)) break;
        std::array<std::span<std::byte>, bridge::WaitingQueue::kMostParts> parts;
        std::array<Piece, bridge::WaitingQueue::kMostParts> pieces;
        const size_t count = waiting_->parts(placed, parts);
        for (size_t i = 0; i < count; ++i) {
            pieces[i] = {.local = parts[i].data(), .size = static_cast<uint32_t>(parts[i].size())};
        }
        place({pieces.data(), count}, size, offload, kNoSource);
        ++placed;
    }
    finish(vif_);
    const uint64_t now = monotonic_ns();
    if (placed == 0 && now - blocked_since_ >= kStallNs) {
        // The guest has not taken anything for long: what waits is old.
        vif_.stats.rx_dropped += waiting_->count();
        waiting_->pop(waiting_->count());
    }
    waiting_->pop(placed);
    if (placed != 0) blocked_since_ = now;
    if (waiting_->empty()) blocked_since_ = 0;
    return placed != 0 && !waiting_->empty();
}

}  // namespace ringback::net::worker
