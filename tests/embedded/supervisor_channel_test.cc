// SPDX-License-Identifier: Apache-2.0
//
// A worker that was taken over by its guest says anything at all to blkbackd: it is ended, its guest's disks fail with a
// reason, and nobody else notices.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>
#include <fstream>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;

namespace {

size_t descriptors(pid_t pid) {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
        count += entry.path().empty() ? 0 : 1;
    }
    return count;
}

}  // namespace

TEST_CASE("whatever a worker says to the supervisor, only its own guest's disks fail") {
    const CapturedLog log;
    DiskBed bed("", {}, RINGBACK_HOSTILE_WORKER);
    const Neighbour neighbour(bed);
    const std::string role = bed.daemon.directory() + "/hostile-" + std::to_string(bed.t.domid);
    const auto spec = bed.disk(bed.file("disk.img"));
    const size_t before = descriptors(bed.daemon.pid());
    struct Case {
        const char* how;
        const char* why;
    };
    for (const Case& c : {Case{"nothing", "receive a message"},
                          Case{"a byte", "receive a message"},
                          Case{"truncated", "receive a message"},
                          Case{"oversize", "receive a message"},
                          Case{"another version", "other version?"},
                          Case{"unknown type", "a message of type 999"},
                          Case{"type zero", "a message of type 0"},
                          Case{"hello again", "a message of type 1"},
                          Case{"a supervisor's words", "a message of type 3"},
                          Case{"an answer to nobody", "it answered what nobody asked"},
                          Case{"two answers", ""},
                          Case{"files without end", "without reading the answers"},
                          Case{"descriptors", ""},
                          Case{"texts without end", ""},
                          Case{"gone", ""}}) {
        INFO(c.how);
        std::ofstream(role) << c.how << '\n';
        const auto attached = bed.xl.attach_disk(bed.t.domid, spec);
        const std::string said = c.how;
        if (said == "two answers") {
            // The first one was good, and the second ends the worker: whichever the script sees.
            if (attached.ok()) must(bed.xl.detach_disk(bed.t.domid, 51712));
        } else {
            REQUIRE_FALSE(attached.ok());
            CHECK_THAT(attached.error().message, ContainsSubstring(c.why));
        }
        CHECK(bed.node(bed.back() + "/state").empty());
        neighbour.check();
        // Ended, and nothing of it kept.
        CHECK(eventually([&] { return descriptors(bed.daemon.pid()) == before; }));
        CHECK(bed.daemon.worker(bed.t.domid) == 0);
    }
    CHECK(log.lines("worker") < 200);
    std::filesystem::remove(role);
    must(bed.xl.attach_disk(bed.t.domid, spec));
    auto front = bed.front();
    must(front->attach());
    std::string data(4096, 'y');
    CHECK(transfer(*front, frontend::Op::write, 0, data) == 0);
}

TEST_CASE("who does not say hello as it should is no worker") {
    DiskBed bed("", {}, RINGBACK_HOSTILE_WORKER);
    const Neighbour neighbour(bed);
    const std::string role = bed.daemon.directory() + "/hostile-" + std::to_string(bed.t.domid);
    const auto spec = bed.disk(bed.file("disk.img"));
    for (const char* how : {"no hello", "another guest", "another protocol"}) {
        INFO(how);
        std::ofstream(role) << how << '\n';
        const auto attached = bed.xl.attach_disk(bed.t.domid, spec);
        REQUIRE_FALSE(attached.ok());
        CHECK_THAT(attached.error().message, ContainsSubstring("ended before it said hello"));
        neighbour.check();
    }
}

TEST_CASE("a worker that fails its disk again and again, or connects without end, keeps nobody else out") {
    const CapturedLog log;
    DiskBed bed("", {}, RINGBACK_HOSTILE_WORKER);
    const std::string role = bed.daemon.directory() + "/hostile-" + std::to_string(bed.t.domid);
    const auto spec = bed.disk(bed.file("disk.img"));
    const auto devid = must(bed.xl.write_disk_nodes(bed.t.domid, spec));
    SECTION("failures") { std::ofstream(role) << "failures without end\n"; }
    SECTION("connections") { std::ofstream(role) << "connections without end\n"; }
    REQUIRE(eventually([&] { return bed.daemon.worker(bed.t.domid) != 0; }));
    // A guest that comes now gets its worker.
    const Neighbour neighbour(bed);
    neighbour.check();
    // This one never answers; libxl's patience ends with it.
    bed.xl.timeouts.device = 100;
    must(bed.xl.detach_disk(bed.t.domid, devid, true));
    neighbour.check();
    CHECK(log.text().size() < 64U << 10);
}
