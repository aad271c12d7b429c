// SPDX-License-Identifier: Apache-2.0
//
// apply, import and scan, on every store.
#include "mac-pool/apply.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <catch2/matchers/catch_matchers_string.hpp>
#include <fstream>
#include <thread>

#include "mac-pool/active.h"
#include "mac-pool/import.h"
#include "mac-pool/switch_tables.h"
#include "runtime/unique_fd.h"
#include "tests/macpool/fixture.h"

using namespace ringback;
using namespace ringback::mac;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr const char* kRange = "00:16:3e:00:00:00-00:16:3e:00:00:ff";
constexpr const char* kUuid = "6f2c7c9e-1b1a-4f4e-8f3a-0123456789ab";
constexpr const char* kOther = "11111111-2222-4333-8444-555555555555";

struct Run {
    std::string text;
    Applied applied;
};

Run run(Pool& pool, const std::string& text, Clone clone = Clone::ask) {
    XlConfig config = must(XlConfig::parse(text, "guest.cfg"));
    Applied applied = must(apply(pool, config, clone));
    return {config.text(), applied};
}

Error refused(Pool& pool, const std::string& text, Clone clone = Clone::ask) {
    XlConfig config = must(XlConfig::parse(text, "guest.cfg"));
    return must_fail(apply(pool, config, clone));
}

std::string config(const std::string& name, const std::string& uuid, const std::vector<std::string>& macs) {
    std::string text = "name = '" + name + "'\n";
    if (!uuid.empty()) text += "uuid = '" + uuid + "'\n";
    text += "vif = [ ";
    for (const auto& mac : macs)
        text += mac.empty() ? "'bridge=b', " : "'bridge=b,mac=" + mac + "', ";
    return text + "]\n";
}

Sighting seen(const std::string& mac, Source source, const std::string& where,
              const std::optional<Guest>& guest = std::nullopt, unsigned nic = 0) {
    return {address(mac), source, where, guest, nic};
}

}  // namespace

TEST_CASE("apply fills in what is missing, and its second run changes nothing") {
    Place place(any_store());
    Pool pool = place.make(kRange);
    const Run first = run(pool, "name = 'web'\nvif = [ '', 'bridge=b' ]\n");
    CHECK(first.applied.uuid_written);
    REQUIRE(first.applied.nics.size() == 2);
    CHECK(first.applied.nics[0].mac != first.applied.nics[1].mac);
    CHECK(first.text == "name = 'web'\nuuid = \"" + first.applied.guest.uuid +
                            "\"\nvif = [ 'mac=" + first.applied.nics[0].mac.text() +
                            "', 'mac=" + first.applied.nics[1].mac.text() + ", bridge=b' ]\n");
    CHECK(must(pool.holder(first.applied.nics[1].mac))->guest == Guest{"web", first.applied.guest.uuid});
    const Run second = run(pool, first.text);
    CHECK(second.text == first.text);
    CHECK_FALSE(second.applied.uuid_written);
    CHECK(second.applied.notes.empty());
    // The file was lost after the pool was changed: the same comes again.
    const Run lost = run(pool, "name = 'web'\nvif = [ '', 'bridge=b' ]\n");
    CHECK(lost.text == first.text);
    check_whole(*place.store(), pool);
}

TEST_CASE("apply gives a guest what was allocated for its name, and what it is by UUID whatever its name") {
    Place place(any_store());
    Pool pool = place.make(kRange);
    const Mac mac = must(pool.allocate(named("web"), 0)).lease.mac;
    const Run first = run(pool, config("web", kUuid, {""}));
    CHECK(first.applied.nics[0].mac == mac);
    CHECK(first.applied.guest == Guest{"web", kUuid});
    CHECK_FALSE(first.applied.uuid_written);
    check_whole(*place.store(), pool);
}

TEST_CASE("an address that the file has is taken into the pool, inside the ranges or outside") {
    Place place(any_store());
    Pool pool = place.make(kRange);
    const std::string text = config("web", kUuid, {"00:16:3e:00:00:07", "52:54:00:00:00:01"});
    CHECK(run(pool, text).text == text);
    CHECK(must(pool.holder(address("00:16:3e:00:00:07")))->origin == Origin::import);
    CHECK(must(pool.holder(address("52:54:00:00:00:01")))->nic == 1);
    CHECK(run(pool, text).text == text);
    check_whole(*place.store(), pool);
}

TEST_CASE("a copied file with its addresses is refused, kept or made new as the caller says") {
    Place place(any_store());
    Pool pool = place.make(kRange);
    const Run original = run(pool, config("web", kUuid, {""}));
    const std::string mac = original.applied.nics[0].mac.text();
    const std::string copy = config("copy", kOther, {mac});
    const Error error = refused(pool, copy);
    CHECK(error.code == EEXIST);
    CHECK_THAT(error.message, ContainsSubstring("guest.cfg:3") &&
                                  ContainsSubstring(mac + " is held by web") && ContainsSubstring("--keep") &&
                                  ContainsSubstring("--new"));
    CHECK_FALSE(must(pool.find(named("copy"))).has_value());
    check_whole(*place.store(), pool);

    const Run fresh = run(pool, copy, Clone::fresh);
    CHECK(fresh.applied.nics[0].mac.text() != mac);
    CHECK(fresh.applied.nics[0].before == original.applied.nics[0].mac);
    CHECK(run(pool, fresh.text).text == fresh.text);
    CHECK(run(pool, fresh.text, Clone::fresh).text == fresh.text);
    CHECK(must(pool.allocate(named("web"), 0)).lease.mac.text() == mac);
    check_whole(*place.store(), pool);

    const Run kept = run(pool, config("restored", {}, {mac}), Clone::keep);
    CHECK(kept.applied.nics[0].mac.text() == mac);
    CHECK_THAT(kept.applied.notes.at(0), ContainsSubstring("was held by web"));
    CHECK(must(pool.holder(address(mac)))->guest.name == "restored");
    CHECK_FALSE(must(pool.find(named("web"))).has_value());
    CHECK(run(pool, kept.text).text == kept.text);
    check_whole(*place.store(), pool);
}

TEST_CASE("a UUID under another name is a new name or a copy, as the caller says") {
    Place place(any_store());
    Pool pool = place.make(kRange);
    const Run original = run(pool, config("web", kUuid, {"", ""}));
    const std::string one = original.applied.nics[0].mac.text();
    const std::string two = original.applied.nics[1].mac.text();
    const std::string copy = config("www", kUuid, {one, two});
    const Error error = refused(pool, copy);
    CHECK_THAT(error.message, ContainsSubstring(kUuid) && ContainsSubstring("guest web's") &&
                                  ContainsSubstring("www's here"));

    const Run fresh = run(pool, copy, Clone::fresh);
    CHECK(fresh.applied.uuid_written);
    CHECK(fresh.applied.guest.uuid != kUuid);
    CHECK_THAT(fresh.text, !ContainsSubstring(one) && !ContainsSubstring(two) && !ContainsSubstring(kUuid));
    CHECK(run(pool, fresh.text, Clone::fresh).text == fresh.text);
    check_whole(*place.store(), pool);

    const std::string renamed = config("www2", kUuid, {one, two});
    CHECK(run(pool, renamed, Clone::keep).text == renamed);
    CHECK(run(pool, renamed).text == renamed);
    CHECK_FALSE(must(pool.find(named("web"))).has_value());
    CHECK(must(pool.holder(address(one)))->guest.name == "www2");
    check_whole(*place.store(), pool);
}

TEST_CASE("the pool and the file disagree about a NIC's address") {
    Place place(any_store());
    Pool pool = place.make(kRange);
    const std::string mac = run(pool, config("web", kUuid, {""})).applied.nics[0].mac.text();
    const std::string other = config("web", kUuid, {"52:54:00:00:00:01"});
    CHECK_THAT(refused(pool, other).message, ContainsSubstring("the pool holds " + mac + " for web"));
    CHECK(run(pool, other, Clone::fresh).text == config("web", kUuid, {mac}));
    CHECK(run(pool, other, Clone::keep).text == other);
    CHECK(must(pool.resting(address(mac))).has_value());
    check_whole(*place.store(), pool);
}

TEST_CASE("addresses follow their vif when others are removed or change places; what is left over is said") {
    Place place(any_store());
    Pool pool = place.make(kRange);
    const Run original = run(pool, config("web", kUuid, {"", "", ""}));
    const auto mac = [&](size_t nic) { return original.applied.nics[nic].mac.text(); };
    const std::string swapped = config("web", kUuid, {mac(1), mac(0), mac(2)});
    CHECK(run(pool, swapped).text == swapped);
    CHECK(must(pool.holder(address(mac(1))))->nic == 0);
    check_whole(*place.store(), pool);
    // nic 0 is gone: the others move up, its address is released.
    const std::string shorter = config("web", kUuid, {mac(0), mac(2)});
    const Run moved = run(pool, shorter);
    CHECK(moved.text == shorter);
    CHECK_THAT(moved.applied.notes.at(0),
               ContainsSubstring(mac(1) + " was nic 0's and is no longer in the file: released"));
    CHECK(must(pool.resting(address(mac(1)))).has_value());
    check_whole(*place.store(), pool);
    // The last one is gone.
    const Run last = run(pool, config("web", kUuid, {mac(0)}));
    CHECK_THAT(last.applied.notes.at(0), ContainsSubstring("holds " + mac(2) + " for nic 1"));
    CHECK(must(pool.holder(address(mac(2)))).has_value());
    // A new one in front.
    const Run front = run(pool, config("web", kUuid, {"", mac(0), mac(2)}));
    CHECK(front.applied.nics[1].mac.text() == mac(0));
    CHECK(must(pool.holder(front.applied.nics[0].mac))->nic == 0);
    check_whole(*place.store(), pool);
}

TEST_CASE("two vifs of one file cannot have one address") {
    Place place(Kind::sqlite);
    Pool pool = place.make(kRange);
    CHECK_THAT(refused(pool, config("web", {}, {"00:16:3e:00:00:01", "00:16:3e:00:00:01"})).message,
               ContainsSubstring("two vifs have 00:16:3e:00:00:01"));
    CHECK_THAT(refused(pool, "vif = ['']\n").message, ContainsSubstring("no name"));
    CHECK_THAT(run(pool, "name = 'x'\n").applied.notes.at(0), ContainsSubstring("has no vif"));
    CHECK(must(pool.stats()).guests == 0);
}

TEST_CASE("import takes in what is seen, once; what another guest holds is a problem and not taken") {
    Place place(any_store());
    Pool pool = place.make(kRange);
    const Mac db = must(pool.allocate(named("db"), 0)).lease.mac;
    std::vector<Sighting> sightings;
    for (unsigned guest = 0; guest < 30; ++guest) {
        const Mac mac{uint64_t{0x525400000000} + guest};
        sightings.push_back({mac, Source::xl_config, "g.cfg:1", Guest{"g" + std::to_string(guest), {}}, 0});
    }
    sightings.push_back(seen(db.text(), Source::xl_config, "thief.cfg:3", named("thief")));
    sightings.push_back(seen("52:54:00:00:00:00", Source::xenstore, "domain 4", Guest{"g0", kUuid}));
    sightings.push_back(seen("00:16:3e:00:00:fe", Source::switch_table, "fdb:1"));
    sightings.push_back(seen(db.text(), Source::switch_table, "fdb:2"));
    const Imported first = must(import_sightings(pool, sightings));
    CHECK(first.added == 31);
    CHECK(first.known == 2);
    REQUIRE(first.problems.size() == 1);
    CHECK_THAT(first.problems[0], ContainsSubstring("xl config thief.cfg:3, thief nic 0") &&
                                      ContainsSubstring("held by db nic 0"));
    CHECK(must(pool.find(named("g0")))->guest.uuid == kUuid);
    const Imported second = must(import_sightings(pool, sightings));
    CHECK(second.added == 0);
    CHECK(second.known == 33);
    CHECK(second.problems == first.problems);
    check_whole(*place.store(), pool);
}

TEST_CASE("scan finds what is taken, unknown or twice, and nothing else") {
    Place place(any_store());
    Pool pool = place.make(kRange);
    const std::string web = must(pool.allocate({"web", kUuid}, 0)).lease.mac.text();
    must(pool.reserve(address("52:54:00:00:00:09"), std::nullopt, 0));
    std::vector<Sighting> sightings{
        seen(web, Source::xl_config, "web.cfg:1", named("web")),
        seen(web, Source::xenstore, "domain 3", Guest{"web", kUuid}),
        seen(web, Source::switch_table, "fdb:1"),
        seen("52:54:00:00:00:09", Source::host_nic, "eth0"),
        seen("52:54:00:00:00:0a", Source::host_nic, "eth1"),
        seen("52:54:00:00:00:0b", Source::xl_config, "db.cfg:1", named("db")),
    };
    CHECK(must(find_clashes(pool, sightings)).empty());
    sightings.push_back(seen(web, Source::host_nic, "eth2"));
    sightings.push_back(seen(web, Source::xenstore, "domain 5", Guest{"web", kOther}));
    const std::string idle = web == "00:16:3e:00:00:01" ? "00:16:3e:00:00:02" : "00:16:3e:00:00:01";
    sightings.push_back(seen(idle, Source::switch_table, "fdb:2"));
    sightings.push_back(seen("52:54:00:00:00:0b", Source::xl_config, "copy.cfg:1", named("copy")));
    const auto clashes = must(find_clashes(pool, sightings));
    std::string all;
    for (const Clash& clash : clashes)
        all += std::string(to_string(clash.fault)) + ": " + clash.text + "\n";
    INFO(all);
    CHECK(clashes.size() == 5);
    CHECK_THAT(all, ContainsSubstring("taken: " + web + " is in use at host NIC eth2, and held by web (" +
                                      kUuid + ") nic 0") &&
                        ContainsSubstring("taken: " + web + " is in use at xenstore domain 5, web (" +
                                          kOther + ") nic 0, and held by web") &&
                        ContainsSubstring("duplicate: " + web) &&
                        ContainsSubstring("unknown: " + idle + " is in use at switch table fdb:2") &&
                        ContainsSubstring("duplicate: 52:54:00:00:00:0b is in use at xl config copy.cfg:1, "
                                          "copy nic 0, and at xl config "
                                          "db.cfg:1, db nic 0"));
}

TEST_CASE("addresses are seen in configurations, on host NICs and in a switch's table") {
    Directory directory;
    const auto write = [&](const std::string& name, const std::string& text) {
        std::filesystem::create_directories(std::filesystem::path(directory.file(name)).parent_path());
        std::ofstream(directory.file(name)) << text;
    };
    write("xen/web.cfg", "name = 'web'\nvif = [ '',\n'mac=00:16:3e:00:00:01' ]\n");
    write("xen/xl.conf", "autoballoon=\"off\"\n");
    write("xen/bad.cfg", "name = 'bad'\nvif = 'x'\n");
    write("one", "name='one';uuid='6f2c7c9e-1b1a-4f4e-8f3a-0123456789ab';vif=['mac=00:16:3e:00:00:02']");
    const Sightings configs = see_xl_configs({directory.file("xen"), directory.file("one")});
    REQUIRE(configs.found.size() == 2);
    CHECK(configs.found[0].nic == 1);
    CHECK(configs.found[0].guest == named("web"));
    CHECK(configs.found[0].where == directory.file("xen/web.cfg") + ":3");
    CHECK(configs.found[1].guest == Guest{"one", kUuid});
    REQUIRE(configs.problems.size() == 1);
    CHECK_THAT(configs.problems[0], ContainsSubstring("bad.cfg:2"));

    write("net/eth0/address", "52:54:00:12:34:56\n");
    write("net/lo/address", "00:00:00:00:00:00\n");
    write("net/vif1.0/address", "fe:ff:ff:ff:ff:ff\n");
    write("net/ib0/address", "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:00:00:01\n");
    const Sightings nics = see_host_nics(directory.file("net"));
    REQUIRE(nics.found.size() == 1);
    CHECK(nics.found[0].where == "eth0");

    write("fdb",
          "00:16:3e:00:00:05 dev vif1.0 master xenbr0\n33:33:00:00:00:01 dev eth0 self permanent\n"
          " port  VLAN  MAC                Age\n    1     0  00:16:3E:00:00:06    3\n");
    const Sightings table = see_switch_table(directory.file("fdb"));
    REQUIRE(table.found.size() == 2);
    CHECK(table.found[0].mac == address("00:16:3e:00:00:05"));
    CHECK(table.found[1].mac == address("00:16:3e:00:00:06"));
    CHECK(see_switch_table(directory.file("none")).problems.size() == 1);
}

TEST_CASE("what a Linux bridge has learned is an address in use, by the name of its port") {
    const Directory directory;
    const auto write = [&](const std::string& name, const std::string& text) {
        const std::string path = directory.file(name);
        std::filesystem::create_directories(std::filesystem::path(path).parent_path());
        std::ofstream(path) << text;
    };
    // As the kernel writes it: address, port, local, age, port's high byte.
    const auto entry = [](const std::string& mac, char port, bool local, char high = 0) {
        return mac + port + static_cast<char>(local) + std::string(4, '\x0a') + high + std::string(3, '\0');
    };
    std::string table = entry(std::string("\x00\x16\x3e\x00\x00\x07", 6), 2, false) +
                        entry(std::string("\xfe\xff\xff\xff\xff\xff", 6), 2, true) +
                        entry(std::string("\x33\x33\x00\x00\x00\x01", 6), 1, false) +
                        entry(std::string("\x52\x54\x00\x00\x00\x01", 6), 1, false, 1);
    for (int more = 0; more < 1000; ++more) {
        table += entry(std::string("\x00\x16\x3e\x01", 4) + static_cast<char>(more >> 8) + static_cast<char>(more),
                       2, false);
    }
    write("net/xenbr0/brforward", table);
    write("net/xenbr0/brif/vif3.0/port_no", "0x2\n");
    write("net/eth0/address", "52:54:00:12:34:56\n");
    const Sightings seen = see_bridges(directory.file("net"));
    REQUIRE(seen.found.size() == 1002);
    CHECK(seen.problems.empty());
    CHECK(seen.found[0].mac == address("00:16:3e:00:00:07"));
    CHECK(seen.found[0].where == "bridge xenbr0, port vif3.0");
    CHECK(seen.found[0].source == Source::switch_table);
    CHECK_FALSE(seen.found[0].guest.has_value());
    CHECK(seen.found[1].where == "bridge xenbr0, port 257");
    CHECK(seen.found[1001].mac == address("00:16:3e:01:03:e7"));
    CHECK(see_bridges(directory.file("none")).problems.size() == 1);
}

TEST_CASE("Open vSwitch is asked for what each of its bridges has learned") {
    const Directory directory;
    CHECK(see_open_vswitch(directory.path()).found.empty());
    CHECK(see_open_vswitch(directory.path()).problems.empty());
    std::ofstream(directory.file("ovs-vswitchd.pid")) << "77\n";
    const Sightings dead = see_open_vswitch(directory.path());
    REQUIRE(dead.problems.size() == 1);
    CHECK_THAT(dead.problems[0], ContainsSubstring("ovs-vswitchd.77.ctl for ofproto/list"));

    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    directory.file("ovs-vswitchd.77.ctl").copy(name.sun_path, sizeof name.sun_path - 1);
    const UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(server.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0);
    REQUIRE(::listen(server.get(), 8) == 0);
    struct Turn {
        std::string question;
        std::vector<std::string> answer;
    };
    const std::vector<Turn> talk{
        {R"({"id":0,"method":"ofproto/list","params":[]})", {R"({"error":null,"id":0,"result":"ovs0\novs1\n"})"}},
        // An answer in pieces.
        {R"({"id":0,"method":"fdb/show","params":["ovs0"]})",
         {R"({"error":null,"id":0,"result":" port  VLAN  MAC                Age\n    1    10  00:16:3e:00:00:07   12\n)",
          R"(LOCAL     0  52:54:00:00:00:02    1\n    2     0  52:54:00:00:00:01    0\n"})"}},
        {R"({"id":0,"method":"fdb/show","params":["ovs1"]})", {R"({"error":"no such bridge\n","id":0,"result":null})"}}};
    std::vector<std::string> asked;
    std::thread daemon([&] {
        for (const Turn& turn : talk) {
            const UniqueFd client(::accept(server.get(), nullptr, nullptr));
            std::string text(turn.question.size(), '\0');
            (void)::recv(client.get(), text.data(), text.size(), MSG_WAITALL);
            asked.push_back(text);
            for (const std::string& piece : turn.answer)
                (void)::send(client.get(), piece.data(), piece.size(), MSG_NOSIGNAL);
        }
    });
    const Sightings seen = see_open_vswitch(directory.path());
    daemon.join();
    for (size_t index = 0; index < talk.size(); ++index)
        CHECK(asked[index] == talk[index].question);
    REQUIRE(seen.found.size() == 2);
    CHECK(seen.found[0].mac == address("00:16:3e:00:00:07"));
    CHECK(seen.found[0].where == "Open vSwitch bridge ovs0, port 1, VLAN 10");
    CHECK(seen.found[1].mac == address("52:54:00:00:00:01"));
    REQUIRE(seen.problems.size() == 1);
    CHECK_THAT(seen.problems[0], ContainsSubstring("no such bridge"));
}

TEST_CASE("netbackd is asked for what each of its switches knows") {
    const Directory directory;
    const std::string path = directory.file("netbackd.sock");
    CHECK(see_netbackd(path).found.empty());
    CHECK(see_netbackd(path).problems.empty());

    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    path.copy(name.sun_path, sizeof name.sun_path - 1);
    const UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(server.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0);
    CHECK(see_netbackd(path).problems.empty());  // bound, and nobody listens: left behind by one that is gone
    REQUIRE(::listen(server.get(), 8) == 0);
    const auto see = [&](const std::vector<std::string>& answers) {
        std::vector<std::string> asked;
        std::thread daemon([&] {
            for (const std::string& answer : answers) {
                const UniqueFd client(::accept(server.get(), nullptr, nullptr));
                std::string line;
                for (char c = 0; ::recv(client.get(), &c, 1, 0) == 1 && c != '\n';)
                    line += c;
                asked.push_back(line);
                (void)::send(client.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
            }
        });
        const Sightings seen = see_netbackd(path);
        daemon.join();
        CHECK_THAT(asked.front(), ContainsSubstring("doctor-info"));
        return seen;
    };
    const std::string two = "{\"ok\":true,\"version\":1,\"switches\":[\"lan0\",\"lan1\"]}\n";
    const Sightings seen =
        see({two,
             R"({"ok":true,"entries":[{"mac":"00:16:3e:00:00:07","vlan":10,"device":"vif/3/0","guest":"web","configured":false},)"
             R"({"mac":"01:16:3e:00:00:07"},{"mac":7},5,{"mac":"52:54:00:00:00:01"}]})"
             "\n",
             "{\"ok\":false,\"error\":\"there is no switch\"}\n"});
    REQUIRE(seen.found.size() == 2);
    CHECK(seen.found[0].mac == address("00:16:3e:00:00:07"));
    CHECK(seen.found[0].where == "Ringback switch lan0, port vif/3/0 of guest web, VLAN 10");
    CHECK(seen.found[1].mac == address("52:54:00:00:00:01"));
    REQUIRE(seen.problems.size() == 1);
    CHECK_THAT(seen.problems[0], ContainsSubstring("there is no switch"));

    CHECK(see({"{\"ok\":true,\"switches\":[]}\n"}).problems.empty());
    for (const char* wrong : {"nonsense\n", "{\"ok\":true}\n", "{\"ok\":true,\"switches\":5}\n", "{\"ok\":true,\"switches\":[5]}\n", ""}) {
        const Sightings none = see({wrong});
        CHECK(none.found.empty());
        REQUIRE(none.problems.size() == 1);
        CHECK(none.problems[0].find('\n') == std::string::npos);
    }
    const Sightings no_list = see({two, "{\"ok\":true}\n"});
    REQUIRE(no_list.problems.size() == 1);
    CHECK_THAT(no_list.problems[0], ContainsSubstring("without entries"));
}

TEST_CASE("a second active vif with an address in use on its network is refused, and both guests are named") {
    const Mac mac = address("00:16:3e:00:00:01");
    const ActiveVif web{"xenbr0", mac, {"web", kUuid}, 3, 0};
    const ActiveVif thief{"xenbr0", mac, {"thief", kOther}, 4, 1};
    const auto text = refusal({web}, thief);
    REQUIRE(text.has_value());
    CHECK_THAT(*text, ContainsSubstring(mac.text()) && ContainsSubstring("xenbr0") &&
                          ContainsSubstring("web (" + std::string(kUuid)) &&
                          ContainsSubstring("thief (" + std::string(kOther)));
    ActiveVif elsewhere = thief;
    elsewhere.network = "xenbr1";
    CHECK_FALSE(refusal({web}, elsewhere).has_value());
    ActiveVif other = thief;
    other.mac = address("00:16:3e:00:00:02");
    CHECK_FALSE(refusal({web}, other).has_value());
    CHECK_FALSE(refusal({web}, web).has_value());
    // A migration on this host: one UUID, two domains, the incoming one under another name.
    CHECK_FALSE(refusal({web}, {"xenbr0", mac, {"web--incoming", kUuid}, 9, 0}).has_value());
    // Two NICs of one domain are no migration; nor is a name without a UUID.
    CHECK(refusal({web}, {"xenbr0", mac, {"web", kUuid}, 3, 1}).has_value());
    CHECK(refusal({{"xenbr0", mac, {"web", {}}, 3, 0}}, {"xenbr0", mac, {"web", {}}, 4, 0}).has_value());
}

TEST_CASE("a vif whose address is not the one that the pool holds is told") {
    Place place(any_store());
    Pool pool = place.make(kRange);
    const Mac web = must(pool.allocate({"web", kUuid}, 0)).lease.mac;
    CHECK_FALSE(must(disagreement(pool, {"xenbr0", web, {"web", kUuid}, 3, 0})).has_value());
    const auto mine =
        must(disagreement(pool, {"xenbr0", address("52:54:00:00:00:01"), {"web", kUuid}, 3, 0}));
    REQUIRE(mine.has_value());
    CHECK_THAT(*mine, ContainsSubstring("has MAC 52:54:00:00:00:01, and the pool holds " + web.text()));
    const auto theirs = must(disagreement(pool, {"xenbr0", web, {"db", kOther}, 4, 0}));
    REQUIRE(theirs.has_value());
    CHECK_THAT(*theirs, ContainsSubstring("guest db") && ContainsSubstring("which the pool holds for web"));
    const auto nobodys =
        must(disagreement(pool, {"xenbr0", address("52:54:00:00:00:01"), {"db", kOther}, 4, 0}));
    REQUIRE(nobodys.has_value());
    CHECK_THAT(*nobodys, ContainsSubstring("guest db") && ContainsSubstring("which the pool holds for nobody"));
    // Its own address under another number: NICs that came and went while the guest ran.
    CHECK_FALSE(must(disagreement(pool, {"xenbr0", web, {"web", kUuid}, 3, 7})).has_value());
}

TEST_CASE("vifs meet on one bridge and one VLAN") {
    CHECK(same_network("xenbr0", "xenbr0"));
    CHECK(same_network("ovs0.10", "ovs0.10"));
    CHECK(same_network("ovs0.10", "ovs0:20:10"));
    CHECK(same_network("ovs0.10:20", "ovs0.20"));
    CHECK_FALSE(same_network("xenbr0", "xenbr1"));
    CHECK_FALSE(same_network("ovs0", "ovs0.10"));
    CHECK_FALSE(same_network("ovs0.1", "ovs0.10"));
    CHECK_FALSE(same_network("ovs0:10:20", "ovs0:30"));
    CHECK_FALSE(same_network("ovs0.10", "ovs1.10"));
}
