// SPDX-License-Identifier: Apache-2.0
//
// VolumeLookup: asks LVM for a volume, and has it activated, on a thread of its own.
//
// LVM's commands take from a tenth of a second to a minute, and blkbackd has one thread for all guests. A thread for each
// question and not one for all of them: a volume group that hangs holds up its own disks. How many there are is bounded by
// the devices: each asks one question at a time, so a guest that opens and closes its disk in a circle has one command
// running at most.
//
// The thread works on copies and shares one answer with the loop, which is written before the event descriptor is and
// read after it. Whoever destroys a lookup is not told any more; the command ends by itself, within its own limit of time.
//
// Thread: the supervisor's, but for the question itself.
#pragma once

#include <functional>
#include <memory>

#include "disk-images/lvm/lvm.h"
#include "runtime/event_loop.h"

namespace ringback::blk {

class VolumeLookup {
  public:
    // The volume is there, active, and nobody's; or why not.
    using Done = std::function<void(const Result<void>& found)>;

    // `done` comes from the loop, once; it may destroy the lookup.
    [[nodiscard]] static Result<std::unique_ptr<VolumeLookup>> start(EventLoop& loop, const image::lvm::Name& name,
                                                                     bool writable, Done done);
    ~VolumeLookup();
    VolumeLookup(const VolumeLookup&) = delete;
    VolumeLookup& operator=(const VolumeLookup&) = delete;

  private:
    struct Shared;
    VolumeLookup(EventLoop& loop, std::shared_ptr<Shared> shared) : loop_(loop), shared_(std::move(shared)) {}

    EventLoop& loop_;
    std::shared_ptr<Shared> shared_;
};

}  // namespace ringback::blk
