// SPDX-License-Identifier: Apache-2.0
//
// No request allocates: a program of its own, because it counts every use of the heap.
#include <atomic>
#include <cstdlib>
#include <new>

#include "disk-images/qcow2/create.h"
#include "image_fixture.h"
#include "image_loop.h"
#include "qcow2_fixture.h"

namespace {
std::atomic<uint64_t> allocations{0};
}

// Not inlined: half of a pair, seen alone, looks to the compiler like a mismatch.
[[gnu::noinline]] void* operator new(size_t bytes) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    void* memory = std::malloc(bytes > 0 ? bytes : 1);
    if (memory == nullptr) std::abort();
    return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
    std::free(memory);
}

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;

namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr size_t kInFlight = 32;

// Reads, writes (every seventh of them with two vectors, at odd sectors), flushes and discards, 32 at a time.
uint64_t allocations_of(Disk& disk, size_t rounds) {
    Memory space = memory(kInFlight * 8192);
    std::vector<std::unique_ptr<Request>> requests;
    std::vector<Io*> batch;
    for (size_t i = 0; i < kInFlight; ++i) {
        requests.push_back(std::make_unique<Request>());
        requests.back()->parts.resize(2);
        batch.push_back(requests.back().get());
    }
    size_t failed = 0;
    const uint64_t before = allocations.load();
    for (size_t round = 0; round < rounds; ++round) {
        for (size_t i = 0; i < kInFlight; ++i) {
            Request& request = *requests[i];
            std::byte* data = space.get() + i * 8192;
            const size_t which = round * kInFlight + i;
            const bool odd = which % 7 == 0;
            request.answers = 0;
            request.op = which % 31 == 0   ? Op::flush
                         : which % 17 == 0 ? Op::discard
                         : which % 2 == 0  ? Op::read
                                           : Op::write;
            request.offset = request.op == Op::flush ? 0 : i * 16384 + (odd ? 512 : 0);
            request.length = request.op == Op::flush ? 0 : 4096;
            request.parts[0] = {data, odd ? size_t{512} : size_t{4096}};
            request.parts[1] = {data + 512, 4096 - 512};
            request.vectors = {request.parts.data(), odd ? size_t{2} : size_t{1}};
        }
        disk.image->submit(batch);
        for (const auto& request : requests) {
            disk.wait(*request);
            if (request->result != 0) ++failed;
        }
    }
    const uint64_t after = allocations.load();
    CHECK(failed == 0);
    return after - before;
}

}  // namespace

TEST_CASE("no request to a raw image allocates") {
    TempDir dir;
    for (const bool direct : {true, false}) {
        Disk disk(dir.file("disk", 4 * kMiB), true, direct);
        CHECK(allocations_of(disk, 16) == 0);
    }
}

TEST_CASE("no request to a block device allocates, with read-modify-write and discards by the thread") {
    TempDir dir;
    const UniqueFd backing(::open(dir.file("disk", 4 * kMiB).c_str(), O_RDWR | O_CLOEXEC));
    const LoopDevice loop(backing.get(), 4096);
    if (!loop.ok()) SKIP("no loop device can be set up here (needs root and /dev/loop-control)");
    Disk disk(loop.path(), true, true);
    CHECK(allocations_of(disk, 16) == 0);
}

TEST_CASE("no request to a qcow2 image allocates: first writes, copies from a backing file, discards") {
    for (const bool extended : {false, true}) {
        TempDir dir;
        (void)dir.file("base.raw", 4 * kMiB);
        const std::string path = dir.file("disk.qcow2", 0);
        {
            const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
            qcow2::BlockingFile file(fd.get(), path);
            REQUIRE(qcow2::create(file, {.bytes = 4 * kMiB,
                                         .extended_l2 = extended,
                                         .backing_name = "base.raw",
                                         .backing_format = "raw"})
                        .ok());
        }
        FormatDisk disk("qcow2", path);
        CHECK(allocations_of(disk, 64) == 0);
        disk.close();
    }
}
