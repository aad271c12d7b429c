// SPDX-License-Identifier: Apache-2.0
//
// A new image: a header, an empty L1 table, refcounts of these.
//
// Thread: any. Blocks.
#pragma once

#include "disk-images/qcow2/blocking_file.h"
#include "disk-images/qcow2/header.h"

namespace ringback::image::qcow2 {

struct CreateOptions {
    uint64_t bytes = 0;  // multiple of 512
    uint32_t version = 3;
    uint32_t cluster_bytes = 65536;
    uint32_t refcount_bits = 16;
    bool extended_l2 = false;
    bool lazy_refcounts = false;
    Compression compression = Compression::zlib;
    std::string backing_name{};
    std::string backing_format{};
    std::string data_file_name{};  // the caller makes the file, as long as the disk
    bool data_file_raw = false;
};

// `file` is empty, or its content is given up.
[[nodiscard]] Result<void> create(BlockingFile& file, const CreateOptions& options);

}  // namespace ringback::image::qcow2
