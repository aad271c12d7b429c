// SPDX-License-Identifier: Apache-2.0
//
// RawRing: one of a rig's rings in the hands of a frontend that keeps no rule. It writes what it is told, wherever,
// and reads responses without judging them. Data pages are granted and named by hand.
#pragma once

#include <array>
#include <atomic>
#include <cstring>
#include <vector>

#include "blkback/worker/request.h"
#include "hypervisor/ring.h"
#include "worker_rig.h"

namespace ringback::test {

using RawEntry = std::array<std::byte, xen::blkif::x86_64::kEntrySize>;

struct RawResponse {
    uint64_t id;
    uint8_t operation;
    int16_t status;
};

// A request in the guest's layout. `operation` is what is written in the first byte; for an indirect one it is the inner.
template <typename ReadWrite, typename Discard, typename Indirect>
RawEntry encode_as(const blk::worker::StoredRequest& request) {
    using namespace xen::blkif;
    RawEntry raw{};
    if (request.indirect != 0) {
        Indirect entry{};
        entry.operation = kIndirect;
        entry.indirect_operation = request.operation;
        entry.nr_segments = request.nr_segments;
        entry.id = request.id;
        entry.sector_number = request.sector;
        std::copy(request.indirect_grefs.begin(), request.indirect_grefs.end(), entry.indirect_grefs);
        std::memcpy(raw.data(), &entry, sizeof entry);
    } else if (request.operation == kDiscard) {
        Discard entry{};
        entry.operation = kDiscard;
        entry.flag = static_cast<uint8_t>(request.discard_flag);
        entry.id = request.id;
        entry.sector_number = request.sector;
        entry.nr_sectors = request.nr_sectors;
        std::memcpy(raw.data(), &entry, sizeof entry);
    } else {
        ReadWrite entry{};
        entry.operation = request.operation;
        entry.nr_segments = static_cast<uint8_t>(request.nr_segments);
        entry.id = request.id;
        entry.sector_number = request.sector;
        std::copy(request.segments.begin(), request.segments.end(), entry.segments);
        std::memcpy(raw.data(), &entry, sizeof entry);
    }
    return raw;
}

class RawRing {
  public:
    explicit RawRing(Rig& rig, size_t queue = 0)
        : rig_(rig), queue_(rig.queues[queue]), abi_(rig.options.abi), entry_size_(xen::blkif::entry_size(abi_)) {}

    [[nodiscard]] xen::SharedRingHeader& header() const {
        return *reinterpret_cast<xen::SharedRingHeader*>(queue_.shared());
    }
    [[nodiscard]] uint32_t entries() const { return queue_.entries(); }
    [[nodiscard]] std::byte* entry(uint32_t index) const {
        return queue_.shared() + sizeof(xen::SharedRingHeader) + (index & (entries() - 1)) * entry_size_;
    }
    [[nodiscard]] RawEntry encode(const blk::worker::StoredRequest& request) const {
        using namespace xen::blkif;
        if (abi_ == Abi::x86_32) return encode_as<x86_32::ReadWrite, x86_32::Discard, x86_32::Indirect>(request);
        return encode_as<x86_64::ReadWrite, x86_64::Discard, x86_64::Indirect>(request);
    }
    void put(const RawEntry& raw) { std::memcpy(entry(req_prod_++), raw.data(), entry_size_); }
    void put(const blk::worker::StoredRequest& request) { put(encode(request)); }
    // Shows the backend what was put.
    void push() { set_req_prod(req_prod_); }
    void set_req_prod(uint32_t value) {
        std::atomic_ref(header().req_prod).store(value, std::memory_order_release);
        queue_.notify();
    }
    [[nodiscard]] uint32_t req_prod() const { return req_prod_; }
    // Everything answered since the last call; as many responses as there were requests, or the test fails.
    std::vector<RawResponse> take_responses() {
        std::vector<RawResponse> responses;
        const uint32_t rsp_prod = std::atomic_ref(header().rsp_prod).load(std::memory_order_acquire);
        for (; rsp_cons_ != rsp_prod && responses.size() <= entries(); ++rsp_cons_) {
            RawResponse response{};
            std::memcpy(&response.id, entry(rsp_cons_) + xen::blkif::kResponseId, sizeof response.id);
            std::memcpy(&response.operation, entry(rsp_cons_) + xen::blkif::kResponseOperation, 1);
            std::memcpy(&response.status, entry(rsp_cons_) + xen::blkif::kResponseStatus, sizeof response.status);
            responses.push_back(response);
        }
        return responses;
    }
    // Turns the backend alone until everything that was pushed is answered.
    bool settle() {
        return until([this] {
            return std::atomic_ref(header().rsp_prod).load(std::memory_order_acquire) == req_prod_;
        });
    }
    template <typename Condition>
    bool until(Condition condition) {
        return repeat_until(condition, [this] { rig_.reactor->turn(false); });
    }
    // One request, waited for.
    int16_t run(const blk::worker::StoredRequest& request) {
        put(request);
        push();
        if (!settle()) return INT16_MIN;
        const auto responses = take_responses();
        return responses.size() == 1 && responses[0].id == request.id ? responses[0].status : INT16_MAX;
    }

  private:
    Rig& rig_;
    frontend::Queue& queue_;
    xen::blkif::Abi abi_;
    size_t entry_size_;
    uint32_t req_prod_ = 0;
    uint32_t rsp_cons_ = 0;
};

// A page of the guest with a reference of its own.
struct RawPage {
    explicit RawPage(Rig& rig, bool readonly = false, uint16_t to = 0)
        : guest(rig.core.guest), frame(must(guest.alloc_pages(1))), ref(must(guest.grant(frame, to, readonly))) {}
    [[nodiscard]] std::byte* data() const { return reinterpret_cast<std::byte*>(guest.page(frame)); }
    xen::embedded::Guest& guest;
    uint32_t frame;
    uint32_t ref;
};

inline blk::worker::StoredRequest data_request(uint8_t operation, uint64_t id, uint64_t sector,
                                               std::vector<xen::blkif::Segment> segments) {
    blk::worker::StoredRequest request{};
    request.operation = operation;
    request.id = id;
    request.sector = sector;
    request.nr_segments = static_cast<uint16_t>(segments.size());
    std::copy(segments.begin(), segments.end(), request.segments.begin());
    return request;
}

inline blk::worker::StoredRequest indirect_request(uint8_t operation, uint64_t id, uint64_t sector, uint16_t count,
                                                   uint32_t list_ref) {
    blk::worker::StoredRequest request{};
    request.operation = operation;
    request.indirect = 1;
    request.id = id;
    request.sector = sector;
    request.nr_segments = count;
    request.indirect_grefs[0] = list_ref;
    return request;
}

}  // namespace ringback::test
