// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/store.h"

extern "C" {
#include <xenstore.h>
}

#include <charconv>
#include <cstdlib>
#include <utility>

namespace ringback::xen {

namespace {

constexpr int kMaxAttempts = 64;  // a transaction that loses this often meets a broken store, not a busy one

std::optional<std::string> read_node(xs_handle* handle, xs_transaction_t transaction, const std::string& path) {
    unsigned length = 0;
    std::unique_ptr<void, decltype(&free)> value(xs_read(handle, transaction, path.c_str(), &length), &free);
    if (!value) return std::nullopt;
    return std::string(static_cast<const char*>(value.get()), length);
}

}  // namespace

std::optional<uint64_t> parse_number(std::string_view text, uint64_t low, uint64_t high) {
    uint64_t value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value, 10);
    if (error != std::errc{} || stop != end || value < low || value > high) return std::nullopt;
    return value;
}

Result<Store> Store::open() {
    xs_handle* handle = xs_open(0);
    if (handle == nullptr) return os_error("connect to xenstored");
    return Store(handle);
}

Store::Store(Store&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

Store& Store::operator=(Store&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
}

Store::~Store() {
    if (handle_ != nullptr) xs_close(handle_);
}

std::optional<std::string> Store::read(const std::string& path) const {
    return read_node(handle_, XBT_NULL, path);
}

std::optional<uint64_t> Store::read_number(const std::string& path, uint64_t low, uint64_t high) const {
    const auto text = read(path);
    if (!text) return std::nullopt;
    return parse_number(*text, low, high);
}

std::vector<std::string> Store::list(const std::string& path) const {
    unsigned count = 0;
    std::unique_ptr<char*, decltype(&free)> names(xs_directory(handle_, XBT_NULL, path.c_str(), &count), &free);
    if (!names) return {};
    return {names.get(), names.get() + count};
}

bool Store::exists(const std::string& path) const { return read(path).has_value(); }

Result<void> Store::write(const std::string& path, const std::string& value) const {
    if (xs_write(handle_, XBT_NULL, path.c_str(), value.data(), static_cast<unsigned>(value.size()))) return {};
    return os_error("write store node " + path);
}

Result<void> Store::remove(const std::string& path) const {
    if (xs_rm(handle_, XBT_NULL, path.c_str())) return {};
    return os_error("remove store node " + path);
}

Result<void> Store::watch(const std::string& path, const std::string& token) const {
    if (xs_watch(handle_, path.c_str(), token.c_str())) return {};
    return os_error("watch store node " + path);
}

void Store::unwatch(const std::string& path, const std::string& token) const {
    // The node or the watch may be gone already; either way it no longer fires.
    (void)xs_unwatch(handle_, path.c_str(), token.c_str());
}

int Store::fd() const { return xs_fileno(handle_); }

std::optional<WatchEvent> Store::next_event() const {
    std::unique_ptr<char*, decltype(&free)> event(xs_check_watch(handle_), &free);
    if (!event) return std::nullopt;
    return WatchEvent{event.get()[XS_WATCH_PATH], event.get()[XS_WATCH_TOKEN]};
}

std::optional<std::string> Store::Update::read(const std::string& key) const {
    return read_node(handle_, transaction_, directory_ + "/" + key);
}

void Store::Update::write(const std::string& key, const std::string& value) {
    const std::string path = directory_ + "/" + key;
    if (!xs_write(handle_, transaction_, path.c_str(), value.data(), static_cast<unsigned>(value.size())) &&
        error_ == 0) {
        error_ = errno;
    }
}

void Store::Update::remove(const std::string& key) {
    const std::string path = directory_ + "/" + key;
    if (!xs_rm(handle_, transaction_, path.c_str()) && errno != ENOENT && error_ == 0) error_ = errno;
}

Result<void> Store::update(const std::string& directory, const std::function<bool(Update&)>& change) const {
    for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
        const xs_transaction_t transaction = xs_transaction_start(handle_);
        if (transaction == XBT_NULL) return os_error("begin a store transaction on " + directory);
        if (!read_node(handle_, transaction, directory)) {
            (void)xs_transaction_end(handle_, transaction, true);
            return os_error(ENOENT, "update store directory " + directory);
        }
        Update update(handle_, transaction, directory);
        const bool wanted = change(update);
        if (!wanted || update.error_ != 0) {
            (void)xs_transaction_end(handle_, transaction, true);
            if (update.error_ != 0) return os_error(update.error_, "update store directory " + directory);
            return {};
        }
        if (xs_transaction_end(handle_, transaction, false)) return {};
        if (errno != EAGAIN) return os_error("commit a store transaction on " + directory);
    }
    return os_error(EBUSY, "commit a store transaction on " + directory);
}

Result<Domid> Store::own_domid() const {
    // Relative to this domain's own home.
    const auto domid = read_number("domid", 0, 0x7fef);
    if (!domid) return os_error(ENOENT, "read this domain's id from store node domid");
    return static_cast<Domid>(*domid);
}

}  // namespace ringback::xen
