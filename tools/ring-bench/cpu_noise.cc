// SPDX-License-Identifier: Apache-2.0
//
// See cpu_noise.h. Times come from /proc/stat in clock ticks, so a slice has to be long against one tick.
#include "tools/ring-bench/cpu_noise.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "runtime/poll_policy.h"

namespace ringback::bench {

CpuNoise::Sample CpuNoise::sample() {
    Sample s;
    std::ifstream stat("/proc/stat");
    std::string name;
    double user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
    stat >> name >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal;
    s.machine = (user + nice + system + irq + softirq + steal) / static_cast<double>(::sysconf(_SC_CLK_TCK));
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& t) {
        return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
    };
    s.ours = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    s.at_ns = monotonic_ns();
    return s;
}

void CpuNoise::start() {
    begin_ = sample();
}

double CpuNoise::others() const {
    const Sample now = sample();
    const double wall = static_cast<double>(now.at_ns - begin_.at_ns) / 1e9;
    return std::max(0.0, (now.machine - begin_.machine) - (now.ours - begin_.ours)) / wall;
}

}  // namespace ringback::bench
