// SPDX-License-Identifier: Apache-2.0
//
// The store of the embedded core: the stock tools and libxenstore on it, permissions, transactions, watches,
// quotas.
#include <sys/wait.h>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <cerrno>
#include <cstdio>
#include <set>

#include "core_fixture.h"
#include "hypervisor/embedded/xs_wire.h"

extern "C" {
#include <xenstore.h>
}

using namespace ringback;
using namespace ringback::test;
using namespace ringback::xen::embedded;

namespace {

struct Output {
    int status;
    std::string text;
};

Output shell(const std::string& command) {
    Output output{-1, ""};
    FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::array<char, 4096> buffer;
    while (std::size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe))
        output.text.append(buffer.data(), n);
    output.status = WEXITSTATUS(::pclose(pipe));
    return output;
}

template <typename T>
int error_of(const Result<T>& result) {
    return result.ok() ? 0 : result.error().code;
}

// A store with two guests and a connection for each identity.
struct Stores {
    CoreWithGuest t;
    std::uint16_t other_domid = must(t.toolstack.create_domain({}));
    StoreClient& dom0 = t.toolstack.store();
    StoreClient guest = must(StoreClient::open(t.domid));
    StoreClient other = must(StoreClient::open(other_domid));
    std::string id = std::to_string(t.domid), other_id = std::to_string(other_domid);
    std::string home = "/local/domain/" + id;
};

// All events that have arrived by the time the store has answered a further request.
std::multiset<std::string> events(StoreClient& client) {
    (void)client.get("/");
    std::multiset<std::string> all;
    while (std::optional<StoreEvent> event = client.next_event())
        all.insert(event->path + " " + event->token);
    return all;
}
using Events = std::multiset<std::string>;

}  // namespace

TEST_CASE("the stock xenstore tools work on it") {
    CoreWithGuest t;
    CHECK(shell("xenstore-write /tool/a 1 /tool/b two").status == 0);
    CHECK(shell("xenstore-read /tool/b").text == "two\n");
    CHECK(shell("xenstore-read domid").text == "0\n");
    CHECK(shell("xenstore-list /tool").text == "a\nb\n");
    CHECK(shell("xenstore-chmod /tool/a n0 r" + std::to_string(t.domid)).status == 0);
    CHECK(shell("xenstore-ls -p /tool").text.find("(n0,r" + std::to_string(t.domid) + ")") !=
          std::string::npos);
    CHECK(shell("xenstore-exists /tool/c").status == 1);
    CHECK(shell("xenstore-read /tool/c").status != 0);
    CHECK(shell("xenstore-rm /tool/a").status == 0);
    CHECK(shell("xenstore-list /tool").text == "b\n");
    CHECK(shell("timeout 10 xenstore-watch -n 1 /tool").text == "/tool\n");
    CHECK(shell("XENSTORED_PATH=" + t.core.store_socket(t.domid) + " xenstore-read domid").text ==
          std::to_string(t.domid) + "\n");
}

TEST_CASE("libxenstore works on it, with a directory larger than a message") {
    CoreWithGuest t;
    xs_handle* xs = xs_open(0);
    REQUIRE(xs != nullptr);
    const int kNodes = 800;
    xs_transaction_t tx = xs_transaction_start(xs);
    REQUIRE(tx != XBT_NULL);
    for (int i = 0; i < kNodes; ++i)
        REQUIRE(xs_write(xs, tx, ("/tool/many/a-rather-long-name-" + std::to_string(i)).c_str(), "x", 1));
    REQUIRE(xs_transaction_end(xs, tx, false));
    unsigned count = 0;
    char** names = xs_directory(xs, XBT_NULL, "/tool/many", &count);
    REQUIRE(names != nullptr);
    CHECK(count == kNodes);
    CHECK(std::string(names[kNodes - 1]) == "a-rather-long-name-799");
    ::free(names);
    CHECK(must(t.toolstack.store().list("/tool/many")).size() == kNodes);
    CHECK(must(t.toolstack.store().list("/tool/many")).back() == "a-rather-long-name-799");

    REQUIRE(xs_watch(xs, "/tool/many", "token"));
    char** event = xs_read_watch(xs, &count);
    REQUIRE(event != nullptr);
    CHECK(std::string(event[XS_WATCH_PATH]) == "/tool/many");
    CHECK(std::string(event[XS_WATCH_TOKEN]) == "token");
    ::free(event);
    CHECK(xs_is_domain_introduced(xs, t.domid));
    CHECK_FALSE(xs_is_domain_introduced(xs, 4711));
    char* path = xs_get_domain_path(xs, 42);
    CHECK(std::string(path) == "/local/domain/42");
    ::free(path);
    xs_close(xs);
}

TEST_CASE("a guest reads and writes where it may, and nowhere else") {
    Stores s;
    // Its own directory is domain 0's, readable; some of what is in it is its own.
    CHECK(must(s.guest.read("name")) == "guest");
    CHECK(error_of(s.guest.write("name", "mine")) == EACCES);
    CHECK(error_of(s.guest.write("data/x", "1")) == 0);
    CHECK(must(s.guest.permissions("data/x")) == std::vector<std::string>{"n" + s.id});
    CHECK(error_of(s.guest.write("/tool/x", "1")) == EACCES);
    CHECK(error_of(s.guest.read("/libxl/" + s.id + "/type")) == EACCES);
    CHECK(error_of(s.guest.list("/libxl")) == EACCES);
    // Who may not read the directory is not told what is missing in it.
    CHECK(error_of(s.guest.read("nothing")) == ENOENT);
    CHECK(error_of(s.guest.read("/libxl/nothing")) == EACCES);
    CHECK(error_of(s.other.read(s.home + "/data/x")) == EACCES);
    CHECK(error_of(s.other.write(s.home + "/data/x", "2")) == EACCES);
    CHECK(error_of(s.other.remove(s.home + "/data/x")) == EACCES);

    // The owner lets another domain in, keeps the ownership, and cannot give it away.
    must(s.guest.set_permissions("data/x", {"n" + s.id, "b" + s.other_id}));
    CHECK(must(s.other.read(s.home + "/data/x")) == "1");
    CHECK(error_of(s.other.write(s.home + "/data/x", "2")) == 0);
    CHECK(error_of(s.other.set_permissions(s.home + "/data/x", {"n" + s.other_id})) == EACCES);
    CHECK(error_of(s.guest.set_permissions("data/x", {"n" + s.other_id})) == EPERM);
    CHECK(error_of(s.dom0.set_permissions(s.home + "/data/x", {"r" + s.other_id})) == 0);
    CHECK(error_of(s.guest.write("data/x", "3")) == EACCES);

    // What is made below a node inherits its permissions; a guest owns what it makes.
    must(s.dom0.mkdir("/tool/open"));
    must(s.dom0.set_permissions("/tool/open", {"b0", "r" + s.other_id}));
    must(s.dom0.write("/tool/open/by0", ""));
    CHECK(must(s.dom0.permissions("/tool/open/by0")) == std::vector<std::string>{"b0", "r" + s.other_id});
    must(s.guest.write("/tool/open/a/b", ""));
    for (const char* path : {"/tool/open/a", "/tool/open/a/b"})
        CHECK(must(s.dom0.permissions(path)) == std::vector<std::string>{"b" + s.id, "r" + s.other_id});
    CHECK(error_of(s.guest.introduce(s.other_domid)) == EACCES);
    CHECK(error_of(s.guest.release(s.other_domid)) == EACCES);
}

TEST_CASE("paths that are none are refused") {
    Stores s;
    for (const char* path : {"", "/a//b", "/a/", "//", "/a b", "/a\xc3\xa4", "@releaseDomain", "@nonsense"})
        CHECK(error_of(s.dom0.write(path, "x")) == EINVAL);
    CHECK(error_of(s.dom0.write("/" + std::string(3072, 'a'), "x")) == EINVAL);
    CHECK(error_of(s.dom0.write("/" + std::string(3000, 'a'), "x")) == 0);
    CHECK(error_of(s.dom0.remove("/")) == EINVAL);
    CHECK(error_of(s.dom0.remove("/tool/not-there")) == 0);
    CHECK(error_of(s.dom0.remove("/tool/not/there")) == ENOENT);
    CHECK(error_of(s.dom0.request(99, std::string("/\0", 2))) == ENOSYS);
    CHECK(error_of(s.dom0.request(XS_READ, "/tool")) == EINVAL);  // not terminated
    // A value is any bytes.
    const std::string bytes("a\0b\n\xff", 5);
    must(s.dom0.write("/tool/bytes", bytes));
    CHECK(must(s.dom0.read("/tool/bytes")) == bytes);
}

TEST_CASE("a transaction sees one state and fails if it was overtaken") {
    Stores s;
    must(s.dom0.write("/tool/n", "1"));
    StoreClient second = must(StoreClient::open(std::uint16_t{0}));

    std::uint32_t tx = must(s.dom0.begin());
    CHECK(must(s.dom0.read("/tool/n", tx)) == "1");
    must(s.dom0.write("/tool/m", "new", tx));
    CHECK_FALSE(second.get("/tool/m").has_value());  // not before the commit
    must(second.write("/tool/n", "2"));
    CHECK(must(s.dom0.read("/tool/n", tx)) == "1");  // what it has seen stays
    CHECK_FALSE(must(s.dom0.commit(tx)));
    CHECK_FALSE(second.get("/tool/m").has_value());

    tx = must(s.dom0.begin());
    must(s.dom0.write("/tool/m", "new", tx));
    must(second.write("/tool/n/deep", "unrelated"));
    CHECK(must(s.dom0.commit(tx)));
    CHECK(must(second.read("/tool/m")) == "new");

    // Absence is something seen, too.
    tx = must(s.dom0.begin());
    CHECK(error_of(s.dom0.read("/tool/later", tx)) == ENOENT);
    must(second.write("/tool/later", ""));
    CHECK_FALSE(must(s.dom0.commit(tx)));

    tx = must(s.dom0.begin());
    must(s.dom0.remove("/tool/n", tx));
    CHECK(second.get("/tool/n/deep").has_value());
    s.dom0.abandon(tx);
    CHECK(second.get("/tool/n/deep").has_value());
    CHECK(error_of(s.dom0.read("/tool/n", tx)) == ENOENT);  // the transaction is over
    CHECK(error_of(s.dom0.commit(tx)) == ENOENT);
}

TEST_CASE("watches fire for the node and what is below it") {
    Stores s;
    must(s.dom0.write("/tool/w/a", ""));
    StoreClient watcher = must(StoreClient::open(std::uint16_t{0}));
    must(watcher.watch("/tool/w", "top"));
    must(watcher.watch("/tool/w/a", "a"));
    CHECK(events(watcher) == Events{"/tool/w top", "/tool/w/a a"});  // one each, at once
    CHECK(error_of(watcher.watch("/tool/w", "top")) == EEXIST);

    must(s.dom0.write("/tool/w/a", "same"));
    CHECK(events(watcher) == Events{"/tool/w/a top", "/tool/w/a a"});
    must(s.dom0.write("/tool/wx", ""));  // a name that only begins alike
    must(s.dom0.mkdir("/tool/w/a"));     // nothing happens
    CHECK(events(watcher).empty());
    must(s.dom0.set_permissions("/tool/w/a", {"r0"}));
    CHECK(events(watcher) == Events{"/tool/w/a top", "/tool/w/a a"});
    // Removing a tree: one event for its top, and each watch inside is told of its own node.
    must(s.dom0.write("/tool/w/a/b", ""));
    events(watcher);
    must(s.dom0.remove("/tool/w"));
    CHECK(events(watcher) == Events{"/tool/w top", "/tool/w/a a"});

    // In a transaction all fires at the commit, and not at all without one.
    std::uint32_t tx = must(s.dom0.begin());
    must(s.dom0.write("/tool/w/1", "", tx));
    must(s.dom0.write("/tool/w/2", "", tx));
    CHECK(events(watcher).empty());
    CHECK(must(s.dom0.commit(tx)));
    CHECK(events(watcher) == Events{"/tool/w/1 top", "/tool/w/2 top"});

    must(watcher.unwatch("/tool/w", "top"));
    CHECK(error_of(watcher.unwatch("/tool/w", "top")) == ENOENT);
    must(s.dom0.write("/tool/w/1", ""));
    CHECK(events(watcher).empty());
    must(watcher.watch("/tool/w", "again"));
    must(watcher.request(XS_RESET_WATCHES, std::string(1, '\0')));
    events(watcher);
    must(s.dom0.write("/tool/w/1", ""));
    CHECK(events(watcher).empty());
    // A depth, as newer xenstoreds have it.
    must(watcher.request(XS_WATCH, std::string("/tool\0deep\0"
                                               "1\0",
                                               13)));
    events(watcher);
    must(s.dom0.write("/tool/w/1", ""));
    must(s.dom0.write("/tool/x", ""));
    CHECK(events(watcher) == Events{"/tool/x deep"});
}

TEST_CASE("a relative watch gives relative paths, and a guest hears only of what it may read") {
    Stores s;
    must(s.guest.watch("data", "mine"));
    must(s.other.watch(s.home + "/data", "theirs"));
    CHECK(events(s.guest) == Events{"data mine"});
    CHECK(events(s.other) == Events{s.home + "/data theirs"});
    must(s.guest.write("data/x", "1"));
    CHECK(events(s.guest) == Events{"data/x mine"});
    CHECK(events(s.other).empty());
    must(s.guest.set_permissions("data/x", {"n" + s.id, "r" + s.other_id}));
    CHECK(events(s.other) == Events{s.home + "/data/x theirs"});
    must(s.guest.write("data/x", "2"));
    CHECK(events(s.other) == Events{s.home + "/data/x theirs"});
    // The last thing one may hear of is that the permission is gone.
    must(s.guest.set_permissions("data/x", {"n" + s.id}));
    CHECK(events(s.other) == Events{s.home + "/data/x theirs"});
    must(s.guest.write("data/x", "3"));
    CHECK(events(s.other).empty());

    // Domains' births and deaths are for domain 0, unless it says otherwise.
    must(s.guest.watch("@releaseDomain", "r"));
    events(s.guest);
    must(s.t.toolstack.shutdown_domain(s.other_domid, ShutdownReason::crash));
    CHECK(events(s.guest).empty());
    must(s.dom0.set_permissions("@releaseDomain", {"n0", "r" + s.id}));
    must(s.t.toolstack.shutdown_domain(s.other_domid, ShutdownReason::crash));
    CHECK(events(s.guest) == Events{"@releaseDomain r"});
    CHECK(error_of(s.guest.set_permissions("@releaseDomain", {"n" + s.id})) == EACCES);
}

TEST_CASE("guests have quotas, domain 0 has none") {
    Stores s;
    CHECK(error_of(s.guest.write("data/big", std::string(2049, 'x'))) == ENOSPC);
    CHECK(error_of(s.dom0.write("/tool/big", std::string(4000, 'x'))) == 0);
    int nodes = 0, error = 0;
    while (error == 0 && nodes < 2000) {
        error =
            error_of(s.guest.write("data/d" + std::to_string(nodes / 50) + "/" + std::to_string(nodes), ""));
        if (error == 0) ++nodes;
    }
    CHECK(error == ENOSPC);
    CHECK(nodes > 900);
    CHECK(nodes < 1000);
    must(s.guest.remove("data/d0"));
    CHECK(error_of(s.guest.write("data/again", "")) == 0);

    int watches = 0;
    while (watches < 500 && error_of(s.guest.watch("data", std::to_string(watches))) == 0)
        ++watches;
    CHECK(watches == 128);
    CHECK(error_of(s.guest.watch("data", "one more")) == E2BIG);
    int transactions = 0;
    while (transactions < 100 && s.guest.begin().ok())
        ++transactions;
    CHECK(transactions == 10);
    CHECK(error_of(s.guest.begin()) == ENOSPC);
    CHECK(error_of(s.guest.set_permissions("data", {"n" + s.id, "r1", "r2", "r3", "r4", "r5"})) == ENOSPC);
    CHECK(error_of(s.other.write("data/x", "")) == 0);  // others are not concerned
}

TEST_CASE("a closed connection takes its watches and transactions with it") {
    Stores s;
    {
        StoreClient gone = must(StoreClient::open(std::uint16_t{0}));
        must(gone.watch("/tool", "x"));
        must(gone.write("/tool/t", "", must(gone.begin())));
    }
    CHECK(eventually([&] {
        const std::string counters = must(s.t.toolstack.counters());
        return counters.find("\"transactions\":0") != std::string::npos &&
               counters.find("\"watches\":0") != std::string::npos;
    }));
    CHECK_FALSE(s.dom0.get("/tool/t").has_value());
}

TEST_CASE("the order of events can be shuffled, but not those of one path") {
    Stores s;
    must(s.t.toolstack.inject(R"({"shuffle": true, "seed": 7})"));
    StoreClient watcher = must(StoreClient::open(std::uint16_t{0}));
    must(watcher.watch("/tool", "t"));
    must(watcher.wait_event(10000));
    const int kPaths = 20;
    must(s.dom0.transact([&](std::uint32_t tx) -> Result<void> {
        for (int i = 0; i < kPaths; ++i)
            TRY(s.dom0.write("/tool/" + std::to_string(i), "", tx));
        return {};
    }));
    std::vector<std::string> written, seen;
    for (int i = 0; i < kPaths; ++i) {
        written.push_back("/tool/" + std::to_string(i));
        seen.push_back(must(watcher.wait_event(10000)).path);
    }
    CHECK(seen != written);
    CHECK(std::multiset(seen.begin(), seen.end()) == std::multiset(written.begin(), written.end()));
}
