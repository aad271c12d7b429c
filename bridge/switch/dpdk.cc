// SPDX-License-Identifier: Apache-2.0
#include "bridge/switch/dpdk.h"

#include <fmt/format.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <sched.h>

#include <array>
#include <string>

namespace ringback::bridge {

namespace {

int first_cpu(const cpu_set_t& cpus) {
    int cpu = 0;
    while (cpu < CPU_SETSIZE - 1 && !CPU_ISSET(cpu, &cpus)) ++cpu;
    return cpu;
}

Result<void> start(size_t megabytes) {
    cpu_set_t before;
    CPU_ZERO(&before);
    if (::sched_getaffinity(0, sizeof before, &before) != 0) return os_error("read the CPU affinity");
    // Any one CPU will do: EAL pins its first thread to it, which is undone below.
    std::string cpu = fmt::format("0@{}", first_cpu(before));
    std::string memory = std::to_string(megabytes);
    std::array<std::string, 11> arguments{"ringback",       "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "-m", memory,
                                          "--lcores",       cpu,         "--log-level", "error"};
    std::array<char*, arguments.size() + 1> argv{};
    for (size_t i = 0; i < arguments.size(); ++i) argv[i] = arguments[i].data();
    const int started = ::rte_eal_init(static_cast<int>(arguments.size()), argv.data());
    const int error = rte_errno;
    (void)::sched_setaffinity(0, sizeof before, &before);
    if (started < 0) return os_error(error == 0 ? EIO : error, fmt::format("start DPDK with {} MiB of memory", megabytes));
    return {};
}

}  // namespace

Result<void> start_dpdk(size_t megabytes) {
    // DPDK is the process's, whoever starts it; and it cannot be started again when it has failed.
    static const Result<void> started = start(megabytes);
    return started;
}

}  // namespace ringback::bridge
