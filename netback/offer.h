// SPDX-License-Identifier: Apache-2.0
//
// The frontend's offer: its rings, its event channels, and what it can take, from its store directory (io/netif.h).
//
// All of it is written by the guest, so it is hostile text: numbers are taken whole and in range or not at all.
#pragma once

#include <string>

#include "hypervisor/store.h"
#include "netback/worker_protocol.h"
#include "runtime/result.h"

namespace ringback::net {

// An error says which node is missing or wrong.
[[nodiscard]] Result<Connect> read_offer(const xen::Store& store, const std::string& frontend, uint16_t max_queues);

// The text of a vif's `rate` node, "bytes,microseconds"; no limit when there is none, or none that makes sense.
[[nodiscard]] Rate parse_rate(const std::string& text);

}  // namespace ringback::net
