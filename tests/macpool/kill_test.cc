// SPDX-License-Identifier: Apache-2.0
//
// Many processes on one pool, killed at random moments: no address is given twice, none that was told to
// somebody is lost, and the pool is whole. On etcd one of the three members is killed in the middle, too.
//
// Each process tells an address through a pipe only after the pool has answered; what the pipe holds is what
// a guest's configuration would have. Its writes are smaller than PIPE_BUF, so a kill leaves no half of one.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/generators/catch_generators.hpp>
#include <map>
#include <random>
#include <set>

#include "runtime/unique_fd.h"
#include "tests/macpool/fixture.h"

using namespace ringback;
using namespace ringback::mac;
using namespace ringback::test;

namespace {

constexpr unsigned kProcesses = 64;
constexpr unsigned kNics = 12;
constexpr unsigned kShared = 16;  // guests that several processes work for

struct Told {
    uint32_t process;
    uint32_t nic;
    uint64_t mac;
    uint32_t released;  // it gave the address back before the next line
    uint32_t error;
};

std::string guest_of(uint32_t process) {
    return "g" + std::to_string(process % kShared);
}

// Asks until there is an answer: how long a cluster that is short of a member and of CPU takes is no verdict on the
// pool, which says that it did not get through and is to be asked again.
template <typename Ask>
auto patiently(Ask ask) {
    for (;;) {
        auto answer = ask();
        if (answer.ok() || (answer.error().code != EAGAIN && answer.error().code != EBUSY)) return answer;
    }
}

// In the child: takes addresses for its guest, in an order of its own, until it is killed or has all; gives
// some back.
[[noreturn]] void work(const std::string& url, uint32_t process, uint32_t generation, int pipe) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    Location location;
    location.url = url;
    const auto tell = [&](Told told) {
        if (::write(pipe, &told, sizeof told) != sizeof told) ::_exit(3);
    };
    const auto code_of = [&](const Error& error) {
        ::dprintf(STDERR_FILENO, "process %u: %s\n", process, error.message.c_str());
        return static_cast<uint32_t>(error.code);
    };
    auto pool = patiently([&]() -> Result<Pool> {
        return Pool::open(TRY(open_store(location, system_clock(), Open::existing)), system_clock());
    });
    if (!pool.ok()) {
        tell({process, 0, 0, 0, code_of(pool.error())});
        ::_exit(2);
    }
    std::minstd_rand random(process * 1000 + generation + 1);
    const Guest own{"own" + std::to_string(process), {}};
    for (unsigned turn = 0; turn < kNics; ++turn) {
        const unsigned nic = static_cast<unsigned>(random() % kNics);
        const auto granted = patiently([&] { return pool.value().allocate(named(guest_of(process)), nic); });
        tell({process, nic, granted.ok() ? granted.value().lease.mac.value : 0, 0,
              granted.ok() ? 0U : code_of(granted.error())});
        // Released addresses go through the queue while others draw.
        const auto passing = pool.value().allocate(own, 0);
        if (!passing.ok()) continue;
        const auto released = patiently([&] { return pool.value().release(passing.value().lease.mac); });
        // An answer may have been lost after the release was done.
        if (!released.ok() && released.error().code != ENOENT)
            tell({process, 0, 0, 1, code_of(released.error())});
    }
    ::_exit(0);
}

struct Crowd {
    std::string url;
    UniqueFd read_end;
    UniqueFd write_end;
    std::map<pid_t, std::pair<uint32_t, uint32_t>> running;  // process, generation

    void start(uint32_t process, uint32_t generation) {
        const pid_t pid = ::fork();
        REQUIRE(pid >= 0);
        if (pid == 0) work(url, process, generation, write_end.get());
        running[pid] = {process, generation};
    }
};

}  // namespace

TEST_CASE("64 processes allocate at once and are killed at random") {
    const Kind kind = any_store();
    Place place(kind);
    // Closed again before the first fork: neither SQLite nor libcurl may cross one.
    (void)place.make("00:16:3e:00:00:00-00:16:3e:00:3f:ff", 1);
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    Crowd crowd{place.url(), UniqueFd(ends[0]), UniqueFd(ends[1]), {}};
    ::fcntl(crowd.write_end.get(), F_SETPIPE_SZ, 1 << 20);  // holds all that can be told
    REQUIRE(::fcntl(crowd.read_end.get(), F_SETFL, O_NONBLOCK) == 0);

    std::map<std::pair<std::string, uint32_t>, uint64_t> told;
    uint64_t lines = 0;
    uint64_t errors = 0;  // each is told on stderr
    const auto read_all = [&] {
        for (Told line{}; ::read(crowd.read_end.get(), &line, sizeof line) == sizeof line; ++lines) {
            if (line.error != 0) ++errors;
            if (line.error != 0 || line.mac == 0) continue;
            const auto [known, fresh] = told.try_emplace({guest_of(line.process), line.nic}, line.mac);
            REQUIRE(known->second == line.mac);  // the same guest and NIC: the same for ever
        }
    };

    for (uint32_t process = 0; process < kProcesses; ++process)
        crowd.start(process, 0);
    std::minstd_rand random(5);
    unsigned killed = 0;
    bool member_killed = kind == Kind::sqlite;
    while (!crowd.running.empty()) {
        read_all();
        // Paced by what they get done, not by a clock: a kill for about every third address told, 100 in all.
        if (killed < 100 && lines >= killed * 3) {
            auto victim = std::next(crowd.running.begin(),
                                    static_cast<std::ptrdiff_t>(random() % crowd.running.size()));
            ::kill(victim->first, SIGKILL);
            ++killed;
        }
        if (!member_killed && lines > 100) {
            cluster().kill_member(1);
            member_killed = true;
        }
        int status = 0;
        const pid_t ended = ::waitpid(-1, &status, WNOHANG);
        if (ended > 0 && crowd.running.contains(ended)) {
            const auto [process, generation] = crowd.running.at(ended);
            crowd.running.erase(ended);
            if (WIFSIGNALED(status)) crowd.start(process, generation + 1);
        } else {
            ::usleep(500);
        }
    }
    read_all();
    CHECK(killed >= 64);
    CHECK(errors == 0);
    CHECK(member_killed);

    Pool pool = place.pool();
    // No duplicate, and nothing that was told is lost.
    std::set<uint64_t> distinct;
    for (const auto& [who, mac] : told) {
        CHECK(distinct.insert(mac).second);
        const auto lease = must(pool.holder(Mac{mac}));
        REQUIRE(lease.has_value());
        CHECK(lease->guest.name == who.first);
        CHECK(lease->nic == who.second);
    }
    CHECK(told.size() > kShared);
    check_whole(*place.store(), pool);
    if (kind == Kind::etcd) cluster().start_member(1);
    WARN(lines << " answers, " << killed << " kills, " << told.size() << " addresses");
}
