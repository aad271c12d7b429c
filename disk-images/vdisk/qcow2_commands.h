// SPDX-License-Identifier: Apache-2.0
//
// What vdisk does with qcow2 images beside opening them.
//
// Thread: main.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "disk-images/vdisk/disk.h"

namespace ringback::vdisk {

struct Qcow2Check {
    uint64_t corruptions = 0;  // that are left
    uint64_t leaks = 0;
    bool repaired = false;
    nlohmann::ordered_json json;
    std::vector<std::string> messages;
};

// On an empty, locked file.
[[nodiscard]] Result<uint64_t> create_qcow2(int fd, const std::string& path, const NewImage& wanted);
// Fills in what `info` prints; the backing file's path, resolved, or "".
[[nodiscard]] Result<std::string> describe_qcow2(int fd, const std::string& path, nlohmann::ordered_json& json);
[[nodiscard]] Result<Qcow2Check> check_qcow2(int fd, const std::string& path, bool repair);

}  // namespace ringback::vdisk
