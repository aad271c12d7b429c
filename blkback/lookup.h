// SPDX-License-Identifier: Apache-2.0
//
// Lookup: a question that takes its time, on a thread of its own: LVM for a volume (which is activated), the resolver for a host.
//
// LVM's commands take from a tenth of a second to a minute, and blkbackd has one thread for all guests. A thread for each
// question and not one for all of them: a volume group that hangs holds up its own disks. How many there are is bounded by
// the devices: each asks one question at a time, so a guest that opens and closes its disk in a circle has one command
// running at most.
//
// The question works on copies and shares one answer with the loop, which is written before the event descriptor is and
// read after it. Whoever destroys a lookup is not told any more; the question ends by itself, within its own limit of time.
//
// Thread: the supervisor's, but for the question itself.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "runtime/event_loop.h"

namespace ringback::blk {

class Lookup {
  public:
    using Question = std::function<Result<void>()>;
    using Done = std::function<void(const Result<void>& found)>;

    // `done` comes from the loop, once; it may destroy the lookup. `name` is what is looked up.
    [[nodiscard]] static Result<std::unique_ptr<Lookup>> start(EventLoop& loop, const std::string& name, Question question,
                                                               Done done);
    ~Lookup();
    Lookup(const Lookup&) = delete;
    Lookup& operator=(const Lookup&) = delete;

  private:
    struct Shared;
    Lookup(EventLoop& loop, std::shared_ptr<Shared> shared) : loop_(loop), shared_(std::move(shared)) {}

    EventLoop& loop_;
    std::shared_ptr<Shared> shared_;
};

}  // namespace ringback::blk
