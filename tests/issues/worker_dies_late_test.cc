// SPDX-License-Identifier: Apache-2.0
//
// Killed together with its supervisor, a worker may take longer to die than the next supervisor to start. That one saw it alive,
// and waited half a minute for it to call. And when it had waited, it took the disk over twice: the second time as one that owes
// nothing, so that what the dead worker had taken was never answered.
#include <signal.h>

#include <catch2/catch_test_macros.hpp>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using frontend::Op;

TEST_CASE("a worker that dies after the next supervisor's start is replaced at once") {
    const CapturedLog log;
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    must(front->attach());
    const pid_t worker = bed.daemon.worker(bed.t.domid);
    REQUIRE(::kill(worker, SIGSTOP) == 0);
    bed.daemon.stop(SIGKILL);
    bed.daemon.start();
    REQUIRE(::kill(worker, SIGKILL) == 0);
    std::string data(4096, 'a');
    CHECK(transfer(*front, Op::write, 0, data) == 0);
    CHECK(log.lines("it ended meanwhile") == 1);
    CHECK(log.lines("did not come back") == 0);
    CHECK(eventually([&] { return log.lines("a new worker has taken over") == 1; }));
    CHECK(bed.node(bed.back() + "/state") == "4");
}
