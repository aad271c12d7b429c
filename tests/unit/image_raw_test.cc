// SPDX-License-Identifier: Apache-2.0
//
// The raw image on regular files: content against an oracle, partial transfers, errors, discard, size.
#include <sys/resource.h>
#include <sys/uio.h>

#include <csignal>

#include "image_fixture.h"
#include "image_hammer.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;

namespace {

constexpr uint64_t kMiB = 1 << 20;

uint64_t blocks_of(const std::string& path) {
    struct stat about {};
    REQUIRE(stat(path.c_str(), &about) == 0);
    return static_cast<uint64_t>(about.st_blocks);
}

}  // namespace

TEST_CASE("raw: random requests, direct, agree with an oracle") {
    TempDir dir;
    Disk disk(dir.file("disk", 16 * kMiB), true, true);
    hammer(disk, 1, 24);
    CHECK(disk.flush() == 0);
}

TEST_CASE("raw: random requests through the page cache agree with an oracle") {
    TempDir dir;
    Disk disk(dir.file("disk", 16 * kMiB + 512), true, false);
    hammer(disk, 2, 24);
    CHECK(disk.flush() == 0);
}

TEST_CASE("raw: direct I/O where the file system does not tell what it demands") {
    const std::string path = "/dev/shm/ringback-image-test-" + std::to_string(getpid());
    UniqueFd fd(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_DIRECT, 0600));
    if (!fd) SKIP("/dev/shm takes no O_DIRECT (Linux before 6.6)");
    REQUIRE(unlink(path.c_str()) == 0);
    REQUIRE(ftruncate(fd.get(), 4 * kMiB) == 0);
    Disk disk;
    File file{std::move(fd), true, true, path};
    disk.image =
        std::move(open_image("raw", std::move(file), disk.opener, *disk.reactor, {.writable = true})).value();
    hammer(disk, 4, 8);
}

TEST_CASE("raw: what was written is in the file, byte for byte") {
    TempDir dir;
    const std::string path = dir.file("disk", kMiB);
    Memory data = memory(8192);
    fill(data.get(), 8192, 7);
    {
        Disk disk(path, true, true);
        CHECK(disk.transfer(Op::write, 512 * 5, data.get(), 8192) == 0);
        CHECK(disk.flush() == 0);
    }
    std::ifstream file(path, std::ios::binary);
    std::string content(kMiB, '\0');
    REQUIRE(file.read(content.data(), static_cast<std::streamsize>(kMiB)));
    CHECK(std::memcmp(content.data() + 512 * 5, data.get(), 8192) == 0);
    CHECK(content.find_first_not_of('\0') >= 512 * 5);
}

TEST_CASE("raw: more vectors than one kernel request takes") {
    TempDir dir;
    for (const bool direct : {true, false}) {
        Disk disk(dir.file("disk", 2 * kMiB), true, direct);
        Memory data = memory(kMiB);
        fill(data.get(), kMiB, 3);
        std::vector<iovec> parts;
        for (size_t at = 0; at < kMiB; at += 512)
            parts.push_back({data.get() + at, 512});
        Request write(Op::write, 512, parts);
        REQUIRE(disk.run(write) == 0);
        Memory back = memory(kMiB);
        REQUIRE(disk.transfer(Op::read, 512, back.get(), kMiB) == 0);
        CHECK(std::memcmp(back.get(), data.get(), kMiB) == 0);
    }
}

TEST_CASE("raw: reading past the end of a file that was cut off is an error, not zeros") {
    TempDir dir;
    for (const bool direct : {true, false}) {
        for (const uint64_t left : {uint64_t{0}, kMiB / 2, kMiB / 2 + 1000}) {
            const std::string path = dir.file("disk", kMiB);
            Disk disk(path, true, direct);
            Memory data = memory(kMiB);
            REQUIRE(disk.transfer(Op::write, 0, data.get(), kMiB) == 0);
            REQUIRE(truncate(path.c_str(), static_cast<off_t>(left)) == 0);
            CHECK(disk.transfer(Op::read, 0, data.get(), kMiB) == -EIO);
            CHECK(disk.transfer(Op::read, kMiB - 4096, data.get(), 4096) == -EIO);
            if (left > 0) CHECK(disk.transfer(Op::read, 0, data.get(), 4096) == 0);
            Request split(Op::read, kMiB / 2 - 4096,
                          std::vector<iovec>{{data.get(), 512}, {data.get() + 512, 65536}});
            CHECK(disk.run(split) == -EIO);
        }
    }
}

TEST_CASE("raw: a write cut off by a limit fails with the limit's error, not with success") {
    TempDir dir;
    Disk disk(dir.file("disk", 2 * kMiB), true, false);
    Memory data = memory(kMiB);
    REQUIRE(truncate((dir.path() + "/disk").c_str(), 0) == 0);
    struct rlimit before {};
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
    const struct rlimit half { kMiB / 2, before.rlim_max };
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &half) == 0);
    const int32_t result = disk.transfer(Op::write, 0, data.get(), kMiB);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
    std::signal(SIGXFSZ, handler);
    CHECK(result == -EFBIG);
}

TEST_CASE("raw: discard frees the blocks and reads back as zeros") {
    TempDir dir;
    for (const bool direct : {true, false}) {
        const std::string path = dir.file("disk", 4 * kMiB);
        Disk disk(path, true, direct);
        CHECK(disk.image->geometry().discard);
        CHECK(disk.image->geometry().discard_granularity == 4096);
        Memory data = memory(4 * kMiB);
        fill(data.get(), 4 * kMiB, 11);
        REQUIRE(disk.transfer(Op::write, 0, data.get(), 4 * kMiB) == 0);
        REQUIRE(disk.flush() == 0);
        const uint64_t full = blocks_of(path);
        CHECK(full >= 4 * kMiB / 512);
        REQUIRE(disk.discard(kMiB, 2 * kMiB) == 0);
        CHECK(blocks_of(path) <= full - 2 * kMiB / 512 + 64);
        Memory back = memory(4 * kMiB);
        REQUIRE(disk.transfer(Op::read, 0, back.get(), 4 * kMiB) == 0);
        CHECK(std::memcmp(back.get(), data.get(), kMiB) == 0);
        CHECK(std::memcmp(back.get() + 3 * kMiB, data.get() + 3 * kMiB, kMiB) == 0);
        const std::vector<std::byte> zeros(2 * kMiB);
        CHECK(std::memcmp(back.get() + kMiB, zeros.data(), zeros.size()) == 0);
        CHECK(disk.discard(0, 0) == 0);
        struct stat about {};
        REQUIRE(stat(path.c_str(), &about) == 0);
        CHECK(about.st_size == 4 * kMiB);
    }
}

TEST_CASE("raw: discard that is not wanted is not offered and not done") {
    TempDir dir;
    Disk disk;
    REQUIRE(disk.open(dir.file("disk", kMiB), {.writable = true, .discard = false}, true).ok());
    CHECK_FALSE(disk.image->geometry().discard);
    CHECK(disk.discard(0, 4096) == -EOPNOTSUPP);
}

TEST_CASE("raw: a read-only disk is read and not written") {
    TempDir dir;
    Disk disk(dir.file("disk", kMiB), false, true);
    Memory data = memory(4096);
    CHECK_FALSE(disk.image->geometry().discard);
    CHECK(disk.transfer(Op::read, 0, data.get(), 4096) == 0);
    CHECK(disk.transfer(Op::write, 0, data.get(), 4096) == -EROFS);
    CHECK(disk.discard(0, 4096) == -EOPNOTSUPP);
    CHECK(disk.flush() == 0);
}

TEST_CASE("raw: growth is seen when asked for, shrinking is refused") {
    TempDir dir;
    const std::string path = dir.file("disk", kMiB);
    Disk disk(path, true, true);
    CHECK(disk.image->geometry().bytes == kMiB);
    REQUIRE(truncate(path.c_str(), 2 * kMiB + 700) == 0);
    CHECK(disk.image->geometry().bytes == kMiB);
    REQUIRE(disk.image->refresh_size().ok());
    CHECK(disk.image->geometry().bytes == 2 * kMiB + 512);
    Memory data = memory(4096);
    CHECK(disk.transfer(Op::write, 2 * kMiB - 4096, data.get(), 4096) == 0);
    REQUIRE(truncate(path.c_str(), kMiB) == 0);
    const Result<void> shrunk = disk.image->refresh_size();
    REQUIRE_FALSE(shrunk.ok());
    CHECK(shrunk.error().code == EINVAL);
    CHECK(shrunk.error().message.find(path) != std::string::npos);
    CHECK(disk.image->geometry().bytes == 2 * kMiB + 512);
}

TEST_CASE("raw: what cannot be a disk is refused with its name and the reason") {
    TempDir dir;
    const auto refusal = [&](const std::string& path, const std::string& reason, bool writable, int flags) {
        Disk disk;
        File file{UniqueFd(::open(path.c_str(), flags | O_CLOEXEC)), writable, false, path};
        REQUIRE(file.fd);
        const auto opened =
            open_image("raw", std::move(file), disk.opener, *disk.reactor, {.writable = writable});
        REQUIRE_FALSE(opened.ok());
        INFO(opened.error().message);
        CHECK(opened.error().message.find(path) != std::string::npos);
        CHECK(opened.error().message.find(reason) != std::string::npos);
        return opened.error().code;
    };
    CHECK(refusal(dir.file("empty", 0), "empty", true, O_RDWR) == EINVAL);
    CHECK(refusal(dir.file("small", 511), "empty", true, O_RDWR) == EINVAL);
    CHECK(refusal(dir.path(), "directory", false, O_RDONLY) == EISDIR);
    CHECK(refusal("/dev/null", "neither", true, O_RDWR) == EINVAL);
    CHECK(refusal(dir.file("disk", kMiB), "reading only", true, O_RDONLY) == EROFS);
}

TEST_CASE("an unknown format is refused by name") {
    TempDir dir;
    Disk disk;
    const std::string path = dir.file("disk", kMiB);
    const auto opened =
        open_image("qcow9", open_file(path, true, true).value(), disk.opener, *disk.reactor, {});
    REQUIRE_FALSE(opened.ok());
    CHECK(opened.error().code == ENOTSUP);
    CHECK(opened.error().message.find("qcow9") != std::string::npos);
    CHECK(opened.error().message.find(path) != std::string::npos);
}

TEST_CASE("raw: a closed image gives its slot and its locks back") {
    TempDir dir;
    const std::string path = dir.file("disk", kMiB);
    Disk disk;
    disk.reactor = std::move(Reactor::create({.files = 1})).value();
    disk.reactor->start().value();
    for (int round = 0; round < 3; ++round) {
        REQUIRE(disk.open(path, {.writable = true}, true).ok());
        disk.image.reset();
    }
}
