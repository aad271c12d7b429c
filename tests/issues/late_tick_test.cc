// SPDX-License-Identifier: Apache-2.0
//
// One timer serves all vifs that wait for time to pass, and one that was running was not made to end earlier: a guest's rate, said in
// short intervals, was that of whoever had the longest.
#include <catch2/catch_test_macros.hpp>

#include "netback_fixture.h"

using namespace ringback;
using namespace ringback::test;

TEST_CASE("a vif's rate is kept in its own intervals, whatever another one's are") {
    NetBed bed;
    const std::vector<std::byte> packet(500, std::byte{1});
    std::vector<std::unique_ptr<frontend::Netfront>> fronts;
    for (const uint32_t handle : {0U, 1U}) {
        must(bed.xl.attach_nic(bed.t.domid, {.handle = handle, .mac = "00:16:3e:00:00:0" + std::to_string(handle + 1)}));
        must(bed.store.write(bed.back(handle) + "/rate", handle == 0 ? "500,400000" : "500,10000"));
        fronts.push_back(bed.front({.handle = handle}));
        must(fronts.back()->attach());
    }
    const auto waits = [&](uint32_t handle) { return bed.daemon.vif(handle)["counters"]["rate_waits"].get<int>(); };
    REQUIRE(eventually([&] {
        for (const auto& front : fronts) {
            while (front->queue(0).send(packet)) {
            }
            front->queue(0).push();
            front->queue(0).reap([](std::span<const std::byte>, const frontend::PacketInfo&) {});
        }
        return waits(0) >= 5;
    }));
    CHECK(waits(1) >= 25);  // of some 200
}
