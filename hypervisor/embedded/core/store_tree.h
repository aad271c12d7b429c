// SPDX-License-Identifier: Apache-2.0
//
// The store's nodes, their permissions, and transactions with conflict detection, as C xenstored has them: a
// node carries the generation of its last change; a transaction works on copies of what it touched and
// commits only if every node it has seen still has the generation it saw (docs/misc/xenstore.txt). A new
// child changes its parent, so two transactions that create in one directory conflict.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ringback::xen::embedded {

struct Permission {
    enum Bits : std::uint8_t { none = 0, read = 1, write = 2, both = 3 };
    std::uint16_t domid = 0;
    std::uint8_t bits = none;

    bool operator==(const Permission&) const = default;
};

// The first one names the owner, and its bits are what everybody not named gets.
using Permissions = std::vector<Permission>;

bool parse_permission(std::string_view text, Permission& permission);
std::string format_permission(const Permission& permission);
// What `domid` may do; the owner and domain 0 may do everything.
std::uint8_t allowed(const Permissions& permissions, std::uint16_t domid);

struct Node {
    Permissions permissions;
    std::string value;
    std::vector<std::string> children;
    std::uint64_t generation = 0;
};

struct Change {
    std::string path;
    bool exact = false;  // only watches on this very node: it went with an ancestor
    Permissions before;  // of the node before the change, empty if it is new
};

struct Transaction {
    struct Entry {
        std::optional<Node> node;
        std::uint64_t seen = 0;  // generation in the tree when first touched, 0 for absent
        bool written = false;
    };
    std::map<std::string, Entry> touched;
    std::map<std::uint16_t, int> owned_delta;
    std::vector<Change> changes;
};

class StoreTree {
  public:
    StoreTree();

    // All take the transaction to work in, or null. Returned pointers live until the next call.
    const Node* get(const std::string& path, Transaction* tx);
    Node& touch(const std::string& path, Transaction* tx);  // for writing; must exist
    Node& create(const std::string& path, Permissions permissions, Transaction* tx);  // the parent must exist
    // Removes a node and all below it; appends what went, children first.
    void remove(const std::string& path, Transaction* tx, std::vector<Change>& removed);
    void set_permissions(const std::string& path, Permissions permissions, Transaction* tx);

    // False if something the transaction saw has changed since.
    bool commit(Transaction& tx);

    int owned_by(std::uint16_t domid, const Transaction* tx) const;
    std::size_t size() const { return nodes_.size(); }

    static std::string parent_of(const std::string& path);
    static std::string_view leaf_of(std::string_view path);

  private:
    void account(std::uint16_t owner, int delta, Transaction* tx);
    void erase(const std::string& path, Transaction* tx);

    std::unordered_map<std::string, Node> nodes_;
    std::map<std::uint16_t, int> owned_;
    std::uint64_t generation_ = 0;
};

}  // namespace ringback::xen::embedded
