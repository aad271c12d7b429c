// SPDX-License-Identifier: Apache-2.0
//
// Being let in: an etcd cluster with TLS that wants certificates and passwords; and what the rest period is
// there.
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdlib>
#include <map>
#include <set>

#include "mac-pool/etcd_client.h"
#include "tests/macpool/fixture.h"

using namespace ringback;
using namespace ringback::mac;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;
using nlohmann::json;

namespace {

// A certificate authority, a server's certificate and a client's, made by openssl.
void make_certificates(const Directory& directory) {
    // Where etcd has users of its own, its gateway refuses certificates with a common name: it would not take
    // them for a user.
    const std::string script = "cd '" + directory.path() + R"(' && exec >log 2>&1 && set -e
for name in ca other; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout $name.key -out $name.pem -subj /CN=$name
done
for name in server client; do
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout $name.key -out $name.csr -subj /O=$name
  printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' >$name.ext
  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile $name.ext -out $name.pem
done)";
    REQUIRE(std::system(script.c_str()) == 0);
}

}  // namespace

TEST_CASE("etcd lets in who shows a certificate and knows the password, over TLS") {
    if (!EtcdCluster::available()) SKIP("etcd is not installed (etcd-server)");
    Directory directory;
    make_certificates(directory);
    EtcdCluster secure(directory.path());

    Location good;
    good.url = secure.url("pool");
    good.ca_file = directory.file("ca.pem");
    good.cert_file = directory.file("client.pem");
    good.key_file = directory.file("client.key");
    const auto try_with = [](const Location& location) -> Result<Granted> {
        auto store = TRY(open_store(location, system_clock(), Open::create));
        Settings settings;
        settings.ranges = {TRY(parse_range("00:16:3e"))};
        (void)TRY(Pool::init(*store, settings));
        Pool pool = TRY(Pool::open(std::move(store), system_clock()));
        return pool.allocate(named("web"), 0);
    };
    const Mac mac = must(try_with(good)).lease.mac;

    Location no_certificate = good;
    no_certificate.cert_file.clear();
    no_certificate.key_file.clear();
    Error error = must_fail(try_with(no_certificate));
    CHECK(error.code == EACCES);
    CHECK_THAT(error.message, ContainsSubstring("certificate"));
    Location other_ca = good;
    other_ca.ca_file = directory.file("other.pem");
    error = must_fail(try_with(other_ca));
    CHECK(error.code == EACCES);
    CHECK_THAT(error.message, ContainsSubstring("certificate"));

    EtcdClient root(must(parse_etcd_url(good.url)), good);
    must(root.call("auth/user/add", {{"name", "root"}, {"password", "r"}}));
    must(root.call("auth/role/add", {{"name", "root"}}));
    must(root.call("auth/user/grant", {{"user", "root"}, {"role", "root"}}));
    must(root.call("auth/user/add", {{"name", "macpool"}, {"password", "secret"}}));
    must(root.call("auth/role/add", {{"name", "pools"}}));
    must(root.call(
        "auth/role/grant",
        {{"name", "pools"},
         {"perm", {{"permType", "READWRITE"}, {"key", base64("/pool/")}, {"range_end", base64("/pool0")}}}}));
    must(root.call("auth/user/grant", {{"user", "macpool"}, {"role", "pools"}}));
    must(root.call("auth/enable", json::object()));

    error = must_fail(try_with(good));
    CHECK(error.code == EACCES);
    Location user = good;
    user.user = "macpool";
    user.password = "wrong";
    error = must_fail(try_with(user));
    CHECK(error.code == EACCES);
    CHECK_THAT(error.message, ContainsSubstring("log in as macpool"));
    user.password = "secret";
    CHECK(must(try_with(user)).lease.mac == mac);
    user.url = secure.url("elsewhere");
    error = must_fail(try_with(user));
    CHECK(error.code == EACCES);
    CHECK_THAT(error.message, ContainsSubstring("permission denied"));
}

TEST_CASE("in etcd an address rests as long as its lease lives") {
    Place place(Kind::etcd);
    Pool pool = place.make("00:16:3e", 1234);
    const Mac mac = must(pool.allocate(named("web"), 0)).lease.mac;
    must(pool.release(mac));
    Location location;
    location.url = place.url();
    EtcdClient client(must(parse_etcd_url(place.url())), location);
    const json answer = must(client.call("kv/range", {{"key", base64(client.prefix() + key::paused(mac))}}));
    REQUIRE(answer.at("kvs").size() == 1);
    const json lease = must(client.call("lease/timetolive", {{"ID", answer["kvs"][0].at("lease")}}));
    CHECK(lease.at("grantedTTL") == "1234");
}

TEST_CASE("a cluster with one member of three left is an error, in bounded time, and then a success again") {
    if (!EtcdCluster::available()) SKIP("etcd is not installed (etcd-server)");
    EtcdCluster own;
    Location location;
    location.url = own.url("pool");
    Settings settings;
    settings.ranges = {must(parse_range("00:16:3e"))};
    must(Pool::init(*must(open_store(location, system_clock(), Open::create)), settings));
    Pool pool = must(Pool::open(must(open_store(location, system_clock(), Open::create)), system_clock()));
    const Mac mac = must(pool.allocate(named("web"), 0)).lease.mac;
    own.kill_member(0);
    CHECK(must(pool.allocate(named("web"), 0)).lease.mac == mac);
    CHECK(must(pool.allocate(named("web"), 1)).fresh);
    own.kill_member(1);
    Location hurried = location;
    hurried.patience_seconds = 3;
    CHECK(must_fail(must(open_store(hurried, system_clock(), Open::existing))->count("mac/")).code == EAGAIN);
    own.start_member(1);
    CHECK(must(pool.allocate(named("web"), 2)).fresh);
    CHECK(must(pool.allocate(named("web"), 0)).lease.mac == mac);
}

namespace {

constexpr unsigned kMoved = 1500;  // several transactions on a view

Mac moved(size_t index) {
    return Mac{0x00163e000000 + index * 1601};
}

// Reserves `kMoved` addresses in a row, and calls `meanwhile` in the middle of each transaction. Returns which were refused.
template <typename Meanwhile>
std::set<size_t> reserve_all(Pool& pool, const std::string& note, const Meanwhile& meanwhile) {
    std::set<size_t> refused;
    must(pool.together(kMoved, [&](Ledger& ledger, size_t from, size_t to) -> Result<void> {
        std::vector<std::pair<Mac, std::optional<Guest>>> coming;
        for (size_t index = from; index < to; ++index)
            coming.emplace_back(moved(index), named("g" + std::to_string(index)));
        TRY(ledger.expect(coming));
        for (size_t index = from; index < to; ++index) {
            const auto granted =
                ledger.reserve(moved(index), named("g" + std::to_string(index)), 0, Origin::import, note);
            if (index == from) meanwhile(from, to);
            if (!granted.ok() && granted.error().code != EEXIST) return granted.error();
            if (!granted.ok()) refused.insert(index);
        }
        return {};
    }));
    return refused;
}

}  // namespace

TEST_CASE("many changes in a row in etcd do not overrun another host's") {
    Place place(Kind::etcd);
    Pool pool = place.make("00:16:3e");
    Pool other = place.pool();
    // 1: in the middle of the first transaction; 50: of whatever is tried, until it goes key by key and beyond.
    const unsigned times = GENERATE(1U, 50U);
    unsigned calls = 0;
    std::map<size_t, Mac> taken;  // by others: one of the same transaction, each time
    const std::set<size_t> refused = reserve_all(pool, "a note", [&](size_t from, size_t to) {
        if (++calls > times) return;
        for (size_t index = from + 1; index < to; ++index) {
            if (taken.contains(index)) continue;
            must(other.reserve(moved(index), named("stranger" + std::to_string(index)), 0));
            taken[index] = moved(index);
            return;
        }
    });
    CHECK(calls > kMoved / 600);
    CHECK_FALSE(taken.empty());
    for (const auto& [index, mac] : taken) {
        CHECK(refused.contains(index));
        CHECK(must(pool.holder(mac))->guest.name == "stranger" + std::to_string(index));
    }
    CHECK(refused.size() == taken.size());
    CHECK(must(pool.stats()).in_use == kMoved);
    check_whole(*place.store(), pool);
}

TEST_CASE("many long changes in a row in etcd go in transactions that it takes") {
    Place place(Kind::etcd);
    Pool pool = place.make("00:16:3e");
    unsigned calls = 0;
    CHECK(reserve_all(pool, std::string(6000, 'n'), [&](size_t, size_t) { ++calls; }).empty());
    CHECK(calls > 4);
    CHECK(must(pool.stats()).in_use == kMoved);
    check_whole(*place.store(), pool);
    // And into a pool that is larger than what is to be read for it.
    must(pool.together(20, [&](Ledger& ledger, size_t from, size_t to) -> Result<void> {
        CHECK(to - from <= 16);
        for (size_t index = from; index < to; ++index)
            (void)TRY(ledger.reserve(Mac{moved(index).value + 1}, std::nullopt, 0, Origin::import, {}));
        return {};
    }));
}

TEST_CASE("a guest with more NICs than etcd takes operations is released at once") {
    Place place(Kind::etcd);
    Pool pool = place.make("00:16:3e");
    for (unsigned nic = 0; nic < 70; ++nic)
        must(pool.allocate(named("router"), nic));
    CHECK(must(pool.release(named("router"), std::nullopt)).size() == 70);
    CHECK(must(pool.stats()).in_use == 0);
    check_whole(*place.store(), pool);
}

TEST_CASE("a lease that ends before it is used is replaced") {
    Place place(Kind::etcd);
    Pool pool = place.make("00:16:3e", 1);
    Pool other = place.pool();
    const Mac mac = must(pool.allocate(named("web"), 0)).lease.mac;
    Location location;
    location.url = place.url();
    EtcdClient client(must(parse_etcd_url(place.url())), location);
    unsigned tries = 0;
    size_t revoked = 0;
    must(pool.together([&](Ledger& ledger) -> Result<void> {
        ++tries;
        if (tries == 2) {
            for (const json& lease : must(client.call("lease/leases", json::object())).value("leases", json::array())) {
                // One of another test may have ended by itself meanwhile.
                if (client.call("lease/revoke", {{"ID", lease.at("ID")}}).ok()) ++revoked;
            }
        }
        (void)TRY(ledger.release(mac));
        // The first try has its lease, and loses.
        if (tries == 1) must(other.allocate(named("other"), 0));
        return {};
    }));
    CHECK(revoked >= 1);
    CHECK(tries == 3);
    CHECK(must(pool.resting(mac)).has_value());
    check_whole(*place.store(), pool);
}
