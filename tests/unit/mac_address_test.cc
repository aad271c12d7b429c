// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "mac-pool/guest.h"
#include "mac-pool/output.h"
#include "mac-pool/space.h"

using namespace ringback;
using namespace ringback::mac;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("a MAC address reads as it is written") {
    const auto mac = parse_unicast("00:16:3E:ab:Cd:01");
    REQUIRE(mac.ok());
    CHECK(mac.value().value == 0x00163eabcd01);
    CHECK(mac.value().text() == "00:16:3e:ab:cd:01");
}

TEST_CASE("what is not an address for a NIC is refused with the offending text") {
    const auto text =
        GENERATE(as<std::string>{}, "", "00:16:3e:00:00", "00:16:3e:00:00:00:00", "00:16:3e:00:00:0",
                 "0:16:3e:00:00:001", "00-16-3e-00-00-01", "0016.3e00.0001", "00163e000001",
                 "00:16:3e:00:00-01", " 00:16:3e:00:00:1", "00:16:3e:00:00:01 ", "00:16:3g:00:00:01",
                 "00:16:3e:00:00:-1", "0x:16:3e:00:00:01", "00:16:3e:+0:00:01", "00:00:00:00:00:00",
                 "01:16:3e:00:00:01", "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01", "web");
    const auto mac = parse_unicast(text);
    REQUIRE_FALSE(mac.ok());
    CHECK(mac.error().code == EINVAL);
    CHECK_THAT(mac.error().message, ContainsSubstring("'" + text + "'"));
}

TEST_CASE("a range is first and last, one address, or first octets") {
    CHECK(parse_range("00:16:3e").value().size() == 1U << 24);
    CHECK(parse_range("00:16:3e").value().text() == "00:16:3e:00:00:00-00:16:3e:ff:ff:ff");
    CHECK(parse_range("52").value().size() == uint64_t{1} << 40);
    CHECK(parse_range("00:16:3e:00:00:07").value().size() == 1);
    CHECK(parse_range("00:16:3e:00:00:07-00:16:3e:00:01:06").value().size() == 256);
}

TEST_CASE("a bad range is refused with the offending text") {
    const auto [text, why] = GENERATE(table<std::string, std::string>({
        {"00:16:3e:00:00:02-00:16:3e:00:00:01", "runs backwards"},
        {"01:00:5e", "multicast"},
        {"00:ff:ff:ff:ff:ff-02:00:00:00:00:00", "multicast"},
        {"00", "all-zero"},
        {"00:00:00:00:00:00-00:16:3e:00:00:00", "all-zero"},
        {"00:16:3e-00:16:3f", "00:16:3e"},
        {"00:16:3e:00:00:01-", "''"},
        {"-00:16:3e:00:00:01", "''"},
        {"00:16:3e:00:00:01 - 00:16:3e:00:00:02", "00:16:3e:00:00:01 "},
        {"00:16:3e:", "not a range"},
        {"00:16:3e:00:00:00/24", "not a range"},
        {"", "not a range"},
    }));
    const auto range = parse_range(text);
    REQUIRE_FALSE(range.ok());
    CHECK_THAT(range.error().message, ContainsSubstring("'" + text + "'") && ContainsSubstring(why));
}

TEST_CASE("ranges that overlap, and exclusions that mean nothing, are refused with the offending text") {
    const auto make = [](const std::vector<std::string>& ranges, const std::vector<std::string>& exclusions) {
        std::vector<Range> in;
        std::vector<Range> out;
        for (const auto& text : ranges)
            in.push_back(parse_range(text).value());
        for (const auto& text : exclusions)
            out.push_back(parse_range(text).value());
        return Space::make(in, out);
    };
    auto space = make({"00:16:3e:00:00:00-00:16:3e:00:00:10", "00:16:3e:00:00:10-00:16:3e:00:00:20"}, {});
    REQUIRE_FALSE(space.ok());
    CHECK(space.error().message ==
          "ranges 00:16:3e:00:00:00-00:16:3e:00:00:10 and 00:16:3e:00:00:10-00:16:3e:00:00:20 overlap");
    space = make({"00:16:3e"}, {"00:16:3e:00:00:01", "00:16:3e:00:00"});
    REQUIRE_FALSE(space.ok());
    CHECK_THAT(space.error().message,
               ContainsSubstring("exclusions") && ContainsSubstring("00:16:3e:00:00:01"));
    space = make({"00:16:3e"}, {"52:54:00"});
    REQUIRE_FALSE(space.ok());
    CHECK_THAT(space.error().message,
               ContainsSubstring("52:54:00:00:00:00-52:54:00:ff:ff:ff is in none of the ranges"));
    space = make({"00:16:3e:00:00:01"}, {"00:16:3e"});
    REQUIRE_FALSE(space.ok());
    CHECK_THAT(space.error().message, ContainsSubstring("no address"));
}

TEST_CASE("a space numbers its addresses without a gap") {
    const auto range = [](const char* text) { return parse_range(text).value(); };
    const auto made = Space::make(
        {range("52:54:00:00:00:00-52:54:00:00:00:07"), range("00:16:3e:00:00:00-00:16:3e:00:00:0f")},
        {range("00:16:3e:00:00:00"), range("00:16:3e:00:00:05-00:16:3e:00:00:06"),
         range("00:16:3e:00:00:0f")});
    REQUIRE(made.ok());
    const Space& space = made.value();
    REQUIRE(space.size() == 8 + 16 - 4);
    Mac previous{};
    for (uint64_t rank = 0; rank < space.size(); ++rank) {
        CHECK(space.rank(space.at(rank)) == rank);
        CHECK(previous < space.at(rank));
        previous = space.at(rank);
    }
    for (const char* out :
         {"00:16:3e:00:00:00", "00:16:3e:00:00:05", "00:16:3e:00:00:06", "00:16:3e:00:00:0f",
          "00:16:3e:00:00:10", "52:54:00:00:00:08", "00:00:00:00:00:00"}) {
        CHECK_FALSE(space.rank(parse_mac(out).value()).has_value());
    }
}

TEST_CASE("a UUID has one form inside and two outside") {
    CHECK(parse_uuid("6F2C7C9E-1B1A-4F4E-8F3A-0123456789AB").value() ==
          "6f2c7c9e-1b1a-4f4e-8f3a-0123456789ab");
    CHECK(parse_uuid("6f2c7c9e1b1a4f4e8f3a0123456789ab").value() == "6f2c7c9e-1b1a-4f4e-8f3a-0123456789ab");
    for (const char* text :
         {"", "6f2c7c9e-1b1a-4f4e-8f3a-0123456789a", "6f2c7c9e-1b1a-4f4e-8f3a-0123456789abc",
          "6f2c7c9e-1b1a4f4e-8f3a-0123456789ab", "6f2c7c9e--1b1a-4f4e-8f3a-0123456789ab",
          "6f2c7c9e-1b1a-4f4e-8f3a-0123456789ag", "-6f2c7c9e1b1a4f4e8f3a0123456789ab",
          "6f2c7c9e-1b1a-4f4e-8f3a-0123456789ab-", "00000000-0000-0000-0000-000000000000"}) {
        const auto uuid = parse_uuid(text);
        REQUIRE_FALSE(uuid.ok());
        CHECK_THAT(uuid.error().message, ContainsSubstring(std::string("'") + text + "'"));
    }
    const std::string made = make_uuid();
    CHECK(parse_uuid(made).value() == made);
    CHECK(made[14] == '4');
    CHECK(made != make_uuid());
}

TEST_CASE("a person's word is a domid, a UUID or a name") {
    CHECK(classify_guest("7") == GuestWord::domid);
    CHECK(classify_guest("web7") == GuestWord::name);
    CHECK(classify_guest("6f2c7c9e-1b1a-4f4e-8f3a-0123456789ab") == GuestWord::uuid);
    CHECK_FALSE(parse_guest_name("").ok());
    CHECK_FALSE(parse_guest_name("a/b").ok());
    CHECK_FALSE(parse_guest_name("a\nb").ok());
    CHECK_FALSE(parse_guest_name("a\xff").ok());
    CHECK(parse_guest_name("w\xc3\xa9"
                           "b 1=2")
              .ok());
}

TEST_CASE("times are said with their unit") {
    CHECK(parse_duration("24h").value() == 86400);
    CHECK(parse_duration("7d").value() == 604800);
    CHECK(parse_duration("15m").value() == 900);
    CHECK(parse_duration("0").value() == 0);
    for (const char* text : {"", "h", "-1h", "1w", "1 h", "4000d", "99999999999999999999"})
        CHECK_FALSE(parse_duration(text).ok());
    CHECK(time_text(1'800'000'000) == "2027-01-15T08:00:00Z");
}
