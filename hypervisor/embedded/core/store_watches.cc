// SPDX-License-Identifier: Apache-2.0
//
// The store's watches (see store.h). A watch fires for its node and for everything below it; when a tree is
// removed, watches on nodes inside it fire too, each for its own node. An event is only given to those who
// may read the node (before or after the change) or its parent.

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "hypervisor/embedded/core/store.h"
#include "hypervisor/embedded/xs_wire.h"

namespace ringback::xen::embedded {
namespace {

constexpr std::size_t kMaxWatches = 128;  // for a guest
constexpr auto kShuffleWindow = std::chrono::milliseconds(3);

bool is_at_or_below(const std::string& path, const std::string& top) {
    if (path == top || top == "/") return true;
    return path.size() > top.size() && path.starts_with(top) && path[top.size()] == '/';
}

int depth_below(const std::string& path, const std::string& top) {
    std::string_view rest = std::string_view(path).substr(top == "/" ? 0 : top.size());
    return rest == "/" ? 0 : static_cast<int>(std::count(rest.begin(), rest.end(), '/'));
}

}  // namespace

StoreServer::Answer StoreServer::watch(Connection& c, const Message& m) {
    if (m.strings.size() < 2 || m.strings.size() > 3 || !m.terminated) return {EINVAL, {}};
    Watch watch;
    watch.given = m.strings[0];
    watch.token = m.strings[1];
    if (m.strings.size() == 3) {
        const std::string& text = m.strings[2];
        auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), watch.depth);
        if (error != std::errc() || end != text.data() + text.size() || watch.depth < 0) return {EINVAL, {}};
    }
    if (int error = resolve(c, watch.given, true, watch.path)) return {error, {}};
    if (watch.given[0] != '/' && watch.given[0] != '@') watch.prefix = watch.path.size() - watch.given.size();
    for (const Watch& other : c.watches)
        if (other.path == watch.path && other.token == watch.token) return {EEXIST, {}};
    if (c.domid != 0 && c.watches.size() >= kMaxWatches) return {E2BIG, {}};
    c.watches.push_back(std::move(watch));
    return {0, std::string("OK", 3)};
}

StoreServer::Answer StoreServer::unwatch(Connection& c, const Message& m) {
    if (m.strings.size() != 2) return {EINVAL, {}};
    std::string path;
    if (int error = resolve(c, m.strings[0], true, path)) return {error, {}};
    auto found = std::find_if(c.watches.begin(), c.watches.end(),
                              [&](const Watch& w) { return w.path == path && w.token == m.strings[1]; });
    if (found == c.watches.end()) return {ENOENT, {}};
    c.watches.erase(found);
    return {0, std::string("OK", 3)};
}

bool StoreServer::may_see(Connection& c, const std::string& path, const Permissions& before) {
    if (c.domid == 0) return true;
    if (!before.empty() && (allowed(before, c.domid) & Permission::read) != 0) return true;
    const Node* node = tree_.get(path, nullptr);
    if (node != nullptr && (allowed(node->permissions, c.domid) & Permission::read) != 0) return true;
    const Node* parent = tree_.get(StoreTree::parent_of(path), nullptr);
    return parent != nullptr && (allowed(parent->permissions, c.domid) & Permission::read) != 0;
}

void StoreServer::fire(const Change& change) {
    for (auto& [fd, c] : connections_) {
        for (const Watch& watch : c.watches) {
            if (change.exact ? watch.path != change.path : !is_at_or_below(change.path, watch.path)) continue;
            if (watch.depth >= 0 && depth_below(change.path, watch.path) > watch.depth) continue;
            if (may_see(c, change.path, change.before)) add_event(c, watch, change.path);
        }
    }
}

void StoreServer::fire_special(const std::string& name) {
    for (auto& [fd, c] : connections_)
        for (const Watch& watch : c.watches)
            if (watch.path == name && (allowed(special_.at(name), c.domid) & Permission::read) != 0)
                add_event(c, watch, name);
}

void StoreServer::add_event(Connection& c, const Watch& watch, const std::string& path) {
    Event event{path.substr(std::min(watch.prefix, path.size())), watch.token};
    if (!shuffling_) {
        std::string payload = event.path;
        payload.push_back('\0');
        payload.append(event.token).push_back('\0');
        queue(c, XS_WATCH_EVENT, 0, 0, payload);
        return;
    }
    c.held.push_back(std::move(event));
    if (c.flush_scheduled) return;
    c.flush_scheduled = true;
    int fd = c.socket.get();
    loop_.at(Loop::Clock::now() + kShuffleWindow, [this, fd] { send_held(fd); });
}

void StoreServer::send_held(int fd) {
    auto found = connections_.find(fd);
    if (found == connections_.end()) return;
    Connection& c = found->second;
    c.flush_scheduled = false;
    std::vector<Event> events = std::move(c.held);
    c.held.clear();
    while (!events.empty()) {
        // Any path may be next, but of that path the oldest event.
        std::size_t pick = random_() % events.size();
        auto oldest = std::find_if(events.begin(), events.end(),
                                   [&](const Event& e) { return e.path == events[pick].path; });
        std::string payload = oldest->path;
        payload.push_back('\0');
        payload.append(oldest->token).push_back('\0');
        queue(c, XS_WATCH_EVENT, 0, 0, payload);
        events.erase(oldest);
    }
}

void StoreServer::shuffle(bool on, std::uint32_t seed) {
    shuffling_ = on;
    random_.seed(seed);
}

}  // namespace ringback::xen::embedded
