// SPDX-License-Identifier: Apache-2.0
//
// The request journal: what a successor needs to go on where a killed worker stopped.
//
// A ring's slots hold requests and responses alike, so responses to later requests overwrite earlier requests that are
// still being worked on: what was taken cannot be read again from the ring. But every slot has to be copied once to
// private memory anyway, before it is checked. The journal is that private copy, kept in a file in memory (tmpfs) that
// outlives the process. Nothing is written twice and no system call is made for it per request.
//
// The file belongs to the supervisor, which creates and sizes it and never maps it (a truncation by a broken worker would
// kill the one who reads). Layout: one page of header, then for each queue a QueueHeader and one Slot per ring entry. The
// pages of a connection are made when it begins: a full tmpfs is an error there, and would be a SIGBUS later.
//
// Order of stores, so that a kill between any two of them leaves a readable state:
//     take:    request, request index -> state = taken -> req_cons
//     answer:  status, response index -> state = responding -> response into the ring -> rsp_prod published -> state = free
// A slot that is taken and whose request_index is req_cons itself was not taken: the ring still holds that request, and
// it will be taken from there. Taking it from both would answer it twice.
//
// Memory of a killed process is read by its successor in program order, so compiler order (release stores) is enough.
// What it may conclude is in recovery.h.
//
// Host power loss needs no journal: the guest dies with it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "blkback/worker/fence.h"
#include "blkback/worker_protocol.h"
#include "runtime/result.h"

namespace ringback::blk::worker {

// A request as private memory holds it: decoded from the guest's layout, otherwise as the guest wrote it.
struct StoredRequest {
    uint8_t operation;    // the inner one for an indirect request
    uint8_t indirect;     // 1: grefs name pages of segments
    uint16_t nr_segments;
    uint32_t discard_flag;
    uint64_t id;
    uint64_t sector;
    union {
        std::array<xen::blkif::Segment, xen::blkif::kMaxDirectSegments> segments;
        std::array<uint32_t, xen::blkif::kMaxIndirectPages> indirect_grefs;
        uint64_t nr_sectors;  // discard
    };
};
static_assert(sizeof(StoredRequest) == 112);

enum class SlotState : uint32_t { free = 0, taken = 1, responding = 2 };

struct Slot {
    SlotState state;
    uint32_t response_index;  // running, not masked
    int32_t status;
    uint32_t request_index;  // where in the ring it came from; running
    StoredRequest request;
};
static_assert(sizeof(Slot) == 128);

struct QueueHeader {
    uint32_t req_cons;
    uint32_t rsp_prod;
    uint32_t reserved[14];
};
static_assert(sizeof(QueueHeader) == 64);

struct JournalHeader {
    uint64_t magic;
    uint32_t version;
    uint16_t domid;
    uint16_t reserved;
    std::array<char, 40> boot_id;  // of the host's boot: a journal of another boot describes nothing
    Text<16> kind;
    uint32_t devid;
    uint32_t sync_failed;  // sticky: survives the worker, ends with the attachment
    uint32_t connected;
    Connect connect;
    uint64_t recoveries;
    uint64_t replayed;
};
inline constexpr size_t kJournalHeaderBytes = 4096;
static_assert(sizeof(JournalHeader) <= kJournalHeaderBytes);

inline constexpr uint64_t kJournalMagic = 0x6c6e724a6b636252;

struct QueueJournal {
    QueueHeader* header = nullptr;
    std::span<Slot> slots;

    void set_state(Slot& slot, SlotState state) const {
        std::atomic_ref(slot.state).store(state, std::memory_order_release);
    }
    void set_req_cons(uint32_t value) const {
        std::atomic_ref(header->req_cons).store(value, std::memory_order_release);
    }
    void set_rsp_prod(uint32_t value) const {
        std::atomic_ref(header->rsp_prod).store(value, std::memory_order_release);
    }
};

class Journal {
  public:
    // Maps the file behind `fd` (kJournalBytes long, else EINVAL). A fresh file is all zeros.
    [[nodiscard]] static Result<Journal> map(int fd, const xen::DeviceId& id);
    // A dead worker's, of the same device and of this boot of the host, else EPROTO. Nothing else in it is checked yet.
    [[nodiscard]] static Result<Journal> take_over(int fd, const xen::DeviceId& id);
    Journal(Journal&& other) noexcept;
    Journal& operator=(Journal&& other) noexcept;
    ~Journal();

    // As long as this worker serves the disk.
    void keep(Fence fence) { fence_ = std::make_unique<Fence>(std::move(fence)); }

    // Describes a connection that begins; all its slots are free. It counts from connected() on, when its queues have
    // written their headers: with those of the connection before, a successor would look in the wrong places.
    [[nodiscard]] Result<void> begin(const Connect& connect);
    void connected();
    // The connection ended in order: nothing to recover.
    void end();
    // A connection was begun and did not end in order.
    [[nodiscard]] bool unfinished() const { return header().connected == 1; }
    // Whether a former worker served exactly these rings and did not end it: then its queues tell what it owes.
    [[nodiscard]] bool describes(const Connect& connect) const;
    // Of that connection, or of this worker's own.
    [[nodiscard]] const Connect& connect() const { return header().connect; }
    [[nodiscard]] bool persistent() const { return header().connect.persistent != 0; }
    // Its pages exist; what they hold stays.
    [[nodiscard]] Result<void> resume(const Connect& connect);
    void count_recovery(uint64_t replayed);
    [[nodiscard]] uint64_t recoveries() const { return header().recoveries; }
    [[nodiscard]] uint64_t replayed() const { return header().replayed; }
    [[nodiscard]] QueueJournal queue(uint16_t number, uint32_t entries) const;
    void set_sync_failed();
    [[nodiscard]] bool sync_failed() const;

  private:
    [[nodiscard]] static Result<Journal> map_file(int fd, const xen::DeviceId& id);
    [[nodiscard]] static Result<void> make_pages(std::byte* start, size_t bytes);
    explicit Journal(std::byte* memory) : memory_(memory) {}
    [[nodiscard]] JournalHeader& header() const { return *reinterpret_cast<JournalHeader*>(memory_); }
    std::byte* memory_ = nullptr;
    std::unique_ptr<Fence> fence_;
};

}  // namespace ringback::blk::worker
