// SPDX-License-Identifier: Apache-2.0
//
// A frontend that keeps no rule: garbage in every field of the ring and of its requests, changed while the backend
// reads it, with grants that are bad, foreign, revoked or too many. It loses its own requests, at worst its disk. Another
// disk of the same worker serves on, its data untouched; memory stays bounded; and nothing of the guest stays mapped.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <fcntl.h>
#include <random>
#include <thread>

#include "raw_ring.h"

using namespace ringback;
using namespace ringback::test;
using namespace ringback::xen::blkif;
using blk::worker::StoredRequest;

namespace {

// A second disk of the same guest in the same worker, with content that has to stay what it is.
struct Neighbour : image::Opener {
    explicit Neighbour(Rig& attacked)
        : rig(attacked), queue(must(frontend::Queue::create(rig.core.guest, {}))), content(64 << 10) {
        std::string path = rig.path + ".neighbour";
        UniqueFd data(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        REQUIRE(ftruncate(data.get(), 1 << 20) == 0);
        UniqueFd journal(memfd_create("journal", MFD_CLOEXEC));
        REQUIRE(ftruncate(journal.get(), static_cast<off_t>(blk::kJournalBytes)) == 0);
        const xen::DeviceId id{"vbd", rig.core.domid, 51728};
        auto image = must(image::open_image("raw", {std::move(data), true, false, path}, *this, *rig.reactor,
                                            {.writable = true}));
        device = std::make_unique<blk::worker::Device>(
            id,
            blk::worker::Device::Resources{*rig.reactor, *rig.events, rig.grants, *rig.buffers, rig.rings_by_port},
            std::move(image), must(blk::worker::Journal::map(journal.get(), id)), true, false,
            blk::worker::Device::Callbacks{.disconnected = [this](blk::worker::Device&) { gone = true; },
                                           .failed = [this](blk::worker::Device&, const std::string&) { failed = true; }});
        must(queue.start({.persistent = false, .max_segments = 32}));
        blk::Connect parameters{};
        parameters.abi = Abi::x86_64;
        parameters.queue_count = 1;
        parameters.queues[0].ring_refs[0] = queue.ring_refs()[0];
        parameters.queues[0].remote_port = queue.port();
        must(device->connect(parameters));
        std::mt19937_64 random(7);
        for (auto& byte : content) byte = static_cast<std::byte>(random());
        transfer(frontend::Op::write, content);
    }
    ~Neighbour() override {
        device->disconnect();
        while (!gone) rig.reactor->turn(false);
    }
    void transfer(frontend::Op op, std::vector<std::byte>& data) {
        int status = 1;
        frontend::Request request;
        request.op = op;
        request.data = data.data();
        request.length = static_cast<uint32_t>(data.size());
        request.owner = &status;
        request.done = [](frontend::Request& done, int answer) { *static_cast<int*>(done.owner) = answer; };
        REQUIRE(queue.submit(request));
        queue.push();
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        while (status == 1 && std::chrono::steady_clock::now() < deadline) {
            rig.reactor->turn(false);
            queue.reap();
        }
        REQUIRE(status == 0);
    }
    void check() {
        std::vector<std::byte> now(content.size());
        transfer(frontend::Op::read, now);
        CHECK(now == content);
        CHECK_FALSE(failed);
        CHECK(queue.broken() == "");
    }
    Result<image::File> open(const std::string& name, Access) override { return os_error(EACCES, "open " + name); }

    Rig& rig;
    frontend::Queue queue;
    std::vector<std::byte> content;
    std::unique_ptr<blk::worker::Device> device;
    bool gone = false;
    bool failed = false;
};

// Standard error, counted.
struct Log {
    Log() : saved(dup(STDERR_FILENO)), file(memfd_create("stderr", MFD_CLOEXEC)) { dup2(file, STDERR_FILENO); }
    ~Log() {
        dup2(saved, STDERR_FILENO);
        close(saved);
        close(file);
    }
    [[nodiscard]] off_t bytes() const { return lseek(file, 0, SEEK_END); }
    int saved, file;
};

// What must hold after every attack. Ends the connection.
void survived(Rig& rig, Neighbour& neighbour, const std::vector<const RawPage*>& pages = {}) {
    neighbour.check();
    CHECK(rig.failures.size() <= 1);
    CHECK(rig.buffers->bytes_locked() <= rig.options.buffer_bytes);
    CHECK(rig.device->stats().persistent_grants <=
          blk::worker::PersistentGrants::kMaxMapped * rig.options.queues);
    rig.device->disconnect();
    REQUIRE(rig.turn_until([&] { return rig.disconnected == 1; }));
    CHECK(rig.device->stats().in_flight == 0);
    for (const RawPage* page : pages) CHECK(eventually([&] { return page->guest.end_access(page->ref); }));
    for (auto& queue : rig.queues) CHECK(eventually([&] { return queue.release() == 0; }));
    neighbour.check();
}

void turns(Rig& rig, int count) {
    for (int i = 0; i < count; ++i) rig.reactor->turn(false);
}

}  // namespace

TEST_CASE("a req_prod that no frontend can mean breaks the ring, once, and nothing else") {
    const uint32_t jump = GENERATE(33U, 34U, 1000U, 0x7fffffffU, 0x80000000U, 0xffffffffU);
    const bool busy = GENERATE(false, true);
    Rig rig;
    Neighbour neighbour(rig);
    RawRing ring(rig);
    RawPage page(rig);
    for (uint64_t id = 0; id < 5; ++id) CHECK(ring.run(data_request(kRead, id, 0, {{page.ref, 0, 7, 0}})) == kOkay);
    if (busy) {
        ring.put(data_request(kRead, 5, 0, {{page.ref, 0, 7, 0}}));
        ring.push();
        REQUIRE(ring.until([&] { return rig.device->stats().reads + rig.device->stats().in_flight == 6; }));
    }
    ring.set_req_prod(ring.req_prod() + jump);
    REQUIRE(ring.until([&] { return !rig.failures.empty(); }));
    for (uint32_t i = 0; i < 20; ++i) {
        ring.set_req_prod(ring.req_prod() + jump + i);
        turns(rig, 5);
    }
    CHECK(rig.failures.size() == 1);
    // It is not taken back by behaving again.
    ring.set_req_prod(ring.req_prod());
    turns(rig, 20);
    CHECK(rig.device->stats().reads == 5 + (busy ? 1 : 0));
    survived(rig, neighbour, {&page});
    CHECK(rig.failures.size() == 1);
}

TEST_CASE("a ring that starts with garbage indices is broken or served, never followed") {
    Rig rig({.connect = false});
    Neighbour neighbour(rig);
    const uint32_t rsp_prod = GENERATE(0U, 5U, 0xfffffff0U);
    const uint32_t ahead = GENERATE(0U, 3U, 32U, 33U, 0x80000000U, 0xfffffffeU);
    rig.queues.push_back(must(frontend::Queue::create(rig.core.guest, {})));
    must(rig.queues[0].start({}));
    auto& header = *reinterpret_cast<xen::SharedRingHeader*>(rig.queues[0].shared());
    header.rsp_prod = rsp_prod;
    header.req_prod = rsp_prod + ahead;
    rig.connect();
    turns(rig, 50);
    CHECK(rig.failures.size() == (ahead > 32 ? 1 : 0));
    if (ahead <= 32) CHECK(header.rsp_prod == header.req_prod);  // zeros are reads without segments: answered
    survived(rig, neighbour);
}

TEST_CASE("thousands of requests of random bytes are answered with errors or served") {
    const auto abi = GENERATE(Abi::x86_64, Abi::x86_32);
    const uint32_t order = GENERATE(0U, 1U, 4U);
    const bool persistent = GENERATE(false, true);
    Rig rig({.ring_order = order, .persistent = persistent, .abi = abi, .disk_bytes = 4 << 20});
    Neighbour neighbour(rig);
    RawRing ring(rig);
    std::mt19937_64 random(order * 4 + (persistent ? 2 : 0) + static_cast<unsigned>(abi));
    std::vector<std::unique_ptr<RawPage>> pages;
    for (int i = 0; i < 16; ++i) pages.push_back(std::make_unique<RawPage>(rig, i % 4 == 3));
    uint64_t answered = 0;
    {
        const Log log;
        for (int round = 0; round < 3000 / static_cast<int>(ring.entries()) + 8; ++round) {
            for (uint32_t i = 0; i < ring.entries(); ++i) {
                RawEntry raw;
                for (auto& byte : raw) byte = static_cast<std::byte>(random());
                // Often plausible in one field or another, or the checks behind the first one would see nothing.
                if (random() % 4 != 0) raw[0] = static_cast<std::byte>(random() % 8);
                if (random() % 2 != 0) raw[1] = static_cast<std::byte>(random() % 13);
                const size_t sector_at = abi == Abi::x86_32 ? 12 : 16;
                if (random() % 2 != 0) std::memset(raw.data() + sector_at + 1, 0, 7);
                for (size_t at = sector_at + 8; at + 8 <= xen::blkif::entry_size(abi); at += 8) {
                    const uint32_t ref = pages[random() % pages.size()]->ref;
                    if (random() % 8 != 0) std::memcpy(raw.data() + at, &ref, sizeof ref);
                    if (random() % 8 != 0) raw[at + 4] = std::byte{0};
                    if (random() % 8 != 0) raw[at + 5] = static_cast<std::byte>(random() % 8);
                }
                ring.put(raw);
            }
            ring.push();
            REQUIRE(ring.settle());
            answered += ring.take_responses().size();
        }
        CHECK(log.bytes() == 0);
    }
    CHECK(answered == ring.req_prod());
    const blk::Stats stats = rig.device->stats();
    CHECK(stats.bad_requests > 0);
    CHECK(stats.reads + stats.writes > 0);
    CHECK(stats.reads + stats.writes + stats.flushes + stats.discards + stats.errors >= answered);
    CHECK(rig.failures.empty());
    std::vector<const RawPage*> all;
    for (const auto& page : pages) all.push_back(page.get());
    survived(rig, neighbour, all);
}

TEST_CASE("requests are answered by what they were when they were taken, whoever rewrites the ring meanwhile") {
    const bool persistent = GENERATE(false, true);
    Rig rig({.persistent = persistent, .disk_bytes = 4 << 20});
    Neighbour neighbour(rig);
    RawRing ring(rig);
    RawPage page(rig), list(rig);
    std::atomic<bool> stop = false;
    const std::vector<RawEntry> faces = {
        ring.encode(data_request(kRead, 1, 8, {{page.ref, 0, 7, 0}})),
        ring.encode(data_request(kWrite, 2, 16, {{page.ref, 0, 7, 0}, {page.ref, 7, 7, 0}})),
        ring.encode(data_request(kWrite, 3, 1 << 20, {{page.ref, 5, 2, 0}})),
        ring.encode(indirect_request(kRead, 4, 8, 256, list.ref)),
        ring.encode(indirect_request(kWrite, 5, 8, 65535, list.ref)),
        ring.encode(data_request(kWriteBarrier, 6, 8, {{page.ref, 0, 7, 0}})),
        ring.encode(data_request(kFlush, 7, 0, {})),
    };
    std::thread scribbler([&] {
        std::mt19937_64 random(3);
        auto* segments = reinterpret_cast<volatile Segment*>(list.data());
        while (!stop.load(std::memory_order_relaxed)) {
            std::memcpy(ring.entry(static_cast<uint32_t>(random())), faces[random() % faces.size()].data(), 112);
            const uint64_t value = random();
            volatile Segment& segment = segments[value % 512];
            segment.gref = value % 3 == 0 ? static_cast<uint32_t>(value) : page.ref;
            segment.first_sector = static_cast<uint8_t>((value >> 8) % 9);
            segment.last_sector = static_cast<uint8_t>((value >> 16) % 9);
            std::atomic_ref(ring.header().rsp_prod).store(static_cast<uint32_t>(value), std::memory_order_relaxed);
            std::atomic_ref(ring.header().req_event).store(static_cast<uint32_t>(value), std::memory_order_relaxed);
            std::atomic_ref(ring.header().rsp_event).store(static_cast<uint32_t>(value >> 7), std::memory_order_relaxed);
        }
    });
    const Log log;
    // The answers are counted by the backend; the guest's own counter is being scribbled on.
    const auto answered = [&] {
        const blk::Stats stats = rig.device->stats();
        return stats.in_flight == 0;
    };
    for (int round = 0; round < 300; ++round) {
        for (uint32_t i = 0; i < ring.entries(); ++i) ring.put(faces[(i + static_cast<uint32_t>(round)) % faces.size()]);
        ring.push();
        turns(rig, 2);
        REQUIRE(ring.until(answered));
    }
    stop = true;
    scribbler.join();
    const blk::Stats stats = rig.device->stats();
    CHECK(stats.reads > 0);
    CHECK(stats.bad_requests > 0);
    CHECK(log.bytes() == 0);
    survived(rig, neighbour, {&page, &list});
}

TEST_CASE("a guest that scribbles on req_prod loses its ring and nothing else") {
    Rig rig;
    Neighbour neighbour(rig);
    RawRing ring(rig);
    std::atomic<bool> stop = false;
    std::thread scribbler([&] {
        std::mt19937_64 random(4);
        while (!stop.load(std::memory_order_relaxed)) {
            std::atomic_ref(ring.header().req_prod).store(static_cast<uint32_t>(random()), std::memory_order_relaxed);
            rig.queues[0].notify();
        }
    });
    CHECK(ring.until([&] { return !rig.failures.empty(); }));
    turns(rig, 200);
    // The storm costs no event: the port stays masked.
    const uint64_t events = rig.device->stats().events_taken;
    turns(rig, 200);
    CHECK(rig.device->stats().events_taken == events);
    neighbour.check();
    stop = true;
    scribbler.join();
    survived(rig, neighbour);
    CHECK(rig.failures.size() == 1);
}

TEST_CASE("bad indirect requests are refused one by one") {
    const auto abi = GENERATE(Abi::x86_64, Abi::x86_32);
    const bool persistent = GENERATE(false, true);
    Rig rig({.persistent = persistent, .abi = abi});
    Neighbour neighbour(rig);
    RawRing ring(rig);
    RawPage page(rig), list(rig), readonly_list(rig, true), foreign(rig, false, 77);
    auto* segments = reinterpret_cast<Segment*>(list.data());
    for (int i = 0; i < 512; ++i) segments[i] = {page.ref, 0, 7, 0};
    std::memcpy(readonly_list.data(), list.data(), 4096);
    for (const uint16_t count : std::initializer_list<uint16_t>{0, 257, 512, 4096, 65535}) {
        CHECK(ring.run(indirect_request(kRead, 1, 0, count, list.ref)) == kError);
    }
    for (const uint32_t ref : {0U, 1U, 8U, 99'999U, 4'000'000U, 0xffffffffU, foreign.ref}) {
        CHECK(ring.run(indirect_request(kRead, 2, 0, 12, ref)) == kError);
    }
    // A list is only read: it may be granted read-only.
    CHECK(ring.run(indirect_request(kRead, 3, 0, 12, readonly_list.ref)) == kOkay);
    for (const uint8_t inner : {kWriteBarrier, kFlush, kDiscard}) {
        CHECK(ring.run(indirect_request(inner, 4, 0, 12, list.ref)) == kError);
    }
    for (const uint8_t inner : std::initializer_list<uint8_t>{4, 6, 7, 255}) {
        CHECK(ring.run(indirect_request(inner, 5, 0, 12, list.ref)) == kNotSupported);
    }
    // One bad segment anywhere refuses the whole of it.
    const size_t at = GENERATE(0U, 11U, 255U);
    const Segment good = segments[at];
    for (const Segment bad : {Segment{page.ref, 5, 4, 0}, Segment{page.ref, 0, 8, 0}, Segment{page.ref, 255, 255, 0},
                              Segment{4'000'000, 0, 7, 0}, Segment{foreign.ref, 0, 7, 0}}) {
        segments[at] = bad;
        CHECK(ring.run(indirect_request(kRead, 6, 0, 256, list.ref)) == kError);
        CHECK(ring.run(indirect_request(kWrite, 7, 0, 256, list.ref)) == kError);
    }
    segments[at] = good;
    CHECK(ring.run(indirect_request(kRead, 8, 0, 256, list.ref)) == kOkay);
    survived(rig, neighbour, {&page, &list, &readonly_list});
}

TEST_CASE("bad data grants and segments are refused one by one, and leave no data behind") {
    const auto abi = GENERATE(Abi::x86_64, Abi::x86_32);
    const bool persistent = GENERATE(false, true);
    Rig rig({.persistent = persistent, .abi = abi});
    Neighbour neighbour(rig);
    RawRing ring(rig);
    RawPage page(rig), readonly(rig, true), foreign(rig, false, 77), revoked(rig);
    std::memset(page.data(), 0x5a, 4096);
    REQUIRE(ring.run(data_request(kWrite, 1, 0, {{page.ref, 0, 7, 0}})) == kOkay);
    REQUIRE(revoked.guest.end_access(revoked.ref));
    for (const uint32_t ref : {0U, 99'999U, 4'000'000U, 0xffffffffU, foreign.ref, revoked.ref}) {
        CHECK(ring.run(data_request(kRead, 2, 0, {{page.ref, 0, 7, 0}, {ref, 0, 7, 0}})) == kError);
        CHECK(ring.run(data_request(kWrite, 3, 64, {{page.ref, 0, 7, 0}, {ref, 0, 7, 0}})) == kError);
    }
    // A page granted read-only can be written from and not read into.
    CHECK(ring.run(data_request(kRead, 4, 0, {{readonly.ref, 0, 7, 0}})) == kError);
    CHECK(readonly.data()[0] == std::byte{0});
    CHECK(ring.run(data_request(kWrite, 5, 128, {{readonly.ref, 0, 7, 0}})) == kOkay);
    for (const auto& [first, last] : std::vector<std::pair<uint8_t, uint8_t>>{{1, 0}, {7, 6}, {0, 8}, {8, 8}, {255, 255}, {0, 255}}) {
        CHECK(ring.run(data_request(kRead, 6, 0, {{page.ref, first, last, 0}})) == kError);
        CHECK(ring.run(data_request(kWrite, 7, 0, {{page.ref, first, last, 0}})) == kError);
    }
    // A count of segments that the entry cannot hold.
    for (const uint16_t count : std::initializer_list<uint16_t>{12, 200, 255}) {
        StoredRequest request = data_request(kWrite, 8, 0, {{page.ref, 0, 7, 0}});
        request.nr_segments = count;
        CHECK(ring.run(request) == kError);
    }
    // What was refused has written nothing.
    CHECK(ring.run(data_request(kRead, 9, 64, {{page.ref, 0, 7, 0}})) == kOkay);
    CHECK(page.data()[0] == std::byte{0});
    survived(rig, neighbour, {&page, &readonly});
}

TEST_CASE("a grant that is taken back while its request runs costs the guest its data and nothing else") {
    Rig rig;
    Neighbour neighbour(rig);
    RawRing ring(rig);
    RawPage page(rig);
    for (int round = 0; round < 100; ++round) {
        page.guest.grant_at(page.ref, page.frame, 0, false);
        for (uint64_t id = 0; id < 16; ++id) ring.put(data_request(id % 2 == 0 ? kRead : kWrite, id, 8, {{page.ref, 0, 7, 0}}));
        ring.push();
        turns(rig, 1 + round % 2);
        (void)page.guest.end_access(page.ref);
        REQUIRE(ring.settle());
        for (const RawResponse& response : ring.take_responses()) CHECK((response.status == kOkay || response.status == kError));
    }
    CHECK(rig.device->stats().errors > 0);
    survived(rig, neighbour);
}

TEST_CASE("ids mean nothing to the backend and come back as they were") {
    Rig rig;
    Neighbour neighbour(rig);
    RawRing ring(rig);
    RawPage page(rig);
    const std::vector<uint64_t> ids = {0, 0, 0, UINT64_MAX, 1ULL << 63, 32, 7, 7};
    for (const uint64_t id : ids) ring.put(data_request(kRead, id, 0, {{page.ref, 0, 7, 0}}));
    ring.push();
    REQUIRE(ring.settle());
    std::vector<uint64_t> seen;
    for (const RawResponse& response : ring.take_responses()) seen.push_back(response.id);
    CHECK(std::is_permutation(seen.begin(), seen.end(), ids.begin(), ids.end()));
    survived(rig, neighbour, {&page});
}

TEST_CASE("more persistent grants at once than may be mapped") {
    Rig rig({.ring_order = 4, .persistent = true, .buffer_bytes = 4 << 20});
    Neighbour neighbour(rig);
    RawRing ring(rig);
    // Three times the cap, each granted once, all in flight together.
    constexpr uint32_t kPages = 3 * blk::worker::PersistentGrants::kMaxMapped;
    auto& guest = rig.core.guest;
    const uint32_t frame = must(guest.alloc_pages(kPages));
    const auto refs = must(guest.alloc_refs(kPages));
    for (uint32_t i = 0; i < kPages; ++i) guest.grant_at(refs[i], frame + i, 0, false);
    uint32_t next = 0;
    for (int round = 0; round < 6; ++round) {
        for (uint32_t i = 0; i < ring.entries(); ++i) {
            std::vector<Segment> segments;
            for (uint32_t s = 0; s < kMaxDirectSegments; ++s) segments.push_back({refs[next++ % kPages], 0, 7, 0});
            ring.put(data_request(kRead, i, (i % 64) * 8, segments));
        }
        ring.push();
        REQUIRE(ring.settle());
        for (const RawResponse& response : ring.take_responses()) CHECK(response.status == kOkay);
        CHECK(rig.device->stats().persistent_grants <= blk::worker::PersistentGrants::kMaxMapped);
    }
    survived(rig, neighbour);
    for (const uint32_t ref : refs) CHECK(eventually([&] { return guest.end_access(ref); }));
}

TEST_CASE("nothing but the twelve bytes of a response is written into an entry") {
    const auto abi = GENERATE(Abi::x86_64, Abi::x86_32);
    Rig rig({.abi = abi});
    RawRing ring(rig);
    RawPage page(rig);
    const size_t size = xen::blkif::entry_size(abi);
    std::mt19937_64 random(9);
    for (int round = 0; round < 64; ++round) {
        StoredRequest request = data_request(kRead, random(), 0, {{page.ref, 0, 7, 0}});
        if (round % 3 == 1) request.operation = 99;
        if (round % 3 == 2) request.nr_segments = 0;
        RawEntry raw = ring.encode(request);
        // The whole entry has a known content, the unused segments too.
        for (size_t at = size - 24; at < size; ++at) raw[at] = static_cast<std::byte>(random());
        const std::byte* entry = ring.entry(ring.req_prod());
        ring.put(raw);
        ring.push();
        REQUIRE(ring.settle());
        CHECK(std::memcmp(entry + 12, raw.data() + 12, size - 12) == 0);
        CHECK(ring.take_responses()[0].id == request.id);
    }
    CHECK(rig.device->stats().reads > 0);
}
