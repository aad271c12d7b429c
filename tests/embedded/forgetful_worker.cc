// SPDX-License-Identifier: Apache-2.0
//
// The worker without its journal: it serves as the product's does, and as a successor begins anew, so that what a dead
// worker had under way is lost. kill_loop_test must notice that.
#include "blkback/worker/steps.h"

namespace ringback::blk::worker {

bool journal_is_used() { return false; }

}  // namespace ringback::blk::worker
