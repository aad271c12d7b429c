// SPDX-License-Identifier: Apache-2.0
//
// Data goes from a guest's pages into the image and back unharmed, in every combination of what a frontend can
// negotiate; and the frontend, as strict as Linux's, never finds a reason to give the disk up.
#include <sys/stat.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <fstream>
#include <random>

#include "worker_rig.h"

using namespace ringback;
using namespace ringback::test;
using frontend::Op;
using frontend::Request;

namespace {

std::vector<std::byte> random_bytes(size_t count, std::mt19937_64& random) {
    std::vector<std::byte> bytes(count);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
}

std::vector<std::byte> file_bytes(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    std::vector<std::byte> bytes(text.size());
    std::memcpy(bytes.data(), text.data(), text.size());
    return bytes;
}

// Reads and writes of random sizes and places, many in flight on all queues, against a copy in memory. A block is
// touched by one request at a time: what overlapping requests in flight do is not defined.
void run_against_oracle(Rig& rig, unsigned seed, int requests) {
    std::mt19937_64 random(seed);
    const uint64_t sectors = rig.options.disk_bytes / 512;
    std::vector<std::byte> oracle(rig.options.disk_bytes);
    std::vector<bool> busy(sectors);
    struct Job : Request {
        std::vector<std::byte> bytes;
        std::vector<std::byte>* oracle;
        std::vector<bool>* busy;
        int* errors;
        bool idle = true;
    };
    int errors = 0;
    std::vector<Job> jobs(rig.queues.size() * rig.queues[0].entries());
    int issued = 0;
    auto launch = [&](Job& job, size_t queue) {
        const uint64_t length = 1 + random() % (rig.queues[queue].max_bytes() / 512);
        const uint64_t first = random() % 8;
        const uint64_t fit = std::min<uint64_t>(length, rig.queues[queue].max_bytes() / 512 - first);
        const uint64_t sector = random() % (sectors - fit);
        for (uint64_t s = sector; s < sector + fit; ++s) {
            if (busy[s]) return false;
        }
        job.op = random() % 2 == 0 ? Op::write : Op::read;
        job.sector = sector;
        job.first_sector = static_cast<uint8_t>(first);
        job.length = static_cast<uint32_t>(fit * 512);
        job.bytes = random_bytes(job.length, random);
        job.data = job.bytes.data();
        job.oracle = &oracle;
        job.busy = &busy;
        job.errors = &errors;
        job.done = [](Request& request, int status) {
            auto& mine = static_cast<Job&>(request);
            std::byte* expected = mine.oracle->data() + mine.sector * 512;
            if (status != 0) {
                ++*mine.errors;
            } else if (mine.op == Op::write) {
                std::memcpy(expected, mine.bytes.data(), mine.length);
            } else if (std::memcmp(expected, mine.bytes.data(), mine.length) != 0) {
                ++*mine.errors;
            }
            for (uint64_t s = 0; s < mine.length / 512; ++s) (*mine.busy)[mine.sector + s] = false;
            mine.idle = true;
        };
        if (!rig.queues[queue].submit(job)) return false;
        job.idle = false;
        for (uint64_t s = sector; s < sector + fit; ++s) busy[s] = true;
        return true;
    };
    REQUIRE(rig.turn_until([&] {
        for (size_t i = 0; i < jobs.size() && issued < requests; ++i) {
            if (jobs[i].idle && launch(jobs[i], i % rig.queues.size())) ++issued;
        }
        return issued == requests;
    }));
    REQUIRE(rig.settle());
    for (auto& queue : rig.queues) REQUIRE(queue.broken() == "");
    CHECK(errors == 0);
    CHECK(rig.failures.empty());
    CHECK(file_bytes(rig.path) == oracle);
}

}  // namespace

TEST_CASE("random reads and writes agree with an oracle, however the ring was negotiated") {
    const bool persistent = GENERATE(false, true);
    const uint32_t segments = GENERATE(11U, 32U, 256U);
    const uint32_t queues = GENERATE(1U, 3U);
    const uint32_t order = GENERATE(0U, 2U);
    const auto abi = queues == 1 ? xen::blkif::Abi::x86_32 : xen::blkif::Abi::x86_64;
    Rig rig({.queues = queues, .ring_order = order, .persistent = persistent, .max_segments = segments, .abi = abi});
    run_against_oracle(rig, segments + queues, 300);
    const blk::Stats stats = rig.device->stats();
    CHECK(stats.reads + stats.writes == 300);
    CHECK(stats.in_flight == 0);
    CHECK((stats.persistent_grants > 0) == persistent);
    if (persistent && segments == 11) CHECK(stats.grant_copy_calls == 0);
    if (!persistent) CHECK(stats.grant_copy_calls > 0);
}

TEST_CASE("with too few buffers requests wait and none is lost") {
    Rig rig({.max_segments = 256, .buffer_bytes = 1 << 20});
    run_against_oracle(rig, 5, 200);
    CHECK(rig.buffers->bytes_locked() == 1 << 20);
}

TEST_CASE("more persistent grants than may be mapped are copied, not refused") {
    Rig rig({.queues = 1, .ring_order = 4, .persistent = true, .max_segments = 32});
    run_against_oracle(rig, 6, 800);
    CHECK(rig.device->stats().persistent_grants <= blk::worker::PersistentGrants::kMaxMapped);
}

TEST_CASE("a batch costs one grant copy a direction, and few enters and notifies") {
    Rig rig({.disk_bytes = 64 << 20});
    std::vector<Request> requests(32);
    int done = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
        requests[i].op = Op::write;
        requests[i].sector = i * 8;
        requests[i].length = 4096;
        requests[i].owner = &done;
        requests[i].done = [](Request& request, int status) {
            if (status == 0) ++*static_cast<int*>(request.owner);
        };
        REQUIRE(rig.queues[0].submit(requests[i]));
    }
    REQUIRE(rig.settle());
    CHECK(done == 32);
    CHECK(rig.device->stats().grant_copy_calls == 1);
    CHECK(rig.device->stats().grant_copy_segments == 32);
}

TEST_CASE("flushes and barriers are answered, alone and with data") {
    Rig rig;
    std::mt19937_64 random(1);
    Request flush;
    flush.op = Op::flush;
    CHECK(rig.run(flush) == 0);
    Request barrier;
    barrier.op = Op::barrier;
    CHECK(rig.run(barrier) == 0);
    auto data = random_bytes(8192, random);
    CHECK(rig.transfer(Op::barrier, 8, data) == 0);
    auto more = random_bytes(4096, random);
    CHECK(rig.transfer(Op::flush, 64, more) == 0);
    auto file = file_bytes(rig.path);
    CHECK(std::memcmp(file.data() + 8 * 512, data.data(), data.size()) == 0);
    CHECK(std::memcmp(file.data() + 64 * 512, more.data(), more.size()) == 0);
    CHECK(rig.device->stats().flushes == 4);
}

TEST_CASE("a barrier waits for everything before it and holds up everything after it, on all queues") {
    Rig rig({.queues = 2});
    std::vector<int> order;
    struct Job : Request {
        int number;
        std::vector<int>* order;
        std::vector<std::byte> bytes;
    };
    std::vector<Job> jobs(21);
    for (int i = 0; i < 21; ++i) {
        Job& job = jobs[static_cast<size_t>(i)];
        job.number = i;
        job.order = &order;
        job.op = i == 10 ? Op::barrier : Op::write;
        job.sector = static_cast<uint64_t>(i) * 8;
        job.length = 4096;
        job.bytes.resize(4096);
        job.data = job.bytes.data();
        job.done = [](Request& request, int) {
            auto& mine = static_cast<Job&>(request);
            mine.order->push_back(mine.number);
        };
        REQUIRE(rig.queues[i < 10 && i % 2 == 1 ? 1 : 0].submit(job));
        // The backend has taken the first ten from both queues before the barrier is in the ring.
        if (i == 9) {
            for (auto& queue : rig.queues) queue.push();
            rig.reactor->turn(false);
            rig.reactor->turn(false);
        }
    }
    REQUIRE(rig.settle());
    REQUIRE(order.size() == 21);
    CHECK(order[10] == 10);
}

TEST_CASE("a discard frees the file's blocks, an empty one does nothing, a secure one is not offered") {
    Rig rig({.disk_bytes = 4 << 20});
    std::mt19937_64 random(2);
    auto data = random_bytes(40960, random);
    REQUIRE(rig.transfer(Op::write, 0, data) == 0);
    struct stat before {};
    REQUIRE(stat(rig.path.c_str(), &before) == 0);
    Request discard;
    discard.op = Op::discard;
    discard.sector = 8;
    discard.sectors = 64;
    CHECK(rig.run(discard) == 0);
    struct stat after {};
    REQUIRE(stat(rig.path.c_str(), &after) == 0);
    CHECK(after.st_blocks <= before.st_blocks - 64);
    Request empty;
    empty.op = Op::discard;
    CHECK(rig.run(empty) == 0);
    Request secure;
    secure.op = Op::discard;
    secure.sectors = 8;
    secure.secure = true;
    CHECK(rig.run(secure) == xen::blkif::kNotSupported);
}

TEST_CASE("discard that is switched off is refused as not supported") {
    Rig rig({.discard = false});
    Request discard;
    discard.op = Op::discard;
    discard.sectors = 8;
    CHECK(rig.run(discard) == xen::blkif::kNotSupported);
}

TEST_CASE("a read-only disk refuses every way of writing and keeps reading") {
    Rig rig({.writable = false});
    std::vector<std::byte> data(4096);
    CHECK(rig.transfer(Op::write, 0, data) == xen::blkif::kError);
    CHECK(rig.transfer(Op::barrier, 0, data) == xen::blkif::kError);
    CHECK(rig.transfer(Op::flush, 0, data) == xen::blkif::kError);
    Request discard;
    discard.op = Op::discard;
    discard.sectors = 8;
    CHECK(rig.run(discard) == xen::blkif::kError);
    Request flush;
    flush.op = Op::flush;
    CHECK(rig.run(flush) == 0);
    CHECK(rig.transfer(Op::read, 0, data) == 0);
}

TEST_CASE("requests past the end of the disk are refused, and the disk serves on") {
    Rig rig({.disk_bytes = 1 << 20});
    std::vector<std::byte> data(4096);
    for (const uint64_t sector : {uint64_t{2041}, uint64_t{2048}, uint64_t{1} << 40, UINT64_MAX}) {
        CHECK(rig.transfer(Op::read, sector, data) == xen::blkif::kError);
        CHECK(rig.transfer(Op::write, sector, data) == xen::blkif::kError);
    }
    CHECK(rig.transfer(Op::read, 2040, data) == 0);
    CHECK(rig.device->stats().bad_requests == 8);
}

TEST_CASE("a ring that is disconnected is given back whole, and can be connected again") {
    Rig rig({.persistent = true});
    std::mt19937_64 random(3);
    auto data = random_bytes(4096, random);
    REQUIRE(rig.transfer(Op::write, 0, data) == 0);
    rig.disconnect();
    CHECK_FALSE(rig.device->connected());
    // Nothing of the guest is mapped any more, after the time an unmap may take.
    CHECK(eventually([&] { return rig.queues[0].release() == 0; }));
    rig.queues.clear();
    rig.connect();
    std::vector<std::byte> again(4096);
    CHECK(rig.transfer(Op::read, 0, again) == 0);
    CHECK(again == data);
}

TEST_CASE("disconnecting answers everything that was taken") {
    Rig rig;
    std::vector<Request> requests(32);
    int answered = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
        requests[i].op = Op::write;
        requests[i].sector = i * 8;
        requests[i].length = 4096;
        requests[i].owner = &answered;
        requests[i].done = [](Request& request, int status) {
            if (status == 0) ++*static_cast<int*>(request.owner);
        };
        REQUIRE(rig.queues[0].submit(requests[i]));
    }
    rig.queues[0].push();
    rig.reactor->turn(false);  // taken and submitted
    rig.reactor->turn(false);
    const uint64_t taken = rig.device->stats().in_flight;
    rig.disconnect();
    rig.queues[0].reap();
    CHECK(static_cast<uint64_t>(answered) >= taken);
    CHECK(rig.queues[0].broken() == "");
}
