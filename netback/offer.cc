// SPDX-License-Identifier: Apache-2.0
#include "netback/offer.h"

#include <fmt/format.h>

#include <utility>

#include "hypervisor/backend.h"

namespace ringback::net {

namespace {

Result<uint32_t> number(const xen::Store& store, const std::string& path, uint32_t low, uint32_t high) {
    return static_cast<uint32_t>(TRY(xen::frontend_number(store, path, low, high)));
}

Result<QueueParameters> read_queue(const xen::Store& store, const std::string& where) {
    QueueParameters queue{};
    queue.tx_ring_ref = TRY(number(store, where + "/tx-ring-ref", 1, UINT32_MAX));
    queue.rx_ring_ref = TRY(number(store, where + "/rx-ring-ref", 1, UINT32_MAX));
    if (store.exists(where + "/event-channel-tx")) {
        queue.tx_port = TRY(number(store, where + "/event-channel-tx", 1, UINT32_MAX));
        queue.rx_port = TRY(number(store, where + "/event-channel-rx", 1, UINT32_MAX));
    } else {
        queue.tx_port = queue.rx_port = TRY(number(store, where + "/event-channel", 1, UINT32_MAX));
    }
    return queue;
}

}  // namespace

Result<Connect> read_offer(const xen::Store& store, const std::string& frontend, uint16_t max_queues) {
    const auto flag = [&](const char* key) -> uint8_t {
        return store.read_number(frontend + "/" + key, 0, 1) == 1U ? 1 : 0;
    };
    Connect offer{};
    if (flag("request-rx-copy") == 0) {
        return Error{EPROTO, fmt::format("the frontend does not ask for copies in {}/request-rx-copy, and pages are not "
                                         "flipped here", frontend)};
    }
    offer.scatter_gather = flag("feature-sg");
    offer.csum_blank4 = flag("feature-no-csum-offload") == 0 ? 1 : 0;
    offer.csum_blank6 = flag("feature-ipv6-csum-offload");
    // A packet to be segmented has its checksum blank and takes many slots.
    offer.gso_tcp4 = flag("feature-gso-tcpv4") & offer.scatter_gather & offer.csum_blank4;
    offer.gso_tcp6 = flag("feature-gso-tcpv6") & offer.scatter_gather & offer.csum_blank6;
    offer.rx_notify = flag("feature-rx-notify");
    offer.multicast_control = flag("request-multicast-control");
    offer.queue_count = 1;
    const std::string count = frontend + "/multi-queue-num-queues";
    if (store.exists(count)) offer.queue_count = static_cast<uint16_t>(TRY(number(store, count, 1, max_queues)));
    for (size_t i = 0; i < offer.queue_count; ++i) {
        const std::string where = offer.queue_count == 1 ? frontend : fmt::format("{}/queue-{}", frontend, i);
        offer.queues[i] = TRY(read_queue(store, where));
    }
    return offer;
}

Rate parse_rate(const std::string& text) {
    constexpr uint64_t kDefaultIntervalUs = 50'000;
    constexpr uint64_t kLongestIntervalUs = 10'000'000;
    const size_t comma = text.find(',');
    const auto bytes = xen::parse_number(std::string_view(text).substr(0, comma), 1, UINT64_MAX);
    if (!bytes || *bytes >= UINT32_MAX) return {};  // what xl writes for no limit
    Rate rate{*bytes, kDefaultIntervalUs, 0};
    if (comma != std::string::npos) {
        const auto interval = xen::parse_number(std::string_view(text).substr(comma + 1), 1, kLongestIntervalUs);
        if (interval) rate.interval_us = static_cast<uint32_t>(*interval);
    }
    return rate;
}

}  // namespace ringback::net
