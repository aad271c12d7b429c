// SPDX-License-Identifier: Apache-2.0
//
// What an allocation costs as the pool fills, what several processes get done, and what an import takes.
// Reports; judges nothing. docs/benchmarks.md says how to read it.
//
// The fills take turns in short slices, so that all see the same moods of the disk. Times are those of the
// whole operation with its sync, on a real directory; beside them the CPU time, which a busy neighbour
// disturbs less.
#include <fmt/format.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "mac-pool/import.h"
#include "mac-pool/pool.h"
#include "tests/macpool/etcd_cluster.h"

using namespace ringback;
using namespace ringback::mac;
using nlohmann::json;

namespace {

constexpr unsigned kSlices = 5;
constexpr unsigned kPerSlice = 20;  // so that the last slice of the full pool takes the very last address
constexpr unsigned kLeft = kSlices * kPerSlice;

template <typename T>
T must(Result<T> result) {
    if (result.ok()) return std::move(result).value();
    fmt::print(stderr, "macpool-bench: {}\n", result.error().message);
    std::exit(1);
}
void must(Result<void> result) {
    if (result.ok()) return;
    fmt::print(stderr, "macpool-bench: {}\n", result.error().message);
    std::exit(1);
}

double seconds(clockid_t clock) {
    timespec now{};
    ::clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double median(std::vector<double> values) {
    std::ranges::sort(values);
    return values[values.size() / 2];
}

std::unique_ptr<Store> store_at(const std::string& url) {
    Location location;
    location.url = url;
    return must(open_store(location, system_clock(), Open::create));
}

Pool make_pool(const std::string& url, const Range& range) {
    Settings settings;
    settings.ranges = {range};
    settings.rest_seconds = kDefaultRest;
    (void)must(Pool::init(*store_at(url), settings));
    return must(Pool::open(store_at(url), system_clock()));
}

Range first_addresses(uint64_t count) {
    return {Mac{0x00163e000000}, Mac{0x00163e000000 + count - 1}};
}

struct Fill {
    std::string name;
    Pool pool;
    std::vector<double> wall;  // seconds per allocation, by slice
    std::vector<double> cpu;
};

Fill fill(const std::string& directory, const std::string& name, uint64_t size, uint64_t in_use) {
    Pool pool = make_pool(fmt::format("sqlite:{}/{}.db", directory, name), first_addresses(size));
    const double begin = seconds(CLOCK_MONOTONIC);
    for (uint64_t done = 0; done < in_use;) {
        const uint64_t until = std::min<uint64_t>(in_use, done + 50'000);
        must(pool.together([&](Ledger& ledger) -> Result<void> {
            for (; done < until; ++done)
                (void)TRY(ledger.allocate({fmt::format("fill{}", done), {}}, 0));
            return {};
        }));
    }
    if (in_use > 1000) fmt::print(stderr, "{} filled in {:.0f} s\n", name, seconds(CLOCK_MONOTONIC) - begin);
    return {name, std::move(pool), {}, {}};
}

// A cluster takes 128 changes at once, so allocating a million would take many minutes. What the draws leave behind is
// written instead: the same records, held for no guest.
Fill fill_cluster(const std::string& url, const std::string& name, uint64_t size, uint64_t in_use) {
    Pool pool = make_pool(url, first_addresses(size));
    const std::unique_ptr<Store> store = store_at(url);
    const Space space = must(Space::make(pool.settings().ranges, {}));
    const Permutation permutation(pool.settings().key, size);
    const std::string holding = write(Holding{{}, 0, Origin::pool, 0, {}});
    const double begin = seconds(CLOCK_MONOTONIC);
    for (uint64_t done = 0; done < in_use;) {
        const uint64_t until = std::min<uint64_t>(in_use, done + 120);
        must(store->transact([&](Transaction& transaction) -> Result<void> {
            for (uint64_t draw = done; draw < until; ++draw)
                transaction.put(key::mac(space.at(permutation.forward(draw))), holding);
            transaction.put(key::kProgress, write(Progress{until, size, 0}));
            return {};
        }));
        done = until;
    }
    if (in_use > 1000) fmt::print(stderr, "{} filled in {:.0f} s\n", name, seconds(CLOCK_MONOTONIC) - begin);
    return {name, std::move(pool), {}, {}};
}

json allocation_times(std::vector<Fill> fills) {
    for (unsigned slice = 0; slice < kSlices; ++slice) {
        for (Fill& fill : fills) {
            const double wall = seconds(CLOCK_MONOTONIC);
            const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
            for (unsigned turn = 0; turn < kPerSlice; ++turn) {
                (void)must(fill.pool.allocate({fmt::format("bench{}-{}", slice, turn), {}}, 0));
            }
            fill.wall.push_back((seconds(CLOCK_MONOTONIC) - wall) / kPerSlice);
            fill.cpu.push_back((seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu) / kPerSlice);
        }
    }
    const Progress end = must(fills.back().pool.progress());
    if (end.next != end.end)
        must(Result<void>(Error{EIO, "the full pool is not full"}));
    json results = json::array();
    for (const Fill& fill : fills) {
        results.push_back({{"pool", fill.name},
                           {"microseconds", median(fill.wall) * 1e6},
                           {"fastest", *std::ranges::min_element(fill.wall) * 1e6},
                           {"slowest", *std::ranges::max_element(fill.wall) * 1e6},
                           {"ratio", median(fill.wall) / median(fills[0].wall)},
                           {"cpu_microseconds", median(fill.cpu) * 1e6},
                           {"cpu_ratio", median(fill.cpu) / median(fills[0].cpu)}});
    }
    return results;
}

// Allocations per second of all processes together.
double concurrent(const std::string& url, unsigned processes, double duration) {
    (void)make_pool(url, first_addresses(1U << 24));
    std::vector<pid_t> children;
    int ends[2];
    if (::pipe(ends) != 0) must(Result<void>(os_error("pipe")));
    for (unsigned process = 0; process < processes; ++process) {
        const pid_t pid = ::fork();
        if (pid != 0) {
            children.push_back(pid);
            continue;
        }
        Pool pool = must(Pool::open(store_at(url), system_clock()));
        const double end = seconds(CLOCK_MONOTONIC) + duration;
        uint64_t done = 0;
        while (seconds(CLOCK_MONOTONIC) < end) {
            (void)must(pool.allocate({fmt::format("p{}-{}", process, done), {}}, 0));
            ++done;
        }
        ::_exit(::write(ends[1], &done, sizeof done) == sizeof done ? 0 : 1);
    }
    ::close(ends[1]);
    uint64_t all = 0;
    for (uint64_t done = 0; ::read(ends[0], &done, sizeof done) == sizeof done;)
        all += done;
    ::close(ends[0]);
    for (const pid_t child : children)
        ::waitpid(child, nullptr, 0);
    return static_cast<double>(all) / duration;
}

void write_configs(const std::string& directory, unsigned count) {
    std::filesystem::create_directories(directory);
    for (unsigned guest = 0; guest < count; ++guest) {
        std::ofstream(fmt::format("{}/g{}.cfg", directory, guest)) << fmt::format(
            "name = 'g{}'\nuuid = '{}'\ntype = 'pvh'\nmemory = 512\nvcpus = 2\nkernel = '/boot/guest'\n"
            "disk = [ 'format=raw,vdev=xvda,target=/srv/g{}.img' ]\n"
            "vif = [ 'bridge=xenbr0,mac={}' ]\non_crash = 'destroy'\n",
            guest, make_uuid(), guest, Mac{0x00163e000000 + guest * uint64_t{1601}}.text());
    }
}

// Seconds of the clock, and of CPU time of this process.
std::pair<double, double> import_time(const std::string& url, const std::string& configs, unsigned count) {
    Pool pool = make_pool(url, first_addresses(1U << 24));
    const double begin = seconds(CLOCK_MONOTONIC);
    const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    const Sightings seen = see_xl_configs({configs});
    const Imported done = must(import_sightings(pool, seen.found));
    const std::pair took{seconds(CLOCK_MONOTONIC) - begin, seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu};
    if (done.added != count) must(Result<void>(Error{EIO, "not all were imported"}));
    return took;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Measures what a pool costs", "macpool-bench");
    std::string parent = "/var/tmp";
    uint64_t many = 1'000'000;
    unsigned configs = 10'000;
    double duration = 5;
    std::string store = "sqlite";
    bool as_json = false;
    app.add_option("--directory", parent,
                   "Where the pools are made and removed; on the kind of disk that they will have")
        ->capture_default_str();
    app.add_option("--in-use", many, "Addresses in use in the large pools")->capture_default_str();
    app.add_option("--configs", configs, "Configurations to import")->capture_default_str();
    app.add_option("--seconds", duration, "Length of the concurrent run")->capture_default_str();
    app.add_option("--store", store, "sqlite; or etcd: a cluster of three on this machine, in memory")
        ->check(CLI::IsMember({"sqlite", "etcd"}))
        ->capture_default_str();
    app.add_flag("--json", as_json, "Results as JSON");
    CLI11_PARSE(app, argc, argv);

    std::string directory = parent + "/macpool-bench-XXXXXX";
    if (::mkdtemp(directory.data()) == nullptr) must(Result<void>(os_error("make " + directory)));
    std::optional<test::EtcdCluster> cluster;
    if (store == "etcd") cluster.emplace();
    const auto url = [&](const std::string& name) {
        return cluster ? cluster->url(name) : fmt::format("sqlite:{}/{}.db", directory, name);
    };
    // Processes first: neither SQLite nor libcurl may cross a fork.
    json document{{"store", store}};
    const double eight = concurrent(url("eight"), 8, duration);
    const double one = concurrent(url("one"), 1, duration);
    document["allocations_per_second"] = {{"processes_8", eight}, {"processes_1", one}};
    write_configs(directory + "/xen", configs);
    std::vector<double> imports;
    std::vector<double> import_cpu;
    for (int turn = 0; turn < 3; ++turn) {
        const auto [wall, cpu] = import_time(url(fmt::format("import{}", turn)), directory + "/xen", configs);
        imports.push_back(wall);
        import_cpu.push_back(cpu);
    }
    document["import"] = {{"configs", configs}, {"seconds", median(imports)}, {"cpu_seconds", median(import_cpu)}};
    std::vector<Fill> fills;
    if (cluster) {
        // One pool is both: a million in use, and nearly full.
        fills.push_back(fill_cluster(url("ten"), "ten", 1U << 24, 10));
        fills.push_back(fill_cluster(url("full"), "full", many + kLeft, many));
    } else {
        fills.push_back(fill(directory, "ten", 1U << 24, 10));
        fills.push_back(fill(directory, "many", 1U << 24, many));
        fills.push_back(fill(directory, "full", many + kLeft, many));
    }
    document["allocation"] = allocation_times(std::move(fills));
    std::filesystem::remove_all(directory);
    if (as_json) {
        fmt::print("{}\n", document.dump(2));
        return 0;
    }
    fmt::print("{:6} {:>9} {:>9} {:>9} {:>6} {:>9} {:>6}\n", "pool", "us/alloc", "fastest", "slowest",
               "ratio", "cpu us", "ratio");
    for (const json& row : document["allocation"]) {
        fmt::print("{:6} {:9.0f} {:9.0f} {:9.0f} {:6.2f} {:9.0f} {:6.2f}\n", row["pool"].get<std::string>(),
                   row["microseconds"].get<double>(), row["fastest"].get<double>(),
                   row["slowest"].get<double>(), row["ratio"].get<double>(),
                   row["cpu_microseconds"].get<double>(), row["cpu_ratio"].get<double>());
    }
    for (const auto& [name, value] : document["allocations_per_second"].items())
        fmt::print("{}: {:.0f} allocations/s\n", name, value.get<double>());
    fmt::print("import of {} configurations: {:.2f} s, {:.2f} s of it CPU time of the importer\n", configs,
               document["import"]["seconds"].get<double>(), document["import"]["cpu_seconds"].get<double>());
    return 0;
}
