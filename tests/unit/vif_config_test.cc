// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <fstream>
#include <sstream>

#include "netback/config.h"
#include "netback/offer.h"
#include "netback/ovs_port.h"
#include "netback/switch_port.h"

using namespace ringback;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("netbackd: every setting can be set") {
    const auto config = net::parse_config(R"(
runtime_directory = "/run/x"
control_group = "nets"
worker_start = "fork"
worker_program = "/opt/worker"
mac_pool = "etcd+https://a:2379,b:2379/site"
mac_pool_credentials = "/etc/pool"
[vif]
max_queues = 3
queue_length = 64
[switch]
names = "lan0 dmz"
check_source = 0
floods_per_second = 5
kilobytes_per_second = 6
table_entries = 70
ageing_seconds = 80
address_wait_seconds = 90
[ovs-dpdk]
bridges = "br0 br1"
database = "unix:/run/o.sock"
)", "test.toml");
    REQUIRE(config.ok());
    CHECK(config.value().control_socket() == "/run/x/netbackd.sock");
    CHECK(config.value().control_group == "nets");
    CHECK(config.value().worker_start == WorkerStart::fork);
    CHECK(config.value().worker_program == "/opt/worker");
    CHECK(config.value().mac_pool.url == "etcd+https://a:2379,b:2379/site");
    CHECK(config.value().mac_pool.credentials == "/etc/pool");
    CHECK(config.value().max_queues == 3);
    CHECK(config.value().queue_length == 64);
    CHECK(config.value().has_switch("lan0"));
    CHECK(config.value().has_switch("dmz"));
    for (const char* none : {"", "lan", "an0", "lan0 dmz", " "}) CHECK_FALSE(config.value().has_switch(none));
    CHECK(config.value().switch_check_source == 0);
    CHECK(config.value().switch_floods == 5);
    CHECK(config.value().switch_kilobytes == 6);
    CHECK(config.value().switch_table == 70);
    CHECK(config.value().switch_ageing == 80);
    CHECK(config.value().switch_address_wait == 90);
    CHECK(config.value().has_ovs_bridge("br1"));
    CHECK_FALSE(config.value().has_ovs_bridge("lan0"));
    CHECK(config.value().ovs_database == "unix:/run/o.sock");
}

TEST_CASE("netbackd: a switch's name may be as long as the worker can tell it from another") {
    const std::string longest = "the-network-of-the-third-floor1";
    const auto config = net::parse_config("[switch]\nnames = \"" + longest + "  lan0\"", "test.toml");
    REQUIRE(config.ok());
    const auto port = net::make_switch_port({"", longest, "00:16:3e:0a:0b:0c", ""}, config.value());
    REQUIRE(port.ok());
    CHECK(port.value().name.str() == longest);
}

TEST_CASE("netbackd: the settings file that is installed says what the defaults are") {
    std::ifstream file(RINGBACK_SOURCE_DIR "/packaging/netbackd.toml");
    std::ostringstream text;
    for (std::string line; std::getline(file, line);) {
        // A setting that is commented out has no blank after its #.
        text << (line.size() > 1 && line[0] == '#' && line[1] != ' ' ? line.substr(1) : line) << "\n";
    }
    const auto config = net::parse_config(text.str(), "netbackd.toml");
    REQUIRE(config.ok());
    const net::Config defaults;
    CHECK(config.value().control_group == defaults.control_group);
    CHECK(config.value().worker_start == defaults.worker_start);
    CHECK(config.value().mac_pool.url.empty());
    CHECK(config.value().mac_pool.credentials == defaults.mac_pool.credentials);
    CHECK(config.value().max_queues == defaults.max_queues);
    CHECK(config.value().queue_length == defaults.queue_length);
    CHECK(config.value().switch_check_source == defaults.switch_check_source);
    CHECK(config.value().switch_floods == defaults.switch_floods);
    CHECK(config.value().switch_kilobytes == defaults.switch_kilobytes);
    CHECK(config.value().switch_table == defaults.switch_table);
    CHECK(config.value().switch_ageing == defaults.switch_ageing);
    CHECK(config.value().switch_address_wait == defaults.switch_address_wait);
}

TEST_CASE("netbackd: a setting that is none is refused by its name and line") {
    const auto [text, what] = GENERATE(table<std::string, std::string>({
        {"\nbridge = \"x\"", "test.toml:2: bridge is not a setting"},
        {"[vif]\nqueues = 1", "test.toml:2: queues is not a setting of [vif]"},
        {"[switch]\ncolour = 1", "test.toml:2: colour is not a setting of [switch]"},
        {"[switch]\nnames = \"lan0 the-network-of-the-third-floor-1\"",
         "names has \"the-network-of-the-third-floor-1\", which is longer than 31 characters"},
        {"[switch]\nageing_seconds = 1", "must be a number from 10 to 1000000"},
        {"[vif]\nmax_queues = 9", "must be a number from 0 to 8"},
        {"[vif]\nqueue_length = 1", "must be a number from 16 to 4096"},
        {"worker_start = \"inetd\"", "must be \"systemd\" or \"fork\""},
        {"runtime_directory = \"run\"", "must be an absolute path"},
        {"vif = 3", "must be a table"},
        {"control_group = 3", "must be a text in quotes"},
        {"mac_pool = 3", "must be a text in quotes"},
        {"mac_pool = \"sqlite:pool.db\"", "test.toml:1: mac_pool is no pool: pool 'sqlite:pool.db' must have an absolute path"},
        {"mac_pool = \"https://a:2379/x\"", "'https://a:2379/x' is neither"},
        {"mac_pool = \"etcd+https://a/x\"", "each host must be HOST:PORT"},
        {"worker_start = ", "test.toml:1"},
    }));
    const auto config = net::parse_config(text, "test.toml");
    REQUIRE_FALSE(config.ok());
    CHECK_THAT(config.error().message, ContainsSubstring(what));
}

TEST_CASE("a rate is bytes and microseconds, and anything else is no limit") {
    CHECK(net::parse_rate("50000,20000").bytes == 50000);
    CHECK(net::parse_rate("50000,20000").interval_us == 20000);
    CHECK(net::parse_rate("50000").interval_us == 50000);
    CHECK(net::parse_rate("50000,x").interval_us == 50000);
    for (const char* none : {"", "0,1", "-1", "x", "4294967295,50000", "99999999999999999999"}) {
        CHECK(net::parse_rate(none).bytes == 0);
    }
}

TEST_CASE("a vif is on a switch by its script, and says with its bridge on which, in which VLANs") {
    net::Config config;
    config.switch_names = "lan0 dmz";
    const net::NicNodes right{"/etc/xen/scripts/vif-ringback", "dmz.7:8:9", "00:16:3e:0a:0b:0c", "192.0.2.1 2001:db8::/64"};
    CHECK(net::has_own_script(right));
    CHECK(net::has_own_script({"vif-ringback", "", "", ""}));
    for (const char* script : {"/etc/xen/scripts/vif-bridge", "", "/vif-ringback/x"}) {
        CHECK_FALSE(net::has_own_script({script, "dmz", "", ""}));
    }
    const auto port = net::make_switch_port(right, config);
    REQUIRE(port.ok());
    CHECK(port.value().name.str() == "dmz");
    CHECK(port.value().address == bridge::MacAddress{0x00, 0x16, 0x3e, 0x0a, 0x0b, 0x0c});
    CHECK(port.value().vlan == 7);
    CHECK(port.value().trunk_count == 2);
    CHECK(port.value().trunks[1] == 9);
    CHECK(port.value().given_count == 2);
    CHECK(port.value().any_source == 0);
    const auto refused = [&](net::NicNodes nodes, const std::string& what) {
        const auto made = net::make_switch_port(nodes, config);
        REQUIRE_FALSE(made.ok());
        CHECK_THAT(made.error().message, ContainsSubstring(what));
    };
    refused({"", "xenbr0", right.mac, ""}, "no switch \"xenbr0\"");
    refused({"", "dmz.5000", right.mac, ""}, "is no VLAN");
    refused({"", "dmz", "00:16:3e:0a:0b", ""}, "is no MAC address");
    refused({"", "dmz", "01:16:3e:0a:0b:0c", ""}, "is no MAC address");
    refused({"", "dmz", "00:16:3e:0a:0b:0g", ""}, "is no MAC address");
    refused({"", "dmz", right.mac, "192.0.2.256"}, "is no IP address");
}

TEST_CASE("a vif is on a bridge of Open vSwitch if that is named there, in which VLANs its bridge says") {
    CHECK_FALSE(net::parse_config("[switch]\nnames = \"lan0 br0\"\n[ovs-dpdk]\nbridges = \"br1 br0\"", "x").ok());
    CHECK_FALSE(net::parse_config("[ovs-dpdk]\nbridges = \"--db=x\"", "x").ok());
    net::Config config;
    config.ovs_bridges = "br0";
    const xen::DeviceId id{"vif", 7, 2};
    const net::NicNodes right{.script = "vif-ringback", .bridge = "br0.7:8:9", .mac = "00:16:3e:0a:0b:0c", .mtu = "9000"};
    const auto made = net::make_ovs_port(right, id, config);
    REQUIRE(made.ok());
    CHECK(made.value().name == "vif7.2");
    CHECK(made.value().bridge == "br0");
    CHECK(made.value().vlan == 7);
    CHECK(made.value().trunks == std::vector<uint16_t>{8, 9});
    CHECK(made.value().mtu == 9000);
    CHECK(made.value().owner == "vif/7/2");
    CHECK(made.value().socket == net::vhost_path(config, id));
    CHECK(net::make_ovs_port({.bridge = "br0", .mac = right.mac}, id, config).value().vlan == 0);
    const auto refused = [&](const net::NicNodes& nodes, const std::string& what) {
        const auto port = net::make_ovs_port(nodes, id, config);
        REQUIRE_FALSE(port.ok());
        CHECK_THAT(port.error().message, ContainsSubstring(what));
    };
    refused({.bridge = "br0.4095", .mac = right.mac}, "is no VLAN");
    refused({.bridge = "br0", .mac = "01:16:3e:0a:0b:0c"}, "is no MAC address");
    refused({.bridge = "br0", .mac = right.mac, .ip = "192.0.2.1"}, "only the built-in switch");
    for (const char* mtu : {"0", "67", "9703", "1500x", "-1", "99999999999"}) {
        refused({.bridge = "br0", .mac = right.mac, .mtu = mtu}, "Open vSwitch takes");
    }
}
