// SPDX-License-Identifier: Apache-2.0
#include "blkback/supervisor.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "runtime/log.h"

namespace ringback::blk {

namespace {

constexpr int kEventsPerTurn = 4096;
constexpr std::chrono::milliseconds kStoreCheck{2000};
constexpr const char* kRootToken = "root";
constexpr const char* kReleaseToken = "release";

// How far a device is that an earlier supervisor worked on.
bool had_a_worker(xen::XenbusState state) {
    return state != xen::XenbusState::unknown && state != xen::XenbusState::initialising &&
           state != xen::XenbusState::closed;
}

Result<void> make_directory(const std::string& path, mode_t mode) {
    if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return os_error("create " + path);
    return {};
}

}  // namespace

Result<std::unique_ptr<Supervisor>> Supervisor::start(EventLoop& loop, const Config& config) {
    xen::Store store = TRY(xen::Store::open());
    const xen::Domid own = TRY(store.own_domid());
    std::unique_ptr<Supervisor> supervisor(new Supervisor(loop, config, std::move(store)));
    Supervisor& self = *supervisor;
    self.around_.own_domid = own;
    self.backend_root_ = fmt::format("/local/domain/{}/backend/", own);
    TRY(self.claim_runtime_directory());
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
    TRY(self.watch_roots());
    for (const std::string& kind : self.kinds_) self.scan(kind);
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
      workers_(loop, config),
      control_(loop, config.control_socket(), config.control_group),
      around_{.loop = loop,
              .store = store_,
              .workers = workers_,
              .recoveries = recoveries_,
              .config = config,
              .rules = {config.allow, config.deny},
              .look_again = [this](const xen::DeviceId& id) { dirty_.insert(id); },
              .store_lost =
                  [this] {
                      store_lost_ = true;
                      loop_.stop();
                  }} {
    for (const std::string& root : config.roots) kinds_.push_back(root.substr(root.rfind('/') + 1));
}

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

Result<void> Supervisor::claim_runtime_directory() {
    TRY(make_directory(config_.runtime_directory, 0755));
    TRY(make_directory(config_.journal_directory(), 0700));
    const std::string path = config_.runtime_directory + "/blkbackd.lock";
    lock_.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock_) return os_error("open " + path);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
        return os_error(fmt::format("lock {} (is another blkbackd running?)", path));
    }
    return {};
}

Result<void> Supervisor::watch_roots() {
    for (const std::string& kind : kinds_) TRY(store_.watch(backend_root_ + kind, kRootToken));
    TRY(store_.watch("@releaseDomain", kReleaseToken));
    return loop_.watch(store_.fd(), EPOLLIN, [this](uint32_t) { take_store_events(); });
}

// Before any device asks for one: a guest's new disk must not start a second worker beside the one that serves its others.
void Supervisor::expect_workers() {
    for (const xen::DeviceId& id : dirty_) {
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
        const bool wanted = std::any_of(dirty_.begin(), dirty_.end(), [&](const xen::DeviceId& id) {
            return name == fmt::format("{}-{}-{}.journal", id.domid, id.kind, id.devid) ||
                   name == fmt::format("{}.worker", id.domid);
        });
        if (!wanted) (void)::unlink((directory + "/" + name).c_str());
    }
}

void Supervisor::take_store_events() {
    for (int taken = 0; taken < kEventsPerTurn; ++taken) {
        const auto event = store_.next_event();
        if (!event) return;
        if (event->token == kRootToken) {
            mark_path(event->path);
        } else if (event->token == kReleaseToken) {
            mark_all();
        } else if (const auto id = xen::DeviceId::parse(event->token)) {
            dirty_.insert(*id);
        }
    }
}

// A path under a root: a node of one device, or something above a device when more is created or removed at once.
void Supervisor::mark_path(const std::string& path) {
    if (!path.starts_with(backend_root_)) return;
    std::string_view rest = std::string_view(path).substr(backend_root_.size());
    size_t end = 0;
    for (int slash = 0; slash < 3 && end != std::string_view::npos; ++slash) {
        end = rest.find('/', slash == 0 ? 0 : end + 1);
    }
    if (const auto id = xen::DeviceId::parse(rest.substr(0, end))) {
        dirty_.insert(*id);
        return;
    }
    scan(std::string(rest.substr(0, rest.find('/'))));
    mark_all();
}

void Supervisor::scan(const std::string& kind) {
    const std::string root = backend_root_ + kind;
    for (const std::string& domid : store_.list(root)) {
        for (const std::string& devid : store_.list(root + "/" + domid)) {
            if (const auto id = xen::DeviceId::parse(kind + "/" + domid + "/" + devid)) dirty_.insert(*id);
        }
    }
}

void Supervisor::mark_all() {
    for (const auto& [id, device] : devices_) dirty_.insert(id);
}

void Supervisor::work() {
    // One look for each device that changed; what a look brings about is for the next turn, so that no device can
    // keep the others waiting.
    std::set<xen::DeviceId> now;
    now.swap(dirty_);
    for (const xen::DeviceId& id : now) {
        look(id);
        if (store_lost_) return;
    }
    answer_waiters();
    answer_replacements();
    // The loop sleeps next: wake at once when there is more to do.
    if (!dirty_.empty()) loop_.after(std::chrono::milliseconds(0), [] {});
}

void Supervisor::look(const xen::DeviceId& id) {
    auto found = devices_.find(id);
    if (found == devices_.end()) {
        if (std::find(kinds_.begin(), kinds_.end(), id.kind) == kinds_.end()) return;
        const std::string directory = xen::backend_directory(around_.own_domid, id);
        const xen::XenbusState state = xen::read_state(store_, directory);
        if (state == xen::XenbusState::unknown) return;  // no device (yet)
        const bool adopt = starting_ && had_a_worker(state);
        found = devices_.emplace(id, std::make_unique<Device>(around_, id, adopt)).first;
    }
    if (!found->second->look()) return;
    devices_.erase(found);
    dirty_.insert(id);  // the toolstack may have made it anew already
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
