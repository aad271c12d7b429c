// SPDX-License-Identifier: Apache-2.0
//
// See blkfront_queue.h. The layouts are those of hypervisor/blkif_abi.h; the ring's rules are explained in
// hypervisor/ring.h, of which this is the other half.
#include "tools/frontend/blkfront_queue.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "hypervisor/ring.h"

namespace ringback::frontend {
namespace {

namespace blkif = xen::blkif;

xen::SharedRingHeader& header(std::byte* ring) {
    return *reinterpret_cast<xen::SharedRingHeader*>(ring);
}

uint32_t load(uint32_t& shared) {
    return std::atomic_ref(shared).load(std::memory_order_acquire);
}

uint8_t operation_of(Op op) {
    switch (op) {
        case Op::read:
            return blkif::kRead;
        case Op::write:
            return blkif::kWrite;
        case Op::flush:
            return blkif::kFlush;
        case Op::barrier:
            return blkif::kWriteBarrier;
        case Op::discard:
            return blkif::kDiscard;
    }
    return blkif::kReserved;
}

uint32_t pages_of(const Request& request) {
    if (request.length == 0) return 0;
    return (request.first_sector * kSectorSize + request.length + kPageSize - 1) / kPageSize;
}

// Fills one ring entry. The segments of a direct request are written by the caller; it gets their place.
template <typename ReadWrite, typename Discard, typename Indirect>
blkif::Segment* fill_entry(std::byte* entry, uint32_t id, const Request& request, uint32_t segments,
                           const uint32_t* indirect_refs, uint32_t indirect_pages) {
    if (request.op == Op::discard) {
        auto* discard = reinterpret_cast<Discard*>(entry);
        discard->operation = blkif::kDiscard;
        discard->flag = request.secure ? blkif::kDiscardSecure : uint8_t{0};
        discard->id = id;
        discard->sector_number = request.sector;
        discard->nr_sectors = request.sectors;
        return nullptr;
    }
    if (indirect_pages != 0) {
        auto* indirect = reinterpret_cast<Indirect*>(entry);
        indirect->operation = blkif::kIndirect;
        indirect->indirect_operation = operation_of(request.op);
        indirect->nr_segments = static_cast<uint16_t>(segments);
        indirect->id = id;
        indirect->sector_number = request.sector;
        indirect->handle = 0;
        std::copy_n(indirect_refs, indirect_pages, indirect->indirect_grefs);
        return nullptr;
    }
    auto* direct = reinterpret_cast<ReadWrite*>(entry);
    direct->operation = operation_of(request.op);
    direct->nr_segments = static_cast<uint8_t>(segments);
    direct->handle = 0;
    direct->id = id;
    direct->sector_number = request.sector;
    return direct->segments;
}

}  // namespace

Result<Queue> Queue::create(xen::embedded::Guest& guest, const QueueOptions& options) {
    Queue queue(guest, options);
    const uint32_t pages = 1U << options.ring_order;
    queue.ring_frame_ = TRY(guest.alloc_pages(pages));
    queue.ring_ = reinterpret_cast<std::byte*>(guest.page(queue.ring_frame_));
    std::memset(queue.ring_, 0, size_t{pages} * kPageSize);
    header(queue.ring_).req_event = 1;
    header(queue.ring_).rsp_event = 1;
    queue.ring_refs_ = TRY(guest.alloc_refs(pages));
    for (uint32_t i = 0; i < pages; ++i)
        guest.grant_at(queue.ring_refs_[i], queue.ring_frame_ + i, options.backend_domid, false);
    queue.port_ = TRY(guest.alloc_unbound_port(options.backend_domid));
    queue.entries_ = xen::ring_entries(size_t{pages} * kPageSize, blkif::entry_size(options.abi));
    queue.slots_.resize(queue.entries_);
    for (uint32_t id = queue.entries_; id > 0; --id)
        queue.free_slots_.push_back(id - 1);
    return queue;
}

Queue::~Queue() {
    if (ring_ != nullptr && !ring_refs_.empty() && !released_) (void)release();
}

Result<void> Queue::start(const DataOptions& options) {
    data_ = options;
    const uint32_t indirect_pages =
        data_.max_segments > blkif::kMaxDirectSegments
            ? (data_.max_segments + blkif::kSegmentsPerIndirectPage - 1) / blkif::kSegmentsPerIndirectPage
            : 0;
    const uint32_t least = data_.max_segments + indirect_pages;
    if (data_.pool_pages == 0) data_.pool_pages = std::min(entries_ * least, 4096U);
    data_.pool_pages = std::max(data_.pool_pages, least);
    pool_frame_ = TRY(guest_->alloc_pages(data_.pool_pages));
    pool_refs_ = TRY(guest_->alloc_refs(data_.pool_pages));
    granted_.assign(data_.pool_pages, false);
    for (uint32_t page = data_.pool_pages; page > 0; --page)
        free_pages_.push_back(page - 1);
    for (Slot& slot : slots_)
        slot.pages.reserve(least);
    return {};
}

std::byte* Queue::pool_page(uint32_t page) const {
    return reinterpret_cast<std::byte*>(guest_->page(pool_frame_ + page));
}

void Queue::fill_segments(Slot& slot, const Request& request, blkif::Segment* segments) const {
    uint32_t left = request.length / kSectorSize;
    uint32_t first = request.first_sector;
    for (uint32_t i = 0; i < slot.data_pages; ++i) {
        const uint32_t take = std::min(left, blkif::kSectorsPerPage - first);
        segments[i] = {pool_refs_[slot.pages[i]], static_cast<uint8_t>(first),
                       static_cast<uint8_t>(first + take - 1), 0};
        left -= take;
        first = 0;
    }
}

void Queue::copy_in(const Slot& slot, const Request& request) const {
    uint32_t done = 0;
    for (uint32_t i = 0; i < slot.data_pages; ++i) {
        const uint32_t offset = i == 0 ? request.first_sector * kSectorSize : 0;
        const uint32_t take = std::min(request.length - done, kPageSize - offset);
        std::memcpy(pool_page(slot.pages[i]) + offset, request.data + done, take);
        done += take;
    }
}

void Queue::copy_out(const Slot& slot, const Request& request) const {
    uint32_t done = 0;
    for (uint32_t i = 0; i < slot.data_pages; ++i) {
        const uint32_t offset = i == 0 ? request.first_sector * kSectorSize : 0;
        const uint32_t take = std::min(request.length - done, kPageSize - offset);
        std::memcpy(request.data + done, pool_page(slot.pages[i]) + offset, take);
        done += take;
    }
}

bool Queue::submit(Request& request) {
    const uint32_t data_pages = pages_of(request);
    INVARIANT(data_pages <= data_.max_segments && request.length % kSectorSize == 0 &&
              request.first_sector < 8);
    const bool indirect =
        data_pages > blkif::kMaxDirectSegments && (request.op == Op::read || request.op == Op::write);
    INVARIANT(indirect || data_pages <= blkif::kMaxDirectSegments);
    const uint32_t indirect_pages =
        indirect ? (data_pages + blkif::kSegmentsPerIndirectPage - 1) / blkif::kSegmentsPerIndirectPage : 0;
    if (!broken_.empty() || free_slots_.empty() || free_pages_.size() < data_pages + indirect_pages)
        return false;

    const uint32_t id = free_slots_.back();
    free_slots_.pop_back();
    Slot& slot = slots_[id];
    slot.request = &request;
    slot.sequence = ++sequence_;
    slot.operation = operation_of(request.op);
    slot.data_pages = data_pages;
    for (uint32_t i = 0; i < data_pages + indirect_pages; ++i) {
        const uint32_t page = free_pages_.back();
        free_pages_.pop_back();
        slot.pages.push_back(page);
        if (data_.persistent && granted_[page]) continue;
        // Persistent grants serve reads and writes in turn, so they are writable.
        const bool readonly = !data_.persistent && i < data_pages && request.op != Op::read;
        guest_->grant_at(pool_refs_[page], pool_frame_ + page, options_.backend_domid, readonly);
        granted_[page] = true;
    }
    if (request.data != nullptr && request.op != Op::read) copy_in(slot, request);
    write_entry(id, slot, request);
    ++req_prod_;
    ++counters_.requests;
    return true;
}

void Queue::write_entry(uint32_t id, Slot& slot, const Request& request) {
    const auto indirect_pages = static_cast<uint32_t>(slot.pages.size()) - slot.data_pages;
    uint32_t refs[blkif::kMaxIndirectPages] = {};
    for (uint32_t i = 0; i < indirect_pages; ++i)
        refs[i] = pool_refs_[slot.pages[slot.data_pages + i]];
    const size_t size = blkif::entry_size(options_.abi);
    std::byte* entry = ring_ + sizeof(xen::SharedRingHeader) + (req_prod_ & (entries_ - 1)) * size;
    blkif::Segment* direct =
        options_.abi == blkif::Abi::x86_32
            ? fill_entry<blkif::x86_32::ReadWrite, blkif::x86_32::Discard, blkif::x86_32::Indirect>(
                  entry, id, request, slot.data_pages, refs, indirect_pages)
            : fill_entry<blkif::x86_64::ReadWrite, blkif::x86_64::Discard, blkif::x86_64::Indirect>(
                  entry, id, request, slot.data_pages, refs, indirect_pages);
    if (slot.data_pages == 0) return;
    if (direct != nullptr) {
        fill_segments(slot, request, direct);
        return;
    }
    // The pool's pages need not be neighbours, so the segments are made aside and copied page by page.
    thread_local std::vector<blkif::Segment> segments(blkif::kMaxIndirectPages *
                                                      blkif::kSegmentsPerIndirectPage);
    fill_segments(slot, request, segments.data());
    for (uint32_t i = 0; i < indirect_pages; ++i) {
        const uint32_t first = i * blkif::kSegmentsPerIndirectPage;
        const uint32_t count = std::min(slot.data_pages - first, blkif::kSegmentsPerIndirectPage);
        std::memcpy(pool_page(slot.pages[slot.data_pages + i]), &segments[first],
                    count * sizeof(blkif::Segment));
    }
}

void Queue::push() {
    if (pushed_ == req_prod_) return;
    const uint32_t before = pushed_;
    std::atomic_ref(header(ring_).req_prod).store(req_prod_, std::memory_order_release);
    pushed_ = req_prod_;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint32_t event = load(header(ring_).req_event);
    if (req_prod_ - event < req_prod_ - before) {
        ++counters_.notifies;
        port_.notify();
    }
}

bool Queue::answered() const {
    return load(header(ring_).rsp_prod) == pushed_;
}

uint32_t Queue::reap(bool arm) {
    uint32_t taken = 0;
    while (broken_.empty()) {
        const uint32_t rsp_prod = load(header(ring_).rsp_prod);
        if (rsp_prod - rsp_cons_ > pushed_ - rsp_cons_) {
            fail("rsp_prod " + std::to_string(rsp_prod) + " is past the last request, " +
                 std::to_string(pushed_));
            break;
        }
        while (rsp_cons_ != rsp_prod) {
            const std::byte* entry = ring_ + sizeof(xen::SharedRingHeader) +
                                     (rsp_cons_ & (entries_ - 1)) * blkif::entry_size(options_.abi);
            uint64_t id = 0;
            uint8_t operation = 0;
            int16_t status = 0;
            std::memcpy(&id, entry + blkif::kResponseId, sizeof id);
            std::memcpy(&operation, entry + blkif::kResponseOperation, sizeof operation);
            std::memcpy(&status, entry + blkif::kResponseStatus, sizeof status);
            ++rsp_cons_;
            if (!take_response(id, operation, status)) return taken;
            ++taken;
        }
        if (!arm) break;
        std::atomic_ref(header(ring_).rsp_event).store(rsp_cons_ + 1, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (load(header(ring_).rsp_prod) == rsp_cons_) break;
    }
    return taken;
}

bool Queue::take_response(uint64_t id, uint8_t operation, int16_t status) {
    const auto refuse = [this](const std::string& why) {
        fail("response " + std::to_string(rsp_cons_ - 1) + ": " + why);
        return false;
    };
    if (id >= entries_) {
        return refuse("id " + std::to_string(id) + " in a ring of " + std::to_string(entries_));
    }
    Slot& slot = slots_[id];
    if (slot.request == nullptr) {
        return refuse("request " + std::to_string(id) + " is not pending");
    }
    if (operation != slot.operation) {
        return refuse("operation " + std::to_string(operation) + " for a request with " +
                      std::to_string(slot.operation));
    }
    if (!data_.persistent && !end_access(slot)) {
        return refuse("a page of request " + std::to_string(id) + " is still mapped by the backend");
    }
    Request& request = *slot.request;
    if (request.op == Op::read && request.data != nullptr && status == blkif::kOkay) copy_out(slot, request);
    if (status != blkif::kOkay) ++counters_.errors;
    free_slot(static_cast<uint32_t>(id));
    request.done(request, status);
    return true;
}

bool Queue::end_access(Slot& slot) {
    bool all = true;
    for (const uint32_t page : slot.pages) {
        if (guest_->end_access(pool_refs_[page]))
            granted_[page] = false;
        else
            all = false;
    }
    return all;
}

void Queue::free_slot(uint32_t id) {
    Slot& slot = slots_[id];
    slot.request = nullptr;
    for (const uint32_t page : slot.pages)
        free_pages_.push_back(page);
    slot.pages.clear();
    free_slots_.push_back(id);
}

void Queue::fail(std::string why) {
    if (broken_.empty()) broken_ = std::move(why);
    for (Request* request : take_pending())
        request->done(*request, kNoAnswer);
}

void Queue::fail_all(const std::string& why) {
    fail(why);
}

std::vector<Request*> Queue::take_pending() {
    std::vector<std::pair<uint64_t, Request*>> pending;
    for (uint32_t id = 0; id < entries_; ++id) {
        Slot& slot = slots_[id];
        if (slot.request == nullptr) continue;
        pending.emplace_back(slot.sequence, slot.request);
        slot.request = nullptr;
    }
    std::sort(pending.begin(), pending.end());
    std::vector<Request*> requests;
    for (const auto& [sequence, request] : pending)
        requests.push_back(request);
    return requests;
}

uint32_t Queue::handle_event() {
    if (!port_.clear()) return 0;
    ++counters_.events;
    const uint32_t taken = reap();
    if (taken == 0) ++counters_.spurious_events;
    return taken;
}

bool Queue::wait(int timeout_ms) {
    if (!port_.wait(timeout_ms)) return false;
    ++counters_.events;
    if (reap() == 0) ++counters_.spurious_events;
    return true;
}

uint32_t Queue::release() {
    uint32_t mapped = 0;
    for (uint32_t page = 0; page < granted_.size(); ++page) {
        if (!granted_[page]) continue;
        if (guest_->end_access(pool_refs_[page]))
            granted_[page] = false;
        else
            ++mapped;
    }
    if (mapped == 0 && !pool_refs_.empty()) {
        guest_->free_refs(pool_refs_);
        guest_->free_pages(pool_frame_, static_cast<uint32_t>(pool_refs_.size()));
        pool_refs_.clear();
        granted_.clear();
    }
    uint32_t ring_mapped = 0;
    for (const uint32_t ref : ring_refs_)
        if (!guest_->end_access(ref)) ++ring_mapped;
    if (ring_mapped == 0 && !ring_refs_.empty()) {
        guest_->free_refs(ring_refs_);
        guest_->free_pages(ring_frame_, static_cast<uint32_t>(ring_refs_.size()));
        ring_refs_.clear();
        ring_ = nullptr;
    }
    released_ = mapped + ring_mapped == 0;
    port_.close();
    return mapped + ring_mapped;
}

}  // namespace ringback::frontend
