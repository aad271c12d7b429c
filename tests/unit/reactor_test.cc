// SPDX-License-Identifier: Apache-2.0
#include "runtime/reactor.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <vector>

using namespace ringback;

namespace {
struct Recorded : Completion {
    std::vector<int> results;
    Recorded() {
        on_complete = [](Completion& self, int32_t result, uint32_t) noexcept {
            static_cast<Recorded&>(self).results.push_back(result);
        };
    }
};
struct Counted : Task {
    int runs = 0;
    Counted() {
        run = [](Task& self) noexcept { ++static_cast<Counted&>(self).runs; };
    }
};
std::unique_ptr<Reactor> started(Reactor::Options options = {}) {
    auto reactor = std::move(Reactor::create(options)).value();
    reactor->start().value();
    return reactor;
}
}  // namespace

TEST_CASE("a batch of requests costs one enter, and each completes once") {
    auto reactor = started();
    std::vector<Recorded> nops(32);
    for (auto& nop : nops) reactor->submit(nop, [](io_uring_sqe* sqe) { io_uring_prep_nop(sqe); });
    while (reactor->in_flight() > 0) reactor->turn(true);
    for (auto& nop : nops) CHECK(nop.results == std::vector<int>{0});
    CHECK(reactor->counters().submitted == 32);
    CHECK(reactor->counters().enters == 1);
}

TEST_CASE("a full submission queue is submitted, not overrun") {
    auto reactor = started({.entries = 4});
    std::vector<Recorded> nops(64);
    for (auto& nop : nops) reactor->submit(nop, [](io_uring_sqe* sqe) { io_uring_prep_nop(sqe); });
    while (reactor->in_flight() > 0) reactor->turn(true);
    for (auto& nop : nops) CHECK(nop.results.size() == 1);
}

TEST_CASE("a task scheduled twice runs once, and one that reschedules itself lets others run") {
    auto reactor = started();
    Counted once;
    reactor->schedule(once);
    reactor->schedule(once);
    reactor->turn(false);
    CHECK(once.runs == 1);
    reactor->turn(false);
    CHECK(once.runs == 1);
}

TEST_CASE("a watched descriptor wakes the sleeping reactor, each time") {
    auto reactor = started();
    UniqueFd event(eventfd(0, EFD_CLOEXEC));
    Recorded readable;
    reactor->watch_readable(event.get(), readable);
    for (size_t round = 1; round <= 3; ++round) {
        uint64_t value = 1;
        REQUIRE(write(event.get(), &value, sizeof value) == sizeof value);
        while (readable.results.size() < round) reactor->turn(true);
        REQUIRE(read(event.get(), &value, sizeof value) == sizeof value);
    }
    reactor->cancel(readable);
    while (reactor->in_flight() > 0) reactor->turn(true);
    CHECK(readable.results.back() == -ECANCELED);
}

TEST_CASE("a polled source is looked at inside the window and rests after it") {
    struct Source : PollSource {
        int looks = 0;
        int rests = 0;
        int found_at = 0;
    } source;
    source.look = [](PollSource& self) noexcept {
        auto& mine = static_cast<Source&>(self);
        return ++mine.looks == mine.found_at;
    };
    source.rest = [](PollSource& self) noexcept { ++static_cast<Source&>(self).rests; };
    auto reactor = started({.polling = {.window_ns = 1'000'000'000, .always = false}});
    Recorded nop;
    source.found_at = 3;
    reactor->start_polling(source);
    reactor->turn(true);
    CHECK(source.looks == 3);
    CHECK(source.rests == 0);
    CHECK_FALSE(source.active);
    CHECK(reactor->counters().sleeps == 0);
}

TEST_CASE("without a window a source rests at once") {
    struct Source : PollSource {
        int rests = 0;
    } source;
    source.look = [](PollSource&) noexcept { return true; };
    source.rest = [](PollSource& self) noexcept { ++static_cast<Source&>(self).rests; };
    auto reactor = started();
    Recorded nop;
    reactor->submit(nop, [](io_uring_sqe* sqe) { io_uring_prep_nop(sqe); });
    reactor->start_polling(source);
    reactor->turn(true);
    CHECK(source.rests == 1);
}

TEST_CASE("windows that keep missing are skipped, then tried again") {
    PollPolicy policy({.window_ns = 10, .always = false});
    uint64_t now = 1000;
    int opened = 0;
    for (int i = 0; i < 100; ++i) {
        if (policy.open()) {
            ++opened;
            CHECK(policy.go_on(now));
            CHECK_FALSE(policy.go_on(now + 20));
        }
        now += 100;
    }
    CHECK(opened < 10);
    CHECK(opened > 4);
    policy.hit();
}

TEST_CASE("registered file slots are reused") {
    auto reactor = started({.files = 2});
    const auto first = reactor->put_file(STDIN_FILENO).value();
    const auto second = reactor->put_file(STDIN_FILENO).value();
    CHECK(first != second);
    CHECK_FALSE(reactor->put_file(STDIN_FILENO).ok());
    reactor->drop_file(first);
    CHECK(reactor->put_file(STDIN_FILENO).value() == first);
}
