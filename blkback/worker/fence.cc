// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker/fence.h"

#include <sys/file.h>

namespace ringback::blk::worker {

Result<Fence> Fence::take(UniqueFd journal, Reactor& reactor) {
    if (flock(journal.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) return Error{EBUSY, "the former worker's requests are still under way"};
        return os_error("lock a request journal");
    }
    const uint32_t slot = TRY(reactor.put_file(journal.get()));
    return Fence(std::move(journal), reactor, slot);
}

// Explicitly: the reactor's reference may be let go of later (lock.h).
Fence::~Fence() {
    if (!file_) return;
    (void)flock(file_.get(), LOCK_UN);
    reactor_.drop_file(slot_);
}

}  // namespace ringback::blk::worker
