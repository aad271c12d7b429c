// SPDX-License-Identifier: Apache-2.0
//
// Looking a VHD file through, and repairing it. Unlike opening, which refuses a damaged file at the first thing it finds,
// this goes on and names them all (the first kMostNamed of them).
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "disk-images/vhd/image.h"

namespace ringback::image::vhd {

namespace {

constexpr size_t kMostNamed = 64;
constexpr uint64_t kAlign = 4096;

struct Use {
    uint64_t begin;
    uint64_t end;
    uint32_t block;  // kUnused: metadata
};

class Checker {
  public:
    Checker(const SyncIo& file, const Layout& layout) : file_(file), layout_(layout) {}

    Result<void> run() {
        report_.blocks = layout_.blocks();
        table_.resize(size_t{report_.blocks} * 4);
        TRY(file_.read(layout_.header.table_offset, table_));
        collect();
        find_overlaps();
        return {};
    }
    Result<void> repair() {
        if (!bad_.empty()) {
            for (const uint32_t block : bad_) std::memset(table_.data() + size_t{block} * 4, 0xff, 4);
            TRY(file_.write(layout_.header.table_offset, table_));
            TRY(file_.sync());
        }
        const auto footer = format_footer(layout_.footer);
        if (!layout_.footer_in_front) TRY(file_.write(0, footer));
        const uint64_t at = (end_ + kFooterBytes + kAlign - 1) / kAlign * kAlign - kFooterBytes;
        if (!layout_.footer_at_end || trailing_ > 0) {
            TRY(file_.write(at, footer));
            TRY(file_.truncate(at + kFooterBytes));
        }
        return file_.sync();
    }
    CheckReport report_;
    uint64_t trailing_ = 0;  // leaked at the end

  private:
    [[nodiscard]] uint32_t entry(uint32_t block) const {
        uint32_t value = 0;
        std::memcpy(&value, table_.data() + size_t{block} * 4, 4);
        return __builtin_bswap32(value);
    }
    void error(std::string text) {
        if (report_.errors.size() < kMostNamed) {
            report_.errors.push_back(std::move(text));
        } else if (report_.errors.size() == kMostNamed) {
            report_.errors.emplace_back("and more");
        }
    }
    void collect() {
        if (!layout_.footer_at_end) error("the footer at the end of the file is missing or damaged");
        if (!layout_.footer_in_front) error("the footer's copy at the beginning of the file is missing or damaged");
        const auto rounded = [](uint64_t bytes) { return (bytes + 511) / 512 * 512; };
        uses_.push_back({0, kFooterBytes, kUnused});
        uses_.push_back({layout_.footer.data_offset, layout_.footer.data_offset + kHeaderBytes, kUnused});
        uses_.push_back({layout_.header.table_offset,
                         rounded(layout_.header.table_offset + uint64_t{layout_.header.entries} * 4), kUnused});
        for (const Locator& locator : layout_.header.locators) {
            if (locator.platform == 0 || locator.length == 0) continue;
            if (locator.offset > layout_.file_bytes || layout_.file_bytes - locator.offset < locator.length) {
                error(fmt::format("a name of the parent would be at {}, past the end of the file", locator.offset));
                continue;
            }
            uses_.push_back({locator.offset, rounded(locator.offset + locator.length), kUnused});
        }
        const uint64_t block_bytes = uint64_t{bitmap_bytes(layout_.header.block_bytes)} + layout_.header.block_bytes;
        for (uint32_t block = 0; block < report_.blocks; ++block) {
            if (entry(block) == kUnused) continue;
            const uint64_t begin = uint64_t{entry(block)} * 512;
            if (begin > layout_.file_bytes || layout_.file_bytes - begin < block_bytes) {
                error(fmt::format("block {} would be at {}, past the end of the file", block, begin));
                bad_.push_back(block);
                continue;
            }
            ++report_.used_blocks;
            uses_.push_back({begin, begin + block_bytes, block});
        }
    }
    // The slot of a discarded block is a hole that the next block goes to: that is no leak. At its edges the file system keeps
    // what it cannot punch out.
    [[nodiscard]] uint64_t leaked_between(uint64_t begin, uint64_t end) const {
        const uint64_t edges = kAlign * ((end - begin) / layout_.header.block_bytes + 1);
        const uint64_t data = end - begin > edges ? file_.data_bytes(begin, end) : 0;
        return data > edges ? data : 0;
    }
    void find_overlaps() {
        std::sort(uses_.begin(), uses_.end(), [](const Use& a, const Use& b) {
            if (a.begin != b.begin) return a.begin < b.begin;
            // Of two in one place the first stays: metadata, else the lower block.
            if ((a.block == kUnused) != (b.block == kUnused)) return a.block == kUnused;
            return a.block < b.block;
        });
        const auto name = [](const Use& use) {
            return use.block == kUnused ? std::string("the headers") : fmt::format("block {}", use.block);
        };
        const Use* last = nullptr;
        uint64_t gaps = 0;
        bool behind_a_block = false;
        for (const Use& use : uses_) {
            if (last != nullptr && use.begin < last->end) {
                // Of two that overlap a block goes, not the headers.
                const Use& loser = use.block == kUnused ? *last : use;
                error(fmt::format("{} and {} overlap at {} of the file", name(*last), name(use), use.begin));
                if (loser.block != kUnused) {
                    bad_.push_back(loser.block);
                    --report_.used_blocks;
                }
                if (&loser == &use) continue;
            }
            // Programs put things of their own between the headers and the blocks, and a table that has moved leaves its place.
            if (use.begin > end_ && behind_a_block) gaps += leaked_between(end_, use.begin);
            behind_a_block = behind_a_block || use.block != kUnused;
            last = &use;
            end_ = std::max(end_, use.end);
        }
        const uint64_t footer = layout_.footer_at_end ? kFooterBytes : 0;
        const uint64_t tail = layout_.file_bytes - std::min(layout_.file_bytes, end_ + footer);
        if (tail > kAlign) trailing_ = tail;  // data is aligned, and so is the file's end
        report_.leaked_bytes = gaps + trailing_;
    }

    const SyncIo& file_;
    const Layout& layout_;
    std::vector<std::byte> table_;
    std::vector<Use> uses_;
    std::vector<uint32_t> bad_;
    uint64_t end_ = 0;
};

}  // namespace

Result<CheckReport> check(const SyncIo& file, bool repair) {
    const Layout layout = TRY(read_layout(file));
    if (!layout.dynamic()) {
        CheckReport report;
        report.leaked_bytes = layout.file_bytes - layout.footer.disk_bytes() - kFooterBytes;
        return report;
    }
    Checker checker(file, layout);
    TRY(checker.run());
    if (!repair || (checker.report_.errors.empty() && checker.trailing_ == 0)) return checker.report_;
    TRY(checker.repair());
    const Layout now = TRY(read_layout(file));
    Checker again(file, now);
    TRY(again.run());
    CheckReport report = checker.report_;
    report.repaired = again.report_.errors.empty();
    report.leaked_bytes = again.report_.leaked_bytes;
    report.used_blocks = again.report_.used_blocks;
    return report;
}

}  // namespace ringback::image::vhd
