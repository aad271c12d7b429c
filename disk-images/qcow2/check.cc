// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "disk-images/qcow2/table.h"

namespace ringback::image::qcow2 {

namespace {

constexpr size_t kMostMessages = 100;

class Checker {
  public:
    Checker(BlockingFile& file, const Header& header, uint64_t file_bytes)
        : file_(file),
          header_(header),
          format_(header),
          cluster_(header.cluster()),
          end_((file_bytes + cluster_ - 1) >> header.cluster_bits),
          bytes_(cluster_) {}

    Result<CheckReport> run(Repair repair);

  private:
    template <typename... Arguments>
    void corruption(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
        ++report_.corruptions;
        say(fmt::format(text, std::forward<Arguments>(arguments)...));
    }
    void say(std::string text) {
        if (report_.messages.size() < kMostMessages) report_.messages.push_back(std::move(text));
    }
    // [offset, offset + bytes) is used once more. False: it is not in the file.
    bool use(uint64_t offset, uint64_t bytes, const char* what);
    bool use_clusters(uint64_t offset, uint64_t bytes,
                      const char* what);  // offset at a cluster's begin, or a corruption
    Result<std::vector<uint64_t>> read_words(uint64_t offset, uint64_t count);
    Result<void> count_all();
    Result<void> count_l1(uint64_t offset, uint64_t entries, bool active);
    Result<void> count_l2(uint64_t offset, bool active);
    Result<void> count_snapshots();
    Result<void> count_bitmaps();
    Result<void> count_refcounts();
    Result<void> compare(Repair repair);
    Result<void> compare_block(uint64_t number, Repair repair, bool raise);
    Result<void> check_copied(Repair repair);
    Result<void> check_copied_in(uint64_t offset, Repair repair);
    Result<void> rebuild();
    void fixed(uint64_t& counter, uint64_t count) { counter += count; }

    BlockingFile& file_;
    Header header_;
    const EntryFormat format_;
    const uint64_t cluster_;
    const uint64_t end_;  // clusters of the file
    std::vector<std::byte> bytes_;
    std::vector<uint64_t> l1_;      // the active one
    std::vector<uint64_t> blocks_;  // the refcount table; 0: none, or not usable
    Counts counts_;
    bool unusable_blocks_ = false;  // what is used is not counted anywhere
    CheckReport report_;
};

bool Checker::use(uint64_t offset, uint64_t bytes, const char* what) {
    if (bytes == 0) return true;
    const uint64_t first = offset >> header_.cluster_bits;
    if (offset + bytes < offset || first >= end_ || (offset + bytes - 1) >> header_.cluster_bits >= end_) {
        corruption("{} at {:#x} is behind the end of the file", what, offset);
        return false;
    }
    for (uint64_t i = first; i <= (offset + bytes - 1) >> header_.cluster_bits; ++i)
        counts_.add(i);
    return true;
}

bool Checker::use_clusters(uint64_t offset, uint64_t bytes, const char* what) {
    if (offset % cluster_ == 0) return use(offset, bytes, what);
    corruption("{} at {:#x} is not at a cluster's begin", what, offset);
    return false;
}

Result<std::vector<uint64_t>> Checker::read_words(uint64_t offset, uint64_t count) {
    std::vector<std::byte> raw(count * 8);
    TRY(file_.read(offset, raw));
    std::vector<uint64_t> words(count);
    for (size_t i = 0; i < words.size(); ++i)
        words[i] = get64(raw.data() + i * 8);
    return words;
}

Result<void> Checker::count_l2(uint64_t offset, bool active) {
    TRY(file_.read(offset, bytes_));
    for (uint64_t i = 0; i < header_.l2_entries(); ++i) {
        const Cluster cluster = decode(bytes_.data() + i * header_.l2_entry_bytes(), format_);
        if (!cluster.valid) {
            corruption("entry {} of the L2 table at {:#x} makes no sense", i, offset);
            continue;
        }
        if (active && (cluster.present || cluster.compressed)) ++report_.allocated_clusters;
        if (active && cluster.compressed) ++report_.compressed_clusters;
        if (cluster.compressed) {
            // The last sectors of the last cluster of a file may be missing: they are read as zeros.
            use(cluster.offset,
                std::min<uint64_t>(cluster.bytes, (end_ << header_.cluster_bits) -
                                                      std::min(end_ << header_.cluster_bits, cluster.offset)),
                "compressed data");
            if (cluster.offset >= end_ << header_.cluster_bits)
                corruption("compressed data at {:#x} is behind the end of the file", cluster.offset);
        } else if (cluster.present && !format_.data_file) {
            use(cluster.offset, cluster_, "a cluster");
        }
    }
    return {};
}

Result<void> Checker::count_l1(uint64_t offset, uint64_t entries, bool active) {
    if (!use_clusters(offset, entries * 8, "an L1 table")) return {};
    const std::vector<uint64_t> table = TRY(read_words(offset, entries));
    if (active) l1_ = table;
    std::unordered_set<uint64_t> seen;
    for (const uint64_t entry : table) {
        const uint64_t l2 = entry & kOffsetMask;
        if (l2 == 0 || !use_clusters(l2, cluster_, "an L2 table")) continue;
        if (!seen.insert(l2).second) {
            corruption("the L2 table at {:#x} is named twice", l2);
            continue;
        }
        TRY(count_l2(l2, active));
    }
    return {};
}

Result<void> Checker::count_snapshots() {
    uint64_t at = header_.snapshots_offset;
    for (uint32_t i = 0; i < header_.snapshots; ++i) {
        std::array<std::byte, 40> fixed_part;
        TRY(file_.read(at, fixed_part));
        const uint64_t l1_offset = get64(fixed_part.data());
        const uint64_t l1_entries = get32(fixed_part.data() + 8);
        const uint64_t names = uint64_t{get16(fixed_part.data() + 12)} + get16(fixed_part.data() + 14);
        const uint64_t extra = get32(fixed_part.data() + 36);
        if (extra > 1024 || l1_entries * 8 > kMaxL1Bytes) {
            corruption("snapshot {} makes no sense", i + 1);
            return {};
        }
        TRY(count_l1(l1_offset, l1_entries, false));
        at += (40 + extra + names + 7) / 8 * 8;
    }
    if (header_.snapshots > 0)
        use_clusters(header_.snapshots_offset, at - header_.snapshots_offset, "the snapshot table");
    return {};
}

Result<void> Checker::count_bitmaps() {
    // Without the bit the bitmaps are nobody's, but their clusters are still theirs.
    if (header_.bitmaps == 0) return {};
    if (!use_clusters(header_.bitmap_directory_offset, header_.bitmap_directory_bytes,
                      "the bitmap directory"))
        return {};
    std::vector<std::byte> directory(header_.bitmap_directory_bytes);
    TRY(file_.read(header_.bitmap_directory_offset, directory));
    uint64_t at = 0;
    for (uint32_t i = 0; i < header_.bitmaps; ++i) {
        if (directory.size() - at < 24) {
            corruption("the bitmap directory is too short");
            return {};
        }
        const std::byte* entry = directory.data() + at;
        const uint64_t offset = get64(entry);
        const uint64_t entries = get32(entry + 8);
        const uint64_t bytes = (24 + uint64_t{get32(entry + 20)} + get16(entry + 18) + 7) / 8 * 8;
        if (bytes > directory.size() - at || entries * 8 > kMaxL1Bytes) {
            corruption("bitmap {} makes no sense", i + 1);
            return {};
        }
        at += bytes;
        if (entries == 0 || !use_clusters(offset, entries * 8, "a bitmap table")) continue;
        for (const uint64_t word : TRY(read_words(offset, entries))) {
            if ((word & kOffsetMask) != 0) use_clusters(word & kOffsetMask, cluster_, "a bitmap's cluster");
        }
    }
    return {};
}

Result<void> Checker::count_refcounts() {
    const uint64_t bytes = uint64_t{header_.refcount_table_clusters} << header_.cluster_bits;
    use_clusters(header_.refcount_table_offset, bytes, "the refcount table");
    blocks_ = TRY(read_words(header_.refcount_table_offset, bytes / 8));
    std::unordered_set<uint64_t> seen;
    for (uint64_t& block : blocks_) {
        block &= ~uint64_t{0x1ff};
        if (block == 0) continue;
        if (!use_clusters(block, cluster_, "a refcount block") || !seen.insert(block).second) {
            if (block % cluster_ == 0 && block >> header_.cluster_bits < end_) {
                corruption("the refcount block at {:#x} is named twice", block);
            }
            block = 0;
            unusable_blocks_ = true;
        }
    }
    return {};
}

Result<void> Checker::count_all() {
    counts_.add(0);
    TRY(count_l1(header_.l1_offset, header_.l1_entries, true));
    TRY(count_snapshots());
    return count_bitmaps();
}

// One block: leaks are lowered, or what is counted too low is raised.
Result<void> Checker::compare_block(uint64_t number, Repair repair, bool raise) {
    TRY(file_.read(blocks_[number], bytes_));
    const uint64_t per_block = header_.refcounts_per_block();
    bool changed = false;
    for (uint64_t i = 0; i < per_block; ++i) {
        const uint64_t cluster = number * per_block + i;
        const uint64_t counted = get_refcount(bytes_.data(), i, header_.refcount_order);
        const uint64_t used = counts_.of(cluster);
        if (counted == used || (counted < used) != raise) continue;
        if (raise) {
            corruption("the cluster at {:#x} is used {} times and counted {} times",
                       cluster << header_.cluster_bits, used, counted);
            if (repair == Repair::none || repair == Repair::leaks ||
                used > largest_refcount(header_.refcount_order))
                continue;
            fixed(report_.corruptions_fixed, 1);
        } else {
            ++report_.leaks;
            say(fmt::format("the cluster at {:#x} is used {} times and counted {} times",
                            cluster << header_.cluster_bits, used, counted));
            if (repair == Repair::none) continue;
            fixed(report_.leaks_fixed, 1);
        }
        put_refcount(bytes_.data(), i, header_.refcount_order, used);
        changed = true;
    }
    if (changed) TRY(file_.write(blocks_[number], bytes_));
    return {};
}

Result<void> Checker::compare(Repair repair) {
    const uint64_t per_block = header_.refcounts_per_block();
    for (uint64_t number = 0; number * per_block < counts_.end(); ++number) {
        if (number < blocks_.size() && blocks_[number] != 0) continue;
        for (uint64_t i = number * per_block; i < std::min((number + 1) * per_block, counts_.end()); ++i) {
            if (counts_.of(i) == 0) continue;
            corruption("the cluster at {:#x} is used and not counted at all", i << header_.cluster_bits);
            unusable_blocks_ = true;
        }
    }
    if (repair == Repair::rebuild || (repair == Repair::all && unusable_blocks_)) return rebuild();
    for (uint64_t number = 0; number < blocks_.size(); ++number) {
        if (blocks_[number] != 0) TRY(compare_block(number, repair, true));
    }
    if (repair != Repair::none) TRY(file_.sync());
    TRY(check_copied(repair));
    if (repair != Repair::none) TRY(file_.sync());
    for (uint64_t number = 0; number < blocks_.size(); ++number) {
        if (blocks_[number] != 0) TRY(compare_block(number, repair, false));
    }
    return {};
}

Result<void> Checker::rebuild() {
    // What is counted now, without the old structure; that becomes free with the switch.
    const uint64_t before = report_.corruptions;
    counts_ = {};
    CheckReport first = std::move(report_);
    report_ = {};
    TRY(count_all());
    const uint64_t lasting = report_.corruptions;
    report_ = std::move(first);
    TRY(write_refcounts(file_, header_, counts_, end_));
    std::array<std::byte, 12> fields;
    put64(fields.data(), header_.refcount_table_offset);
    put32(fields.data() + 8, header_.refcount_table_clusters);
    TRY(file_.write(field::kRefcountTable, fields));
    TRY(file_.sync());
    fixed(report_.corruptions_fixed, before - std::min(before, lasting));
    return check_copied(Repair::all);
}

Result<void> Checker::check_copied_in(uint64_t offset, Repair repair) {
    TRY(file_.read(offset, bytes_));
    bool changed = false;
    for (uint64_t i = 0; i < header_.l2_entries(); ++i) {
        std::byte* at = bytes_.data() + i * header_.l2_entry_bytes();
        const Cluster cluster = decode(at, format_);
        if (!cluster.valid || !cluster.present || cluster.compressed) continue;
        const bool once = format_.data_file || counts_.of(cluster.offset >> header_.cluster_bits) == 1;
        if (cluster.copied == once) continue;
        corruption("entry {} of the L2 table at {:#x} is wrong about whether its cluster is used once", i,
                   offset);
        if (repair != Repair::all && repair != Repair::rebuild) continue;
        put64(at, get64(at) ^ kCopied);
        changed = true;
        fixed(report_.corruptions_fixed, 1);
    }
    if (changed) TRY(file_.write(offset, bytes_));
    return {};
}

Result<void> Checker::check_copied(Repair repair) {
    for (size_t i = 0; i < l1_.size(); ++i) {
        const uint64_t l2 = l1_[i] & kOffsetMask;
        if (l2 == 0 || l2 % cluster_ != 0 || l2 >> header_.cluster_bits >= end_) continue;
        const bool once = counts_.of(l2 >> header_.cluster_bits) == 1;
        if (((l1_[i] & kCopied) != 0) != once) {
            corruption("entry {} of the L1 table is wrong about whether its L2 table is used once", i);
            if (repair == Repair::all || repair == Repair::rebuild) {
                std::array<std::byte, 8> word;
                put64(word.data(), l1_[i] ^ kCopied);
                TRY(file_.write(header_.l1_offset + i * 8, word));
                fixed(report_.corruptions_fixed, 1);
            }
        }
        TRY(check_copied_in(l2, repair));
    }
    return {};
}

Result<CheckReport> Checker::run(Repair repair) {
    report_.clusters = (header_.bytes + cluster_ - 1) >> header_.cluster_bits;
    TRY(count_all());
    TRY(count_refcounts());
    TRY(compare(repair));
    report_.image_end = counts_.end() << header_.cluster_bits;
    constexpr uint64_t kMarks = incompatible::kDirty | incompatible::kCorrupt;
    const bool whole = report_.corruptions == report_.corruptions_fixed;
    if (repair != Repair::none) TRY(file_.sync());
    if ((repair == Repair::all || repair == Repair::rebuild) && whole && header_.version >= 3 &&
        (header_.incompatible & kMarks) != 0) {
        std::array<std::byte, 8> word;
        put64(word.data(), header_.incompatible & ~kMarks);
        TRY(file_.write(field::kIncompatible, word));
        TRY(file_.sync());
    }
    return std::move(report_);
}

}  // namespace

Result<Header> read_header(BlockingFile& file) {
    const uint64_t bytes = TRY(file.size());
    std::vector<std::byte> start(std::min<uint64_t>(bytes, 512));
    TRY(file.read(0, start));
    start.resize(std::min(bytes, TRY(header_bytes_wanted(start, file.name()))));
    TRY(file.read(0, start));
    return parse_header(start, bytes, file.name());
}

Result<CheckReport> check(BlockingFile& file, Repair repair) {
    const Header header = TRY(read_header(file));
    return Checker(file, header, TRY(file.size())).run(repair);
}

}  // namespace ringback::image::qcow2
