// SPDX-License-Identifier: Apache-2.0
//
// The blkif frontend of the embedded core against a backend of a few lines, written here: that data arrives
// in both layouts, and that every mistake of a backend that Linux's blkfront punishes is punished by ours, or
// the tests that use it prove nothing.
#include <sys/mman.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>

#include "core_fixture.h"
#include "hypervisor/event_channel.h"
#include "hypervisor/grants.h"
#include "hypervisor/ring.h"
#include "tools/frontend/blkfront_queue.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;
using frontend::Op;
using frontend::Queue;
namespace blkif = xen::blkif;

namespace {

// One ring, served by hand; the disk is a string.
struct Backend {
    Backend(Queue& queue, uint16_t guest, blkif::Abi layout)
        : domid(guest),
          abi(layout),
          grants(must(xen::GrantTable::open())),
          events(must(xen::EventChannels::open())),
          mapping(must(grants.map(domid, queue.ring_refs(), true))),
          port(must(events.bind(domid, queue.port()))),
          ring(mapping.data(), mapping.size(), blkif::entry_size(abi)) {}

    struct Taken {
        uint64_t id = 0;
        uint8_t operation = 0;  // the inner one
        uint64_t sector = 0;
        std::vector<blkif::Segment> segments;
    };

    template <typename ReadWrite, typename Indirect>
    Taken parse(const std::byte* entry) {
        ReadWrite direct;
        std::memcpy(&direct, entry, sizeof direct);
        if (direct.operation != blkif::kIndirect)
            return {direct.id,
                    direct.operation,
                    direct.sector_number,
                    {direct.segments, direct.segments + direct.nr_segments}};
        Indirect indirect;
        std::memcpy(&indirect, entry, sizeof indirect);
        Taken taken{indirect.id, indirect.indirect_operation, indirect.sector_number, {}};
        for (uint32_t first = 0; first < indirect.nr_segments; first += blkif::kSegmentsPerIndirectPage) {
            std::vector<blkif::Segment> page(blkif::kSegmentsPerIndirectPage);
            copy(page.data(), indirect.indirect_grefs[first / blkif::kSegmentsPerIndirectPage], 0,
                 xen::kPageSize, false);
            taken.segments.insert(taken.segments.end(), page.begin(), page.end());
        }
        taken.segments.resize(indirect.nr_segments);
        return taken;
    }

    Taken take() {
        REQUIRE(ring.available().value_or(0) > 0);
        std::byte entry[128];
        ring.take(entry);
        return abi == blkif::Abi::x86_32 ? parse<blkif::x86_32::ReadWrite, blkif::x86_32::Indirect>(entry)
                                         : parse<blkif::x86_64::ReadWrite, blkif::x86_64::Indirect>(entry);
    }

    void copy(void* local, uint32_t ref, size_t offset, size_t length, bool to_guest) {
        xen::CopySegment segment{};
        segment.len = static_cast<uint16_t>(length);
        auto& mine = to_guest ? segment.source : segment.dest;
        auto& theirs = to_guest ? segment.dest : segment.source;
        mine.virt = local;
        theirs.foreign.ref = ref;
        theirs.foreign.domid = domid;
        theirs.foreign.offset = static_cast<uint16_t>(offset);
        segment.flags = to_guest ? GNTCOPY_dest_gref : GNTCOPY_source_gref;
        REQUIRE(grants.copy({&segment, 1}));
        REQUIRE(segment.status == 0);
    }

    void move_data(const Taken& taken) {
        size_t at = taken.sector * frontend::kSectorSize;
        for (const blkif::Segment& segment : taken.segments) {
            const size_t length = (segment.last_sector - segment.first_sector + 1U) * frontend::kSectorSize;
            copy(disk.data() + at, segment.gref, segment.first_sector * size_t{frontend::kSectorSize}, length,
                 taken.operation == blkif::kRead);
            at += length;
        }
    }

    void answer(uint64_t id, uint8_t operation, int16_t status = blkif::kOkay) {
        std::byte* entry = ring.next_response();
        std::memcpy(entry + blkif::kResponseId, &id, sizeof id);
        std::memcpy(entry + blkif::kResponseOperation, &operation, sizeof operation);
        std::memcpy(entry + blkif::kResponseStatus, &status, sizeof status);
    }

    void publish() {
        if (ring.publish()) events.notify(port);
    }

    void serve_all() {
        while (ring.available().value_or(0) > 0) {
            const Taken taken = take();
            move_data(taken);
            answer(taken.id, taken.operation);
        }
        publish();
    }

    uint16_t domid;
    blkif::Abi abi;
    xen::GrantTable grants;
    xen::EventChannels events;
    xen::GrantMapping mapping;
    xen::Port port;
    xen::BackRing ring;
    std::string disk = std::string(4 << 20, '.');
};

struct Bench {
    explicit Bench(bool persistent, blkif::Abi abi = blkif::Abi::x86_64, uint32_t max_segments = 11)
        : queue(must(Queue::create(core.guest, {0, abi, 0}))), backend(queue, core.domid, abi) {
        must(queue.start({persistent, max_segments, 0}));
    }

    // One request of one page, shown to the backend and not answered.
    Backend::Taken start_write() {
        request.op = Op::write;
        request.data = page.data();
        request.length = frontend::kPageSize;
        request.owner = this;
        request.done = [](frontend::Request& r, int result) {
            auto* self = static_cast<Bench*>(r.owner);
            self->status = result;
            ++self->answers;
        };
        REQUIRE(queue.submit(request));
        queue.push();
        return backend.take();
    }

    CoreWithGuest core{{}, {.name = "g", .memory_mib = 64}};
    Queue queue;
    Backend backend;
    frontend::Request request;
    std::vector<std::byte> page = std::vector<std::byte>(frontend::kPageSize);
    int status = 1;
    int answers = 0;
};

struct Transfer {
    frontend::Request request;
    std::vector<std::byte> data;
    int status = 1;

    Transfer(Op op, uint64_t sector, uint32_t sectors, uint8_t first_sector, char fill)
        : data(sectors * size_t{frontend::kSectorSize}, std::byte(fill)) {
        request.op = op;
        request.sector = sector;
        request.length = static_cast<uint32_t>(data.size());
        request.first_sector = first_sector;
        request.data = data.data();
        request.owner = this;
        request.done = [](frontend::Request& r, int result) {
            static_cast<Transfer*>(r.owner)->status = result;
        };
    }
};

}  // namespace

TEST_CASE("data goes through the ring and comes back") {
    const auto abi = GENERATE(blkif::Abi::x86_64, blkif::Abi::x86_32);
    const bool persistent = GENERATE(true, false);
    Bench t(persistent, abi, 600);
    // Segments: one sector in the middle of a page, 11 direct, indirect in one page, and in two.
    const uint32_t sizes[] = {1, 88, 96, 600 * 8 - 5};
    for (const uint32_t sectors : sizes) {
        const auto first = static_cast<uint8_t>(sectors == 88 || sectors == 96 ? 0 : 5);
        Transfer write(Op::write, 16, sectors, first, static_cast<char>('a' + sectors % 23));
        REQUIRE(t.queue.submit(write.request));
        t.queue.push();
        t.backend.serve_all();
        REQUIRE(t.queue.wait(5000));
        REQUIRE(write.status == 0);
        CHECK(std::memcmp(t.backend.disk.data() + 16 * 512, write.data.data(), write.data.size()) == 0);
        CHECK(t.backend.disk[16 * 512 - 1] == '.');

        Transfer read(Op::read, 16, sectors, first, 0);
        REQUIRE(t.queue.submit(read.request));
        t.queue.push();
        t.backend.serve_all();
        REQUIRE(t.queue.wait(5000));
        REQUIRE(read.status == 0);
        CHECK(read.data == write.data);
    }
    CHECK(t.queue.broken().empty());
    CHECK(t.queue.counters().spurious_events == 0);
}

TEST_CASE("a full ring takes no more, and wraps") {
    Bench t(true);
    std::vector<Transfer> writes(t.queue.entries() + 1, Transfer(Op::write, 0, 8, 0, 'x'));
    for (int round = 0; round < 3; ++round) {
        for (size_t i = 0; i < writes.size(); ++i) {
            writes[i].request.owner = &writes[i];
            writes[i].request.data = writes[i].data.data();
            writes[i].status = 1;
            CHECK(t.queue.submit(writes[i].request) == (i < t.queue.entries()));
        }
        t.queue.push();
        t.backend.serve_all();
        REQUIRE(t.queue.wait(5000));
        for (size_t i = 0; i < t.queue.entries(); ++i)
            CHECK(writes[i].status == 0);
    }
}

TEST_CASE("a backend's mistake breaks the disk") {
    Bench t(true);
    const Backend::Taken taken = t.start_write();
    std::string why;
    SECTION("an id past the ring") {
        t.backend.answer(t.queue.entries(), taken.operation);
        why = "id 32 in a ring of 32";
    }
    SECTION("a request that is not pending") {
        t.backend.answer(taken.id ^ 1, taken.operation);
        why = "is not pending";
    }
    SECTION("another operation") {
        t.backend.answer(taken.id, blkif::kRead);
        why = "operation 0 for a request with 1";
    }
    SECTION("more responses than requests") {
        t.backend.answer(taken.id, taken.operation);
        const uint32_t two = 2;
        std::memcpy(t.queue.shared() + offsetof(xen::SharedRingHeader, rsp_prod), &two, sizeof two);
        CHECK(t.queue.reap() == 0);
        why = "past the last request";
    }
    t.backend.publish();
    (void)t.queue.reap();
    CHECK_THAT(t.queue.broken(), ContainsSubstring(why));
    CHECK(t.status == frontend::kNoAnswer);
    CHECK(t.answers == 1);
    frontend::Request more = t.request;
    CHECK_FALSE(t.queue.submit(more));
}

TEST_CASE("an answer twice breaks the disk") {
    Bench t(true);
    Transfer other(Op::write, 0, 8, 0, 'x');
    const Backend::Taken taken = t.start_write();
    REQUIRE(t.queue.submit(other.request));
    t.queue.push();
    (void)t.backend.take();
    t.backend.answer(taken.id, taken.operation);
    t.backend.answer(taken.id, taken.operation);
    t.backend.publish();
    CHECK(t.queue.reap() == 1);
    CHECK_THAT(t.queue.broken(), ContainsSubstring("is not pending"));
    CHECK(t.status == 0);
    CHECK(other.status == frontend::kNoAnswer);
}

TEST_CASE("a page that is still mapped when its request is answered breaks the disk") {
    Bench t(false);
    const Backend::Taken taken = t.start_write();
    std::byte* page = t.backend.grants.map_page(t.core.domid, taken.segments[0].gref, false);
    REQUIRE(page != nullptr);
    // Unmapped before the answer, and yet too late: the hypervisor hears of it some milliseconds after.
    t.backend.grants.unmap_page(page);
    t.backend.answer(taken.id, taken.operation);
    t.backend.publish();
    CHECK(t.queue.reap() == 0);
    CHECK_THAT(t.queue.broken(), ContainsSubstring("still mapped"));
    CHECK(t.status == frontend::kNoAnswer);
}

TEST_CASE("a persistent grant may stay mapped") {
    Bench t(true);
    const Backend::Taken taken = t.start_write();
    std::byte* page = t.backend.grants.map_page(t.core.domid, taken.segments[0].gref, true);
    REQUIRE(page != nullptr);
    t.backend.answer(taken.id, taken.operation);
    t.backend.publish();
    CHECK(t.queue.reap() == 1);
    CHECK(t.status == 0);
    CHECK(t.queue.broken().empty());
    CHECK(t.queue.release() == 2);  // the page and the ring: still the backend's
    t.backend.grants.unmap_page(page);
}
