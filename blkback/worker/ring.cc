// SPDX-License-Identifier: Apache-2.0
//
// Taking requests and answering them. Moving their data is in transfer.cc.
#include "blkback/worker/ring.h"

#include <sys/mman.h>

#include <cstring>

#include "blkback/worker/ring_detail.h"
#include "blkback/worker/steps.h"

namespace ringback::blk::worker {

using namespace xen::blkif;

Result<std::unique_ptr<Ring>> Ring::create(DiskContext& disk, xen::GrantTable& grants, Parameters parameters) {
    const uint32_t entries = xen::ring_entries(parameters.mapping.size(), entry_size(parameters.abi));
    std::unique_ptr<Owed> owed;
    if (parameters.recover) {
        auto& header = *reinterpret_cast<xen::SharedRingHeader*>(parameters.mapping.data());
        const uint32_t published = std::atomic_ref(header.rsp_prod).load(std::memory_order_acquire);
        owed = std::make_unique<Owed>(TRY(read_owed(disk.journal.queue(parameters.number, entries), published)));
        reached(Step::recovery_checked);
    }
    void* memory = mmap(nullptr, entries * sizeof(Segments), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return os_error("allocate the segment lists of " + std::to_string(entries) + " ring entries");
    }
    return std::unique_ptr<Ring>(new Ring(disk, grants, std::move(parameters), static_cast<Segments*>(memory),
                                          std::move(owed)));
}

Ring::Ring(DiskContext& disk, xen::GrantTable& grants, Parameters parameters, Segments* segments,
           std::unique_ptr<Owed> owed)
    : disk_(disk),
      grants_(grants),
      number_(parameters.number),
      abi_(parameters.abi),
      use_persistent_(parameters.persistent),
      port_(parameters.port),
      mapping_(std::move(parameters.mapping)),
      ring_(mapping_.data(), mapping_.size(), entry_size(abi_)),
      journal_(disk.journal.queue(number_, ring_.entries())),
      persistent_(grants, disk.domid, disk.stats),
      segments_(segments),
      owed_(std::move(owed)) {
    const uint32_t entries = ring_.entries();
    requests_ = std::make_unique<Request[]>(entries);
    free_.reserve(entries);
    for (uint32_t i = entries; i > 0; --i) {
        Request& request = requests_[i - 1];
        request.ring = this;
        request.index = static_cast<uint16_t>(i - 1);
        free_.push_back(request.index);
    }
    answered_.reserve(entries);
    fetching_.reserve(entries);
    gathering_.reserve(entries);
    batch_.reserve(entries);
    copies_.reserve(kCopyBatch);
    copy_owners_.reserve(kCopyBatch);
    if (owed_) ring_.resume(owed_->req_cons, owed_->rsp_prod);
    journal_.set_req_cons(ring_.req_cons());
    journal_.set_rsp_prod(ring_.rsp_prod());
    task_.ring = this;
    task_.run = [](Task& task) noexcept { static_cast<RingTask&>(task).ring->run(); };
    poll_.ring = this;
    poll_.look = [](PollSource& source) noexcept { return static_cast<RingPoll&>(source).ring->look(); };
    poll_.rest = [](PollSource& source) noexcept { static_cast<RingPoll&>(source).ring->rest(); };
}

Ring::~Ring() {
    INVARIANT(free_.size() == ring_.entries() && !task_.scheduled);
    disk_.reactor.stop_polling(poll_);
    disk_.buffers.forget(task_);
    munmap(segments_, ring_.entries() * sizeof(Segments));
}

void Ring::on_event() {
    ++disk_.stats.events_taken;
    masked_ = true;
    kick();
}

void Ring::recover() {
    disk_.in_flight += static_cast<uint32_t>(owed_->replay.size());
    disk_.replaying += static_cast<uint32_t>(owed_->replay.size());
    std::vector<bool> used(ring_.entries());
    for (const uint16_t index : owed_->replay) used[index] = true;
    for (const uint16_t index : owed_->unpublished) used[index] = true;
    std::erase_if(free_, [&](uint16_t index) { return used[index]; });
}

void Ring::take_up() {
    const std::unique_ptr<Owed> owed = std::move(owed_);
    for (const uint16_t index : owed->done) journal_.set_state(journal_.slots[index], SlotState::free);
    for (const uint16_t index : owed->unpublished) {
        Slot& slot = journal_.slots[index];
        write_response(slot, static_cast<Status>(slot.status));
        answered_.push_back(index);
    }
    reached(Step::recovery_rewritten);
    notify_owed_ = true;
    publish();
    for (const uint16_t index : owed->replay) {
        requests_[index].replayed = true;
        admit(requests_[index]);
    }
}

void Ring::run() {
    if (owed_) take_up();
    finish();
    if (ring_.unpublished()) publish();
    take();
    if (!fetching_.empty()) fetch_segments();
    copy_from_guest();
    submit();
    if (done_ != nullptr) {  // what was refused on the way has its answer
        finish();
        if (ring_.unpublished()) publish();
    }
    go_idle();
}

void Ring::take() {
    if (!may_take()) return;
    const auto available = ring_.available();
    if (!available) return break_ring("the frontend claims more requests than its ring holds");
    for (uint32_t i = 0; i < *available && may_take() && !free_.empty(); ++i) {
        if (disk_.throttle.limited() && hold_back()) return;
        alignas(8) std::byte raw[x86_64::kEntrySize];
        Request& request = requests_[free_.back()];
        free_.pop_back();
        slot(request).request_index = ring_.req_cons();
        ring_.take(raw);
        decode(abi_, raw, slot(request).request);
        reached(Step::copied);
        journal_.set_state(slot(request), SlotState::taken);
        reached(Step::marked_taken);
        journal_.set_req_cons(ring_.req_cons());
        reached(Step::taken);
        ++disk_.in_flight;
        admit(request);
    }
}

// What waits stays where it is, in the guest's ring.
bool Ring::hold_back() {
    const uint64_t now = monotonic_ns();
    if (disk_.throttle.admits(now)) {
        disk_.throttle.charge_operation(now);
        return false;
    }
    disk_.throttled = true;
    disk_.on_throttled(disk_, now);
    return true;
}

void Ring::admit(Request& request) {
    const StoredRequest& stored = slot(request).request;
    request.status = kOkay;
    request.bytes = 0;
    request.nr_segments = 0;
    request.persistent = false;
    request.flush_first = request.transfer = request.flush_after = false;
    if (const auto refused = check_request(stored, disk_.limits)) return reject(request, *refused);

    switch (stored.operation) {
        case kDiscard: request.transfer = stored.nr_sectors > 0; break;
        case kFlush:
            request.flush_first = true;
            request.transfer = stored.nr_segments > 0;
            break;
        case kWriteBarrier:
            // None is taken beside another: only a journal that lies has two.
            if (disk_.barrier != nullptr) return reject(request, kError);
            // Drain, flush, write, flush: stricter than the kernel's backend, and nothing to argue about.
            request.flush_first = true;
            request.transfer = request.flush_after = stored.nr_segments > 0;
            disk_.barrier = &request;
            break;
        default: request.transfer = true;
    }
    if (stored.operation == kDiscard && !request.transfer) {
        request.next = done_;  // nothing to discard is done at once
        done_ = &request;
    } else if (stored.operation == kDiscard) {
        gathering_.push_back(&request);
    } else if (stored.indirect) {
        request.nr_segments = stored.nr_segments;
        fetching_.push_back(&request);
        // Until its segments are known: whole pages.
        if (disk_.throttle.limited()) disk_.throttle.charge_bytes(request.nr_segments * xen::kPageSize, monotonic_ns());
    } else {
        request.nr_segments = stored.nr_segments;
        std::memcpy(segments_[request.index].list.data(), stored.segments.data(),
                    request.nr_segments * sizeof(Segment));
        plan(request);
    }
}

void Ring::reject(Request& request, Status status) {
    ++disk_.stats.bad_requests;
    request.status = status;
    request.transfer = request.flush_first = request.flush_after = false;
    request.next = done_;
    done_ = &request;
}

void Ring::on_io_done(Request& request, int32_t result) {
    reached(Step::completed);
    if (result != 0) {
        // A flush that failed must not read as "not supported": the frontend would call it a success.
        const bool flush = slot(request).request.operation == kFlush || slot(request).request.operation == kWriteBarrier;
        const bool unsupported = result == -EOPNOTSUPP && slot(request).request.operation == kDiscard;
        request.status = flush ? kFlushFailed : unsupported ? kNotSupported : kError;
        request.transfer = request.flush_first = request.flush_after = false;
    }
    request.next = done_;
    done_ = &request;
    kick();
}

void Ring::finish() {
    // Oldest first: the list was built by pushing.
    Request* done = nullptr;
    while (done_ != nullptr) {
        Request* request = done_;
        done_ = request->next;
        request->next = done;
        done = request;
    }
    Request* finished = nullptr;
    Request** tail = &finished;
    while (done != nullptr) {
        Request* request = done;
        done = request->next;
        if (request->flush_first || request->transfer || request->flush_after) {
            start_step(*request);
        } else {
            *tail = request;
            tail = &request->next;
            request->next = nullptr;
        }
    }
    submit();
    copy_to_guest(finished);
    while (finished != nullptr) {
        Request* request = finished;
        finished = request->next;
        answer(*request);
    }
}

void Ring::answer(Request& request) {
    const StoredRequest& stored = slot(request).request;
    Stats& stats = disk_.stats;
    if (request.status != kOkay) {
        ++stats.errors;
        if (disk_.image.sync_failed()) disk_.journal.set_sync_failed();
    } else {
        switch (stored.operation) {
            case kRead: ++stats.reads, stats.read_bytes += request.bytes; break;
            case kDiscard: ++stats.discards, stats.discard_bytes += stored.nr_sectors * kSectorSize; break;
            case kFlush:
            case kWriteBarrier: ++stats.flushes; [[fallthrough]];
            default:
                if (request.bytes > 0) ++stats.writes, stats.write_bytes += request.bytes;
        }
    }
    if (request.persistent) {
        for (uint16_t i = 0; i < request.nr_segments; ++i) {
            persistent_.release(segments_[request.index].list[i].gref);
        }
        request.persistent = false;
    }
    if (request.buffer) {
        disk_.buffers.give_back(request.buffer);
        request.buffer = {};
    }

    Slot& mine = slot(request);
    mine.status = request.status;
    mine.response_index = ring_.rsp_prod();
    reached(Step::noted);
    journal_.set_state(mine, SlotState::responding);
    reached(Step::marked_answered);
    write_response(mine, static_cast<Status>(request.status));
    answered_.push_back(request.index);
    reached(Step::answered);

    --disk_.in_flight;
    if (request.replayed) {
        request.replayed = false;
        if (--disk_.replaying == 0) disk_.on_replayed(disk_);
    }
    if (disk_.barrier == &request) {
        disk_.barrier = nullptr;
        for (Ring* ring : disk_.rings) ring->kick();
    }
}

// Twelve bytes, field by field: the rest of the entry is the guest's and nothing of ours may leak into it.
void Ring::write_response(Slot& slot, Status status) {
    std::byte* response = ring_.next_response();
    const auto wire = static_cast<int16_t>(status);
    std::memcpy(response + kResponseId, &slot.request.id, sizeof slot.request.id);
    std::memcpy(response + kResponseOperation, &slot.request.operation, sizeof slot.request.operation);
    std::memcpy(response + kResponseStatus, &wire, sizeof wire);
}

void Ring::publish() {
    const bool owed = std::exchange(notify_owed_, false);
    const bool notify = ring_.publish() || owed;
    reached(Step::published);
    journal_.set_rsp_prod(ring_.rsp_prod());
    reached(Step::publish_noted);
    for (const uint16_t index : answered_) {
        journal_.set_state(journal_.slots[index], SlotState::free);
        free_.push_back(index);
    }
    answered_.clear();
    reached(Step::freed);
    if (notify) {
        ++disk_.stats.notifies_sent;
        disk_.events.notify(port_);
        reached(Step::notified);
    }
    if (disk_.in_flight == 0 && disk_.stopping) disk_.on_drained(disk_);
    // A barrier waits until it is alone.
    if (disk_.in_flight == 1 && disk_.barrier != nullptr) {
        for (Ring* ring : disk_.rings) ring->kick();
    }
}

void Ring::break_ring(const char* reason) {
    broken_ = true;
    disk_.on_broken(disk_, reason);
}

void Ring::go_idle() {
    if (!may_take() || task_.scheduled) return;  // whoever lifts the obstacle kicks the ring
    disk_.reactor.start_polling(poll_);
}

bool Ring::look() {
    const auto available = ring_.available();
    if (available && *available == 0) return false;
    kick();
    return true;
}

void Ring::rest() {
    if (!may_take()) return;
    if (!ring_.rest()) return kick();
    if (masked_) {
        masked_ = false;
        disk_.events.unmask(port_);
    }
}

}  // namespace ringback::blk::worker
