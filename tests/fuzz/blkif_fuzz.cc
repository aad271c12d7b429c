// SPDX-License-Identifier: Apache-2.0
//
// The blkif rings: a Device and its Rings as the worker has them, against a guest that puts anything on them: all three layouts,
// several queues and ring pages, indirect requests, persistent grants, jumping indices, memory that changes between two looks, a
// journal that a dead worker left or made up.
//
// Held against: the process lives, no page that was not granted is touched, nothing stays mapped or bound, every request that
// was taken is answered once, none after the rings are gone, and the guest's counter is never overtaken.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "blkback/worker/device.h"
#include "fake_xen.h"
#include "memory_image.h"
#include "target.h"

using namespace ringback;
using namespace ringback::fuzz;
using namespace ringback::blk;
using namespace ringback::xen::blkif;

namespace {

constexpr uint32_t kFirstData = 20;   // pages below are the rings'
constexpr uint32_t kFirstLists = 48;  // segment lists

struct Backend {
    xen::EventChannels events = must(xen::EventChannels::open());
    std::vector<xen::GrantTable> grants;
    worker::BufferPool buffers{reactor(), 2U << 20};
    std::vector<worker::Ring*> rings_by_port;
    UniqueFd journal{::memfd_create("journal", MFD_CLOEXEC)};

    Backend() {
        grants.push_back(must(xen::GrantTable::open()));
        grants.push_back(must(xen::GrantTable::open()));
        INVARIANT(journal && ::ftruncate(journal.get(), static_cast<off_t>(kJournalBytes)) == 0);
    }
};

Backend& backend() {
    static Backend only;
    return only;
}

const xen::DeviceId kId{"vbd", kGuest, 51712};

class Guest {
  public:
    explicit Guest(Input& input) : input_(input) {
        FakeXen::get().reset();
        connect_ = {};
        connect_.abi = static_cast<Abi>(input_.below(3));
        const uint8_t flags = input_.byte();
        connect_.persistent = flags & 1;
        connect_.ring_order = (flags >> 1) & 1;
        connect_.queue_count = static_cast<uint16_t>(1 + ((flags >> 2) & 1));
        writable_ = (flags & 8) == 0;
        discard_ = (flags & 16) == 0;
        changes_memory_ = (flags & 32) != 0;
        made_up_journal_ = (flags & 64) != 0;
        start_ = (flags & 128) != 0 ? 0xfffffff0U : 0;
        for (uint16_t queue = 0; queue < connect_.queue_count; ++queue) {
            for (uint32_t page = 0; page < 2; ++page) connect_.queues[queue].ring_refs[page] = 1 + queue * 4U + page * 2;
            connect_.queues[queue].remote_port = queue + 1U;
        }
        const uint64_t sectors = uint64_t{64} << input_.below(8);
        image_ = new MemoryImage(reactor(), sectors * kSectorSize, writable_, discard_);
        if (made_up_journal_) make_up_journal();
        device_ = std::make_unique<worker::Device>(
            kId, worker::Device::Resources{reactor(), backend().events, backend().grants, backend().buffers, backend().rings_by_port},
            std::unique_ptr<image::Image>(image_),
            must(made_up_journal_ ? worker::Journal::take_over(backend().journal.get(), kId) : worker::Journal::map(backend().journal.get(), kId)),
            writable_, true,
            worker::Device::Callbacks{.disconnected = [this](worker::Device&) { ++disconnected_; },
                                      .failed = [this](worker::Device&, const std::string& why) {
                                          INVARIANT(!why.empty());
                                          ++failed_;
                                      }});
    }

    void play() {
        connect();
        for (int steps = 0; !input_.empty() && steps < 200; ++steps) step();
        FakeXen::get().on_copy = nullptr;
        disconnect();
        bool closed = false;
        device_->close([&closed](worker::Device&) { closed = true; });
        INVARIANT(closed);
        device_.reset();
        INVARIANT(FakeXen::get().mapped() == 0 && FakeXen::get().bound() == 0);
        turn_until([] { return reactor().in_flight() == 0; });
    }

  private:
    void connect() {
        for (uint16_t queue = 0; queue < connect_.queue_count; ++queue) {
            xen::SharedRingHeader& header = ring(queue);
            header = {};
            header.req_prod = header.rsp_prod = start_;
            header.req_event = header.rsp_event = start_ + 1;
            produced_[queue] = start_;
        }
        const int failed_before = failed_;
        const auto done = made_up_journal_ ? device_->reconnect(connect_) : device_->connect(connect_);
        connected_ = done.ok();
        // What a journal says may be refused; a fresh connection to pages that are there may not.
        INVARIANT(connected_ || made_up_journal_);
        INVARIANT(failed_ == failed_before);
        if (changes_memory_) {
            FakeXen::get().on_copy = [this] { change(); };
        }
    }

    void disconnect() {
        if (!connected_) return;
        const int before = disconnected_;
        device_->disconnect();
        turn_until([&] {
            while (image_->held() > 0) image_->complete(0, 0);
            return disconnected_ > before;
        });
        connected_ = false;
        made_up_journal_ = false;
        INVARIANT(image_->held() == 0 && device_->stats().in_flight == 0);
        for (int turn = 0; turn < 3; ++turn) reactor().turn(false);
    }

    void step() {
        switch (input_.below(12)) {
            case 0:
            case 1:
            case 2: put_request(); break;
            case 3: put_raw(); break;
            case 4: put_list(); break;
            case 5:
            case 6: turn(input_.below(4) + 1); break;
            case 7: image_->complete(input_.byte(), input_.below(4) == 0 ? -EIO : 0); break;
            case 8: change(); break;
            case 9: {
                const uint16_t queue = this->queue();
                produced_[queue] += static_cast<uint32_t>(static_cast<int8_t>(input_.byte()));
                show(queue);
                break;
            }
            case 10: ring(queue()).rsp_event = input_.take<uint32_t>(); break;
            default:
                if (input_.below(4) == 0) {
                    disconnect();
                    connect();
                } else {
                    turn(1);
                }
        }
    }

    uint16_t queue() { return static_cast<uint16_t>(input_.below(connect_.queue_count)); }
    xen::SharedRingHeader& ring(uint16_t queue) {
        return *reinterpret_cast<xen::SharedRingHeader*>(FakeXen::get().page(connect_.queues[queue].ring_refs[0]).data());
    }
    uint32_t entries() const { return xen::ring_entries((size_t{1} << connect_.ring_order) * xen::kPageSize, entry_size(connect_.abi)); }

    // The ring's pages lie apart; an entry may lie across two.
    void put(uint16_t queue, std::span<const std::byte> entry) {
        const size_t at = sizeof(xen::SharedRingHeader) + (produced_[queue] % entries()) * entry_size(connect_.abi);
        for (size_t i = 0; i < entry.size(); ++i) {
            const size_t byte = at + i;
            FakeXen::get().page(connect_.queues[queue].ring_refs[byte / xen::kPageSize])[byte % xen::kPageSize] = entry[i];
        }
        ++produced_[queue];
        show(queue);
    }
    void show(uint16_t queue) { std::atomic_ref(ring(queue).req_prod).store(produced_[queue], std::memory_order_release); }

    xen::GrantRef data_page() { return kFirstData + input_.below(kPages - kFirstData + 4); }  // some of them nobody granted

    Segment segment() {
        Segment made{};
        made.gref = data_page();
        const uint8_t sectors = input_.byte();
        made.first_sector = sectors & 7;
        made.last_sector = (sectors & 0x80) != 0 ? sectors : (sectors >> 3 & 7);
        return made;
    }

    void put_request() {
        const uint16_t queue = this->queue();
        const uint8_t operation = input_.byte();
        const uint8_t count = input_.byte();
        const uint64_t id = produced_[queue];
        const uint64_t sector = (operation & 0x80) != 0 ? input_.take<uint64_t>() : input_.byte() * uint64_t{8};
        if (connect_.abi == Abi::x86_32) {
            put_request_as<x86_32::ReadWrite, x86_32::Discard, x86_32::Indirect>(queue, operation, count, id, sector);
        } else {
            put_request_as<x86_64::ReadWrite, x86_64::Discard, x86_64::Indirect>(queue, operation, count, id, sector);
        }
    }
    template <typename ReadWrite, typename DiscardEntry, typename IndirectEntry>
    void put_request_as(uint16_t queue, uint8_t operation, uint8_t count, uint64_t id, uint64_t sector) {
        switch (operation % 8) {
            case kDiscard: {
                DiscardEntry entry{};
                entry.operation = kDiscard;
                entry.flag = count & 1;
                entry.id = id;
                entry.sector_number = sector;
                entry.nr_sectors = input_.byte();
                return put(queue, std::as_bytes(std::span(&entry, 1)));
            }
            case kIndirect: {
                IndirectEntry entry{};
                entry.operation = kIndirect;
                entry.indirect_operation = input_.byte() % 4;
                entry.nr_segments = static_cast<uint16_t>(count) * 2;
                entry.id = id;
                entry.sector_number = sector;
                for (auto& gref : entry.indirect_grefs) gref = kFirstLists + id % 8;
                if (input_.below(8) == 0) entry.indirect_grefs[0] = data_page();
                return put(queue, std::as_bytes(std::span(&entry, 1)));
            }
            default: {
                ReadWrite entry{};
                entry.operation = operation % 8;
                entry.nr_segments = count % 16;
                entry.id = id;
                entry.sector_number = sector;
                for (uint8_t i = 0; i < std::min<uint8_t>(entry.nr_segments, kMaxDirectSegments); ++i) entry.segments[i] = segment();
                put(queue, std::as_bytes(std::span(&entry, 1)));
            }
        }
    }
    void put_raw() {
        std::array<std::byte, x86_64::kEntrySize> entry{};
        const uint16_t queue = this->queue();
        input_.fill(std::span(entry).first(entry_size(connect_.abi)));
        put(queue, std::span(entry).first(entry_size(connect_.abi)));
    }
    // A list of segments in the page that requests to come will name.
    void put_list() {
        const auto page = FakeXen::get().page(kFirstLists + input_.below(8));
        const uint32_t count = input_.below(64);
        for (uint32_t i = 0; i < count; ++i) {
            const Segment made = segment();
            std::memcpy(page.data() + i * sizeof made, &made, sizeof made);
        }
        // The rest of it, so that a long list takes few bytes of an input.
        if (count > 0 && input_.flag()) {
            for (uint32_t i = count; i < kSegmentsPerIndirectPage; ++i) {
                std::memcpy(page.data() + i * sizeof(Segment), page.data() + (i % count) * sizeof(Segment), sizeof(Segment));
            }
        }
    }
    void change() {
        if (input_.empty()) return;
        const auto page = FakeXen::get().page(1 + input_.below(kPages));
        const size_t at = input_.take<uint16_t>() % xen::kPageSize;
        input_.fill(page.subspan(at, std::min<size_t>(input_.below(16), page.size() - at)));
    }
    void turn(uint32_t times) {
        if (!connected_) return;
        for (worker::Ring* one : backend().rings_by_port) {
            if (one != nullptr) one->on_event();
        }
        for (uint32_t i = 0; i < times; ++i) reactor().turn(false);
        for (uint16_t queue = 0; queue < connect_.queue_count; ++queue) {
            const auto stats = device_->stats();
            INVARIANT(stats.in_flight <= uint64_t{entries()} * connect_.queue_count);
        }
    }

    // A header that is this device's, and slots that say anything.
    void make_up_journal() {
        void* memory = ::mmap(nullptr, kJournalBytes, PROT_READ | PROT_WRITE, MAP_SHARED, backend().journal.get(), 0);
        INVARIANT(memory != MAP_FAILED);
        {
            // Its own words for what it is.
            auto journal = must(worker::Journal::map(backend().journal.get(), kId));
            INVARIANT(journal.begin(connect_).ok());
            journal.connected();
            for (uint16_t number = 0; number < connect_.queue_count; ++number) {
                const auto queue = journal.queue(number, entries());
                queue.header->rsp_prod = start_ + static_cast<uint32_t>(static_cast<int8_t>(input_.below(8)) - 2);
                queue.header->req_cons = queue.header->rsp_prod + input_.below(8);
                const uint32_t count = input_.below(8);
                for (uint32_t i = 0; i < count; ++i) {
                    worker::Slot& slot = queue.slots[input_.below(entries())];
                    slot.state = static_cast<worker::SlotState>(input_.below(4));
                    slot.status = static_cast<int8_t>(input_.byte());
                    slot.response_index = queue.header->rsp_prod + input_.below(8) - 1;
                    slot.request_index = queue.header->rsp_prod + input_.below(8) - 1;
                    slot.request = {};
                    slot.request.operation = static_cast<uint8_t>(input_.below(7));
                    slot.request.indirect = input_.byte() & 1;
                    slot.request.nr_segments = input_.byte();
                    slot.request.sector = input_.byte();
                    for (auto& part : slot.request.segments) part = segment();
                }
            }
        }
        ::munmap(memory, kJournalBytes);
    }

    Input& input_;
    Connect connect_{};
    bool writable_, discard_, changes_memory_, made_up_journal_;
    uint32_t start_ = 0;
    std::array<uint32_t, 2> produced_{};
    MemoryImage* image_ = nullptr;  // the device's
    std::unique_ptr<worker::Device> device_;
    bool connected_ = false;
    int disconnected_ = 0;
    int failed_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input(data, size);
    Guest(input).play();
    return 0;
}
