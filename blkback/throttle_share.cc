// SPDX-License-Identifier: Apache-2.0
#include "blkback/throttle_share.h"

#include <algorithm>
#include <cmath>

namespace ringback::blk {

namespace {

// A disk that asks for nothing may ask at any moment: this part of its fair share is always its own.
constexpr double kLeastPart = 0.05;

}  // namespace

std::vector<uint64_t> share(uint64_t rate, std::span<const Claim> claims) {
    double left = static_cast<double>(rate);
    double all_weights = 0;
    for (const Claim& claim : claims) all_weights += claim.weight;
    const auto fair = [&](size_t i) { return static_cast<double>(rate) * claims[i].weight / all_weights; };
    const auto demand = [&](size_t i) { return std::max(claims[i].demand, fair(i) * kLeastPart); };

    std::vector<double> shares(claims.size(), 0);
    std::vector<size_t> open(claims.size());
    for (size_t i = 0; i < open.size(); ++i) open[i] = i;
    // Whoever asks for less than his part gets it; the others share the rest anew.
    while (!open.empty()) {
        double weights = 0;
        for (const size_t i : open) weights += claims[i].weight;
        const double part = left / weights;
        const auto modest = std::partition(open.begin(), open.end(), [&](size_t i) { return demand(i) > part * claims[i].weight; });
        if (modest == open.end()) {
            for (const size_t i : open) shares[i] = part * claims[i].weight;
            left = 0;
            break;
        }
        for (auto i = modest; i != open.end(); ++i) {
            shares[*i] = demand(*i);
            left -= shares[*i];
        }
        open.erase(modest, open.end());
    }
    std::vector<uint64_t> result(claims.size());
    for (size_t i = 0; i < claims.size(); ++i) {
        const double extra = left > 0 ? left * claims[i].weight / all_weights : 0;
        result[i] = std::max<uint64_t>(1, static_cast<uint64_t>(std::llround(std::floor(shares[i] + extra))));
    }
    return result;
}

}  // namespace ringback::blk
