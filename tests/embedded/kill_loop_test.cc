// SPDX-License-Identifier: Apache-2.0
//
// Workers killed at random moments under load, through the whole product: blkbackd notices, starts a successor, and the
// frontend, as strict as Linux's, must see nothing but a pause. Requests of many sizes overlap on two queues, and each
// read is judged: a sector may hold a write W if W was asked before the read was answered, and no other write to that
// sector was asked after W's answer and answered before the read was asked. Nothing else is promised, and nothing less.
//
// RINGBACK_KILLS=N for more kills than in every run; the histogram of the pauses is printed.
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <chrono>
#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <random>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Clock = std::chrono::steady_clock;

namespace {

constexpr uint64_t kSectors = 2048;
constexpr uint32_t kMaxSectors = 128;
constexpr uint64_t kNever = ~uint64_t{0};

// Every 8 bytes of a sector hold the number of the write that wrote it; 0: never written.
struct Write {
    uint64_t number = 0;
    uint64_t asked = 0;
    uint64_t answered = 0;
};

class Load {
  public:
    Load(frontend::Blkfront& front, uint64_t seed) : front_(front), random_(seed), history_(kSectors, {Write{}}) {}

    // Keeps the queues busy until `condition` holds; false: nothing was answered for twenty seconds.
    template <typename Condition>
    bool run_until(Condition condition) {
        auto last = Clock::now();
        while (!condition()) {
            const uint64_t before = answers;
            step(true);
            const auto now = Clock::now();
            if (answers != before) last = now;
            else if (now > last + patience) return false;
        }
        return true;
    }
    bool drain() {
        auto last = Clock::now();
        while (in_flight_ > 0) {
            const uint64_t before = answers;
            step(false);
            if (answers != before) last = Clock::now();
            else if (Clock::now() > last + patience) return false;
        }
        return true;
    }
    [[nodiscard]] uint32_t in_flight() const { return in_flight_; }
    [[nodiscard]] std::string broken() const {
        for (size_t i = 0; i < front_.queue_count(); ++i) {
            if (!front_.queue(i).broken().empty()) return front_.queue(i).broken();
        }
        return {};
    }
    // Every sector once more, alone.
    bool read_all() {
        for (uint64_t sector = 0; sector < kSectors; sector += kMaxSectors) {
            ask(frontend::Op::read, sector, kMaxSectors, front_.queue(0));
            if (!drain()) return false;
        }
        return true;
    }

    std::chrono::seconds patience{20};
    uint64_t answers = 0, errors = 0, corrupt = 0, reads = 0, writes = 0;
    Clock::time_point last_answer = Clock::now();
    Clock::duration longest_gap{};

  private:
    struct Io {
        frontend::Request request;
        std::vector<uint64_t> data;
        uint64_t asked = 0;
        uint64_t number = 0;
        Load* load = nullptr;
        bool busy = false;
    };

    void step(bool more) {
        std::array<pollfd, 4> events{};
        const size_t queues = front_.queue_count();
        for (size_t i = 0; i < queues; ++i) {
            frontend::Queue& queue = front_.queue(i);
            while (more && ask_something(queue)) {
            }
            queue.push();
            (void)queue.reap();
            events[i] = {queue.fd(), POLLIN, 0};
        }
        if (::poll(events.data(), queues, 1) <= 0) return;
        for (size_t i = 0; i < queues; ++i) {
            if (events[i].revents != 0) (void)front_.queue(i).handle_event();
        }
    }
    bool ask_something(frontend::Queue& queue) {
        const uint64_t dice = random_() % 100;
        if (dice == 0) return ask(frontend::Op::flush, 0, 0, queue);
        const uint32_t longest = dice < 20 ? kMaxSectors : 16;
        const auto sectors = static_cast<uint32_t>(1 + random_() % longest);
        const uint64_t sector = random_() % (kSectors - sectors);
        return ask(dice < 60 ? frontend::Op::write : frontend::Op::read, sector, sectors, queue);
    }
    bool ask(frontend::Op op, uint64_t sector, uint32_t sectors, frontend::Queue& queue) {
        if (in_flight_ >= 96) return false;
        Io* io = nullptr;
        for (Io& candidate : ios_) {
            if (!candidate.busy) io = &candidate;
        }
        if (io == nullptr) io = &ios_.emplace_back();
        io->load = this;
        io->data.assign(sectors * 64, op == frontend::Op::write ? next_number_ : 0);
        io->request = {};
        io->request.op = op;
        io->request.sector = sector;
        io->request.length = sectors * 512;
        io->request.data = sectors > 0 ? reinterpret_cast<std::byte*>(io->data.data()) : nullptr;
        io->request.owner = io;
        io->request.done = [](frontend::Request& request, int status) {
            Io& done = *static_cast<Io*>(request.owner);
            done.load->answered(done, status);
        };
        if (!queue.submit(io->request)) return false;
        io->busy = true;
        io->asked = ++now_;
        ++in_flight_;
        if (op == frontend::Op::write) {
            io->number = next_number_++;
            for (uint64_t at = sector; at < sector + sectors; ++at) {
                history_[at].push_back({io->number, io->asked, kNever});
            }
        }
        return true;
    }
    void answered(Io& io, int status) {
        const uint64_t now = ++now_;
        io.busy = false;
        --in_flight_;
        ++answers;
        const auto time = Clock::now();
        longest_gap = std::max(longest_gap, time - last_answer);
        last_answer = time;
        if (status != 0) ++errors;
        const uint64_t first = io.request.sector;
        const uint64_t end = first + io.request.length / 512;
        if (io.request.op == frontend::Op::write) {
            ++writes;
            const uint64_t oldest = oldest_asked();
            for (uint64_t at = first; at < end; ++at) settle(history_[at], io, now, oldest);
        } else if (io.request.op == frontend::Op::read && status == 0) {
            ++reads;
            for (uint64_t at = first; at < end; ++at) {
                if (!allowed(history_[at], &io.data[(at - first) * 64], io.asked)) ++corrupt;
            }
        }
    }
    [[nodiscard]] uint64_t oldest_asked() const {
        uint64_t oldest = now_;
        for (const Io& io : ios_) oldest = io.busy ? std::min(oldest, io.asked) : oldest;
        return oldest;
    }
    // Notes the answer, and forgets what no read can be given any more.
    static void settle(std::vector<Write>& history, const Io& io, uint64_t now, uint64_t oldest) {
        uint64_t latest = 0;  // asked, among those answered before any read under way was asked
        for (Write& write : history) {
            if (write.number == io.number) write.answered = now;
            if (write.answered < oldest) latest = std::max(latest, write.asked);
        }
        std::erase_if(history, [&](const Write& write) { return write.answered < latest; });
    }
    static bool allowed(const std::vector<Write>& history, const uint64_t* data, uint64_t asked) {
        for (size_t i = 1; i < 64; ++i) {
            if (data[i] != data[0]) return false;
        }
        const auto found = std::find_if(history.begin(), history.end(),
                                        [&](const Write& write) { return write.number == data[0]; });
        if (found == history.end()) return false;
        return std::none_of(history.begin(), history.end(), [&](const Write& later) {
            return later.asked > found->answered && later.answered < asked;
        });
    }

    frontend::Blkfront& front_;
    std::mt19937_64 random_;
    std::deque<Io> ios_;
    std::vector<std::vector<Write>> history_;
    uint64_t now_ = 0;
    uint64_t next_number_ = 1;
    uint32_t in_flight_ = 0;
};

// The worker that serves now, from its own record; 0: none.
pid_t worker_of(const DiskBed& bed) {
    std::ifstream file(bed.daemon.directory() + "/blk/" + std::to_string(bed.t.domid) + ".worker");
    pid_t pid = 0;
    file >> pid;
    return pid;
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

}  // namespace

TEST_CASE("workers killed at random moments: nothing lost, nothing twice, nothing wrong, no error, state 4") {
    const bool persistent = GENERATE(true, false);
    DiskBed bed("[disk]\nmax_queues = 2\n");
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front(options_with(persistent));
    must(front->attach());
    REQUIRE(front->queue_count() == 2);
    Load load(*front, persistent ? 1 : 2);
    std::mt19937_64 random(persistent ? 3 : 4);
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
    std::cerr << (persistent ? "persistent grants: " : "grant copy: ") << load.reads << " reads, " << load.writes
              << " writes, " << disk["counters"]["replayed"] << " requests done again, ";
    print_histogram(pauses);
    must(front->close());
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
