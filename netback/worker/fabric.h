// SPDX-License-Identifier: Apache-2.0
//
// Fabric: the built-in switches of this worker, and which vif is behind which port.
//
// A switch comes with its first port and goes with its last. The first switch of all starts DPDK, which takes a tenth of a
// second once; a worker without switches never does. What packets wait in is one pool for all, of a fixed size.
//
// Thread: the reactor's.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bridge/switch/packet_pool.h"
#include "bridge/switch/switch.h"
#include "netback/worker/queue.h"
#include "netback/worker/round.h"

namespace ringback::net::worker {

class Fabric {
  public:
    // `vif` stays where it is until it leaves. EEXIST: another vif has its address; the error names it.
    [[nodiscard]] Result<SwitchLink> join(const SwitchPort& port, VifContext& vif);
    void leave(const SwitchLink& link);
    // A part of a switch's table.
    void list(const TableQuery& query, TablePage& page) const;

  private:
    struct Net {
        std::unique_ptr<bridge::Switch> decide;
        std::vector<VifContext*> vifs;  // by port
    };
    [[nodiscard]] Result<void> prepare();

    std::unique_ptr<bridge::PacketPool> pool_;
    std::unique_ptr<Round> round_;
    std::map<std::string, std::unique_ptr<Net>> nets_;
};

}  // namespace ringback::net::worker
