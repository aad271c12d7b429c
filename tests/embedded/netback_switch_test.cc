// SPDX-License-Identifier: Apache-2.0
//
// Vifs on the built-in switch with the real daemon and the real worker: what the toolstack's nodes say decides, errors reach
// the one who typed xl, and nothing is lost when a process dies. The two NICs are of one guest.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <filesystem>
#include <fstream>

#include "mac-pool/pool.h"
#include "netback_fixture.h"

using namespace ringback;
using namespace ringback::test;

namespace {

xen::embedded::NicSpec on_switch(uint32_t handle, const std::string& bridge = "lan0") {
    xen::embedded::NicSpec nic;
    nic.handle = handle;
    nic.mac = "00:16:3e:00:00:0" + std::to_string(handle + 1);
    nic.bridge = bridge;
    nic.script = "/etc/xen/scripts/vif-ringback";
    return nic;
}

std::vector<std::byte> packet(uint8_t from, uint8_t to, size_t size) {
    std::vector<std::byte> bytes(size);
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 5 + size);
    const std::array<uint8_t, 14> header{0x00, 0x16, 0x3e, 0, 0, to, 0x00, 0x16, 0x3e, 0, 0, from, 0x88, 0xb5};
    for (size_t i = 0; i < header.size(); ++i) bytes[i] = static_cast<std::byte>(header[i]);
    return bytes;
}

// Sends until it arrives: what was under way when a worker died may be lost.
void check_crossing(frontend::Netfront& from, uint8_t from_number, frontend::Netfront& to, uint8_t to_number, size_t size) {
    const auto sent = packet(from_number, to_number, size);
    bool arrived = false;
    REQUIRE(eventually([&] {
        (void)from.queue(0).send(sent);
        for (frontend::Netfront* front : {&from, &to}) {
            for (size_t i = 0; i < front->queue_count(); ++i) {
                front->queue(i).push();
                front->queue(i).reap([&](std::span<const std::byte> got, const frontend::PacketInfo&) {
                    arrived = arrived || (front == &to && std::equal(got.begin(), got.end(), sent.begin(), sent.end()));
                });
                REQUIRE(front->queue(i).broken() == "");
            }
        }
        return arrived;
    }));
}

size_t resident_bytes(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/statm");
    size_t total = 0, resident = 0;
    REQUIRE(file >> total >> resident);
    return resident * 4096;
}

struct TwoOnSwitch {
    explicit TwoOnSwitch(const NetSettings& settings = {}) : bed(settings) {
        must(bed.xl.attach_nic(bed.t.domid, on_switch(0)));
        must(bed.xl.attach_nic(bed.t.domid, on_switch(1)));
        one = bed.front({.handle = 0});
        two = bed.front({.handle = 1, .queues = 2});
        must(one->attach());
        must(two->attach());
    }
    void check(size_t size = 3000) {
        check_crossing(*one, 1, *two, 2, size);
        check_crossing(*two, 2, *one, 1, size);
    }
    NetBed bed;
    std::unique_ptr<frontend::Netfront> one, two;
};

}  // namespace

TEST_CASE("two NICs on a switch reach each other, and the host has no device for them") {
    TwoOnSwitch t;
    t.check();
    CHECK(t.bed.daemon.vif(0)["mode"] == "switch");
    CHECK(t.bed.daemon.vif(0)["interface"] == "");
    CHECK(t.bed.daemon.vif(0)["counters"]["switch"]["forwarded"].get<int>() >= 1);
    const auto table = t.bed.daemon.ask({{"command", "switch-table"}, {"switch", "lan0"}});
    REQUIRE(table["ok"] == true);
    REQUIRE(table["entries"].size() == 2);
    for (const auto& entry : table["entries"]) {
        CHECK(entry["configured"] == true);
        CHECK(entry["device"] == "vif/" + std::to_string(t.bed.t.domid) + (entry["mac"] == "00:16:3e:00:00:01" ? "/0" : "/1"));
    }
    CHECK(t.bed.daemon.ask({{"command", "switch-table"}, {"switch", "nowhere"}})["ok"] == false);
    must(t.one->close());
    must(t.bed.xl.detach_disk(t.bed.t.domid, 0, true));
    CHECK(t.bed.daemon.ask({{"command", "switch-table"}, {"switch", "lan0"}})["entries"].size() == 1);
}

TEST_CASE("what is wrong with a NIC on a switch is said where its script finds it, and others go on") {
    TwoOnSwitch t;
    const auto [bridge, mac, what] = GENERATE(table<std::string, std::string, std::string>({
        {"xenbr0", "00:16:3e:00:00:09", "no switch \"xenbr0\""},
        {"lan0.5000", "00:16:3e:00:00:09", "is no VLAN"},
        {"lan0", "01:16:3e:00:00:09", "is no MAC address"},
    }));
    auto nic = on_switch(2, bridge);
    nic.mac = mac;
    must(t.bed.xl.write_nic_nodes(t.bed.t.domid, nic));
    t.bed.wait_node(t.bed.back(2) + "/state", "2");
    CHECK(t.bed.node(t.bed.back(2) + "/hotplug-error").find(what) != std::string::npos);
    CHECK(t.bed.daemon.vif(2)["port"] == "failed");
    t.check();
}

TEST_CASE("a NIC for an Open vSwitch that does not run is refused with that reason, and others go on") {
    TwoOnSwitch t({.switch_lines = "[ovs-dpdk]\nbridges = \"br0\"\ndatabase = \"unix:/nowhere/db.sock\"\n"});
    const auto [bridge, what] = GENERATE(table<std::string, std::string>({
        {"br0", "Open vSwitch: "},
        {"br1", "[ovs-dpdk] bridges \"br0\""},
        {"br0.4095", "is no VLAN"},
    }));
    must(t.bed.xl.write_nic_nodes(t.bed.t.domid, on_switch(2, bridge)));
    t.bed.wait_node(t.bed.back(2) + "/state", "2");
    CHECK(t.bed.node(t.bed.back(2) + "/hotplug-error").find(what) != std::string::npos);
    CHECK(t.bed.node(t.bed.back(2) + "/script").find("vif-refused") != std::string::npos);
    CHECK(t.bed.daemon.vif(2)["port"] == "failed");
    must(t.bed.xl.detach_disk(t.bed.t.domid, 2, true));
    t.check();
}

TEST_CASE("a switch worker that is killed is replaced, and the guests' rings go on") {
    TwoOnSwitch t;
    t.check();
    for (int i = 0; i < 3; ++i) {
        const pid_t before = t.bed.daemon.worker();
        ::kill(before, SIGKILL);
        REQUIRE(eventually([&] { return t.bed.daemon.worker() != 0 && t.bed.daemon.worker() != before; }));
        t.check(200 + static_cast<size_t>(i));
    }
    CHECK(t.bed.node(t.bed.back(0) + "/state") == "4");
    CHECK(t.bed.node(t.bed.back(1) + "/state") == "4");
}

TEST_CASE("a supervisor finds its switch and the ports of it again") {
    TwoOnSwitch t;
    const pid_t worker = t.bed.daemon.worker();
    t.bed.daemon.stop(GENERATE(SIGTERM, SIGKILL));
    t.check();
    t.bed.daemon.start();
    REQUIRE(eventually([&] { return t.bed.daemon.vif(1)["ring"] == "connected" && t.bed.daemon.vif(0)["ring"] == "connected"; }));
    CHECK(t.bed.daemon.worker() == worker);
    CHECK(t.bed.daemon.vif(0)["mode"] == "switch");
    t.check();
}

TEST_CASE("the rules of a port are what netbackd says now, not what its worker was told once") {
    TwoOnSwitch t;
    t.check();
    const pid_t worker = t.bed.daemon.worker();
    t.bed.daemon.stop(SIGTERM);
    const std::string file = t.bed.t.core.directory() + "/netbackd.toml";
    std::ofstream(file, std::ios::app) << "floods_per_second = 1\n";
    t.bed.daemon.start();
    REQUIRE(eventually([&] { return t.bed.daemon.vif(1)["ring"] == "connected" && t.bed.daemon.vif(0)["ring"] == "connected"; }));
    CHECK(t.bed.daemon.worker() == worker);
    t.check();
    auto broadcast = packet(1, 2, 60);
    std::fill_n(broadcast.begin(), 6, std::byte{0xff});
    REQUIRE(eventually([&] {
        for (frontend::Netfront* front : {t.one.get(), t.two.get()}) {
            (void)t.one->queue(0).send(broadcast);
            front->queue(0).push();
            front->queue(0).reap([](std::span<const std::byte>, const frontend::PacketInfo&) {});
        }
        return t.bed.daemon.vif(0)["counters"]["switch"]["storm"].get<int>() > 0;
    }));
    CHECK(t.bed.node(t.bed.back(0) + "/state") == "4");
}

TEST_CASE("a guest that floods one that does not read makes the worker no larger") {
    TwoOnSwitch t;
    t.check();
    const bool broadcast = GENERATE(false, true);
    auto large = packet(1, 2, 60000);
    if (broadcast) std::fill_n(large.begin(), 6, std::byte{0xff});
    const auto flood = [&](size_t count) {
        frontend::NetQueue& queue = t.one->queue(0);
        size_t sent = 0;
        REQUIRE(eventually([&] {
            while (sent < count && queue.send(large)) ++sent;
            queue.push();
            queue.reap([](std::span<const std::byte>, const frontend::PacketInfo&) {});
            REQUIRE(queue.broken() == "");
            return sent == count && queue.tx_in_flight() == 0;
        }));
    };
    flood(200);  // its ring and what may wait are full
    const size_t full = resident_bytes(t.bed.daemon.worker());
    flood(2000);
    // A fraction of what was sent; a sanitizer notes some things of each packet.
    CHECK(resident_bytes(t.bed.daemon.worker()) <= full + (8U << 20));
    const auto lost = t.bed.daemon.vif(1)["counters"]["rx_dropped"].get<int>();
    const auto refused = t.bed.daemon.vif(0)["counters"]["switch"]["storm"].get<int>();
    CHECK(lost + refused > 2000);
    CHECK((refused > 0) == broadcast);
}

TEST_CASE("TAPs and the switch live side by side") {
    TwoOnSwitch t;
    xen::embedded::NicSpec tap;
    tap.handle = 2;
    tap.mac = "00:16:3e:00:00:03";
    must(t.bed.xl.attach_nic(t.bed.t.domid, tap));
    auto front = t.bed.front({.handle = 2});
    must(front->attach());
    t.bed.check_traffic(*front, t.bed.interface(2));
    t.check();
}

TEST_CASE("macpool finds a clash with an address that the switch has learned") {
    TwoOnSwitch t({.switch_lines = "check_source = 0\n"});
    std::string directory = std::filesystem::temp_directory_path() / "switch-macpool-XXXXXX";
    REQUIRE(::mkdtemp(directory.data()) != nullptr);
    mac::Location location;
    location.url = "sqlite:" + directory + "/pool.db";
    mac::Settings settings;
    settings.ranges = {must(mac::parse_range("00:16:3e"))};
    must(mac::Pool::init(*must(mac::open_store(location, mac::system_clock(), mac::Open::create)), settings));
    {
        mac::Pool pool = must(mac::Pool::open(must(mac::open_store(location, mac::system_clock(), mac::Open::existing)), mac::system_clock()));
        for (unsigned nic : {0U, 1U}) must(pool.reserve(must(mac::parse_unicast(on_switch(nic).mac)), mac::Guest{"guest", {}}, nic));
    }
    const auto scan = [&] {
        const std::string command = "RINGBACK_NET_SOCKET=" + t.bed.daemon.socket() + " " RINGBACK_MACPOOL " --pool " + location.url + " --json scan --switch";
        FILE* pipe = ::popen(command.c_str(), "r");
        REQUIRE(pipe != nullptr);
        std::string text;
        for (char part[4096]; const size_t got = ::fread(part, 1, sizeof part, pipe);) text.append(part, got);
        (void)::pclose(pipe);
        return nlohmann::json::parse(text);
    };
    // Other switches of this machine may have addresses, too.
    const auto of_ours = [](const nlohmann::json& found) {
        std::vector<std::string> texts;
        for (const auto& clash : found["clashes"]) {
            if (clash["text"].get<std::string>().find("Ringback switch lan0") != std::string::npos) texts.push_back(clash["text"]);
        }
        return texts;
    };
    const nlohmann::json before = scan();
    CHECK(of_ours(before).empty());
    CHECK(before["problems"].empty());
    // From behind the first NIC, a machine that nobody gave its address.
    check_crossing(*t.one, 7, *t.two, 2, 500);
    const auto clashes = of_ours(scan());
    REQUIRE(clashes.size() == 1);
    CHECK(clashes[0].starts_with("00:16:3e:00:00:07 is in use at "));
    CHECK(clashes[0].find("port vif/" + std::to_string(t.bed.t.domid) + "/0") != std::string::npos);
    t.bed.daemon.stop();
    const nlohmann::json without = scan();
    CHECK(of_ours(without).empty());
    CHECK(without["problems"].empty());
    std::filesystem::remove_all(directory);
}
