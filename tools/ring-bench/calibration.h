// SPDX-License-Identifier: Apache-2.0
//
// What this machine's primitives cost at the moment. A ratio beside another calibration is another ratio, so
// these figures are printed with every run.
#pragma once

namespace ringback::bench {

struct Calibration {
    double syscall_ns = 0;       // getppid
    double copy_l2_ns = 0;       // 4 KiB within 128 KiB
    double copy_dram_ns = 0;     // 4 KiB within 256 MiB
    double ping_pong_ns = 0;     // round trip between two cores by shared memory; 0: there is one core
    double eventfd_wake_us = 0;  // from a write to the other thread running
};

[[nodiscard]] Calibration calibrate();

}  // namespace ringback::bench
