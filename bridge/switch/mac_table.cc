// SPDX-License-Identifier: Apache-2.0
#include "bridge/switch/mac_table.h"

#include <fmt/format.h>
#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_jhash.h>
#include <sys/random.h>

#include <algorithm>

#include "runtime/check.h"

namespace ringback::bridge {

namespace {

constexpr uint32_t kSweepAtOnce = 64;

}  // namespace

Result<std::unique_ptr<MacTable>> MacTable::create(const Settings& settings) {
    std::unique_ptr<MacTable> table(new MacTable(settings));
    uint32_t secret = 0;
    if (::getrandom(&secret, sizeof secret, 0) != static_cast<ssize_t>(sizeof secret)) return os_error("get a random number");
    const std::string name = fmt::format("macs-{:x}", reinterpret_cast<uintptr_t>(table.get()));
    rte_hash_parameters parameters{};
    parameters.name = name.c_str();
    parameters.entries = settings.entries;
    parameters.key_len = sizeof(MacKey);
    parameters.hash_func = rte_jhash;
    parameters.hash_func_init_val = secret;
    parameters.extra_flag = RTE_HASH_EXTRA_FLAGS_EXT_TABLE;
    table->hash_ = ::rte_hash_create(&parameters);
    if (table->hash_ == nullptr) {
        return os_error(rte_errno, fmt::format("make an address table of {} entries", settings.entries));
    }
    return table;
}

MacTable::~MacTable() {
    if (hash_ != nullptr) ::rte_hash_free(hash_);
}

uint32_t& MacTable::learned_by(PortIndex port) {
    if (learned_.size() <= port) learned_.resize(port + size_t{1});
    return learned_[port];
}

std::optional<PortIndex> MacTable::find(MacKey key, uint64_t now, Hint& hint) const {
    if (hint.key != key || hint.generation != generation_) {
        hint = {key, generation_, ::rte_hash_lookup(hash_, &key)};
    }
    if (hint.place < 0) return std::nullopt;
    const Value& value = values_[static_cast<size_t>(hint.place)];
    if (old(value, now)) return std::nullopt;
    return value.port;
}

MacTable::Value* MacTable::insert(MacKey key, PortIndex port) {
    const int32_t place = ::rte_hash_add_key(hash_, &key);
    if (place < 0 || static_cast<size_t>(place) >= values_.size()) return nullptr;
    ++generation_;
    Value& value = values_[static_cast<size_t>(place)];
    value = {.key = key, .seen = 0, .port = port, .used = true, .pinned = false};
    return &value;
}

void MacTable::erase(Value& value) {
    (void)::rte_hash_del_key(hash_, &value.key);
    if (!value.pinned) --learned_by(value.port);
    value = {};
    ++generation_;
}

// Some of the table at a time: what a full table costs is shared out among those who want a place in it.
void MacTable::sweep(uint64_t now) {
    for (uint32_t i = 0; i < kSweepAtOnce; ++i) {
        Value& value = values_[swept_];
        swept_ = (swept_ + 1) % settings_.entries;
        if (value.used && old(value, now)) erase(value);
    }
}

MacTable::Learned MacTable::learn(MacKey key, PortIndex port, uint64_t now) {
    const int32_t place = ::rte_hash_lookup(hash_, &key);
    if (place >= 0) {
        Value& value = values_[static_cast<size_t>(place)];
        if (value.pinned) return value.port == port ? Learned::yes : Learned::pinned_elsewhere;
        if (value.port != port) {
            if (learned_by(port) >= settings_.per_port) return Learned::full;
            --learned_by(value.port);
            ++learned_by(port);
            value.port = port;
        }
        value.seen = now;
        return Learned::yes;
    }
    if (learned_by(port) >= settings_.per_port) {
        sweep(now);
        if (learned_by(port) >= settings_.per_port) return Learned::full;
    }
    Value* value = insert(key, port);
    if (value == nullptr) {
        sweep(now);
        value = insert(key, port);
    }
    if (value == nullptr) return Learned::full;
    value->seen = now;
    ++learned_by(port);
    return Learned::yes;
}

void MacTable::erase_oldest() {
    const auto seen = [](const Value& value) { return value.used && !value.pinned ? value.seen : UINT64_MAX; };
    Value& oldest = *std::min_element(values_.begin(), values_.end(),
                                      [&seen](const Value& one, const Value& other) { return seen(one) < seen(other); });
    if (oldest.used && !oldest.pinned) erase(oldest);
}

std::optional<PortIndex> MacTable::pinned_by(MacKey key) const {
    const int32_t place = ::rte_hash_lookup(hash_, &key);
    if (place < 0 || !values_[static_cast<size_t>(place)].pinned) return std::nullopt;
    return values_[static_cast<size_t>(place)].port;
}

bool MacTable::pin(MacKey key, PortIndex port) {
    (void)learned_by(port);  // room for it, so that learning does not allocate
    const int32_t place = ::rte_hash_lookup(hash_, &key);
    if (place >= 0) {
        Value& value = values_[static_cast<size_t>(place)];
        INVARIANT(!value.pinned || value.port == port);
        if (value.pinned) return true;
        erase(value);
    }
    Value* value = insert(key, port);
    if (value == nullptr) {
        erase_oldest();
        value = insert(key, port);
    }
    if (value == nullptr) return false;
    value->pinned = true;
    return true;
}

void MacTable::forget(PortIndex port) {
    for (Value& value : values_) {
        if (value.used && value.port == port) erase(value);
    }
}

std::vector<MacTable::Entry> MacTable::list(uint64_t now, size_t most, uint32_t& cursor) const {
    std::vector<Entry> entries;
    for (; cursor < values_.size(); ++cursor) {
        const Value& value = values_[cursor];
        if (!value.used || old(value, now)) continue;
        if (entries.size() == most) return entries;
        Entry entry{.vlan = static_cast<uint16_t>(value.key & 0xfff), .port = value.port, .pinned = value.pinned};
        for (size_t i = 0; i < entry.address.size(); ++i) {
            entry.address[i] = static_cast<uint8_t>(value.key >> (12 + 8 * (5 - i)));
        }
        if (!value.pinned && now > value.seen) entry.age_ns = now - value.seen;
        entries.push_back(entry);
    }
    cursor = 0;
    return entries;
}

}  // namespace ringback::bridge
