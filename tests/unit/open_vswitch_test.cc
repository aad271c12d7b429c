// SPDX-License-Identifier: Apache-2.0
//
// What Open vSwitch is told, and what is made of its answers: a stand-in for ovs-vsctl notes its arguments and answers from files.
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "bridge/open_vswitch.h"

using namespace ringback;
using bridge::OpenVSwitch;

namespace {

struct Bed {
    Bed() : directory("/tmp/ringback-ovs-test-" + std::to_string(::getpid())) {
        std::filesystem::create_directory(directory);
        const std::string program = directory + "/ovs-vsctl";
        std::ofstream(program) << "#!/bin/sh\ncd " << directory << "\nfor last; do :; done\necho \"$*\" >>asked\n"
                               << "case \"$*\" in *del-port*add-port*|*add-port*) what=add ;; *del-port*) what=del ;;\n"
                               << "*datapath_type*) what=check ;; *error) what=error ;; *find*) what=find ;; esac\n"
                               << "[ -e $what.fails ] && { cat $what.fails >&2; exit 1; }\n[ -e $what.hangs ] && kill -ALRM $$\n"
                               << "cat $what 2>/dev/null\nexit 0\n";
        REQUIRE(::chmod(program.c_str(), 0755) == 0);
        put("check", "netdev\ntrue\n");
        put("error", "[]\n");
        ovs = OpenVSwitch::start(loop, "unix:/run/db.sock", program).value();
    }
    ~Bed() {
        ovs.reset();
        std::filesystem::remove_all(directory);
    }
    void put(const std::string& name, const std::string& text) const { std::ofstream(directory + "/" + name) << text; }
    [[nodiscard]] std::vector<std::string> asked() const {
        std::ifstream file(directory + "/asked");
        std::vector<std::string> lines;
        for (std::string line; std::getline(file, line);) lines.push_back(line);
        return lines;
    }
    OpenVSwitch::Done note() {
        return [this](const Result<void>& result) { answers.push_back(result ? "" : result.error().message); };
    }
    // Once in a test.
    void wait(size_t count) {
        loop.after(std::chrono::seconds(30), [this] { loop.stop(); });
        loop.run([&] {
            if (answers.size() >= count) loop.stop();
        });
        REQUIRE(answers.size() == count);
    }
    static OpenVSwitch::Port port() {
        return {.name = "vif1.0", .bridge = "br0", .socket = "/run/x/1-vif-0.vhost", .owner = "vif/1/0", .mac = "00:16:3e:00:00:01"};
    }
    std::string directory;
    EventLoop loop = EventLoop::create().value();
    std::unique_ptr<OpenVSwitch> ovs;
    std::vector<std::string> answers;
};

bool has(const std::string& text, const std::string& what) { return text.find(what) != std::string::npos; }

}  // namespace

TEST_CASE("open vswitch: a port is added with all that is its own, in the place of one of its name or not") {
    Bed bed;
    auto port = Bed::port();
    port.vlan = 7;
    port.trunks = {8, 9};
    port.mtu = 9000;
    bed.ovs->add(port, true, bed.note());
    bed.ovs->add(Bed::port(), false, bed.note());
    bed.wait(2);
    CHECK(bed.answers == std::vector<std::string>{"", ""});
    const auto asked = bed.asked();
    REQUIRE(asked.size() == 6);
    CHECK(asked[0].starts_with("--db=unix:/run/db.sock --timeout="));
    CHECK(has(asked[1], "--if-exists del-port vif1.0 -- --may-exist add-port br0 vif1.0 -- set Port vif1.0 tag=7 trunks=[8,9] vlan_mode=native-untagged"));
    CHECK(has(asked[1], "type=dpdkvhostuserclient options:vhost-server-path=\"/run/x/1-vif-0.vhost\" external_ids:ringback=\"vif/1/0\""));
    CHECK(has(asked[1], "mtu_request=9000"));
    CHECK_FALSE(has(asked[4], "del-port"));
    CHECK(has(asked[4], "tag=[] trunks=[] vlan_mode=[]"));
}

TEST_CASE("open vswitch: what is wrong is one line, and nothing is left of the port") {
    Bed bed;
    const auto [file, text, what] = GENERATE(table<std::string, std::string, std::string>({
        {"check.fails", "ovs-vsctl: no row \"br0\" in table Bridge\n", "no row \"br0\" in table Bridge"},
        {"check.fails", "ovs-vsctl: unix:/run/db.sock: database connection failed (No such file or directory)\n", "connection failed"},
        {"check", "\"\"\ntrue\n", "datapath_type=netdev"},
        {"check", "netdev\nfalse\n", "without DPDK"},
        {"add.hangs", "", "ovs-vswitchd does not answer within"},
        {"add.fails", "ovs-vsctl: cannot create a port\n", "cannot create a port"},
        {"error", "\"could not open network device vif1.0\"\n", "could not open network device"},
    }));
    bed.put(file, text);
    bed.ovs->add(Bed::port(), true, bed.note());
    bed.wait(1);
    CHECK(has(bed.answers[0], "Open vSwitch"));
    CHECK(has(bed.answers[0], what));
    const auto asked = bed.asked();
    CHECK(has(asked.back(), "--no-wait --if-exists del-port vif1.0") == !file.starts_with("check"));
}

TEST_CASE("open vswitch: a port that cannot be taken away is, later") {
    Bed bed;
    bed.put("del.fails", "ovs-vsctl: database connection failed\n");
    bed.ovs->remove("vif1.0", [&](const Result<void>& removed) {
        bed.note()(removed);
        std::filesystem::remove(bed.directory + "/del.fails");
    });
    bed.loop.after(std::chrono::milliseconds(50), [] {});
    const auto tries = [&] {
        size_t count = 0;
        for (const auto& line : bed.asked()) count += has(line, "del-port vif1.0") ? 1 : 0;
        return count;
    };
    bed.loop.after(std::chrono::seconds(30), [&] { bed.loop.stop(); });
    std::function<void()> look = [&] {
        if (bed.answers.size() == 1 && tries() >= 2) return bed.loop.stop();
        bed.loop.after(std::chrono::milliseconds(50), look);
    };
    look();
    bed.loop.run([] {});
    CHECK(tries() == 2);
    CHECK(has(bed.answers.at(0), "connection failed"));
}

TEST_CASE("open vswitch: what an earlier life has left is taken away, and nobody else's") {
    Bed bed;
    bed.put("find",
            "vif1.0,\"attached-mac=00:16:3e:00:00:01 ringback=vif/1/0\"\nvif2.0,ringback=vif/2/0 attached-mac=00:16:3e:00:00:02\n"
            "mine,\nother,iface-id=x\nvif3.1,ringback=vif/3/1\n");
    bed.ovs->keep_only({"vif/2/0"});
    bed.ovs->remove("last", bed.note());
    bed.wait(1);
    std::vector<std::string> removed;
    for (const auto& line : bed.asked()) {
        if (const size_t at = line.find("del-port "); at != std::string::npos) removed.push_back(line.substr(at + 9));
    }
    CHECK(removed == std::vector<std::string>{"vif1.0", "vif3.1", "last"});
}

TEST_CASE("open vswitch: who is forgotten is not told") {
    Bed bed;
    bed.ovs->forget(bed.ovs->add(Bed::port(), true, [](const Result<void>&) { FAIL("told"); }));
    bed.ovs->remove("vif1.0", bed.note());
    bed.wait(1);
    CHECK(bed.asked().size() == 4);
}
