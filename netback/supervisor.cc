// SPDX-License-Identifier: Apache-2.0
#include "netback/supervisor.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "netback/ovs_port.h"
#include "runtime/log.h"

namespace ringback::net {

namespace {

constexpr const char* kAliasMark = "ringback vif/";
// A worker of an earlier supervisor tries ten times a second.
constexpr std::chrono::milliseconds kAdoptPatience{1500};

}  // namespace

Result<std::unique_ptr<Supervisor>> Supervisor::start(EventLoop& loop, const Config& config) {
    xen::Store store = TRY(xen::Store::open());
    const xen::Domid own = TRY(store.own_domid());
    std::unique_ptr<Supervisor> supervisor(new Supervisor(loop, config, std::move(store), TRY(bridge::Links::open())));
    Supervisor& self = *supervisor;
    self.around_.own_domid = own;
    self.lock_ = TRY(claim_directories(config, config.journal_directory()));
    if (!config.mac_pool.url.empty()) self.pool_ = TRY(PoolWatch::start(loop, config.mac_pool));
    if (!config.ovs_bridges.empty()) {
        self.open_vswitch_ = TRY(bridge::OpenVSwitch::start(loop, config.ovs_database));
        self.around_.ports.open_vswitch = self.open_vswitch_.get();
    }
    TRY(self.listen());
    TRY(self.watch_.start(own, {"vif"}));
    TRY(loop.watch(self.store_.fd(), EPOLLIN, [&self](uint32_t) { self.take_store_events(); }));
    self.remove_leftovers();
    self.work();
    TRY(self.verdict());
    self.starting_ = false;
    return supervisor;
}

Supervisor::Supervisor(EventLoop& loop, const Config& config, xen::Store store, bridge::Links links)
    : loop_(loop),
      config_(config),
      store_(std::move(store)),
      watch_(store_),
      links_(std::move(links)),
      worker_(loop, config),
      control_(loop, config.control_socket(), config.control_group),
      around_{.loop = loop,
              .store = store_,
              .worker = worker_,
              .ports = {.loop = loop, .links = links_, .config = config},
              .config = config,
              .refusal = [this](const xen::DeviceId& id) { return mac_refusal(id); },
              .look_again = [this](const xen::DeviceId& id) { watch_.mark(id); },
              .store_lost =
                  [this] {
                      store_lost_ = true;
                      loop_.stop();
                  }} {}

Supervisor::~Supervisor() { loop_.forget(store_.fd()); }

Result<void> Supervisor::verdict() const {
    if (store_lost_) return Error{ECONNRESET, "xenstored is gone; the worker goes on, the next netbackd finds it"};
    return {};
}

Result<void> Supervisor::listen() {
    TRY(worker_.listen(
        {.on_lost =
             [this] {
                 for (auto& [id, device] : devices_) device->worker_lost();
             },
         .on_vif_failed =
             [this](const xen::DeviceId& id, const std::string& why) {
                 const auto found = devices_.find(id);
                 if (found != devices_.end()) found->second->connection_failed(why);
             },
         .on_present =
             [this](const xen::DeviceId& id, const Connect& parameters, std::vector<UniqueFd> descriptors) {
                 const auto found = devices_.find(id);
                 return found != devices_.end() && found->second->presented(parameters, std::move(descriptors));
             },
         .on_all_presented =
             [this] {
                 for (auto& [id, device] : devices_) device->all_presented();
             }}));
    return control_.listen(
        [this](const ControlRequest& request, Responder respond) { command(request, std::move(respond)); });
}

// A journal, a socket, a TAP and a port of Open vSwitch of ours belong to a vif that is there; the rest is what a crash of this
// host's services has left.
void Supervisor::remove_leftovers() {
    const auto wanted = [this](const std::string& text) {
        const auto id = xen::DeviceId::parse(text);
        return id && watch_.marked().contains(*id);
    };
    const std::string directory = config_.journal_directory();
    std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(directory.c_str()), &::closedir);
    while (const dirent* entry = listing ? ::readdir(listing.get()) : nullptr) {
        const std::string name = entry->d_name;
        if (!name.ends_with(".journal") && !name.ends_with(".vhost")) continue;
        const std::string path = directory + "/" + name;
        const bool ours = std::any_of(watch_.marked().begin(), watch_.marked().end(), [&](const xen::DeviceId& id) {
            return path == xen::journal_path(directory, id) || path == vhost_path(config_, id);
        });
        if (!ours) (void)::unlink(path.c_str());
    }
    if (open_vswitch_) {
        std::set<std::string> owners;
        for (const xen::DeviceId& id : watch_.marked()) owners.insert(id.text());
        open_vswitch_->keep_only(std::move(owners));
    }
    const auto links = links_.list();
    if (!links) {
        log::warning("{}", links.error().message);
        return;
    }
    for (const auto& link : links.value()) {
        if (!link.alias.starts_with(kAliasMark) || wanted(link.alias.substr(9))) continue;
        log::notice("{} is left over from a vif that is gone: removed", link.name);
        if (const auto removed = links_.remove(link.index); !removed) log::warning("{}", removed.error().message);
    }
}

void Supervisor::take_store_events() {
    if (!watch_.take_events()) return;
    for (const auto& [id, device] : devices_) watch_.mark(id);
}

void Supervisor::work() {
    // One look for each vif that changed; what a look brings about is for the next turn, so that no vif can keep the
    // others waiting.
    for (const xen::DeviceId& id : watch_.take()) {
        look(id);
        if (store_lost_) return;
    }
    // The loop sleeps next: wake at once when there is more to do.
    if (!watch_.marked().empty()) loop_.after(std::chrono::milliseconds(0), [] {});
}

void Supervisor::look(const xen::DeviceId& id) {
    auto found = devices_.find(id);
    if (found == devices_.end()) {
        const xen::XenbusState state = xen::read_state(store_, xen::backend_directory(around_.own_domid, id));
        if (state == xen::XenbusState::unknown) return;  // no vif (yet)
        const bool adopt = starting_ && state != xen::XenbusState::initialising && state != xen::XenbusState::closed;
        if (adopt) worker_.expect(kAdoptPatience);
        found = devices_.emplace(id, std::make_unique<Device>(around_, id, adopt)).first;
    }
    if (!found->second->look()) return ask_pool(*found->second);
    if (pool_) pool_->forget(id);
    devices_.erase(found);
    watch_.mark(id);  // the toolstack may have made it anew already
    if (devices_.empty()) worker_.quit();
}

}  // namespace ringback::net
