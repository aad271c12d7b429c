// SPDX-License-Identifier: Apache-2.0
//
// One queue of a blkif frontend on the embedded core: a ring, an event channel, and the pages that data goes
// through.
//
// It is as strict with its backend as Linux's blkfront (drivers/block/xen-blkfront.c, Linux 6.1), because
// that is the frontend a backend has to live with: a response with an id past the ring, for a request that is
// not pending, with another operation than the request's, more responses than requests, or, without
// persistent grants, a page that is still mapped when its request is answered, and the queue is broken for
// good. Unlike a real guest's, whose requests then hang, ours fail, so that a tool ends and can say why
// (broken()).
//
// Data is copied between the caller's memory and granted pages of a pool, as blkfront does with persistent
// grants; the pool stands for the guest's page cache otherwise. Nothing is allocated per request.
//
// Thread: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hypervisor/blkif_abi.h"
#include "hypervisor/embedded/guest.h"
#include "runtime/result.h"

namespace ringback::frontend {

enum class Op : uint8_t { read, write, flush, barrier, discard };

inline constexpr uint32_t kSectorSize = 512;
inline constexpr uint32_t kPageSize = 4096;
// A result beside those of the protocol (0 and below down to -32768): the queue broke or was closed before an
// answer.
inline constexpr int kNoAnswer = -100000;

// Belongs to the caller and stays where it is until `done` is called.
struct Request {
    Op op = Op::read;
    bool secure = false;        // discard
    uint8_t first_sector = 0;   // where in its first page the data begins, 0..7
    uint32_t length = 0;        // bytes of data: read, write, barrier; allowed with flush
    std::byte* data = nullptr;  // null: the pages keep what they hold (benchmarks)
    uint64_t sector = 0;
    uint64_t sectors = 0;                          // discard
    void (*done)(Request&, int status) = nullptr;  // status as the backend wrote it, or kNoAnswer
    void* owner = nullptr;                         // the caller's
};

struct QueueOptions {
    uint32_t ring_order = 0;
    xen::blkif::Abi abi = xen::blkif::Abi::x86_64;
    uint16_t backend_domid = 0;
};

// What holds from Connected on, when the frontend knows what the backend offers.
struct DataOptions {
    bool persistent = true;
    uint32_t max_segments = 11;  // above 11: indirect
    uint32_t pool_pages = 0;
};

struct QueueCounters {
    uint64_t requests = 0;
    uint64_t notifies = 0;
    uint64_t events = 0;
    uint64_t spurious_events = 0;  // events that brought no response; Linux delays a backend that sends them
    uint64_t errors = 0;           // answers other than OKAY
};

class Queue {
  public:
    // Allocates and grants the ring and a port for the backend.
    [[nodiscard]] static Result<Queue> create(xen::embedded::Guest& guest, const QueueOptions& options);
    Queue(Queue&&) noexcept = default;
    Queue& operator=(Queue&&) noexcept = delete;
    ~Queue();

    // Allocates the pages for data. Requests can be submitted from here on.
    [[nodiscard]] Result<void> start(const DataOptions& options);

    [[nodiscard]] const std::vector<uint32_t>& ring_refs() const { return ring_refs_; }
    [[nodiscard]] uint32_t port() const { return port_.number(); }
    [[nodiscard]] uint32_t entries() const { return entries_; }
    [[nodiscard]] uint32_t max_bytes() const { return data_.max_segments * kPageSize; }
    [[nodiscard]] uint32_t in_flight() const { return entries_ - static_cast<uint32_t>(free_slots_.size()); }
    // Readable when the backend has notified.
    [[nodiscard]] int fd() const { return port_.fd(); }

    // Puts a request into the ring, for the next push(). False: no free entry or page now, or broken.
    [[nodiscard]] bool submit(Request& request);
    // Shows the backend what was submitted; notifies if it asked for that.
    void push();
    // Takes all responses there are and calls `done` for each. With `arm`, the next response brings an event.
    uint32_t reap(bool arm = true);
    // The same after fd() became readable.
    uint32_t handle_event();
    // Waits for an event and handles it; false: none came in time.
    bool wait(int timeout_ms);

    // Whether every request shown to the backend has its response in the ring.
    [[nodiscard]] bool answered() const;

    // Why the queue is broken; empty while it is not.
    [[nodiscard]] const std::string& broken() const { return broken_; }
    // Fails everything in flight with kNoAnswer. `why` becomes broken() if nothing did before.
    void fail_all(const std::string& why);
    // What is in flight, oldest first, taken out without an answer: for resume.
    [[nodiscard]] std::vector<Request*> take_pending();
    // Takes all grants back. Returns how many the backend still has mapped; these pages are not given back.
    [[nodiscard]] uint32_t release();

    [[nodiscard]] const QueueCounters& counters() const { return counters_; }
    // The shared ring as it is, for tests that play a hostile frontend.
    [[nodiscard]] std::byte* shared() const { return ring_; }
    void notify() { port_.notify(); }

  private:
    struct Slot {
        Request* request = nullptr;  // null: not pending
        uint64_t sequence = 0;
        uint8_t operation = 0;        // that a response must carry
        std::vector<uint32_t> pages;  // of the pool: data first, then indirect pages
        uint32_t data_pages = 0;
    };

    Queue(xen::embedded::Guest& guest, const QueueOptions& options) : guest_(&guest), options_(options) {}
    [[nodiscard]] std::byte* pool_page(uint32_t page) const;
    void fill_segments(Slot& slot, const Request& request, xen::blkif::Segment* segments) const;
    void copy_in(const Slot& slot, const Request& request) const;
    void copy_out(const Slot& slot, const Request& request) const;
    void write_entry(uint32_t id, Slot& slot, const Request& request);
    // True: done. False: broken.
    bool take_response(uint64_t id, uint8_t operation, int16_t status);
    bool end_access(Slot& slot);
    void free_slot(uint32_t id);
    void fail(std::string why);

    xen::embedded::Guest* guest_;
    QueueOptions options_;
    DataOptions data_;
    std::vector<uint32_t> ring_refs_;
    uint32_t ring_frame_ = 0;
    std::byte* ring_ = nullptr;
    uint32_t entries_ = 0;
    xen::embedded::GuestPort port_;
    uint32_t req_prod_ = 0;
    uint32_t pushed_ = 0;
    uint32_t rsp_cons_ = 0;
    uint64_t sequence_ = 0;
    std::vector<Slot> slots_;
    std::vector<uint32_t> free_slots_;
    uint32_t pool_frame_ = 0;
    std::vector<uint32_t> pool_refs_;  // page n of the pool is granted under reference n
    std::vector<bool> granted_;        // persistent grants stay
    std::vector<uint32_t> free_pages_;
    bool released_ = false;
    std::string broken_;
    QueueCounters counters_;
};

}  // namespace ringback::frontend
