// SPDX-License-Identifier: Apache-2.0
//
// DPDK's environment, as the switch needs it: memory and a clock, no devices, no huge pages (a PV dom0 has none), no files
// shared with other processes, no threads that poll.
//
// DPDK is kept behind the files of this folder: nobody else includes its headers. It is started by whoever makes the first
// switch, and needs no privilege for it; a worker whose guests all have TAPs never starts it.
#pragma once

#include <cstddef>

#include "runtime/result.h"

namespace ringback::bridge {

// Starts it with so much memory, all there will ever be. Once per process; later calls do nothing. The calling thread's CPU
// affinity is as before afterwards.
[[nodiscard]] Result<void> start_dpdk(size_t megabytes);

}  // namespace ringback::bridge
