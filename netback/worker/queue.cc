// SPDX-License-Identifier: Apache-2.0
//
// What both directions share. See queue_tx.cc and queue_rx.cc.
#include "netback/worker/queue.h"

#include <poll.h>

#include <algorithm>
#include <cstring>

namespace ringback::net::worker {

using namespace xen::netif;

namespace {

constexpr uint64_t kNoNotifyPollNs = 30'000'000;  // for a frontend that does not tell of new buffers
constexpr uint64_t kStallLookNs = 50'000'000;
// What may wait for a guest, per queue: seven packets of the largest size, or as many small ones as its ring has slots.
constexpr size_t kWaitingPackets = 256;
constexpr size_t kWaitingBytes = 512U << 10;

}  // namespace

Batch::Batch() : bytes(std::make_unique<std::byte[]>(kBytes)) {
    copies.reserve(kCopies);
    owners.reserve(kCopies);
    tx.reserve(kPackets);
    rx.reserve(kPackets);
}

bool VifContext::may_send() {
    if (parameters.rate.bytes == 0) return true;
    const uint64_t now = monotonic_ns();
    if (now >= credit_until) {
        const auto full = static_cast<int64_t>(std::min<uint64_t>(parameters.rate.bytes, INT64_MAX / 2));
        credit = std::min(full, credit + full);  // a debt is paid first
        credit_until = now + uint64_t{parameters.rate.interval_us} * 1000;
    }
    return credit > 0;
}

bool VifContext::takes(const bridge::VnetHeader& header) const {
    const PortState& can = parameters.port_state;
    if (can.up == 0) return false;
    if (header.gso_type == bridge::kVnetGsoTcp4) return can.tcp4 != 0;
    if (header.gso_type == bridge::kVnetGsoTcp6) return can.tcp6 != 0;
    return header.flags == 0 || can.checksum != 0;
}

bool VifContext::wants(const std::byte* address) const {
    constexpr std::array<uint8_t, 6> kBroadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    if (parameters.multicast_control == 0 || (address[0] & std::byte{1}) == std::byte{0}) return true;
    std::array<uint8_t, 6> to;
    std::memcpy(to.data(), address, to.size());
    return to == kBroadcast || multicast->contains(to);
}

Queue::Queue(VifContext& vif, QueueJournal& journal, Parameters parameters)
    : vif_(vif),
      journal_(journal),
      tx_mapping_(std::move(parameters.tx_ring)),
      rx_mapping_(std::move(parameters.rx_ring)),
      tx_(tx_mapping_.data(), tx_mapping_.size(), sizeof(TxRequest)),
      rx_(rx_mapping_.data(), rx_mapping_.size(), sizeof(RxRequest)),
      tx_port_(parameters.tx_port),
      rx_port_(parameters.rx_port),
      port_(std::move(parameters.port)),
      resumed_(parameters.resumed),
      number_(parameters.number) {
    if (vif_.link != nullptr) {
        waiting_ = std::make_unique<bridge::WaitingQueue>(*vif_.waiting, kWaitingPackets, kWaitingBytes);
    }
    task_.queue = this;
    task_.run = [](Task& task) noexcept { static_cast<QueueTask&>(task).queue->run(); };
    poll_.queue = this;
    poll_.look = [](PollSource& source) noexcept { return static_cast<QueuePoll&>(source).queue->look(); };
    poll_.rest = [](PollSource& source) noexcept { static_cast<QueuePoll&>(source).queue->rest(); };
}

Queue::~Queue() {
    INVARIANT(!task_.scheduled);
    vif_.reactor.stop_polling(poll_);
    if (watch_ == nullptr) return;
    watch_->queue = nullptr;
    vif_.reactor.cancel(*watch_);
}

void Queue::start() {
    // Not in the first run: other guests of the switch put packets on this ring in theirs, which may come before.
    if (resumed_) recover();
    if (waiting_) return kick();
    watch_ = new PortWatch;
    watch_->queue = this;
    watch_->fd = port_->fd();
    watch_->on_complete = [](Completion& self, int32_t result, uint32_t flags) noexcept {
        auto& watch = static_cast<PortWatch&>(self);
        const bool last = (flags & IORING_CQE_F_MORE) == 0;
        if (watch.queue == nullptr) {
            if (last) delete &watch;
            return;
        }
        Queue& queue = *watch.queue;
        if (result < 0 || (result & (POLLERR | POLLHUP | POLLNVAL)) != 0) {
            // Somebody removed the network device. To watch on would be to be told so for ever.
            queue.break_vif("its port is gone");
            if (last) {
                queue.watch_ = nullptr;
                delete &watch;
            }
            return;
        }
        queue.port_->acknowledge();
        queue.port_ready_ = true;
        queue.kick();
        // The kernel ends a watch of many shots when it has no room for its completions, or no memory.
        if (last) queue.vif_.reactor.watch_readable(watch.fd, watch);
    };
    vif_.reactor.watch_readable(port_->fd(), *watch_);
    kick();
}

void Queue::on_event(xen::Port port) {
    ++vif_.stats.events_taken;
    if (port == tx_port_) masked_tx_ = true;
    if (port == rx_port_ && rx_port_ != tx_port_) masked_rx_ = true;
    kick();
}

void Queue::run() {
    if (vif_.broken != nullptr || vif_.ending) return;
    const bool more_rx = waiting_ ? deliver_waiting() : receive();
    const bool more_tx = vif_.broken == nullptr && (waiting_ ? forward() : transmit());
    if (vif_.broken != nullptr) return;
    if (more_rx || more_tx) return kick();
    go_idle();
}

// Answers what an earlier worker may have written answers to without showing them (journal.h).
void Queue::recover() {
    const uint32_t tx_lost = journal_.tx_answered - tx_.rsp_prod();
    const uint32_t rx_lost = journal_.rx_answered - rx_.rsp_prod();
    if (tx_lost <= kTxEntries && tx_.available().value_or(0) >= tx_lost) {
        for (uint32_t i = 0; i < tx_lost; ++i) {
            const bool extra = journal_.tx_extra[tx_.req_cons() % kTxEntries] != 0;
            TxRequest request;
            tx_.take(reinterpret_cast<std::byte*>(&request));
            const TxResponse response{request.id, static_cast<int16_t>(extra ? kNull : kDropped)};
            std::memcpy(tx_.next_response(), &response, sizeof response);
        }
        if (tx_.publish() || tx_lost != 0) notify(tx_port_);
    }
    if (rx_lost <= kRxEntries && rx_.available().value_or(0) >= rx_lost) {
        for (uint32_t i = 0; i < rx_lost; ++i) {
            const uint16_t id = journal_.rx_ids[rx_.req_cons() % kRxEntries];
            RxRequest request;
            rx_.take(reinterpret_cast<std::byte*>(&request));
            const RxResponse response{id, 0, 0, kError};
            std::memcpy(rx_.next_response(), &response, sizeof response);
        }
        if (rx_.publish() || rx_lost != 0) notify(rx_port_);
    }
    // An answer may have been shown without the notification that belongs to it.
    notify(tx_port_);
    if (rx_port_ != tx_port_) notify(rx_port_);
}

void Queue::notify(xen::Port port) {
    ++vif_.stats.notifies_sent;
    vif_.events.notify(port);
}

void Queue::break_vif(const char* reason) {
    if (vif_.broken != nullptr) return;
    vif_.broken = reason;
    vif_.on_broken(vif_);
}

void Queue::go_idle() {
    if (next_tick() != 0) vif_.on_tick_wanted(vif_);
    if (!task_.scheduled) vif_.reactor.start_polling(poll_);
}

bool Queue::look() {
    if (waiting_ && blocked_since_ != 0 && rx_.available().value_or(UINT32_MAX) >= slots_needed()) {
        kick();
        return true;
    }
    if (port_ && blocked_since_ == 0 && port_->has_frames()) {
        port_ready_ = true;
        kick();
        return true;
    }
    if (rate_wait_) return false;
    const auto available = tx_.available();
    if (available && *available == 0) return false;
    kick();
    return true;
}

void Queue::rest() {
    if (vif_.broken != nullptr || vif_.ending) return;
    if (!rate_wait_ && !tx_.rest()) return kick();
    if (blocked_since_ != 0 && !rx_.rest_until(slots_needed())) return kick();
    if (masked_tx_) {
        masked_tx_ = false;
        vif_.events.unmask(tx_port_);
    }
    if (masked_rx_) {
        masked_rx_ = false;
        vif_.events.unmask(rx_port_);
    }
}

uint64_t Queue::next_tick() const {
    uint64_t next = 0;
    if (rate_wait_) next = vif_.credit_until;
    if (blocked_since_ != 0) {
        const uint64_t pause = vif_.parameters.rx_notify != 0 ? kStallLookNs : kNoNotifyPollNs;
        const uint64_t look = monotonic_ns() + pause;
        next = next == 0 ? look : std::min(next, look);
    }
    return next;
}

void Queue::tick(uint64_t now) {
    if (vif_.broken != nullptr || vif_.ending) return;
    if (rate_wait_ && now >= vif_.credit_until) {
        rate_wait_ = false;
        kick();
    }
    if (blocked_since_ != 0) kick();
}

}  // namespace ringback::net::worker
