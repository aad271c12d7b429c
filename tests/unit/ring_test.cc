// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/ring.h"

#include <array>
#include <catch2/catch_test_macros.hpp>

#include "hypervisor/blkif_abi.h"

using namespace ringback::xen;

namespace {

struct SharedPage {
    alignas(4096) std::array<std::byte, 4096> bytes{};
    SharedRingHeader& header() { return *reinterpret_cast<SharedRingHeader*>(bytes.data()); }
    BackRing attach() { return {bytes.data(), bytes.size(), blkif::x86_64::kEntrySize}; }
};

}  // namespace

TEST_CASE("a ring has the number of entries that Xen's macros give it") {
    for (const size_t entry : {blkif::x86_64::kEntrySize, blkif::x86_32::kEntrySize}) {
        CHECK(ring_entries(4096, entry) == 32);
        CHECK(ring_entries(4096 * 2, entry) == 64);
        CHECK(ring_entries(4096 * 16, entry) == 512);
    }
    CHECK(ring_entries(4096, 12) == 256);  // netif tx
}

TEST_CASE("counters run across the 32-bit wrap") {
    SharedPage page;
    page.header().rsp_prod = page.header().req_prod = 0xfffffff0;
    BackRing ring = page.attach();
    page.header().req_prod += 32;
    CHECK(ring.available() == 32U);
    std::array<std::byte, 112> raw;
    for (int i = 0; i < 32; ++i) ring.take(raw.data());
    CHECK(ring.available() == 0U);
    for (int i = 0; i < 32; ++i) (void)ring.next_response();
    (void)ring.publish();
    CHECK(page.header().rsp_prod == 0x10);
}

TEST_CASE("a frontend that claims more than the ring holds is found out, and only then") {
    SharedPage page;
    BackRing ring = page.attach();
    page.header().req_prod = 32;
    CHECK(ring.available() == 32U);
    page.header().req_prod = 33;
    CHECK_FALSE(ring.available().has_value());
    page.header().req_prod = UINT32_MAX;
    CHECK_FALSE(ring.available().has_value());

    page.header().req_prod = 4;
    std::array<std::byte, 112> raw;
    for (int i = 0; i < 4; ++i) ring.take(raw.data());
    page.header().req_prod = 3;  // runs back behind what was taken
    CHECK_FALSE(ring.available().has_value());
}

TEST_CASE("our own counters are not read back from the guest's memory") {
    SharedPage page;
    BackRing ring = page.attach();
    page.header().req_prod = 2;
    std::array<std::byte, 112> raw;
    ring.take(raw.data());
    page.header().rsp_prod = 1000;
    (void)ring.next_response();
    (void)ring.publish();
    CHECK(page.header().rsp_prod == 1);
}

TEST_CASE("a notification is sent when the frontend asked for it and not otherwise") {
    SharedPage page;
    BackRing ring = page.attach();
    page.header().req_prod = 8;
    std::array<std::byte, 112> raw;
    for (int i = 0; i < 8; ++i) ring.take(raw.data());
    page.header().rsp_event = 1;  // tell me of the first
    (void)ring.next_response();
    CHECK(ring.publish());
    (void)ring.next_response();
    CHECK_FALSE(ring.publish());  // it has not asked again
    page.header().rsp_event = 5;  // tell me of the fifth
    for (int i = 0; i < 2; ++i) (void)ring.next_response();
    CHECK_FALSE(ring.publish());
    for (int i = 0; i < 2; ++i) (void)ring.next_response();
    CHECK(ring.publish());
}

TEST_CASE("resting asks for the next request and looks once more") {
    SharedPage page;
    BackRing ring = page.attach();
    CHECK(ring.rest());
    CHECK(page.header().req_event == 1);
    page.header().req_prod = 1;
    CHECK_FALSE(ring.rest());
}

TEST_CASE("a ring is taken up where it stands") {
    SharedPage page;
    page.header().req_prod = page.header().rsp_prod = 77;
    BackRing ring = page.attach();
    CHECK(ring.available() == 0U);
    CHECK(ring.req_cons() == 77);
}
