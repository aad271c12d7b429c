// SPDX-License-Identifier: Apache-2.0
//
// Event channels. A port has two eventfds: `in`, on which its owner is woken, and `out`, which is the `in` of
// the other end. Both exist from the moment the first end is allocated, so that a notification is one write
// and no call to the core, and so that a guest can go on writing to an end that is dead: nobody reads there,
// the event is lost, and the next one to bind starts with its port pending (Xen: event_channel.c,
// evtchn_close and evtchn_bind_interdomain).
#include <sys/eventfd.h>

#include <cerrno>

#include "hypervisor/embedded/core/hypervisor.h"

namespace ringback::xen::embedded {
namespace {

std::shared_ptr<Fd> make_eventfd() {
    return std::make_shared<Fd>(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

}  // namespace

int Hypervisor::new_port(Client& client, std::uint16_t remote, Port*& result) {
    PortTable& table = ports_[client.domid];
    if (table.empty()) table.emplace_back();  // port 0 is never valid
    std::size_t number = 1;
    while (number < table.size() && table[number])
        ++number;
    if (number >= kMaxPortsPerDomain) return ENOSPC;
    if (number == table.size()) table.emplace_back();
    auto port = std::make_unique<Port>();
    port->number = static_cast<std::uint32_t>(number);
    port->domid = client.domid;
    port->remote_domid = remote;
    port->owner = &client;
    for (std::size_t i = 0; i < kNotifyCounters && port->counter < 0; ++i) {
        if (client.counter_used[i]) continue;
        client.counter_used[i] = true;
        port->counter = static_cast<int>(i);
    }
    result = port.get();
    table[number] = std::move(port);
    client.ports[result->number] = result;
    ++open_ports_;
    return 0;
}

int Hypervisor::alloc_unbound(Client& client, std::uint16_t remote, Port*& port) {
    if (client.restricted_to >= 0) return EACCES;
    if (remote == kDomidSelf) remote = client.domid;
    if (find_alive(client.domid) == nullptr || remote >= kFirstReservedDomid) return ESRCH;
    auto in = make_eventfd();
    auto out = make_eventfd();
    if (!*in || !*out) return errno;
    if (int error = new_port(client, remote, port); error != 0) return error;
    port->in = std::move(in);
    port->out = std::move(out);
    return 0;
}

int Hypervisor::bind_interdomain(Client& client, std::uint16_t remote, std::uint32_t remote_port,
                                 Port*& port) {
    if (remote == kDomidSelf) remote = client.domid;
    if (client.restricted_to >= 0 && client.restricted_to != remote) return EACCES;
    if (find_alive(client.domid) == nullptr || find_alive(remote) == nullptr) return ESRCH;
    PortTable& table = ports_[remote];
    if (remote_port >= table.size() || !table[remote_port]) return EINVAL;
    Port& other = *table[remote_port];
    if (other.remote != nullptr || other.remote_domid != client.domid) return EINVAL;
    if (int error = new_port(client, remote, port); error != 0) return error;
    port->in = other.out;
    port->out = other.in;
    port->remote = &other;
    other.remote = port;
    // Whatever the other end sent while nobody was bound is made up for by one event.
    std::uint64_t one = 1;
    [[maybe_unused]] ssize_t n = ::write(port->in->get(), &one, sizeof one);
    return 0;
}

void Hypervisor::fold_notifies(Client& client, Port& port) {
    if (port.counter < 0) return;
    std::uint64_t n = client.shared.as<ClientShared>()->notifies[port.counter].exchange(0);
    if (n == 0) return;
    if (Domain* self = find(client.domid)) self->counters.notifies_sent += n;
    if (Domain* other = find(port.remote_domid)) other->counters.notifies_received += n;
}

void Hypervisor::free_port(Port* port) {
    Client& client = *port->owner;
    fold_notifies(client, *port);
    if (port->counter >= 0) client.counter_used[static_cast<std::size_t>(port->counter)] = false;
    if (port->remote != nullptr) {
        // The other end is unbound again and waits for us: the remote domain it accepts stays the same.
        port->remote->remote = nullptr;
    }
    client.ports.erase(port->number);
    ports_[port->domid][port->number].reset();
    --open_ports_;
}

int Hypervisor::close_port(Client& client, std::uint32_t number) {
    auto found = client.ports.find(number);
    if (found == client.ports.end()) return ENOTCONN;
    free_port(found->second);
    return 0;
}

int Hypervisor::restrict_evtchn(Client& client, std::uint16_t domid) {
    if (client.restricted_to >= 0) return EACCES;
    if (domid == 0 || domid >= kFirstReservedDomid) return EINVAL;
    client.restricted_to = domid;
    return 0;
}

void Hypervisor::collect_counters() {
    for (auto& [id, client] : clients_) {
        for (auto& [number, port] : client->ports)
            fold_notifies(*client, *port);
        for (auto& [domid, slot] : client->slots) {
            Domain* domain = find(domid);
            if (domain == nullptr) continue;
            // The client goes on counting in the same slot, so what is taken here is subtracted atomically.
            CopySlot& s = domain->shared()->slots[slot];
            domain->counters.copy_calls += s.calls.exchange(0);
            domain->counters.copies += s.copies.exchange(0);
            domain->counters.copy_failures += s.failures.exchange(0);
            domain->counters.copy_bytes += s.bytes.exchange(0);
        }
    }
}

}  // namespace ringback::xen::embedded
