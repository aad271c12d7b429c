// SPDX-License-Identifier: Apache-2.0
//
// What a killed worker leaves in its journal. A child process serves a ring under load and is killed at a random moment,
// many times; the frontend lives on in this process and knows what it asked and what was answered. Every request that
// was consumed and not answered must be in the journal, whole and exactly once; the indices must agree with the ring's.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <filesystem>
#include <random>
#include <set>

#include "raw_ring.h"

using namespace ringback;
using namespace ringback::test;
using namespace ringback::xen::blkif;
using namespace ringback::blk::worker;

namespace {

constexpr uint64_t kDiskBytes = 4 << 20;
constexpr uint32_t kPages = 64;

// The worker's part, in a process of its own, until it is killed.
struct Backend : image::Opener {
    struct Watch : Completion {
        Backend* backend;
    };
    int serve(uint16_t domid, const std::string& path, int journal, const blk::Connect& parameters, Child& child) {
        auto reactor = must(Reactor::create({}));
        events = std::make_unique<xen::EventChannels>(must(xen::EventChannels::open()));
        std::vector<xen::GrantTable> grants;
        grants.push_back(must(xen::GrantTable::open()));
        must(reactor->start());
        BufferPool buffers(*reactor, 1 << 20);
        UniqueFd data(::open(path.c_str(), O_RDWR | O_CLOEXEC));
        const xen::DeviceId id{"vbd", domid, 51712};
        auto image = must(image::open_image("raw", {std::move(data), true, false, path}, *this, *reactor,
                                            {.writable = true, .lock_wait_ms = 5000}));
        Device device(id, Device::Resources{*reactor, *events, grants, buffers, rings_by_port}, std::move(image),
                      must(Journal::map(journal, id)), true, false,
                      {.disconnected = [](Device&) {}, .failed = [](Device&, const std::string&) { _exit(9); }});
        watch.backend = this;
        watch.on_complete = [](Completion& self, int32_t, uint32_t) noexcept {
            Backend& backend = *static_cast<Watch&>(self).backend;
            while (const auto port = backend.events->pending()) {
                if (*port < backend.rings_by_port.size()) backend.rings_by_port[*port]->on_event();
            }
        };
        reactor->watch_readable(events->fd(), watch);
        must(device.connect(parameters));
        child.report(1);
        for (;;) reactor->turn(true);
    }
    Result<image::File> open(const std::string& name, Access) override { return os_error(EACCES, "open " + name); }

    std::unique_ptr<xen::EventChannels> events;
    std::vector<Ring*> rings_by_port;
    Watch watch{};
};

// The frontend's part. A request's id is its running index in the ring.
struct Frontend {
    Frontend(xen::embedded::Guest& owner, uint32_t order, unsigned seed)
        : guest(owner), queue(must(frontend::Queue::create(guest, {.ring_order = order}))), random(seed) {
        frame = must(guest.alloc_pages(kPages + 1));
        refs = must(guest.alloc_refs(kPages + 1));
        for (uint32_t i = 0; i <= kPages; ++i) guest.grant_at(refs[i], frame + i, 0, false);
        auto* list = reinterpret_cast<Segment*>(guest.page(frame + kPages));
        for (uint32_t i = 0; i < kPages; ++i) list[i] = {refs[i], 0, 7, 0};
    }
    [[nodiscard]] xen::SharedRingHeader& header() const {
        return *reinterpret_cast<xen::SharedRingHeader*>(queue.shared());
    }
    [[nodiscard]] std::byte* entry(uint32_t index) const {
        return queue.shared() + sizeof(xen::SharedRingHeader) + (index & (queue.entries() - 1)) * x86_64::kEntrySize;
    }
    void fill() {
        while (req_prod - rsp_cons < queue.entries()) {
            StoredRequest request{};
            switch (random() % 8) {
                case 0: request = data_request(kFlush, req_prod, 0, {}); break;
                case 1: request = indirect_request(kRead, req_prod, 8, static_cast<uint16_t>(1 + random() % kPages), refs[kPages]); break;
                case 2: request = data_request(kRead, req_prod, kDiskBytes, {{refs[0], 0, 7, 0}}); break;  // refused
                default: {
                    std::vector<Segment> segments;
                    for (size_t i = 0; i <= random() % 3; ++i) segments.push_back({refs[random() % kPages], 0, 7, 0});
                    request = data_request(random() % 2 == 0 ? kRead : kWrite, req_prod, random() % 4096, segments);
                }
            }
            const RawEntry raw = encode_as<x86_64::ReadWrite, x86_64::Discard, x86_64::Indirect>(request);
            std::memcpy(entry(req_prod), raw.data(), raw.size());
            issued.push_back(request);
            ++req_prod;
        }
        std::atomic_ref(header().req_prod).store(req_prod, std::memory_order_release);
        queue.notify();
    }
    // False: an answer to something that was not asked, or the second to the same.
    bool reap() {
        const uint32_t rsp_prod = std::atomic_ref(header().rsp_prod).load(std::memory_order_acquire);
        if (rsp_prod - rsp_cons > req_prod - rsp_cons) return false;
        for (; rsp_cons != rsp_prod; ++rsp_cons) {
            uint64_t id = 0;
            std::memcpy(&id, entry(rsp_cons), sizeof id);
            if (id >= issued.size() || !answered.insert(id).second) return false;
        }
        return true;
    }

    xen::embedded::Guest& guest;
    frontend::Queue queue;
    std::mt19937_64 random;
    uint32_t frame = 0;
    std::vector<uint32_t> refs;
    uint32_t req_prod = 0, rsp_cons = 0;
    std::vector<StoredRequest> issued;
    std::set<uint64_t> answered;
};

bool same(const StoredRequest& a, const StoredRequest& b) {
    if (a.operation != b.operation || a.indirect != b.indirect || a.nr_segments != b.nr_segments || a.id != b.id ||
        a.sector != b.sector) {
        return false;
    }
    if (a.indirect != 0) return a.indirect_grefs == b.indirect_grefs;
    return std::memcmp(&a.segments, &b.segments, a.nr_segments * sizeof(Segment)) == 0;
}

void check_journal(int file, const Frontend& frontend) {
    void* memory = mmap(nullptr, blk::kJournalBytes, PROT_READ, MAP_SHARED, file, 0);
    REQUIRE(memory != MAP_FAILED);
    const auto* start = static_cast<const std::byte*>(memory);
    const auto& header = *reinterpret_cast<const JournalHeader*>(start);
    const auto& queue = *reinterpret_cast<const QueueHeader*>(start + kJournalHeaderBytes);
    const auto* slots = reinterpret_cast<const Slot*>(start + kJournalHeaderBytes + sizeof(QueueHeader));
    const uint32_t entries = frontend.queue.entries();
    const uint32_t published = frontend.rsp_cons;  // all was reaped
    CHECK(header.connected == 1);
    // Published first, journalled then; never the other way round, never by more than the ring holds.
    CHECK(published - queue.rsp_prod <= entries);
    CHECK(queue.req_cons - published <= entries);
    CHECK(frontend.req_prod - queue.req_cons <= entries);

    std::set<uint64_t> owed;
    std::set<uint32_t> unpublished;
    for (uint32_t i = 0; i < entries; ++i) {
        const Slot& slot = slots[i];
        if (slot.state == SlotState::free) continue;
        REQUIRE(slot.request.id < frontend.issued.size());
        CHECK(same(slot.request, frontend.issued[slot.request.id]));
        CHECK(slot.request_index == slot.request.id);
        if (slot.state == SlotState::taken) {
            if (slot.request_index == queue.req_cons) continue;  // was being taken: still in the ring
            CHECK(owed.insert(slot.request.id).second);
        } else {
            REQUIRE(slot.state == SlotState::responding);
            if (static_cast<int32_t>(slot.response_index - published) < 0) {
                CHECK(frontend.answered.contains(slot.request.id));
            } else {
                CHECK(owed.insert(slot.request.id).second);
                CHECK(unpublished.insert(slot.response_index).second);
            }
        }
    }
    if (!unpublished.empty()) {
        CHECK(*unpublished.begin() == published);
        CHECK(*unpublished.rbegin() - published + 1 == unpublished.size());
    }
    std::set<uint64_t> expected;
    for (uint64_t id = 0; id < queue.req_cons; ++id) {
        if (!frontend.answered.contains(id)) expected.insert(id);
    }
    CHECK(owed == expected);
    munmap(memory, blk::kJournalBytes);
}

}  // namespace

TEST_CASE("a worker killed at any moment leaves every unanswered request in its journal, once") {
    const bool persistent = GENERATE(false, true);
    const auto order = static_cast<uint8_t>(GENERATE(0, 2));
    CoreWithGuest core({}, {.memory_mib = 64});
    const std::string path = core.core.directory() + "/disk.img";
    UniqueFd image(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(ftruncate(image.get(), kDiskBytes) == 0);
    std::mt19937_64 random(order + (persistent ? 100 : 0));
    size_t interrupted = 0;
    for (unsigned round = 0; round < 12; ++round) {
        UniqueFd journal(memfd_create("journal", MFD_CLOEXEC));
        REQUIRE(ftruncate(journal.get(), static_cast<off_t>(blk::kJournalBytes)) == 0);
        Frontend frontend(core.guest, order, round);
        blk::Connect parameters{};
        parameters.abi = Abi::x86_64;
        parameters.persistent = persistent ? 1 : 0;
        parameters.ring_order = order;
        parameters.queue_count = 1;
        const auto& refs = frontend.queue.ring_refs();
        std::copy(refs.begin(), refs.end(), parameters.queues[0].ring_refs.begin());
        parameters.queues[0].remote_port = frontend.queue.port();
        Child worker([&](Child& child) {
            return Backend{}.serve(core.domid, path, journal.get(), parameters, child);
        });
        REQUIRE(worker.next() == 1);
        const uint64_t requests = 200 + random() % 2000;
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        while (frontend.issued.size() < requests) {
            REQUIRE(std::chrono::steady_clock::now() < deadline);
            REQUIRE(frontend.reap());
            frontend.fill();
        }
        const int status = worker.kill();
        REQUIRE(WIFSIGNALED(status));
        REQUIRE(WTERMSIG(status) == SIGKILL);
        REQUIRE(frontend.reap());
        check_journal(journal.get(), frontend);
        if (frontend.answered.size() < frontend.issued.size()) ++interrupted;
    }
    CHECK(interrupted > 0);
}
