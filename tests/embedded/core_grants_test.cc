// SPDX-License-Identifier: Apache-2.0
//
// Grants on the embedded core, through the drop-in libxengnttab: what it refuses, that a map is the guest's
// page, and when a guest may take its page back.
#include <sys/mman.h>
#include <sys/wait.h>

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
using ringback::xen::embedded::kPageSize;

namespace {

struct CloseGnttab {
    void operator()(xengnttab_handle* h) const { xengnttab_close(h); }
};
using Gnttab = std::unique_ptr<xengnttab_handle, CloseGnttab>;

Gnttab open_gnttab() {
    Gnttab handle(xengnttab_open(nullptr, 0));
    REQUIRE(handle);
    return handle;
}

constexpr int kReadWrite = PROT_READ | PROT_WRITE;

using Segment = xengnttab_grant_copy_segment_t;

Segment copy_in(std::uint16_t domid, std::uint32_t ref, unsigned offset, void* to, unsigned len) {
    Segment s{};
    s.source.foreign.ref = ref;
    s.source.foreign.offset = static_cast<std::uint16_t>(offset);
    s.source.foreign.domid = domid;
    s.dest.virt = to;
    s.len = static_cast<std::uint16_t>(len);
    s.flags = GNTCOPY_source_gref;
    s.status = 77;
    return s;
}

Segment copy_out(void* from, std::uint16_t domid, std::uint32_t ref, unsigned offset, unsigned len) {
    Segment s{};
    s.source.virt = from;
    s.dest.foreign.ref = ref;
    s.dest.foreign.offset = static_cast<std::uint16_t>(offset);
    s.dest.foreign.domid = domid;
    s.len = static_cast<std::uint16_t>(len);
    s.flags = GNTCOPY_dest_gref;
    s.status = 77;
    return s;
}

int status_of(Gnttab& gnttab, Segment segment) {
    REQUIRE(xengnttab_grant_copy(gnttab.get(), 1, &segment) == 0);
    return segment.status;
}

nlohmann::json info(CoreWithGuest& t) {
    return nlohmann::json::parse(must(t.toolstack.domain_info(t.domid)));
}
nlohmann::json totals(CoreWithGuest& t) {
    return nlohmann::json::parse(must(t.toolstack.counters()))["total"];
}

}  // namespace

TEST_CASE("a mapped grant is the guest's page") {
    CoreWithGuest t;
    Gnttab gnttab = open_gnttab();
    std::uint32_t first = must(t.guest.alloc_pages(2));
    std::uint32_t refs[] = {must(t.guest.grant(first + 1, 0)), must(t.guest.grant(first, 0))};
    std::strcpy(t.guest.page(first), "first");
    std::strcpy(t.guest.page(first + 1), "second");

    auto* map =
        static_cast<char*>(xengnttab_map_domain_grant_refs(gnttab.get(), 2, t.domid, refs, kReadWrite));
    REQUIRE(map != nullptr);
    // One contiguous range in the order of the references, whatever the order of the frames.
    CHECK(std::string(map) == "second");
    CHECK(std::string(map + kPageSize) == "first");
    std::strcpy(map, "written");
    CHECK(std::string(t.guest.page(first + 1)) == "written");

    CHECK(xengnttab_unmap(gnttab.get(), map, 1) == -1);  // not the whole map
    CHECK(xengnttab_unmap(gnttab.get(), map, 2) == 0);
}

TEST_CASE("what must not be mapped is not") {
    CoreWithGuest t;
    Gnttab gnttab = open_gnttab();
    const std::uint32_t frame = must(t.guest.alloc_pages(1));
    const std::uint32_t good = must(t.guest.grant(frame, 0));
    const auto refused = [&](std::uint32_t domid, std::uint32_t ref, int prot) {
        errno = 0;
        return xengnttab_map_grant_ref(gnttab.get(), domid, ref, prot) == nullptr && errno == EINVAL;
    };
    CHECK(refused(4711, good, kReadWrite));                             // no such domain
    CHECK(refused(t.domid, xen::embedded::kGrantEntries, kReadWrite));  // outside the table
    CHECK(refused(t.domid, 0xffffffff, kReadWrite));
    CHECK(refused(t.domid, good + 1, kReadWrite));                         // not granted
    CHECK(refused(t.domid, must(t.guest.grant(frame, 5)), PROT_READ));     // granted to somebody else
    CHECK(refused(t.domid, must(t.guest.grant(0x100000, 0)), PROT_READ));  // not a page of this domain

    const std::uint32_t readonly = must(t.guest.grant(frame, 0, true));
    CHECK(refused(t.domid, readonly, kReadWrite));
    void* map = xengnttab_map_grant_ref(gnttab.get(), t.domid, readonly, PROT_READ);
    CHECK(map != nullptr);

    // A batch is all or nothing: the good one of this batch is not left pinned.
    std::uint32_t batch[] = {good, good + 1};
    CHECK(xengnttab_map_domain_grant_refs(gnttab.get(), 2, t.domid, batch, kReadWrite) == nullptr);
    CHECK(t.guest.end_access(good));
}

TEST_CASE("grant copy moves bytes both ways and between grants") {
    CoreWithGuest t;
    Gnttab gnttab = open_gnttab();
    const std::uint32_t frame = must(t.guest.alloc_pages(2));
    const std::uint32_t a = must(t.guest.grant(frame, 0)), b = must(t.guest.grant(frame + 1, 0));
    std::vector<char> local(kPageSize);
    std::strcpy(t.guest.page(frame) + 100, "hello");

    CHECK(status_of(gnttab, copy_in(t.domid, a, 100, local.data(), 6)) == GNTST_okay);
    CHECK(std::string(local.data()) == "hello");
    std::strcpy(local.data(), "answer");
    CHECK(status_of(gnttab, copy_out(local.data(), t.domid, b, 4090, 6)) == GNTST_okay);
    CHECK(std::memcmp(t.guest.page(frame + 1) + 4090, "answer", 6) == 0);

    Segment both = copy_in(t.domid, a, 100, nullptr, 6);
    both.dest.foreign.ref = b;
    both.dest.foreign.offset = 0;
    both.dest.foreign.domid = t.domid;
    both.flags = GNTCOPY_source_gref | GNTCOPY_dest_gref;
    CHECK(status_of(gnttab, both) == GNTST_okay);
    CHECK(std::string(t.guest.page(frame + 1)) == "hello");

    CHECK(status_of(gnttab, copy_in(t.domid, a, 0, local.data(), 4096)) == GNTST_okay);
    CHECK(status_of(gnttab, copy_in(t.domid, a, 4096, local.data(), 0)) == GNTST_okay);
    // Nothing of this leaves a pin behind.
    CHECK(t.guest.end_access(a));
    CHECK(t.guest.end_access(b));
    CHECK(info(t)["counters"]["copies"] == 5);
}

TEST_CASE("what must not be copied is not, segment by segment") {
    CoreWithGuest t;
    Gnttab gnttab = open_gnttab();
    const std::uint32_t frame = must(t.guest.alloc_pages(2));
    const std::uint32_t good = must(t.guest.grant(frame, 0)), readonly = must(t.guest.grant(frame, 0, true));
    char local[64] = "unchanged";

    CHECK(status_of(gnttab, copy_in(4711, good, 0, local, 8)) == GNTST_bad_domain);
    CHECK(status_of(gnttab, copy_in(t.domid, xen::embedded::kGrantEntries, 0, local, 8)) == GNTST_bad_gntref);
    CHECK(status_of(gnttab, copy_in(t.domid, readonly + 1, 0, local, 8)) == GNTST_general_error);
    CHECK(status_of(gnttab, copy_in(t.domid, must(t.guest.grant(frame, 5)), 0, local, 8)) ==
          GNTST_general_error);
    CHECK(status_of(gnttab, copy_in(t.domid, must(t.guest.grant(0x100000, 0)), 0, local, 8)) ==
          GNTST_bad_page);
    CHECK(status_of(gnttab, copy_out(local, t.domid, readonly, 0, 8)) == GNTST_general_error);
    CHECK(std::string(local) == "unchanged");
    CHECK(status_of(gnttab, copy_in(t.domid, readonly, 0, local, 8)) == GNTST_okay);

    // A bad segment does not keep its neighbours from being copied.
    std::strcpy(t.guest.page(frame), "one");
    Segment batch[] = {copy_in(t.domid, good, 0, local, 4), copy_in(t.domid, readonly + 1, 0, local, 4),
                       copy_in(t.domid, good, 0, local + 8, 4)};
    REQUIRE(xengnttab_grant_copy(gnttab.get(), 3, batch) == 0);
    CHECK(batch[0].status == GNTST_okay);
    CHECK(batch[1].status == GNTST_general_error);
    CHECK(batch[2].status == GNTST_okay);
    CHECK(std::string(local + 8) == "one");

    // What Linux's gntdev refuses itself fails the call, after the segments before it.
    Segment across[] = {copy_in(t.domid, good, 0, local, 4), copy_in(t.domid, good, 4000, local, 97)};
    errno = 0;
    CHECK(xengnttab_grant_copy(gnttab.get(), 2, across) == -1);
    CHECK(errno == EINVAL);
    CHECK(across[0].status == GNTST_okay);
    Segment neither = copy_in(t.domid, good, 0, local, 4);
    neither.flags = 0;
    CHECK(xengnttab_grant_copy(gnttab.get(), 1, &neither) == -1);

    must(t.toolstack.destroy_domain(t.domid));
    CHECK(status_of(gnttab, copy_in(t.domid, good, 0, local, 8)) == GNTST_bad_domain);
}

TEST_CASE("an unmap is seen late, as on Linux") {
    CoreWithGuest t({"--unmap-delay-ms", "200"});
    Gnttab gnttab = open_gnttab();
    const std::uint32_t ref = must(t.guest.grant(must(t.guest.alloc_pages(1)), 0));
    void* map = xengnttab_map_grant_ref(gnttab.get(), t.domid, ref, kReadWrite);
    REQUIRE(map != nullptr);
    CHECK_FALSE(t.guest.end_access(ref));
    REQUIRE(xengnttab_unmap(gnttab.get(), map, 1) == 0);
    // This is where a backend that answers now is found out.
    CHECK_FALSE(t.guest.end_access(ref));
    CHECK(eventually([&] { return t.guest.end_access(ref); }));
}

TEST_CASE("an unmap can be made to be seen at once") {
    CoreWithGuest t({"--unmap-delay-ms", "0"});
    Gnttab gnttab = open_gnttab();
    const std::uint32_t ref = must(t.guest.grant(must(t.guest.alloc_pages(1)), 0));
    void* twice[2];
    for (void*& map : twice)
        map = xengnttab_map_grant_ref(gnttab.get(), t.domid, ref, kReadWrite);
    REQUIRE(twice[1] != nullptr);
    REQUIRE(xengnttab_unmap(gnttab.get(), twice[0], 1) == 0);
    CHECK_FALSE(t.guest.end_access(ref));  // pins are counted
    REQUIRE(xengnttab_unmap(gnttab.get(), twice[1], 1) == 0);
    CHECK(t.guest.end_access(ref));
}

TEST_CASE("maps of a killed process go, and its successor can map at once") {
    CoreWithGuest t({"--unmap-delay-ms", "200"});
    const std::uint32_t ref = must(t.guest.grant(must(t.guest.alloc_pages(1)), 0));
    Child backend([&](Child& self) {
        xengnttab_handle* handle = xengnttab_open(nullptr, 0);
        char* map = static_cast<char*>(xengnttab_map_grant_ref(handle, t.domid, ref, kReadWrite));
        if (map == nullptr) return 1;
        self.report(1);
        return self.wait_for_death();
    });
    REQUIRE(backend.next() == 1);
    backend.kill();
    Gnttab gnttab = open_gnttab();
    void* map = xengnttab_map_grant_ref(gnttab.get(), t.domid, ref, kReadWrite);
    REQUIRE(map != nullptr);
    CHECK(eventually([&] { return info(t)["pinned"] == 1; }));
    CHECK_FALSE(t.guest.end_access(ref));
    REQUIRE(xengnttab_unmap(gnttab.get(), map, 1) == 0);
    CHECK(eventually([&] { return t.guest.end_access(ref); }));
}

TEST_CASE("a process killed while it copies does not keep the page") {
    CoreWithGuest t;
    const std::uint32_t frame = must(t.guest.alloc_pages(1));
    const std::uint32_t ref = must(t.guest.grant(frame, 0));
    for (int round = 0; round < 10; ++round) {
        Child backend([&](Child& self) {
            xengnttab_handle* handle = xengnttab_open(nullptr, 0);
            std::vector<char> local(kPageSize);
            for (std::uint64_t n = 0;; ++n) {
                Segment s = copy_in(t.domid, ref, 0, local.data(), kPageSize);
                if (xengnttab_grant_copy(handle, 1, &s) != 0 || s.status != GNTST_okay) return 1;
                if (n == 100) self.report(n);
            }
        });
        REQUIRE(backend.next() == 100);
        backend.kill();
        REQUIRE(eventually([&] { return t.guest.end_access(ref); }));
        t.guest.grant_at(ref, frame, 0, false);
    }
}

TEST_CASE("nobody takes a page away while it is copied") {
    CoreWithGuest t;
    const std::uint32_t frame = must(t.guest.alloc_pages(1));
    const std::uint32_t ref = must(t.guest.grant(frame, 0));
    std::memset(t.guest.page(frame), 1, kPageSize);
    Child backend([&](Child& self) {
        xengnttab_handle* handle = xengnttab_open(nullptr, 0);
        std::vector<char> local(kPageSize);
        for (int n = 0;; ++n) {
            Segment s = copy_in(t.domid, ref, 0, local.data(), kPageSize);
            if (xengnttab_grant_copy(handle, 1, &s) != 0) return 1;
            // After a successful end_access the guest scribbles: no copy that was allowed may see that.
            if (s.status == GNTST_okay && (local[0] != 1 || local[kPageSize - 1] != 1)) return 2;
            if (n == 10) self.report(1);
        }
    });
    REQUIRE(backend.next() == 1);
    int revoked = 0;
    CHECK(eventually([&] {
        for (int n = 0; n < 1000; ++n) {
            if (!t.guest.end_access(ref)) continue;
            ++revoked;
            std::memset(t.guest.page(frame), 2, kPageSize);
            std::memset(t.guest.page(frame), 1, kPageSize);
            t.guest.grant_at(ref, frame, 0, false);
        }
        return revoked > 5000;
    }));
    CHECK(WIFSIGNALED(backend.kill()));  // it had not ended by itself
}

TEST_CASE("a destroyed domain is dying until its last map goes, then nothing is left") {
    CoreWithGuest t;
    Gnttab gnttab = open_gnttab();
    const auto before = totals(t);
    const std::uint32_t frame = must(t.guest.alloc_pages(1));
    const std::uint32_t ref = must(t.guest.grant(frame, 0));
    xen::embedded::GuestPort port = must(t.guest.alloc_unbound_port(0));
    auto* map = static_cast<char*>(xengnttab_map_grant_ref(gnttab.get(), t.domid, ref, kReadWrite));
    REQUIRE(map != nullptr);
    std::strcpy(map, "still here");

    must(t.toolstack.destroy_domain(t.domid));
    CHECK(info(t)["dying"] == true);
    CHECK(info(t)["pages"] == 1);
    CHECK(totals(t)["ports"] == 0);
    CHECK(std::string(map) == "still here");
    CHECK(xengnttab_map_grant_ref(gnttab.get(), t.domid, ref, PROT_READ) == nullptr);

    REQUIRE(xengnttab_unmap(gnttab.get(), map, 1) == 0);
    CHECK(eventually([&] { return !t.toolstack.domain_info(t.domid).ok(); }));
    const auto after = totals(t);
    CHECK(after["live_maps"] == 0);
    CHECK(after["domains"] == 1);
    CHECK(after["ports"] == 0);
    CHECK(after["used_pages"] == before["used_pages"].get<int>() - 32 * 256);
    CHECK(after["gone"]["maps"] == 1);
    CHECK(after["gone"]["unmaps"] == 1);
}

TEST_CASE("faults can be ordered") {
    CoreWithGuest t;
    Gnttab gnttab = open_gnttab();
    const std::uint32_t ref = must(t.guest.grant(must(t.guest.alloc_pages(1)), 0));
    char local[8];
    must(t.toolstack.inject(R"({"map_failures": 2, "errno": 12})"));
    for (int i = 0; i < 2; ++i) {
        errno = 0;
        CHECK(xengnttab_map_grant_ref(gnttab.get(), t.domid, ref, PROT_READ) == nullptr);
        CHECK(errno == ENOMEM);
    }
    CHECK(xengnttab_map_grant_ref(gnttab.get(), t.domid, ref, PROT_READ) != nullptr);
    must(t.toolstack.inject(R"({"copy_failures": 1, "status": -5, "domid": )" + std::to_string(t.domid) +
                            "}"));
    CHECK(status_of(gnttab, copy_in(t.domid, ref, 0, local, 8)) == -5);
    CHECK(status_of(gnttab, copy_in(t.domid, ref, 0, local, 8)) == GNTST_okay);
    CHECK(info(t)["counters"]["copy_failures"] == 1);
    CHECK(info(t)["counters"]["map_failures"] == 2);
}

TEST_CASE("domain 0 shares pages of its own, and its death is told through them") {
    CoreWithGuest t({"--unmap-delay-ms", "0"});
    Child owner([&](Child& self) {
        xengntshr_handle* share = xengntshr_open(nullptr, 0);
        std::uint32_t refs[2];
        auto* pages = static_cast<char*>(xengntshr_share_pages(share, t.domid, 2, refs, 1));
        std::uint32_t watched = 0;
        auto* page =
            static_cast<char*>(xengntshr_share_page_notify(share, t.domid, &watched, 1, 7, UINT32_MAX));
        if (pages == nullptr || page == nullptr) return 1;
        std::strcpy(pages + kPageSize, "from domain 0");
        page[7] = 1;
        self.report(refs[1]);
        self.report(watched);
        return self.wait_for_death();
    });
    const std::uint32_t ref = static_cast<std::uint32_t>(owner.next());
    const std::uint32_t watched = static_cast<std::uint32_t>(owner.next());
    // The guest is the one who maps here: the library acts for the domain that RINGBACK_DOMID names.
    ::setenv("RINGBACK_DOMID", std::to_string(t.domid).c_str(), 1);
    Gnttab gnttab = open_gnttab();
    ::unsetenv("RINGBACK_DOMID");
    auto* map = static_cast<char*>(xengnttab_map_grant_ref(gnttab.get(), 0, ref, PROT_READ));
    auto* byte = static_cast<volatile char*>(xengnttab_map_grant_ref(gnttab.get(), 0, watched, kReadWrite));
    REQUIRE(map != nullptr);
    REQUIRE(byte != nullptr);
    CHECK(std::string(map) == "from domain 0");
    CHECK(byte[7] == 1);
    owner.kill();
    CHECK(eventually([&] { return byte[7] == 0; }));
}
