// SPDX-License-Identifier: Apache-2.0
//
// How a rate is shared by disks: by weight, and nobody gets more than he can use while another one can use it (max-min
// fairness). What nobody asks for is shared by weight too, so that a disk that was idle may begin at once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ringback::blk {

struct Claim {
    double demand = 0;  // what it would take; infinity: all
    double weight = 1;  // > 0
};

// The shares add up to the rate, but for roundings; each is at least 1.
[[nodiscard]] std::vector<uint64_t> share(uint64_t rate, std::span<const Claim> claims);

}  // namespace ringback::blk
