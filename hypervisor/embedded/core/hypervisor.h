// SPDX-License-Identifier: Apache-2.0
//
// The core's state and the rules on it: domains, who maps what, which port talks to which. A client is one
// hypercall socket, that is one opened library handle; whatever a client holds goes when its socket closes,
// as with a closed /dev/xen/gntdev or /dev/xen/evtchn. All calls run on the loop's thread.
//
// Deferred unmap: on Linux the hypervisor hears of an unmap some milliseconds late whenever the page still
// has a reference, and nobody is told when. Here every unmap is late (unless switched off), so that a backend
// which unmaps and answers at once is caught by a frontend that looks.
#pragma once

#include <cerrno>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "hypervisor/embedded/core/domain.h"
#include "hypervisor/embedded/core/loop.h"

namespace ringback::xen::embedded {

struct Client;

struct Port {
    std::uint32_t number = 0;
    std::uint16_t domid = 0;
    std::uint16_t remote_domid = 0;
    Port* remote = nullptr;  // null while unbound
    Client* owner = nullptr;
    int counter = -1;  // index in the owner's ClientShared
    std::shared_ptr<Fd> in, out;
};

struct MappedGrant {
    std::uint16_t domid;
    std::uint32_t ref;
    std::uint32_t frame;
};

// What happens to a page when whoever shares or maps it lets go of it or dies.
struct PageNotice {
    std::int64_t clear_byte = -1;
    std::shared_ptr<Fd> notify;
};

struct Mapping {
    std::uint64_t id = 0;
    bool writable = false;
    std::vector<MappedGrant> grants;
    PageNotice notice;
};

struct Client {
    std::uint64_t id = 0;
    std::uint16_t domid = 0;
    bool privileged = false;
    int restricted_to = -1;
    Fd shared_fd;
    Mapped shared;
    std::vector<bool> counter_used = std::vector<bool>(kNotifyCounters);
    std::unordered_map<std::uint16_t, int> slots;  // domain -> copy slot
    std::map<std::uint64_t, Mapping> mappings;
    std::map<std::uint32_t, PageNotice> page_notices;  // of the domain's own frames
    std::map<std::uint32_t, Port*> ports;
};

struct Faults {
    std::uint32_t map_failures = 0;  // next so many map calls fail
    int map_error = EINVAL;          // with this errno
    std::int32_t map_domid = -1;     // only calls that name this domain
};

class Hypervisor {
  public:
    Hypervisor(Loop& loop, std::uint64_t host_pages);

    // Called with "@introduceDomain" or "@releaseDomain" when a domain's state changed.
    std::function<void()> on_release;
    std::function<void(std::uint16_t)> on_domain_created;
    std::function<void(std::uint16_t)> on_domain_dying;

    int create_domain(const DomainConfig& config, int wanted_id, std::uint16_t& id);
    int destroy_domain(std::uint16_t id);
    int shutdown_domain(std::uint16_t id, ShutdownReason reason);
    int resume_domain(std::uint16_t id);
    int pause_domain(std::uint16_t id, bool paused);
    int populate(Domain& domain, std::uint32_t pages);
    Domain* find(std::uint16_t id);
    Domain* find_alive(std::uint16_t id);
    const std::map<std::uint16_t, std::unique_ptr<Domain>>& domains() const { return domains_; }

    Client* add_client(std::uint16_t domid, bool privileged);
    void remove_client(Client* client);

    int attach(Client& client, std::uint16_t domid, int& slot);
    void detach(Client& client, std::uint16_t domid);
    int map(Client& client, const GrantName* grants, std::uint32_t count, bool writable, Mapping*& mapping);
    int unmap(Client& client, std::uint64_t id);
    int set_unmap_notify(Client& client, std::uint64_t id, std::int64_t byte, std::int64_t port);

    int page_notify(Client& client, std::int64_t frame, std::int64_t byte, std::int64_t port);

    int alloc_unbound(Client& client, std::uint16_t remote, Port*& port);
    int bind_interdomain(Client& client, std::uint16_t remote, std::uint32_t remote_port, Port*& port);
    int close_port(Client& client, std::uint32_t number);
    int restrict_evtchn(Client& client, std::uint16_t domid);

    // Milliseconds between an unmap and the moment the guest can see it; 0 is at once.
    std::uint32_t unmap_delay_ms = 5;
    Faults faults;

    std::uint64_t host_pages() const { return host_pages_; }
    std::uint64_t used_pages() const;
    std::uint64_t live_mappings() const { return live_mappings_; }  // pages, deferred ones included
    std::uint64_t open_ports() const { return open_ports_; }
    Counters totals_of_gone_domains;

    // Sums what clients have counted in their shared pages since the last time.
    void collect_counters();

  private:
    using PortTable = std::vector<std::unique_ptr<Port>>;

    int new_port(Client& client, std::uint16_t remote, Port*& port);
    void free_port(Port* port);
    void fold_notifies(Client& client, Port& port);
    int make_notice(Client& client, std::int64_t byte, std::int64_t port, PageNotice& notice);
    void carry_out(const PageNotice& notice, std::uint16_t domid, std::uint32_t frame);
    void release(Mapping mapping, bool at_once);
    void unpin_all(const Mapping& mapping);
    void reap(std::uint16_t id);

    Loop& loop_;
    std::uint64_t host_pages_;
    std::uint16_t next_domid_ = 1;
    std::uint64_t next_client_ = 1;
    std::uint64_t next_mapping_ = 1;
    std::uint64_t live_mappings_ = 0;
    std::uint64_t open_ports_ = 0;
    std::map<std::uint16_t, std::unique_ptr<Domain>> domains_;
    std::unordered_map<std::uint16_t, PortTable> ports_;
    std::map<std::uint64_t, std::unique_ptr<Client>> clients_;
};

}  // namespace ringback::xen::embedded
