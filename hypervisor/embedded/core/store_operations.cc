// SPDX-License-Identifier: Apache-2.0
//
// The store's operations on nodes, transactions and domains (see store.h). Each follows C xenstored 4.17 down
// to which error comes back, since frontends and tools tell "not there" from "not allowed" by it: a path that
// does not exist is ENOENT only to those who could have read its nearest existing ancestor, and EACCES to all
// others.

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdint>

#include "hypervisor/embedded/core/store.h"
#include "hypervisor/embedded/xs_wire.h"

namespace ringback::xen::embedded {
namespace {

// C xenstored's defaults; domain 0 is exempt.
constexpr int kMaxNodes = 1000;
constexpr std::size_t kMaxNodeSize = 2048;
constexpr std::size_t kMaxTransactions = 10;
constexpr std::size_t kMaxTransactionNodes = 1024;
constexpr std::size_t kMaxPermissions = 5;

std::string ok() {
    return std::string("OK", 3);
}

bool valid_path(const std::string& path) {
    if (path.empty() || path[0] != '/' || path.size() > XENSTORE_ABS_PATH_MAX) return false;
    if (path.size() > 1 && path.back() == '/') return false;
    if (path.find("//") != std::string::npos) return false;
    return path.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@") ==
           std::string::npos;
}

bool parse_id(const std::string& text, std::uint32_t& value) {
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

// How much of a node counts against the size quota: value, children's names, permissions.
std::size_t node_size(const Node& node, std::size_t value_size) {
    std::size_t size = value_size + node.permissions.size() * 8;
    for (const std::string& child : node.children)
        size += child.size() + 1;
    return size;
}

}  // namespace

int StoreServer::resolve(const Connection& c, const std::string& given, bool special_allowed,
                         std::string& path) const {
    if (given.empty()) return EINVAL;
    if (given[0] == '@') {
        if (!special_allowed) return EINVAL;
        path = given;
        return special_.contains(given) ? 0 : EINVAL;
    }
    if (given[0] == '/') {
        path = given;
    } else {
        if (given.size() > XENSTORE_REL_PATH_MAX) return EINVAL;
        path = "/local/domain/" + std::to_string(c.domid) + "/" + given;
    }
    return valid_path(path) ? 0 : EINVAL;
}

const Node* StoreServer::access(Connection& c, const std::string& path, std::uint8_t need, Transaction* tx,
                                int& error) {
    const Node* node = tree_.get(path, tx);
    if (node != nullptr) {
        if ((allowed(node->permissions, c.domid) & need) == need) return node;
        error = EACCES;
        return nullptr;
    }
    error = ENOENT;
    for (std::string up = path; up != "/";) {
        up = StoreTree::parent_of(up);
        const Node* parent = tree_.get(up, tx);
        if (parent == nullptr) continue;
        if ((allowed(parent->permissions, c.domid) & need) == 0) error = EACCES;
        break;
    }
    return nullptr;
}

StoreServer::Answer StoreServer::directory(Connection& c, const Message& m, Transaction* tx) {
    std::string path;
    if (m.strings.empty()) return {EINVAL, {}};
    if (int error = resolve(c, m.strings[0], false, path)) return {error, {}};
    int error = 0;
    const Node* node = access(c, path, Permission::read, tx, error);
    if (node == nullptr) return {error, {}};
    std::string names;
    for (const std::string& child : node->children)
        names.append(child).push_back('\0');
    if (names.size() > XENSTORE_PAYLOAD_MAX) return {E2BIG, {}};
    return {0, std::move(names)};
}

StoreServer::Answer StoreServer::directory_part(Connection& c, const Message& m, Transaction* tx) {
    std::string path;
    std::uint32_t offset = 0;
    if (m.strings.size() != 2 || !parse_id(m.strings[1], offset)) return {EINVAL, {}};
    if (int error = resolve(c, m.strings[0], false, path)) return {error, {}};
    int error = 0;
    const Node* node = access(c, path, Permission::read, tx, error);
    if (node == nullptr) return {error, {}};
    std::string names;
    for (const std::string& child : node->children)
        names.append(child).push_back('\0');
    std::string reply = std::to_string(node->generation);
    reply.push_back('\0');
    if (offset < names.size()) {
        std::size_t room = XENSTORE_PAYLOAD_MAX - reply.size() - 1;
        std::size_t end = names.size();
        if (end - offset > room) end = names.rfind('\0', offset + room - 1) + 1;
        reply.append(names, offset, end - offset);
        offset = static_cast<std::uint32_t>(end);
    }
    // An empty name ends the list.
    if (offset >= names.size()) reply.push_back('\0');
    return {0, std::move(reply)};
}

StoreServer::Answer StoreServer::read(Connection& c, const Message& m, Transaction* tx) {
    std::string path;
    if (m.strings.empty() || !m.terminated) return {EINVAL, {}};
    if (int error = resolve(c, m.strings[0], false, path)) return {error, {}};
    int error = 0;
    const Node* node = access(c, path, Permission::read, tx, error);
    if (node == nullptr) return {error, {}};
    return {0, node->value};
}

// Creates a node and whatever is missing above it, with the nearest ancestor's permissions.
int StoreServer::make(Connection& c, const std::string& path, Transaction* tx, std::vector<Change>& changes) {
    std::vector<std::string> missing{path};
    std::string up = StoreTree::parent_of(path);
    while (tree_.get(up, tx) == nullptr) {
        missing.push_back(up);
        up = StoreTree::parent_of(up);
    }
    Permissions inherited = tree_.get(up, tx)->permissions;
    if (c.domid != 0) {
        // What a guest creates belongs to it.
        inherited[0].domid = c.domid;
        if (tree_.owned_by(c.domid, tx) + static_cast<int>(missing.size()) > kMaxNodes) return ENOSPC;
        if (tx != nullptr && tx->touched.size() + missing.size() > kMaxTransactionNodes) return ENOSPC;
        if (node_size(*tree_.get(up, tx), 0) + StoreTree::leaf_of(missing.back()).size() + 1 > kMaxNodeSize)
            return ENOSPC;
    }
    for (auto it = missing.rbegin(); it != missing.rend(); ++it)
        tree_.create(*it, inherited, tx);
    changes.push_back({path, false, {}});
    return 0;
}

StoreServer::Answer StoreServer::write(Connection& c, const Message& m, Transaction* tx,
                                       std::vector<Change>& changes) {
    std::size_t end = m.payload.find('\0');
    std::string path;
    if (end == std::string::npos) return {EINVAL, {}};
    if (int error = resolve(c, m.strings[0], false, path)) return {error, {}};
    std::string value = m.payload.substr(end + 1);
    int error = 0;
    const Node* node = access(c, path, Permission::write, tx, error);
    if (node == nullptr && error != ENOENT) return {error, {}};
    if (c.domid != 0 && (node != nullptr ? node_size(*node, value.size()) : value.size()) > kMaxNodeSize)
        return {ENOSPC, {}};
    if (node != nullptr) {
        changes.push_back({path, false, node->permissions});
    } else if ((error = make(c, path, tx, changes)) != 0) {
        return {error, {}};
    }
    tree_.touch(path, tx).value = std::move(value);
    return {0, ok()};
}

StoreServer::Answer StoreServer::mkdir(Connection& c, const Message& m, Transaction* tx,
                                       std::vector<Change>& changes) {
    std::string path;
    if (m.strings.empty()) return {EINVAL, {}};
    if (int error = resolve(c, m.strings[0], false, path)) return {error, {}};
    int error = 0;
    if (access(c, path, Permission::write, tx, error) != nullptr) return {0, ok()};
    if (error == ENOENT) error = make(c, path, tx, changes);
    return {error, error == 0 ? ok() : std::string()};
}

StoreServer::Answer StoreServer::rm(Connection& c, const Message& m, Transaction* tx,
                                    std::vector<Change>& changes) {
    std::string path;
    if (m.strings.empty()) return {EINVAL, {}};
    if (int error = resolve(c, m.strings[0], false, path)) return {error, {}};
    if (path == "/") return {EINVAL, {}};
    int error = 0;
    if (access(c, path, Permission::write, tx, error) == nullptr) {
        // Removing what is not there succeeds if its directory is.
        if (error == ENOENT && access(c, StoreTree::parent_of(path), Permission::write, tx, error) != nullptr)
            return {0, ok()};
        return {error, {}};
    }
    tree_.remove(path, tx, changes);
    return {0, ok()};
}

StoreServer::Answer StoreServer::get_permissions(Connection& c, const Message& m, Transaction* tx) {
    std::string path;
    if (m.strings.empty()) return {EINVAL, {}};
    if (int error = resolve(c, m.strings[0], true, path)) return {error, {}};
    const Permissions* permissions = nullptr;
    int error = 0;
    if (path[0] == '@') {
        permissions = &special_.at(path);
    } else if (const Node* node = access(c, path, Permission::read, tx, error)) {
        permissions = &node->permissions;
    } else {
        return {error, {}};
    }
    std::string reply;
    for (const Permission& permission : *permissions)
        reply.append(format_permission(permission)).push_back('\0');
    return {0, std::move(reply)};
}

StoreServer::Answer StoreServer::set_permissions(Connection& c, const Message& m, Transaction* tx,
                                                 std::vector<Change>& changes) {
    std::string path;
    if (m.strings.size() < 2) return {EINVAL, {}};
    if (int error = resolve(c, m.strings[0], true, path)) return {error, {}};
    Permissions permissions;
    for (std::size_t i = 1; i < m.strings.size(); ++i) {
        Permission permission;
        if (!parse_permission(m.strings[i], permission)) return {EINVAL, {}};
        permissions.push_back(permission);
    }
    if (c.domid != 0 && permissions.size() > kMaxPermissions) return {ENOSPC, {}};
    if (path[0] == '@') {
        if (c.domid != 0) return {EACCES, {}};
        special_[path] = std::move(permissions);
        return {0, ok()};
    }
    int error = 0;
    const Node* node = access(c, path, Permission::write, tx, error);
    if (node == nullptr) return {error, {}};
    if (c.domid != 0) {
        // Only the owner, and it cannot give the node away.
        if (node->permissions[0].domid != c.domid) return {EACCES, {}};
        if (permissions[0].domid != c.domid) return {EPERM, {}};
    }
    changes.push_back({path, false, node->permissions});
    tree_.set_permissions(path, std::move(permissions), tx);
    return {0, ok()};
}

StoreServer::Answer StoreServer::start_transaction(Connection& c, const Message& m) {
    if (m.transaction_id != 0) return {EBUSY, {}};
    if (c.domid != 0 && c.transactions.size() >= kMaxTransactions) return {ENOSPC, {}};
    while (c.next_transaction == 0 || c.transactions.contains(c.next_transaction))
        ++c.next_transaction;
    std::uint32_t id = c.next_transaction++;
    c.transactions[id] = std::make_unique<Transaction>();
    std::string reply = std::to_string(id);
    reply.push_back('\0');
    return {0, std::move(reply)};
}

StoreServer::Answer StoreServer::end_transaction(Connection& c, const Message& m,
                                                 std::vector<Change>& changes) {
    if (m.strings.size() != 1 || (m.strings[0] != "T" && m.strings[0] != "F")) return {EINVAL, {}};
    auto found = c.transactions.find(m.transaction_id);
    if (found == c.transactions.end()) return {ENOENT, {}};
    std::unique_ptr<Transaction> tx = std::move(found->second);
    c.transactions.erase(found);
    if (m.strings[0] == "F") return {0, ok()};
    for (const auto& [owner, delta] : tx->owned_delta)
        if (owner != 0 && owner == c.domid && delta > 0 && tree_.owned_by(owner, tx.get()) > kMaxNodes)
            return {ENOSPC, {}};
    if (!tree_.commit(*tx)) return {EAGAIN, {}};
    changes = std::move(tx->changes);
    return {0, ok()};
}

StoreServer::Answer StoreServer::domain_operation(Connection& c, const Message& m) {
    std::uint32_t id = 0;
    if (m.strings.empty() || !parse_id(m.strings[0], id) || id >= kFirstReservedDomid) return {EINVAL, {}};
    auto domid = static_cast<std::uint16_t>(id);
    if (m.type == XS_GET_DOMAIN_PATH) {
        std::string reply = "/local/domain/" + std::to_string(id);
        reply.push_back('\0');
        return {0, std::move(reply)};
    }
    if (m.type == XS_IS_DOMAIN_INTRODUCED)
        return {0, std::string(introduced_.contains(domid) ? "T" : "F", 2)};
    if (c.domid != 0) return {EACCES, {}};
    switch (m.type) {
        case XS_INTRODUCE:
            if (m.strings.size() != 3) return {EINVAL, {}};
            if (hypervisor_.find_alive(domid) == nullptr) return {EINVAL, {}};
            introduced_.insert(domid);
            return {0, ok()};
        case XS_RELEASE:
            if (domid == 0) return {EINVAL, {}};
            if (introduced_.erase(domid) == 0) return {ENOENT, {}};
            return {0, ok()};
        case XS_RESUME:
            return introduced_.contains(domid) ? Answer{0, ok()} : Answer{ENOENT, {}};
        // A device model's rights over its guest: no device model lives here.
        default:
            return {ENOSYS, {}};
    }
}

StoreServer::Answer StoreServer::control(Connection& c, const Message& m) {
    if (c.domid != 0) return {EACCES, {}};
    if (m.strings.empty()) return {EINVAL, {}};
    if (m.strings[0] == "help") return {0, std::string("check\nhelp", 11)};
    if (m.strings[0] == "check") return {0, ok()};
    return {EINVAL, {}};
}

void StoreServer::write(const std::string& path, const std::string& value, const std::string& permissions) {
    std::vector<std::string> missing;
    for (std::string up = path; tree_.get(up, nullptr) == nullptr; up = StoreTree::parent_of(up))
        missing.push_back(up);
    for (auto it = missing.rbegin(); it != missing.rend(); ++it)
        tree_.create(*it, {{0, Permission::none}}, nullptr);
    tree_.touch(path, nullptr).value = value;
    Permission owner;
    if (parse_permission(permissions, owner)) tree_.set_permissions(path, {owner}, nullptr);
}

}  // namespace ringback::xen::embedded
