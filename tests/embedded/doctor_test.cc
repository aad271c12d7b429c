// SPDX-License-Identifier: Apache-2.0
//
// `ringback doctor` on a host that is ready, and on one that lacks each thing in turn: what it says, and the command
// that mends it.
#include <sys/stat.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>
#include <fstream>

#include "supervisor_fixture.h"
#include "tools/ringback_doctor.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;

namespace {

// A folder with what doctor looks at on a host that is ready.
struct Bed : DiskBed {
    explicit Bed(const std::string& configuration = "") : DiskBed(configuration) {
        host.root = t.core.directory() + "/host";
        host.kernel = "6.1.0-test";
        host.open_files = 1U << 20;
        host.socket = daemon.socket();
        put("/sys/hypervisor/type", "xen\n");
        put("/sys/hypervisor/version/major", "4\n");
        put("/sys/hypervisor/version/minor", "20\n");
        put("/dev/xen/gntdev", "");
        put("/dev/xen/evtchn", "");
        put("/sys/bus/xen-backend/drivers_autoprobe", "1\n");
        put("/sys/module/xen_gntdev/parameters/limit", "1048576\n");
        put("/lib/modules/6.1.0-test/modules.builtin", "kernel/fs/ext4/ext4.ko\n");
        put("/usr/lib/modprobe.d/ringback.conf", "# Ringback\nblacklist xen-blkback\n");
        put("/etc/xen/scripts/block-ringback", "#!/bin/sh\n");
        REQUIRE(::chmod((host.root + "/etc/xen/scripts/block-ringback").c_str(), 0755) == 0);
    }
    void put(const std::string& path, const std::string& text) const {
        std::filesystem::create_directories(std::filesystem::path(host.root + path).parent_path());
        std::ofstream(host.root + path) << text;
    }
    void remove(const std::string& path) const { REQUIRE(std::filesystem::remove_all(host.root + path) > 0); }
    // The one thing that is wrong.
    [[nodiscard]] tools::Finding wrong() const {
        std::vector<tools::Finding> all;
        for (const tools::Finding& finding : tools::examine(host)) {
            CHECK(finding.good == finding.mend.empty());
            if (!finding.good) all.push_back(finding);
        }
        REQUIRE(all.size() == 1);
        return all[0];
    }
    void check(const std::string& what, const std::string& mend) const {
        const tools::Finding finding = wrong();
        CHECK_THAT(finding.what, ContainsSubstring(what));
        CHECK_THAT(finding.mend, ContainsSubstring(mend));
    }
    tools::Host host;
};

}  // namespace

TEST_CASE("a host that is ready has nothing wrong") {
    const Bed bed;
    const auto findings = tools::examine(bed.host);
    CHECK(findings.size() >= 8);
    for (const tools::Finding& finding : findings) {
        INFO(finding.what);
        CHECK(finding.good);
    }
}

TEST_CASE("each thing that is wrong is named, with the command that mends it") {
    Bed bed;
    SECTION("no hypervisor") {
        bed.remove("/sys/hypervisor");
        bed.check("does not run on Xen", "apt install xen-system-amd64");
    }
    SECTION("another hypervisor") {
        bed.put("/sys/hypervisor/type", "kvm\n");
        bed.check("does not run on Xen", "apt install xen-system-amd64");
    }
    SECTION("no grants") {
        bed.remove("/dev/xen/gntdev");
        bed.check("/dev/xen/gntdev is missing", "modprobe xen-gntdev");
    }
    SECTION("no event channels") {
        bed.remove("/dev/xen/evtchn");
        bed.check("/dev/xen/evtchn is missing", "modprobe xen-evtchn");
    }
    SECTION("no store") {
        ::setenv("XENSTORED_PATH", (bed.t.core.directory() + "/nobody").c_str(), 1);
        bed.check("connect to xenstored", "systemctl start xenstored");
    }
    SECTION("the kernel's backend is loaded") {
        bed.put("/sys/module/xen_blkback/refcnt", "0\n");
        bed.check("xen-blkback is loaded", "modprobe -r xen-blkback");
    }
    SECTION("the kernel's backend serves a disk") {
        bed.put("/sys/module/xen_blkback/refcnt", "1\n");
        bed.put("/sys/bus/xen-backend/devices/vbd-3-51712/driver", "");
        bed.check("serves vbd-3-51712,", "modprobe -r xen-blkback");
    }
    SECTION("the kernel's backend is compiled in") {
        bed.put("/sys/module/xen_blkback/parameters/log_stats", "0\n");
        bed.put("/lib/modules/6.1.0-test/modules.builtin", "kernel/drivers/block/xen-blkback/xen-blkback.ko\n");
        bed.check("compiled into this kernel", "echo 0 > /sys/bus/xen-backend/drivers_autoprobe");
        // And as it says.
        bed.put("/sys/bus/xen-backend/drivers_autoprobe", "0\n");
        for (const tools::Finding& finding : tools::examine(bed.host)) CHECK(finding.good);
    }
    SECTION("the kernel's backend is not kept away") {
        bed.remove("/usr/lib/modprobe.d");
        bed.put("/etc/modprobe.d/other.conf", "# blacklist xen-blkback\nblacklist pcspkr\n");
        bed.check("not blacklisted", "> /etc/modprobe.d/ringback.conf");
        // And as it says.
        bed.put("/etc/modprobe.d/ringback.conf", "blacklist xen-blkback\ninstall xen-blkback /bin/false\n");
        for (const tools::Finding& finding : tools::examine(bed.host)) CHECK(finding.good);
    }
    SECTION("no script") {
        bed.remove("/etc/xen/scripts/block-ringback");
        bed.check("block-ringback is missing", "meson install");
    }
    SECTION("a script that is none") {
        REQUIRE(::chmod((bed.host.root + "/etc/xen/scripts/block-ringback").c_str(), 0644) == 0);
        bed.check("not executable", "chmod 755");
    }
    SECTION("few open files") {
        bed.host.open_files = 1024;
        bed.check("only 1024 open files", "LimitNOFILE=65536");
    }
    SECTION("few grants") {
        bed.put("/sys/module/xen_gntdev/parameters/limit", "1024\n");
        bed.check("at most 1024 grants", "echo 1048576 > /sys/module/xen_gntdev/parameters/limit");
    }
    SECTION("no daemon") {
        bed.daemon.stop();
        bed.check("blkbackd does not run", "systemctl enable --now blkbackd");
    }
    SECTION("a disk in trouble") {
        must(bed.xl.write_disk_nodes(bed.t.domid, bed.disk("/nonexistent/disk.img")));
        bed.wait_node(bed.back() + "/state", "2");
        bed.check("/nonexistent/disk.img: No such file", "attach it again");
    }
}

TEST_CASE("the command says it, and ends with 1 when something is wrong") {
    const Bed bed;
    const std::string out = bed.t.core.directory() + "/doctor.out";
    const int status = std::system((std::string(RINGBACK_TOOL) + " doctor >" + out).c_str());
    std::ifstream file(out);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    CHECK_THAT(text, ContainsSubstring("ok      xenstored answers"));
    CHECK_THAT(text, ContainsSubstring("ok      blkbackd"));
    const bool ready = text.find("WRONG") == std::string::npos;
    CHECK_THAT(text, ContainsSubstring(ready ? "this host is ready\n" : "this host is not ready\n"));
    CHECK(WEXITSTATUS(status) == (ready ? 0 : 1));
    CHECK((text.find("mend it: ") == std::string::npos) == ready);
}
