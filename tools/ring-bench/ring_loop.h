// SPDX-License-Identifier: Apache-2.0
//
// The numerator: a blkif frontend and blkback-worker's own device, rings and reactor in one thread that does
// the work of both in turn. The frontend fills the ring, the clock starts, the backend runs until every
// request is answered, the clock stops, the frontend takes the answers. So what is timed is all that a
// backend does and nothing of a guest, and no scheduler and no second core come into it.
//
// The frontend does not touch the data: a guest's own copying is not a backend's cost.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "blkback/worker/device.h"
#include "hypervisor/embedded/guest.h"
#include "tools/frontend/blkfront_queue.h"
#include "tools/ring-bench/loop.h"

namespace ringback::bench {

struct RingOptions {
    std::string path;
    bool direct = false;
    bool persistent = true;  // otherwise all data is grant-copied
    uint16_t domid = 0;
};

struct RingCounts {
    uint64_t operations = 0;
    uint64_t enters = 0;          // io_uring_enter
    uint64_t notifies_sent = 0;   // backend to frontend
    uint64_t notifies_taken = 0;  // frontend to backend
    uint64_t grant_copy_calls = 0;
    uint64_t persistent_maps = 0;
    uint64_t allocations = 0;  // operator new, frontend included
};

class RingLoop {
  public:
    [[nodiscard]] static Result<std::unique_ptr<RingLoop>> open(const RingOptions& options);
    ~RingLoop();
    RingLoop(const RingLoop&) = delete;
    RingLoop& operator=(const RingLoop&) = delete;

    [[nodiscard]] Slice run(const Job& job, uint64_t duration_ns);
    // Everything counted in run() so far.
    [[nodiscard]] const RingCounts& counts() const { return counts_; }

  private:
    class NoOpener;
    RingLoop() = default;
    [[nodiscard]] Result<void> start(const RingOptions& options);
    [[nodiscard]] RingCounts now() const;
    void turn_until_answered();

    std::unique_ptr<xen::embedded::Guest> guest_;
    std::vector<xen::GrantTable> grants_;
    std::unique_ptr<xen::EventChannels> events_;
    std::unique_ptr<Reactor> reactor_;
    std::unique_ptr<blk::worker::BufferPool> buffers_;
    std::vector<blk::worker::Ring*> rings_by_port_;
    std::unique_ptr<NoOpener> opener_;
    std::unique_ptr<blk::worker::Device> device_;
    std::unique_ptr<frontend::Queue> queue_;
    std::vector<frontend::Request> requests_;
    bool disconnected_ = false;
    uint64_t errors_ = 0;
    RingCounts counts_;
};

}  // namespace ringback::bench
