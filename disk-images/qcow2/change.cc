// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/change.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>

#include "disk-images/qcow2/table.h"

namespace ringback::image::qcow2 {

Result<void> Change::begin() {
    header = TRY(read_header(file_));
    if (header.has_data_file()) {
        return Error{ENOTSUP, fmt::format("{} of {}: one with a data file cannot be changed so", what_, file_.name())};
    }
    const bool doubtful = header.version < 3 || (header.incompatible & incompatible::kDirty) != 0;
    const CheckReport report = TRY(check(file_, doubtful ? Repair::all : Repair::none));
    if (report.corruptions > report.corruptions_fixed || (header.incompatible & incompatible::kCorrupt) != 0) {
        return Error{EUCLEAN, fmt::format("{} of {}: it is damaged ({}); run vdisk check", what_, file_.name(),
                                          report.messages.empty() ? "it says so itself" : report.messages.front())};
    }
    header = TRY(read_header(file_));
    list = TRY(read_snapshots(file_, header));
    bitmaps = TRY(read_bitmaps(file_, header));
    active = TRY(read_l1(header.l1_offset, header.l1_entries));
    const uint64_t bytes = std::max(TRY(file_.size()), report.image_end);
    end_ = (bytes + header.cluster() - 1) & ~(header.cluster() - 1);
    return {};
}

Result<std::vector<uint64_t>> Change::read_l1(uint64_t offset, uint32_t entries) {
    std::vector<std::byte> raw(size_t{entries} * 8);
    TRY(file_.read(offset, raw));
    std::vector<uint64_t> table(entries);
    for (size_t i = 0; i < table.size(); ++i) table[i] = get64(raw.data() + i * 8) & kOffsetMask;
    return table;
}

Result<uint64_t> Change::append(std::span<const std::byte> data) {
    const uint64_t place = end_;
    std::vector<std::byte> whole(data.begin(), data.end());
    whole.resize((whole.size() + header.cluster() - 1) & ~(header.cluster() - 1));
    TRY(file_.write(place, whole));
    end_ += whole.size();
    return place;
}

Result<uint64_t> Change::append_l1(const std::vector<uint64_t>& table) {
    std::vector<std::byte> raw(table.size() * 8);
    for (size_t i = 0; i < table.size(); ++i) put64(raw.data() + i * 8, table[i]);
    return append(raw);
}

void Change::use(uint64_t offset, uint64_t bytes) {
    if (bytes == 0) return;
    for (uint64_t i = offset >> header.cluster_bits; i <= (offset + bytes - 1) >> header.cluster_bits; ++i) counts_.add(i);
}

Result<void> Change::count_l2(uint64_t offset) {
    std::vector<std::byte> raw(header.cluster());
    const EntryFormat format(header);
    use(offset, raw.size());
    TRY(file_.read(offset, raw));
    for (uint64_t i = 0; i < header.l2_entries(); ++i) {
        const Cluster cluster = decode(raw.data() + i * header.l2_entry_bytes(), format);
        if (cluster.compressed) {
            // The file may end before the last sector of what is compressed does.
            use(cluster.offset, std::min<uint64_t>(cluster.bytes, end_ - cluster.offset));
        } else if (cluster.present) {
            use(cluster.offset, header.cluster());
        }
    }
    return {};
}

Result<void> Change::count_table(uint64_t offset, const std::vector<uint64_t>& l2s) {
    use(offset, l2s.size() * 8);
    for (const uint64_t l2 : l2s) {
        if (l2 != 0) TRY(count_l2(l2));
    }
    return {};
}

Result<void> Change::count_bitmaps() {
    if (!bitmaps_changed_) use(header.bitmap_directory_offset, header.bitmap_directory_bytes);
    for (const Bitmap& one : bitmaps) {
        use(one.table_offset, uint64_t{one.table_entries} * 8);
        for (const uint64_t cluster : TRY(read_l1(one.table_offset, one.table_entries))) {
            if (cluster != 0) use(cluster, header.cluster());
        }
    }
    return {};
}

void Change::set_bitmaps(std::vector<Bitmap> to) {
    bitmaps = std::move(to);
    bitmaps_changed_ = true;
}

Result<void> Change::count_all() {
    counts_ = {};
    counts_.add(0);
    for (const Snapshot& one : list) TRY(count_table(one.l1_offset, TRY(read_l1(one.l1_offset, one.l1_entries))));
    // The active tables' own places come last: they are not written yet.
    for (const uint64_t l2 : active) {
        if (l2 != 0) TRY(count_l2(l2));
    }
    return count_bitmaps();
}

// An active L2 table that a snapshot has too, or whose marks are not true any more, is copied, with marks that are.
Result<void> Change::own_l2(uint64_t& place) {
    std::vector<std::byte> raw(header.cluster());
    const EntryFormat format(header);
    TRY(file_.read(place, raw));
    bool changed = counts_.of(place >> header.cluster_bits) > 1;
    for (uint64_t i = 0; i < header.l2_entries(); ++i) {
        std::byte* at = raw.data() + i * header.l2_entry_bytes();
        const Cluster cluster = decode(at, format);
        if (cluster.compressed || !cluster.present) continue;
        const bool once = counts_.of(cluster.offset >> header.cluster_bits) == 1;
        if (cluster.copied == once) continue;
        put64(at, get64(at) ^ kCopied);
        changed = true;
    }
    if (changed) place = TRY(append(raw));
    return {};
}

Result<void> Change::commit() {
    // How often clusters of data are used does not depend on where the tables are.
    TRY(count_all());
    for (uint64_t& l2 : active) {
        if (l2 != 0) TRY(own_l2(l2));
    }
    std::vector<uint64_t> marked = active;
    for (uint64_t& entry : marked) entry = entry != 0 ? entry | kCopied : 0;
    header.l1_entries = static_cast<uint32_t>(marked.size());
    header.l1_offset = TRY(append_l1(marked));
    const std::vector<std::byte> table = encode_snapshots(list);
    header.snapshots = static_cast<uint32_t>(list.size());
    header.snapshots_offset = list.empty() ? 0 : TRY(append(table));
    const std::vector<std::byte> directory = encode_bitmaps(bitmaps);
    if (bitmaps_changed_) {
        header.bitmaps = static_cast<uint32_t>(bitmaps.size());
        header.bitmap_directory_bytes = directory.size();
        header.bitmap_directory_offset = bitmaps.empty() ? 0 : TRY(append(directory));
        header.autoclear = bitmaps.empty() ? header.autoclear & ~autoclear::kBitmaps : header.autoclear | autoclear::kBitmaps;
    }
    TRY(count_all());
    use(header.l1_offset, marked.size() * 8);
    use(header.snapshots_offset, table.size());
    if (bitmaps_changed_) use(header.bitmap_directory_offset, directory.size());
    TRY(write_refcounts(file_, header, counts_, end_ >> header.cluster_bits));  // and syncs
    TRY(write_header());
    return give_back();
}

Result<void> Change::write_header() {
    std::vector<std::byte> first(header.cluster());
    TRY(file_.read(0, first));
    // Bitmaps are told of in an extension, which may be anywhere in the first cluster; all else is in its first sector.
    if (bitmaps_changed_) first = TRY(change_header(first, header, file_.name()));
    put64(first.data() + field::kSize, header.bytes);
    put32(first.data() + field::kL1, header.l1_entries);
    put64(first.data() + field::kL1 + 4, header.l1_offset);
    put64(first.data() + field::kRefcountTable, header.refcount_table_offset);
    put32(first.data() + field::kRefcountTable + 8, header.refcount_table_clusters);
    put32(first.data() + field::kSnapshots, header.snapshots);
    put64(first.data() + field::kSnapshots + 4, header.snapshots_offset);
    TRY(file_.write(0, bitmaps_changed_ ? std::span<const std::byte>(first) : std::span<const std::byte>(first).first(512)));
    return file_.sync();
}

// What nothing uses any more. Where holes cannot be made it stays, as space for what comes.
Result<void> Change::give_back() {
    const uint64_t clusters = counts_.end();
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    for (uint64_t at = 0; at < clusters;) {
        uint64_t end = at;
        while (end < clusters && counts_.of(end) == 0) ++end;
        if (end > at) {
            const uint64_t bits = header.cluster_bits;
            if (fallocate(fd_, mode, static_cast<off_t>(at << bits), static_cast<off_t>((end - at) << bits)) != 0) return {};
        }
        at = end + 1;
    }
    return {};
}

}  // namespace ringback::image::qcow2
