// SPDX-License-Identifier: Apache-2.0
#include "netback/worker/vif.h"

#include <algorithm>
#include <string>

namespace ringback::net::worker {

Result<std::unique_ptr<Vif>> Vif::connect(const Resources& resources, VifId id, const Connect& parameters,
                                          UniqueFd journal, std::vector<UniqueFd> port, Callbacks callbacks) {
    const size_t count = parameters.queue_count;
    if (count == 0 || count > kMaxQueues) return os_error(EINVAL, "connect a vif of " + std::to_string(count) + " queues");
    // gntdev keeps a list per handle: vifs are spread over several.
    xen::GrantTable& grants = resources.grants[(id.domid + id.handle) % resources.grants.size()];
    std::unique_ptr<Vif> vif(new Vif(resources, grants, id, parameters, std::move(callbacks)));
    vif->journal_file_ = std::move(journal);
    vif->journal_ = std::make_unique<Journal>(TRY(Journal::map(vif->journal_file_.get())));
    vif->context_.multicast = &vif->journal_->multicast();
    TRY(vif->take_port(std::move(port)));
    for (uint16_t i = 0; i < count; ++i) TRY(vif->add_queue(parameters.queues[i], vif->journal_->queue(i), i));
    for (const auto& queue : vif->queues_) queue->start();
    return vif;
}

Vif::Vif(const Resources& resources, xen::GrantTable& grants, VifId id, const Connect& parameters, Callbacks callbacks)
    : around_(resources),
      id_(id),
      callbacks_(std::move(callbacks)),
      context_{.reactor = resources.reactor,
               .events = resources.events,
               .grants = grants,
               .batch = resources.batch,
               .domid = id.domid,
               .handle = id.handle,
               .parameters = parameters} {
    context_.owner = this;
    context_.on_broken = [](VifContext& context) noexcept {
        auto& self = *static_cast<Vif*>(context.owner);
        self.callbacks_.failed(self);
    };
    context_.on_tick_wanted = [](VifContext& context) noexcept {
        auto& self = *static_cast<Vif*>(context.owner);
        self.callbacks_.tick_wanted(self);
    };
}

Vif::~Vif() {
    leave();
    for (const xen::Port port : bound_) {
        around_.queues_by_port[port] = nullptr;
        around_.events.unbind(port);
    }
}

void Vif::end() {
    context_.ending = true;
    leave();
}

void Vif::leave() {
    if (link_.decide == nullptr) return;
    context_.stats.port = link_.decide->counters(link_.port);
    around_.fabric->leave(link_);
    link_.decide = nullptr;
}

Result<xen::Port> Vif::bind(xen::Port remote) {
    const xen::Port port = TRY(around_.events.bind(id_.domid, remote));
    bound_.push_back(port);
    if (around_.queues_by_port.size() <= port) around_.queues_by_port.resize(port + 1);
    return port;
}

Result<void> Vif::take_port(std::vector<UniqueFd> files) {
    const size_t queues = context_.parameters.queue_count;
    const auto wrong = [&files, queues] {
        return os_error(EINVAL, "connect a vif of " + std::to_string(queues) + " queues to a port of " + std::to_string(files.size()));
    };
    switch (context_.parameters.kind) {
        case PortKind::tap:
            if (files.size() != queues) return wrong();
            break;
        case PortKind::switched:
            if (!files.empty()) return wrong();
            if (around_.fabric == nullptr) return os_error(ENOTSUP, "connect a vif to a switch");
            link_ = TRY(around_.fabric->join(context_.parameters.port, context_));
            context_.link = &link_;
            context_.waiting.emplace(*link_.pool);
            break;
        case PortKind::vhost:
            if (files.size() != queues + 1 && files.size() != queues + 2) return wrong();
            rings_.emplace(TRY(bridge::vhost::RingMemory::map(std::move(files.front()), queues)));
            files.erase(files.begin());
            if (files.size() > queues) {
                port_connection_ = std::move(files.back());
                files.pop_back();
            }
            break;
        default: return wrong();
    }
    port_files_ = std::move(files);
    return {};
}

Result<void> Vif::add_queue(const QueueParameters& parameters, QueueJournal& journal, uint16_t number) {
    Queue::Parameters made;
    made.tx_ring = TRY(context_.grants.map(id_.domid, std::span(&parameters.tx_ring_ref, 1), true));
    made.rx_ring = TRY(context_.grants.map(id_.domid, std::span(&parameters.rx_ring_ref, 1), true));
    made.tx_port = TRY(bind(parameters.tx_port));
    made.rx_port = parameters.rx_port == parameters.tx_port ? made.tx_port : TRY(bind(parameters.rx_port));
    if (rings_) made.port.emplace(port_files_[number].get(), rings_->pair(number));
    else if (!port_files_.empty()) made.port.emplace(port_files_[number].get());
    made.number = number;
    made.resumed = context_.parameters.resumed != 0;
    const xen::Port tx_port = made.tx_port;
    const xen::Port rx_port = made.rx_port;
    queues_.push_back(std::make_unique<Queue>(context_, journal, std::move(made)));
    context_.queues.push_back(queues_.back().get());
    around_.queues_by_port[tx_port] = around_.queues_by_port[rx_port] = queues_.back().get();
    return {};
}

Stats Vif::stats() const {
    Stats stats = context_.stats;
    if (link_.decide != nullptr) stats.port = link_.decide->counters(link_.port);
    stats.connected = 1;
    stats.failed = context_.broken != nullptr ? 1 : 0;
    return stats;
}

void Vif::adjust(const Adjust& adjust, std::vector<UniqueFd> descriptors) {
    if (context_.parameters.port_state != adjust.port_state) port_connection_.reset();
    if (!descriptors.empty()) port_connection_ = std::move(descriptors.front());
    context_.parameters.port_state = adjust.port_state;
    context_.parameters.multicast_control = adjust.multicast_control;
    context_.parameters.rate = adjust.rate;
    context_.credit = 0;
    context_.credit_until = 0;
}

std::vector<int> Vif::descriptors() const {
    std::vector<int> all{journal_file_.get()};
    if (rings_) all.push_back(rings_->fd());
    for (const UniqueFd& port : port_files_) all.push_back(port.get());
    if (port_connection_) all.push_back(port_connection_.get());
    return all;
}

bool Vif::scheduled() const {
    return std::any_of(queues_.begin(), queues_.end(), [](const auto& queue) { return queue->scheduled(); });
}

uint64_t Vif::next_tick() const {
    uint64_t next = 0;
    if (context_.broken != nullptr) return next;
    for (const auto& queue : queues_) {
        const uint64_t wanted = queue->next_tick();
        if (wanted != 0) next = next == 0 ? wanted : std::min(next, wanted);
    }
    return next;
}

void Vif::tick(uint64_t now) {
    for (const auto& queue : queues_) queue->tick(now);
}

}  // namespace ringback::net::worker
