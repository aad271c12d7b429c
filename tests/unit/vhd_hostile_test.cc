// SPDX-License-Identifier: Apache-2.0
//
// VHD files that are cut off, lie, loop or contradict themselves: one clear line, and nothing written.
#include "vhd_fixture.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr uint64_t kMiB = 1 << 20;
using Bytes = std::vector<std::byte>;

void put(Bytes& data, size_t at, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) data.at(at + i) = static_cast<std::byte>(value >> 8 * (bytes - 1 - i) & 0xff);
}
uint64_t get(const Bytes& data, size_t at, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value = value << 8 | std::to_integer<uint64_t>(data.at(at + i));
    return value;
}
void sum(Bytes& data, size_t at, size_t bytes, size_t field) {
    put(data, at + field, 0, 4);
    uint32_t total = 0;
    for (size_t i = 0; i < bytes; ++i) total += std::to_integer<uint32_t>(data[at + i]);
    put(data, at + field, ~total, 4);
}
// Both footers and the header are given the right checksums again.
void sum_all(Bytes& data) {
    sum(data, 0, 512, 64);
    std::memcpy(data.data() + data.size() - 512, data.data(), 512);
    sum(data, 512, 1024, 36);
}

struct Case {
    const char* name;
    const char* says;
    void (*spoil)(Bytes&);
};

const std::vector<Case> kCases = {
    {"an empty file", "is empty", [](Bytes& d) { d.clear(); }},
    {"a file of a few bytes", "no VHD", [](Bytes& d) { d.assign(512, std::byte{1}); }},
    {"no footer at all", "no VHD", [](Bytes& d) { d.assign(1 << 16, std::byte{0}); }},
    {"cut off in its table", "would be at", [](Bytes& d) { d.resize(2048); }},
    {"cut off in a block", "past the end", [](Bytes& d) { d.resize(3 * kMiB); }},
    {"a disk of no bytes", "0 bytes", [](Bytes& d) { put(d, 48, 0, 8); sum_all(d); }},
    {"half a sector", "bytes", [](Bytes& d) { put(d, 48, 1000, 8); sum_all(d); }},
    {"a disk of 2^63 bytes", "2040 GiB", [](Bytes& d) { put(d, 48, uint64_t{1} << 63, 8); sum_all(d); }},
    {"a disk of 2041 GiB", "2040 GiB", [](Bytes& d) { put(d, 48, uint64_t{2041} << 30, 8); sum_all(d); }},
    {"disk type 7", "disk type 7", [](Bytes& d) { put(d, 60, 7, 4); sum_all(d); }},
    {"version 2", "version 2", [](Bytes& d) { put(d, 12, 0x20000, 4); sum_all(d); }},
    {"its header far outside", "header would be at", [](Bytes& d) { put(d, 16, uint64_t{1} << 62, 8); sum_all(d); }},
    {"its header at ~0", "header would be at", [](Bytes& d) { put(d, 16, ~uint64_t{0} - 511, 8); sum_all(d); }},
    {"its header in the footer", "header would be at", [](Bytes& d) { put(d, 16, 0, 8); sum_all(d); }},
    {"no cookie in its header", "header is missing", [](Bytes& d) { d[512] = std::byte{0}; }},
    {"a wrong sum in its header", "checksum", [](Bytes& d) { d[600] ^= std::byte{1}; }},
    {"a table past the end", "table", [](Bytes& d) { put(d, 512 + 16, uint64_t{1} << 40, 8); sum_all(d); }},
    {"a table of 2^32 entries", "table", [](Bytes& d) { put(d, 512 + 28, 0xffffffff, 4); sum_all(d); }},
    {"a table that is too short", "table for", [](Bytes& d) { put(d, 512 + 28, 3, 4); sum_all(d); }},
    {"a table over its header", "is damaged", [](Bytes& d) { put(d, 512 + 16, 512, 8); sum_all(d); }},
    {"blocks of 0 bytes", "blocks of 0", [](Bytes& d) { put(d, 512 + 32, 0, 4); sum_all(d); }},
    {"blocks of 512 bytes", "blocks of 512", [](Bytes& d) { put(d, 512 + 32, 512, 4); sum_all(d); }},
    {"blocks of 3 MiB", "blocks of", [](Bytes& d) { put(d, 512 + 32, 3 * kMiB, 4); sum_all(d); }},
    {"blocks of 2 GiB", "blocks of", [](Bytes& d) { put(d, 512 + 32, uint64_t{1} << 31, 4); sum_all(d); }},
    {"a block past the end", "past the end", [](Bytes& d) { put(d, get(d, 512 + 16, 8), 0xfffffffe, 4); }},
    {"a block over the headers", "overlap", [](Bytes& d) { put(d, get(d, 512 + 16, 8), 1, 4); }},
    {"two blocks in one place", "overlap",
     [](Bytes& d) { const auto t = get(d, 512 + 16, 8); put(d, t, get(d, t + 4, 4), 4); }},
    {"two blocks half over each other", "overlap",
     [](Bytes& d) { const auto t = get(d, 512 + 16, 8); put(d, t + 4, get(d, t, 4) + 2048, 4); }},
    {"two footers of different disks", "different disks",
     [](Bytes& d) { put(d, 68, 0x1234, 8); sum(d, 0, 512, 64); }},
    {"fixed at its end, dynamic in front", "disagree",
     [](Bytes& d) { put(d, d.size() - 512 + 60, 2, 4); sum(d, d.size() - 512, 512, 64); }},
    {"a fixed disk in a short file", "fixed disk of",
     [](Bytes& d) {
         put(d, 60, 2, 4);
         put(d, 48, uint64_t{1} << 40, 8);
         sum_all(d);
         d[0] = std::byte{0};
     }},
    {"a saved state", "saved state", [](Bytes& d) { put(d, 84, 1, 1); sum_all(d); }},
    {"differencing without a name", "names none", [](Bytes& d) { put(d, 60, 4, 4); sum_all(d); }},
    {"a locator outside the file", "parent's name",
     [](Bytes& d) {
         put(d, 60, 4, 4);
         put(d, 512 + 576, 0x57327275, 4);
         put(d, 512 + 576 + 8, 64, 4);
         put(d, 512 + 576 + 16, uint64_t{1} << 50, 8);
         sum_all(d);
     }},
};

}  // namespace

TEST_CASE("vhd: damaged and lying files are refused with one line, and nothing is written") {
    TempDir dir;
    const std::string good_path = dir.path() + "/good.vhd";
    make_vhd(good_path, {.bytes = 32 * kMiB});
    {
        VhdDisk disk(good_path);
        Memory data = memory(4 * kMiB);
        fill(data.get(), 4 * kMiB, 1);
        REQUIRE(disk.transfer(Op::write, 0, data.get(), 4 * kMiB) == 0);
    }
    const Bytes good = read_file(good_path);
    const std::string path = dir.path() + "/bad.vhd";
    for (const Case& c : kCases) {
        INFO(c.name);
        Bytes bad = good;
        c.spoil(bad);
        write_file(path, bad);
        for (const bool writable : {false, true}) {
            VhdDisk disk;
            const auto opened = disk.open(path, {.writable = writable}, false);
            REQUIRE_FALSE(opened.ok());
            INFO(opened.error().message);
            CHECK_THAT(opened.error().message, ContainsSubstring(c.says));
            CHECK_THAT(opened.error().message, ContainsSubstring("bad.vhd"));
            CHECK(opened.error().message.find('\n') == std::string::npos);
        }
        CHECK(read_file(path) == bad);
    }
}

TEST_CASE("vhd: a check names what overlaps or lies outside; a repair leaves the rest readable") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    make_vhd(path, {.bytes = 32 * kMiB});
    Bytes content;
    {
        VhdDisk disk(path);
        Memory data = memory(8 * kMiB);
        fill(data.get(), 8 * kMiB, 1);
        REQUIRE(disk.transfer(Op::write, 0, data.get(), 8 * kMiB) == 0);
        content = disk.content();
    }
    Bytes bad = read_file(path);
    const auto table = get(bad, 512 + 16, 8);
    put(bad, table + 12, get(bad, table + 8, 4), 4);  // block 3 in block 2's place
    put(bad, table + 24, 0xfffffff0, 4);              // block 6 outside
    write_file(path, bad);
    CHECK(check_vhd(path).errors.size() == 2);
    CHECK(read_file(path) == bad);
    const vhd::CheckReport report = check_vhd(path, true);
    CHECK(report.errors.size() == 2);
    CHECK(report.repaired);
    CHECK(check_vhd(path).errors.empty());
    VhdDisk disk(path);
    const Bytes now = disk.content();
    CHECK(std::memcmp(now.data(), content.data(), 6 * kMiB) == 0);
}

TEST_CASE("vhd: parents that are missing, others, or the child itself") {
    TempDir dir;
    const std::string base = dir.path() + "/base.vhd";
    const std::string child = dir.path() + "/child.vhd";
    make_vhd(base, {.bytes = 8 * kMiB});
    const auto refused = [&](const std::string& path, const char* says) {
        VhdDisk disk;
        const auto opened = disk.open(path, {.writable = true}, false);
        REQUIRE_FALSE(opened.ok());
        INFO(opened.error().message);
        CHECK_THAT(opened.error().message, ContainsSubstring(says));
    };
    SECTION("missing") {
        make_child(child, base, vhd::kDefaultBlock);
        REQUIRE(unlink(base.c_str()) == 0);
        refused(child, "No such file");
    }
    SECTION("another disk of the same name") {
        make_child(child, base, vhd::kDefaultBlock);
        make_vhd(base, {.bytes = 8 * kMiB});
        refused(child, "another disk");
    }
    SECTION("itself") {
        make_child(child, base, vhd::kDefaultBlock);
        REQUIRE(rename(child.c_str(), base.c_str()) == 0);
        refused(base, "comes back");
    }
    SECTION("a ring of two") {
        make_child(child, base, vhd::kDefaultBlock);
        make_child(base, child, vhd::kDefaultBlock);
        refused(base, "comes back");
    }
    SECTION("no VHD") {
        make_child(child, base, vhd::kDefaultBlock);
        write_file(base, Bytes(1 << 20));
        refused(child, "no VHD");
    }
    SECTION("a longer chain than anybody has") {
        std::string last = base;
        for (int i = 0; i < 70; ++i) {
            const std::string next = dir.path() + "/" + std::to_string(i) + ".vhd";
            make_child(next, last, vhd::kDefaultBlock);
            last = next;
        }
        refused(last, "more than 64");
    }
    SECTION("in use by a writer") {
        make_child(child, base, vhd::kDefaultBlock);
        VhdDisk writer(base);
        refused(child, "in use");
    }
}

TEST_CASE("vhd: what a guest writes into its disk's first sector decides nothing") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    const std::string evil = dir.path() + "/evil.vhd";
    make_vhd(path, {.bytes = 8 * kMiB});
    make_child(evil, path, vhd::kDefaultBlock);
    const Bytes header = read_file(evil);
    make_vhd(path, {.bytes = 8 * kMiB, .type = vhd::Type::fixed});
    {
        VhdDisk disk(path);
        Memory data = memory(65536);
        std::memcpy(data.get(), header.data(), std::min<size_t>(header.size(), 65536));
        REQUIRE(disk.transfer(Op::write, 0, data.get(), 4096) == 0);
    }
    VhdDisk disk;
    const auto opened = disk.open(path, {.writable = true}, false);
    REQUIRE_FALSE(opened.ok());
    CHECK_THAT(opened.error().message, ContainsSubstring("disagree"));
}
