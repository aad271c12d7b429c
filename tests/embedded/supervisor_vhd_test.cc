// SPDX-License-Identifier: Apache-2.0
//
// A guest's disk in VHD through the whole stack: dynamic, fixed, and differencing, whose parent the supervisor opens for it.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdlib>
#include <filesystem>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;
using frontend::Op;

namespace {

struct Folder {
    explicit Folder(const DiskBed& bed) : path(bed.t.core.directory()) {}
    // Of vdisk, or of another command.
    [[nodiscard]] bool vdisk(const std::string& command) const { return run(RINGBACK_VDISK " " + command); }
    [[nodiscard]] bool run(const std::string& command) const {
        return std::system(("cd " + path + " && " + command + " >/dev/null").c_str()) == 0;
    }
    std::string path;
};

// In the middle, and over a block's boundary.
constexpr uint64_t kSectors[] = {8, 4096 - 5};

void write_letters(DiskBed& bed, char letter) {
    auto front = bed.front();
    must(front->attach());
    for (const uint64_t sector : kSectors) {
        std::string data(8192, letter);
        REQUIRE(transfer(*front, Op::write, sector, data) == 0);
    }
    must(front->close());
}

void check_letters(DiskBed& bed, char letter) {
    auto front = bed.front();
    must(front->attach());
    for (const uint64_t sector : kSectors) {
        std::string data(8192, '\0');
        REQUIRE(transfer(*front, Op::read, sector, data) == 0);
        CHECK(data == std::string(8192, letter));
    }
    must(front->close());
}

}  // namespace

TEST_CASE("a VHD as a guest's disk: what it wrote is there at the next attach, and the image is whole") {
    DiskBed bed;
    const Folder folder(bed);
    const std::string subformat = GENERATE("dynamic", "fixed");
    REQUIRE(folder.vdisk("create disk.vhd 16M -o subformat=" + subformat));
    const auto spec = bed.disk("vhd:" + folder.path + "/disk.vhd");
    for (int round = 0; round < 2; ++round) {
        const auto devid = must(bed.xl.attach_disk(bed.t.domid, spec));
        CHECK(std::stoul(bed.node(bed.back() + "/sectors")) >= 32768);
        if (round == 0) write_letters(bed, 'a');
        else check_letters(bed, 'a');
        must(bed.xl.detach_disk(bed.t.domid, devid));
        bed.daemon.wait_without_workers();
        CHECK(folder.vdisk("check disk.vhd"));
    }
}

TEST_CASE("a differencing VHD: the guest's writes are in the child, the parent stays, and may be shared") {
    DiskBed bed;
    const Folder folder(bed);
    REQUIRE(folder.vdisk("create parent.vhd 16M"));
    const auto parent = must(bed.xl.attach_disk(bed.t.domid, bed.disk("vhd:" + folder.path + "/parent.vhd")));
    write_letters(bed, 'p');
    must(bed.xl.detach_disk(bed.t.domid, parent));
    bed.daemon.wait_without_workers();
    REQUIRE(folder.run("cp parent.vhd before.vhd"));
    REQUIRE((folder.vdisk("create child.vhd -b parent.vhd") && folder.vdisk("create other.vhd -b parent.vhd")));
    const auto neighbour = must(bed.xl.create_domain({.name = "neighbour"}));
    must(bed.xl.attach_disk(neighbour, bed.disk("vhd:" + folder.path + "/other.vhd")));
    for (int round = 0; round < 2; ++round) {
        must(bed.xl.attach_disk(bed.t.domid, bed.disk("vhd:" + folder.path + "/child.vhd")));
        if (round == 0) check_letters(bed, 'p');
        else write_letters(bed, 'c');
        must(bed.xl.detach_disk(bed.t.domid, 51712));
    }
    must(bed.xl.destroy_domain(neighbour));
    bed.daemon.wait_without_workers();
    CHECK(folder.run("cmp parent.vhd before.vhd"));
    CHECK((folder.vdisk("check child.vhd") && folder.vdisk("commit child.vhd")));
    must(bed.xl.attach_disk(bed.t.domid, bed.disk("vhd:" + folder.path + "/parent.vhd")));
    check_letters(bed, 'c');
}

TEST_CASE("what is no VHD, and a parent elsewhere: refused in one line") {
    DiskBed bed;
    const Folder folder(bed);
    std::string path = bed.file("disk.vhd");
    const auto refused = [&](const std::string& why) {
        const auto attached = bed.xl.attach_disk(bed.t.domid, bed.disk("vhd:" + path));
        REQUIRE_FALSE(attached.ok());
        CHECK_THAT(attached.error().message, ContainsSubstring(why));
        CHECK(attached.error().message.find('\n') == std::string::npos);
        bed.daemon.wait_without_workers();
    };
    refused("VHD");
    REQUIRE(folder.run("mkdir images && rm disk.vhd"));
    REQUIRE((folder.vdisk("create parent.vhd 16M") && folder.vdisk("create images/disk.vhd -b ../parent.vhd")));
    path = folder.path + "/images/disk.vhd";
    refused("outside the directory of the image");
}
