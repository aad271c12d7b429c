// SPDX-License-Identifier: Apache-2.0
//
// Bad input, from the administrator and from guests: what xl's user gets to read, and that nobody else notices.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>
#include <optional>
#include <thread>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("a target that cannot be served: xl says what was tried, on what, and why; nothing is left") {
    DiskBed bed("[policy]\ndeny = [\"/proc\", \"/boot\"]\n");
    const std::string folder = bed.t.core.directory();
    const std::string read_only = bed.file("ro.img");
    REQUIRE(::chmod(read_only.c_str(), 0444) == 0);
    struct Case {
        std::string target;
        std::string why;
    };
    const std::vector<Case> cases = {
        {folder + "/missing.img", "No such file or directory"},
        {folder, "it is a directory"},
        {bed.file("empty.img", 0), "size is zero"},
        {read_only, "read-only"},
        {"/dev/null", "a character device"},
        {"/proc/version", "outside the directories"},
        {"qcow9:" + folder + "/a.img", "unknown scheme \"qcow9\""},
        {"relative.img", "no absolute path"},
        {"", "no target"},
    };
    for (const Case& c : cases) {
        INFO(c.target);
        const auto attached = bed.xl.attach_disk(bed.t.domid, bed.disk(c.target));
        REQUIRE_FALSE(attached.ok());
        CHECK_THAT(attached.error().message, ContainsSubstring(c.why));
        if (!c.target.empty()) CHECK_THAT(attached.error().message, ContainsSubstring(c.target));
        CHECK(bed.node(bed.back() + "/state").empty());
    }
    bed.daemon.wait_without_workers();
    CHECK(std::filesystem::is_empty(bed.daemon.directory() + "/blk"));
}

TEST_CASE("an image that another guest writes is refused") {
    DiskBed bed;
    const Neighbour neighbour(bed);
    const auto attached = bed.xl.attach_disk(bed.t.domid, bed.disk(bed.t.core.directory() + "/neighbour.img"));
    REQUIRE_FALSE(attached.ok());
    CHECK_THAT(attached.error().message, ContainsSubstring("neighbour.img"));
    neighbour.check();
}

TEST_CASE("an image that is locked for a moment is waited for, by its own disk alone") {
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("first.img"))));
    auto front = bed.front();
    must(front->attach());
    const std::string path = bed.file("locked.img");
    const UniqueFd holder(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    REQUIRE(::flock(holder.get(), LOCK_EX) == 0);
    auto second = bed.disk(path);
    second.vdev = "xvdb";
    std::optional<Result<uint32_t>> attached;
    std::thread toolstack([&] { attached.emplace(bed.xl.attach_disk(bed.t.domid, second)); });
    const bool opening = eventually([&] {
        const auto answer = bed.daemon.ask({{"command", "status"}});
        for (const auto& disk : answer["guests"][0]["disks"]) {
            if (disk["image"] == "opening") return true;
        }
        return false;
    });
    std::string data(4096, '\0');
    const int status = transfer(*front, frontend::Op::read, 0, data);
    ::flock(holder.get(), LOCK_UN);
    toolstack.join();
    CHECK(opening);
    CHECK(status == 0);
    must(*attached);
}

TEST_CASE("without the daemon the script fails at once and says how to start it") {
    DiskBed bed;
    const auto spec = bed.disk(bed.file("disk.img"));
    const auto devid = must(bed.xl.write_disk_nodes(bed.t.domid, spec));
    must(bed.xl.wait_backend_ready(bed.t.domid, devid, spec));
    bed.daemon.stop();
    const auto ran = bed.xl.hotplug(bed.t.domid, devid, "add");
    REQUIRE_FALSE(ran.ok());
    CHECK_THAT(ran.error().message, ContainsSubstring("systemctl start blkbackd"));
}

TEST_CASE("a second daemon on the same directory does not start") {
    DiskBed bed;
    const std::string command = std::string(RINGBACK_BLKBACKD) + " --config /dev/null --runtime-directory " +
                                bed.daemon.directory() + " 2>/dev/null";
    CHECK(std::system(command.c_str()) != 0);
    CHECK(bed.daemon.ask({{"command", "doctor-info"}}).value("ok", false));
}

TEST_CASE("a frontend that offers garbage loses its disk and disturbs nobody") {
    DiskBed bed;
    const Neighbour neighbour(bed);
    const std::string path = bed.file("disk.img");
    struct Node {
        const char* key;
        const char* value;
    };
    const Node node = GENERATE(
        Node{"ring-ref", ""}, Node{"ring-ref", "abc"}, Node{"ring-ref", "0"}, Node{"ring-ref", "99999999999"},
        Node{"ring-ref", "4294967295"}, Node{"ring-ref", "-1"}, Node{"event-channel", "0"},
        Node{"event-channel", "4294967295"}, Node{"event-channel", "x"}, Node{"protocol", "vax-abi"},
        Node{"ring-page-order", "5"}, Node{"ring-page-order", "-1"}, Node{"ring-page-order", "2"},
        Node{"num-ring-pages", "3"}, Node{"multi-queue-num-queues", "0"}, Node{"multi-queue-num-queues", "1000000"},
        Node{"multi-queue-num-queues", "2"});
    INFO(node.key << " = \"" << node.value << "\"");
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    auto& store = front->store();  // with the guest's own rights
    const std::string home = bed.front_path() + "/";
    const auto port = must(front->guest().alloc_unbound_port(0));
    const auto page = must(front->guest().alloc_pages(1));
    must(store.write(home + "ring-ref", std::to_string(must(front->guest().grant(page, 0)))));
    must(store.write(home + "event-channel", std::to_string(port.number())));
    must(store.write(home + node.key, node.value));
    must(front->set_state(xen::XenbusState::initialised));
    bed.wait_node(bed.back() + "/state", "5");
    must(front->set_state(xen::XenbusState::closed));
    bed.wait_node(bed.back() + "/state", "6");
    neighbour.check();
    must(bed.xl.detach_disk(bed.t.domid, devid));
}

TEST_CASE("a frontend's state may be anything, and go anywhere") {
    DiskBed bed;
    const Neighbour neighbour(bed);
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    const std::string state = bed.front_path() + "/state";
    for (const char* value : {"", "9", "-1", "4294967298", "connected", "2", "7", "8", "6", "5", "1", "0", "6", "1"}) {
        must(front->store().write(state, value));
    }
    must(front->store().write(bed.front_path() + "/backend", "/local/domain/0/backend/vbd/0/0"));
    bed.wait_node(bed.back() + "/state", "2");
    neighbour.check();
    must(bed.xl.detach_disk(bed.t.domid, devid));
}

TEST_CASE("values in the backend's nodes that no toolstack writes") {
    DiskBed bed;
    const Neighbour neighbour(bed);
    struct Node {
        const char* key;
        std::string value;
    };
    const auto spec = bed.disk(bed.file("disk.img"));
    const auto devid = must(bed.xl.write_disk_nodes(bed.t.domid, spec));
    must(bed.xl.wait_backend_ready(bed.t.domid, devid, spec));
    const Node node = GENERATE(Node{"frontend", "/local/domain/0/device/vbd/51712"}, Node{"frontend", ""},
                               Node{"frontend-id", "x"}, Node{"online", "maybe"}, Node{"state", "nine"},
                               Node{"script", ""}, Node{"mode", "zz"}, Node{"params", std::string(4000, '/')},
                               Node{"hotplug-status", std::string(4000, 'x')});
    must(bed.store.write(bed.back() + "/" + node.key, node.value));
    must(bed.store.write(bed.back() + "/physical-device", "::"));
    neighbour.check();
    CHECK(bed.daemon.ask({{"command", "status"}}).value("ok", false));
    if (std::string(node.key) == "state") must(bed.store.write(bed.back() + "/state", "2"));
    must(bed.store.remove(bed.back()));
    must(bed.store.remove(bed.front_path()));
}

TEST_CASE("the control socket bears what comes") {
    DiskBed bed;
    for (const std::string& line : {std::string("\n"), std::string("x\n"), std::string("{}\n"), std::string(100000, '['),
                                    std::string("\0\xff\n", 3), std::string("{\"version\":1,\"command\":\"nonsense\"}\n"),
                                    std::string("{\"version\":1,\"command\":\"wait-ready\",\"device\":\"../../x\"}\n"),
                                    std::string("{\"version\":1,\"command\":\"wait-ready\",\"device\":\"vbd/9/9\"}\n"),
                                    std::string("{\"version\":1,\"command\":\"resize\",\"guest\":5}\n")}) {
        const auto answer = nlohmann::json::parse(bed.daemon.send_raw(line), nullptr, false);
        REQUIRE(answer.is_object());
        CHECK(answer.value("version", 0) == 1);
        CHECK_FALSE(answer.value("ok", true));
        CHECK_FALSE(answer.value("error", "").empty());
    }
    CHECK(bed.daemon.ask({{"command", "status"}}).value("ok", false));
    CHECK_FALSE(bed.daemon.ask({{"command", "status"}, {"guest", "nobody"}}).value("ok", true));
}
