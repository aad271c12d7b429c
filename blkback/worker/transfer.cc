// SPDX-License-Identifier: Apache-2.0
//
// Moving a request's data: segment lists, persistent grants, grant copies, and the steps of its I/O.
#include <cstring>
#include <utility>

#include "blkback/worker/ring.h"
#include "blkback/worker/ring_detail.h"
#include "blkback/worker/steps.h"

namespace ringback::blk::worker {

using namespace xen::blkif;

namespace {

bool writes(const StoredRequest& request) { return request.operation != kRead; }

// One side of a copy is a guest's page, the other our memory.
xen::CopySegment copy_from(xen::Domid domid, xen::GrantRef ref, size_t offset, void* to, size_t length) {
    xen::CopySegment segment{};
    segment.source.foreign.ref = ref;
    segment.source.foreign.offset = static_cast<uint16_t>(offset);
    segment.source.foreign.domid = domid;
    segment.dest.virt = to;
    segment.len = static_cast<uint16_t>(length);
    segment.flags = GNTCOPY_source_gref;
    return segment;
}

xen::CopySegment copy_to(xen::Domid domid, xen::GrantRef ref, size_t offset, void* from, size_t length) {
    xen::CopySegment segment{};
    segment.source.virt = from;
    segment.dest.foreign.ref = ref;
    segment.dest.foreign.offset = static_cast<uint16_t>(offset);
    segment.dest.foreign.domid = domid;
    segment.len = static_cast<uint16_t>(length);
    segment.flags = GNTCOPY_dest_gref;
    return segment;
}

uint32_t segment_bytes(const Segment& segment) {
    return (segment.last_sector - segment.first_sector + 1U) * kSectorSize;
}

}  // namespace

void Ring::fetch_segments() {
    static_assert(kMaxSegments <= kSegmentsPerIndirectPage, "all segments of a request lie in its first page");
    for (Request* request : fetching_) {
        const StoredRequest& stored = slot(*request).request;
        Segments& mine = segments_[request->index];
        if (copies_.size() == kCopyBatch) run_copies();
        copies_.push_back(copy_from(disk_.domid, stored.indirect_grefs[0], 0, mine.list.data(),
                                    request->nr_segments * sizeof(Segment)));
        copy_owners_.push_back(request);
    }
    run_copies();
    for (Request* request : fetching_) {
        if (request->status != kOkay) {
            reject(*request, kError);
        } else {
            plan(*request);
        }
    }
    fetching_.clear();
}

// The segments are in private memory; from here on they are what was asked for.
void Ring::plan(Request& request) {
    const StoredRequest& stored = slot(request).request;
    const std::span<const Segment> list(segments_[request.index].list.data(), request.nr_segments);
    const auto sectors = check_segments(list, stored.sector, disk_.limits);
    if (!sectors) return reject(request, kError);
    request.bytes = static_cast<uint32_t>(*sectors * kSectorSize);
    if (disk_.throttle.limited()) {
        if (stored.indirect) {
            disk_.throttle.refund_bytes(request.nr_segments * xen::kPageSize - request.bytes);
        } else {
            disk_.throttle.charge_bytes(request.bytes, monotonic_ns());
        }
    }
    gathering_.push_back(&request);
}

// Finds the memory the I/O will work on: always our own. The kernel pins what a direct transfer works on, and a page that a
// PV domain 0 has mapped from a guest may not be pinned when this process dies: gntdev then puts its unmapping off, the
// end of the address space drops a reference that nobody took, and the page is free while it is in use (seen on Linux
// 6.12: a warning in free_zone_device_folio, then I/O errors for every guest). So persistent grants save the hypervisor's
// part of a copy and not the copy. False: no buffer is left.
bool Ring::gather(Request& request) {
    if (request.bytes == 0) return true;
    request.buffer = disk_.buffers.take(request.bytes);
    if (!request.buffer) return false;
    request.data = {request.buffer.data, request.bytes};
    request.io.vectors = {&request.data, 1};
    request.io.buffer = request.buffer.registered;
    const bool mapped = use_persistent(request);
    if (!writes(slot(request).request)) return true;
    if (mapped) {
        copy_mapped(request, false);
    } else {
        queue_segment_copies(request, false);
    }
    return true;
}

bool Ring::use_persistent(Request& request) {
    if (!use_persistent_) return false;
    const bool found = find_persistent(request);
    // Also when the request has to be copied: what could be mapped of it stays mapped.
    if (persistent_.mapped() > 0 && !disk_.grants_age && !disk_.stopping) disk_.on_grants_mapped(disk_);
    return found;
}

bool Ring::find_persistent(Request& request) {
    Segments& mine = segments_[request.index];
    for (uint16_t i = 0; i < request.nr_segments; ++i) {
        const Segment& segment = mine.list[i];
        std::byte* page = persistent_.acquire(segment.gref);
        if (page == nullptr) {
            // Copy this one whole: a request that is half mapped would need both ways at once.
            while (i > 0) persistent_.release(mine.list[--i].gref);
            return false;
        }
        mine.mapped[i] = page + segment.first_sector * kSectorSize;
    }
    request.persistent = true;
    return true;
}

void Ring::copy_mapped(Request& request, bool to_guest) {
    const Segments& mine = segments_[request.index];
    std::byte* data = request.buffer.data;
    for (uint16_t i = 0; i < request.nr_segments; ++i) {
        const uint32_t length = segment_bytes(mine.list[i]);
        std::memcpy(to_guest ? mine.mapped[i] : data, to_guest ? data : mine.mapped[i], length);
        data += length;
    }
}

void Ring::queue_segment_copies(Request& request, bool to_guest) {
    std::byte* data = request.buffer.data;
    for (uint16_t i = 0; i < request.nr_segments; ++i) {
        const Segment& segment = segments_[request.index].list[i];
        const size_t offset = segment.first_sector * kSectorSize;
        const uint32_t length = segment_bytes(segment);
        if (copies_.size() == kCopyBatch) run_copies();
        copies_.push_back(to_guest ? copy_to(disk_.domid, segment.gref, offset, data, length)
                                   : copy_from(disk_.domid, segment.gref, offset, data, length));
        copy_owners_.push_back(&request);
        data += length;
    }
}

void Ring::run_copies() {
    if (copies_.empty()) return;
    const bool ran = grants_.copy(copies_);
    ++disk_.stats.grant_copy_calls;
    disk_.stats.grant_copy_segments += copies_.size();
    for (size_t i = 0; i < copies_.size(); ++i) {
        if (!ran || copies_[i].status != GNTST_okay) copy_owners_[i]->status = kError;
    }
    copies_.clear();
    copy_owners_.clear();
}

void Ring::copy_from_guest() {
    if (use_persistent_ && (!gathering_.empty() || parked_ != nullptr)) persistent_.set_now(coarse_monotonic_ns());
    // Parked requests are older than whatever was taken since; none is taken while one is parked.
    size_t ready = 0;
    while (parked_ != nullptr && gather(*parked_)) {
        Request* request = parked_;
        parked_ = request->next;
        gathering_.push_back(request);
        std::swap(gathering_[ready++], gathering_.back());
    }
    if (waiting_barrier_ != nullptr && disk_.in_flight == 1) {
        gathering_.push_back(std::exchange(waiting_barrier_, nullptr));
    }
    for (size_t i = ready; i < gathering_.size(); ++i) {
        Request* request = gathering_[i];
        if (disk_.barrier == request && disk_.in_flight > 1) {
            // It takes no memory before it is alone: what it waits for may need that memory first.
            waiting_barrier_ = request;
            continue;
        }
        if (parked_ == nullptr && gather(*request)) {
            gathering_[ready++] = request;
            continue;
        }
        request->next = nullptr;
        (parked_ == nullptr ? parked_ : parked_last_->next) = request;
        parked_last_ = request;
    }
    gathering_.resize(ready);
    if (parked_ != nullptr) disk_.buffers.wait(task_);
    run_copies();
    for (Request* request : gathering_) {
        if (request->status != kOkay) {
            reject(*request, kError);
        } else {
            start_step(*request);
        }
    }
    gathering_.clear();
}

// Prepares the next step of a request that has one left; submit() sends it off.
void Ring::start_step(Request& request) {
    const StoredRequest& stored = slot(request).request;
    image::Io& io = request.io;
    io.done = [](image::Io& done, int32_t result) noexcept {
        // io is the first member of its Request.
        auto& owner = reinterpret_cast<Request&>(done);
        owner.ring->on_io_done(owner, result);
    };
    if (request.flush_first) {
        request.flush_first = false;
        io.op = image::Op::flush;
    } else if (request.transfer) {
        request.transfer = false;
        io.offset = stored.sector * kSectorSize;
        if (stored.operation == kDiscard) {
            io.op = image::Op::discard;
            io.length = stored.nr_sectors * kSectorSize;
        } else {
            io.op = stored.operation == kRead ? image::Op::read : image::Op::write;
            io.length = request.bytes;
        }
    } else {
        request.flush_after = false;
        io.op = image::Op::flush;
    }
    if (io.op == image::Op::flush) io.offset = io.length = 0;
    batch_.push_back(&io);
}

void Ring::submit() {
    if (batch_.empty()) return;
    disk_.image.submit(batch_);
    batch_.clear();
    reached(Step::submitted);
}

void Ring::copy_to_guest(Request* finished) {
    for (Request* request = finished; request != nullptr; request = request->next) {
        const bool reads = slot(*request).request.operation == kRead;
        if (!reads || request->status != kOkay || !request->buffer) continue;
        if (request->persistent) {
            copy_mapped(*request, true);
        } else {
            queue_segment_copies(*request, true);
        }
    }
    run_copies();
}

}  // namespace ringback::blk::worker
