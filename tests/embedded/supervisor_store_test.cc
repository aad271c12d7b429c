// SPDX-License-Identifier: Apache-2.0
//
// xenstored goes away under blkbackd. What cannot be read looks like what is gone, so it must not go on: it ends at once,
// its workers serve on, and the next one finds them as soon as there is a store again.
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <list>
#include <thread>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;

namespace {

// Stands between the store's socket and one that can break.
class BreakableStore {
  public:
    explicit BreakableStore(const CoreProcess& core)
        : path_(core.directory() + "/breakable"), target_(core.store_socket()),
          listener_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        const sockaddr_un address = address_of(path_);
        REQUIRE(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
        REQUIRE(::listen(listener_.get(), 8) == 0);
        std::array<int, 2> ends{};
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
        wake_.reset(ends[0]);
        woken_.reset(ends[1]);
        thread_ = std::thread([this] { serve(); });
    }
    ~BreakableStore() { lose(); }
    [[nodiscard]] const std::string& path() const { return path_; }
    // Every connection ends and no new one is taken.
    void lose() {
        if (!thread_.joinable()) return;
        wake_.reset();
        thread_.join();
        pairs_.clear();
        listener_.reset();
    }

  private:
    struct Pair {
        UniqueFd client, store;
    };
    void serve() {
        for (;;) {
            std::vector<pollfd> all = {{woken_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
            for (const Pair& pair : pairs_) {
                all.push_back({pair.client.get(), POLLIN, 0});
                all.push_back({pair.store.get(), POLLIN, 0});
            }
            if (::poll(all.data(), all.size(), -1) < 0) continue;
            if (all[0].revents != 0) return;
            size_t next = 2;
            for (auto pair = pairs_.begin(); pair != pairs_.end(); next += 2) {
                const bool on = pass(all[next].revents, pair->client, pair->store) &&
                                pass(all[next + 1].revents, pair->store, pair->client);
                pair = on ? std::next(pair) : pairs_.erase(pair);
            }
            if (all[1].revents != 0) take();
        }
    }
    static bool pass(short revents, const UniqueFd& from, const UniqueFd& to) {
        if (revents == 0) return true;
        std::array<char, 8192> bytes{};
        const ssize_t got = ::recv(from.get(), bytes.data(), bytes.size(), 0);
        return got > 0 && ::send(to.get(), bytes.data(), static_cast<size_t>(got), MSG_NOSIGNAL) == got;
    }
    void take() {
        Pair pair{UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)),
                  UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))};
        const sockaddr_un address = address_of(target_);
        if (::connect(pair.store.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
            pairs_.push_back(std::move(pair));
        }
    }

    std::string path_, target_;
    UniqueFd listener_, wake_, woken_;
    std::list<Pair> pairs_;
    std::thread thread_;
};

// A bed whose daemon is on a store that can break.
struct BreakableBed : DiskBed {
    BreakableBed() : broken(t.core) {
        daemon.stop();
        ::setenv("XENSTORED_PATH", broken.path().c_str(), 1);
        daemon.start();
        mend();
    }
    // What is started from now on finds the real one.
    void mend() const { ::setenv("XENSTORED_PATH", t.core.store_socket().c_str(), 1); }
    BreakableStore broken;
};

}  // namespace

TEST_CASE("blkbackd ends when it loses xenstored; the guest's disk goes on, and the next blkbackd has it again") {
    const CapturedLog log;
    BreakableBed bed;
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    must(front->attach());
    const pid_t worker = bed.daemon.worker(bed.t.domid);
    bed.broken.lose();
    CHECK(bed.daemon.wait_exit() == 1);
    CHECK(log.lines("xenstored is gone") == 1);
    std::string data(4096, 'z');
    CHECK(transfer(*front, frontend::Op::write, 8, data) == 0);
    CHECK(bed.node(bed.back() + "/state") == "4");
    bed.daemon.start();
    CHECK(transfer(*front, frontend::Op::read, 8, data) == 0);
    const std::string device = "backend/vbd/" + std::to_string(bed.t.domid) + "/51712";
    CHECK(bed.daemon.ask({{"command", "wait-ready"}, {"device", device}}).value("ok", false));
    CHECK(bed.daemon.worker(bed.t.domid) == worker);
    CHECK(bed.node(bed.back() + "/state") == "4");
    must(front->close());
    must(bed.xl.detach_disk(bed.t.domid, devid));
    bed.daemon.wait_without_workers();
}

TEST_CASE("blkbackd ends when it loses xenstored while it has nothing to do") {
    BreakableBed bed;
    bed.broken.lose();
    CHECK(bed.daemon.wait_exit() == 1);
}

TEST_CASE("what happened while there was no blkbackd is made up for by the next one") {
    BreakableBed bed;
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    must(front->attach());
    bed.broken.lose();
    CHECK(bed.daemon.wait_exit() == 1);
    SECTION("the guest closed its disk") {
        must(front->set_state(xen::XenbusState::closing));
        must(front->set_state(xen::XenbusState::closed));
        bed.daemon.start();
        bed.wait_node(bed.back() + "/state", "6");
        must(bed.xl.detach_disk(bed.t.domid, devid));
    }
    SECTION("the guest was destroyed") {
        bed.xl.timeouts.device = 100;
        must(bed.xl.destroy_domain(bed.t.domid));
        bed.daemon.start();
    }
    bed.daemon.wait_without_workers();
    front->drop_rings();
    CHECK(eventually([&] { return front->still_mapped() == 0; }));
}

TEST_CASE("a disk that was taken away while there was no blkbackd is let go of by the next one") {
    BreakableBed bed;
    const std::string path = bed.file("first.img");
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto second = bed.disk(bed.file("second.img"));
    second.vdev = "xvdb";
    must(bed.xl.attach_disk(bed.t.domid, second));
    auto front = bed.front();
    must(front->attach());
    frontend::Options options;
    options.devid = 51728;
    auto other = bed.front(options);
    must(other->attach());
    bed.broken.lose();
    CHECK(bed.daemon.wait_exit() == 1);
    bed.xl.timeouts.device = 100;
    must(bed.xl.detach_disk(bed.t.domid, devid, true));
    bed.xl.timeouts.device = 10000;
    SECTION("and it stays away") {
        bed.daemon.start();
        front->drop_rings();
        CHECK(eventually([&] { return front->still_mapped() == 0; }));
        const UniqueFd image(::open(path.c_str(), O_RDWR | O_CLOEXEC));
        CHECK(eventually([&] { return ::flock(image.get(), LOCK_EX | LOCK_NB) == 0; }));
        ::flock(image.get(), LOCK_UN);
    }
    SECTION("and it was made anew") {
        const auto spec = bed.disk(path);
        must(bed.xl.write_disk_nodes(bed.t.domid, spec));
        bed.daemon.start();
        must(bed.xl.wait_backend_ready(bed.t.domid, devid, spec));
        must(bed.xl.hotplug(bed.t.domid, devid, "add"));
    }
    if (bed.node(bed.back() + "/state").empty()) must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto again = bed.front();
    must(again->attach());
    std::string data(4096, 'a');
    CHECK(transfer(*again, frontend::Op::write, 0, data) == 0);
    CHECK(transfer(*other, frontend::Op::write, 0, data) == 0);
}

TEST_CASE("without a xenstored blkbackd does not start, and says why") {
    const CapturedLog log;
    DiskBed bed;
    bed.daemon.stop();
    ::setenv("XENSTORED_PATH", (bed.t.core.directory() + "/nobody").c_str(), 1);
    const std::string command = std::string(RINGBACK_BLKBACKD) + " --config /dev/null --runtime-directory " +
                                bed.daemon.directory();
    const int status = std::system(command.c_str());
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 1);
    CHECK(log.lines("connect to xenstored") == 1);
}
