// SPDX-License-Identifier: Apache-2.0
//
// Of DPDK, for Open vSwitch's userspace datapath: the way in that costs it least. No huge pages, as in what is compared with it.
#include <fmt/format.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <cstring>

#include "runtime/poll_policy.h"
#include "tools/netbench/endpoint.h"

namespace ringback::netbench {

namespace {

constexpr unsigned kBuffers = 8191;
constexpr uint16_t kRingSize = 1024;

class Virtio : public Endpoint {
  public:
    Virtio(uint16_t port, rte_mempool* pool) : port_(port), pool_(pool) {}
    size_t send(std::span<const Frame> frames) override {
        std::array<rte_mbuf*, kBurst> burst;
        const auto wanted = static_cast<unsigned>(frames.size());
        if (wanted == 0 || ::rte_pktmbuf_alloc_bulk(pool_, burst.data(), wanted) != 0) return 0;
        for (size_t i = 0; i < frames.size(); ++i) {
            std::memcpy(rte_pktmbuf_mtod(burst[i], void*), frames[i].data(), frames[i].size());
            burst[i]->data_len = static_cast<uint16_t>(frames[i].size());
            burst[i]->pkt_len = static_cast<uint32_t>(frames[i].size());
        }
        const uint16_t count = ::rte_eth_tx_burst(port_, 0, burst.data(), static_cast<uint16_t>(wanted));
        if (count < wanted) ::rte_pktmbuf_free_bulk(burst.data() + count, wanted - count);
        return count;
    }
    void receive(Tally& tally) override {
        std::array<rte_mbuf*, kBurst> burst;
        for (int again = 0; again < 8; ++again) {
            const uint16_t count = ::rte_eth_rx_burst(port_, 0, burst.data(), kBurst);
            if (count == 0) return;
            const uint64_t now = monotonic_ns();
            for (uint16_t i = 0; i < count; ++i) {
                tally.take({rte_pktmbuf_mtod(burst[i], const std::byte*), burst[i]->data_len}, now);
            }
            ::rte_pktmbuf_free_bulk(burst.data(), count);
        }
    }

  private:
    uint16_t port_;
    rte_mempool* pool_;
};

Error dpdk_error(int code, const std::string& what) { return os_error(code < 0 ? -code : code == 0 ? EIO : code, what); }

Result<void> set_up(uint16_t port, rte_mempool* pool) {
    const rte_eth_conf plain{};
    int result = ::rte_eth_dev_configure(port, 1, 1, &plain);
    if (result == 0) result = ::rte_eth_rx_queue_setup(port, 0, kRingSize, SOCKET_ID_ANY, nullptr, pool);
    if (result == 0) result = ::rte_eth_tx_queue_setup(port, 0, kRingSize, SOCKET_ID_ANY, nullptr);
    if (result == 0) result = ::rte_eth_dev_start(port);
    if (result != 0) return dpdk_error(result, fmt::format("start virtio-user port {}", port));
    return {};
}

}  // namespace

Result<std::vector<std::unique_ptr<Endpoint>>> open_virtio(const std::vector<std::string>& sockets) {
    std::vector<std::string> words{"netbench-load", "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "-m", "256", "--lcores", "0@0",
                                   "--log-level", "error"};
    for (size_t i = 0; i < sockets.size(); ++i) {
        words.push_back(fmt::format("--vdev=virtio_user{},path={},server=1,queue_size={}", i, sockets[i], kRingSize));
    }
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    if (::rte_eal_init(static_cast<int>(words.size()), argv.data()) < 0) return dpdk_error(rte_errno, "start DPDK with virtio-user ports");
    rte_mempool* pool = ::rte_pktmbuf_pool_create("netbench", kBuffers, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    if (pool == nullptr) return dpdk_error(rte_errno, "make a pool of packet buffers");
    std::vector<std::unique_ptr<Endpoint>> made;
    for (uint16_t port = 0; port < sockets.size(); ++port) {
        TRY(set_up(port, pool));
        made.push_back(std::make_unique<Virtio>(port, pool));
    }
    return made;
}

}  // namespace ringback::netbench
