// SPDX-License-Identifier: Apache-2.0
//
// The reactor aborted when the kernel took none of its requests: EBUSY while completions wait to be taken, EAGAIN while
// there is no memory for requests. Here the kernel's refusals are made up: this program's own function stands before
// liburing's.
#include <dlfcn.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <vector>

#include "runtime/reactor.h"

using namespace ringback;

namespace {

int refusals = 0;
int refusal = 0;

struct Nop : Completion {
    int completed = 0;
    int inside = 0;  // of how many calls to submit() this was called
    static inline int submitting = 0;
    Nop() {
        on_complete = [](Completion& self, int32_t, uint32_t) noexcept {
            ++static_cast<Nop&>(self).completed;
            static_cast<Nop&>(self).inside += submitting;
        };
    }
};

}  // namespace

extern "C" int io_uring_submit_and_get_events(io_uring* ring) {
    using Real = int (*)(io_uring*);
    static const Real real = reinterpret_cast<Real>(dlsym(RTLD_NEXT, "io_uring_submit_and_get_events"));
    if (refusals == 0) return real(ring);
    --refusals;
    return -refusal;
}

TEST_CASE("requests that the kernel will not take yet are kept until it does") {
    auto reactor = std::move(Reactor::create({.entries = 4})).value();
    reactor->start().value();
    refusal = GENERATE(EBUSY, EAGAIN);
    // Many times what the completion queue holds.
    std::vector<Nop> nops(1000);
    for (size_t i = 0; i < nops.size(); ++i) {
        if (i % 100 == 50) refusals = 5;
        ++Nop::submitting;
        reactor->submit(nops[i], [](io_uring_sqe* sqe) { io_uring_prep_nop(sqe); });
        --Nop::submitting;
    }
    while (reactor->in_flight() > 0) reactor->turn(true);
    for (const Nop& nop : nops) {
        REQUIRE(nop.completed == 1);
        REQUIRE(nop.inside == 0);  // who submits is in the middle of something
    }
    CHECK(reactor->counters().submitted == nops.size());
    CHECK(reactor->counters().completed == nops.size());
}
