// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/create.h"

#include <fmt/format.h>

#include <bit>

#include "disk-images/qcow2/check.h"

namespace ringback::image::qcow2 {

Result<void> create(BlockingFile& file, const CreateOptions& options) {
    const auto refuse = [&](const std::string& why) {
        return Error{EINVAL, fmt::format("create {}: {}", file.name(), why)};
    };
    if (options.version != 2 && options.version != 3)
        return refuse(fmt::format("there is no version {}", options.version));
    if (!std::has_single_bit(options.cluster_bytes) || options.cluster_bytes < 512 ||
        options.cluster_bytes > (2U << 20)) {
        return refuse("the size of clusters is a power of two from 512 bytes to 2 MiB");
    }
    if (!std::has_single_bit(options.refcount_bits) || options.refcount_bits > 64) {
        return refuse("refcounts are 1, 2, 4, 8, 16, 32 or 64 bits wide");
    }
    const bool only_3 = options.refcount_bits != 16 || options.extended_l2 || options.lazy_refcounts ||
                        options.compression != Compression::zlib || !options.data_file_name.empty();
    if (options.version == 2 && only_3) return refuse("version 2 does not have all of these options");
    if (options.extended_l2 && options.cluster_bytes < 16384)
        return refuse("subclusters need clusters of 16 KiB at least");
    if (options.bytes == 0 || options.bytes % 512 != 0)
        return refuse("the size is a positive multiple of 512");
    if (options.data_file_raw && (options.data_file_name.empty() || !options.backing_name.empty())) {
        return refuse("a raw data file needs a data file, and no backing file");
    }
    Header header;
    header.version = options.version;
    header.cluster_bits = static_cast<uint32_t>(std::countr_zero(options.cluster_bytes));
    header.refcount_order = static_cast<uint32_t>(std::countr_zero(options.refcount_bits));
    header.bytes = options.bytes;
    header.compression = options.compression;
    if (options.compression != Compression::zlib) header.incompatible |= incompatible::kCompression;
    if (options.extended_l2) header.incompatible |= incompatible::kExtendedL2;
    if (!options.data_file_name.empty()) header.incompatible |= incompatible::kDataFile;
    if (options.data_file_raw) header.autoclear |= autoclear::kRawData;
    if (options.lazy_refcounts) header.compatible |= kLazyRefcounts;
    header.backing_name = options.backing_name;
    header.backing_format = options.backing_format;
    header.data_file_name = options.data_file_name;
    const uint64_t entries = header.l1_needed(options.bytes);
    if (entries * 8 > kMaxL1Bytes) return refuse("its clusters are too small for so large a disk");
    header.l1_entries = static_cast<uint32_t>(entries);
    header.l1_offset = header.cluster();
    const uint64_t l1_clusters = (entries * 8 + header.cluster() - 1) >> header.cluster_bits;
    Counts counts;
    for (uint64_t i = 0; i <= l1_clusters; ++i)
        counts.add(i);
    const std::vector<std::byte> zeros(header.cluster());
    for (uint64_t i = 0; i < l1_clusters; ++i)
        TRY(file.write(header.l1_offset + i * header.cluster(), zeros));
    TRY(write_refcounts(file, header, counts, 1 + l1_clusters));
    // Without this last step it is no image yet.
    TRY(file.write(0, TRY(encode_header(header, file.name()))));
    return file.sync();
}

}  // namespace ringback::image::qcow2
