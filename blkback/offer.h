// SPDX-License-Identifier: Apache-2.0
//
// The frontend's offer: its rings and its event channels, from its store directory (io/blkif.h).
//
// All of it is written by the guest, so it is hostile text: numbers are taken whole and in range or not at all.
#pragma once

#include <string>

#include "blkback/worker_protocol.h"
#include "hypervisor/store.h"
#include "runtime/result.h"

namespace ringback::blk {

// An error says which node is missing or wrong.
[[nodiscard]] Result<Connect> read_offer(const xen::Store& store, const std::string& frontend, uint16_t max_queues,
                                         bool persistent);
[[nodiscard]] bool same_rings(const Connect& a, const Connect& b);

}  // namespace ringback::blk
