// SPDX-License-Identifier: Apache-2.0
//
// BackRing: our half of a ring shared with a guest (xen/io/ring.h).
//
// The ring is a header and a power of two of entries, each first a request and then a response. Four counters, all
// running freely modulo 2^32:
//
//     rsp_prod <= req_cons <= req_prod <= rsp_prod + entries
//
// req_prod and rsp_event are the guest's, rsp_prod and req_event ours; req_cons is in nobody's sight but ours. The guest
// can write every byte of it at any time, so this class holds its own copies of our counters and never reads them back,
// reads req_prod once per look, and copies an entry exactly once into private memory. What was copied is then checked;
// the shared memory is not looked at again. Claiming more requests than the ring can hold is not a mistake a frontend
// can make: available() reports it as broken.
//
// When to notify: the other side says in its event counter how far it wants to hear nothing. We go idle with
// rest(): set req_event, then look again, because a request may have come between the last look and the setting.
//
// Thread: the reactor that owns the ring.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "runtime/check.h"

namespace ringback::xen {

struct SharedRingHeader {
    uint32_t req_prod;
    uint32_t req_event;
    uint32_t rsp_prod;
    uint32_t rsp_event;
    std::byte reserved[48];
};
static_assert(sizeof(SharedRingHeader) == 64);
static_assert(offsetof(SharedRingHeader, rsp_prod) == 8 && offsetof(SharedRingHeader, rsp_event) == 12);

// The largest power of two of entries that fits behind the header.
[[nodiscard]] constexpr uint32_t ring_entries(size_t bytes, size_t entry_size) {
    return std::bit_floor(static_cast<uint32_t>((bytes - sizeof(SharedRingHeader)) / entry_size));
}

class BackRing {
  public:
    BackRing() = default;
    // `shared` points at `bytes` of mapped ring pages and stays mapped as long as this object is used.
    // Takes up where the ring stands: with nothing unanswered, at rsp_prod.
    BackRing(std::byte* shared, size_t bytes, size_t entry_size)
        : header_(reinterpret_cast<SharedRingHeader*>(shared)),
          entries_(shared + sizeof(SharedRingHeader)),
          entry_size_(entry_size),
          mask_(ring_entries(bytes, entry_size) - 1) {
        rsp_prod_ = published_ = req_cons_ = load(header_->rsp_prod);
    }

    // Takes up where a predecessor stood, who has taken up to req_cons and published up to rsp_prod.
    void resume(uint32_t req_cons, uint32_t rsp_prod) {
        INVARIANT(req_cons - rsp_prod <= entries());
        rsp_prod_ = published_ = rsp_prod;
        req_cons_ = req_cons;
    }

    [[nodiscard]] uint32_t entries() const { return mask_ + 1; }
    [[nodiscard]] uint32_t req_cons() const { return req_cons_; }
    [[nodiscard]] uint32_t rsp_prod() const { return rsp_prod_; }

    // Requests that wait to be taken; nullopt when the guest claims more than the ring holds.
    [[nodiscard]] std::optional<uint32_t> available() const {
        const uint32_t req_prod = load(header_->req_prod);
        std::atomic_thread_fence(std::memory_order_acquire);
        if (req_prod - rsp_prod_ > entries() || req_prod - req_cons_ > entries()) return std::nullopt;
        return req_prod - req_cons_;
    }

    // Copies the next request into `to` (entry_size bytes) and consumes it. The caller knows that one is available.
    void take(std::byte* to) {
        std::memcpy(to, entry(req_cons_), entry_size_);
        // Nothing below may be satisfied by a second read of the shared entry.
        std::atomic_signal_fence(std::memory_order_seq_cst);
        asm volatile("" ::: "memory");
        ++req_cons_;
    }

    // The place of the next response. It is the guest's memory: write fields, never read them.
    [[nodiscard]] std::byte* next_response() {
        INVARIANT(rsp_prod_ != req_cons_);
        return entry(rsp_prod_++);
    }

    // Makes all responses written so far visible. True: the guest asked to be notified of one of them.
    [[nodiscard]] bool publish() {
        const uint32_t before = published_;
        std::atomic_ref(header_->rsp_prod).store(rsp_prod_, std::memory_order_release);
        published_ = rsp_prod_;
        std::atomic_thread_fence(std::memory_order_seq_cst);
        const uint32_t event = load(header_->rsp_event);
        return rsp_prod_ - event < rsp_prod_ - before;
    }
    [[nodiscard]] bool unpublished() const { return published_ != rsp_prod_; }

    // Asks for a notification of the next request, then looks once more. True: nothing is there, sleep is safe.
    [[nodiscard]] bool rest() {
        std::atomic_ref(header_->req_event).store(req_cons_ + 1, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        return load(header_->req_prod) == req_cons_;
    }

    // The same for a ring of which `wanted` requests are needed at once. True: there are fewer, sleep is safe.
    [[nodiscard]] bool rest_until(uint32_t wanted) {
        std::atomic_ref(header_->req_event).store(req_cons_ + wanted, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        return load(header_->req_prod) - req_cons_ < wanted;
    }

  private:
    static uint32_t load(uint32_t& shared) { return std::atomic_ref(shared).load(std::memory_order_relaxed); }
    [[nodiscard]] std::byte* entry(uint32_t index) const { return entries_ + (index & mask_) * entry_size_; }

    SharedRingHeader* header_ = nullptr;
    std::byte* entries_ = nullptr;
    size_t entry_size_ = 0;
    uint32_t mask_ = 0;
    uint32_t req_cons_ = 0;
    uint32_t rsp_prod_ = 0;
    uint32_t published_ = 0;
};

}  // namespace ringback::xen
