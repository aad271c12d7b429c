// SPDX-License-Identifier: Apache-2.0
//
// Vif: one connected virtual NIC: its queues, its port, its journal.
//
// There is one only while the frontend is connected. Nothing is ever under way between two turns of the reactor, so
// disconnecting is destroying it, once the tasks that are scheduled have run: end() first, then, in a task scheduled
// after it, the destructor.
//
// Thread: the reactor's.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bridge/vhost/ring_memory.h"
#include "netback/worker/fabric.h"
#include "netback/worker/queue.h"
#include "runtime/unique_fd.h"

namespace ringback::net::worker {

struct VifId {
    xen::Domid domid = 0;
    uint32_t handle = 0;
    auto operator<=>(const VifId&) const = default;
};

class Vif {
  public:
    struct Resources {
        Reactor& reactor;
        xen::EventChannels& events;
        std::vector<xen::GrantTable>& grants;  // never empty
        Batch& batch;
        std::vector<Queue*>& queues_by_port;
        Fabric* fabric = nullptr;
    };
    struct Callbacks {
        std::function<void(Vif&)> failed;       // once, when the frontend broke the protocol
        std::function<void(Vif&)> tick_wanted;  // next_tick() is not 0 any more
    };

    // `journal` and `port`: as the connect message brings them. An error leaves nothing behind.
    [[nodiscard]] static Result<std::unique_ptr<Vif>> connect(const Resources& resources, VifId id,
                                                              const Connect& parameters, UniqueFd journal,
                                                              std::vector<UniqueFd> port, Callbacks callbacks);
    ~Vif();
    Vif(const Vif&) = delete;
    Vif& operator=(const Vif&) = delete;

    [[nodiscard]] const VifId& id() const { return id_; }
    [[nodiscard]] const Connect& parameters() const { return context_.parameters; }
    [[nodiscard]] Stats stats() const;
    // Why it serves no more; null: it does.
    [[nodiscard]] const char* broken() const { return context_.broken; }
    // `descriptors`: none, or the port's connection.
    void adjust(const Adjust& adjust, std::vector<UniqueFd> descriptors);
    void end();
    [[nodiscard]] bool scheduled() const;
    // [journal, ports...], for a new supervisor.
    [[nodiscard]] std::vector<int> descriptors() const;

    [[nodiscard]] uint64_t next_tick() const;
    void tick(uint64_t now);

  private:
    Vif(const Resources& resources, xen::GrantTable& grants, VifId id, const Connect& parameters, Callbacks callbacks);
    [[nodiscard]] Result<void> take_port(std::vector<UniqueFd> files);
    [[nodiscard]] Result<void> add_queue(const QueueParameters& parameters, QueueJournal& journal, uint16_t number);
    [[nodiscard]] Result<xen::Port> bind(xen::Port remote);

    void leave();

    Resources around_;
    const VifId id_;
    Callbacks callbacks_;
    SwitchLink link_;
    VifContext context_;
    UniqueFd journal_file_;
    std::vector<UniqueFd> port_files_;     // of each queue; none of the switch
    std::optional<bridge::vhost::RingMemory> rings_;
    UniqueFd port_connection_;             // of the rings: kept for the next supervisor
    std::unique_ptr<Journal> journal_;
    std::vector<xen::Port> bound_;
    std::vector<std::unique_ptr<Queue>> queues_;
};

}  // namespace ringback::net::worker
