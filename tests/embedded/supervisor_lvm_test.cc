// SPDX-License-Identifier: Apache-2.0
//
// LVM volumes by name as guests' disks. LVM's command is a stand-in, found first in PATH, because a test machine need not
// have a device mapper; tests/xen/scenarios/vbd_lvm.sh has the real one. Names in /dev need root.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;
using frontend::Op;

namespace {

// One volume, /dev/GROUP/lv, which is a file; and the `lvm` that answers for it, with what put() has given.
class StandIn {
  public:
    StandIn() : group_("ringback-test-" + std::to_string(::getpid())) {
        if (::geteuid() != 0) SKIP("names in /dev need root");
        directory_ = std::filesystem::temp_directory_path() / group_;
        std::filesystem::create_directories(directory_);
        std::filesystem::create_directories("/dev/" + group_);
        std::ofstream{file()};
        std::filesystem::resize_file(file(), 1U << 20);
        std::filesystem::create_symlink(file(), "/dev/" + group_ + "/lv");
        std::ofstream(directory_ + "/lvm") << "#!/bin/sh\ncd " << directory_ << "\n"
                                           << R"(echo "$*" >>calls
[ ! -p gate ] || read -r nothing <gate
[ ! -f complaint ] || { cat complaint >&2; exit 5; }
case $1 in
  lvs) cat answer ;;
  lvchange) cp changed answer ;;
esac
)";
        REQUIRE(::chmod((directory_ + "/lvm").c_str(), 0755) == 0);
        path_ = ::getenv("PATH");
        ::setenv("PATH", (directory_ + ":" + path_).c_str(), 1);
        put("answer", "linear", true, false);
    }
    ~StandIn() {
        ::setenv("PATH", path_.c_str(), 1);
        std::error_code ignored;
        std::filesystem::remove_all("/dev/" + group_, ignored);
        std::filesystem::remove_all(directory_, ignored);
    }
    StandIn(const StandIn&) = delete;
    StandIn& operator=(const StandIn&) = delete;

    // "answer": of lvs; "changed": of lvs after lvchange.
    void put(const std::string& which, const std::string& layout, bool active, bool open) const {
        const bool disk = layout == "linear";
        std::ofstream(directory_ + "/" + which)
            << R"({"report":[{"lv":[{"vg_name":")" << group_ << R"(", "lv_name":"lv", "lv_path":")"
            << (disk ? "/dev/" + group_ + "/lv" : "") << R"(", "lv_size":"1048576", "lv_active":")" << (active ? "active" : "")
            << R"(", "lv_device_open":")" << open << R"(", "lv_layout":")" << layout << R"("}]}]})";
    }
    void complain(const std::string& text) const { std::ofstream(directory_ + "/complaint") << text; }
    // What it was called with, so far.
    [[nodiscard]] std::string calls() const {
        std::ifstream file(directory_ + "/calls");
        return {std::istreambuf_iterator<char>(file), {}};
    }
    [[nodiscard]] size_t lookups() const {
        std::istringstream all(calls());
        size_t count = 0;
        for (std::string line; std::getline(all, line);) count += line.starts_with("lvs ") ? 1 : 0;
        return count;
    }
    [[nodiscard]] std::string file() const { return directory_ + "/volume"; }
    [[nodiscard]] std::string device() const { return "/dev/" + group_ + "/lv"; }
    [[nodiscard]] std::string target() const { return "lvm:" + group_ + "/lv"; }
    [[nodiscard]] std::string gate() const { return directory_ + "/gate"; }

  private:
    std::string group_;
    std::string directory_;
    std::string path_;
};

// The command's next call waits here until this opens, or goes.
class Gate {
  public:
    explicit Gate(const StandIn& lvm) : path_(lvm.gate()) { REQUIRE(::mkfifo(path_.c_str(), 0600) == 0); }
    ~Gate() { open(); }
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;
    // Until a call waits. Later ones do not.
    void wait_for_call() {
        REQUIRE(eventually([this] {
            fd_.reset(::open(path_.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
            return static_cast<bool>(fd_);
        }));
        ::unlink(path_.c_str());
    }
    void open() {
        ::unlink(path_.c_str());
        fd_.reset();
    }

  private:
    std::string path_;
    UniqueFd fd_;
};

void check_data(frontend::Blkfront& front, char letter) {
    std::string data(8192, letter);
    REQUIRE(transfer(front, Op::write, 16, data) == 0);
    std::string back(8192, '\0');
    REQUIRE(transfer(front, Op::read, 16, back) == 0);
    CHECK(back == data);
}

nlohmann::json disk_status(const DiskBed& bed) {
    const nlohmann::json answer = bed.daemon.ask({{"command", "status"}});
    for (const auto& guest : answer["guests"]) {
        if (guest["domid"] == bed.t.domid) return guest["disks"][0];
    }
    return nlohmann::json::object();
}

void wait_image(const DiskBed& bed, const std::string& phase) {
    REQUIRE(eventually([&] { return disk_status(bed).value("image", "") == phase; }));
}

}  // namespace

TEST_CASE("a volume by its name: looked up, activated, served, grown, through dead workers and supervisors") {
    const StandIn lvm;
    lvm.put("answer", "linear", false, false);
    lvm.put("changed", "linear", true, false);
    DiskBed bed;
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(lvm.target())));
    CHECK_THAT(lvm.calls(), ContainsSubstring("lvchange --activate y"));
    CHECK(bed.node(bed.back() + "/sectors") == "2048");
    auto front = bed.front();
    must(front->attach());
    check_data(*front, 'a');

    // From here on it is open, and LVM says so: nobody asks.
    lvm.put("answer", "linear", true, true);
    const size_t before = lvm.lookups();
    REQUIRE(::kill(bed.daemon.worker(bed.t.domid), SIGKILL) == 0);
    check_data(*front, 'b');
    bed.daemon.stop();
    bed.daemon.start();
    wait_image(bed, "open");
    CHECK(disk_status(bed)["target"] == lvm.device());
    check_data(*front, 'c');
    bed.daemon.kill_with(bed.daemon.worker(bed.t.domid));
    bed.daemon.start();
    check_data(*front, 'd');
    CHECK(lvm.lookups() == before);

    std::filesystem::resize_file(lvm.file(), 2U << 20);
    const auto grown = bed.daemon.ask({{"command", "resize"}, {"guest", "guest"}, {"disk", "xvda"}});
    CHECK(grown.value("bytes", 0) == 2U << 20);
    CHECK(bed.node(bed.back() + "/sectors") == "4096");

    lvm.put("answer", "linear", true, false);
    must(front->close());
    must(bed.xl.detach_disk(bed.t.domid, devid));
    bed.daemon.wait_without_workers();
}

TEST_CASE("a volume that cannot be a disk: xl says what was tried, on what, and why; nothing is left") {
    const StandIn lvm;
    DiskBed bed;
    const auto refused = [&](const std::string& target, const std::string& why) {
        INFO(target << ": " << why);
        const auto attached = bed.xl.attach_disk(bed.t.domid, bed.disk(target));
        REQUIRE_FALSE(attached.ok());
        CHECK_THAT(attached.error().message, ContainsSubstring(why) && ContainsSubstring(target));
        CHECK(attached.error().message.find('\n') == std::string::npos);
        CHECK(bed.node(bed.back() + "/state").empty());
        bed.daemon.wait_without_workers();
    };
    refused("lvm:-rf/lv", "no name of a volume");
    refused("lvm:lv", "no name of a volume");
    CHECK(lvm.lookups() == 0);
    lvm.put("answer", "linear", true, true);
    refused(lvm.target(), "in use");
    lvm.put("answer", "thin,pool", true, false);
    refused(lvm.target(), "thin pool");
    lvm.put("answer", "raid", true, false);
    refused(lvm.target(), "a part of another volume");
    lvm.put("answer", "linear", false, false);
    lvm.put("changed", "linear", false, false);
    refused(lvm.target(), "stays inactive");
    lvm.complain("  WARNING: something else\n  Volume group \"vg0\" not found\n  Cannot process volume group vg0\n");
    refused(lvm.target(), "Volume group \"vg0\" not found; Cannot process volume group vg0");
}

TEST_CASE("a slow LVM delays its own disk and nobody else's") {
    const StandIn lvm;
    DiskBed bed;
    Gate gate(lvm);
    const auto spec = bed.disk(lvm.target());
    const auto devid = must(bed.xl.write_disk_nodes(bed.t.domid, spec));
    gate.wait_for_call();
    {
        const Neighbour neighbour(bed);
        neighbour.check();
    }
    CHECK(disk_status(bed)["image"] == "opening");
    SECTION("it answers at last") {
        gate.open();
        must(bed.xl.wait_backend_ready(bed.t.domid, devid, spec));
        must(bed.xl.hotplug(bed.t.domid, devid, "add"));
        auto front = bed.front();
        must(front->attach());
        check_data(*front, 'a');
        must(front->close());
    }
    SECTION("the disk is taken away meanwhile") {}
    must(bed.xl.detach_disk(bed.t.domid, devid));
}

TEST_CASE("a guest that opens and closes its disk while LVM hangs has one command running") {
    const StandIn lvm;
    DiskBed bed;
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(lvm.target())));
    auto front = bed.front();
    must(front->attach());
    must(front->close());
    wait_image(bed, "closed");
    const size_t before = lvm.lookups();
    {
        Gate gate(lvm);
        must(front->set_state(xen::XenbusState::initialising));
        gate.wait_for_call();
        for (int round = 0; round < 3; ++round) {
            wait_image(bed, "opening");
            must(front->set_state(xen::XenbusState::closed));
            wait_image(bed, "closed");
            must(front->set_state(xen::XenbusState::initialising));
        }
        wait_image(bed, "opening");
        CHECK(lvm.lookups() == before + 1);
    }
    bed.wait_node(bed.back() + "/state", "2");
    CHECK(lvm.lookups() == before + 2);
    must(front->attach());
    check_data(*front, 'a');
    must(front->close());
    must(bed.xl.detach_disk(bed.t.domid, devid));
}
