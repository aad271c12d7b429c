// SPDX-License-Identifier: Apache-2.0
//
// VHD disks: content against an oracle and against QEMU's tools, both ways; discard, zero, sizes, resize.
#include "image_hammer.h"
#include "vhd_fixture.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr uint64_t kMiB = 1 << 20;

uint64_t size_of(const std::string& path) { return std::filesystem::file_size(path); }

void write_pattern(VhdDisk& disk, uint64_t offset, size_t bytes, uint64_t seed) {
    Memory data = memory(bytes);
    fill(data.get(), bytes, seed);
    REQUIRE(disk.transfer(Op::write, offset, data.get(), bytes) == 0);
}

bool has_pattern(VhdDisk& disk, uint64_t offset, size_t bytes, uint64_t seed) {
    Memory data = memory(bytes);
    Memory expected = memory(bytes);
    fill(expected.get(), bytes, seed);
    REQUIRE(disk.transfer(Op::read, offset, data.get(), bytes) == 0);
    return std::memcmp(data.get(), expected.get(), bytes) == 0;
}

}  // namespace

TEST_CASE("vhd: random requests over block boundaries agree with an oracle, and QEMU reads the same") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    for (const uint32_t block : {uint32_t{4096}, uint32_t{16384}, uint32_t{1} << 20, vhd::kDefaultBlock}) {
        for (const bool direct : {true, false}) {
            INFO(block << (direct ? " direct" : " buffered"));
            make_vhd(path, {.bytes = 16 * kMiB + 1536, .block_bytes = block});
            std::vector<std::byte> content;
            {
                VhdDisk disk(path, true, direct);
                CHECK(disk.image->geometry().bytes == 16 * kMiB + 1536);
                hammer(disk, block, 10);
                CHECK(disk.flush() == 0);
                content = disk.content();
            }
            check_with_qemu(dir, path, content);
            CHECK(read_plainly(path, {}) == content);
            const vhd::CheckReport report = check_vhd(path);
            CHECK(report.errors.empty());
            CHECK(report.leaked_bytes == 0);
            VhdDisk again(path, false, direct);
            CHECK(again.content() == content);
        }
    }
}

TEST_CASE("vhd: a fixed disk is its file without the footer") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    make_vhd(path, {.bytes = 16 * kMiB, .type = vhd::Type::fixed});
    std::vector<std::byte> content;
    {
        VhdDisk disk(path);
        hammer(disk, 5, 8);
        content = disk.content();
    }
    check_with_qemu(dir, path, content);
    std::vector<std::byte> file = read_file(path);
    CHECK(file.size() == 16 * kMiB + 512);
    file.resize(16 * kMiB);
    CHECK(file == content);
}

TEST_CASE("vhd: disks that QEMU made are read and written right") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    for (const std::string options : {"subformat=dynamic", "subformat=fixed", "subformat=dynamic,force_size=on",
                                      "subformat=fixed,force_size=on"}) {
        INFO(options);
        std::vector<std::byte> source(20 * kMiB + 512);
        fill(source.data() + 3 * kMiB, 7 * kMiB, 3);
        fill(source.data() + 19 * kMiB, kMiB + 512, 4);
        const std::string raw = dir.path() + "/source.raw";
        write_file(raw, source);
        REQUIRE(shell("qemu-img convert -f raw -O vpc -o " + options + " " + raw + " " + path) == 0);
        std::vector<std::byte> content;
        {
            VhdDisk disk(path);
            content = disk.content();
            REQUIRE(content.size() >= source.size());
            if (options.find("force") != options.npos) CHECK(content.size() == source.size());
            CHECK(std::memcmp(content.data(), source.data(), source.size()) == 0);
            REQUIRE(disk.zero(0, content.size()) == 0);
            hammer(disk, 9, 6);
            content = disk.content();
        }
        check_with_qemu(dir, path, content);
        CHECK(check_vhd(path).errors.empty());
    }
}

TEST_CASE("vhd: QEMU writes on into a disk of ours, and we into what it left") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    make_vhd(path, {.bytes = 64 * kMiB});
    {
        VhdDisk disk(path);
        write_pattern(disk, 5 * kMiB, kMiB, 1);
    }
    REQUIRE(shell("qemu-io -f vpc -c 'write -P 7 20M 3M' -c 'write -P 8 5M 64k' " + path + " >/dev/null") == 0);
    VhdDisk disk(path);
    CHECK(has_pattern(disk, 40 * kMiB, 4096, 1) == false);
    write_pattern(disk, 40 * kMiB, 3 * kMiB, 2);
    const std::vector<std::byte> content = disk.content();
    CHECK(content[20 * kMiB] == std::byte{7});
    CHECK(content[5 * kMiB] == std::byte{8});
    disk.close();
    check_with_qemu(dir, path, content);
}

TEST_CASE("vhd: a differencing disk over its parent agrees with an oracle; the parent is not touched") {
    TempDir dir;
    const std::string base = dir.path() + "/base.vhd";
    for (const uint32_t block : {uint32_t{4096}, uint32_t{65536}, vhd::kDefaultBlock}) {
        make_vhd(base, {.bytes = 16 * kMiB});
        std::vector<std::byte> below;
        {
            VhdDisk disk(base);
            write_pattern(disk, 0, 16 * kMiB, 11);
            CHECK(disk.discard(6 * kMiB, 2 * kMiB) == 0);
            below = disk.content();
        }
        const std::vector<std::byte> before = read_file(base);
        const std::string child = dir.path() + "/child.vhd";
        make_child(child, base, block);
        std::vector<std::byte> content;
        {
            VhdDisk disk(child);
            CHECK(disk.content() == below);
            // Sectors here and there, so that bitmaps stay partial.
            content = below;
            std::mt19937_64 random(block);
            for (int i = 0; i < 60; ++i) {
                const size_t bytes = (1 + random() % 300) * 512;
                const uint64_t offset = random() % ((16 * kMiB - bytes) / 512) * 512;
                write_pattern(disk, offset, bytes, random());
                Memory read = memory(bytes);
                REQUIRE(disk.transfer(Op::read, offset, read.get(), bytes) == 0);
                std::memcpy(content.data() + offset, read.get(), bytes);
            }
            CHECK(disk.zero(3 * kMiB + 512, 5 * kMiB) == 0);
            std::memset(content.data() + 3 * kMiB + 512, 0, 5 * kMiB);
            CHECK(disk.content() == content);
            CHECK(disk.flush() == 0);
        }
        CHECK(read_plainly(child, below) == content);
        CHECK(check_vhd(child).errors.empty());
        {
            VhdDisk disk(child);
            CHECK(disk.content() == content);
        }
        CHECK(read_file(base) == before);
        // A grandchild, larger than what it continues.
        const std::string grandchild = dir.path() + "/grandchild.vhd";
        make_child(grandchild, child, block, 17 * kMiB);
        VhdDisk disk(grandchild);
        std::vector<std::byte> all = disk.content();
        CHECK(std::vector<std::byte>(all.begin() + 16 * kMiB, all.end()) == std::vector<std::byte>(kMiB));
        all.resize(16 * kMiB);
        CHECK(all == content);
    }
}

TEST_CASE("vhd: random requests on a differencing disk") {
    TempDir dir;
    const std::string base = dir.path() + "/base.vhd";
    make_vhd(base, {.bytes = 16 * kMiB});
    const std::string child = dir.path() + "/child.vhd";
    for (const uint32_t block : {uint32_t{4096}, uint32_t{16384}, vhd::kDefaultBlock}) {
        make_child(child, base, block);
        std::vector<std::byte> content;
        {
            VhdDisk disk(child);
            hammer(disk, block, 6);
            content = disk.content();
        }
        CHECK(read_plainly(child, std::vector<std::byte>(16 * kMiB)) == content);
    }
}

TEST_CASE("vhd: what was answered is in the file, whoever is killed; the next opening reclaims what leaked") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    make_vhd(path, {.bytes = 256 * kMiB});
    std::vector<std::byte> content;
    {
        VhdDisk disk(path);
        for (uint64_t i = 0; i < 20; ++i) write_pattern(disk, i * 9 * kMiB + 512, 65536, i);
        content = disk.content();
        disk.abandon();
    }
    check_with_qemu(dir, path, content);
    CHECK(check_vhd(path).leaked_bytes > 0);
    {
        VhdDisk disk(path);
        CHECK(disk.content() == content);
    }
    CHECK(check_vhd(path).leaked_bytes == 0);
    CHECK(check_vhd(path).errors.empty());
    check_with_qemu(dir, path, content);
}

TEST_CASE("vhd: the same disk whose last footer was lost") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    make_vhd(path, {.bytes = 64 * kMiB});
    std::vector<std::byte> content;
    {
        VhdDisk disk(path);
        write_pattern(disk, kMiB, 5 * kMiB, 1);
        content = disk.content();
    }
    REQUIRE(truncate(path.c_str(), static_cast<off_t>(size_of(path) - 512)) == 0);
    CHECK(check_vhd(path).errors.size() == 1);
    SECTION("a reader reads it") {
        VhdDisk disk(path, false);
        CHECK(disk.content() == content);
    }
    SECTION("a writer puts it back") {
        VhdDisk disk(path);
        CHECK(disk.content() == content);
        write_pattern(disk, 30 * kMiB, kMiB, 2);
        content = disk.content();
        disk.close();
        CHECK(check_vhd(path).errors.empty());
        check_with_qemu(dir, path, content);
    }
    SECTION("and so does a repair") {
        CHECK(check_vhd(path, true).repaired);
        CHECK(check_vhd(path).errors.empty());
        check_with_qemu(dir, path, content);
    }
}

TEST_CASE("vhd: after a clean close nothing is leaked of what was discarded: holes between blocks, and no end that is none's") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    make_vhd(path, {.bytes = 256 * kMiB});
    std::vector<std::byte> content;
    {
        VhdDisk disk(path);
        for (uint64_t i = 0; i < 20; ++i) write_pattern(disk, i * 2 * kMiB, 65536, i);
        CHECK(disk.discard(10 * kMiB, 10 * kMiB) == 0);
        CHECK(disk.flush() == 0);
        CHECK(disk.discard(30 * kMiB, 10 * kMiB) == 0);  // not synced
        content = disk.content();
    }
    const vhd::CheckReport report = check_vhd(path);
    CHECK(report.errors.empty());
    CHECK(report.leaked_bytes == 0);
    CHECK(report.used_blocks == 10);
    CHECK(std::filesystem::file_size(path) < 31 * kMiB);
    check_with_qemu(dir, path, content);
    VhdDisk again(path);
    CHECK(again.content() == content);
}

TEST_CASE("vhd: a block that is discarded takes no table with it that lies behind it") {
    // QEMU puts blocks at any multiple of 512 bytes; a table that has outgrown its place goes behind the last of them.
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    for (uint64_t blocks = 1; blocks <= 8; ++blocks) {
        INFO(blocks << " blocks");
        std::vector<std::byte> data(64 * kMiB);
        for (uint64_t i = 0; i < blocks; ++i) fill(data.data() + i * 2 * kMiB, 4096, i + 1);
        write_file(dir.path() + "/raw", data);
        REQUIRE(shell("qemu-img convert -f raw -O vpc -o force_size=on " + dir.path() + "/raw " + path) == 0);
        {
            VhdDisk disk(path);
            REQUIRE(disk.image->resize(1024 * kMiB).ok());
        }
        {
            VhdDisk disk(path);
            CHECK(disk.discard((blocks - 1) * 2 * kMiB, 2 * kMiB) == 0);
            CHECK(disk.flush() == 0);
        }
        std::memset(data.data() + (blocks - 1) * 2 * kMiB, 0, 2 * kMiB);
        CHECK(check_vhd(path).errors.empty());
        VhdDisk again(path);
        Memory found = memory(data.size());
        REQUIRE(again.transfer(Op::read, 0, found.get(), data.size()) == 0);
        CHECK(std::memcmp(found.get(), data.data(), data.size()) == 0);
    }
}

TEST_CASE("vhd: a discarded block leaves the file; its place is used again after a flush, not before") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    make_vhd(path, {.bytes = 256 * kMiB});
    VhdDisk disk(path);
    write_pattern(disk, 0, 64 * kMiB, 1);
    REQUIRE(disk.flush() == 0);
    struct stat about {};
    REQUIRE(stat(path.c_str(), &about) == 0);
    const auto full = about.st_blocks;
    CHECK(disk.discard(kMiB, 63 * kMiB) == 0);
    REQUIRE(stat(path.c_str(), &about) == 0);
    CHECK(about.st_blocks < full / 32);
    CHECK(has_pattern(disk, 0, kMiB, 1));
    std::vector<std::byte> content = disk.content();
    CHECK(std::all_of(content.begin() + kMiB, content.end(), [](std::byte b) { return b == std::byte{0}; }));
    const uint64_t size = size_of(path);
    REQUIRE(disk.flush() == 0);
    write_pattern(disk, 128 * kMiB, 62 * kMiB, 3);
    CHECK(size_of(path) == size);
    write_pattern(disk, 64 * kMiB + 4096, 4096, 4);
    content = disk.content();
    disk.close();
    check_with_qemu(dir, path, content);
    CHECK(check_vhd(path).errors.empty());
}

TEST_CASE("vhd: extents say where data is, and only there") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    make_vhd(path, {.bytes = 2040ULL << 30});
    VhdDisk disk(path);
    write_pattern(disk, 6 * kMiB + 65536, 65536, 1);
    write_pattern(disk, (2040ULL << 30) - 4096, 4096, 2);
    std::vector<std::pair<uint64_t, uint64_t>> data;
    uint64_t calls = 0;
    for (uint64_t at = 0; at < disk.image->geometry().bytes; ++calls) {
        const Extent extent = disk.image->extent(at).value();
        REQUIRE(extent.length > 0);
        if (extent.kind == Extent::Kind::data) data.emplace_back(at, extent.length);
        at += extent.length;
    }
    CHECK(data == std::vector<std::pair<uint64_t, uint64_t>>{{6 * kMiB + 65536, 65536}, {(2040ULL << 30) - 4096, 4096}});
    CHECK(calls < 12);
}

TEST_CASE("vhd: sizes past 127 GiB and up to 2040, and not beyond") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    for (const uint64_t gib : {uint64_t{128}, uint64_t{2040}}) {
        make_vhd(path, {.bytes = gib << 30});
        VhdDisk disk(path);
        write_pattern(disk, (gib << 30) - kMiB, kMiB, gib);
        CHECK(has_pattern(disk, (gib << 30) - kMiB, kMiB, gib));
        disk.close();
        CHECK_THAT(output_of("qemu-img info --output=json -f vpc " + path),
                   ContainsSubstring("\"virtual-size\": " + std::to_string(gib << 30)));
    }
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_TRUNC | O_CLOEXEC));
    const auto refused = vhd::create(SyncIo(fd.get(), path), {.bytes = (2040ULL << 30) + 512});
    REQUIRE_FALSE(refused.ok());
    CHECK_THAT(refused.error().message, ContainsSubstring("2040 GiB"));
}

TEST_CASE("vhd: growing and shrinking") {
    TempDir dir;
    const std::string path = dir.path() + "/disk.vhd";
    for (const vhd::Type type : {vhd::Type::fixed, vhd::Type::dynamic}) {
        make_vhd(path, {.bytes = 9 * kMiB, .type = type});
        std::vector<std::byte> content;
        {
            VhdDisk disk(path);
            write_pattern(disk, 7 * kMiB, 2 * kMiB, 1);
            content = disk.content();
            // Far enough that the table has to move.
            const auto grown = disk.image->resize(3000 * kMiB);
            INFO((grown.ok() ? std::string() : grown.error().message));
            REQUIRE(grown.ok());
            CHECK(disk.image->geometry().bytes == 3000 * kMiB);
            CHECK(has_pattern(disk, 7 * kMiB, 2 * kMiB, 1));
            Memory zeros = memory(kMiB);
            REQUIRE(disk.transfer(Op::read, 9 * kMiB, zeros.get(), kMiB) == 0);
            CHECK(std::all_of(zeros.get(), zeros.get() + kMiB, [](std::byte b) { return b == std::byte{0}; }));
            write_pattern(disk, 20 * kMiB, 65536, 2);
        }
        {
            VhdDisk disk(path);
            CHECK(has_pattern(disk, 20 * kMiB, 65536, 2));
            const auto refused = disk.image->resize(8 * kMiB);
            if (type == vhd::Type::dynamic) {
                REQUIRE_FALSE(refused.ok());
                CHECK(disk.discard(8 * kMiB, disk.image->geometry().bytes - 8 * kMiB) == 0);
                CHECK(disk.flush() == 0);
                REQUIRE(disk.image->resize(8 * kMiB).ok());
            }
            CHECK(disk.image->geometry().bytes == 8 * kMiB);
            content.resize(8 * kMiB);
            CHECK(disk.content() == content);
        }
        check_with_qemu(dir, path, content);
        CHECK(check_vhd(path).errors.empty());
    }
}

TEST_CASE("vhd: a full file system is an error to the guest, and the disk stays whole") {
    TempDir dir;
    if (shell("mount -t tmpfs -o size=24m none " + dir.path() + " 2>/dev/null") != 0) SKIP("mounting needs root");
    struct Unmount {
        const std::string& path;
        ~Unmount() { (void)shell("umount " + path); }
    } unmount{dir.path()};
    const std::string path = dir.path() + "/disk.vhd";
    make_vhd(path, {.bytes = 64 * kMiB});
    std::vector<std::byte> content(64 * kMiB);
    {
        VhdDisk disk(path, true, false);
        int failed = 0;
        Memory data = memory(kMiB);
        for (uint64_t i = 0; i < 40; ++i) {
            fill(data.get(), kMiB, i);
            const uint64_t at = (i * 37 % 64) * kMiB;
            const int32_t result = disk.transfer(Op::write, at, data.get(), kMiB);
            if (result == 0) std::memcpy(content.data() + at, data.get(), kMiB);
            if (result != 0) CHECK(result == -ENOSPC);
            failed += result != 0 ? 1 : 0;
        }
        CHECK(failed > 10);
        CHECK(failed < 25);
        // What failed may hold a part of what was written; what succeeded has to be there.
        const std::vector<std::byte> now = disk.content();
        for (uint64_t i = 0; i < 40; ++i) {
            const uint64_t at = (i * 37 % 64) * kMiB;
            fill(data.get(), kMiB, i);
            if (std::memcmp(content.data() + at, data.get(), kMiB) != 0) continue;
            CHECK(std::memcmp(now.data() + at, data.get(), kMiB) == 0);
        }
        // Room again: the guest goes on.
        CHECK(disk.discard(0, 20 * kMiB) == 0);
        CHECK(disk.flush() == 0);
        write_pattern(disk, 0, 4 * kMiB, 99);
        content = disk.content();
    }
    CHECK(check_vhd(path).errors.empty());
    CHECK(read_plainly(path, {}) == content);
}
