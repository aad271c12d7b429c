// SPDX-License-Identifier: Apache-2.0
//
// A netbackd that was restarted opened the TAP of each connected vif anew, before its worker had presented it: which took the
// carrier away, so that the bridge stopped forwarding to every guest of the host. Packet sockets do not mind, and so no
// other test did.
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <catch2/catch_test_macros.hpp>

#include "netback_fixture.h"

using namespace ringback;
using namespace ringback::test;

namespace {

bool has_carrier(const std::string& interface) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    REQUIRE(socket);
    ethtool_value link{ETHTOOL_GLINK, 0};
    ifreq request{};
    interface.copy(request.ifr_name, sizeof(request.ifr_name) - 1);
    request.ifr_data = reinterpret_cast<char*>(&link);
    REQUIRE(::ioctl(socket.get(), SIOCETHTOOL, &request) == 0);
    return link.data != 0;
}

}  // namespace

TEST_CASE("a vif keeps its carrier while netbackd is restarted") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    const HostPort up(bed.interface());
    CHECK_FALSE(has_carrier(bed.interface()));
    auto front = bed.front({.queues = 2});
    must(front->attach());
    REQUIRE(eventually([&] { return has_carrier(bed.interface()); }));
    for (const int signal : {SIGTERM, SIGKILL}) {
        bed.daemon.stop(signal);
        CHECK(has_carrier(bed.interface()));
        bed.daemon.start();
        REQUIRE(eventually([&] { return bed.daemon.vif()["ring"] == "connected"; }));
        CHECK(has_carrier(bed.interface()));
    }
}
