// SPDX-License-Identifier: Apache-2.0
//
// qcow2: header and extensions, tables, refcounts, snapshots, bitmaps, compressed clusters; on an image that is then read and
// written.
#include "image_target.h"

using namespace ringback::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input(data, size);
    const ImagePlan plan(input);
    const auto content = std::as_bytes(input.bytes(input.left()));
    // The caches and what an image works with; tables, by the file's own size. A chain is so many images.
    const MemoryLimit limit((plan.chain ? size_t{256} << 20 : size_t{24} << 20) + 8 * content.size() + plan.hole / 16);
    (void)drive_image("qcow2", content, plan);
    return 0;
}
