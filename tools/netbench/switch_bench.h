// SPDX-License-Identifier: Apache-2.0
//
// SwitchBench: what a packet costs in the built-in switch, without a scheduler in it.
//
// Guests in pairs, and netback-worker's own vifs, rings, switch and reactor, in one thread that does the work of all in turn: the
// frontends fill their rings; the clock starts; the worker runs until every packet is answered; the clock stops; the frontends take what
// came. So what is timed is all that the worker does and nothing of a guest. The grant copies in it are the embedded core's, which are
// copies with Xen's checks and no hypercall.
#pragma once

#include <memory>
#include <vector>

#include "hypervisor/embedded/guest.h"
#include "hypervisor/embedded/toolstack.h"
#include "netback/worker/fabric.h"
#include "netback/worker/vif.h"
#include "tools/frontend/netfront_queue.h"

namespace ringback::netbench {

struct Cost {
    uint64_t packets = 0;
    uint64_t bytes = 0;
    double ns_per_packet = 0;
    double cycles_per_packet = 0;  // of the time stamp counter
    uint64_t grant_operations = 0, grant_calls = 0;
    uint64_t notifies = 0;  // from the worker
    uint64_t events = 0;    // to it
    uint64_t allocations = 0;
    uint64_t lost = 0;
};

class SwitchBench {
  public:
    // All guests connected; those past `active` stay idle.
    [[nodiscard]] static Result<std::unique_ptr<SwitchBench>> create(size_t guests);
    ~SwitchBench();
    SwitchBench(const SwitchBench&) = delete;
    SwitchBench& operator=(const SwitchBench&) = delete;

    // Guests 0 to active - 1 send `burst` packets of `size` bytes to their partners, again and again. More than a page: a TCP packet to be
    // cut in segments by somebody else. `events`: the guests ask to be notified of every burst, as ones that sleep do.
    [[nodiscard]] Result<Cost> run(size_t active, size_t size, size_t burst, bool events, double seconds);
    // Bytes of this process's own memory that connecting took, per vif.
    [[nodiscard]] double bytes_per_vif() const { return bytes_per_vif_; }
    // CPU time per second with nothing to do.
    [[nodiscard]] double idle_cpu(double seconds);

  private:
    struct Guest;
    SwitchBench() = default;
    [[nodiscard]] Result<void> start(size_t guests);
    [[nodiscard]] Result<void> connect(Guest& guest);
    [[nodiscard]] bool answered(size_t active) const;
    void reap(size_t active, bool events, uint64_t& received);

    std::unique_ptr<xen::embedded::Toolstack> toolstack_;
    std::unique_ptr<Reactor> reactor_;
    std::unique_ptr<xen::EventChannels> events_;
    std::vector<xen::GrantTable> grants_;
    net::worker::Batch batch_;
    net::worker::Fabric fabric_;
    std::vector<net::worker::Queue*> queues_by_port_;
    struct Watch;
    std::unique_ptr<Watch> watch_;
    std::vector<std::unique_ptr<Guest>> guests_;
    double bytes_per_vif_ = 0;
};

// Nanoseconds of a look into a table of so many addresses, of any of them.
[[nodiscard]] Result<double> lookup_ns(uint32_t entries);
// Nanoseconds of a plain copy of so many bytes, from and to as many pages as a pair of rings has.
[[nodiscard]] double copy_ns(size_t size);

}  // namespace ringback::netbench
