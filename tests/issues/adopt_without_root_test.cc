// SPDX-License-Identifier: Apache-2.0
//
// A blkbackd that is not root, as in tests, refused the workers of an earlier one: which program they run is not its to see.
#include <grp.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using frontend::Op;

namespace {

constexpr uid_t kNobody = 65534;

void become_nobody() {
    if (::geteuid() != 0) return;
    REQUIRE(::setgroups(0, nullptr) == 0);
    REQUIRE(::setresgid(kNobody, kNobody, kNobody) == 0);
    REQUIRE(::setresuid(kNobody, kNobody, kNobody) == 0);
}

}  // namespace

TEST_CASE("a blkbackd that is not root adopts its workers") {
    become_nobody();
    if (::access(RINGBACK_BLKBACKD, X_OK) != 0) SKIP("only root may run what was built here");
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    must(front->attach());
    const pid_t worker = bed.daemon.worker(bed.t.domid);
    bed.daemon.stop();
    bed.daemon.start();
    CHECK(eventually([&] { return bed.daemon.worker(bed.t.domid) == worker; }));
    std::string data(4096, 'a');
    CHECK(transfer(*front, Op::write, 0, data) == 0);
}
