// SPDX-License-Identifier: Apache-2.0
//
// A frontend that resumes on the host it never left finds its backend Connected, and goes through Initialised and on
// to Connected by itself. A supervisor that looked only after that kept the old rings, and the guest waited for ever.
#include <signal.h>

#include <catch2/catch_test_macros.hpp>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using frontend::Op;

TEST_CASE("new rings count although nobody saw the frontend in Initialised") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    must(front->attach());
    std::string data(4096, 'a');
    REQUIRE(transfer(*front, Op::write, 0, data) == 0);
    ::kill(bed.daemon.pid(), SIGSTOP);
    must(front->attach());
    ::kill(bed.daemon.pid(), SIGCONT);
    data.assign(4096, 'b');
    CHECK(transfer(*front, Op::write, 8, data) == 0);
    CHECK(bed.node(bed.back() + "/state") == "4");
    CHECK(eventually([&] { return front->still_mapped() == 0; }));
}
