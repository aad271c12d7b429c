// SPDX-License-Identifier: Apache-2.0
//
// Images that lie: each is refused in one line, or served without harm to anything but itself.
#include <catch2/matchers/catch_matchers_string.hpp>

#include "disk-images/qcow2/create.h"
#include "disk-images/qcow2/table.h"
#include "qcow2_fixture.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr uint64_t kMiB = 1 << 20;

std::string make(const TempDir& dir, const qcow2::CreateOptions& options) {
    const std::string path = dir.file("disk.qcow2", 0);
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    qcow2::BlockingFile file(fd.get(), path);
    REQUIRE(qcow2::create(file, options).ok());
    return path;
}

void poke(const std::string& path, uint64_t offset, uint64_t value, size_t bytes) {
    std::array<std::byte, 8> raw{};
    qcow2::put64(raw.data(), value);
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    REQUIRE(pwrite(fd.get(), raw.data() + 8 - bytes, bytes, static_cast<off_t>(offset)) ==
            static_cast<ssize_t>(bytes));
}

qcow2::Header header_of(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    qcow2::BlockingFile file(fd.get(), path);
    return qcow2::read_header(file).value();
}

}  // namespace

TEST_CASE("qcow2: headers that cannot be served are refused by what is wrong with them") {
    struct Lie {
        uint64_t offset, value;
        size_t bytes;
        const char* why;
    };
    constexpr std::array kLies{
        Lie{0, 0x51464900, 4, "does not begin like"},
        Lie{4, 4, 4, "version 4"},
        Lie{20, 8, 4, "clusters are 2^8"},
        Lie{20, 22, 4, "clusters are 2^22"},
        Lie{24, 513, 8, "no positive multiple of 512"},
        Lie{24, uint64_t{1} << 62, 8, "entries"},
        Lie{24, ~uint64_t{511}, 8, "size is"},
        Lie{32, 1, 4, "AES"},
        Lie{32, 2, 4, "LUKS"},
        Lie{36, 0, 4, "needs"},
        Lie{36, 0xffffffff, 4, "L1 table has"},
        Lie{36, 4U << 20, 4, "not in the file"},
        Lie{40, 0x123, 8, "L1 table at"},
        Lie{40, uint64_t{1} << 63, 8, "L1 table at"},
        Lie{48, 0, 8, "refcount table at"},
        Lie{48, ~uint64_t{0xffff}, 8, "refcount table at"},
        Lie{56, 0, 4, "refcount table has 0"},
        Lie{56, 0xffffffff, 4, "refcount table has"},
        Lie{60, 0xffffffff, 4, "snapshot table"},
        Lie{72, uint64_t{1} << 40, 8, "unknown feature"},
        Lie{72, 1U << 3, 8, "compression method"},
        Lie{96, 7, 4, "refcounts are 2^7"},
        Lie{100, 96, 4, "header says that it is 96"},
        Lie{100, 0xfffffff8, 4, "header says"},
        Lie{104, 0xe2792aca0000ffff, 8, "extension"},
        Lie{104, 0x2385287500000008, 8, "bitmaps extension"},
        Lie{8, 70000, 8, "first cluster"},
        Lie{8, ~uint64_t{0}, 8, "first cluster"},
    };
    TempDir dir;
    const std::string path = make(dir, {.bytes = kMiB});
    for (const Lie& lie : kLies) {
        INFO("at " << lie.offset << ": " << lie.value);
        std::ifstream good(path, std::ios::binary);
        const std::string bad = dir.path() + "/bad.qcow2";
        {
            std::ofstream copy(bad, std::ios::binary | std::ios::trunc);
            copy << good.rdbuf();
        }
        poke(bad, lie.offset, lie.value, lie.bytes);
        for (const bool writable : {false, true}) {
            FormatDisk disk;
            const auto opened = disk.open_as("qcow2", bad, {.writable = writable});
            REQUIRE_FALSE(opened.ok());
            CHECK_THAT(opened.error().message, ContainsSubstring(lie.why) && ContainsSubstring(bad));
            CHECK(opened.error().message.find('\n') == std::string::npos);
        }
    }
}

TEST_CASE("qcow2: a file that is cut off anywhere is refused or read as far as it goes") {
    TempDir dir;
    const std::string path = make(dir, {.bytes = kMiB, .cluster_bytes = 4096});
    struct stat about {};
    REQUIRE(stat(path.c_str(), &about) == 0);
    for (off_t left = 0; left < about.st_size; left += left < 200 ? 8 : 512) {
        INFO("cut off at " << left);
        const std::string bad = dir.path() + "/bad.qcow2";
        std::filesystem::copy_file(path, bad, std::filesystem::copy_options::overwrite_existing);
        REQUIRE(truncate(bad.c_str(), left) == 0);
        FormatDisk disk;
        const auto opened = disk.open_as("qcow2", bad, {.writable = left % 1024 == 0});
        if (!opened.ok()) continue;
        Memory data = memory(kMiB);
        (void)disk.transfer(Op::read, 0, data.get(), kMiB);
        (void)disk.transfer(Op::write, 8192, data.get(), 8192);
        (void)close_and_wait(*disk.image, *disk.reactor);
    }
}

TEST_CASE("qcow2: tables that lie cost requests, never more") {
    TempDir dir;
    const uint64_t cluster = 4096;
    struct Lie {
        const char* name;
        uint64_t l1;  // the first L1 entry; 0: a good table
        uint64_t l2;  // its first entry
    };
    const std::array lies{
        Lie{"an L2 table behind the end", (uint64_t{1} << 40) | qcow2::kCopied, 0},
        Lie{"an L2 table not at a cluster's begin", 0x3200 | qcow2::kCopied, 0},
        Lie{"a cluster behind the end", 0, (uint64_t{1} << 40) | qcow2::kCopied},
        Lie{"a cluster not at its begin", 0, 0x3200 | qcow2::kCopied},
        Lie{"a cluster that is the header", 0, 0x0 | qcow2::kCopied | qcow2::kZero},
        Lie{"a cluster that is the L1 table", 0, 0x1000 | qcow2::kCopied},
        Lie{"compressed data behind the end", 0, qcow2::kCompressed | (uint64_t{1} << 40)},
        Lie{"compressed data that is none", 0, qcow2::kCompressed | 0x1000},
        Lie{"compressed data at nowhere", 0, qcow2::kCompressed},
    };
    for (const Lie& lie : lies) {
        INFO(lie.name);
        const std::string path = make(dir, {.bytes = 16 * kMiB, .cluster_bytes = 4096});
        const uint64_t table = 64 * cluster;
        REQUIRE(truncate(path.c_str(), static_cast<off_t>(80 * cluster)) == 0);
        const qcow2::Header header = header_of(path);
        poke(path, header.l1_offset, lie.l1 != 0 ? lie.l1 : table | qcow2::kCopied, 8);
        if (lie.l1 == 0) poke(path, table, lie.l2, 8);
        std::ifstream before_file(path, std::ios::binary);
        std::string before(3 * cluster, '\0');
        before_file.read(before.data(), static_cast<std::streamsize>(before.size()));
        {
            FormatDisk disk;
            disk.any.direct = false;
            const auto opened = disk.open_as("qcow2", path, {.writable = true});
            if (opened.ok()) {
                Memory data = memory(8192);
                (void)disk.transfer(Op::read, 0, data.get(), 8192);
                fill(data.get(), 8192, 3);
                (void)disk.transfer(Op::write, 0, data.get(), 512);
                (void)disk.discard(0, 8192);
                (void)close_and_wait(*disk.image, *disk.reactor);
            }
            FormatDisk reader;
            if (reader.open_as("qcow2", path, {.writable = false}).ok()) {
                Memory data = memory(8192);
                (void)reader.transfer(Op::read, 0, data.get(), 8192);
            }
        }
        // The header is what it was, but for its marks; the image still is one.
        CHECK(header_of(path).l1_offset == header.l1_offset);
        CHECK(header_of(path).bytes == header.bytes);
    }
}

TEST_CASE("qcow2: an image of random bytes behind a good header harms nobody") {
    for (uint64_t seed = 1; seed <= 60; ++seed) {
        TempDir dir;
        const std::string path = make(dir, {.bytes = 2 * kMiB, .cluster_bytes = 512});
        INFO("seed " << seed);
        std::mt19937_64 random(seed);
        struct stat about {};
        REQUIRE(stat(path.c_str(), &about) == 0);
        for (int i = 0; i < 40; ++i) {
            const uint64_t at =
                (seed % 2 == 0 ? 0 : 512) + random() % static_cast<uint64_t>(about.st_size - 520);
            poke(path, at / 8 * 8, random() % 3 == 0 ? random() % 64 * 512 | qcow2::kCopied : random(), 8);
        }
        FormatDisk disk;
        if (!disk.open_as("qcow2", path, {.writable = seed % 3 != 0}).ok()) continue;
        const uint64_t bytes = std::min<uint64_t>(disk.image->geometry().bytes, kMiB);
        Memory data = memory(bytes);
        (void)disk.transfer(Op::read, 0, data.get(), bytes);
        for (uint64_t at = 0; at + 4096 <= bytes; at += 65536)
            (void)disk.transfer(Op::write, at, data.get(), 4096);
        (void)disk.flush();
        (void)close_and_wait(*disk.image, *disk.reactor);
    }
}

TEST_CASE("qcow2: a backing chain that comes back, or is too long, ends with one line") {
    if (!have_qemu()) SKIP("no qemu-img here");
    TempDir dir;
    must("cd " + dir.path() +
         " && qemu-img create -q -u -f qcow2 -F qcow2 -b b.qcow2 a.qcow2 1M && "
         "qemu-img create -q -u -f qcow2 -F qcow2 -b ./a.qcow2 b.qcow2 1M");
    FormatDisk disk;
    const auto looped = disk.open_as("qcow2", dir.path() + "/a.qcow2", {});
    REQUIRE_FALSE(looped.ok());
    CHECK(looped.error().code == ELOOP);
    std::string commands = "cd " + dir.path() + " && qemu-img create -q -f raw 0 1M";
    for (int i = 1; i <= 66; ++i) {
        commands += " && qemu-img create -q -u -f qcow2 -F " + std::string(i == 1 ? "raw" : "qcow2") +
                    " -b " + std::to_string(i - 1) + " " + std::to_string(i) + " 1M";
    }
    must(commands);
    const auto deep = disk.open_as("qcow2", dir.path() + "/66", {});
    REQUIRE_FALSE(deep.ok());
    CHECK_THAT(deep.error().message, ContainsSubstring("more than 64"));
    must("cd " + dir.path() + " && qemu-img create -q -u -f qcow2 -b 0 plain 1M 2>/dev/null || true");
}
