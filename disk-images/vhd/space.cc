// SPDX-License-Identifier: Apache-2.0
#include "disk-images/vhd/space.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

namespace ringback::image::vhd {

namespace {

constexpr uint64_t kAlign = 4096;
constexpr uint32_t kLongestRun = 32;
constexpr uint64_t kLargestRun = 256U << 20;
constexpr uint64_t kSectors = uint64_t{kUnused} - 1;  // that a table can name

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

// Whether what lies behind the last block is nobody's: these programs keep nothing there.
bool keeps_nothing_of_its_own(const Footer& footer) {
    return footer.made_by("qem2") || footer.made_by("qemu") || footer.made_by("win ") || footer.made_by("vpc ");
}

}  // namespace

Space::Space(RawImage& file, int fd, uint32_t bitmap_bytes, uint32_t block_bytes, Grown grown, void* owner)
    : file_(file), fd_(fd), bitmap_bytes_(bitmap_bytes), block_bytes_(block_bytes), grown_(grown), owner_(owner) {
    for (Transfer* io : {&footer_io_, &zeros_io_}) {
        io->space = this;
        io->done = [](Io& self, int32_t result) noexcept { static_cast<Transfer&>(self).space->on_written(result); };
    }
    sync_io_.space = this;
    sync_io_.done = [](Io& self, int32_t result) noexcept { static_cast<Transfer&>(self).space->finish(result); };
}

uint64_t Space::slot_at(uint64_t end) const { return round_up(end + bitmap_bytes_, kAlign) - bitmap_bytes_; }

bool Space::punch(int fd, uint64_t begin, uint64_t end) const {
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(begin),
                     static_cast<off_t>(end - begin)) == 0;
}

Result<void> Space::prepare(const SyncIo& sync, const Layout& layout, const Table& table) {
    footer_ = format_footer(layout.footer);
    free_.clear();
    discarded_.clear();
    syncing_.clear();
    if (!layout.footer_in_front) {
        TRY(sync.write(0, footer_));
        TRY(sync.sync());
    }
    footer_at_ = (layout.file_bytes - kFooterBytes) / 512 * 512;
    used_end_ = run_end_ = table.end();
    metadata_end_ = table.metadata_end();
    reusable_ = keeps_nothing_of_its_own(layout.footer);
    bool punched = false;
    if (!layout.footer_at_end) {
        // The file's last sector may be a block's.
        footer_at_ = round_up(std::max(table.end(), layout.file_bytes) + kFooterBytes, kAlign) - kFooterBytes;
        TRY(sync.write(footer_at_, footer_));
        TRY(sync.sync());
        TRY(file_.refresh_size());
        moved_ = true;
    }
    if (!reusable_) {
        used_end_ = run_end_ = footer_at_;
    } else if (footer_at_ > used_end_ + kAlign) {
        // Of a program that was killed, or gave up.
        const bool done = punch(fd_, used_end_, footer_at_);
        if (!done) used_end_ = footer_at_;
        run_end_ = footer_at_;
        moved_ = punched = done;
    }
    if (reusable_) {
        for (const Table::Range& gap : table.gaps()) {
            if (slot_at(gap.begin) + slot_bytes() > gap.end || !punch(fd_, gap.begin, gap.end)) continue;
            punched = true;
            for (uint64_t at = slot_at(gap.begin); at + slot_bytes() <= gap.end; at = slot_at(at + slot_bytes())) {
                free_.push_back(static_cast<uint32_t>(at / 512));
            }
        }
    }
    if (punched) TRY(sync.sync());
    return {};
}

uint32_t Space::take() {
    if (!free_.empty()) {
        const uint32_t sector = free_.back();
        free_.pop_back();
        return sector;
    }
    const uint64_t at = slot_at(used_end_);
    if (at + slot_bytes() > run_end_) return kUnused;
    used_end_ = at + slot_bytes();
    return static_cast<uint32_t>(at / 512);
}

void Space::grow() {
    growing_ = true;
    result_ = 0;
    next_run_end_ = run_end_;
    uint64_t end = used_end_;
    for (uint32_t i = 0; i < run_slots_; ++i) {
        const uint64_t at = slot_at(end);
        if (at / 512 > kSectors - slot_bytes() / 512) break;
        end = at + slot_bytes();
    }
    next_run_end_ = std::max(end, run_end_);
    if (next_run_end_ == run_end_) result_ = -EFBIG;
    next_footer_at_ = round_up(next_run_end_ + kFooterBytes, kAlign) - kFooterBytes;
    if (result_ == 0 && ftruncate(fd_, static_cast<off_t>(next_footer_at_ + kFooterBytes)) != 0) result_ = -errno;
    if (result_ == 0 && !file_.refresh_size()) result_ = -EIO;
    if (result_ == 0) {
        writes_ = 2;
        moved_ = true;
        footer_io_.set(Op::write, next_footer_at_, footer_.data(), footer_.size());
        zeros_io_.set(Op::write, footer_at_, zeros_.data(), zeros_.size());
        std::array<Io*, 2> both{&footer_io_, &zeros_io_};
        file_.submit(both);
    } else {
        // Through the loop all the same: nobody is called from inside grow().
        sync_io_.set(Op::flush, 0, nullptr, 0);
        Io* one = &sync_io_;
        file_.submit({&one, 1});
    }
}

void Space::on_written(int32_t result) {
    if (result_ == 0) result_ = result;
    if (--writes_ > 0) return;
    sync_io_.set(Op::flush, 0, nullptr, 0);
    Io* one = &sync_io_;
    file_.submit({&one, 1});
}

void Space::finish(int32_t result) {
    if (result_ == 0) result_ = result;
    if (result_ == 0) {
        footer_at_ = next_footer_at_;
        run_end_ = next_run_end_;
        const auto largest = static_cast<uint32_t>(std::max<uint64_t>(kLargestRun / block_bytes_, 1));
        run_slots_ = std::min({run_slots_ * 2, kLongestRun, largest});
    }
    growing_ = false;
    grown_(owner_, result_);
}

void Space::sync_begins() {
    syncing_.insert(syncing_.end(), discarded_.begin(), discarded_.end());
    discarded_.clear();
}

void Space::sync_ends(bool good) {
    if (!good) return;
    free_.insert(free_.end(), syncing_.begin(), syncing_.end());
    syncing_.clear();
}

Result<void> Space::settle(const std::string& name) {
    // A discarded block's slot is nobody's once the table says so on disk.
    if (!discarded_.empty() || !syncing_.empty()) {
        TRY(SyncIo(fd_, name).sync());
        sync_begins();
        sync_ends(true);
    }
    std::sort(free_.begin(), free_.end());
    while (reusable_ && !free_.empty() && uint64_t{free_.back()} * 512 >= metadata_end_ &&
           uint64_t{free_.back()} * 512 + slot_bytes() + kAlign > used_end_) {
        used_end_ = uint64_t{free_.back()} * 512;
        free_.pop_back();
        moved_ = true;
    }
    if (!moved_) return {};
    moved_ = false;
    const uint64_t at = round_up(used_end_ + kFooterBytes, kAlign) - kFooterBytes;
    if (at >= footer_at_) return {};
    {
        const SyncIo sync(fd_, name);
        TRY(sync.write(at, footer_));
    }
    run_end_ = used_end_;
    footer_at_ = at;
    return file_.resize(at + kFooterBytes);
}

}  // namespace ringback::image::vhd
