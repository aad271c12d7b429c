// SPDX-License-Identifier: Apache-2.0
//
// Domains on the embedded core: memory and its bounds, vCPUs, names and numbers, birth and death.
#include <sys/mman.h>

#include <catch2/catch_test_macros.hpp>
#include <cerrno>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "core_fixture.h"

extern "C" {
#include <xengnttab.h>
}

using namespace ringback;
using namespace ringback::test;
using namespace ringback::xen::embedded;
using nlohmann::json;

namespace {

json info(CoreWithGuest& t, std::uint16_t domid) {
    return json::parse(must(t.toolstack.domain_info(domid)));
}

template <typename T>
int error_of(const Result<T>& result) {
    return result.ok() ? 0 : result.error().code;
}

constexpr std::uint32_t kMib = 256;  // pages

}  // namespace

TEST_CASE("a page that somebody maps cannot be ballooned away") {
    CoreWithGuest t({"--unmap-delay-ms", "0"});
    const std::uint32_t frame = must(t.guest.alloc_pages(2));
    const std::uint32_t ref = must(t.guest.grant(frame, 0));
    xengnttab_handle* gnttab = xengnttab_open(nullptr, 0);
    void* map = xengnttab_map_grant_ref(gnttab, t.domid, ref, PROT_READ);
    REQUIRE(map != nullptr);
    CHECK(error_of(t.guest.balloon_out(frame)) == EBUSY);
    CHECK(must(t.guest.balloon_out(frame + 1)) == 32 * kMib - 1);
    REQUIRE(xengnttab_unmap(gnttab, map, 1) == 0);
    CHECK(must(t.guest.balloon_out(frame)) == 32 * kMib - 2);
    // The page is gone: a grant of it leads nowhere.
    CHECK(xengnttab_map_grant_ref(gnttab, t.domid, ref, PROT_READ) == nullptr);
    xengnttab_close(gnttab);
}

TEST_CASE("a domain follows its balloon target and never exceeds its maximum") {
    DomainSpec spec;
    spec.memory_mib = 16;
    spec.max_memory_mib = 24;
    CoreWithGuest t({}, spec);
    const std::string memory = "/local/domain/" + std::to_string(t.domid) + "/memory/";
    CHECK(info(t, t.domid)["pages"] == 16 * kMib);
    CHECK(must(t.toolstack.store().read(memory + "static-max")) == "24576");
    CHECK(must(t.toolstack.store().read(memory + "target")) == "16384");

    // The guest's balloon driver sees the target through a watch on its own store connection.
    StoreClient own = must(StoreClient::open(t.domid));
    must(own.watch("memory/target", "balloon"));
    CHECK(must(own.wait_event(10000)).path == "memory/target");
    must(t.toolstack.set_memory_target(t.domid, 8 * 1024));
    CHECK(must(own.wait_event(10000)).path == "memory/target");
    CHECK(must(t.guest.follow_memory_target(std::stoull(must(own.read("memory/target"))))) == 8 * kMib);
    must(t.toolstack.set_memory_target(t.domid, 24 * 1024));
    CHECK(must(t.guest.follow_memory_target(std::stoull(must(own.read("memory/target"))))) == 24 * kMib);

    CHECK(error_of(t.guest.populate(1)) == ENOMEM);
    CHECK(error_of(t.toolstack.set_memory_target(t.domid, 24 * 1024 + 4)) == EINVAL);
    CHECK(info(t, t.domid)["pages"] == 24 * kMib);
    CHECK(error_of(t.toolstack.set_max_memory(t.domid, 20 * 1024)) == EINVAL);  // below what it has
    must(t.guest.follow_memory_target(8 * 1024));
    must(t.toolstack.set_max_memory(t.domid, 12 * 1024));
    CHECK(error_of(t.guest.follow_memory_target(12 * 1024 + 4)) == ENOMEM);
    CHECK(must(t.guest.follow_memory_target(12 * 1024)) == 12 * kMib);
}

TEST_CASE("all domains together never exceed the host") {
    CoreWithGuest t({"--host-memory-mib", "112", "--dom0-memory-mib", "64"});  // and 32 for the guest
    DomainSpec spec;
    CHECK(error_of(t.toolstack.create_domain(spec)) == ENOMEM);
    spec.memory_mib = 8;
    spec.max_memory_mib = 64;
    const std::uint16_t domid = must(t.toolstack.create_domain(spec));
    Guest guest = must(Guest::connect(domid));
    CHECK(must(guest.populate(8 * kMib)) == 16 * kMib);
    CHECK(error_of(guest.populate(1)) == ENOMEM);
    must(t.guest.decrease(1));
    CHECK(must(guest.populate(1)) == 16 * kMib + 1);
}

TEST_CASE("vCPUs on and offline show in the store and in the domain") {
    DomainSpec spec;
    spec.vcpus = 2;
    spec.max_vcpus = 4;
    CoreWithGuest t({}, spec);
    const std::string cpu = "/local/domain/" + std::to_string(t.domid) + "/cpu/";
    const auto shown = [&] {
        std::string all;
        for (const std::string& n : must(t.toolstack.store().list(cpu.substr(0, cpu.size() - 1))))
            all += n + "=" + must(t.toolstack.store().read(cpu + n + "/availability")) + " ";
        return all;
    };
    CHECK(shown() == "0=online 1=online 2=offline 3=offline ");
    StoreClient own = must(StoreClient::open(t.domid));
    must(own.watch("cpu", "hotplug"));
    must(own.wait_event(10000));
    must(t.toolstack.set_vcpus(t.domid, 3));
    CHECK(shown() == "0=online 1=online 2=online 3=offline ");
    // What the guest's CPU hotplug does on the watch.
    CHECK(must(own.wait_event(10000)).path.starts_with("cpu/"));
    for (std::uint32_t n = 0; n < 4; ++n)
        must(t.guest.set_vcpu(n, must(own.read("cpu/" + std::to_string(n) + "/availability")) == "online"));
    CHECK(info(t, t.domid)["vcpus"] == json({true, true, true, false}));
    must(t.toolstack.set_vcpus(t.domid, 1));
    CHECK(shown() == "0=online 1=offline 2=offline 3=offline ");
    CHECK(error_of(t.toolstack.set_vcpus(t.domid, 5)) == EINVAL);
    CHECK(error_of(t.guest.set_vcpu(4, true)) == EINVAL);
    CHECK(error_of(t.guest.set_vcpu(0, false)) == EINVAL);  // the boot CPU stays
}

TEST_CASE("a domain has a name, a number and a UUID, in the store and in the core") {
    DomainSpec spec;
    spec.name = "web";
    spec.uuid = "8d9f9b2e-1f4e-4f4a-9d5b-3a6b3d6f0001";
    CoreWithGuest t({}, spec);
    StoreClient& store = t.toolstack.store();
    const std::string path = "/local/domain/" + std::to_string(t.domid);
    CHECK(must(store.read(path + "/name")) == "web");
    CHECK(must(store.read(path + "/vm")) == "/vm/" + spec.uuid);
    CHECK(must(store.read("/vm/" + spec.uuid + "/name")) == "web");
    CHECK(must(store.read("domid")) == "0");  // relative paths are the connection's own domain
    StoreClient own = must(StoreClient::open(t.domid));
    CHECK(must(own.read("domid")) == std::to_string(t.domid));
    must(t.toolstack.rename_domain(t.domid, "mail"));
    CHECK(must(store.read(path + "/name")) == "mail");
    CHECK(info(t, t.domid)["name"] == "mail");
    CHECK(info(t, t.domid)["uuid"] == spec.uuid);

    // A number is not given again soon.
    const std::uint16_t second = must(t.toolstack.create_domain({}));
    must(t.toolstack.destroy_domain(second));
    CHECK(must(t.toolstack.create_domain({})) != second);
}

TEST_CASE("birth, shutdown and death are announced through the store") {
    CoreWithGuest t;
    StoreClient watcher = must(StoreClient::open(std::uint16_t{0}));
    must(watcher.watch("@introduceDomain", "in"));
    must(watcher.watch("@releaseDomain", "out"));
    for (int i = 0; i < 2; ++i)
        must(watcher.wait_event(10000));
    const std::uint16_t domid = must(t.toolstack.create_domain({}));
    CHECK(must(watcher.wait_event(10000)).path == "@introduceDomain");
    Guest guest = must(Guest::connect(domid));

    must(guest.shutdown(ShutdownReason::suspend));
    CHECK(must(watcher.wait_event(10000)).path == "@releaseDomain");
    CHECK(info(t, domid)["shutdown"] == "suspend");
    must(t.toolstack.resume_domain(domid));
    CHECK(info(t, domid)["shutdown"] == "");
    must(t.toolstack.shutdown_domain(domid, ShutdownReason::crash));
    CHECK(must(watcher.wait_event(10000)).path == "@releaseDomain");
    CHECK(info(t, domid)["shutdown"] == "crash");

    must(t.toolstack.destroy_domain(domid));
    CHECK(must(watcher.wait_event(10000)).path == "@releaseDomain");
    CHECK_FALSE(guest.alive());
    CHECK(error_of(guest.alloc_pages(1)) == ENODEV);
    CHECK_FALSE(Guest::connect(domid).ok());
    CHECK_FALSE(StoreClient::open(domid).ok());
    CHECK_FALSE(t.toolstack.store().get("/local/domain/" + std::to_string(domid)).has_value());
}

TEST_CASE("a guest cannot touch other domains") {
    CoreWithGuest t;
    const std::uint16_t other = must(t.toolstack.create_domain({}));
    CoreConnection guest;
    REQUIRE(guest.open(t.domid) == 0);
    for (Op op : {Op::destroy_domain, Op::shutdown, Op::pause, Op::resume, Op::domain_info, Op::set_max_pages,
                  Op::rename_domain, Op::create_domain, Op::counters, Op::inject, Op::list_domains})
        CHECK(guest.call(op, {other, 1}).error == EPERM);
    CHECK(info(t, other)["shutdown"] == "");
    CHECK(error_of(t.toolstack.destroy_domain(0)) != 0);
}

TEST_CASE("pages and references are given once, and come back") {
    CoreWithGuest t;
    Guest again = must(Guest::connect(t.domid));  // another process of the same guest
    const std::uint32_t a = must(t.guest.alloc_pages(10)), b = must(again.alloc_pages(10));
    CHECK((a + 10 <= b || b + 10 <= a));
    std::strcpy(t.guest.page(a), "shared");
    CHECK(std::string(again.page(a)) == "shared");
    CHECK(info(t, t.domid)["allocated_pages"] == 20);
    t.guest.free_pages(a, 10);
    again.free_pages(b, 10);
    CHECK(info(t, t.domid)["allocated_pages"] == 0);
    CHECK(error_of(t.guest.alloc_pages(32 * kMib)) == ENOMEM);
    must(t.guest.alloc_pages(32 * kMib - 1));

    std::vector<std::uint32_t> all = must(t.guest.alloc_refs(kGrantEntries - kReservedRefs));
    CHECK(error_of(again.alloc_refs(1)) == ENOSPC);
    t.guest.free_refs({all[7]});
    CHECK(must(again.alloc_refs(1)).at(0) == all[7]);
}
