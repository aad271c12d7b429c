// SPDX-License-Identifier: Apache-2.0
//
// Refcounts from nothing: for new images, and for those whose own cannot be used.
#include <fmt/format.h>

#include <algorithm>

#include "disk-images/qcow2/check.h"
#include "disk-images/qcow2/table.h"

namespace ringback::image::qcow2 {

void Counts::add(uint64_t cluster) {
    const uint64_t number = cluster / kChunk;
    if (number != last_) {
        std::unique_ptr<Chunk>& chunk = chunks_[number];
        if (!chunk) chunk = std::make_unique<Chunk>();
        last_ = number;
        last_chunk_ = chunk.get();
    }
    uint16_t& count = (*last_chunk_)[cluster % kChunk];
    if (count < UINT16_MAX) ++count;
    end_ = std::max(end_, cluster + 1);
}

uint32_t Counts::of(uint64_t cluster) const {
    const uint64_t number = cluster / kChunk;
    if (number == last_) return (*last_chunk_)[cluster % kChunk];
    const auto found = chunks_.find(number);
    return found == chunks_.end() ? 0 : (*found->second)[cluster % kChunk];
}

bool Counts::any(uint64_t first, uint64_t count) const {
    for (uint64_t at = first; at < first + count;) {
        if (!chunks_.contains(at / kChunk)) {
            at = (at / kChunk + 1) * kChunk;
            continue;
        }
        if (of(at) != 0) return true;
        ++at;
    }
    return false;
}

uint64_t refcount_table_wanted(const Header& header, uint64_t file_bytes) {
    const uint64_t bits = header.cluster_bits;
    // A disk that is written all over, beside what the file has already (snapshots), and its tables.
    uint64_t clusters = (file_bytes >> bits) + 1024;
    if (!header.has_data_file()) clusters += header.bytes >> bits;
    clusters += header.bytes / header.l2_coverage() + (uint64_t{header.l1_entries} * 8 >> bits);
    clusters += clusters / 8;  // refcount blocks, and what is about to be given back
    const uint64_t entries = clusters / header.refcounts_per_block() + 1;
    const uint64_t bytes = (entries * 8 + header.cluster() - 1) & ~(header.cluster() - 1);
    return std::min(bytes, std::max(kMaxRefcountTableBytes, header.cluster()));
}

Result<void> write_refcounts(BlockingFile& file, Header& header, Counts& counts, uint64_t base) {
    const uint64_t cluster = header.cluster();
    const uint64_t per_block = header.refcounts_per_block();
    const uint64_t table_bytes =
        refcount_table_wanted(header, std::max(counts.end(), base) << header.cluster_bits);
    const uint64_t table_clusters = table_bytes >> header.cluster_bits;
    for (uint64_t i = 0; i < table_clusters; ++i)
        counts.add(base + i);
    // Blocks lie behind the table; each counts itself, and may need one more.
    std::vector<uint64_t> table(table_bytes / 8);
    uint64_t next = base + table_clusters;
    for (bool more = true; more;) {
        more = false;
        for (uint64_t block = 0; block * per_block < counts.end(); ++block) {
            if (block >= table.size())
                return os_error(EFBIG, fmt::format("count the clusters of {}", file.name()));
            if (table[block] != 0 || !counts.any(block * per_block, per_block)) continue;
            table[block] = next << header.cluster_bits;
            counts.add(next++);
            more = true;
        }
    }
    std::vector<std::byte> bytes(cluster);
    for (uint64_t block = 0; block < table.size(); ++block) {
        if (table[block] == 0) continue;
        std::fill(bytes.begin(), bytes.end(), std::byte{0});
        for (uint64_t i = 0; i < per_block; ++i) {
            const uint32_t count = counts.of(block * per_block + i);
            if (count > largest_refcount(header.refcount_order)) {
                return Error{EFBIG,
                             fmt::format("count the clusters of {}: {} uses of one do not fit into {} bits",
                                         file.name(), count, 1U << header.refcount_order)};
            }
            if (count != 0) put_refcount(bytes.data(), i, header.refcount_order, count);
        }
        TRY(file.write(table[block], bytes));
    }
    std::vector<std::byte> raw(table_bytes);
    for (size_t i = 0; i < table.size(); ++i)
        put64(raw.data() + i * 8, table[i]);
    header.refcount_table_offset = base << header.cluster_bits;
    header.refcount_table_clusters = static_cast<uint32_t>(table_clusters);
    TRY(file.write(header.refcount_table_offset, raw));
    return file.sync();
}

}  // namespace ringback::image::qcow2
