// SPDX-License-Identifier: Apache-2.0
//
// netbench-load: netbench's load generator. Opens two endpoints and takes jobs as lines of JSON, so that a search for a rate
// connects once:
//
//   {"sizes": [60], "seconds": 1, "rate": 0, "flood": false}
//
// and answers each with one line. netbench starts it; docs/benchmarks.md tells what its figures mean.
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <x86intrin.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "runtime/log.h"
#include "runtime/poll_policy.h"
#include "tools/netbench/load.h"
#include "tools/ring-bench/calibration.h"

namespace ringback::netbench {

namespace {

using nlohmann::json;

Result<Job> parse(const std::string& line) {
    const json given = json::parse(line, nullptr, false);
    if (!given.is_object()) return Error{EINVAL, "no job: " + line};
    Job job;
    job.sizes = given.value("sizes", job.sizes);
    job.seconds = given.value("seconds", job.seconds);
    job.rate = given.value("rate", job.rate);
    job.flood = given.value("flood", job.flood);
    const bool right = !job.sizes.empty() && std::all_of(job.sizes.begin(), job.sizes.end(), [](size_t size) {
        return size >= kSmallest && size <= kLargest;
    });
    if (!right || job.seconds <= 0 || job.seconds > 3600 || job.rate < 0) return Error{EINVAL, "a job out of bounds: " + line};
    return job;
}

json told(const Outcome& o) {
    const auto us = [&](double part) { return static_cast<double>(o.tally.latency.at(part)) / 1000; };
    return {{"sent", o.sent},
            {"sent_bytes", o.sent_bytes},
            {"received", o.tally.frames},
            {"received_bytes", o.tally.bytes},
            {"foreign", o.tally.foreign},
            {"wrong", o.tally.wrong},
            {"duplicates", o.tally.duplicates},
            {"out_of_order", o.tally.disordered},
            {"flooded", o.flooded},
            {"seconds", o.seconds},
            {"generator_cpu_seconds", o.cpu_seconds},
            {"latency_us", {{"p50", us(0.5)}, {"p90", us(0.9)}, {"p99", us(0.99)}, {"p99.9", us(0.999)},
                            {"max", static_cast<double>(o.tally.latency.most()) / 1000}}}};
}

// What this machine's primitives cost now.
void calibrate() {
    const uint64_t began = monotonic_ns(), ticks = __rdtsc();
    const bench::Calibration c = bench::calibrate();
    const double ghz = static_cast<double>(__rdtsc() - ticks) / static_cast<double>(monotonic_ns() - began);
    fmt::print("{}\n", json{{"syscall_ns", c.syscall_ns}, {"copy_4k_l2_ns", c.copy_l2_ns}, {"copy_4k_dram_ns", c.copy_dram_ns},
                            {"ping_pong_ns", c.ping_pong_ns}, {"eventfd_wake_us", c.eventfd_wake_us}, {"tsc_ghz", ghz}}.dump());
}

Result<void> serve(const std::vector<std::string>& words, bool split, double patience) {
    const auto endpoints = TRY(open_endpoints(words));
    const Ends ends{endpoints[0].get(), endpoints[1].get(), endpoints.size() > 2 ? endpoints[2].get() : nullptr, split};
    TRY(meet(ends, patience));
    fmt::print("{}\n", json{{"ready", true}}.dump());
    std::fflush(stdout);
    uint16_t number = 0;
    for (std::string line; std::getline(std::cin, line);) {
        if (++number == UINT16_MAX) number = 1;
        fmt::print("{}\n", told(TRY(run(ends, TRY(parse(line)), number))).dump());
        std::fflush(stdout);
    }
    return {};
}

}  // namespace
}  // namespace ringback::netbench

int main(int argc, char** argv) {
    std::string from, to, flood;
    bool split = false;
    double patience = 20;
    CLI::App app("Sends frames from one endpoint to another. Started by netbench.", "netbench-load");
    app.set_version_flag("--version", RINGBACK_VERSION);
    app.add_option("--from", from, "ring,DOMID,MAC or packet,NAMESPACE,DEVICE,MAC or virtio,SOCKET,MAC");
    app.add_option("--to", to, "The same");
    app.add_option("--flood", flood, "The same: from here come broadcasts when a job wants them");
    app.add_flag("--split", split, "A thread for each end");
    app.add_option("--patience", patience, "Seconds until the first frames have to be through");
    bool only_calibrate = false;
    app.add_flag("--calibrate", only_calibrate, "Only what this machine's primitives cost");
    CLI11_PARSE(app, argc, argv);
    if (only_calibrate) {
        ringback::netbench::calibrate();
        return 0;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::vector<std::string> words{from, to};
    if (!flood.empty()) words.push_back(flood);
    if (const auto served = ringback::netbench::serve(words, split, patience); !served) {
        ringback::log::error("{}", served.error().message);
        return 1;
    }
    return 0;
}
