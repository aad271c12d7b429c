// SPDX-License-Identifier: Apache-2.0
//
// A frontend that goes through more grants than may be mapped, in turn, cost a map and an unmap each time: the oldest
// mapping was always the one needed next. And the counters of both stayed at zero.
#include <catch2/catch_test_macros.hpp>

#include "blkback/worker/persistent.h"
#include "core_fixture.h"
#include "runtime/poll_policy.h"

using namespace ringback;
using namespace ringback::test;
using blk::worker::PersistentGrants;

TEST_CASE("grants that do not fit do not drive out those that were just used") {
    CoreWithGuest core({}, {.memory_mib = 64});
    auto grants = must(xen::GrantTable::open());
    constexpr uint32_t kPages = PersistentGrants::kMaxMapped + 100;
    const uint32_t frame = must(core.guest.alloc_pages(kPages));
    const auto refs = must(core.guest.alloc_refs(kPages));
    for (uint32_t i = 0; i < kPages; ++i) core.guest.grant_at(refs[i], frame + i, 0, false);

    blk::Stats stats{};
    {
        PersistentGrants mapped(grants, core.domid, stats);
        uint64_t now = monotonic_ns();
        for (int round = 0; round < 3; ++round) {
            mapped.set_now(now += PersistentGrants::kKeepNs / 10);
            size_t copied = 0;
            for (const uint32_t ref : refs) {
                if (mapped.acquire(ref) == nullptr) {
                    ++copied;
                } else {
                    mapped.release(ref);
                }
            }
            CHECK(copied == 100);
        }
        CHECK(stats.persistent_maps == PersistentGrants::kMaxMapped);
        CHECK(stats.persistent_unmaps == 0);
        // One that was not used for a while makes room, but none that is in use.
        mapped.set_now(now += PersistentGrants::kKeepNs);
        REQUIRE(mapped.acquire(refs[0]) != nullptr);
        CHECK(mapped.acquire(refs[kPages - 1]) != nullptr);
        CHECK(stats.persistent_unmaps == 1);
        mapped.release(refs[0]);
        mapped.release(refs[kPages - 1]);
    }
    CHECK(stats.persistent_maps == PersistentGrants::kMaxMapped + 1);
    CHECK(stats.persistent_unmaps == stats.persistent_maps);
}
