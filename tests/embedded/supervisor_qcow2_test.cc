// SPDX-License-Identifier: Apache-2.0
//
// A guest's disk in qcow2 through the whole stack, and what its header may name.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdlib>
#include <filesystem>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;
using frontend::Op;

namespace {

bool run(const std::string& command) { return std::system((command + " >/dev/null 2>&1").c_str()) == 0; }

}  // namespace

TEST_CASE("a qcow2 disk with a backing file: data, detach, and qemu-img finds it whole") {
    if (!run("qemu-img --version")) SKIP("no qemu-img here");
    DiskBed bed;
    const std::string folder = bed.t.core.directory();
    REQUIRE(run("cd " + folder + " && qemu-img create -f raw base.raw 16M && qemu-io -f raw -c 'write -P 5 0 16M' base.raw && "
                "qemu-img create -f qcow2 -F raw -b base.raw disk.qcow2"));
    for (int round = 0; round < 2; ++round) {
        const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk("qcow2:" + folder + "/disk.qcow2")));
        CHECK(bed.node(bed.back() + "/sectors") == "32768");
        CHECK(bed.node(bed.back() + "/feature-discard") == "1");
        auto front = bed.front();
        must(front->attach());
        std::string back(8192, '\0');
        REQUIRE(transfer(*front, Op::read, 2048, back) == 0);
        CHECK(back == std::string(8192, '\5'));
        std::string data(8192, static_cast<char>('a' + round));
        REQUIRE(transfer(*front, Op::write, 8, data) == 0);
        REQUIRE(transfer(*front, Op::read, 8, back) == 0);
        CHECK(back == data);
        must(front->close());
        must(bed.xl.detach_disk(bed.t.domid, devid));
        bed.daemon.wait_without_workers();
        CHECK(run("qemu-img check " + folder + "/disk.qcow2"));
    }
    CHECK(run("qemu-io -f qcow2 -c 'read -P 98 4k 8k' -c 'read -P 5 12k 15m' " + folder + "/disk.qcow2"));
}

TEST_CASE("a header that names what is not its to name: refused in one line, nothing opened") {
    if (!run("qemu-img --version")) SKIP("no qemu-img here");
    DiskBed bed;
    const std::string folder = bed.t.core.directory();
    struct Case {
        const char* make;
        const char* why;
    };
    constexpr std::array kCases{
        Case{"qemu-img create -u -f qcow2 -F raw -b /etc/passwd disk.qcow2 1M", "outside the directory of the image"},
        Case{"qemu-img create -u -f qcow2 -F raw -b ../../../../etc/passwd disk.qcow2 1M", "outside the directory of the image"},
        Case{"ln -sf /etc/passwd innocent.raw && qemu-img create -u -f qcow2 -F raw -b innocent.raw disk.qcow2 1M",
             "outside the directory of the image"},
        Case{"qemu-img create -u -f qcow2 -F raw -b nbd://localhost/x disk.qcow2 1M", "not a protocol"},
        Case{"qemu-img create -u -f qcow2 -F qcow2 -b disk.qcow2 new.qcow2 1M && mv new.qcow2 disk.qcow2", "comes back to it"},
        Case{"qemu-img create -u -f qcow2 -F raw -b missing.raw disk.qcow2 1M", "No such file"},
    };
    for (const Case& c : kCases) {
        INFO(c.make);
        REQUIRE(run("cd " + folder + " && rm -f disk.qcow2 && " + c.make));
        const auto attached = bed.xl.attach_disk(bed.t.domid, bed.disk("qcow2:" + folder + "/disk.qcow2"));
        REQUIRE_FALSE(attached.ok());
        CHECK_THAT(attached.error().message, ContainsSubstring(c.why));
        CHECK(attached.error().message.find('\n') == std::string::npos);
        CHECK(bed.node(bed.back() + "/state").empty());
    }
    bed.daemon.wait_without_workers();
}
