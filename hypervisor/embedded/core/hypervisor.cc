// SPDX-License-Identifier: Apache-2.0
//
// See hypervisor.h. Domains, mappings and clients; event channels are in ports.cc.
#include "hypervisor/embedded/core/hypervisor.h"

#include <cerrno>

namespace ringback::xen::embedded {
namespace {

constexpr auto kReapRetry = std::chrono::milliseconds(5);

void add(Counters& to, const Counters& from) {
    to.hypercalls += from.hypercalls;
    to.maps += from.maps;
    to.map_failures += from.map_failures;
    to.unmaps += from.unmaps;
    to.copy_calls += from.copy_calls;
    to.copies += from.copies;
    to.copy_failures += from.copy_failures;
    to.copy_bytes += from.copy_bytes;
    to.notifies_received += from.notifies_received;
    to.notifies_sent += from.notifies_sent;
}

}  // namespace

Hypervisor::Hypervisor(Loop& loop, std::uint64_t host_pages) : loop_(loop), host_pages_(host_pages) {}

Domain* Hypervisor::find(std::uint16_t id) {
    auto found = domains_.find(id);
    return found == domains_.end() ? nullptr : found->second.get();
}

Domain* Hypervisor::find_alive(std::uint16_t id) {
    Domain* domain = find(id);
    return domain != nullptr && !domain->dying() ? domain : nullptr;
}

std::uint64_t Hypervisor::used_pages() const {
    std::uint64_t pages = 0;
    for (const auto& [id, domain] : domains_)
        pages += domain->pages;
    return pages;
}

int Hypervisor::create_domain(const DomainConfig& config, int wanted_id, std::uint16_t& id) {
    if (config.max_pages < 2 || config.pages > config.max_pages || config.max_vcpus == 0) return EINVAL;
    if (used_pages() + config.pages > host_pages_) return ENOMEM;
    if (wanted_id >= 0) {
        if (wanted_id >= kFirstReservedDomid) return EINVAL;
        if (find(static_cast<std::uint16_t>(wanted_id)) != nullptr) return EEXIST;
        id = static_cast<std::uint16_t>(wanted_id);
    } else {
        // As Xen's toolstack: a domid comes back only after all others have been used.
        std::uint32_t tries = 0;
        while (find(next_domid_) != nullptr && ++tries < kFirstReservedDomid)
            next_domid_ = next_domid_ + 1 < kFirstReservedDomid ? static_cast<std::uint16_t>(next_domid_ + 1)
                                                                : std::uint16_t{1};
        if (tries == kFirstReservedDomid) return ENOSPC;
        id = next_domid_;
        next_domid_ = next_domid_ + 1 < kFirstReservedDomid ? static_cast<std::uint16_t>(next_domid_ + 1)
                                                            : std::uint16_t{1};
    }
    auto domain = Domain::create(id, config);
    if (!domain) return errno == 0 ? ENOMEM : errno;
    domains_[id] = std::move(domain);
    if (on_domain_created) on_domain_created(id);
    return 0;
}

int Hypervisor::populate(Domain& domain, std::uint32_t pages) {
    if (used_pages() + pages > host_pages_) return ENOMEM;
    return domain.populate(pages);
}

int Hypervisor::destroy_domain(std::uint16_t id) {
    if (id == 0) return EPERM;
    Domain* domain = find_alive(id);
    if (domain == nullptr) return ESRCH;
    domain->set_dying();
    PortTable& table = ports_[id];
    for (std::size_t i = 0; i < table.size(); ++i)
        if (table[i]) free_port(table[i].get());
    // What the dead domain itself had mapped from others goes with it.
    for (auto& [client_id, client] : clients_) {
        if (client->domid != id || client->privileged) continue;
        while (!client->mappings.empty()) {
            Mapping mapping = std::move(client->mappings.begin()->second);
            client->mappings.erase(client->mappings.begin());
            release(std::move(mapping), true);
        }
    }
    if (on_domain_dying) on_domain_dying(id);
    if (on_release) on_release();
    domain->release_unpinned_memory();
    reap(id);
    return 0;
}

// A destroyed domain stays until nobody maps or copies from it any more.
void Hypervisor::reap(std::uint16_t id) {
    Domain* domain = find(id);
    if (domain == nullptr || !domain->dying() || domain->pinned() != 0) return;
    if (domain->copy_in_progress()) {
        loop_.at(Loop::Clock::now() + kReapRetry, [this, id] { reap(id); });
        return;
    }
    for (auto& [client_id, client] : clients_)
        detach(*client, id);
    add(totals_of_gone_domains, domain->counters);
    ports_.erase(id);
    domains_.erase(id);
    if (on_release) on_release();
}

int Hypervisor::shutdown_domain(std::uint16_t id, ShutdownReason reason) {
    Domain* domain = find_alive(id);
    if (domain == nullptr) return ESRCH;
    if (static_cast<std::uint32_t>(reason) > static_cast<std::uint32_t>(ShutdownReason::crash)) return EINVAL;
    domain->shutdown = reason;
    if (on_release) on_release();
    return 0;
}

int Hypervisor::resume_domain(std::uint16_t id) {
    Domain* domain = find_alive(id);
    if (domain == nullptr) return ESRCH;
    domain->shutdown = ShutdownReason::none;
    return 0;
}

int Hypervisor::pause_domain(std::uint16_t id, bool paused) {
    Domain* domain = find_alive(id);
    if (domain == nullptr) return ESRCH;
    domain->paused = paused;
    domain->shared()->paused = paused ? 1 : 0;
    return 0;
}

Client* Hypervisor::add_client(std::uint16_t domid, bool privileged) {
    auto client = std::make_unique<Client>();
    client->id = next_client_++;
    client->domid = domid;
    client->privileged = privileged;
    client->shared_fd = Fd(::memfd_create("client", MFD_CLOEXEC));
    if (!client->shared_fd || ::ftruncate(client->shared_fd.get(), kPageSize) != 0) return nullptr;
    client->shared = Mapped(client->shared_fd.get(), kPageSize);
    if (!client->shared) return nullptr;
    return (clients_[client->id] = std::move(client)).get();
}

void Hypervisor::remove_client(Client* client) {
    for (const auto& [frame, notice] : client->page_notices)
        carry_out(notice, client->domid, frame);
    while (!client->ports.empty())
        free_port(client->ports.begin()->second);
    while (!client->slots.empty())
        detach(*client, client->slots.begin()->first);
    while (!client->mappings.empty()) {
        Mapping mapping = std::move(client->mappings.begin()->second);
        client->mappings.erase(client->mappings.begin());
        release(std::move(mapping), false);
    }
    clients_.erase(client->id);
}

int Hypervisor::attach(Client& client, std::uint16_t domid, int& slot) {
    Domain* domain = find_alive(domid);
    if (domain == nullptr) return ESRCH;
    // A guest may look at its own memory only; copying from others is what a backend domain does with this
    // too, and there the grant check on each copy is the guard.
    auto found = client.slots.find(domid);
    if (found == client.slots.end()) {
        int taken = domain->take_slot();
        if (taken < 0) return ENOSPC;
        found = client.slots.emplace(domid, taken).first;
    }
    slot = found->second;
    return 0;
}

void Hypervisor::detach(Client& client, std::uint16_t domid) {
    auto found = client.slots.find(domid);
    if (found == client.slots.end()) return;
    if (Domain* domain = find(domid)) domain->return_slot(found->second);
    client.slots.erase(found);
}

int Hypervisor::map(Client& client, const GrantName* grants, std::uint32_t count, bool writable,
                    Mapping*& result) {
    Mapping mapping;
    mapping.id = next_mapping_;
    mapping.writable = writable;
    if (faults.map_failures > 0 &&
        (faults.map_domid < 0 || grants[0].domid == static_cast<std::uint32_t>(faults.map_domid))) {
        --faults.map_failures;
        if (Domain* domain = find(static_cast<std::uint16_t>(grants[0].domid)))
            ++domain->counters.map_failures;
        return faults.map_error;
    }
    int error = 0;
    for (std::uint32_t i = 0; i < count && error == 0; ++i) {
        Domain* domain = grants[i].domid < kFirstReservedDomid
                             ? find(static_cast<std::uint16_t>(grants[i].domid))
                             : nullptr;
        std::uint32_t frame = 0;
        if (domain == nullptr) {
            error = EINVAL;
        } else if (domain->pin(grants[i].ref, client.domid, writable, frame) != GrantStatus::okay) {
            ++domain->counters.map_failures;
            error = EINVAL;
        } else {
            ++live_mappings_;
            ++domain->counters.maps;
            mapping.grants.push_back({domain->id, grants[i].ref, frame});
        }
    }
    if (error != 0) {
        unpin_all(mapping);
        return error;
    }
    ++next_mapping_;
    result = &(client.mappings[mapping.id] = std::move(mapping));
    return 0;
}

void Hypervisor::unpin_all(const Mapping& mapping) {
    for (const MappedGrant& grant : mapping.grants) {
        --live_mappings_;
        if (Domain* domain = find(grant.domid)) {
            ++domain->counters.unmaps;
            domain->unpin(grant.ref, mapping.writable);
        }
    }
    for (const MappedGrant& grant : mapping.grants)
        reap(grant.domid);
}

void Hypervisor::release(Mapping mapping, bool at_once) {
    if (!mapping.grants.empty()) carry_out(mapping.notice, mapping.grants[0].domid, mapping.grants[0].frame);
    if (at_once || unmap_delay_ms == 0) {
        unpin_all(mapping);
        return;
    }
    auto shared = std::make_shared<Mapping>(std::move(mapping));
    loop_.at(Loop::Clock::now() + std::chrono::milliseconds(unmap_delay_ms),
             [this, shared] { unpin_all(*shared); });
}

int Hypervisor::unmap(Client& client, std::uint64_t id) {
    auto found = client.mappings.find(id);
    if (found == client.mappings.end()) return ENOENT;
    Mapping mapping = std::move(found->second);
    client.mappings.erase(found);
    release(std::move(mapping), false);
    return 0;
}

int Hypervisor::set_unmap_notify(Client& client, std::uint64_t id, std::int64_t byte, std::int64_t port) {
    auto found = client.mappings.find(id);
    if (found == client.mappings.end()) return ENOENT;
    // Only a writable page can have a byte cleared.
    if (byte >= 0 && !found->second.writable) return EINVAL;
    return make_notice(client, byte, port, found->second.notice);
}

int Hypervisor::page_notify(Client& client, std::int64_t frame, std::int64_t byte, std::int64_t port) {
    Domain* domain = find_alive(client.domid);
    if (domain == nullptr) return ESRCH;
    if (frame < 0 || frame >= domain->shared()->max_frames) return EINVAL;
    auto number = static_cast<std::uint32_t>(frame);
    if (byte >= 0 || port >= 0) return make_notice(client, byte, port, client.page_notices[number]);
    auto found = client.page_notices.find(number);
    if (found == client.page_notices.end()) return ENOENT;
    carry_out(found->second, client.domid, number);
    client.page_notices.erase(found);
    return 0;
}

int Hypervisor::make_notice(Client& client, std::int64_t byte, std::int64_t port, PageNotice& notice) {
    if (byte >= kPageSize) return EINVAL;
    if (port >= 0) {
        PortTable& table = ports_[client.domid];
        if (static_cast<std::uint64_t>(port) >= table.size() || !table[static_cast<std::size_t>(port)])
            return EINVAL;
        notice.notify = table[static_cast<std::size_t>(port)]->out;
    }
    notice.clear_byte = byte;
    return 0;
}

void Hypervisor::carry_out(const PageNotice& notice, std::uint16_t domid, std::uint32_t frame) {
    Domain* domain = find(domid);
    if (notice.clear_byte >= 0 && domain != nullptr)
        domain->memory()[std::size_t{frame} * kPageSize + static_cast<std::size_t>(notice.clear_byte)] = 0;
    if (notice.notify) {
        std::uint64_t one = 1;
        [[maybe_unused]] ssize_t n = ::write(notice.notify->get(), &one, sizeof one);
    }
}

}  // namespace ringback::xen::embedded
