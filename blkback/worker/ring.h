// SPDX-License-Identifier: Apache-2.0
//
// Ring: one queue of a connected disk, from the guest's request to the guest's response.
//
// All of it happens in run(), a task of the reactor, in this order and always on the whole batch:
//
//     finish   what the image completed: copy the data of reads to the guest (one grant copy), answer, publish once,
//              notify once if the guest asked for it
//     take     copy new requests into the journal (ring -> private memory, once), check them
//     fetch    the segment lists of indirect requests (one grant copy)
//     gather   find or map persistent grants; copy the data of writes from the guest (one grant copy)
//     submit   everything to the image; the reactor's next io_uring_enter carries it to the kernel
//
// Answers go out before new work is submitted: the guest can refill the ring while the kernel works.
//
// A request's data is in a buffer of the pool, copied by us (persistent grants, which stay mapped) or by the hypervisor
// (grant copy); the kernel never works on a guest's page (transfer.cc says why). Never is an ordinary grant mapped for one
// request: its unmap would be late and the frontend would give the disk up (docs/data-path.md).
//
// Bad requests are answered with an error and counted. A ring whose indices are impossible is broken: it takes nothing
// any more, finishes what it has, and tells its device, once.
//
// A successor's first run begins with what its predecessor owes (recovery.h): it publishes what was answered, notifies
// whatever the guest asked for, as the predecessor may have published without, and admits what was taken like new requests.
//
// Thread: the reactor that owns it. Nothing here allocates after construction, except the first use of a persistent
// grant table.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "blkback/worker/buffers.h"
#include "blkback/worker/journal.h"
#include "blkback/worker/persistent.h"
#include "blkback/worker/recovery.h"
#include "blkback/worker/request.h"
#include "blkback/worker/throttle.h"
#include "disk-images/image.h"
#include "hypervisor/event_channel.h"
#include "hypervisor/grants.h"
#include "hypervisor/ring.h"
#include "runtime/reactor.h"

namespace ringback::blk::worker {

class Device;
class Ring;
struct Request;

// What all rings of a disk share. Owned by the Device.
struct DiskContext {
    Reactor& reactor;
    image::Image& image;
    BufferPool& buffers;
    xen::EventChannels& events;
    Journal& journal;
    xen::Domid domid;
    DiskLimits limits;
    Stats stats{};
    uint32_t in_flight = 0;        // taken and not answered, all rings
    uint32_t replaying = 0;        // of these: taken by a dead worker
    bool stopping = false;         // take nothing more
    Request* barrier = nullptr;  // waits until it is alone, or runs: take nothing until it is answered
    Throttle throttle{};
    bool throttled = false;        // a timer looks again; take nothing more
    std::vector<Ring*> rings;
    bool grants_age = false;            // a timer looks after unused persistent grants
    Device* owner = nullptr;
    // Called when in_flight fell to zero while stopping; when a ring broke; when the first grant was mapped; when a request
    // has to be held back.
    void (*on_drained)(DiskContext&) noexcept = nullptr;
    void (*on_broken)(DiskContext&, const char* reason) noexcept = nullptr;
    void (*on_grants_mapped)(DiskContext&) noexcept = nullptr;
    void (*on_throttled)(DiskContext&, uint64_t now_ns) noexcept = nullptr;
    void (*on_replayed)(DiskContext&) noexcept = nullptr;  // replaying fell to zero
};

// A request in progress. One per journal slot, with the same index.
struct Request {
    image::Io io;
    Ring* ring = nullptr;
    Request* next = nullptr;
    Buffer buffer;
    iovec data{};             // the buffer's part that the I/O works on
    uint32_t bytes = 0;
    uint16_t index = 0;
    uint16_t nr_segments = 0;
    int16_t status = 0;
    bool persistent = false;  // its segments are mapped, and held until it is answered
    bool flush_first = false; // steps still to do
    bool transfer = false;
    bool flush_after = false;
    bool replayed = false;
};

static_assert(offsetof(Request, io) == 0, "an Io is found back in its Request by its address");

class Ring {
  public:
    struct Parameters {
        uint16_t number = 0;
        xen::blkif::Abi abi{};
        bool persistent = false;
        xen::GrantMapping mapping;
        xen::Port port = 0;
        bool recover = false;  // the journal tells what is owed
    };

    // An error: no memory for it, or a journal that cannot be true. The mapping is then given back.
    [[nodiscard]] static Result<std::unique_ptr<Ring>> create(DiskContext& disk, xen::GrantTable& grants,
                                                              Parameters parameters);
    ~Ring();  // nothing is in flight
    // Counts what the predecessor owes as in flight; before any of the disk's rings runs.
    void recover();
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    // The event channel fired. It stays masked until the ring is idle.
    void on_event();
    // Look again (a barrier ended, the disk's rings were created).
    void kick() { disk_.reactor.schedule(task_); }
    [[nodiscard]] bool scheduled() const { return task_.scheduled; }
    [[nodiscard]] xen::Port port() const { return port_; }
    // Persistent grants unused since `before` are unmapped; returns how many stay.
    size_t expire_grants(uint64_t before) { return persistent_.expire(before); }
    [[nodiscard]] size_t grants_mapped() const { return persistent_.mapped(); }

  private:
    struct Segments;
    Ring(DiskContext& disk, xen::GrantTable& grants, Parameters parameters, Segments* segments,
         std::unique_ptr<Owed> owed);
    struct RingTask : Task {
        Ring* ring;
    };
    struct RingPoll : PollSource {
        Ring* ring;
    };

    void run();
    void take_up();
    // finish
    void finish();
    void copy_to_guest(Request* reads);
    void answer(Request& request);
    void write_response(Slot& slot, xen::blkif::Status status);
    void publish();
    // take
    bool may_take() const {
        return !broken_ && !disk_.stopping && !disk_.throttled && disk_.barrier == nullptr && parked_ == nullptr;
    }
    bool hold_back();
    void take();
    void admit(Request& request);
    // fetch, gather, submit
    void fetch_segments();
    void plan(Request& request);
    bool gather(Request& request);
    bool use_persistent(Request& request);
    bool find_persistent(Request& request);
    void copy_from_guest();
    void submit();
    void start_step(Request& request);
    void copy_mapped(Request& request, bool to_guest);
    void queue_segment_copies(Request& request, bool to_guest);
    void run_copies();
    // the rest
    void reject(Request& request, xen::blkif::Status status);
    void on_io_done(Request& request, int32_t result);
    void break_ring(const char* reason);
    void go_idle();
    bool look();
    void rest();
    Slot& slot(const Request& request) const { return journal_.slots[request.index]; }

    DiskContext& disk_;
    xen::GrantTable& grants_;
    const uint16_t number_;
    const xen::blkif::Abi abi_;
    const bool use_persistent_;
    const xen::Port port_;
    xen::GrantMapping mapping_;
    xen::BackRing ring_;
    QueueJournal journal_;
    PersistentGrants persistent_;
    Segments* const segments_;  // per request, one mapping touched as far as used

    RingTask task_;
    RingPoll poll_;
    std::unique_ptr<Request[]> requests_;
    std::vector<uint16_t> free_;
    std::vector<uint16_t> answered_;  // to be freed when published
    std::unique_ptr<Owed> owed_;      // until the first run
    bool notify_owed_ = false;
    std::vector<Request*> fetching_;  // indirect, segments under way
    std::vector<Request*> gathering_; // segments known, data to be found
    std::vector<image::Io*> batch_;
    std::vector<xen::CopySegment> copies_;
    std::vector<Request*> copy_owners_;
    Request* done_ = nullptr;         // from the image, newest first
    Request* parked_ = nullptr;       // waiting for a buffer, oldest first
    Request* parked_last_ = nullptr;
    Request* waiting_barrier_ = nullptr;  // until every other request of the disk is answered
    bool masked_ = false;             // the port fired and was not written back
    bool broken_ = false;
};

}  // namespace ringback::blk::worker
