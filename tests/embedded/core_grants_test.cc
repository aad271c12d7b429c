// SPDX-License-Identifier: Apache-2.0
//
// Grants on the embedded core, through the drop-in libxengnttab: what it refuses, that a map is the guest's page, and
// when a guest may take its page back.
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

}  // namespace

TEST_CASE("a mapped grant is the guest's page") {
    CoreWithGuest t;
    Gnttab gnttab = open_gnttab();
    std::uint32_t first = must(t.guest.alloc_pages(2));
    std::uint32_t refs[] = {must(t.guest.grant(first + 1, 0)), must(t.guest.grant(first, 0))};
    std::strcpy(t.guest.page(first), "first");
    std::strcpy(t.guest.page(first + 1), "second");

    auto* map = static_cast<char*>(xengnttab_map_domain_grant_refs(gnttab.get(), 2, t.domid, refs, kReadWrite));
    REQUIRE(map != nullptr);
    // One contiguous range in the order of the references, whatever the order of the frames.
    CHECK(std::string(map) == "second");
    CHECK(std::string(map + kPageSize) == "first");
    std::strcpy(map, "written");
    CHECK(std::string(t.guest.page(first + 1)) == "written");

    CHECK(xengnttab_unmap(gnttab.get(), map, 1) == -1);  // not the whole map
    CHECK(xengnttab_unmap(gnttab.get(), map, 2) == 0);
}
