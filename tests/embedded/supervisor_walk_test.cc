// SPDX-License-Identifier: Apache-2.0
//
// The walks of a disk through XenBus, with the real daemon, the real worker, libxl's order and the frontends' own ways.
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <fstream>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using frontend::Op;

namespace {

std::string pattern(size_t size, char first) {
    std::string data(size, '\0');
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<char>(first + static_cast<char>(i % 61));
    return data;
}

std::string content(const std::string& path, size_t offset, size_t size) {
    std::ifstream file(path, std::ios::binary);
    std::string data(size, '\0');
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(data.data(), static_cast<std::streamsize>(size));
    return data;
}

void check_io(frontend::Blkfront& front, const std::string& path, uint64_t sector, char first) {
    std::string data = pattern(8192, first);
    const std::string written = data;
    REQUIRE(transfer(front, Op::write, sector, data) == 0);
    CHECK(content(path, sector * 512, 8192) == written);
    std::string back(8192, '\0');
    REQUIRE(transfer(front, Op::read, sector, back) == 0);
    CHECK(back == written);
}

}  // namespace

TEST_CASE("a Linux guest's disk: attach, connect, data, close, detach, nothing left") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    CHECK(bed.node(bed.back() + "/hotplug-status") == "connected");
    CHECK(bed.node(bed.back() + "/state") == "2");
    CHECK(bed.node(bed.back() + "/sectors") == "2048");
    CHECK(bed.node(bed.back() + "/feature-flush-cache") == "1");
    CHECK(bed.node(bed.back() + "/feature-max-indirect-segments") == "256");
    auto front = bed.front();
    must(front->attach());
    check_io(*front, path, 16, 'a');
    must(front->close());
    CHECK(bed.node(bed.back() + "/state") == "6");
    must(bed.xl.detach_disk(bed.t.domid, devid));
    bed.daemon.wait_without_workers();
    CHECK(std::filesystem::is_empty(bed.daemon.directory() + "/blk"));
    CHECK(front->still_mapped() == 0);
}
