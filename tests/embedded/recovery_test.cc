// SPDX-License-Identifier: Apache-2.0
//
// A worker that dies at any step of a request, and its successor. The frontend lives on in this process, as strict as
// Linux's; the workers are children, built so that they can kill themselves at a chosen step (worker/steps.h).
//
// The last test leaves the journal out, and everything that was under way is lost: what the others show is the journal's
// doing.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cstring>
#include <deque>

#include "blkback/worker/device.h"
#include "blkback/worker/steps.h"
#include "core_fixture.h"
#include "tools/frontend/blkfront_queue.h"

using namespace ringback;
using namespace ringback::test;
using namespace ringback::blk::worker;

namespace {

constexpr uint64_t kDiskBytes = 8 << 20;

// In a worker: where it dies, and whether it looks into the journal.
Step stop_at = Step::copied;
int stop_after = -1;  // times it gets there before; below 0: never
bool use_journal = true;

}  // namespace

namespace ringback::blk::worker {

void reached(Step step) {
    if (stop_after < 0 || step != stop_at || stop_after-- > 0) return;
    ::raise(SIGKILL);
}
bool journal_is_used() { return use_journal; }

}  // namespace ringback::blk::worker

namespace {

enum Report : uint64_t { serving = 1, done_again = 2, refused = 3 };

// A worker with one disk, until it is killed.
struct Backend : image::Opener {
    struct Watch : Completion {
        Backend* backend;
    };
    int serve(uint16_t domid, const std::string& path, int journal, const blk::Connect& parameters, bool successor,
              Child& child) {
        auto reactor = must(Reactor::create({}));
        events = std::make_unique<xen::EventChannels>(must(xen::EventChannels::open()));
        std::vector<xen::GrantTable> grants;
        grants.push_back(must(xen::GrantTable::open()));
        must(reactor->start());
        BufferPool buffers(*reactor, 4 << 20);
        UniqueFd data(::open(path.c_str(), O_RDWR | O_CLOEXEC));
        const xen::DeviceId id{"vbd", domid, 51712};
        auto mapped = successor ? Journal::take_over(journal, id) : Journal::map(journal, id);
        if (!mapped) {
            child.report(refused);
            return child.wait_for_death();
        }
        // The fence: waits for what the former one has under way.
        auto image = must(image::open_image("raw", {std::move(data), true, false, path}, *this, *reactor,
                                            {.writable = true,
                                             .discard = true,
                                             .lock_wait_ms = 10'000,
                                             .sync_failed = mapped->sync_failed()}));
        Device device(id, Device::Resources{*reactor, *events, grants, buffers, rings_by_port}, std::move(image),
                      std::move(*mapped), true, false,
                      {.disconnected = [](Device&) {},
                       .failed = [](Device&, const std::string&) { _exit(9); },
                       .recovered = [&child](Device&) { child.report(done_again); }});
        watch.backend = this;
        watch.on_complete = [](Completion& self, int32_t, uint32_t) noexcept {
            Backend& backend = *static_cast<Watch&>(self).backend;
            while (const auto port = backend.events->pending()) {
                if (*port < backend.rings_by_port.size() && backend.rings_by_port[*port] != nullptr) {
                    backend.rings_by_port[*port]->on_event();
                }
            }
        };
        reactor->watch_readable(events->fd(), watch);
        auto connected = successor ? device.reconnect(parameters) : device.connect(parameters);
        while (!connected && connected.error().code == EAGAIN) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));  // the kernel lets go of the former one's port
            connected = device.reconnect(parameters);
        }
        child.report(connected ? serving : refused);
        if (!connected) return child.wait_for_death();
        for (;;) reactor->turn(true);
    }
    Result<image::File> open(const std::string& name, Access) override { return os_error(EACCES, "open " + name); }

    std::unique_ptr<xen::EventChannels> events;
    std::vector<Ring*> rings_by_port;
    Watch watch{};
};

struct Asked {
    frontend::Request request;
    std::vector<std::byte> data;
    int status = 1;
    int answers = 0;
};

struct Bed {
    explicit Bed(uint16_t queue_count = 2, bool keep_grants = false) : persistent(keep_grants) {
        image.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        REQUIRE(ftruncate(image.get(), kDiskBytes) == 0);
        journal.reset(memfd_create("journal", MFD_CLOEXEC));
        REQUIRE(ftruncate(journal.get(), static_cast<off_t>(blk::kJournalBytes)) == 0);
        parameters.abi = xen::blkif::Abi::x86_64;
        parameters.persistent = persistent ? 1 : 0;
        parameters.queue_count = queue_count;
        queues.reserve(queue_count);
        for (uint16_t i = 0; i < queue_count; ++i) {
            queues.push_back(must(frontend::Queue::create(core.guest, {})));
            must(queues.back().start({.persistent = persistent, .max_segments = 64, .pool_pages = 1024}));
            parameters.queues[i].ring_refs[0] = queues[i].ring_refs()[0];
            parameters.queues[i].remote_port = queues[i].port();
        }
    }
    // A worker; the former one is dead. What it said first.
    uint64_t start(bool successor, Step step = Step::copied, int after = -1, bool with_journal = true) {
        worker.emplace([&, this](Child& child) {
            stop_at = step;
            stop_after = after;
            use_journal = with_journal;
            return Backend{}.serve(core.domid, path, journal.get(), parameters, successor, child);
        });
        return worker->next();
    }
    void ask(frontend::Op op, uint64_t sector, uint32_t length, unsigned pattern, size_t queue = 0) {
        Asked& asked = all.emplace_back();
        asked.data.assign(length, static_cast<std::byte>(pattern));
        asked.request.op = op;
        asked.request.sector = sector;
        asked.request.length = op == frontend::Op::discard ? 0 : length;
        asked.request.sectors = op == frontend::Op::discard ? length / 512 : 0;
        if (op == frontend::Op::discard) asked.request.length = 0;
        asked.request.data = asked.request.length > 0 ? asked.data.data() : nullptr;
        asked.request.owner = &asked;
        asked.request.done = [](frontend::Request& request, int status) {
            auto& mine = *static_cast<Asked*>(request.owner);
            mine.status = status;
            ++mine.answers;
        };
        REQUIRE(queues[queue].submit(asked.request));
    }
    void push() {
        for (auto& queue : queues) queue.push();
    }
    [[nodiscard]] size_t unanswered() const {
        size_t count = 0;
        for (const Asked& asked : all) count += asked.answers == 0 ? 1 : 0;
        return count;
    }
    // Until everything is answered, woken by events alone: a notify that is missing is seen here.
    bool settle(int patience_ms = 10'000) {
        for (auto& queue : queues) {
            (void)queue.reap();
            while (queue.in_flight() > 0 && queue.broken().empty()) {
                if (!queue.wait(patience_ms)) return false;
            }
            if (!queue.broken().empty()) return false;
        }
        return unanswered() == 0;
    }
    void put(uint64_t sector, size_t bytes, unsigned pattern) const {
        const std::vector<std::byte> data(bytes, static_cast<std::byte>(pattern));
        REQUIRE(pwrite(image.get(), data.data(), bytes, static_cast<off_t>(sector * 512)) ==
                static_cast<ssize_t>(bytes));
    }
    [[nodiscard]] bool holds(uint64_t sector, size_t bytes, unsigned pattern) const {
        std::vector<std::byte> data(bytes);
        REQUIRE(pread(image.get(), data.data(), bytes, static_cast<off_t>(sector * 512)) ==
                static_cast<ssize_t>(bytes));
        return std::all_of(data.begin(), data.end(),
                           [&](std::byte b) { return b == static_cast<std::byte>(pattern); });
    }
    // Ends the worker if it did not do so itself; true: it did.
    bool wait_killed() {
        const int status = worker->wait();
        return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    }

    CoreWithGuest core{{}, {.memory_mib = 64}};
    std::string path = core.core.directory() + "/disk.img";
    bool persistent;
    UniqueFd image;
    UniqueFd journal;
    blk::Connect parameters{};
    std::vector<frontend::Queue> queues;
    std::deque<Asked> all;
    std::optional<Child> worker;
};

struct Kind {
    const char* name;
    frontend::Op op;
    uint32_t length;
};
constexpr Kind kKinds[] = {
    {"read", frontend::Op::read, 4096},         {"write", frontend::Op::write, 8192},
    {"indirect read", frontend::Op::read, 131072}, {"indirect write", frontend::Op::write, 131072},
    {"flush", frontend::Op::flush, 0},          {"discard", frontend::Op::discard, 65536},
    {"barrier", frontend::Op::barrier, 4096},
};

constexpr uint64_t kAway = 1024;  // sectors from one request's place to the next's

// Five requests of a kind over two queues; only `push()` is missing.
void ask_five(Bed& bed, const Kind& kind) {
    for (unsigned i = 0; i < 5; ++i) {
        const uint64_t sector = i * kAway;
        if (kind.op == frontend::Op::read || kind.op == frontend::Op::discard) {
            bed.put(sector, kind.length, 0x40 + i);
        }
        bed.ask(kind.op, sector, kind.length, kind.op == frontend::Op::read ? 0 : 0x80 + i, i % 2);
    }
}

void check_five(Bed& bed, const Kind& kind) {
    for (unsigned i = 0; i < 5; ++i) {
        const Asked& asked = bed.all[i];
        CHECK(asked.answers == 1);
        CHECK(asked.status == 0);
        const uint64_t sector = i * kAway;
        if (kind.op == frontend::Op::read) {
            CHECK(std::all_of(asked.data.begin(), asked.data.end(),
                              [&](std::byte b) { return b == static_cast<std::byte>(0x40 + i); }));
        } else if (kind.op == frontend::Op::discard) {
            CHECK(bed.holds(sector, kind.length, 0));
        } else if (kind.length > 0) {
            CHECK(bed.holds(sector, kind.length, 0x80 + i));
        }
    }
    for (auto& queue : bed.queues) CHECK(queue.broken().empty());
}

}  // namespace

TEST_CASE("a worker that dies at any step of any request is taken over from, and nothing is lost or done twice") {
    const bool persistent = GENERATE(false, true);
    size_t deaths = 0;
    for (const Kind& kind : kKinds) {
        for (int step = 0; step < static_cast<int>(Step::recovery_checked); ++step) {
            for (const int after : {0, 2}) {
                INFO(kind.name << ", step " << step << ", after " << after << ", persistent " << persistent);
                Bed bed(2, persistent);
                REQUIRE(bed.start(false, static_cast<Step>(step), after) == serving);
                ask_five(bed, kind);
                bed.push();
                // Each step comes once; whether it comes a third time depends on how the requests fall into batches.
                bool died = false;
                const auto succeed = [&] {
                    died = true;
                    ++deaths;
                    REQUIRE(bed.start(true) == serving);
                };
                const auto settle = [&] {
                    while (!died && !bed.settle(1)) {
                        if (bed.worker->gone()) succeed();
                    }
                    REQUIRE(bed.settle());
                };
                if (after == 0) {
                    REQUIRE(eventually([&] { return bed.worker->gone(); }));
                    succeed();
                }
                settle();
                check_five(bed, kind);
                // And the ring is as good as new.
                bed.ask(frontend::Op::write, 6 * kAway, 4096, 0x77, 1);
                bed.push();
                settle();
                CHECK(bed.holds(6 * kAway, 4096, 0x77));
                bed.worker->kill();
            }
        }
    }
    CHECK(deaths > 7U * static_cast<int>(Step::recovery_checked));
}

TEST_CASE("a successor that dies while it takes over is taken over from") {
    const Step first = GENERATE(Step::submitted, Step::answered, Step::published);
    for (int step = 0; step < kSteps; ++step) {
        for (const Kind& kind : kKinds) {
            INFO(kind.name << ", first at " << static_cast<int>(first) << ", then at step " << step);
            Bed bed;
            REQUIRE(bed.start(false, first, 0) == serving);
            ask_five(bed, kind);
            bed.push();
            REQUIRE(bed.wait_killed());
            bed.worker.emplace([&](Child& child) {
                stop_at = static_cast<Step>(step);
                stop_after = 0;
                return Backend{}.serve(bed.core.domid, bed.path, bed.journal.get(), bed.parameters, true, child);
            });
            // All is answered by this one if its step does not come.
            bool died = false;
            while (!(died = bed.worker->gone()) && !bed.settle(1)) {
            }
            if (died) REQUIRE(bed.start(true) == serving);
            REQUIRE(bed.settle());
            check_five(bed, kind);
            bed.worker->kill();
        }
    }
}

TEST_CASE("an answer out of order, then a death: the journal knows what is owed, the ring alone does not") {
    const bool with_journal = GENERATE(true, false);
    INFO("with the journal: " << with_journal);
    Bed bed(1);
    REQUIRE(bed.start(false, Step::published, 0) == serving);
    for (unsigned i = 0; i < 4; ++i) bed.ask(frontend::Op::write, i * kAway, 8192, 0x80 + i);
    // Refused at once, and so answered first, over the oldest request.
    bed.ask(frontend::Op::read, kDiskBytes / 512, 4096, 0);
    bed.push();
    REQUIRE(bed.wait_killed());
    REQUIRE(bed.start(true, Step::copied, -1, with_journal) == serving);
    const bool settled = bed.settle(500);
    const bool whole = settled && bed.queues[0].broken().empty() && bed.unanswered() == 0 && bed.holds(0, 8192, 0x80);
    CHECK(whole == with_journal);
    bed.worker->kill();
}

TEST_CASE("other rings than the journal's owe nothing: they begin anew") {
    Bed bed(1);
    REQUIRE(bed.start(false, Step::submitted, 0) == serving);
    bed.ask(frontend::Op::write, 0, 4096, 0x11);
    bed.push();
    REQUIRE(bed.wait_killed());
    // The guest has resumed: new rings, and it asks again.
    auto fresh = must(frontend::Queue::create(bed.core.guest, {}));
    must(fresh.start({.persistent = false, .max_segments = 11}));
    bed.parameters.queues[0].ring_refs[0] = fresh.ring_refs()[0];
    bed.parameters.queues[0].remote_port = fresh.port();
    REQUIRE(bed.start(true) == serving);
    std::vector<frontend::Request*> pending = bed.queues[0].take_pending();
    REQUIRE(pending.size() == 1);
    REQUIRE(fresh.submit(*pending[0]));
    fresh.push();
    while (bed.all[0].answers == 0) REQUIRE(fresh.wait(10'000));
    CHECK(bed.all[0].status == 0);
    CHECK(bed.holds(0, 4096, 0x11));
    bed.worker->kill();
}

TEST_CASE("a sync that failed before the death is not forgotten, and a bad journal is refused") {
    Bed bed;
    REQUIRE(bed.start(false, Step::submitted, 0) == serving);
    ask_five(bed, kKinds[1]);
    bed.push();
    REQUIRE(bed.wait_killed());
    void* memory = mmap(nullptr, blk::kJournalBytes, PROT_READ | PROT_WRITE, MAP_SHARED, bed.journal.get(), 0);
    REQUIRE(memory != MAP_FAILED);
    auto* start = static_cast<std::byte*>(memory);
    auto& header = *reinterpret_cast<JournalHeader*>(start);
    auto& queue = *reinterpret_cast<QueueHeader*>(start + kJournalHeaderBytes);
    auto* slots = reinterpret_cast<Slot*>(start + kJournalHeaderBytes + sizeof(QueueHeader));
    size_t taken = 0;
    while (slots[taken].state != SlotState::taken) ++taken;
    const size_t free = taken == 0 ? 1 : 0;
    uint64_t said = refused;
    SECTION("another version") { ++header.version; }
    SECTION("another boot") { header.boot_id[0] = static_cast<char>(header.boot_id[0] + 1); }
    SECTION("another device") { ++header.devid; }
    SECTION("another domain") { ++header.domid; }
    SECTION("req_cons too far") { queue.req_cons += 1000; }
    SECTION("req_cons by one") { ++queue.req_cons; }
    SECTION("rsp_prod by one") { --queue.rsp_prod; }
    SECTION("a state that is none") { slots[free].state = static_cast<SlotState>(7); }
    SECTION("a request twice") { slots[taken + 1].state = SlotState::taken, slots[taken + 1].request_index = slots[taken].request_index; }
    SECTION("a response nobody owes") { slots[free == 0 ? 0 : 31].state = SlotState::responding; }
    SECTION("a request forgotten") { slots[taken].state = SlotState::free; }
    SECTION("garbage in a request is answered as a guest's garbage is") {
        slots[taken].request.nr_segments = 60000;
        said = serving;
    }
    SECTION("a sync that failed") {
        header.sync_failed = 1;
        said = serving;
    }
    REQUIRE(bed.start(true) == said);
    if (said == serving) {
        REQUIRE(bed.settle());
        size_t errors = 0;
        for (const Asked& asked : bed.all) errors += asked.status != 0 ? 1 : 0;
        CHECK(errors == (header.sync_failed != 0 ? 5U : 1U));
    }
    bed.worker->kill();
    munmap(memory, blk::kJournalBytes);
}
