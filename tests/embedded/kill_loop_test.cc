// SPDX-License-Identifier: Apache-2.0
//
// Workers killed at random moments under load, through the whole product: blkbackd notices, starts a successor, and the
// frontend, as strict as Linux's, must see nothing but a pause. What a read may find is in judged_load.h.
//
// RINGBACK_KILLS=N for more kills of each kind than in every run; the histograms of the pauses are printed.
#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <optional>
#include <random>

#include "judged_load.h"
#include "slow_disk.h"
#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Clock = std::chrono::steady_clock;

namespace {

// The worker that serves now, from its own record; 0: none.
pid_t worker_of(const DiskBed& bed) {
    std::ifstream file(bed.daemon.directory() + "/blk/" + std::to_string(bed.t.domid) + ".worker");
    pid_t pid = 0;
    file >> pid;
    return pid;
}

bool recovering(const DiskBed& bed) {
    return bed.daemon.ask({{"command", "status"}})["guests"][0]["disks"][0].value("recovering", false);
}

size_t wanted_kills() {
    const char* text = ::getenv("RINGBACK_KILLS");
    return text == nullptr ? 15 : std::strtoul(text, nullptr, 10);
}

void print_histogram(std::vector<double> pauses) {
    std::sort(pauses.begin(), pauses.end());
    const auto at = [&](double part) { return pauses[static_cast<size_t>(part * static_cast<double>(pauses.size() - 1))]; };
    std::cerr << pauses.size() << " kills; pause in ms: median " << at(0.5) << ", p90 " << at(0.9) << ", p99 " << at(0.99)
              << ", longest " << pauses.back() << '\n';
    double low = 0;
    for (double high = 4; low < pauses.back(); low = high, high *= 1.41421356) {
        const auto count = std::count_if(pauses.begin(), pauses.end(), [&](double p) { return p > low && p <= high; });
        if (count > 0) std::cerr << "  " << low << " to " << high << ": " << count << '\n';
    }
}

frontend::Options options_with(bool persistent) {
    frontend::Options options;
    options.queues = 2;
    options.persistent = persistent;
    return options;
}

enum class Kind : uint8_t { persistent, copy, qcow2, block };

const char* name_of(Kind kind) {
    switch (kind) {
        case Kind::persistent: return "raw, persistent grants";
        case Kind::copy: return "raw, grant copy";
        case Kind::qcow2: return "qcow2";
        case Kind::block: return "block device";
    }
    return "";
}

bool run(const std::string& command) { return std::system((command + " >/dev/null 2>&1").c_str()) == 0; }

// A block device on a file, as long as it lives.
struct LoopDevice {
    explicit LoopDevice(const std::string& file) {
        FILE* tool = ::popen(("losetup --find --show " + file + " 2>/dev/null").c_str(), "r");
        std::array<char, 64> line{};
        if (tool != nullptr && std::fgets(line.data(), line.size(), tool) != nullptr) path = line.data();
        if (tool != nullptr) ::pclose(tool);
        while (!path.empty() && path.back() == '\n') path.pop_back();
    }
    ~LoopDevice() {
        if (!path.empty()) run("losetup --detach " + path);
    }
    LoopDevice(const LoopDevice&) = delete;
    LoopDevice& operator=(const LoopDevice&) = delete;
    std::string path;  // empty: there are none here
};

}  // namespace

TEST_CASE("workers killed at random moments: nothing lost, nothing twice, nothing wrong, no error, state 4") {
    const Kind kind = GENERATE(Kind::persistent, Kind::copy, Kind::qcow2, Kind::block);
    DiskBed bed("[disk]\nmax_queues = 2\n");
    std::optional<LoopDevice> device;
    std::string target = bed.file("disk.img", kSectors * 512);
    if (kind == Kind::block) {
        device.emplace(target);
        if (device->path.empty()) SKIP("no loop devices here");
        target = device->path;
    } else if (kind == Kind::qcow2) {
        target = bed.t.core.directory() + "/disk.qcow2";
        // Small clusters, so that there is something to allocate all the time.
        if (!run("qemu-img create -f qcow2 -o cluster_size=512 " + target + " " + std::to_string(kSectors * 512))) {
            SKIP("no qemu-img here");
        }
    }
    const bool persistent = kind != Kind::copy;
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk((kind == Kind::qcow2 ? "qcow2:" : "") + target)));
    auto front = bed.front(options_with(persistent));
    must(front->attach());
    REQUIRE(front->queue_count() == 2);
    Load load(*front, static_cast<uint64_t>(kind));
    std::mt19937_64 random(static_cast<uint64_t>(kind) + 10);
    std::vector<double> pauses;
    const size_t kills = wanted_kills();
    for (size_t kill = 0; kill < kills; ++kill) {
        const uint64_t busy = load.answers + 100 + random() % 400;
        REQUIRE(load.run_until([&] { return load.answers >= busy; }));
        pid_t worker = 0;
        REQUIRE(load.run_until([&] { return (worker = worker_of(bed)) != 0; }));
        const auto moment = Clock::now() + std::chrono::microseconds(random() % 3000);
        REQUIRE(load.run_until([&] { return Clock::now() >= moment; }));
        INFO("kill " << kill << " of worker " << worker);
        load.last_answer = Clock::now();
        load.longest_gap = {};
        ::kill(worker, SIGKILL);
        if (random() % 10 == 0) {  // the next one too, while it takes over
            pid_t next = worker;
            REQUIRE(load.run_until([&] { return (next = worker_of(bed)) != worker && next != 0; }));
            ::kill(next, SIGKILL);
            worker = next;
        }
        REQUIRE(load.run_until([&] {
            const pid_t next = worker_of(bed);
            return next != 0 && next != worker;
        }));
        const uint64_t since = load.answers + 200;
        REQUIRE(load.run_until([&] { return load.answers >= since; }));
        pauses.push_back(std::chrono::duration<double, std::milli>(load.longest_gap).count());
        // A disk that is at its takeover each time is given up; a slow sync may take longer than all of the above.
        REQUIRE(load.run_until([&] { return !recovering(bed); }));
        REQUIRE(load.broken().empty());
        REQUIRE(load.errors == 0);
        REQUIRE(load.corrupt == 0);
    }
    REQUIRE(load.drain());
    REQUIRE(load.read_all());
    CHECK(load.corrupt == 0);
    CHECK(load.errors == 0);
    CHECK(load.broken().empty());
    CHECK(front->poll_backend() == frontend::Change::none);
    CHECK(bed.node(bed.back() + "/state") == "4");
    const auto status = bed.daemon.ask({{"command", "status"}});
    const auto& disk = status["guests"][0]["disks"][0];
    CHECK(disk["recoveries"].get<size_t>() >= kills);
    std::cerr << name_of(kind) << ": " << load.reads << " reads, " << load.writes
              << " writes, " << disk["counters"]["replayed"] << " requests done again, ";
    print_histogram(pauses);
    must(front->close());
    must(bed.xl.detach_disk(bed.t.domid, devid));
    bed.daemon.wait_without_workers();
    if (kind == Kind::qcow2) CHECK(run("qemu-img check " + target));
}

TEST_CASE("the same without the journal loses what was under way") {
    DiskBed bed("[disk]\nmax_queues = 2\n", {}, RINGBACK_FORGETFUL_WORKER);
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front(options_with(true));
    must(front->attach());
    Load load(*front, 5);
    load.patience = std::chrono::seconds(2);
    bool lost = false;
    for (int kill = 0; kill < 20 && !lost; ++kill) {
        const uint64_t busy = load.answers + 200;
        lost = !load.run_until([&] { return load.answers >= busy || !load.broken().empty(); });
        const pid_t worker = worker_of(bed);
        if (worker != 0) ::kill(worker, SIGKILL);
        lost = lost || !load.run_until([&] { return (worker_of(bed) != 0 && worker_of(bed) != worker) || !load.broken().empty(); });
        lost = lost || !load.drain() || !load.broken().empty() || load.corrupt > 0;
    }
    CHECK(lost);
}

TEST_CASE("on storage that is slow a dead worker's requests outlive it; without the fence they undo newer ones") {
    const bool fence = GENERATE(true, false);
    INFO("with the fence: " << fence);
    const auto slow = SlowDisk::mount(kSectors * 512);
    if (!slow) SKIP("no FUSE mounts here");
    slow->delay(std::chrono::milliseconds(1000));
    DiskBed bed("[disk]\nmax_queues = 2\n", {}, fence ? RINGBACK_WORKER : RINGBACK_FENCELESS_WORKER);
    auto disk = bed.disk(slow->path());
    disk.direct_io_safe = true;
    must(bed.xl.attach_disk(bed.t.domid, disk));
    auto front = bed.front(options_with(true));
    must(front->attach());
    Load load(*front, 6);
    const size_t kills = fence ? std::max<size_t>(6, wanted_kills() / 10) : 40;
    std::vector<double> pauses;
    for (size_t kill = 0; kill < kills && load.corrupt == 0; ++kill) {
        const uint64_t busy = load.answers + 150;
        REQUIRE(load.run_until([&] { return load.answers >= busy; }));
        const pid_t worker = worker_of(bed);
        REQUIRE(worker != 0);
        load.last_answer = Clock::now();
        load.longest_gap = {};
        ::kill(worker, SIGKILL);
        REQUIRE(load.run_until([&] { return worker_of(bed) != 0 && worker_of(bed) != worker; }));
        const uint64_t since = load.answers + 150;
        REQUIRE(load.run_until([&] { return load.answers >= since; }));
        pauses.push_back(std::chrono::duration<double, std::milli>(load.longest_gap).count());
        REQUIRE(load.run_until([&] { return !recovering(bed); }));
    }
    REQUIRE(load.drain());
    REQUIRE(load.read_all());
    CHECK(load.errors == 0);
    CHECK(load.broken().empty());
    CHECK((load.corrupt == 0) == fence);
    if (fence) {
        std::cerr << "slow storage: ";
        print_histogram(pauses);
    }
    must(front->close());
}

TEST_CASE("supervisor and workers killed at once: the next supervisor takes over from their journals") {
    DiskBed bed("[disk]\nmax_queues = 2\n");
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front(options_with(true));
    must(front->attach());
    Load load(*front, 7);
    for (int round = 0; round < 5; ++round) {
        const uint64_t busy = load.answers + 300;
        REQUIRE(load.run_until([&] { return load.answers >= busy; }));
        const pid_t worker = worker_of(bed);
        REQUIRE(worker != 0);
        bed.daemon.kill_with(worker);
        bed.daemon.start();
        const uint64_t since = load.answers + 300;
        REQUIRE(load.run_until([&] { return load.answers >= since; }));
        REQUIRE(load.errors == 0);
        REQUIRE(load.corrupt == 0);
    }
    REQUIRE(load.drain());
    REQUIRE(load.read_all());
    CHECK(load.corrupt == 0);
    CHECK(load.broken().empty());
    CHECK(bed.node(bed.back() + "/state") == "4");
    must(front->close());
}
