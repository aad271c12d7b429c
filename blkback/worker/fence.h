// SPDX-License-Identifier: Apache-2.0
//
// Fence: nothing of a former worker of this disk is under way in the kernel any more.
//
// The lock on a writable image says so for writes (disk-images/lock.h). But readers share their lock, and whether a dead
// worker's read is over should not be a matter of what it works on. So there is one more, of each disk: an exclusive flock on
// the description of the journal that this worker was given. The reactor's ring keeps that description among its files, and the kernel lets
// go of those only when the last request of the ring is over, whatever file it was for.
//
// Thread: the reactor's.
#pragma once

#include <cstdint>
#include <utility>

#include "runtime/reactor.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback::blk::worker {

class Fence {
  public:
    // EBUSY: a former worker's requests are under way; ask again, with a fresh description.
    [[nodiscard]] static Result<Fence> take(UniqueFd journal, Reactor& reactor);
    Fence(Fence&& other) noexcept = default;
    Fence& operator=(Fence&&) = delete;
    ~Fence();

  private:
    Fence(UniqueFd file, Reactor& reactor, uint32_t slot) : file_(std::move(file)), reactor_(reactor), slot_(slot) {}
    UniqueFd file_;
    Reactor& reactor_;
    const uint32_t slot_;
};

}  // namespace ringback::blk::worker
