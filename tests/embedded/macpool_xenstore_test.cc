// SPDX-License-Identifier: Apache-2.0
//
// What macpool reads from a host's xenstore, in the nodes that libxl writes.
#include <stdlib.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>

#include "core_fixture.h"
#include "mac-pool/running.h"
#include "mac-pool/sightings.h"

using namespace ringback;
using namespace ringback::mac;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr const char* kUuid = "6f2c7c9e-1b1a-4f4e-8f3a-0123456789ab";
constexpr const char* kOther = "11111111-2222-4333-8444-555555555555";

struct Host {
    Host() {
        const std::string home = "/local/domain/41";
        write(home + "/name", "web");
        write(home + "/vm", std::string("/vm/") + kUuid);
        // What a guest says of itself.
        write(home + "/device/vif/0/mac", "00:16:3e:00:00:66");
        write("/libxl/41/device/vif/0/mac", "00:16:3e:00:00:01");
        write("/libxl/41/device/vif/1/mac", "00:16:3E:00:00:02");
        write("/libxl/41/device/vif/2/mac", "nonsense");
        write("/libxl/41/device/vif/x/mac", "00:16:3e:00:00:03");
        // Being built: nothing to go by yet.
        write("/local/domain/42/domid", "42");
        write("/libxl/42/device/vif/0/mac", "00:16:3e:00:00:04");

        std::string path = std::filesystem::temp_directory_path() / "macpool-test-XXXXXX";
        REQUIRE(::mkdtemp(path.data()) != nullptr);
        directory = path;
        Location location;
        location.url = "sqlite:" + path + "/pool.db";
        Settings settings;
        settings.ranges = {must(parse_range("00:16:3e"))};
        must(Pool::init(*must(open_store(location, system_clock(), Open::create)), settings));
        pool.emplace(
            must(Pool::open(must(open_store(location, system_clock(), Open::existing)), system_clock())));
    }
    ~Host() { std::filesystem::remove_all(directory); }
    void write(const std::string& path, const std::string& value) const { must(store.write(path, value)); }

    CoreProcess core;
    xen::Store store = must(xen::Store::open());
    std::string directory;
    std::optional<Pool> pool;
};

}  // namespace

TEST_CASE("running guests are seen by what the toolstack wrote, and not by what they say") {
    Host host;
    const Sightings seen = see_xenstore(host.store);
    REQUIRE(seen.found.size() == 2);
    for (unsigned nic = 0; nic < 2; ++nic) {
        CHECK(seen.found[nic].mac.value == uint64_t{0x00163e000001} + nic);
        CHECK(seen.found[nic].nic == nic);
        CHECK(seen.found[nic].guest == Guest{"web", kUuid});
        CHECK(seen.found[nic].where == "domain 41");
    }
}

TEST_CASE("a guest is meant by its domid, its UUID or its name") {
    Host host;
    CHECK(must(resolve_guest(*host.pool, "41")) == Guest{"web", kUuid});
    CHECK(must(resolve_guest(*host.pool, kUuid)).uuid == kUuid);
    // A running guest lends its UUID to a name that the pool does not know.
    CHECK(must(resolve_guest(*host.pool, "web")) == Guest{"web", kUuid});
    CHECK(must(resolve_guest(*host.pool, "db")) == Guest{"db", {}});
    const auto none = resolve_guest(*host.pool, "43");
    REQUIRE_FALSE(none.ok());
    CHECK_THAT(none.error().message, ContainsSubstring("no domain 43"));
    CHECK_FALSE(resolve_guest(*host.pool, "42").ok());
    CHECK_FALSE(resolve_guest(*host.pool, "a/b").ok());

    // What the pool knows counts more than who runs at the moment.
    must(host.pool->allocate({"web", kOther}, 0));
    CHECK(must(resolve_guest(*host.pool, "web")) == Guest{"web", kOther});

    // Two of one name are a riddle that the name stays.
    host.write("/local/domain/44/name", "twin");
    host.write("/local/domain/44/vm", std::string("/vm/") + kUuid);
    host.write("/local/domain/45/name", "twin");
    host.write("/local/domain/45/vm", std::string("/vm/") + kOther);
    CHECK(must(resolve_guest(*host.pool, "twin")) == Guest{"twin", {}});
}
