// SPDX-License-Identifier: Apache-2.0
//
// A whole blkif frontend on the embedded core: the walk over XenBus, and its queues (blkfront_queue.h).
//
// The walk is Linux's (drivers/block/xen-blkfront.c and drivers/xen/xenbus, Linux 6.1): wait for the
// backend's InitWait, publish rings in one transaction, Initialised, wait for Connected, read what is
// offered, Connected; once the backend says Closing or Closed, the disk is dead for good. Beside it are the
// walks of other guests that a backend has to follow: the Windows driver's, which closes first whatever it
// finds, a kernel started by kexec, which closes for its predecessor, and resume after a suspend, with new
// rings and requests still under way.
//
// Thread: one owner, except that each queue may be used by another thread between attach() and close().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/embedded/store_client.h"
#include "hypervisor/xenbus.h"
#include "tools/frontend/blkfront_queue.h"

namespace ringback::frontend {

struct Options {
    uint16_t domid = 0;
    uint32_t devid = 51712;      // xvda
    uint32_t queues = 1;         // at most; the backend may offer fewer
    uint32_t ring_order = 0;     // at most
    bool persistent = true;      // if the backend offers it
    uint32_t max_segments = 32;  // at most; up to 11 without indirect requests
    uint32_t pool_pages = 0;     // per queue; 0: enough for a full ring, but at most 16 MiB
    xen::blkif::Abi abi = xen::blkif::Abi::x86_64;
    bool name_abi = true;    // writes the `protocol` node
    int timeout_ms = 10000;  // for each step of a walk
};

// What the backend's nodes say.
struct DiskInfo {
    uint64_t sectors = 0;  // of 512 bytes
    uint32_t sector_size = 0;
    uint32_t physical_sector_size = 0;
    bool read_only = false;
    bool cdrom = false;
    bool flush = false;
    bool barrier = false;
    bool discard = false;
    bool secure_discard = false;
    uint32_t discard_granularity = 0;
    uint32_t discard_alignment = 0;
    bool persistent = false;     // both ends want it
    uint32_t max_segments = 11;  // of one request, after both ends' limits
    uint32_t ring_order = 0;
    uint32_t queues = 0;
};

enum class Change : uint8_t { none, resized, closing };

class Blkfront {
  public:
    // Connects to the domain and to the store with the domain's own rights; walks nowhere yet.
    [[nodiscard]] static Result<std::unique_ptr<Blkfront>> create(const Options& options);

    // Linux's walk, from Initialising to Connected.
    [[nodiscard]] Result<void> attach();
    // What Linux does when it shuts down or the driver is unbound; waits until the backend is closed.
    [[nodiscard]] Result<void> close();
    // The Windows driver's start: closes first from whatever state it finds, then attaches.
    [[nodiscard]] Result<void> windows_start();
    // A kernel started by kexec: drops all rings without a word, then closes, step by step, for the old
    // kernel.
    [[nodiscard]] Result<void> kexec();
    // Suspend and resume: new rings under the same nodes, then what was in flight is submitted again.
    [[nodiscard]] Result<void> resume();

    // Looks at what the backend has changed since; never waits. A closing disk is answered with Closed, as
    // Linux does.
    [[nodiscard]] Change poll_backend();
    // Readable when poll_backend() may have something. (What an earlier call has taken is not announced
    // again.)
    [[nodiscard]] int store_fd() const { return store_.fd(); }

    [[nodiscard]] const DiskInfo& info() const { return info_; }
    [[nodiscard]] Queue& queue(size_t index) { return queues_[index]; }
    [[nodiscard]] size_t queue_count() const { return queues_.size(); }
    // Pages of former rings and requests that the backend has mapped to this moment.
    [[nodiscard]] uint32_t still_mapped();

    // Single steps, for tests that walk in their own order.
    [[nodiscard]] Result<void> publish();  // new rings and their nodes, then Initialised
    [[nodiscard]] Result<void>
    finish();           // after the backend's Connected: reads, prepares the queues, Connected
    void drop_rings();  // lets go of all rings; what is in flight fails
    [[nodiscard]] Result<void> set_state(xen::XenbusState state);
    [[nodiscard]] xen::XenbusState backend_state();
    // Waits until the backend is in `wanted`; any state that `bearable` refuses ends the wait.
    [[nodiscard]] Result<void> wait_backend(const std::function<bool(xen::XenbusState)>& wanted,
                                            const std::function<bool(xen::XenbusState)>& bearable = {});

    [[nodiscard]] xen::embedded::Guest& guest() { return guest_; }
    [[nodiscard]] xen::embedded::StoreClient& store() { return store_; }
    [[nodiscard]] const std::string& frontend_path() const { return frontend_; }
    [[nodiscard]] const std::string& backend_path() const { return backend_; }

  private:
    Blkfront(const Options& options, xen::embedded::Guest guest, xen::embedded::StoreClient store)
        : options_(options), guest_(std::move(guest)), store_(std::move(store)) {}
    [[nodiscard]] Result<void> find_backend();
    [[nodiscard]] uint64_t backend_number(const std::string& key, uint64_t fallback);
    [[nodiscard]] Result<void> write_nodes(uint32_t tx);
    void read_info();
    // Writes `state` again and again until `reached`, as the Windows driver does.
    [[nodiscard]] Result<void> push_state(xen::XenbusState state,
                                          const std::function<bool(xen::XenbusState)>& reached);

    Options options_;
    xen::embedded::Guest guest_;
    xen::embedded::StoreClient store_;
    std::string frontend_;
    std::string backend_;
    uint16_t backend_domid_ = 0;
    bool connected_ = false;
    DiskInfo info_;
    std::vector<Queue> queues_;
    std::vector<Queue> retired_;  // with pages that the backend still has
};

}  // namespace ringback::frontend
