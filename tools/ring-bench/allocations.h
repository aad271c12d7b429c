// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace ringback::bench {

// Calls of operator new in this process so far.
[[nodiscard]] uint64_t allocations();

}  // namespace ringback::bench
