// SPDX-License-Identifier: Apache-2.0
//
// Snapshots in qcow2 images, with every write and sync that they make failing once, in full and half done: the image is then what it
// was, or what it was to become, and nothing else. pwrite() and fdatasync() are this program's own.
#include <sys/syscall.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <optional>

#include "disk-images/qcow2/check.h"
#include "disk-images/qcow2/create.h"
#include "disk-images/qcow2/snapshots.h"
#include "image_fixture.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;

namespace {

std::optional<unsigned> calls_left;  // then everything fails
unsigned calls = 0;

bool may_go_on() {
    ++calls;
    if (!calls_left) return true;
    if (*calls_left == 0) return false;
    --*calls_left;
    return true;
}

}  // namespace

extern "C" ssize_t pwrite(int fd, const void* data, size_t bytes, off_t offset) {
    const bool whole = may_go_on();
    // The one that fails leaves its first half.
    if (!whole && (*calls_left != 0 || bytes < 1024)) {
        errno = EIO;
        return -1;
    }
    const ssize_t done = ::syscall(SYS_pwrite64, fd, data, whole ? bytes : bytes / 1024 * 512, offset);
    if (whole) return done;
    errno = EIO;
    return -1;
}

extern "C" int fdatasync(int fd) {
    if (may_go_on()) return static_cast<int>(::syscall(SYS_fdatasync, fd));
    errno = EIO;
    return -1;
}

namespace {

constexpr uint64_t kBytes = 4U << 20;
constexpr uint64_t kChunk = 64 << 10;

bool run(const std::string& command) { return std::system((command + " >/dev/null 2>&1").c_str()) == 0; }

struct Bed {
    explicit Bed(uint32_t cluster = 4096, bool extended = false) {
        qcow2::BlockingFile file = open();
        must(qcow2::create(file, {.bytes = kBytes, .cluster_bytes = cluster, .extended_l2 = extended}));
    }
    static void must(const Result<void>& result) {
        INFO((result.ok() ? "" : result.error().message));
        REQUIRE(result.ok());
    }
    qcow2::BlockingFile open() {
        fd.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        REQUIRE(fd);
        return {fd.get(), path};
    }
    // Through the image, as a guest would.
    void fill_chunks(uint64_t from, uint64_t to, uint64_t seed) {
        with_image([&](Disk& disk) {
            Memory data = memory(kChunk);
            for (uint64_t at = from; at < to; ++at) {
                fill(data.get(), kChunk, seed + at);
                REQUIRE(disk.transfer(Op::write, at * kChunk, data.get(), kChunk) == 0);
            }
        });
    }
    std::vector<std::byte> content() {
        std::vector<std::byte> all(kBytes);
        with_image([&](Disk& disk) {
            Memory data = memory(kBytes);
            REQUIRE(disk.transfer(Op::read, 0, data.get(), kBytes) == 0);
            std::memcpy(all.data(), data.get(), kBytes);
        }, false);
        return all;
    }
    template <typename Do>
    void with_image(Do what, bool writable = true) {
        Disk disk;
        auto image = open_image("qcow2", open_file(path, writable, false).value(), disk.opener, *disk.reactor, {.writable = writable});
        INFO((image.ok() ? "" : image.error().message));
        REQUIRE(image.ok());
        disk.image = std::move(image).value();
        what(disk);
        REQUIRE(close_and_wait(*disk.image, *disk.reactor) == 0);
    }
    qcow2::CheckReport check() {
        qcow2::BlockingFile file = open();
        return qcow2::check(file, qcow2::Repair::none).value();
    }
    std::vector<qcow2::Snapshot> list() {
        qcow2::BlockingFile file = open();
        return qcow2::read_snapshots(file, qcow2::read_header(file).value()).value();
    }
    TempDir folder;
    std::string path = folder.path() + "/disk.qcow2";
    UniqueFd fd;
};

// Whatever is under test; what it says.
Result<qcow2::Snapshot> act(Bed& bed, int what) {
    qcow2::BlockingFile file = bed.open();
    if (what == 0) return qcow2::create_snapshot(file, bed.fd.get(), "new", 1'700'000'000'000'000'000);
    if (what == 1) return qcow2::apply_snapshot(file, bed.fd.get(), "old");
    return qcow2::remove_snapshot(file, bed.fd.get(), "old");
}

}  // namespace

TEST_CASE("create, apply, remove: cut off at any write the image is as before, or done; QEMU agrees") {
    const int what = GENERATE(0, 1, 2);
    const bool extended = GENERATE(false, true);
    Bed bed(extended ? 16384 : 4096, extended);
    bed.fill_chunks(0, 40, 1);
    {
        qcow2::BlockingFile file = bed.open();
        REQUIRE(qcow2::create_snapshot(file, bed.fd.get(), "old", 1).ok());
    }
    bed.fill_chunks(20, 50, 1000);
    REQUIRE(bed.check().clean());
    const std::string saved = bed.path + ".saved";
    std::filesystem::copy_file(bed.path, saved);
    const auto before = bed.content();
    const size_t snapshots = bed.list().size();
    calls = 0;
    REQUIRE(act(bed, what).ok());
    const unsigned all = calls;
    REQUIRE(all > 5);
    const auto after = bed.content();
    const size_t snapshots_after = bed.list().size();
    CHECK((before != after) == (what == 1));
    CHECK(bed.check().clean());
    unsigned done = 0;
    for (unsigned at = 0; at < all; ++at) {
        INFO("failing from write " << at << " of " << all);
        std::filesystem::copy_file(saved, bed.path, std::filesystem::copy_options::overwrite_existing);
        calls_left = at;
        const auto result = act(bed, what);
        calls_left.reset();
        const qcow2::CheckReport report = bed.check();
        REQUIRE(report.corruptions == 0);
        REQUIRE(report.leaks == 0);
        if (at % 8 == 0) REQUIRE(run("qemu-img check -f qcow2 " + bed.path));
        const bool changed = bed.list().size() != snapshots || (what == 1 && bed.content() == after);
        if (changed) ++done;
        REQUIRE(bed.content() == (changed ? after : before));
        REQUIRE(bed.list().size() == (changed ? snapshots_after : snapshots));
        REQUIRE((!result.ok() || changed));
    }
    CHECK(done < all);
    CHECK(run("qemu-img check -f qcow2 " + bed.path));
}

TEST_CASE("what cannot be: an unknown name, a name that is taken, refcounts of one bit, a damaged image") {
    Bed bed;
    bed.fill_chunks(0, 4, 1);
    qcow2::BlockingFile file = bed.open();
    const int fd = bed.fd.get();
    CHECK(qcow2::apply_snapshot(file, fd, "none").error().code == ENOENT);
    CHECK(qcow2::remove_snapshot(file, fd, "none").error().code == ENOENT);
    CHECK(qcow2::create_snapshot(file, fd, "", 0).error().code == EINVAL);
    CHECK(qcow2::create_snapshot(file, fd, std::string(256, 'x'), 0).error().code == EINVAL);
    REQUIRE(qcow2::create_snapshot(file, fd, "a", 0).ok());
    CHECK(qcow2::create_snapshot(file, fd, "a", 0).error().code == EEXIST);
    CHECK(qcow2::create_snapshot(file, fd, "1", 0).error().code == EEXIST);  // that one's id
    CHECK(qcow2::apply_snapshot(file, fd, "1").ok());

    const std::string narrow = bed.folder.path() + "/narrow.qcow2";
    REQUIRE(run("qemu-img create -f qcow2 -o refcount_bits=1 " + narrow + " 1M && qemu-io -f qcow2 -c 'write 0 64k' " + narrow));
    const UniqueFd one(::open(narrow.c_str(), O_RDWR | O_CLOEXEC));
    qcow2::BlockingFile bits(one.get(), narrow);
    CHECK(qcow2::create_snapshot(bits, one.get(), "a", 0).error().code == EFBIG);
    CHECK(run("qemu-img check -f qcow2 " + narrow));

    // Its first L2 table is said to lie outside.
    const qcow2::Header header = qcow2::read_header(file).value();
    std::array<std::byte, 8> wild{std::byte{0x80}, std::byte{0x01}};
    REQUIRE(file.write(header.l1_offset, wild).ok());
    CHECK(qcow2::create_snapshot(file, fd, "b", 0).error().code == EUCLEAN);
    CHECK(qcow2::remove_snapshot(file, fd, "a").error().code == EUCLEAN);
}
