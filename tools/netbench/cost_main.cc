// SPDX-License-Identifier: Apache-2.0
//
// netbench-cost: what a packet costs in the built-in switch, in one thread (switch_bench.h), and the counts that are the same on every
// machine. netbench starts it; by hand it prints a table.
#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/log.h"
#include "tools/netbench/switch_bench.h"
#include "tools/ring-bench/core.h"
#include "tools/ring-bench/cpu_noise.h"

namespace ringback::netbench {

namespace {

using nlohmann::json;

struct Case {
    const char* name;
    size_t ports, active, size, burst;
    bool events;
};
constexpr size_t kGso = 65226;  // 45 segments of 1448 bytes and their headers
constexpr size_t kBurst32 = 32;
constexpr Case kCases[]{{"64 bytes", 2, 2, 60, kBurst32, true},
                        {"64 bytes, guests that poll", 2, 2, 60, kBurst32, false},
                        {"64 bytes, one at a time", 2, 2, 60, 1, true},
                        {"1518 bytes", 2, 2, 1514, kBurst32, true},
                        {"64 KiB to be segmented", 2, 2, kGso, 8, true},
                        {"64 bytes, 1000 ports", 1000, 1000, 60, kBurst32, true},
                        {"64 bytes, 2 of 1000 ports", 1000, 2, 60, kBurst32, true}};

json to_json(const Case& of, std::vector<Cost> slices, int noisy) {
    std::sort(slices.begin(), slices.end(), [](const Cost& a, const Cost& b) { return a.ns_per_packet < b.ns_per_packet; });
    const Cost& median = slices[slices.size() / 2];
    const auto each = [&](uint64_t count) { return static_cast<double>(count) / static_cast<double>(median.packets); };
    return {{"case", of.name},
            {"ports", of.ports},
            {"active", of.active},
            {"bytes", of.size},
            {"burst", of.burst},
            {"ns_per_packet", {{"median", median.ns_per_packet}, {"min", slices.front().ns_per_packet}, {"max", slices.back().ns_per_packet}}},
            {"cycles_per_packet", median.cycles_per_packet},
            {"grant_operations_per_packet", each(median.grant_operations)},
            {"grant_calls_per_packet", each(median.grant_calls)},
            {"notifies_per_packet", each(median.notifies)},
            {"events_per_packet", each(median.events)},
            {"allocations_per_packet", each(median.allocations)},
            {"lost", median.lost},
            {"noisy_slices", noisy}};
}

// The small switch before the large one and after it: a process has memory for one at a time, and a machine changes its speed.
Result<json> measure(size_t rounds, double seconds, size_t many) {
    auto core = TRY(bench::Core::start());
    std::vector<std::vector<Cost>> slices(std::size(kCases));
    std::vector<int> noisy(std::size(kCases));
    const auto measure_on = [&](SwitchBench& bench, size_t ports) -> Result<void> {
        for (size_t round = 0; round < rounds; ++round) {
            for (size_t i = 0; i < std::size(kCases); ++i) {
                const Case& of = kCases[i];
                if (of.ports != ports) continue;
                bench::CpuNoise noise;
                noise.start();
                slices[i].push_back(TRY(bench.run(std::min(of.active, ports == 2 ? 2 : many), of.size, of.burst, of.events, seconds)));
                if (noise.others() > 0.05) ++noisy[i];
            }
        }
        return {};
    };
    const auto small = [&]() -> Result<void> {
        auto bench = TRY(SwitchBench::create(2));
        return measure_on(*bench, 2);
    };
    json all{{"ports", many}, {"copy_1514_ns", copy_ns(1514)}};
    TRY(small());
    {
        auto bench = TRY(SwitchBench::create(many));
        TRY(measure_on(*bench, 1000));
        all["bytes_per_vif"] = bench->bytes_per_vif();
        all["idle_cpu"] = bench->idle_cpu(seconds * 2);
    }
    TRY(small());
    all["lookup_ns"] = {{"10", TRY(lookup_ns(10))}, {"100000", TRY(lookup_ns(100'000))}};
    all["results"] = json::array();
    for (size_t i = 0; i < std::size(kCases); ++i) all["results"].push_back(to_json(kCases[i], slices[i], noisy[i]));
    return all;
}

void show(const json& all) {
    fmt::print("{:26} {:>24} {:>7} {:>6} {:>9} {:>9} {:>9} {:>7} {:>6}\n", "per packet", "ns (min-max)", "cycles", "grants", "calls", "notifies", "events",
               "allocs", "lost");
    for (const json& r : all["results"]) {
        const json& ns = r["ns_per_packet"];
        const auto value = [&r](const char* name) { return r[name].get<double>(); };
        fmt::print("{:26} {:>24} {:>7.0f} {:>6.2f} {:>9.4f} {:>9.4f} {:>9.4f} {:>7.4f} {:>6}{}\n", r["case"].get<std::string>(),
                   fmt::format("{:.0f} ({:.0f}-{:.0f})", ns["median"].get<double>(), ns["min"].get<double>(), ns["max"].get<double>()),
                   value("cycles_per_packet"), value("grant_operations_per_packet"), value("grant_calls_per_packet"), value("notifies_per_packet"),
                   value("events_per_packet"), value("allocations_per_packet"), r["lost"].get<uint64_t>(),
                   r["noisy_slices"] > 0 ? fmt::format("  {} noisy slices", r["noisy_slices"].get<int>()) : "");
    }
    fmt::print("a copy of 1514 bytes {:.0f} ns; an address of 10 found in {:.1f} ns, of 100000 in {:.1f} ns\n", all["copy_1514_ns"].get<double>(),
               all["lookup_ns"]["10"].get<double>(), all["lookup_ns"]["100000"].get<double>());
    fmt::print("{} vifs with nothing to do: {:.3f} % of a core; {:.1f} KiB each\n", all["ports"].get<size_t>(), all["idle_cpu"].get<double>() * 100,
               all["bytes_per_vif"].get<double>() / 1024);
}

}  // namespace
}  // namespace ringback::netbench

int main(int argc, char** argv) {
    size_t rounds = 5, many = 1000;
    double seconds = 1;
    bool as_json = false;
    CLI::App app("Measures the built-in switch in one thread.", "netbench-cost");
    app.set_version_flag("--version", RINGBACK_VERSION);
    app.add_option("--rounds", rounds, "Slices of each case, taking turns")->check(CLI::Range(1, 1000));
    app.add_option("--seconds", seconds, "Length of a slice")->check(CLI::Range(0.001, 60.0));
    app.add_option("--ports", many, "Vifs of the large switch")->check(CLI::Range(2, 4000));
    app.add_flag("--json", as_json, "Everything as JSON");
    CLI11_PARSE(app, argc, argv);
    // Two event channels' descriptors and a journal's for each vif.
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)::setrlimit(RLIMIT_NOFILE, &files);
    }
    const auto measured = ringback::netbench::measure(rounds, seconds, many / 2 * 2);
    if (!measured) {
        ringback::log::error("{}", measured.error().message);
        return 1;
    }
    if (as_json)
        fmt::print("{}\n", measured.value().dump(2));
    else
        ringback::netbench::show(measured.value());
    return 0;
}
