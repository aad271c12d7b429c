// SPDX-License-Identifier: Apache-2.0
//
// ThrottleBook: how fast disks may be, as the administrator has said it: of a disk, of all disks of a guest, of a group of
// disks. Kept in a file, as it outlives guests' reboots, this host's, and blkbackd. A guest is its UUID here.
//
// The file is JSON, and is written whole: a new one beside it, synced, then renamed. One that cannot be read is left alone, and
// nothing is changed until somebody has looked at it: serving disks goes before limiting them.
//
// Thread: the supervisor's.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "runtime/result.h"

namespace ringback::blk {

inline constexpr uint32_t kDefaultBurstMs = 100;
inline constexpr uint32_t kDefaultWeight = 100;

// 0: not limited.
struct Rate {
    uint64_t operations = 0;
    uint64_t bytes = 0;
    uint32_t burst_ms = kDefaultBurstMs;
    [[nodiscard]] bool limited() const { return operations != 0 || bytes != 0; }
    friend bool operator==(const Rate&, const Rate&) = default;
};

struct DiskThrottle {
    Rate rate;
    uint32_t weight = kDefaultWeight;  // its share of what its guest or its group may
    std::string group;                 // "": none
    friend bool operator==(const DiskThrottle&, const DiskThrottle&) = default;
};

class ThrottleBook {
  public:
    using Disk = std::pair<std::string, std::string>;  // UUID, and the disk as the guest's configuration has it: xvda

    explicit ThrottleBook(std::string path) : path_(std::move(path)) {}
    [[nodiscard]] Result<void> load();

    [[nodiscard]] DiskThrottle disk(const Disk& disk) const;
    [[nodiscard]] Rate guest(const std::string& uuid) const;
    // nullptr: there is no such group.
    [[nodiscard]] const Rate* group(const std::string& name) const;

    // What is as if nothing had been said is not kept. Each is on storage when it returns; on an error nothing has changed.
    [[nodiscard]] Result<void> set_disk(const Disk& disk, const DiskThrottle& throttle);
    [[nodiscard]] Result<void> set_guest(const std::string& uuid, const Rate& rate);
    [[nodiscard]] Result<void> set_group(const std::string& name, const Rate& rate);
    // Its disks leave it.
    [[nodiscard]] Result<void> remove_group(const std::string& name);

  private:
    struct Entries {
        std::map<Disk, DiskThrottle> disks;
        std::map<std::string, Rate> guests;
        std::map<std::string, Rate> groups;
    };
    [[nodiscard]] static Result<Entries> parse(const std::string& text);
    [[nodiscard]] static std::string to_text(const Entries& entries);
    [[nodiscard]] Result<void> save(Entries entries);

    const std::string path_;
    Entries entries_;
    std::string unreadable_;  // why the file is not to be overwritten
};

}  // namespace ringback::blk
