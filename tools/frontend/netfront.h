// SPDX-License-Identifier: Apache-2.0
//
// Netfront: a whole netif frontend on the embedded core: XenBus and its queues.
//
// The walks are those of Linux's netfront (drivers/net/xen-netfront.c, Linux 6.1: it goes to Connected by itself, as soon
// as the backend is in InitWait), of Windows's xenvif (closes first, from whatever state it finds, and must never see
// Initialised), and of a kernel started by kexec.
//
// Thread: one owner.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hypervisor/embedded/store_client.h"
#include "hypervisor/xenbus.h"
#include "tools/frontend/netfront_queue.h"

namespace ringback::frontend {

struct NetOptions {
    uint16_t domid = 0;
    uint32_t handle = 0;
    uint32_t queues = 1;  // at most; the backend may offer fewer
    bool split_ports = true;
    bool scatter_gather = true;
    bool gso = true;
    bool csum4 = true;
    bool csum6 = true;
    int timeout_ms = 10000;  // for each step of a walk
};

class Netfront {
  public:
    [[nodiscard]] static Result<std::unique_ptr<Netfront>> create(const NetOptions& options);

    // Linux's walk, from Initialising to Connected.
    [[nodiscard]] Result<void> attach();
    // What Linux does when it shuts down or the driver is unbound; waits until the backend is closed.
    [[nodiscard]] Result<void> close();
    // xenvif's start, from whatever state it finds.
    [[nodiscard]] Result<void> windows_start();
    // A kernel started by kexec: drops all rings without a word, then walks through all states for the old kernel.
    [[nodiscard]] Result<void> kexec();

    // Single steps, for tests that walk in their own order.
    [[nodiscard]] Result<void> publish();  // new rings and their nodes, then Connected
    [[nodiscard]] Result<void> set_state(xen::XenbusState state);
    [[nodiscard]] xen::XenbusState backend_state();
    [[nodiscard]] Result<void> wait_backend(const std::function<bool(xen::XenbusState)>& wanted,
                                            const std::function<bool(xen::XenbusState)>& bearable = {});
    // True: the backend is closing; answered with Closed, as Linux does. Never waits.
    [[nodiscard]] bool follow_backend();
    [[nodiscard]] int store_fd() const { return store_.fd(); }

    [[nodiscard]] NetQueue& queue(size_t index) { return queues_[index]; }
    [[nodiscard]] size_t queue_count() const { return queues_.size(); }
    [[nodiscard]] const NetOptions& options() const { return options_; }
    // Grants that the backend still has in use after a close.
    [[nodiscard]] uint32_t still_mapped();
    [[nodiscard]] xen::embedded::StoreClient& store() { return store_; }
    [[nodiscard]] const std::string& frontend_path() const { return frontend_; }
    [[nodiscard]] const std::string& backend_path() const { return backend_; }

  private:
    Netfront(const NetOptions& options, xen::embedded::Guest guest, xen::embedded::StoreClient store)
        : options_(options), guest_(std::move(guest)), store_(std::move(store)) {}
    [[nodiscard]] Result<void> write_nodes(uint32_t tx);
    void drop_rings();

    NetOptions options_;
    xen::embedded::Guest guest_;
    xen::embedded::StoreClient store_;
    std::string frontend_;
    std::string backend_;
    uint16_t backend_domid_ = 0;
    std::vector<NetQueue> queues_;
    std::vector<NetQueue> retired_;  // with pages that the backend still has
};

}  // namespace ringback::frontend
