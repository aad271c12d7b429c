// SPDX-License-Identifier: Apache-2.0
#include "netback/supervisor.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "runtime/log.h"

namespace ringback::net {

namespace {

constexpr int kEventsPerTurn = 4096;
constexpr const char* kRootToken = "root";
constexpr const char* kReleaseToken = "release";
constexpr const char* kAliasMark = "ringback vif/";
// A worker of an earlier supervisor tries ten times a second.
constexpr std::chrono::milliseconds kAdoptPatience{1500};

Result<void> make_directory(const std::string& path, mode_t mode) {
    if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return os_error("create " + path);
    return {};
}

}  // namespace

Result<std::unique_ptr<Supervisor>> Supervisor::start(EventLoop& loop, const Config& config) {
    xen::Store store = TRY(xen::Store::open());
    const xen::Domid own = TRY(store.own_domid());
    std::unique_ptr<Supervisor> supervisor(new Supervisor(loop, config, std::move(store), TRY(bridge::Links::open())));
    Supervisor& self = *supervisor;
    self.around_.own_domid = own;
    self.root_ = fmt::format("/local/domain/{}/backend/vif", own);
    TRY(self.claim_runtime_directory());
    TRY(self.listen());
    TRY(self.watch_root());
    self.scan();
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
      links_(std::move(links)),
      worker_(loop, config),
      control_(loop, config.control_socket(), config.control_group),
      around_{.loop = loop,
              .store = store_,
              .worker = worker_,
              .links = links_,
              .config = config,
              .look_again = [this](const xen::DeviceId& id) { dirty_.insert(id); },
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

Result<void> Supervisor::claim_runtime_directory() {
    TRY(make_directory(config_.runtime_directory, 0755));
    TRY(make_directory(config_.journal_directory(), 0700));
    const std::string path = config_.runtime_directory + "/netbackd.lock";
    lock_.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock_) return os_error("open " + path);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
        return os_error(fmt::format("lock {} (is another netbackd running?)", path));
    }
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

Result<void> Supervisor::watch_root() {
    TRY(store_.watch(root_, kRootToken));
    TRY(store_.watch("@releaseDomain", kReleaseToken));
    return loop_.watch(store_.fd(), EPOLLIN, [this](uint32_t) { take_store_events(); });
}

// A journal and a TAP of ours belong to a vif that is there; the rest is what a crash of this host's services has left.
void Supervisor::remove_leftovers() {
    const auto wanted = [this](const std::string& text) {
        const auto id = xen::DeviceId::parse(text);
        return id && dirty_.contains(*id);
    };
    const std::string directory = config_.journal_directory();
    std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(directory.c_str()), &::closedir);
    while (const dirent* entry = listing ? ::readdir(listing.get()) : nullptr) {
        const std::string name = entry->d_name;
        if (!name.ends_with(".journal")) continue;
        const bool ours = std::any_of(dirty_.begin(), dirty_.end(), [&](const xen::DeviceId& id) {
            return name == fmt::format("{}-{}-{}.journal", id.domid, id.kind, id.devid);
        });
        if (!ours) (void)::unlink((directory + "/" + name).c_str());
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

// A path under the root: a node of one vif, or something above a vif when more is created or removed at once.
void Supervisor::mark_path(const std::string& path) {
    if (path.starts_with(root_ + "/")) {
        const std::string_view rest = std::string_view(path).substr(root_.size() - 3);  // from "vif" on
        size_t end = 0;
        for (int slash = 0; slash < 3 && end != std::string_view::npos; ++slash) {
            end = rest.find('/', slash == 0 ? 0 : end + 1);
        }
        if (const auto id = xen::DeviceId::parse(rest.substr(0, end))) {
            dirty_.insert(*id);
            return;
        }
    }
    scan();
    mark_all();
}

void Supervisor::scan() {
    for (const std::string& domid : store_.list(root_)) {
        for (const std::string& devid : store_.list(root_ + "/" + domid)) {
            if (const auto id = xen::DeviceId::parse("vif/" + domid + "/" + devid)) dirty_.insert(*id);
        }
    }
}

void Supervisor::mark_all() {
    for (const auto& [id, device] : devices_) dirty_.insert(id);
}

void Supervisor::work() {
    // One look for each vif that changed; what a look brings about is for the next turn, so that no vif can keep the
    // others waiting.
    std::set<xen::DeviceId> now;
    now.swap(dirty_);
    for (const xen::DeviceId& id : now) {
        look(id);
        if (store_lost_) return;
    }
    // The loop sleeps next: wake at once when there is more to do.
    if (!dirty_.empty()) loop_.after(std::chrono::milliseconds(0), [] {});
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
    if (!found->second->look()) return;
    devices_.erase(found);
    dirty_.insert(id);  // the toolstack may have made it anew already
    if (devices_.empty()) worker_.quit();
}

}  // namespace ringback::net
