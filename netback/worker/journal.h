// SPDX-License-Identifier: Apache-2.0
//
// Journal: what a worker's successor has to know of a vif's rings, in a file that outlives both.
//
// Packets may be lost, so it holds no requests. But a slot on the ring is first a request and then a response, and a
// response that was written and not yet published has already destroyed its request: a successor that took it up as one
// would copy from a page nobody named. So before the first response of a batch is written, the journal says how far this
// batch goes and which slots are extras (tx) or what ids they had (rx). The successor answers those as lost and starts
// behind them. Both rings are worked through in one go and in order, so this window is all there is to remember of them.
// Beside it lies what the frontend says once and never again: its multicast addresses.
//
// The file belongs to root; a successor treats it as hostile input all the same: it is only ever believed within one
// ring's length of what the ring itself says.
//
// Thread: the worker's.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "netback/worker_protocol.h"
#include "runtime/result.h"

namespace ringback::net::worker {

// The multicast addresses that the frontend has named, if it keeps such a list (io/netif.h, feature-multicast-control).
struct MulticastList {
    static constexpr size_t kMax = 64;
    uint32_t count;
    std::array<std::array<uint8_t, 6>, kMax> addresses;

    [[nodiscard]] bool contains(const std::array<uint8_t, 6>& address) const {
        return std::find(addresses.begin(), addresses.begin() + size(), address) != addresses.begin() + size();
    }
    // False: the list is full.
    [[nodiscard]] bool add(const std::array<uint8_t, 6>& address) {
        if (contains(address)) return true;
        if (count >= kMax) return false;
        addresses[count++] = address;
        return true;
    }
    void remove(const std::array<uint8_t, 6>& address) {
        const auto found = std::find(addresses.begin(), addresses.begin() + size(), address);
        if (found == addresses.begin() + size()) return;
        count = static_cast<uint32_t>(size() - 1);
        *found = addresses[count];
    }

  private:
    // Of a file that an earlier worker wrote: never past the end.
    [[nodiscard]] std::ptrdiff_t size() const { return static_cast<std::ptrdiff_t>(std::min<size_t>(count, kMax)); }
};
static_assert(sizeof(MulticastList) == 4 + 64 * 6);

struct QueueJournal {
    uint32_t tx_answered;  // responses are written up to here, or may be
    uint32_t rx_answered;
    uint8_t padding[56];
    std::array<uint8_t, xen::netif::kTxEntries> tx_extra;  // by slot: 1 where there is no id
    std::array<uint16_t, xen::netif::kRxEntries> rx_ids;
};
struct JournalFile {
    std::array<QueueJournal, kMaxQueues> queues;
    MulticastList multicast;
    uint8_t padding[4];
};
static_assert(kJournalBytes == sizeof(JournalFile));

class Journal {
  public:
    // Maps the file, which is kJournalBytes long.
    [[nodiscard]] static Result<Journal> map(int fd);
    Journal(Journal&& other) noexcept;
    Journal& operator=(Journal&&) = delete;
    ~Journal();
    [[nodiscard]] QueueJournal& queue(size_t number) const { return file_->queues[number]; }
    [[nodiscard]] MulticastList& multicast() const { return file_->multicast; }

  private:
    explicit Journal(JournalFile* file) : file_(file) {}
    JournalFile* file_;
};

}  // namespace ringback::net::worker
