// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/snapshots.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "disk-images/qcow2/bytes.h"
#include "disk-images/qcow2/change.h"

namespace ringback::image::qcow2 {

namespace {

constexpr size_t kEntry = 40;
constexpr uint32_t kMaxExtra = 1024;

std::string text_at(const std::byte* at, size_t bytes) { return {reinterpret_cast<const char*>(at), bytes}; }

}  // namespace

std::vector<std::byte> encode_snapshots(const std::vector<Snapshot>& list) {
    std::vector<std::byte> out;
    for (const Snapshot& one : list) {
        const size_t begin = out.size();
        out.resize(begin + (kEntry + one.extra.size() + one.id.size() + one.name.size() + 7) / 8 * 8);
        std::byte* at = out.data() + begin;
        put64(at, one.l1_offset);
        put32(at + 8, one.l1_entries);
        put16(at + 12, static_cast<uint16_t>(one.id.size()));
        put16(at + 14, static_cast<uint16_t>(one.name.size()));
        put32(at + 16, one.seconds);
        put32(at + 20, one.nanoseconds);
        put64(at + 24, one.vm_clock);
        put32(at + 32, static_cast<uint32_t>(std::min<uint64_t>(one.vm_state_bytes, UINT32_MAX)));
        put32(at + 36, static_cast<uint32_t>(one.extra.size()));
        at = std::copy(one.extra.begin(), one.extra.end(), at + kEntry);
        std::memcpy(at, one.id.data(), one.id.size());
        std::memcpy(at + one.id.size(), one.name.data(), one.name.size());
    }
    return out;
}

Result<std::vector<Snapshot>> read_snapshots(BlockingFile& file, const Header& header) {
    std::vector<Snapshot> list;
    uint64_t at = header.snapshots_offset;
    for (uint32_t i = 0; i < header.snapshots; ++i) {
        std::array<std::byte, kEntry> fixed;
        TRY(file.read(at, fixed));
        Snapshot& one = list.emplace_back();
        one.l1_offset = get64(fixed.data());
        one.l1_entries = get32(fixed.data() + 8);
        one.seconds = get32(fixed.data() + 16);
        one.nanoseconds = get32(fixed.data() + 20);
        one.vm_clock = get64(fixed.data() + 24);
        one.vm_state_bytes = get32(fixed.data() + 32);
        const size_t id = get16(fixed.data() + 12);
        const size_t name = get16(fixed.data() + 14);
        const uint32_t extra = get32(fixed.data() + 36);
        if (extra > kMaxExtra || uint64_t{one.l1_entries} * 8 > kMaxL1Bytes) {
            return Error{EUCLEAN, fmt::format("read the snapshots of {}: number {} makes no sense", file.name(), i + 1)};
        }
        std::vector<std::byte> rest(extra + id + name);
        TRY(file.read(at + kEntry, rest));
        one.extra.assign(rest.begin(), rest.begin() + extra);
        if (extra >= 8) one.vm_state_bytes = get64(rest.data());
        if (extra >= 16) one.disk_bytes = get64(rest.data() + 8);
        one.id = text_at(rest.data() + extra, id);
        one.name = text_at(rest.data() + extra + id, name);
        at += (kEntry + rest.size() + 7) / 8 * 8;
    }
    return list;
}

Result<size_t> find_snapshot(const std::vector<Snapshot>& list, const std::string& word, const std::string& file) {
    const auto named = [&](const Snapshot& one) { return one.name == word; };
    const auto by_name = std::find_if(list.begin(), list.end(), named);
    const auto by_id = std::find_if(list.begin(), list.end(), [&](const Snapshot& one) { return one.id == word; });
    if (by_name != list.end() && std::count_if(list.begin(), list.end(), named) == 1 && (by_id == list.end() || by_id == by_name)) {
        return static_cast<size_t>(by_name - list.begin());
    }
    if (by_id != list.end() && by_name == list.end()) return static_cast<size_t>(by_id - list.begin());
    if (by_name == list.end()) return Error{ENOENT, fmt::format("{} has no snapshot \"{}\"", file, word)};
    return Error{EINVAL, fmt::format("{} has several snapshots \"{}\"; say which by its id", file, word)};
}

Result<Snapshot> create_snapshot(BlockingFile& file, int fd, const std::string& name, uint64_t now_ns) {
    if (name.empty() || name.size() > 255) return Error{EINVAL, fmt::format("snapshot {}: a name of 1 to 255 bytes is needed", file.name())};
    Change change(file, fd, "change the snapshots");
    TRY(change.begin());
    if (change.list.size() >= kMaxSnapshots) return os_error(ENOSPC, fmt::format("snapshot {}", file.name()));
    uint64_t highest = 0;
    for (const Snapshot& one : change.list) {
        if (one.name == name || one.id == name) {
            return Error{EEXIST, fmt::format("snapshot {}: there is a snapshot \"{}\" already", file.name(), name)};
        }
        if (!one.id.empty() && one.id.size() < 19 && one.id.find_first_not_of("0123456789") == std::string::npos) {
            highest = std::max<uint64_t>(highest, std::stoull(one.id));
        }
    }
    Snapshot made;
    made.id = std::to_string(highest + 1);
    made.name = name;
    made.seconds = static_cast<uint32_t>(now_ns / 1'000'000'000);
    made.nanoseconds = static_cast<uint32_t>(now_ns % 1'000'000'000);
    made.disk_bytes = change.header.bytes;
    made.extra.resize(24);
    put64(made.extra.data() + 8, made.disk_bytes);
    put64(made.extra.data() + 16, ~uint64_t{0});  // no instructions were counted
    made.l1_entries = static_cast<uint32_t>(change.active.size());
    made.l1_offset = TRY(change.append_l1(change.active));
    change.list.push_back(made);
    TRY(change.commit());
    return made;
}

Result<Snapshot> apply_snapshot(BlockingFile& file, int fd, const std::string& word) {
    Change change(file, fd, "change the snapshots");
    TRY(change.begin());
    const Snapshot wanted = change.list[TRY(find_snapshot(change.list, word, file.name()))];
    const uint64_t bytes = wanted.disk_bytes != 0 ? wanted.disk_bytes : change.header.bytes;
    if (bytes % 512 != 0) return Error{EUCLEAN, fmt::format("apply {} to {}: its disk has {} bytes", word, file.name(), bytes)};
    TRY(mark_bitmaps_in_use(file, change.header));
    change.active = TRY(change.read_l1(wanted.l1_offset, wanted.l1_entries));
    change.active.resize(change.header.l1_needed(bytes));  // a machine's memory, behind it, is not the disk's
    change.header.bytes = bytes;
    TRY(change.commit());
    return wanted;
}

Result<Snapshot> remove_snapshot(BlockingFile& file, int fd, const std::string& word) {
    Change change(file, fd, "change the snapshots");
    TRY(change.begin());
    const size_t index = TRY(find_snapshot(change.list, word, file.name()));
    const Snapshot gone = change.list[index];
    change.list.erase(change.list.begin() + static_cast<ptrdiff_t>(index));
    TRY(change.commit());
    return gone;
}

}  // namespace ringback::image::qcow2
