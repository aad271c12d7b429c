// SPDX-License-Identifier: Apache-2.0
#include "bridge/switch/packet_pool.h"

#include <fmt/format.h>
#include <rte_errno.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace ringback::bridge {

namespace {

constexpr uint16_t kRoom = 2048;
constexpr unsigned kCache = 64;
constexpr size_t kKept = 64;        // buffers for each NIC, at most
constexpr size_t kCommonPart = 4;   // of the common half, for one NIC

}  // namespace

Result<std::unique_ptr<PacketPool>> PacketPool::create(uint32_t buffers) {
    std::unique_ptr<PacketPool> pool(new PacketPool(buffers));
    const std::string name = fmt::format("packets-{:x}", reinterpret_cast<uintptr_t>(pool.get()));
    pool->pool_ = ::rte_pktmbuf_pool_create(name.c_str(), buffers, kCache, 0, RTE_PKTMBUF_HEADROOM + kRoom, SOCKET_ID_ANY);
    if (pool->pool_ == nullptr) return os_error(rte_errno, fmt::format("make a pool of {} packet buffers", buffers));
    return pool;
}

PacketPool::~PacketPool() {
    if (pool_ != nullptr) ::rte_mempool_free(pool_);
}

uint32_t PacketPool::free() const { return ::rte_mempool_avail_count(pool_); }

bool PacketPool::Share::take(size_t buffers) {
    const size_t kept = std::min(kKept, pool_.half_ / pool_.shares_);
    const size_t own = std::min(buffers, kept > own_ ? kept - own_ : 0);
    const size_t common = buffers - own;
    if (common > pool_.common_left_ || common_ + common > pool_.half_ / kCommonPart) return false;
    own_ += own;
    common_ += common;
    pool_.common_left_ -= common;
    return true;
}

void PacketPool::Share::give_back(size_t buffers) {
    const size_t common = std::min(buffers, common_);
    common_ -= common;
    pool_.common_left_ += common;
    own_ -= buffers - common;
}

WaitingQueue::WaitingQueue(PacketPool::Share& share, size_t packets, size_t bytes)
    : share_(share), most_bytes_(bytes), places_(packets) {}

WaitingQueue::~WaitingQueue() { pop(count_); }

size_t WaitingQueue::buffers_for(size_t size) { return std::max<size_t>((size + kRoom - 1) / kRoom, 1); }

bool WaitingQueue::push(std::span<const std::span<const std::byte>> parts, uint64_t note) {
    size_t size = 0;
    for (const auto& part : parts) size += part.size();
    const size_t buffers = buffers_for(size);
    if (count_ == places_.size() || bytes_ + size > most_bytes_ || buffers > kMostParts) return false;
    if (!share_.take(buffers)) return false;
    std::array<rte_mbuf*, kMostParts> taken;
    if (rte_pktmbuf_alloc_bulk(share_.pool_.pool_, taken.data(), static_cast<unsigned>(buffers)) != 0) {
        share_.give_back(buffers);
        return false;
    }
    size_t buffer = 0;
    for (std::span<const std::byte> part : parts) {
        while (!part.empty()) {
            if (taken[buffer]->data_len == kRoom) ++buffer;
            rte_mbuf& to = *taken[buffer];
            const auto some = static_cast<uint16_t>(std::min<size_t>(part.size(), size_t{kRoom} - to.data_len));
            std::memcpy(rte_pktmbuf_mtod_offset(&to, std::byte*, to.data_len), part.data(), some);
            to.data_len = static_cast<uint16_t>(to.data_len + some);
            part = part.subspan(some);
        }
    }
    for (size_t i = 0; i + 1 < buffers; ++i) taken[i]->next = taken[i + 1];
    taken[0]->nb_segs = static_cast<uint16_t>(buffers);
    taken[0]->pkt_len = static_cast<uint32_t>(size);
    places_[(head_ + count_) % places_.size()] = {taken[0], static_cast<uint32_t>(size), note};
    ++count_;
    bytes_ += size;
    return true;
}

size_t WaitingQueue::parts(size_t i, std::span<std::span<std::byte>> to) const {
    size_t parts = 0;
    for (rte_mbuf* buffer = at(i).first; buffer != nullptr; buffer = buffer->next) {
        to[parts++] = {rte_pktmbuf_mtod(buffer, std::byte*), buffer->data_len};
    }
    return parts;
}

void WaitingQueue::pop(size_t packets) {
    for (; packets > 0; --packets) {
        Place& place = places_[head_];
        bytes_ -= place.size;
        share_.give_back(buffers_for(place.size));
        rte_pktmbuf_free(place.first);
        place = {};
        head_ = (head_ + 1) % places_.size();
        --count_;
    }
}

}  // namespace ringback::bridge
