// SPDX-License-Identifier: Apache-2.0
//
// Store: a connection to xenstored, over libxenstore.
//
// Two rules shape it. A backend must never bring a directory back to life that the toolstack has just removed, so
// every write that belongs to a device goes through update(), a transaction that gives up when the device's directory
// is gone. And what a guest wrote is hostile text: the readers of numbers take the whole string as a number in range,
// or nothing.
//
// Thread: one owner. libxenstore starts a reader thread of its own at the first watch; it hands events over through a
// pipe, which is what fd() is.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/result.h"

struct xs_handle;

namespace ringback::xen {

using Domid = uint16_t;

struct WatchEvent {
    std::string path;
    std::string token;
};

class Store {
  public:
    // The stock socket, or the one XENSTORED_PATH names.
    [[nodiscard]] static Result<Store> open();
    Store(Store&&) noexcept;
    Store& operator=(Store&&) noexcept;
    ~Store();

    // nullopt: no such node, or not readable. Values longer than 4096 bytes (the protocol's limit) cannot exist.
    [[nodiscard]] std::optional<std::string> read(const std::string& path) const;
    // A node that holds a decimal number in [low, high] and nothing else; nullopt: absent or anything else.
    [[nodiscard]] std::optional<uint64_t> read_number(const std::string& path, uint64_t low = 0,
                                                      uint64_t high = std::numeric_limits<uint64_t>::max()) const;
    // Names of the children; empty when there are none or no such node.
    [[nodiscard]] std::vector<std::string> list(const std::string& path) const;
    [[nodiscard]] bool exists(const std::string& path) const;

    // Writes outside any device directory (never used for device nodes, see update()).
    [[nodiscard]] Result<void> write(const std::string& path, const std::string& value) const;
    [[nodiscard]] Result<void> remove(const std::string& path) const;

    [[nodiscard]] Result<void> watch(const std::string& path, const std::string& token) const;
    void unwatch(const std::string& path, const std::string& token) const;
    // Readable when next_event() has something.
    [[nodiscard]] int fd() const;
    // The next watch event, or nullopt when there is none now. Never blocks.
    [[nodiscard]] std::optional<WatchEvent> next_event() const;

    // One read-modify-write of a device's directory.
    class Update {
      public:
        [[nodiscard]] std::optional<std::string> read(const std::string& key) const;
        void write(const std::string& key, const std::string& value);
        void write(const std::string& key, uint64_t value) { write(key, std::to_string(value)); }
        void remove(const std::string& key);

      private:
        friend class Store;
        Update(xs_handle* handle, uint32_t transaction, const std::string& directory)
            : handle_(handle), transaction_(transaction), directory_(directory) {}
        xs_handle* handle_;
        uint32_t transaction_;
        const std::string& directory_;
        int error_ = 0;
    };
    // Runs `change` in a transaction on `directory`, again when another writer got in between (bounded). ENOENT: the
    // directory is gone and nothing was written. `change` returns false to leave everything as it was.
    [[nodiscard]] Result<void> update(const std::string& directory,
                                      const std::function<bool(Update&)>& change) const;

    // This domain's own id, from the store (a daemon may run in a driver domain).
    [[nodiscard]] Result<Domid> own_domid() const;

  private:
    explicit Store(xs_handle* handle) : handle_(handle) {}
    xs_handle* handle_ = nullptr;
};

// The whole of `text` as a decimal number in [low, high]. No sign, no blanks, no leading plus.
[[nodiscard]] std::optional<uint64_t> parse_number(std::string_view text, uint64_t low, uint64_t high);

}  // namespace ringback::xen
