// SPDX-License-Identifier: Apache-2.0
//
// How much CPU others used during a slice. A slice in which it was more than a twentieth of a core says
// little.
#pragma once

#include <cstdint>

namespace ringback::bench {

class CpuNoise {
  public:
    void start();
    // CPU time that was not ours since start(), in cores.
    [[nodiscard]] double others() const;

  private:
    struct Sample {
        double machine = 0;  // seconds busy, all cores, steal included
        double ours = 0;
        uint64_t at_ns = 0;
    };
    static Sample sample();
    Sample begin_;
};

}  // namespace ringback::bench
