// SPDX-License-Identifier: Apache-2.0
//
// `blkbackd upgrade`: moves every guest from the worker it has to the program that is installed now, one by one, and says how
// long each of them was paused. Run by hand or by a package, after the new programs are in place.
//
// Nothing is stopped unless everything can be moved: the installed worker is asked first which protocol it speaks and which
// journals it reads, and the running blkbackd what it and its workers do. A blkbackd that runs an older program is restarted
// through the service manager, which no guest notices.
//
// Thread: the only one; it waits.
#pragma once

#include "blkback/config.h"
#include "runtime/result.h"

namespace ringback::blk {

// An error: where it stopped. The guests before that have the new worker, the others still the old one.
[[nodiscard]] Result<void> upgrade(const Config& config);

}  // namespace ringback::blk
