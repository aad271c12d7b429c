// SPDX-License-Identifier: Apache-2.0
//
// See store_tree.h.
#include "hypervisor/embedded/core/store_tree.h"

#include <algorithm>
#include <charconv>

namespace ringback::xen::embedded {

bool parse_permission(std::string_view text, Permission& permission) {
    if (text.size() < 2) return false;
    switch (text[0]) {
        case 'n':
            permission.bits = Permission::none;
            break;
        case 'r':
            permission.bits = Permission::read;
            break;
        case 'w':
            permission.bits = Permission::write;
            break;
        case 'b':
            permission.bits = Permission::both;
            break;
        default:
            return false;
    }
    auto [end, error] = std::from_chars(text.data() + 1, text.data() + text.size(), permission.domid);
    return error == std::errc() && end == text.data() + text.size();
}

std::string format_permission(const Permission& permission) {
    static constexpr char kLetters[] = {'n', 'r', 'w', 'b'};
    return kLetters[permission.bits & 3] + std::to_string(permission.domid);
}

std::uint8_t allowed(const Permissions& permissions, std::uint16_t domid) {
    if (domid == 0) return Permission::both;
    if (permissions.empty()) return Permission::none;
    if (permissions[0].domid == domid) return Permission::both;
    for (std::size_t i = 1; i < permissions.size(); ++i)
        if (permissions[i].domid == domid) return permissions[i].bits;
    return permissions[0].bits;
}

StoreTree::StoreTree() {
    nodes_["/"] = Node{{{0, Permission::none}}, "", {}, ++generation_};
    owned_[0] = 1;
}

std::string StoreTree::parent_of(const std::string& path) {
    std::size_t slash = path.rfind('/');
    return slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
}

std::string_view StoreTree::leaf_of(std::string_view path) {
    return path.substr(path.rfind('/') + 1);
}

const Node* StoreTree::get(const std::string& path, Transaction* tx) {
    auto found = nodes_.find(path);
    if (tx == nullptr) return found == nodes_.end() ? nullptr : &found->second;
    auto [entry, fresh] = tx->touched.try_emplace(path);
    if (fresh && found != nodes_.end()) {
        entry->second.node = found->second;
        entry->second.seen = found->second.generation;
    }
    return entry->second.node ? &*entry->second.node : nullptr;
}

Node& StoreTree::touch(const std::string& path, Transaction* tx) {
    if (tx == nullptr) {
        Node& node = nodes_.at(path);
        node.generation = ++generation_;
        return node;
    }
    get(path, tx);
    Transaction::Entry& entry = tx->touched.at(path);
    entry.written = true;
    return *entry.node;
}

void StoreTree::account(std::uint16_t owner, int delta, Transaction* tx) {
    (tx != nullptr ? tx->owned_delta : owned_)[owner] += delta;
}

int StoreTree::owned_by(std::uint16_t domid, const Transaction* tx) const {
    auto base = owned_.find(domid);
    int count = base == owned_.end() ? 0 : base->second;
    if (tx != nullptr) {
        auto delta = tx->owned_delta.find(domid);
        if (delta != tx->owned_delta.end()) count += delta->second;
    }
    return count;
}

Node& StoreTree::create(const std::string& path, Permissions permissions, Transaction* tx) {
    touch(parent_of(path), tx).children.emplace_back(leaf_of(path));
    account(permissions[0].domid, 1, tx);
    Node node{std::move(permissions), "", {}, 0};
    if (tx == nullptr) {
        node.generation = ++generation_;
        return nodes_[path] = std::move(node);
    }
    get(path, tx);
    Transaction::Entry& entry = tx->touched.at(path);
    entry.written = true;
    entry.node = std::move(node);
    return *entry.node;
}

void StoreTree::erase(const std::string& path, Transaction* tx) {
    if (tx == nullptr) {
        nodes_.erase(path);
        return;
    }
    Transaction::Entry& entry = tx->touched.at(path);
    entry.written = true;
    entry.node.reset();
}

void StoreTree::remove(const std::string& path, Transaction* tx, std::vector<Change>& removed) {
    auto& siblings = touch(parent_of(path), tx).children;
    siblings.erase(std::remove(siblings.begin(), siblings.end(), leaf_of(path)), siblings.end());
    // Pre-order into a list, then erased from its end: children before parents.
    std::vector<Change> found;
    std::vector<std::string> open{path};
    while (!open.empty()) {
        std::string current = std::move(open.back());
        open.pop_back();
        const Node* node = get(current, tx);
        if (node == nullptr) continue;
        for (const std::string& child : node->children)
            open.push_back(current + "/" + child);
        found.push_back({std::move(current), true, node->permissions});
    }
    for (auto it = found.rbegin(); it != found.rend(); ++it) {
        account(it->before[0].domid, -1, tx);
        erase(it->path, tx);
        it->exact = it->path != path;
        removed.push_back(std::move(*it));
    }
}

void StoreTree::set_permissions(const std::string& path, Permissions permissions, Transaction* tx) {
    Node& node = touch(path, tx);
    account(node.permissions[0].domid, -1, tx);
    account(permissions[0].domid, 1, tx);
    node.permissions = std::move(permissions);
}

bool StoreTree::commit(Transaction& tx) {
    for (const auto& [path, entry] : tx.touched) {
        auto found = nodes_.find(path);
        if ((found == nodes_.end() ? 0 : found->second.generation) != entry.seen) return false;
    }
    for (auto& [path, entry] : tx.touched) {
        if (!entry.written) continue;
        if (entry.node) {
            entry.node->generation = ++generation_;
            nodes_[path] = std::move(*entry.node);
        } else {
            nodes_.erase(path);
        }
    }
    for (const auto& [owner, delta] : tx.owned_delta)
        owned_[owner] += delta;
    return true;
}

}  // namespace ringback::xen::embedded
