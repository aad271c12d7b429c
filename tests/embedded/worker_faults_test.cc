// SPDX-License-Identifier: Apache-2.0
//
// The hypervisor fails under the worker: maps and copies that do not work, a domain that dies in the middle. Each costs
// the request, the connection or the guest it happened to; nothing leaks, and what comes later works.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <random>

#include "raw_ring.h"

using namespace ringback;
using namespace ringback::test;
using namespace ringback::xen::blkif;

namespace {

std::string map_failures(int count) { return R"({"map_failures":)" + std::to_string(count) + "}"; }

std::string copy_failures(const Rig& rig, int count) {
    return R"({"copy_failures":)" + std::to_string(count) + R"(,"domid":)" + std::to_string(rig.core.domid) + "}";
}

bool nothing_mapped(Rig& rig) {
    return eventually([&] { return must(rig.core.toolstack.counters()).find("\"live_maps\":0") != std::string::npos; });
}

}  // namespace

TEST_CASE("a ring that cannot be mapped is an error, leaves nothing behind, and can be mapped later") {
    Rig rig({.queues = 3, .connect = false});
    must(rig.core.toolstack.inject(map_failures(1)));
    const Result<void> first = rig.try_connect();
    REQUIRE_FALSE(first.ok());
    CHECK(first.error().message.find("map 1 grants") != std::string::npos);
    CHECK_FALSE(rig.device->connected());
    CHECK(nothing_mapped(rig));
    // The second queue is the bad one: the first, which worked, is given back with its port.
    const uint32_t ref = rig.queues[1].ring_refs()[0];
    auto& guest = rig.core.guest;
    const auto frame = guest.frame_of(rig.queues[1].shared());
    REQUIRE(guest.end_access(ref));
    REQUIRE_FALSE(rig.try_connect().ok());
    CHECK(nothing_mapped(rig));
    guest.grant_at(ref, frame, 0, false);
    REQUIRE(rig.try_connect().ok());
    std::vector<std::byte> data(4096);
    for (size_t queue = 0; queue < 3; ++queue) CHECK(rig.transfer(frontend::Op::read, 0, data, queue) == kOkay);
}

TEST_CASE("two queues that name the same event channel are refused") {
    Rig rig({.queues = 2, .connect = false});
    blk::Connect parameters{};
    parameters.queue_count = 2;
    auto queue = must(frontend::Queue::create(rig.core.guest, {}));
    for (int i = 0; i < 2; ++i) {
        parameters.queues[static_cast<size_t>(i)].ring_refs[0] = queue.ring_refs()[0];
        parameters.queues[static_cast<size_t>(i)].remote_port = queue.port();
    }
    CHECK_FALSE(rig.device->connect(parameters).ok());
    CHECK(nothing_mapped(rig));
}

TEST_CASE("a persistent grant that cannot be mapped is copied") {
    Rig rig({.persistent = true});
    std::mt19937_64 random(1);
    std::vector<std::byte> data(40960);
    for (auto& byte : data) byte = static_cast<std::byte>(random());
    must(rig.core.toolstack.inject(map_failures(1)));
    CHECK(rig.transfer(frontend::Op::write, 0, data) == kOkay);
    CHECK(rig.device->stats().grant_copy_calls == 1);
    must(rig.core.toolstack.inject(map_failures(0)));
    std::vector<std::byte> back(data.size());
    CHECK(rig.transfer(frontend::Op::read, 0, back) == kOkay);
    CHECK(back == data);
    CHECK(rig.device->stats().grant_copy_calls == 1);
}

TEST_CASE("a copy that fails is an error for its request, and the disk serves on") {
    Rig rig;
    std::vector<std::byte> data(40960, std::byte{7}), back(40960);
    must(rig.core.toolstack.inject(copy_failures(rig, 1)));
    CHECK(rig.transfer(frontend::Op::write, 0, data) == kError);
    CHECK(rig.transfer(frontend::Op::read, 0, back) == kOkay);
    CHECK(back == std::vector<std::byte>(40960));  // nothing of it was written
    CHECK(rig.transfer(frontend::Op::write, 0, data) == kOkay);
    must(rig.core.toolstack.inject(copy_failures(rig, 1)));
    CHECK(rig.transfer(frontend::Op::read, 0, back) == kError);
    CHECK(rig.transfer(frontend::Op::read, 0, back) == kOkay);
    CHECK(back == data);
    CHECK(rig.queues[0].broken() == "");
}

TEST_CASE("a segment list that cannot be fetched is an error for its request") {
    Rig rig({.max_segments = 256});
    std::vector<std::byte> data(1 << 20, std::byte{7});
    must(rig.core.toolstack.inject(copy_failures(rig, 1)));
    CHECK(rig.transfer(frontend::Op::write, 0, data) == kError);
    CHECK(rig.transfer(frontend::Op::write, 0, data) == kOkay);
}

TEST_CASE("failed copies hit no request but their own, in batches of any mixture") {
    Rig rig({.ring_order = 2});
    RawRing ring(rig);
    RawPage page(rig);
    std::mt19937_64 random(5);
    uint64_t failed = 0;
    for (int round = 0; round < 40; ++round) {
        const int faults = static_cast<int>(random() % 20);
        must(rig.core.toolstack.inject(copy_failures(rig, faults)));
        for (uint64_t id = 0; id < ring.entries(); ++id) {
            ring.put(data_request(random() % 2 == 0 ? kRead : kWrite, id, 8 * id, {{page.ref, 0, 7, 0}}));
        }
        ring.push();
        REQUIRE(ring.settle());
        uint64_t errors = 0;
        for (const RawResponse& response : ring.take_responses()) errors += response.status == kOkay ? 0 : 1;
        CHECK(errors == static_cast<uint64_t>(faults));
        failed += errors;
    }
    CHECK(rig.device->stats().errors == failed);
}

TEST_CASE("a domain that dies with requests in flight takes nothing with it") {
    const bool persistent = GENERATE(false, true);
    auto rig = std::make_unique<Rig>(RigOptions{.ring_order = 2, .persistent = persistent});
    RawRing ring(*rig);
    RawPage page(*rig);
    REQUIRE(ring.run(data_request(kRead, 1, 0, {{page.ref, 0, 7, 0}})) == kOkay);
    for (uint64_t id = 0; id < ring.entries(); ++id) {
        ring.put(data_request(id % 2 == 0 ? kRead : kWrite, id, 8 * id, {{page.ref, 0, 7, 0}}));
    }
    ring.push();
    rig->reactor->turn(false);
    must(rig->core.toolstack.destroy_domain(rig->core.domid));
    for (int i = 0; i < 50; ++i) rig->reactor->turn(false);
    rig->device->disconnect();
    REQUIRE(ring.until([&] { return rig->disconnected == 1; }));
    CHECK(rig->device->stats().in_flight == 0);
    CHECK(nothing_mapped(*rig));
}
