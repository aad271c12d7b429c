// SPDX-License-Identifier: Apache-2.0
//
// Addresses of vifs: what netbackd refuses, what it reports, and that it waits for no pool.
#include <arpa/inet.h>
#include <net/if.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>

#include "mac-pool/pool.h"
#include "netback_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;

namespace {

std::string uuid_of(const NetBed& bed, unsigned domid) {
    return bed.store.get("/local/domain/" + std::to_string(domid) + "/vm").value_or("").substr(4);
}

// A pool in a file, with web's address in it.
struct PoolFile {
    PoolFile() {
        std::string path = std::filesystem::temp_directory_path() / "netback-macs-XXXXXX";
        REQUIRE(::mkdtemp(path.data()) != nullptr);
        directory = path;
        mac::Settings settings;
        settings.ranges = {must(mac::parse_range("00:16:3e"))};
        (void)must(mac::Pool::init(*store(mac::Open::create), settings));
    }
    ~PoolFile() { std::filesystem::remove_all(directory); }
    [[nodiscard]] std::string url() const { return "sqlite:" + directory + "/pool.db"; }
    [[nodiscard]] std::string settings() const { return "mac_pool = \"" + url() + "\"\n"; }
    [[nodiscard]] std::unique_ptr<mac::Store> store(mac::Open mode) const {
        mac::Location location;
        location.url = url();
        return must(mac::open_store(location, mac::system_clock(), mode));
    }
    void hold(const char* address, const mac::Guest& guest, unsigned nic) const {
        mac::Pool pool = must(mac::Pool::open(store(mac::Open::existing), mac::system_clock()));
        (void)must(pool.reserve(must(mac::parse_unicast(address)), guest, nic));
    }

    std::string directory;
};

std::string finding(const NetBed& bed, const char* what, uint32_t handle = 0) {
    const auto vif = bed.daemon.vif(handle);
    return vif.contains("mac_pool") ? vif["mac_pool"][what].get<std::string>() : "";
}

bool found(const NetBed& bed, const char* state, uint32_t handle = 0) {
    return eventually([&] { return finding(bed, "state", handle) == state; });
}

}  // namespace

TEST_CASE("a second vif with an address in use on its network is refused, and both guests are named") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front();
    must(front->attach());
    const auto thief = must(bed.xl.create_domain({.name = "thief"}));
    const std::string back = "/local/domain/0/backend/vif/" + std::to_string(thief) + "/0";

    const auto refused = bed.xl.attach_nic(thief, {});
    REQUIRE_FALSE(refused.ok());
    CHECK_THAT(refused.error().message,
               ContainsSubstring("vif-refused online failed: MAC 00:16:3e:00:00:01 of guest thief (" +
                                 uuid_of(bed, thief) + ")") &&
                   ContainsSubstring("in use on xenbr0 by guest guest (" + uuid_of(bed, bed.t.domid) + ")"));
    CHECK(bed.node(back + "/state").empty());
    CHECK(::if_nametoindex(("vif" + std::to_string(thief) + ".0").c_str()) == 0);
    bed.check_traffic(*front, bed.interface());

    // Another network, another address; and the same one when its holder has gone.
    must(bed.xl.attach_nic(thief, {.handle = 1, .bridge = "xenbr1"}));
    must(bed.xl.attach_nic(thief, {.handle = 2, .mac = "00:16:3e:00:00:02"}));
    // Two NICs of one guest are two all the same.
    CHECK_FALSE(bed.xl.attach_nic(bed.t.domid, {.handle = 1}).ok());
    front.reset();
    must(bed.xl.destroy_domain(bed.t.domid));
    must(bed.xl.attach_nic(thief, {}));
    CHECK(bed.node(back + "/state") == "2");
}

TEST_CASE("why a vif is refused stands in the store and in the status until the toolstack takes it away") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    must(bed.xl.write_nic_nodes(bed.t.domid, {.handle = 1}));
    bed.wait_node(bed.back(1) + "/state", "2");
    const std::string why = bed.node(bed.back(1) + "/hotplug-error");
    CHECK_THAT(why, ContainsSubstring("in use on xenbr0 by guest guest"));
    CHECK(bed.node(bed.back(1) + "/hotplug-status") == "error");
    CHECK(bed.node(bed.back(1) + "/script").ends_with("/vif-refused"));
    CHECK(bed.daemon.vif(1)["error"] == why);
    CHECK(bed.daemon.vif(1)["port"] == "failed");
    // Of the first one nothing was touched.
    CHECK(bed.node(bed.back() + "/hotplug-error").empty());
    CHECK(bed.daemon.vif(0)["port"] == "open");
    must(bed.xl.detach_disk(bed.t.domid, 1));
    CHECK(eventually([&] { return bed.daemon.vif(1).is_null(); }));
}

TEST_CASE("one UUID in two domains is a migration on this host") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    const auto incoming =
        must(bed.xl.create_domain({.name = "guest--incoming", .uuid = uuid_of(bed, bed.t.domid)}));
    must(bed.xl.attach_nic(incoming, {}));
    CHECK(bed.daemon.vif(0, incoming)["port"] == "open");
}

TEST_CASE("a vif that is on its network stays there, whatever a new netbackd finds beside it") {
    NetBed bed;
    must(bed.xl.attach_nic(bed.t.domid, {}));
    must(bed.xl.attach_nic(bed.t.domid, {.handle = 1, .mac = "00:16:3e:00:00:02"}));
    auto front = bed.front();
    auto other = bed.front({.handle = 1});
    must(front->attach());
    must(other->attach());
    const pid_t worker = bed.daemon.worker();
    bed.daemon.stop(SIGKILL);
    ::kill(worker, SIGKILL);
    must(bed.store.write(bed.back(1) + "/mac", "00:16:3e:00:00:01"));
    bed.daemon.start();
    for (const uint32_t handle : {0U, 1U}) {
        REQUIRE(eventually([&] { return bed.daemon.vif(handle)["ring"] == "connected"; }));
        CHECK(bed.node(bed.back(handle) + "/state") == "4");
    }
    bed.check_traffic(*front, bed.interface());
    bed.check_traffic(*other, bed.interface(1));
}

TEST_CASE("an address that the pool does not hold for the guest is reported, and served") {
    const PoolFile pool;
    NetBed bed({.lines = pool.settings()});
    const mac::Guest guest{"guest", uuid_of(bed, bed.t.domid)};
    pool.hold("00:16:3e:00:00:01", guest, 0);
    pool.hold("00:16:3e:00:00:02", {"db", "11111111-2222-4333-8444-555555555555"}, 0);
    pool.hold("00:16:3e:00:00:03", guest, 2);
    must(bed.xl.attach_nic(bed.t.domid, {}));
    must(bed.xl.attach_nic(bed.t.domid, {.handle = 1, .mac = "00:16:3e:00:00:02"}));
    must(bed.xl.attach_nic(bed.t.domid, {.handle = 2, .mac = "00:16:3e:00:00:04"}));
    must(bed.xl.attach_nic(bed.t.domid, {.handle = 3, .mac = "00:16:3e:00:00:05"}));
    CHECK(found(bed, "agrees", 0));
    CHECK(found(bed, "differs", 1));
    CHECK_THAT(finding(bed, "text", 1), ContainsSubstring("which the pool holds for db ("));
    CHECK(found(bed, "differs", 2));
    CHECK_THAT(finding(bed, "text", 2),
               ContainsSubstring("has MAC 00:16:3e:00:00:04, and the pool holds 00:16:3e:00:00:03 for it"));
    CHECK(found(bed, "differs", 3));
    CHECK_THAT(finding(bed, "text", 3), ContainsSubstring("which the pool holds for nobody"));
    auto front = bed.front({.handle = 1});
    must(front->attach());
    bed.check_traffic(*front, bed.interface(1));
    // The next netbackd asks again.
    bed.daemon.stop(SIGTERM);
    bed.daemon.start();
    CHECK(found(bed, "agrees", 0));
    CHECK(found(bed, "differs", 1));
}

TEST_CASE("a pool that is locked keeps no guest waiting; its answer comes later") {
    const PoolFile pool;
    NetBed bed({.lines = pool.settings()});
    pool.hold("00:16:3e:00:00:01", {"guest", uuid_of(bed, bed.t.domid)}, 0);
    sqlite3* other = nullptr;
    REQUIRE(sqlite3_open((pool.directory + "/pool.db").c_str(), &other) == SQLITE_OK);
    REQUIRE(sqlite3_exec(other, "BEGIN EXCLUSIVE", nullptr, nullptr, nullptr) == SQLITE_OK);
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front();
    must(front->attach());
    bed.check_traffic(*front, bed.interface());
    CHECK(finding(bed, "state") == "asked");
    // One that goes before it was answered for.
    must(bed.xl.attach_nic(bed.t.domid, {.handle = 1, .mac = "00:16:3e:00:00:02"}));
    must(bed.xl.detach_disk(bed.t.domid, 1));
    CHECK(bed.daemon.vif(1).is_null());
    REQUIRE(sqlite3_exec(other, "ROLLBACK", nullptr, nullptr, nullptr) == SQLITE_OK);
    sqlite3_close(other);
    CHECK(found(bed, "agrees"));
}

TEST_CASE("a cluster that takes connections and says nothing keeps nobody waiting, nor does netbackd's end") {
    NetBed bed({.lines = "mac_pool = \"etcd+http://127.0.0.1:2379/pool\"\n"});
    if (std::system("ip link set lo up") != 0) SKIP("needs ip");
    const UniqueFd mute(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(2379);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(mute.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(mute.get(), 8) == 0);
    must(bed.xl.attach_nic(bed.t.domid, {}));
    auto front = bed.front();
    must(front->attach());
    bed.check_traffic(*front, bed.interface());
    CHECK(finding(bed, "state") == "asked");
    REQUIRE(eventually([&] { return finding(bed, "text").find("no answer yet: etcd http://127.0.0.1:2379") == 0; }));
    const auto begin = std::chrono::steady_clock::now();
    bed.daemon.stop(SIGTERM);
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(10));
    bed.check_traffic(*front, bed.interface());
}
