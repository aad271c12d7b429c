// SPDX-License-Identifier: Apache-2.0
#include "blkback/config.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <fstream>
#include <sstream>

using namespace ringback;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("an empty configuration has every default") {
    const auto config = blk::parse_config("", "test.toml");
    REQUIRE(config.ok());
    CHECK(config.value().roots == std::vector<std::string>{"backend/vbd", "backend/vbd3"});
    CHECK(config.value().worker_start == WorkerStart::systemd);
    CHECK(config.value().allow == std::vector<std::string>{"/"});
    CHECK(config.value().persistent_grants);
    CHECK(config.value().control_socket() == "/run/ringback/blkbackd.sock");
}

TEST_CASE("every setting can be set") {
    const auto config = blk::parse_config(R"(
roots = ["backend/qdisk"]
runtime_directory = "/run/x"
control_group = "disk"
worker_start = "fork"
worker_program = "/opt/worker"
[policy]
allow = ["/srv/"]
deny = []
[disk]
max_queues = 3
persistent_grants = false
barrier = false
nbd_reconnect_seconds = 7
)", "test.toml");
    REQUIRE(config.ok());
    const blk::Config& c = config.value();
    CHECK(c.roots == std::vector<std::string>{"backend/qdisk"});
    CHECK(c.journal_directory() == "/run/x/blk");
    CHECK(c.control_group == "disk");
    CHECK(c.worker_start == WorkerStart::fork);
    CHECK(c.worker_program == "/opt/worker");
    CHECK(c.allow == std::vector<std::string>{"/srv"});
    CHECK(c.deny.empty());
    CHECK(c.max_queues == 3);
    CHECK_FALSE(c.persistent_grants);
    CHECK_FALSE(c.barrier);
    CHECK(c.nbd_reconnect_seconds == 7);
}

TEST_CASE("the settings file that is installed says what the defaults are") {
    std::ifstream file(RINGBACK_SOURCE_DIR "/packaging/blkbackd.toml");
    std::ostringstream text;
    for (std::string line; std::getline(file, line);) {
        // A setting that is commented out has no blank after its #.
        text << (line.size() > 1 && line[0] == '#' && line[1] != ' ' ? line.substr(1) : line) << "\n";
    }
    const auto config = blk::parse_config(text.str(), "blkbackd.toml");
    REQUIRE(config.ok());
    const blk::Config defaults;
    CHECK(config.value().roots == defaults.roots);
    CHECK(config.value().allow == defaults.allow);
    CHECK(config.value().deny == defaults.deny);
    CHECK(config.value().control_group == defaults.control_group);
    CHECK(config.value().worker_start == defaults.worker_start);
    CHECK(config.value().max_queues == defaults.max_queues);
    CHECK(config.value().persistent_grants == defaults.persistent_grants);
    CHECK(config.value().barrier == defaults.barrier);
    CHECK(config.value().nbd_reconnect_seconds == defaults.nbd_reconnect_seconds);
}

TEST_CASE("a wrong setting is refused by its name and line") {
    struct Case {
        const char* text;
        const char* name;
        const char* line;
    };
    const Case c = GENERATE(
        Case{"\nroot = []", "root is not a setting", ":2:"}, Case{"roots = []", "roots", ":1:"},
        Case{"roots = [\"vbd\"]", "backend/KIND", ":1:"}, Case{"roots = [\"backend/a/b\"]", "backend/KIND", ":1:"},
        Case{"roots = [1]", "list of texts", ":1:"}, Case{"worker_start = \"maybe\"", "systemd", ":1:"},
        Case{"runtime_directory = \"run\"", "absolute", ":1:"}, Case{"[policy]\nallow = \"/\"", "allow", ":2:"},
        Case{"[policy]\nallow = [\"srv\"]", "absolute", ":2:"},
        Case{"[policy]\nallowed = []", "allowed is not a setting of [policy]", ":2:"},
        Case{"[disk]\nmax_queues = 17", "0 to 16", ":2:"}, Case{"[disk]\nmax_queues = -1", "0 to 16", ":2:"},
        Case{"[disk]\nbarrier = 1", "true or false", ":2:"}, Case{"[disk]\nx = 1", "x is not", ":2:"},
        Case{"disk = 1", "table", ":1:"}, Case{"[nic]\nx = 1", "nic is not a setting", ":1:"},
        Case{"a = = b", "test.toml", ":1:"});
    const auto config = blk::parse_config(c.text, "test.toml");
    REQUIRE_FALSE(config.ok());
    INFO(config.error().message);
    CHECK_THAT(config.error().message, ContainsSubstring(c.name) && ContainsSubstring(c.line));
}

TEST_CASE("a configuration that is named has to be there") {
    CHECK(blk::load_config("/nonexistent/blkbackd.toml").error().code == ENOENT);
}
