// SPDX-License-Identifier: Apache-2.0
//
// ring-bench: what a request costs in blkback-worker, beside the same I/O without a ring.
//
// Slices of both loops take turns, A B A B, so that a machine that changes its speed changes it for both;
// reported are medians with their extremes. A slice during which others used the CPU is measured again, a few
// times, and then kept and said so. Times are for people; the counts (io_uring_enter, notifies, grant copies
// and allocations per request) are exact on any machine. docs/benchmarks.md has the meaning of each figure
// and the bars.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "hypervisor/embedded/toolstack.h"
#include "runtime/log.h"
#include "tools/ring-bench/bare_loop.h"
#include "tools/ring-bench/calibration.h"
#include "tools/ring-bench/core.h"
#include "tools/ring-bench/cpu_noise.h"
#include "tools/ring-bench/ring_loop.h"

namespace ringback::bench {

namespace {

struct Settings {
    std::string file;
    uint64_t file_mib = 256;
    bool direct = false;
    uint32_t slices = 5;
    double slice_seconds = 1;
    bool json = false;
};

constexpr double kNoisy = 0.05;   // cores used by others
constexpr uint32_t kRetries = 2;  // of one slice

struct Series {
    std::vector<double> ns;  // per operation
    [[nodiscard]] double median() const {
        std::vector<double> sorted = ns;
        std::sort(sorted.begin(), sorted.end());
        return sorted[sorted.size() / 2];
    }
    [[nodiscard]] double min() const { return *std::min_element(ns.begin(), ns.end()); }
    [[nodiscard]] double max() const { return *std::max_element(ns.begin(), ns.end()); }
};

struct Outcome {
    Job job;
    bool persistent = false;
    Series bare, ring, ring_with_frontend;
    Series bare_cpu, ring_cpu;  // CPU time of the thread, frontend included
    RingCounts counts;
    uint32_t noisy_slices = 0;
    uint64_t errors = 0;
};

// One slice, again while others are busy.
template <typename Loop>
Slice quiet_slice(Loop& loop, const Job& job, uint64_t duration_ns, uint32_t& noisy) {
    for (uint32_t attempt = 0;; ++attempt) {
        CpuNoise noise;
        noise.start();
        const Slice slice = loop.run(job, duration_ns);
        if (noise.others() <= kNoisy) return slice;
        if (attempt == kRetries) {
            ++noisy;
            return slice;
        }
    }
}

double per_operation(uint64_t ns, uint64_t operations) {
    return static_cast<double>(ns) / static_cast<double>(std::max<uint64_t>(operations, 1));
}

Result<Outcome> compare(const Settings& settings, uint16_t domid, const Job& job, bool persistent) {
    Outcome outcome;
    outcome.job = job;
    outcome.persistent = persistent;
    std::unique_ptr<BareLoop> bare = TRY(BareLoop::open(settings.file, settings.direct, job.depth));
    std::unique_ptr<RingLoop> ring = TRY(RingLoop::open({settings.file, settings.direct, persistent, domid}));
    const auto duration = static_cast<uint64_t>(settings.slice_seconds * 1e9);
    // Warms caches, maps persistent grants, fills the page cache.
    (void)bare->run(job, duration / 10);
    (void)ring->run(job, duration / 10);
    const RingCounts warm = ring->counts();
    for (uint32_t i = 0; i < settings.slices; ++i) {
        const Slice a = quiet_slice(*bare, job, duration, outcome.noisy_slices);
        const Slice b = quiet_slice(*ring, job, duration, outcome.noisy_slices);
        outcome.errors += a.errors + b.errors;
        outcome.bare.ns.push_back(per_operation(a.timed_ns, a.operations));
        outcome.ring.ns.push_back(per_operation(b.timed_ns, b.operations));
        outcome.ring_with_frontend.ns.push_back(per_operation(b.wall_ns, b.operations));
        outcome.bare_cpu.ns.push_back(per_operation(a.cpu_ns, a.operations));
        outcome.ring_cpu.ns.push_back(per_operation(b.cpu_ns, b.operations));
    }
    const RingCounts& all = ring->counts();
    outcome.counts = {.operations = all.operations - warm.operations,
                      .enters = all.enters - warm.enters,
                      .notifies_sent = all.notifies_sent - warm.notifies_sent,
                      .notifies_taken = all.notifies_taken - warm.notifies_taken,
                      .grant_copy_calls = all.grant_copy_calls - warm.grant_copy_calls,
                      .persistent_maps = all.persistent_maps - warm.persistent_maps,
                      .allocations = all.allocations - warm.allocations};
    return outcome;
}

nlohmann::json to_json(const Series& series) {
    return {{"median_ns", series.median()}, {"min_ns", series.min()}, {"max_ns", series.max()}};
}

nlohmann::json to_json(const Outcome& o) {
    const auto each = [&](uint64_t count) { return per_operation(count, o.counts.operations); };
    return {{"workload", o.job.write ? "randwrite" : "randread"},
            {"depth", o.job.depth},
            {"polled", o.job.polled},
            {"grants", o.persistent ? "persistent" : "copy"},
            {"bare", to_json(o.bare)},
            {"ring", to_json(o.ring)},
            {"ring_with_frontend", to_json(o.ring_with_frontend)},
            {"ratio", o.bare.median() / o.ring.median()},
            {"ratio_with_frontend", o.bare.median() / o.ring_with_frontend.median()},
            {"bare_cpu", to_json(o.bare_cpu)},
            {"ring_cpu_with_frontend", to_json(o.ring_cpu)},
            {"ratio_cpu_with_frontend", o.bare_cpu.median() / o.ring_cpu.median()},
            {"requests", o.counts.operations},
            {"enters_per_request", each(o.counts.enters)},
            {"notifies_per_request", each(o.counts.notifies_sent + o.counts.notifies_taken)},
            {"grant_copies_per_request", each(o.counts.grant_copy_calls)},
            {"grant_maps_per_request", each(o.counts.persistent_maps)},
            {"allocations_per_request", each(o.counts.allocations)},
            {"noisy_slices", o.noisy_slices},
            {"errors", o.errors}};
}

void print(const Calibration& c) {
    fmt::print(
        "calibration: syscall {:.0f} ns, 4 KiB copy {:.0f} ns (L2) {:.0f} ns (DRAM), cores' ping-pong {:.0f} "
        "ns, "
        "eventfd wake {:.1f} us\n\n",
        c.syscall_ns, c.copy_l2_ns, c.copy_dram_ns, c.ping_pong_ns, c.eventfd_wake_us);
    fmt::print("{:29} {:>24} {:>24} {:>6} {:>6} {:>6}  per request: {:>7} {:>7} {:>7} {:>6}\n", "",
               "bare io_uring, ns", "ring + image, ns", "ratio", "all", "cpu", "enters", "notify", "copies",
               "allocs");
}

void print(const Outcome& o) {
    const auto each = [&](uint64_t count) { return per_operation(count, o.counts.operations); };
    const auto span = [](const Series& s) {
        return fmt::format("{:.0f} ({:.0f}-{:.0f})", s.median(), s.min(), s.max());
    };
    fmt::print(
        "{:9} qd{:<2} {:6} {:9} {:>23} {:>24} {:>6.3f} {:>6.3f} {:>6.3f} {:>21.4f} {:>7.4f} {:>7.4f} "
        "{:>6.4f}{}{}\n",
        o.job.write ? "randwrite" : "randread", o.job.depth, o.job.polled ? "polled" : "events",
        o.persistent ? "persist." : "copy", span(o.bare), span(o.ring), o.bare.median() / o.ring.median(), o.bare.median() / o.ring_with_frontend.median(),
        o.bare_cpu.median() / o.ring_cpu.median(), each(o.counts.enters),
        each(o.counts.notifies_sent + o.counts.notifies_taken), each(o.counts.grant_copy_calls),
        each(o.counts.allocations),
        o.noisy_slices > 0 ? fmt::format("  {} noisy slices", o.noisy_slices) : "",
        o.errors > 0 ? fmt::format("  {} ERRORS", o.errors) : "");
    std::fflush(stdout);
}

// The file of the benchmark: without a name, so that it is gone with this process, and all its blocks
// written, so that no hole is read. Not in memory: tmpfs sends each request to a helper thread, which would
// be what is measured.
Result<UniqueFd> make_file(uint64_t mib) {
    const char* directory = "/var/tmp";
    UniqueFd fd(::open(directory, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));
    if (!fd) return os_error(std::string("make a file in ") + directory);
    std::vector<char> block(1 << 20, 'b');
    for (uint64_t i = 0; i < mib; ++i)
        if (::write(fd.get(), block.data(), block.size()) != static_cast<ssize_t>(block.size()))
            return os_error(std::string("fill a file in ") + directory);
    return fd;
}

Result<bool> run(const Settings& settings) {
    std::unique_ptr<Core> core = TRY(Core::start());
    xen::embedded::Toolstack toolstack = TRY(xen::embedded::Toolstack::connect());
    const uint16_t domid = TRY(toolstack.create_domain({.name = "ring-bench", .memory_mib = 16}));
    std::error_code error;
    const uint64_t blocks = std::filesystem::file_size(settings.file, error) / kBlock;
    if (error || blocks == 0) return Error{EINVAL, "measure " + settings.file + ": it has no block of 4 KiB"};

    const Calibration calibration = calibrate();
    if (!settings.json) print(calibration);
    nlohmann::json results = nlohmann::json::array();
    bool clean = true;
    for (const bool persistent : {true, false}) {
        for (const bool write : {false, true}) {
            for (const Job& job : {Job{write, 32, blocks, false}, Job{write, 1, blocks, false},
                                   Job{write, 1, blocks, true}}) {
                const Outcome outcome = TRY(compare(settings, domid, job, persistent));
                clean = clean && outcome.errors == 0;
                if (settings.json)
                    results.push_back(to_json(outcome));
                else
                    print(outcome);
            }
        }
    }
    if (settings.json) {
        const nlohmann::json all = {{"calibration",
                                     {{"syscall_ns", calibration.syscall_ns},
                                      {"copy_l2_ns", calibration.copy_l2_ns},
                                      {"copy_dram_ns", calibration.copy_dram_ns},
                                      {"ping_pong_ns", calibration.ping_pong_ns},
                                      {"eventfd_wake_us", calibration.eventfd_wake_us}}},
                                    {"direct", settings.direct},
                                    {"results", results}};
        fmt::print("{}\n", all.dump(2));
    }
    return clean;
}

}  // namespace
}  // namespace ringback::bench

int main(int argc, char** argv) {
    ringback::bench::Settings settings;
    CLI::App app("Measures the blkif data path beside a bare io_uring loop on the same file.", "ring-bench");
    app.set_version_flag("--version", RINGBACK_VERSION);
    app.add_option("--file", settings.file, "An existing file to use; its content is overwritten");
    app.add_option("--file-mib", settings.file_mib, "Size of the temporary file that is made otherwise")
        ->check(CLI::Range(1, 1 << 20));
    app.add_flag("--direct", settings.direct, "O_DIRECT: measures the device, and whether we stall it");
    app.add_option("--slices", settings.slices, "Slices of each loop")->check(CLI::Range(1, 1000));
    app.add_option("--slice-seconds", settings.slice_seconds, "Length of a slice")
        ->check(CLI::Range(0.01, 60.0));
    app.add_flag("--json", settings.json, "Everything as JSON");
    CLI11_PARSE(app, argc, argv);

    ringback::UniqueFd file;
    if (settings.file.empty()) {
        ringback::Result<ringback::UniqueFd> made = ringback::bench::make_file(settings.file_mib);
        if (!made.ok()) {
            ringback::log::error("{}", made.error().message);
            return 1;
        }
        file = std::move(made).value();
        settings.file = "/proc/self/fd/" + std::to_string(file.get());
    }
    const ringback::Result<bool> clean = ringback::bench::run(settings);
    if (!clean.ok()) ringback::log::error("{}", clean.error().message);
    return clean.ok() && clean.value() ? 0 : 1;
}
