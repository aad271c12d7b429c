// SPDX-License-Identifier: Apache-2.0
#include "blkback/supervisor.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "hypervisor/backend.h"
#include "runtime/log.h"

namespace ringback::blk {

namespace {

constexpr std::chrono::milliseconds kStoreCheck{2000};

// How far a device is that an earlier supervisor worked on.
bool had_a_worker(xen::XenbusState state) {
    return state != xen::XenbusState::unknown && state != xen::XenbusState::initialising &&
           state != xen::XenbusState::closed;
}

}  // namespace

Result<std::unique_ptr<Supervisor>> Supervisor::start(EventLoop& loop, const Config& config) {
    xen::Store store = TRY(xen::Store::open());
    const xen::Domid own = TRY(store.own_domid());
    std::unique_ptr<Supervisor> supervisor(new Supervisor(loop, config, std::move(store)));
    Supervisor& self = *supervisor;
    self.around_.own_domid = own;
    self.lock_ = TRY(claim_directories(config, config.journal_directory()));
    TRY(self.workers_.listen(
        {.on_lost =
             [&self](xen::Domid domid, const std::string& why) {
                 log::error("the worker of domain {} is gone: {}", domid, why);
                 self.recoveries_.worker_died(domid, Recoveries::Clock::now());
                 for (auto& [id, device] : self.devices_) {
                     if (id.domid == domid) device->worker_lost(why);
                 }
             },
         .on_device_failed =
             [&self](const xen::DeviceId& id, const std::string& why) {
                 const auto found = self.devices_.find(id);
                 if (found != self.devices_.end()) found->second->connection_failed(why);
             },
         .on_recovered =
             [&self](const xen::DeviceId& id, const Answer& answer) {
                 const auto found = self.devices_.find(id);
                 if (found != self.devices_.end()) found->second->recovered(answer);
             },
         .on_present =
             [&self](const xen::DeviceId& id) {
                 if (!self.devices_.contains(id)) self.let_go(id);
             },
         .on_unexpected =
             [&self](xen::Domid domid) {
                 return std::any_of(self.devices_.begin(), self.devices_.end(),
                                    [domid](const auto& entry) { return entry.first.domid == domid; });
             },
         .on_open_file = [&self](const xen::DeviceId& id, const std::string& name, bool writable) -> Result<OpenedFile> {
             const auto found = self.devices_.find(id);
             if (found == self.devices_.end()) return os_error(ENODEV, "open " + name + " for " + id.text());
             return found->second->open_named(name, writable);
         }}));
    TRY(self.control_.listen([&self](const ControlRequest& request, Responder respond) {
        self.command(request, std::move(respond));
    }));
    std::vector<std::string> kinds;
    for (const std::string& root : config.roots) kinds.push_back(root.substr(root.rfind('/') + 1));
    TRY(self.watch_.start(own, std::move(kinds)));
    TRY(loop.watch(self.store_.fd(), EPOLLIN, [&self](uint32_t) { self.take_store_events(); }));
    self.throttler_.load();
    self.remove_stale_journals();
    self.expect_workers();
    self.work();
    TRY(self.verdict());
    self.starting_ = false;
    self.look_after_store();
    TRY(self.verdict());
    return supervisor;
}

Supervisor::Supervisor(EventLoop& loop, const Config& config, xen::Store store)
    : loop_(loop),
      config_(config),
      store_(std::move(store)),
      watch_(store_),
      workers_(loop, config),
      control_(loop, config.control_socket(), config.control_group),
      around_{.loop = loop,
              .store = store_,
              .workers = workers_,
              .recoveries = recoveries_,
              .config = config,
              .rules = {config.allow, config.deny},
              .look_again = [this](const xen::DeviceId& id) { watch_.mark(id); },
              .store_lost =
                  [this] {
                      store_lost_ = true;
                      loop_.stop();
                  }},
      throttler_(loop, store_, config.throttle_file()) {}

Supervisor::~Supervisor() { loop_.forget(store_.fd()); }

// A worker has a device that was taken away while no supervisor was there.
void Supervisor::let_go(const xen::DeviceId& id) {
    log::notice("{}: it went while there was no blkbackd", id.text());
    Message message;
    message.kind = Text<16>(id.kind);
    message.devid = id.devid;
    message.body.answer = {};
    message.type = MessageType::disconnect;
    workers_.request(id.domid, message, {}, [this, id, message](const Answer& answer) mutable {
        if (answer.error == ECONNRESET) return;
        message.type = MessageType::detach;
        workers_.request(id.domid, message, {}, [](const Answer&) {});
    });
}

Result<void> Supervisor::verdict() const {
    if (store_lost_) return Error{ECONNRESET, "xenstored is gone; workers go on, the next blkbackd finds them"};
    return {};
}

// Before any device asks for one: a guest's new disk must not start a second worker beside the one that serves its others.
void Supervisor::expect_workers() {
    for (const xen::DeviceId& id : watch_.marked()) {
        if (had_a_worker(xen::read_state(store_, xen::backend_directory(around_.own_domid, id)))) {
            workers_.expect(id.domid, kAdoptPatience);
        }
    }
}

// xs_fileno() says nothing when the connection ends: without this an idle supervisor would wait for events for ever.
void Supervisor::look_after_store() {
    if (!store_.own_domid()) return around_.store_lost();
    loop_.after(kStoreCheck, [this] { look_after_store(); });
}

// A journal belongs to a device that is there; the rest is what a crash of this host's services has left.
void Supervisor::remove_stale_journals() {
    const std::string directory = config_.journal_directory();
    std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(directory.c_str()), &::closedir);
    if (!listing) return;
    while (const dirent* entry = ::readdir(listing.get())) {
        const std::string name = entry->d_name;
        if (!name.ends_with(".journal") && !name.ends_with(".worker")) continue;
        const std::string path = directory + "/" + name;
        const bool wanted = std::any_of(watch_.marked().begin(), watch_.marked().end(), [&](const xen::DeviceId& id) {
            return path == xen::journal_path(directory, id) || name == fmt::format("{}.worker", id.domid);
        });
        if (!wanted) (void)::unlink(path.c_str());
    }
}

void Supervisor::take_store_events() {
    if (!watch_.take_events()) return;
    for (const auto& [id, device] : devices_) watch_.mark(id);
}

void Supervisor::work() {
    // One look for each device that changed; what a look brings about is for the next turn, so that no device can
    // keep the others waiting.
    for (const xen::DeviceId& id : watch_.take()) {
        look(id);
        if (store_lost_) return;
    }
    answer_waiters();
    answer_replacements();
    // The loop sleeps next: wake at once when there is more to do.
    if (!watch_.marked().empty()) loop_.after(std::chrono::milliseconds(0), [] {});
}

void Supervisor::look(const xen::DeviceId& id) {
    auto found = devices_.find(id);
    if (found == devices_.end()) {
        if (!watch_.covers(id.kind)) return;
        const std::string directory = xen::backend_directory(around_.own_domid, id);
        const xen::XenbusState state = xen::read_state(store_, directory);
        if (state == xen::XenbusState::unknown) return;  // no device (yet)
        const bool adopt = starting_ && had_a_worker(state);
        found = devices_.emplace(id, std::make_unique<Device>(around_, id, adopt)).first;
    }
    const bool left = found->second->look();
    throttler_.saw(*found->second);
    if (!left) return;
    throttler_.gone(id);
    devices_.erase(found);
    watch_.mark(id);  // the toolstack may have made it anew already
    const bool more = std::any_of(devices_.begin(), devices_.end(),
                                  [&](const auto& entry) { return entry.first.domid == id.domid; });
    if (!more) workers_.quit(id.domid);
}

void Supervisor::answer_waiters() {
    for (auto waiter = waiters_.begin(); waiter != waiters_.end();) {
        const auto found = devices_.find(waiter->id);
        const bool gone = found == devices_.end();
        const auto readiness = gone ? Device::Readiness::failed : found->second->readiness();
        if (readiness == Device::Readiness::waiting) {
            ++waiter;
            continue;
        }
        loop_.cancel(waiter->deadline);
        if (readiness == Device::Readiness::ready) {
            waiter->respond({{"ok", true}, {"target", found->second->target()}});
        } else {
            waiter->respond(control_error(gone ? "the device is gone" : found->second->error()));
        }
        waiter = waiters_.erase(waiter);
    }
}

}  // namespace ringback::blk
