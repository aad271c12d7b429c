// SPDX-License-Identifier: Apache-2.0
//
// What an io_uring may be used for. A ring is a second door to the kernel that no system call filter watches: with all its
// operations a worker that has been taken over could open files and connect sockets through it. So a ring is told, before it is
// enabled and for good, which operations this program has (io_uring_register(2), IORING_REGISTER_RESTRICTIONS).
#pragma once

#include <liburing.h>

#include "runtime/result.h"

namespace ringback {

// `ring` is not enabled yet (IORING_SETUP_R_DISABLED). What it needs for itself is registered already.
[[nodiscard]] Result<void> restrict_ring(io_uring& ring);

}  // namespace ringback
