// SPDX-License-Identifier: Apache-2.0
//
// The raw image on block devices, with blocks of 512 and of 4096 bytes, and on storage that fails. Real loop
// devices and a real full file system; skipped without root.
#include <sys/mount.h>
#include <sys/syscall.h>

#include "image_fixture.h"
#include "image_hammer.h"
#include "image_loop.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;

namespace {

constexpr uint64_t kMiB = 1 << 20;

UniqueFd backing_file(const std::string& path) {
    return UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
}

// A file of `file_bytes` (sparse) on a tmpfs of its own that holds no more than `room` bytes. The tmpfs is
// detached from the tree at once and ends with the descriptor.
UniqueFd file_on_full_storage(const TempDir& dir, uint64_t file_bytes, uint64_t room) {
    const std::string at = dir.path() + "/small";
    REQUIRE(mkdir(at.c_str(), 0700) == 0);
    const std::string options = "size=" + std::to_string(room);
    if (mount("tmpfs", at.c_str(), "tmpfs", 0, options.c_str()) != 0) return {};
    UniqueFd fd(::open((at + "/disk").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    REQUIRE(umount2(at.c_str(), MNT_DETACH) == 0);
    REQUIRE(fd);
    REQUIRE(ftruncate(fd.get(), static_cast<off_t>(file_bytes)) == 0);
    return fd;
}

void skip_without(const LoopDevice& loop) {
    if (!loop.ok()) SKIP("no loop device can be set up here (needs root and /dev/loop-control)");
}

uint64_t allocated(const UniqueFd& fd) {
    struct stat about {};
    REQUIRE(fstat(fd.get(), &about) == 0);
    return static_cast<uint64_t>(about.st_blocks) * 512;
}

}  // namespace

TEST_CASE("device: random requests on a block device agree with an oracle") {
    TempDir dir;
    for (const bool direct : {true, false}) {
        const UniqueFd backing = backing_file(dir.file("disk", 8 * kMiB));
        const LoopDevice loop(backing.get(), 512);
        skip_without(loop);
        Disk disk(loop.path(), true, direct);
        CHECK(disk.image->geometry().logical_block == 512);
        CHECK(disk.image->geometry().bytes == 8 * kMiB);
        hammer(disk, 5, 12);
        CHECK(disk.flush() == 0);
    }
}

TEST_CASE("device: blocks of 4096 bytes still make a disk with sectors of 512") {
    TempDir dir;
    for (const bool direct : {true, false}) {
        const UniqueFd backing = backing_file(dir.file("disk", 8 * kMiB));
        const LoopDevice loop(backing.get(), 4096);
        skip_without(loop);
        Disk disk(loop.path(), true, direct);
        CHECK(disk.image->geometry().logical_block == 4096);
        CHECK(disk.image->geometry().physical_block == 4096);
        hammer(disk, 6, 12);
        CHECK(disk.flush() == 0);
    }
}

TEST_CASE("device: neighbours inside one block of 4096 do not lose each other's writes") {
    TempDir dir;
    const UniqueFd backing = backing_file(dir.file("disk", kMiB));
    const LoopDevice loop(backing.get(), 4096);
    skip_without(loop);
    Disk disk(loop.path(), true, true);
    Memory data = memory(kMiB);
    fill(data.get(), kMiB, 9);
    // All at once: every sector of the first 64 blocks on its own, and the blocks after them as a whole.
    std::vector<std::unique_ptr<Request>> requests;
    std::vector<Io*> batch;
    for (uint64_t at = 0; at < kMiB; at += at < kMiB / 4 ? 512 : 4096) {
        const size_t bytes = at < kMiB / 4 ? 512 : 4096;
        requests.push_back(
            std::make_unique<Request>(Op::write, at, std::vector<iovec>{{data.get() + at, bytes}}));
        batch.push_back(requests.back().get());
    }
    disk.image->submit(batch);
    for (const auto& request : requests) {
        disk.wait(*request);
        REQUIRE(request->result == 0);
    }
    Memory back = memory(kMiB);
    REQUIRE(disk.transfer(Op::read, 0, back.get(), kMiB) == 0);
    CHECK(std::memcmp(back.get(), data.get(), kMiB) == 0);
    // Longer than the bounce buffer, beginning and ending inside a block.
    fill(data.get(), kMiB, 10);
    REQUIRE(disk.transfer(Op::write, 512, data.get() + 512, kMiB - 1024) == 0);
    std::memcpy(data.get(), back.get(), 512);
    std::memcpy(data.get() + kMiB - 512, back.get() + kMiB - 512, 512);
    REQUIRE(disk.transfer(Op::read, 0, back.get(), kMiB) == 0);
    CHECK(std::memcmp(back.get(), data.get(), kMiB) == 0);
}

TEST_CASE("device: a read-modify-write runs alone, between what came before and after it") {
    // A loop device serves its requests one after the other, so the race itself cannot be provoked on it:
    // what the image has in the kernel at each moment is looked at instead.
    TempDir dir;
    const UniqueFd backing = backing_file(dir.file("disk", kMiB));
    const LoopDevice loop(backing.get(), 4096);
    skip_without(loop);
    Disk disk(loop.path(), true, true);
    Memory data = memory(16384);
    fill(data.get(), 16384, 14);
    Request before(Op::write, 0, std::vector<iovec>{{data.get(), 8192}});
    Request sector(Op::write, 512, std::vector<iovec>{{data.get() + 8192, 512}});
    Request after(Op::write, 0, std::vector<iovec>{{data.get() + 12288, 4096}});
    std::vector<Io*> batch{&before, &sector, &after};
    disk.image->submit(batch);
    CHECK(disk.reactor->in_flight() == 1);
    disk.wait(before);
    while (sector.answers == 0) {
        CHECK(disk.reactor->in_flight() == 1);
        CHECK(after.answers == 0);
        disk.reactor->turn(true);
    }
    disk.wait(after);
    CHECK((before.result == 0 && sector.result == 0 && after.result == 0));
    Memory back = memory(8192);
    REQUIRE(disk.transfer(Op::read, 0, back.get(), 8192) == 0);
    CHECK(std::memcmp(back.get(), data.get() + 12288, 4096) == 0);
    CHECK(std::memcmp(back.get() + 4096, data.get() + 4096, 4096) == 0);
}

TEST_CASE("device: a file on a file system with blocks of 4096 bytes") {
    TempDir dir;
    const UniqueFd backing = backing_file(dir.file("disk", 64 * kMiB));
    const LoopDevice loop(backing.get(), 4096);
    skip_without(loop);
    if (std::system(("mkfs.ext4 -q -F " + loop.path() + " >/dev/null 2>&1").c_str()) != 0) {
        SKIP("mkfs.ext4 does not work here (package e2fsprogs)");
    }
    const std::string at = dir.path() + "/mounted";
    REQUIRE(mkdir(at.c_str(), 0700) == 0);
    if (mount(loop.path().c_str(), at.c_str(), "ext4", 0, "") != 0) SKIP("ext4 cannot be mounted here");
    const auto create = [&](const char* name, uint64_t bytes) {
        UniqueFd fd(::open((at + "/" + name).c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_DIRECT, 0600));
        if (fd && ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) fd.reset();
        return File{std::move(fd), true, true, name};
    };
    File whole = create("whole", 8 * kMiB);
    File odd = create("odd", 8 * kMiB + 512);
    const int odd_fd = odd.fd.get();
    REQUIRE(umount2(at.c_str(), MNT_DETACH) == 0);  // ends with the files
    REQUIRE((whole.fd && odd.fd));
    {
        Disk disk;
        disk.image =
            std::move(open_image("raw", std::move(whole), disk.opener, *disk.reactor, {.writable = true}))
                .value();
        CHECK(disk.image->geometry().logical_block == 4096);
        hammer(disk, 16, 8);
    }
    // The last sector of this one cannot be written directly without making the file longer.
    Disk disk;
    disk.image =
        std::move(open_image("raw", std::move(odd), disk.opener, *disk.reactor, {.writable = true})).value();
    CHECK(disk.image->geometry().bytes == 8 * kMiB + 512);
    CHECK((fcntl(odd_fd, F_GETFL) & O_DIRECT) == 0);
    hammer(disk, 17, 8);
    struct stat about {};
    REQUIRE(fstat(odd_fd, &about) == 0);
    CHECK(about.st_size == 8 * kMiB + 512);
}

TEST_CASE("device: discards on a block device free the storage, many at once") {
    TempDir dir;
    for (const uint32_t block : {512U, 4096U}) {
        const UniqueFd backing = backing_file(dir.file("disk", 8 * kMiB));
        const LoopDevice loop(backing.get(), block);
        skip_without(loop);
        Disk disk(loop.path(), true, true);
        const Geometry& geometry = disk.image->geometry();
        REQUIRE(geometry.discard);
        CHECK(geometry.discard_granularity >= block);
        Memory data = memory(8 * kMiB);
        fill(data.get(), 8 * kMiB, 12);
        REQUIRE(disk.transfer(Op::write, 0, data.get(), 8 * kMiB) == 0);
        REQUIRE(disk.flush() == 0);
        CHECK(allocated(backing) >= 8 * kMiB);
        std::vector<std::unique_ptr<Request>> requests;
        std::vector<Io*> batch;
        for (uint64_t at = 2 * kMiB; at < 6 * kMiB; at += kMiB) {
            requests.push_back(std::make_unique<Request>(Op::discard, at, kMiB));
            batch.push_back(requests.back().get());
        }
        // Inside one block of 4096: done by doing nothing, at most zeroing its own sectors.
        requests.push_back(std::make_unique<Request>(Op::discard, 6 * kMiB + 512, uint64_t{1024}));
        batch.push_back(requests.back().get());
        disk.image->submit(batch);
        for (const auto& request : requests) {
            disk.wait(*request);
            CHECK(request->result == 0);
        }
        CHECK(allocated(backing) <= 4 * kMiB + 65536);
        Memory back = memory(8 * kMiB);
        REQUIRE(disk.transfer(Op::read, 0, back.get(), 8 * kMiB) == 0);
        CHECK(std::memcmp(back.get(), data.get(), 2 * kMiB) == 0);
        CHECK(std::memcmp(back.get() + 6 * kMiB, data.get() + 6 * kMiB, 512) == 0);
        CHECK(std::memcmp(back.get() + 6 * kMiB + 1536, data.get() + 6 * kMiB + 1536, 2 * kMiB - 1536) == 0);
        // A write after an answered discard stays.
        REQUIRE(disk.discard(0, kMiB) == 0);
        REQUIRE(disk.transfer(Op::write, 0, data.get(), kMiB) == 0);
        REQUIRE(disk.transfer(Op::read, 0, back.get(), kMiB) == 0);
        CHECK(std::memcmp(back.get(), data.get(), kMiB) == 0);
    }
}

TEST_CASE("device: growth of a block device is seen") {
    TempDir dir;
    const std::string path = dir.file("disk", 4 * kMiB);
    const UniqueFd backing = backing_file(path);
    const LoopDevice loop(backing.get(), 512);
    skip_without(loop);
    Disk disk(loop.path(), true, true);
    CHECK(disk.image->geometry().bytes == 4 * kMiB);
    REQUIRE(truncate(path.c_str(), 6 * kMiB) == 0);
    loop.grow();
    REQUIRE(disk.image->refresh_size().ok());
    CHECK(disk.image->geometry().bytes == 6 * kMiB);
}

TEST_CASE("device: no space is an error of the write, not success") {
    TempDir dir;
    UniqueFd fd = file_on_full_storage(dir, 4 * kMiB, kMiB);
    if (!fd) SKIP("no tmpfs can be mounted here (needs root)");
    Disk disk;
    File file{std::move(fd), true, false, "full"};
    disk.image =
        std::move(open_image("raw", std::move(file), disk.opener, *disk.reactor, {.writable = true})).value();
    Memory data = memory(2 * kMiB);
    CHECK(disk.transfer(Op::write, 0, data.get(), 2 * kMiB) == -ENOSPC);
    CHECK(disk.transfer(Op::write, 0, data.get(), 4096) == 0);
    CHECK_FALSE(disk.image->sync_failed());
}

TEST_CASE("device: after a sync failed, what changes the disk fails, and reads go on") {
    // The page cache of a block device takes what the storage under it has no room for; the sync has to say
    // so.
    TempDir dir;
    const UniqueFd backing = file_on_full_storage(dir, 8 * kMiB, kMiB);
    if (!backing) SKIP("no tmpfs can be mounted here (needs root)");
    const LoopDevice loop(backing.get(), 512);
    skip_without(loop);
    Disk disk(loop.path(), true, false);
    Memory data = memory(4 * kMiB);
    fill(data.get(), 4 * kMiB, 13);
    REQUIRE(disk.transfer(Op::write, 0, data.get(), 4 * kMiB) == 0);
    CHECK_FALSE(disk.image->sync_failed());

    // Several flushes together, and a write that is on its way: the kernel tells the failure to one sync
    // only.
    std::vector<std::unique_ptr<Request>> flushes;
    std::vector<Io*> batch;
    for (int i = 0; i < 4; ++i) {
        flushes.push_back(std::make_unique<Request>(Op::flush, 0, uint64_t{0}));
        batch.push_back(flushes.back().get());
    }
    disk.image->submit(batch);
    for (const auto& flush : flushes) {
        disk.wait(*flush);
        CHECK(flush->answers == 1);
        CHECK(flush->result == -EIO);
    }
    CHECK(disk.image->sync_failed());

    // The kernel has told its error and forgets it; the image does not.
    CHECK(disk.flush() == -EIO);
    CHECK(disk.transfer(Op::write, 0, data.get(), 4096) == -EIO);
    CHECK(disk.discard(0, 4096) == -EIO);
    CHECK(disk.transfer(Op::read, 0, data.get(), 4096) == 0);
    CHECK(disk.image->sync_failed());
}
