// SPDX-License-Identifier: Apache-2.0
//
// What the administrator said is there again after a restart, and a file that makes no sense is not overwritten.
#include "blkback/throttle_book.h"

#include <stdlib.h>

#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <fstream>

using namespace ringback;
using namespace ringback::blk;

namespace {

struct Place {
    Place() { REQUIRE(::mkdtemp(directory.data()) != nullptr); }
    ~Place() { std::filesystem::remove_all(directory); }
    [[nodiscard]] std::string file() const { return directory + "/state/throttle.json"; }
    std::string directory = "/tmp/ringback-throttle-XXXXXX";
};

const ThrottleBook::Disk kDisk{"6d1c7f0e-0000-4000-8000-000000000001", "xvda"};

}  // namespace

TEST_CASE("limits are kept by guest, disk and group") {
    const Place place;
    const DiskThrottle wanted{{500, 0, 250}, 300, "gold"};
    {
        ThrottleBook book(place.file());
        REQUIRE(book.load().ok());
        REQUIRE(book.set_group("gold", {2000, 1U << 20, 100}).ok());
        REQUIRE(book.set_guest(kDisk.first, {1000, 0, 100}).ok());
        REQUIRE(book.set_disk(kDisk, wanted).ok());
    }
    ThrottleBook book(place.file());
    REQUIRE(book.load().ok());
    CHECK(book.disk(kDisk) == wanted);
    CHECK(book.guest(kDisk.first) == Rate{1000, 0, 100});
    REQUIRE(book.group("gold") != nullptr);
    CHECK(*book.group("gold") == Rate{2000, 1U << 20, 100});
    CHECK(book.disk({kDisk.first, "xvdb"}) == DiskThrottle{});
    // A group goes, and its disks stay as they are.
    REQUIRE(book.remove_group("gold").ok());
    CHECK(book.group("gold") == nullptr);
    CHECK(book.disk(kDisk) == DiskThrottle{{500, 0, 250}, 300, ""});
    CHECK((std::filesystem::status(place.file()).permissions() & std::filesystem::perms::others_all) == std::filesystem::perms::none);
}

TEST_CASE("a file that makes no sense limits nobody, is named, and is left as it is") {
    const Place place;
    std::filesystem::create_directory(place.directory + "/state");
    for (const std::string text : {"", "{", "[]", R"({"groups":{"a":{"operations":-1,"bytes":"x"}},"guests":{},"disks":[]})", R"({"groups":{}})"}) {
        std::ofstream(place.file()) << text;
        ThrottleBook book(place.file());
        const auto loaded = book.load();
        REQUIRE_FALSE(loaded.ok());
        CHECK(loaded.error().message.find(place.file()) != std::string::npos);
        CHECK_FALSE(book.set_guest("x", {1, 0, 100}).ok());
        std::ifstream file(place.file());
        CHECK(std::string(std::istreambuf_iterator<char>(file), {}) == text);
    }
}

TEST_CASE("what cannot be kept is not changed") {
    const Place place;
    std::ofstream(place.directory + "/state") << "a file where a directory should be";
    ThrottleBook book(place.file());
    (void)book.load();
    CHECK_FALSE(book.set_guest("x", {1, 0, 100}).ok());
    CHECK(book.guest("x") == Rate{});
}
