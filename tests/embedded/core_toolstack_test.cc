// SPDX-License-Identifier: Apache-2.0
//
// The toolstack of the embedded core against backends that behave and backends that do not: it must be as
// strict as libxl, or tests that pass here would not pass under xl.
#include <sys/stat.h>

#include <catch2/catch_test_macros.hpp>
#include <cerrno>
#include <fstream>
#include <thread>

#include "core_fixture.h"

using namespace ringback;
using namespace ringback::test;
using namespace ringback::xen::embedded;

namespace {

template <typename T>
int error_of(const Result<T>& result) {
    return result.ok() ? 0 : result.error().code;
}

// A backend that answers state changes of one device with what `react` says, until its nodes are gone.
class FakeBackend {
  public:
    using React = std::string (*)(const std::string& state, StoreClient& store, const std::string& path);

    FakeBackend(const std::string& path, React react)
        : thread_([path, react] {
              StoreClient store = must(StoreClient::open(std::uint16_t{0}));
              must(store.watch(path + "/state", "state"));
              for (bool seen = false;;) {
                  Result<StoreEvent> event = store.wait_event(20000);
                  if (!event.ok()) return;
                  std::optional<std::string> state = store.get(path + "/state");
                  if (!state && seen) return;
                  if (!state) continue;
                  seen = true;
                  std::string next = react(*state, store, path);
                  if (!next.empty()) (void)store.write(path + "/state", next);
              }
          }) {}
    ~FakeBackend() { thread_.join(); }

  private:
    std::thread thread_;
};

std::string obedient(const std::string& state, StoreClient&, const std::string&) {
    return state == "1" ? "2" : state == "5" ? "6" : "";
}
// Runs ahead within one transaction, as far as a watch can see.
std::string hasty(const std::string& state, StoreClient&, const std::string&) {
    return state == "1" ? "4" : "";
}
std::string deaf_to_closing(const std::string& state, StoreClient&, const std::string&) {
    return state == "1" ? "2" : "";
}

struct Bed {
    Bed() { t.toolstack.timeouts = {2000, 2000}; }
    CoreWithGuest t;
    StoreClient& store = t.toolstack.store();
    std::string id = std::to_string(t.domid);
    std::string back = "/local/domain/0/backend/vbd/" + id + "/51712";
    std::string front = "/local/domain/" + id + "/device/vbd/51712";
};

DiskSpec disk() {
    DiskSpec spec;
    spec.params = "/srv/disk.img";
    return spec;
}

std::string script(const std::string& directory, const std::string& body) {
    const std::string path = directory + "/script";
    std::ofstream(path) << "#!/bin/sh\n" << body;
    ::chmod(path.c_str(), 0755);
    return path;
}

}  // namespace

TEST_CASE("device numbers are libxl's") {
    CHECK(device_number("xvda") == 51712);
    CHECK(device_number("xvda1") == 51713);
    CHECK(device_number("xvdb") == 51728);
    CHECK(device_number("xvdp15") == 51967);
    CHECK(device_number("xvdq") == (1u << 28 | 16 << 8));
    CHECK(device_number("xvdaa") == (1u << 28 | 26 << 8));
    CHECK(device_number("xvda16") == (1u << 28 | 16));
    CHECK(device_number("d2p3") == (202u << 8 | 2 << 4 | 3));
    CHECK(device_number("hda") == 768);
    CHECK(device_number("hdc") == 5632);
    CHECK(device_number("sdb1") == 2065);
    for (const char* bad : {"", "xvd", "vda", "xvda1x", "sdq", "hde", "d1"})
        CHECK_FALSE(device_number(bad).has_value());
}

TEST_CASE("a disk is attached and detached as libxl does it") {
    Bed bed;
    FakeBackend backend(bed.back, obedient);
    DiskSpec spec = disk();
    spec.discard_enable = false;
    CHECK(must(bed.t.toolstack.attach_disk(bed.t.domid, spec)) == 51712);
    CHECK(must(bed.store.read(bed.back + "/params")) == "/srv/disk.img");
    CHECK(must(bed.store.read(bed.back + "/mode")) == "w");
    CHECK(must(bed.store.read(bed.back + "/discard-enable")) == "0");
    CHECK(must(bed.store.read(bed.back + "/hotplug-status")) == "connected");
    CHECK(must(bed.store.read(bed.front + "/backend")) == bed.back);
    CHECK(must(bed.store.read(bed.front + "/virtual-device")) == "51712");
    CHECK(must(bed.store.permissions(bed.back)) == std::vector<std::string>{"n0", "r" + bed.id});
    CHECK(must(bed.store.permissions(bed.back + "/state")) == std::vector<std::string>{"n0", "r" + bed.id});
    CHECK(must(bed.store.permissions(bed.front)) == std::vector<std::string>{"n" + bed.id, "r0"});
    // The guest owns its half and reads the other.
    StoreClient guest = must(StoreClient::open(bed.t.domid));
    CHECK(error_of(guest.write("device/vbd/51712/ring-ref", "8")) == 0);
    CHECK(must(guest.read(bed.back + "/state")) == "2");
    CHECK(error_of(guest.write(bed.back + "/state", "4")) == EACCES);
    CHECK(error_of(bed.t.toolstack.attach_disk(bed.t.domid, disk())) == EEXIST);

    must(bed.t.toolstack.detach_disk(bed.t.domid, 51712));
    CHECK_FALSE(bed.store.get(bed.back).has_value());
    CHECK_FALSE(bed.store.get("/local/domain/0/backend").has_value());  // empty parents go too
    CHECK_FALSE(bed.store.get(bed.front).has_value());
    CHECK_FALSE(bed.store.get("/libxl/" + bed.id + "/device").has_value());
}

TEST_CASE("a backend that is not in state 2 when libxl looks fails the attach, and nothing is left") {
    Bed bed;
    bed.t.toolstack.timeouts.device = 300;
    SECTION("it runs ahead") {
        FakeBackend backend(bed.back, hasty);
        CHECK(error_of(bed.t.toolstack.attach_disk(bed.t.domid, disk())) == ETIMEDOUT);
    }
    SECTION("it is not there") {
        CHECK(error_of(bed.t.toolstack.attach_disk(bed.t.domid, disk())) == ETIMEDOUT);
    }
    CHECK_FALSE(bed.store.get(bed.back).has_value());
    CHECK_FALSE(bed.store.get(bed.front).has_value());
}

TEST_CASE("a backend that does not close keeps a plain detach from succeeding, but not a forced one") {
    Bed bed;
    FakeBackend backend(bed.back, deaf_to_closing);
    must(bed.t.toolstack.attach_disk(bed.t.domid, disk()));
    bed.t.toolstack.timeouts.device = 200;
    CHECK(error_of(bed.t.toolstack.detach_disk(bed.t.domid, 51712)) == ETIMEDOUT);
    CHECK(must(bed.store.read(bed.back + "/state")) == "5");
    CHECK(must(bed.store.read(bed.back + "/online")) == "0");
    must(bed.t.toolstack.detach_disk(bed.t.domid, 51712, true));
    CHECK_FALSE(bed.store.get(bed.back).has_value());
    CHECK(error_of(bed.t.toolstack.detach_disk(bed.t.domid, 51712)) == ENOENT);
}

TEST_CASE("destroying a domain closes its disks and leaves no node") {
    Bed bed;
    {
        FakeBackend backend(bed.back, obedient);
        must(bed.t.toolstack.attach_disk(bed.t.domid, disk()));
        must(bed.t.toolstack.destroy_domain(bed.t.domid));
    }
    CHECK_FALSE(bed.store.get("/local/domain/0/backend").has_value());
    CHECK_FALSE(bed.store.get("/local/domain/" + bed.id).has_value());
    CHECK_FALSE(bed.store.get("/libxl/" + bed.id).has_value());
    CHECK(must(bed.store.list("/vm")).size() == 1);
}

TEST_CASE("a hotplug script has libxl's environment, and its error is the error") {
    Bed bed;
    FakeBackend backend(bed.back, obedient);
    DiskSpec spec = disk();
    spec.run_script = true;
    const std::string out = bed.t.core.directory() + "/out";
    SECTION("it succeeds") {
        spec.script = script(bed.t.core.directory(),
                             "echo $1 $script $XENBUS_TYPE $XENBUS_PATH $XENBUS_BASE_PATH >> " + out +
                                 "\nxenstore-write $XENBUS_PATH/hotplug-status connected\n");
        must(bed.t.toolstack.attach_disk(bed.t.domid, spec));
        CHECK(must(bed.store.read(bed.back + "/hotplug-status")) == "connected");
        must(bed.t.toolstack.detach_disk(bed.t.domid, 51712));
        std::ifstream in(out);
        std::string line;
        const std::string environment = " " + spec.script + " vbd backend/vbd/" + bed.id + "/51712 backend";
        REQUIRE(std::getline(in, line));
        CHECK(line == "add" + environment);
        REQUIRE(std::getline(in, line));
        CHECK(line == "remove" + environment);
    }
    SECTION("it fails with a message") {
        spec.script = script(bed.t.core.directory(),
                             "[ $1 = add ] || exit 0\n"
                             "xenstore-write $XENBUS_PATH/hotplug-error 'no such image'\nexit 1\n");
        Result<std::uint32_t> result = bed.t.toolstack.attach_disk(bed.t.domid, spec);
        REQUIRE_FALSE(result.ok());
        CHECK(result.error().message.find("no such image") != std::string::npos);
        CHECK_FALSE(bed.store.get(bed.back).has_value());
    }
    SECTION("it hangs") {
        bed.t.toolstack.timeouts.hotplug = 200;
        spec.script = script(bed.t.core.directory(), "[ $1 = add ] || exit 0\nsleep 100\n");
        CHECK(error_of(bed.t.toolstack.attach_disk(bed.t.domid, spec)) == ETIMEDOUT);
    }
    SECTION("it is not there") {
        spec.script = "/nonexistent/script";
        CHECK(error_of(bed.t.toolstack.attach_disk(bed.t.domid, spec)) == ENOENT);
    }
}
