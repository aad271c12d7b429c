// SPDX-License-Identifier: Apache-2.0
//
// What a worker said while nobody listened, or could not say, was lost: that a ring is broken, when the supervisor was
// away; the first of two requests to disconnect; any answer that found the socket full. And a worker whose predecessor
// had seen a sync fail took writes again. The test is the supervisor; the worker is a process.
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>

#include <catch2/catch_test_macros.hpp>
#include <set>

#include "hypervisor/ring.h"
#include "worker_process_bed.h"

using namespace ringback;
using namespace ringback::test;
using blk::Answer;
using blk::Message;
using blk::MessageType;
using Bed = WorkerProcessBed;

TEST_CASE("a ring that broke while the supervisor was away is reported to the next one") {
    Bed bed;
    bed.start();
    REQUIRE(bed.attach().error == 0);
    bed.connect();
    CHECK(bed.ask(MessageType::stats).stats.failed == 0);
    bed.go_away();
    auto& header = *reinterpret_cast<xen::SharedRingHeader*>(bed.queue->shared());
    std::atomic_ref(header.req_prod).store(1000, std::memory_order_release);
    bed.queue->notify();
    bed.listen();
    bed.accept();
    Answer answer{};
    CHECK(eventually([&] {
        answer = bed.ask(MessageType::stats);
        return answer.stats.failed != 0;
    }));
    CHECK(answer.stats.connected == 1);
    CHECK(answer.message.str() == "the frontend claims more requests than its ring holds");
    // Whoever comes next is told without asking.
    bed.channel.close();
    bed.accept();
    const Message present = bed.receive();
    REQUIRE(present.type == MessageType::present);
    CHECK(present.body.answer.stats.failed == 1);
    CHECK(present.body.answer.message.str() == answer.message.str());
    // And it ends with the connection.
    CHECK(bed.ask(MessageType::disconnect).stats.failed == 0);
    CHECK(bed.ask(MessageType::stats).message.str().empty());
}

TEST_CASE("each of two requests to disconnect is answered") {
    Bed bed;
    bed.start();
    REQUIRE(bed.attach().error == 0);
    bed.connect();
    // Both are there before the worker looks.
    REQUIRE(kill(bed.pid, SIGSTOP) == 0);
    const Message first = bed.message(MessageType::disconnect);
    const Message second = bed.message(MessageType::disconnect);
    must(bed.channel.send(first));
    must(bed.channel.send(second));
    REQUIRE(kill(bed.pid, SIGCONT) == 0);
    std::set<uint64_t> answered;
    while (answered.size() < 2) answered.insert(bed.receive().id);
    CHECK(answered == std::set<uint64_t>{first.id, second.id});
}

TEST_CASE("a worker whose answers are not read gives the connection up and comes again") {
    Bed bed;
    bed.start();
    REQUIRE(bed.attach().error == 0);
    CHECK(eventually([&] {
        // Questions without end, until the socket is full of answers.
        (void)bed.channel.send(bed.message(MessageType::stats));
        return readable(bed.listener.get(), 0);
    }));
    bed.accept();
    CHECK(bed.ask(MessageType::stats).error == 0);
}

TEST_CASE("a worker whose predecessor saw a sync fail takes no writes") {
    Bed bed;
    must(blk::worker::Journal::map(bed.journal.get(), {"vbd", bed.core.domid, 51712})).set_sync_failed();
    bed.start();
    const Answer attached = bed.attach();
    REQUIRE(attached.error == 0);
    CHECK(attached.stats.sync_failed == 1);
    bed.connect();
    CHECK(bed.transfer(frontend::Op::write) == xen::blkif::kError);
    CHECK(bed.transfer(frontend::Op::read) == xen::blkif::kOkay);
    // Attached anew, with a journal of its own, it is as good as new.
    REQUIRE(bed.ask(MessageType::disconnect).error == 0);
    REQUIRE(bed.ask(MessageType::detach).error == 0);
    bed.journal.reset(memfd_create("journal", MFD_CLOEXEC));
    REQUIRE(ftruncate(bed.journal.get(), static_cast<off_t>(blk::kJournalBytes)) == 0);
    REQUIRE(bed.attach().error == 0);
    bed.connect();
    CHECK(bed.transfer(frontend::Op::write) == xen::blkif::kOkay);
}

TEST_CASE("a worker does not wait for an image that is locked") {
    Bed bed;
    const UniqueFd other(open(bed.disk.c_str(), O_RDWR | O_CLOEXEC));
    REQUIRE(flock(other.get(), LOCK_EX) == 0);
    bed.start();
    CHECK(bed.attach().error == EBUSY);
    REQUIRE(flock(other.get(), LOCK_UN) == 0);
    CHECK(bed.attach().error == 0);
}
