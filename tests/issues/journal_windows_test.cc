// SPDX-License-Identifier: Apache-2.0
//
// Moments at which a kill left a journal that misled its reader: between a slot being taken and req_cons moving on, the
// request was in the journal and in the ring, with nothing to tell that it is one; and while a connection began, the
// journal called itself connected with the indices of the connection before. Also: a full tmpfs killed the worker.
#include <sys/mman.h>

#include <catch2/catch_test_macros.hpp>

#include "raw_ring.h"

using namespace ringback;
using namespace ringback::test;
using namespace ringback::blk::worker;

namespace {

struct View {
    explicit View(int fd)
        : memory(static_cast<std::byte*>(mmap(nullptr, blk::kJournalBytes, PROT_READ, MAP_SHARED, fd, 0))) {}
    ~View() { munmap(memory, blk::kJournalBytes); }
    [[nodiscard]] const JournalHeader& header() const { return *reinterpret_cast<JournalHeader*>(memory); }
    [[nodiscard]] const QueueHeader& queue() const {
        return *reinterpret_cast<QueueHeader*>(memory + kJournalHeaderBytes);
    }
    [[nodiscard]] const Slot* slots() const {
        return reinterpret_cast<Slot*>(memory + kJournalHeaderBytes + sizeof(QueueHeader));
    }
    std::byte* memory;
};

UniqueFd journal_file() {
    UniqueFd fd(memfd_create("journal", MFD_CLOEXEC));
    REQUIRE(ftruncate(fd.get(), static_cast<off_t>(blk::kJournalBytes)) == 0);
    return fd;
}

blk::Connect one_queue() {
    blk::Connect connect{};
    connect.queue_count = 1;
    return connect;
}

}  // namespace

TEST_CASE("a taken slot says which entry of the ring it is a copy of") {
    Rig rig({.buffer_bytes = 1 << 20});
    RawRing ring(rig);
    RawPage page(rig);
    for (uint64_t id = 0; id < 7; ++id) CHECK(ring.run(data_request(xen::blkif::kRead, id, 0, {{page.ref, 0, 7, 0}})) == 0);
    const Buffer elsewhere = rig.buffers->take(1 << 20);
    ring.put(data_request(xen::blkif::kRead, 100, 0, {{page.ref, 0, 7, 0}}));
    ring.put(data_request(xen::blkif::kRead, 101, 0, {{page.ref, 0, 7, 0}}));
    ring.push();
    REQUIRE(ring.until([&] { return rig.device->stats().in_flight == 2; }));
    const View view(rig.journal.get());
    CHECK(view.queue().req_cons == 9);
    int taken = 0;
    for (uint32_t i = 0; i < 32; ++i) {
        const Slot& slot = view.slots()[i];
        if (slot.state != SlotState::taken) continue;
        ++taken;
        CHECK(slot.request_index == slot.request.id - 100 + 7);
    }
    CHECK(taken == 2);
    rig.buffers->give_back(elsewhere);
    REQUIRE(ring.settle());
}

TEST_CASE("a journal is connected when its queues are described, not before") {
    const UniqueFd fd = journal_file();
    Journal journal = must(Journal::map(fd.get(), {"vbd", 1, 51712}));
    const View view(fd.get());
    must(journal.begin(one_queue()));
    CHECK(view.header().connected == 0);
    journal.queue(0, 32).set_req_cons(1000);
    journal.connected();
    CHECK(view.header().connected == 1);
    // The worker died; the next connection begins where the last one did not end.
    must(journal.begin(one_queue()));
    CHECK(view.header().connected == 0);
}

TEST_CASE("a journal whose pages cannot be had is an error, not a signal") {
    const UniqueFd fd = journal_file();
    Journal journal = must(Journal::map(fd.get(), {"vbd", 1, 51712}));
    REQUIRE(ftruncate(fd.get(), 4096) == 0);  // as a full tmpfs: there is no page behind the header
    CHECK_FALSE(journal.begin(one_queue()).ok());
}
