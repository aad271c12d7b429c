// SPDX-License-Identifier: Apache-2.0
//
// VHD: footers, dynamic header, table, parent locators; on an image that is then read and written. Without right checksums
// nothing would be looked at, so they are made right where the input says so.
#include <vector>

#include "disk-images/vhd/header.h"
#include "image_target.h"

using namespace ringback;
using namespace ringback::fuzz;

namespace {

// The one's complement of the sum of all bytes but its own four.
void repair(std::span<std::byte> structure, size_t at) {
    uint32_t sum = 0;
    for (size_t i = 0; i < structure.size(); ++i) {
        if (i < at || i >= at + 4) sum += std::to_integer<uint32_t>(structure[i]);
    }
    for (size_t i = 0; i < 4; ++i) structure[at + i] = static_cast<std::byte>(~sum >> (24 - 8 * i));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input(data, size);
    const ImagePlan plan(input);
    std::vector<std::byte> content(input.left());
    input.fill(content);
    if (plan.repair_sums) {
        constexpr size_t kFooterSum = 64;
        constexpr size_t kHeaderSum = 36;
        if (content.size() >= image::vhd::kFooterBytes) {
            repair(std::span(content).first(image::vhd::kFooterBytes), kFooterSum);
            repair(std::span(content).last(image::vhd::kFooterBytes), kFooterSum);
        }
        // Wherever a header is.
        for (size_t at = 0; at + image::vhd::kHeaderBytes <= content.size(); at += 512) {
            if (std::memcmp(content.data() + at, "cxsparse", 8) == 0) {
                repair(std::span(content).subspan(at, image::vhd::kHeaderBytes), kHeaderSum);
            }
        }
    }
    const MemoryLimit limit((plan.chain ? size_t{256} << 20 : size_t{16} << 20) + 8 * content.size() + plan.hole / 16);
    (void)drive_image("vhd", content, plan);
    return 0;
}
