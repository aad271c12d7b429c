// SPDX-License-Identifier: Apache-2.0
//
// The walks of a vif through XenBus, with the real daemon, the real worker, a real TAP, libxl's order and the frontends'
// own ways.
#include <net/if.h>
#include <poll.h>
#include <signal.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_adapters.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

#include "netback_fixture.h"

using namespace ringback;
using namespace ringback::test;

namespace {

bool exists(const std::string& interface) { return ::if_nametoindex(interface.c_str()) != 0; }

// A guest's kernel that reacts to what the backend says, until the vif is closed.
class Kernel {
  public:
    explicit Kernel(frontend::Netfront& front) : thread_([&front] {
        for (int waited = 0; waited < 200; ++waited) {
            if (front.follow_backend()) return;
            pollfd event{front.store_fd(), POLLIN, 0};
            (void)::poll(&event, 1, 100);
        }
    }) {}
    ~Kernel() { thread_.join(); }

  private:
    std::thread thread_;
};

}  // namespace

TEST_CASE("a Linux guest's NIC: attach, connect, packets, detach, nothing left") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    CHECK(bed.node(bed.back() + "/state") == "2");
    CHECK(exists(bed.interface()));
    CHECK(bed.node(bed.back() + "/feature-rx-copy") == "1");
    CHECK(bed.node(bed.back() + "/feature-sg") == "1");
    CHECK(bed.node(bed.back() + "/feature-split-event-channels") == "1");
    CHECK(bed.node(bed.back() + "/multi-queue-max-queues") == "4");
    auto front = bed.front();
    must(front->attach());
    bed.check_traffic(*front, bed.interface());
    const auto vif = bed.daemon.vif();
    CHECK(vif["ring"] == "connected");
    CHECK(vif["interface"] == bed.interface());
    CHECK(vif["counters"]["tx_packets"].get<int>() >= 1);
    {
        const Kernel kernel(*front);
        must(bed.xl.detach_disk(bed.t.domid, 0));
    }
    CHECK_FALSE(exists(bed.interface()));
    CHECK(eventually([&] { return bed.daemon.worker() == 0; }));
    CHECK(std::filesystem::is_empty(bed.daemon.directory() + "/net"));
    front.reset();
}

TEST_CASE("the port is there before InitWait, and Connected waits for the script") {
    NetBed bed;
    must(bed.xl.write_nic_nodes(bed.t.domid, {}));
    bed.wait_node(bed.back() + "/state", "2");
    CHECK(exists(bed.interface()));
    auto front = bed.front();
    must(front->publish());
    // The answer to a question: by now the daemon has seen the frontend's state, and has not moved.
    CHECK(bed.daemon.vif()["ring"] == "none");
    CHECK(bed.node(bed.back() + "/state") == "2");
    must(bed.store.write(bed.back() + "/hotplug-status", "connected"));
    bed.wait_node(bed.back() + "/state", "4");
    bed.check_traffic(*front, bed.interface());
}

TEST_CASE("one event channel, many queues, big packets") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front({.queues = 8, .split_ports = false});
    must(front->attach());
    CHECK(front->queue_count() == 4);
    bed.check_traffic(*front, bed.interface(), 1514);
}

TEST_CASE("the Windows driver's start, from whatever it finds") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front();
    must(front->windows_start());
    bed.check_traffic(*front, bed.interface());
    must(front->windows_start());
    bed.check_traffic(*front, bed.interface());
    CHECK(front->still_mapped() == 0);
    CHECK(exists(bed.interface()));
}

TEST_CASE("a kernel started by kexec takes the NIC over") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front();
    must(front->attach());
    bed.check_traffic(*front, bed.interface());
    must(front->kexec());
    bed.check_traffic(*front, bed.interface());
}

TEST_CASE("a guest that is destroyed, or does not answer, loses its NIC inside libxl's limits") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front();
    must(front->attach());
    const auto begin = std::chrono::steady_clock::now();
    SECTION("destroyed") { must(bed.xl.destroy_domain(bed.t.domid)); }
    SECTION("detached, and silent") { must(bed.xl.detach_disk(bed.t.domid, 0)); }
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10));
    CHECK(eventually([&] { return !exists(bed.interface()); }));
}

TEST_CASE("a worker that is killed is replaced, and the guest sees a pause") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front({.queues = 2});
    must(front->attach());
    for (int round = 0; round < 3; ++round) {
        bed.check_traffic(*front, bed.interface());
        const unsigned index = ::if_nametoindex(bed.interface().c_str());
        const pid_t before = bed.daemon.worker();
        REQUIRE(before > 0);
        ::kill(before, SIGKILL);
        REQUIRE(eventually([&] {
            const pid_t now = bed.daemon.worker();
            return now > 0 && now != before && bed.daemon.vif()["ring"] == "connected";
        }));
        CHECK(bed.node(bed.back() + "/state") == "4");
        CHECK(::if_nametoindex(bed.interface().c_str()) == index);
    }
    bed.check_traffic(*front, bed.interface());
}

TEST_CASE("a supervisor that is killed or restarted finds its worker, which never stopped") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front({.queues = 2});
    must(front->attach());
    const pid_t worker = bed.daemon.worker();
    for (const int signal : {SIGTERM, SIGKILL}) {
        bed.daemon.stop(signal);
        bed.check_traffic(*front, bed.interface());
        bed.daemon.start();
        REQUIRE(eventually([&] { return bed.daemon.vif()["ring"] == "connected"; }));
        CHECK(bed.daemon.worker() == worker);
        bed.check_traffic(*front, bed.interface());
    }
    // The new one holds the port too: a worker's death takes nothing from it.
    ::kill(worker, SIGKILL);
    REQUIRE(eventually([&] { return bed.daemon.worker() > 0 && bed.daemon.vif()["ring"] == "connected"; }));
    bed.check_traffic(*front, bed.interface());
}

TEST_CASE("worker and supervisor killed at once: the device stays, and its rings are taken up again") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front();
    must(front->attach());
    bed.check_traffic(*front, bed.interface());
    const unsigned index = ::if_nametoindex(bed.interface().c_str());
    const pid_t worker = bed.daemon.worker();
    bed.daemon.stop(SIGKILL);
    ::kill(worker, SIGKILL);
    CHECK(::if_nametoindex(bed.interface().c_str()) == index);
    bed.daemon.start();
    REQUIRE(eventually([&] { return bed.daemon.vif()["ring"] == "connected"; }));
    CHECK(::if_nametoindex(bed.interface().c_str()) == index);
    CHECK(bed.node(bed.back() + "/state") == "4");
    bed.check_traffic(*front, bed.interface());
}

TEST_CASE("a vif that went while nobody looked leaves no device") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    CHECK(exists(bed.interface()));
    bed.daemon.stop(SIGKILL);
    CHECK(exists(bed.interface()));
    must(bed.store.remove(bed.back()));
    bed.daemon.start();
    CHECK_FALSE(exists(bed.interface()));
}

TEST_CASE("a device of that name that is not a TAP of ours is left alone, and the vif says why it has no port") {
    NetBed bed;
    const std::string command = "ip link add " + bed.interface() + " type bridge";
    if (std::system(command.c_str()) != 0) SKIP("needs ip and bridges");
    must(bed.xl.write_nic_nodes(bed.t.domid, {}));
    bed.wait_node(bed.back() + "/state", "2");  // never lingers in 1: the script is what fails
    CHECK(bed.daemon.vif()["port"] == "failed");
    CHECK(bed.daemon.vif()["error"].get<std::string>().find(bed.interface()) != std::string::npos);
    CHECK(exists(bed.interface()));
}

TEST_CASE("an offer that is none closes the vif, and only that one") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    must(bed.xl.attach_nic(bed.t.domid, {.handle = 1, .mac = "00:16:3e:00:00:02"}));
    auto front = bed.front();
    auto other = bed.front({.handle = 1});
    must(other->attach());
    must(front->wait_backend([](xen::XenbusState s) { return s == xen::XenbusState::init_wait; }));
    const std::string value = GENERATE(as<std::string>(), "", "0", "-1", "99999999999", "7x", "8388607");
    must(front->store().write(bed.front_path() + "/tx-ring-ref", value));
    must(front->store().write(bed.front_path() + "/rx-ring-ref", "9"));
    must(front->store().write(bed.front_path() + "/event-channel", "9"));
    must(front->store().write(bed.front_path() + "/request-rx-copy", "1"));
    must(front->set_state(xen::XenbusState::connected));
    bed.wait_node(bed.back() + "/state", "5");
    CHECK_FALSE(bed.daemon.vif(0)["error"].get<std::string>().empty());
    must(front->set_state(xen::XenbusState::closed));
    bed.wait_node(bed.back() + "/state", "6");
    bed.check_traffic(*other, bed.interface(1));
    // A new start of the frontend gets a new chance.
    must(front->set_state(xen::XenbusState::initialising));
    must(front->wait_backend([](xen::XenbusState s) { return s == xen::XenbusState::init_wait; }));
    must(front->attach());
    bed.check_traffic(*front, bed.interface());
}

TEST_CASE("a guest that breaks its ring loses that vif") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front();
    must(front->attach());
    auto& header = *reinterpret_cast<xen::SharedRingHeader*>(front->queue(0).tx_shared());
    std::atomic_ref(header.req_prod).store(5000);
    front->queue(0).notify_tx();
    bed.wait_node(bed.back() + "/state", "5");
    CHECK(bed.daemon.vif()["error"].get<std::string>().find("tx ring") != std::string::npos);
}

TEST_CASE("rate and multicast wishes count while the vif is connected") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front();
    must(front->attach());
    must(front->store().write(bed.front_path() + "/request-multicast-control", "1"));
    const HostPort host(bed.interface());
    std::vector<std::byte> group(100, std::byte{1});
    group[12] = std::byte{0x88};
    group[13] = std::byte{0xb5};
    // Told by a watch: so many packets may pass before, and none after.
    REQUIRE(eventually([&] {
        host.send(group);
        front->queue(0).reap([](std::span<const std::byte>, const frontend::PacketInfo&) {});
        front->queue(0).push();
        return bed.daemon.vif()["counters"]["rx_filtered"].get<int>() > 0;
    }));
    must(bed.store.write(bed.back() + "/rate", "1000,50000"));
    REQUIRE(eventually([&] {
        for (int i = 0; i < 10; ++i) (void)front->queue(0).send(group);
        front->queue(0).push();
        front->queue(0).reap([](std::span<const std::byte>, const frontend::PacketInfo&) {});
        return bed.daemon.vif()["counters"]["rate_waits"].get<int>() > 0;
    }));
    CHECK(front->queue(0).broken() == "");
}
