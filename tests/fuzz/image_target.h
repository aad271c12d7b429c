// SPDX-License-Identifier: Apache-2.0
//
// An image file out of an input: opened through the product's own formats, read, written and closed.
//
// The file is in memory, its size that of the input's rest or more (a hole). Names in its header are opened too: as a small
// raw disk, or as the same image again, which is how a chain that never ends looks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "disk-images/image.h"
#include "target.h"

namespace ringback::fuzz {

// What is done to an image that opened. Taken from the front of an input.
struct ImagePlan {
    explicit ImagePlan(Input& input);

    static constexpr size_t kSteps = 6;
    bool writable;
    bool repair_sums;
    bool chain;
    uint64_t hole;  // bytes behind the content
    struct Step {
        uint8_t op;
        uint8_t sectors;
        uint16_t place;
    };
    std::array<Step, kSteps> steps;
};

[[nodiscard]] UniqueFd memory_file(std::span<const std::byte> content, uint64_t bytes);
// Opens `content` as `format`, does what `plan` says, closes. False: it was refused.
bool drive_image(const std::string& format, std::span<const std::byte> content, const ImagePlan& plan);

}  // namespace ringback::fuzz
