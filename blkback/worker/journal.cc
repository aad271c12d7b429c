// SPDX-License-Identifier: Apache-2.0
#include "blkback/worker/journal.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <utility>

#include "runtime/unique_fd.h"

namespace ringback::blk::worker {

namespace {

constexpr size_t kQueueBytes = (kJournalBytes - kJournalHeaderBytes) / kMaxQueues;

std::array<char, 40> boot_id() {
    std::array<char, 40> id{};
    UniqueFd fd(open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
    // Without /proc the id stays empty: such a journal is never taken up again, which is the safe side.
    if (fd && read(fd.get(), id.data(), id.size() - 1) < 0) id = {};
    return id;
}

}  // namespace

Result<Journal> Journal::map_file(int fd, const xen::DeviceId& id) {
    struct stat status {};
    if (fstat(fd, &status) < 0) return os_error("stat the journal of " + id.text());
    if (!S_ISREG(status.st_mode) || status.st_size != static_cast<off_t>(kJournalBytes)) {
        return os_error(EINVAL, "map the journal of " + id.text());
    }
    void* memory = mmap(nullptr, kJournalBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) return os_error("map the journal of " + id.text());
    return Journal(static_cast<std::byte*>(memory));
}

Result<Journal> Journal::map(int fd, const xen::DeviceId& id) {
    Journal journal = TRY(map_file(fd, id));
    JournalHeader& header = journal.header();
    header.magic = kJournalMagic;
    header.version = kJournalVersion;
    header.domid = id.domid;
    header.boot_id = boot_id();
    header.kind = Text<16>(id.kind);
    header.devid = id.devid;
    return journal;
}

Result<Journal> Journal::take_over(int fd, const xen::DeviceId& id) {
    Journal journal = TRY(map_file(fd, id));
    const JournalHeader& header = journal.header();
    const auto boot = boot_id();
    if (header.magic != kJournalMagic || header.version != kJournalVersion || header.domid != id.domid ||
        header.kind.bytes != Text<16>(id.kind).bytes || header.devid != id.devid || header.boot_id != boot ||
        boot[0] == '\0') {
        return Error{EPROTO, "take over the journal of " + id.text() + ": it is not of this device, version and boot"};
    }
    return journal;
}

Journal::Journal(Journal&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)), fence_(std::move(other.fence_)) {}

Journal& Journal::operator=(Journal&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(fence_, other.fence_);
    return *this;
}

Journal::~Journal() {
    if (memory_ != nullptr) munmap(memory_, kJournalBytes);
}

Result<void> Journal::begin(const Connect& connect) {
    end();
    header().connect = connect;
    const uint32_t entries = 32U << connect.ring_order;
    for (uint16_t number = 0; number < connect.queue_count; ++number) {
        const QueueJournal journal = queue(number, entries);
        TRY(make_pages(reinterpret_cast<std::byte*>(journal.header), sizeof(QueueHeader) + journal.slots.size_bytes()));
        for (Slot& slot : journal.slots) journal.set_state(slot, SlotState::free);
    }
    return {};
}

// One that cannot be had is an error here, and would be a SIGBUS at the first store.
Result<void> Journal::make_pages(std::byte* start, size_t bytes) {
    constexpr uintptr_t kPage = 4096;
    const uintptr_t first = reinterpret_cast<uintptr_t>(start) / kPage * kPage;
    const size_t length = reinterpret_cast<uintptr_t>(start) + bytes - first;
    if (madvise(reinterpret_cast<void*>(first), length, MADV_POPULATE_WRITE) == 0) return {};
    return os_error("make the pages of a request journal (is its tmpfs full?)");
}

bool Journal::describes(const Connect& connect) const {
    const Connect& mine = header().connect;
    if (!unfinished() || mine.abi != connect.abi || mine.ring_order != connect.ring_order ||
        mine.queue_count != connect.queue_count) {
        return false;
    }
    for (size_t queue = 0; queue < connect.queue_count; ++queue) {
        if (mine.queues[queue].remote_port != connect.queues[queue].remote_port) return false;
        for (size_t page = 0; page < size_t{1} << connect.ring_order; ++page) {
            if (mine.queues[queue].ring_refs[page] != connect.queues[queue].ring_refs[page]) return false;
        }
    }
    return true;
}

Result<void> Journal::resume(const Connect& connect) {
    for (uint16_t number = 0; number < connect.queue_count; ++number) {
        const QueueJournal journal = queue(number, 32U << connect.ring_order);
        TRY(make_pages(reinterpret_cast<std::byte*>(journal.header), sizeof(QueueHeader) + journal.slots.size_bytes()));
    }
    return {};
}

void Journal::count_recovery(uint64_t replayed) {
    ++header().recoveries;
    header().replayed += replayed;
}

void Journal::connected() { std::atomic_ref(header().connected).store(1, std::memory_order_release); }

void Journal::end() { std::atomic_ref(header().connected).store(0, std::memory_order_release); }

QueueJournal Journal::queue(uint16_t number, uint32_t entries) const {
    INVARIANT(number < kMaxQueues && entries <= 32 * kMaxRingPages);
    std::byte* start = memory_ + kJournalHeaderBytes + number * kQueueBytes;
    return {reinterpret_cast<QueueHeader*>(start),
            {reinterpret_cast<Slot*>(start + sizeof(QueueHeader)), entries}};
}

void Journal::set_sync_failed() { std::atomic_ref(header().sync_failed).store(1, std::memory_order_release); }

bool Journal::sync_failed() const { return header().sync_failed != 0; }

}  // namespace ringback::blk::worker
