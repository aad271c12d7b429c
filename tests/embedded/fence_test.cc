// SPDX-License-Identifier: Apache-2.0
//
// The fence between a worker and its successor, on storage that keeps a dead worker's requests for as long as the test
// likes (slow_disk.h). Each thing is done twice: with the product's worker nothing is lost; with one that takes no locks,
// the late request does its harm, so the test can fail.
#include <fcntl.h>
#include <signal.h>

#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <deque>
#include <filesystem>

#include "slow_disk.h"
#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using frontend::Op;

namespace {

constexpr uint64_t kDiskBytes = 1 << 20;
constexpr int kAnswerMs = 10'000;

struct Asked {
    frontend::Request request;
    std::vector<uint64_t> data = std::vector<uint64_t>(512);
    int status = 1;
    bool answered = false;
};

struct Bed {
    explicit Bed(const char* worker, bool readonly = false)
        : slow(mount()), bed("[disk]\nmax_queues = 1\n", {}, worker) {
        spec = bed.disk(slow->path());
        spec.direct_io_safe = true;
        spec.readonly = readonly;
    }
    void attach() {
        must(bed.xl.attach_disk(bed.t.domid, spec));
        front = bed.front();
        must(front->attach());
    }
    Asked& ask(Op op, uint64_t sector, uint64_t number) {
        Asked& asked = all.emplace_back();
        std::fill(asked.data.begin(), asked.data.end(), number);
        asked.request.op = op;
        asked.request.sector = sector;
        asked.request.length = 4096;
        asked.request.data = reinterpret_cast<std::byte*>(asked.data.data());
        asked.request.owner = &asked;
        asked.request.done = [](frontend::Request& request, int status) {
            auto& mine = *static_cast<Asked*>(request.owner);
            mine.status = status;
            mine.answered = true;
        };
        REQUIRE(front->queue(0).submit(asked.request));
        front->queue(0).push();
        return asked;
    }
    [[nodiscard]] bool settle(const Asked& asked) const {
        while (!asked.answered) {
            if (!front->queue(0).wait(kAnswerMs)) return false;
        }
        return asked.status == 0;
    }
    // Kills the worker while `asked` is with the disk; its successor is there when this returns.
    void kill_worker() {
        const pid_t old = bed.daemon.worker(bed.t.domid);
        REQUIRE(old != 0);
        REQUIRE(::kill(old, SIGKILL) == 0);
        REQUIRE(eventually([&] {
            const pid_t now = bed.daemon.worker(bed.t.domid);
            return now != 0 && now != old;
        }));
    }
    [[nodiscard]] bool recovering() const {
        return bed.daemon.ask({{"command", "status"}})["guests"][0]["disks"][0].value("recovering", false);
    }

    static std::unique_ptr<SlowDisk> mount() {
        auto mounted = SlowDisk::mount(kDiskBytes);
        if (!mounted) SKIP("no FUSE mounts here");
        return mounted;
    }

    std::unique_ptr<SlowDisk> slow;
    DiskBed bed;
    xen::embedded::DiskSpec spec;
    std::unique_ptr<frontend::Blkfront> front;
    std::deque<Asked> all;
};

}  // namespace

TEST_CASE("a dead worker's write lands before its successor does anything; without the fence it undoes a newer one") {
    const bool fence = GENERATE(true, false);
    INFO("with the fence: " << fence);
    Bed bed(fence ? RINGBACK_WORKER : RINGBACK_FENCELESS_WORKER);
    bed.attach();
    bed.slow->hold(SlowDisk::Kind::write, 1);
    const Asked& first = bed.ask(Op::write, 0, 0xaaaa);
    REQUIRE(eventually([&] { return bed.slow->held() == 1; }));
    bed.kill_worker();
    if (fence) {
        // Looked at a few times: nothing is asked of the disk while the dead worker's write is on its way.
        for (int look = 0; look < 100; ++look) REQUIRE(bed.recovering());
        CHECK(bed.slow->arrived(SlowDisk::Kind::write) == 1);
        bed.slow->release();
        REQUIRE(bed.settle(first));
    } else {
        REQUIRE(bed.settle(first));  // done again, while the former one is still there
    }
    const Asked& second = bed.ask(Op::write, 0, 0xbbbb);
    REQUIRE(bed.settle(second));
    bed.slow->release();
    const size_t writes = 3;  // the dead worker's, the same again, the newer one
    REQUIRE(eventually([&] { return bed.slow->done(SlowDisk::Kind::write) == writes; }));
    CHECK(bed.slow->content(0) == (fence ? 0xbbbb : 0xaaaa));
    must(bed.front->close());
}

TEST_CASE("a dead worker's read of a read-only disk is over before the same is answered again") {
    const bool fence = GENERATE(true, false);
    INFO("with the fence: " << fence);
    Bed bed(fence ? RINGBACK_WORKER : RINGBACK_FENCELESS_WORKER, true);
    bed.attach();
    bed.slow->hold(SlowDisk::Kind::read, 1);
    const Asked& first = bed.ask(Op::read, 0, 1);
    REQUIRE(eventually([&] { return bed.slow->held() == 1; }));
    const size_t before = bed.slow->arrived(SlowDisk::Kind::read);
    bed.kill_worker();
    if (fence) {
        for (int look = 0; look < 100; ++look) REQUIRE(bed.recovering());
        CHECK(bed.slow->arrived(SlowDisk::Kind::read) == before);
        bed.slow->release();
    }
    REQUIRE(bed.settle(first));
    // What is still held would go into a page of the guest's that has been answered.
    CHECK(bed.slow->held() == (fence ? 0U : 1U));
    bed.slow->release();
    must(bed.front->close());
}

TEST_CASE("a frontend that closes while its worker is dead gets its answers before the disk is closed") {
    const bool draining = GENERATE(false, true);  // whether the worker dies before or after it is told to finish
    INFO("while it finishes: " << draining);
    Bed bed(RINGBACK_WORKER);
    bed.attach();
    bed.slow->hold(SlowDisk::Kind::write, 1);
    const Asked& asked = bed.ask(Op::write, 0, 0xcccc);
    REQUIRE(eventually([&] { return bed.slow->held() == 1; }));
    if (!draining) bed.kill_worker();
    const auto is = [](xen::XenbusState wanted) { return [wanted](xen::XenbusState state) { return state == wanted; }; };
    must(bed.front->set_state(xen::XenbusState::closing));
    must(bed.front->wait_backend(is(xen::XenbusState::closing)));
    must(bed.front->set_state(xen::XenbusState::closed));
    if (draining) {
        REQUIRE(eventually([&] {
            return bed.bed.daemon.ask({{"command", "status"}})["guests"][0]["disks"][0]["ring"] == "disconnecting";
        }));
        bed.kill_worker();
    }
    bed.slow->release();
    must(bed.front->wait_backend(is(xen::XenbusState::closed)));
    (void)bed.front->queue(0).reap();
    CHECK(asked.answered);
    CHECK(asked.status == 0);
    CHECK(bed.slow->content(0) == 0xcccc);
}

TEST_CASE("nobody but the worker has the descriptions that fence: not blkbackd, not twice") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    must(front->attach());
    for (int round = 0; round < 2; ++round) {
        const pid_t worker = bed.daemon.worker(bed.t.domid);
        size_t images = 0, journals = 0;
        for (const auto& process : std::filesystem::directory_iterator("/proc")) {
            std::error_code error;
            for (const auto& fd : std::filesystem::directory_iterator(process.path() / "fd", error)) {
                const std::string target = std::filesystem::read_symlink(fd, error).string();
                const bool image = target == path;
                const bool journal = target.starts_with(bed.daemon.directory() + "/blk/") && target.ends_with(".journal");
                if (!image && !journal) continue;
                CHECK(process.path().filename() == std::to_string(worker));
                ++(image ? images : journals);
            }
        }
        CHECK(images == 1);
        CHECK(journals == 1);
        if (round > 0) break;
        REQUIRE(::kill(worker, SIGKILL) == 0);
        std::string data(4096, 'x');
        REQUIRE(transfer(*front, Op::write, 0, data) == 0);
        REQUIRE(eventually([&] { return bed.daemon.worker(bed.t.domid) != worker; }));
    }
    must(front->close());
}
