// SPDX-License-Identifier: Apache-2.0
#include "blkback/offer.h"

#include <fmt/format.h>

#include "hypervisor/backend.h"

namespace ringback::blk {

namespace {

Result<uint8_t> ring_order(const xen::Store& store, const std::string& frontend) {
    const std::string order = frontend + "/ring-page-order";
    if (store.exists(order)) return static_cast<uint8_t>(TRY(xen::frontend_number(store, order, 0, kMaxRingOrder)));
    const std::string pages = frontend + "/num-ring-pages";  // FreeBSD's older name
    if (!store.exists(pages)) return uint8_t{0};
    const uint64_t count = TRY(xen::frontend_number(store, pages, 1, kMaxRingPages));
    for (uint8_t i = 0; i <= kMaxRingOrder; ++i) {
        if (count == 1U << i) return i;
    }
    return Error{EPROTO, fmt::format("the frontend offers a ring of {} pages, which is no power of two", count)};
}

Result<QueueParameters> read_queue(const xen::Store& store, const std::string& where, uint8_t order) {
    QueueParameters queue{};
    if (order == 0 && store.exists(where + "/ring-ref")) {
        queue.ring_refs[0] = static_cast<uint32_t>(TRY(xen::frontend_number(store, where + "/ring-ref", 1, UINT32_MAX)));
    } else {
        for (size_t page = 0; page < size_t{1} << order; ++page) {
            const std::string path = fmt::format("{}/ring-ref{}", where, page);
            queue.ring_refs[page] = static_cast<uint32_t>(TRY(xen::frontend_number(store, path, 1, UINT32_MAX)));
        }
    }
    queue.remote_port = static_cast<uint32_t>(TRY(xen::frontend_number(store, where + "/event-channel", 1, UINT32_MAX)));
    return queue;
}

}  // namespace

Result<Connect> read_offer(const xen::Store& store, const std::string& frontend, uint16_t max_queues,
                           bool persistent) {
    Connect offer{};
    const std::string protocol_path = frontend + "/protocol";
    const auto protocol = store.read(protocol_path);
    if (!protocol) {
        offer.abi = Abi::native;
    } else if (*protocol == "x86_64-abi") {
        offer.abi = Abi::x86_64;
    } else if (*protocol == "x86_32-abi") {
        offer.abi = Abi::x86_32;
    } else {
        return xen::bad_node(protocol_path, protocol);
    }
    offer.persistent = persistent && store.read_number(frontend + "/feature-persistent", 0, 1) == 1U ? 1 : 0;
    offer.ring_order = TRY(ring_order(store, frontend));
    const std::string count_path = frontend + "/multi-queue-num-queues";
    offer.queue_count = 1;
    if (store.exists(count_path)) {
        offer.queue_count = static_cast<uint16_t>(TRY(xen::frontend_number(store, count_path, 1, max_queues)));
    }
    for (size_t i = 0; i < offer.queue_count; ++i) {
        const std::string where = offer.queue_count == 1 ? frontend : fmt::format("{}/queue-{}", frontend, i);
        offer.queues[i] = TRY(read_queue(store, where, offer.ring_order));
    }
    return offer;
}

bool same_rings(const Connect& a, const Connect& b) {
    if (a.abi != b.abi || a.ring_order != b.ring_order || a.queue_count != b.queue_count) return false;
    for (size_t queue = 0; queue < a.queue_count; ++queue) {
        if (a.queues[queue].remote_port != b.queues[queue].remote_port) return false;
        if (a.queues[queue].ring_refs != b.queues[queue].ring_refs) return false;
    }
    return true;
}

}  // namespace ringback::blk
