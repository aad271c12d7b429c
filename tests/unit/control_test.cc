// SPDX-License-Identifier: Apache-2.0
#include "runtime/control.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

using namespace ringback;

TEST_CASE("a request has a version, a command, and what it needs") {
    const auto request = parse_control_request(R"({"version":1,"command":"resize","guest":"a","bytes":512})");
    REQUIRE(request.ok());
    CHECK(request.value().command == "resize");
    CHECK(request.value().text("guest").value() == "a");
    CHECK(request.value().number("bytes", 1024).value() == 512U);
    CHECK_FALSE(request.value().text("absent").value().has_value());
    CHECK_FALSE(request.value().text("bytes").ok());
    CHECK_FALSE(request.value().number("guest", 1024).ok());
    CHECK_FALSE(request.value().number("bytes", 511).ok());
}

TEST_CASE("anything else is refused without an exception") {
    const std::string line = GENERATE(
        as<std::string>{}, "", "x", "{", "[]", "null", "1", "{}", R"({"version":1})", R"({"command":"status"})",
        R"({"version":2,"command":"status"})", R"({"version":"1","command":"status"})",
        R"({"version":1,"command":5})", R"({"version":-1,"command":"status"})", R"({"version":1.0,"command":"x"})",
        std::string("\xff\xfe{\0}", 5), std::string(10000, '['), std::string(10000, '{'),
        "{\"version\":1,\"command\":\"\xc3\x28\"}", R"({"version":1e999,"command":"x"})");
    CHECK_FALSE(parse_control_request(line).ok());
}

TEST_CASE("numbers that are none are refused, not rounded") {
    const std::string value = GENERATE("-1", "1.5", "\"1\"", "18446744073709551616", "true", "[]");
    const auto request = parse_control_request(R"({"version":1,"command":"x","bytes":)" + value + "}");
    REQUIRE(request.ok());
    CHECK_FALSE(request.value().number("bytes", UINT64_MAX).ok());
}
