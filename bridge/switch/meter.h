// SPDX-License-Identifier: Apache-2.0
//
// Meter: a token bucket (RFC 2697 with its excess bucket empty), by DPDK's rte_meter. Tokens are bytes or packets, as its
// owner likes. Includes DPDK's headers: for this folder's own files.
#pragma once

#include <rte_cycles.h>
#include <rte_meter.h>

#include <cstdint>

#include "runtime/result.h"

namespace ringback::bridge {

class Meter {
  public:
    // 0 a second: everything passes.
    [[nodiscard]] static Result<Meter> create(uint64_t per_second, uint64_t burst, uint64_t now_ns) {
        Meter meter;
        if (per_second == 0) return meter;
        rte_meter_srtcm_params parameters{.cir = per_second, .cbs = burst, .ebs = 0};
        const int made = rte_meter_srtcm_profile_config(&meter.profile_, &parameters);
        if (made != 0 || rte_meter_srtcm_config(&meter.state_, &meter.profile_) != 0) {
            return os_error(EINVAL, "make a meter of " + std::to_string(per_second) + " a second");
        }
        meter.state_.time = cycles(now_ns);
        meter.on_ = true;
        return meter;
    }
    [[nodiscard]] bool passes(uint32_t tokens, uint64_t now_ns) {
        return !on_ || rte_meter_srtcm_color_blind_check(&state_, &profile_, cycles(now_ns), tokens) == RTE_COLOR_GREEN;
    }

  private:
    // rte_meter counts in the clock's cycles; time is given in nanoseconds, so that it stands still between two packets of a
    // batch, and in tests.
    static uint64_t cycles(uint64_t ns) {
        constexpr uint64_t kSecond = 1'000'000'000;
        const uint64_t hz = rte_get_tsc_hz();
        return ns / kSecond * hz + ns % kSecond * hz / kSecond;
    }

    rte_meter_srtcm_profile profile_{};
    rte_meter_srtcm state_{};
    bool on_ = false;
};

}  // namespace ringback::bridge
