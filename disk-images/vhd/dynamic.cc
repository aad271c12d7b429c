// SPDX-License-Identifier: Apache-2.0
#include "disk-images/vhd/dynamic.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace ringback::image::vhd {

namespace {

constexpr size_t kPiecesAtOnce = 64;
constexpr size_t kMostPieces = 1024;

}  // namespace

void resume(Io& io, int32_t result) noexcept {
    Walk& at = walk(io);
    if (at.result == 0) at.result = result;
    at.image->go_on(io);
}

Result<std::unique_ptr<Image>> DynamicImage::open(std::unique_ptr<RawImage> file, int fd, std::string name,
                                                  std::unique_ptr<Image> parent, Reactor& reactor,
                                                  const Layout& layout, const OpenOptions& options) {
    const SyncIo sync(fd, name);
    Table table = TRY(Table::load(sync, layout));
    std::unique_ptr<DynamicImage> image(new DynamicImage(std::move(file), fd, std::move(name), std::move(parent), reactor,
                                                         layout, std::move(table), options));
    if (!image->ones_) return os_error(ENOMEM, fmt::format("open {}", sync.name()));
    if (options.writable) TRY(image->space_.prepare(sync, layout, image->table_));
    return std::unique_ptr<Image>(std::move(image));
}

DynamicImage::DynamicImage(std::unique_ptr<RawImage> file, int fd, std::string name, std::unique_ptr<Image> parent,
                           Reactor& reactor, const Layout& layout, Table table, const OpenOptions& options)
    : file_(std::move(file)),
      fd_(fd),
      name_(std::move(name)),
      parent_(std::move(parent)),
      reactor_(reactor),
      geometry_(file_->geometry()),
      writable_(options.writable),
      block_bytes_(layout.header.block_bytes),
      bitmap_bytes_(vhd::bitmap_bytes(layout.header.block_bytes)),
      table_(std::move(table)),
      complete_(table_.blocks()),
      table_writer_(*file_, table_),
      bitmaps_(*file_, bitmap_bytes_, block_bytes_, layout.footer.disk_bytes()),
      space_(*file_, fd, bitmap_bytes_, block_bytes_,
             [](void* owner, int32_t result) noexcept { static_cast<DynamicImage*>(owner)->on_grown(result); }, this),
      ones_(static_cast<std::byte*>(std::aligned_alloc(4096, (size_t{bitmap_bytes_} + 4095) / 4096 * 4096)), &std::free) {
    geometry_.bytes = layout.footer.disk_bytes();
    if (ones_) std::memset(ones_.get(), 0xff, bitmap_bytes_);
    for (Allocation& allocation : allocations_) {
        allocation.image = this;
        allocation.written = [](TableChange& self, int32_t result) noexcept {
            auto& mine = static_cast<Allocation&>(self);
            mine.image->end(mine, result);
        };
        allocation.bitmap.allocation = &allocation;
        allocation.bitmap.done = [](Io& self, int32_t result) noexcept {
            Allocation& mine = *static_cast<Allocation::BitmapIo&>(self).allocation;
            mine.image->link(mine, result);
        };
    }
    unmap_.image = this;
    unmap_.punch.unmap = &unmap_;
    unmap_.written = [](TableChange& self, int32_t result) noexcept { static_cast<Unmap&>(self).image->punch_next(result); };
    unmap_.punch.done = [](Io& self, int32_t result) noexcept {
        Unmap& mine = *static_cast<Unmap::PunchIo&>(self).unmap;
        if (result == 0) mine.image->space_.discarded(mine.slots[mine.at]);
        ++mine.at;
        mine.image->punch_next(0);
    };
    sync_.image = this;
    sync_.done = [](Io& self, int32_t result) noexcept { static_cast<OwnSync&>(self).image->on_synced(result); };
    runner_.image = this;
    runner_.run = [](Task& self) noexcept { static_cast<Runner&>(self).image->run(); };
}

DynamicImage::~DynamicImage() {
    INVARIANT(in_flight_ == 0 && !syncing_ && allocating_ == 0);
}

void DynamicImage::close(Closing& closing) {
    INVARIANT(in_flight_ == 0);
    int32_t result = 0;
    if (writable_ && file_->sync_failed()) result = -EIO;
    if (writable_ && result == 0) {
        if (auto settled = space_.settle(name_); !settled) result = -settled.error().code;
    }
    closing.closed(closing, result);
}

void DynamicImage::submit(std::span<Io*> batch) {
    ++inside_submit_;
    extent_block_ = kUnused;
    for (Io* io : batch) {
        INVARIANT((io->offset | io->length) % kSectorSize == 0);
        INVARIANT(io->length <= geometry_.bytes && io->offset <= geometry_.bytes - io->length);
        begin_walk(*io, *this);
        ++in_flight_;
        if (io->op == Op::flush) {
            sync(*io);
        } else {
            step(*io);
        }
    }
    --inside_submit_;
}

Result<void> DynamicImage::refresh_size() {
    return Error{ENOTSUP, fmt::format("resize {}: a VHD grows while nobody uses it (vdisk resize)", name_)};
}

uint32_t DynamicImage::bytes_in(uint32_t block) const {
    return static_cast<uint32_t>(std::min<uint64_t>(block_bytes_, geometry_.bytes - uint64_t{block} * block_bytes_));
}

DynamicImage::Place DynamicImage::place(const Io& io) const {
    const uint64_t at = io.offset + walk(const_cast<Io&>(io)).done;
    const uint64_t left = io.offset + io.length - at;
    const auto offset = static_cast<uint32_t>(at % block_bytes_);
    return {static_cast<uint32_t>(at / block_bytes_), offset,
            static_cast<uint32_t>(std::min<uint64_t>(left, block_bytes_ - offset))};
}

void DynamicImage::step(Io& io) {
    const Walk& at = walk(io);
    for (bool go_on = true; go_on;) {
        if (at.result != 0 || at.done == io.length) return finish(io, at.result);  // a flush: length 0
        switch (io.op) {
            case Op::read: go_on = step_read(io); break;
            case Op::write: go_on = step_write(io); break;
            case Op::zero: go_on = parent_ ? step_write(io) : step_zero(io); break;
            case Op::discard: go_on = step_discard(io); break;
            case Op::flush: INVARIANT(!"a flush does not walk");
        }
    }
}

void DynamicImage::advance(Io& io, uint32_t bytes) {
    Walk& at = walk(io);
    at.done += bytes;
    at.stage = Stage::begin;
}

// nullptr: all sectors of the block are in the file. nullopt: the request waits for the bitmap.
std::optional<Bitmaps::Entry*> DynamicImage::marks(uint32_t block, Io& io) {
    if (complete_[block]) return nullptr;
    Bitmaps::Entry* bitmap = bitmaps_.get(block, table_.get(block), io);
    if (bitmap == nullptr) return std::nullopt;
    if (!bitmaps_.complete(*bitmap)) return bitmap;
    complete_[block] = true;
    (void)bitmaps_.forget(block);
    return nullptr;
}

bool DynamicImage::step_read(Io& io) {
    const Place at = place(io);
    if (table_.get(at.block) == kUnused) return read_from_below(io, at, at.length);
    const auto bitmap = marks(at.block, io);
    if (!bitmap) return false;
    uint32_t bytes = at.length;
    bool here = true;
    if (*bitmap != nullptr) {
        bytes = Bitmaps::run(**bitmap, at.offset / 512, at.length / 512) * 512;
        here = Bitmaps::test(**bitmap, at.offset / 512);
    }
    if (!here) return read_from_below(io, at, bytes);
    walk(io).stage = Stage::data;
    send(io, *file_, data_at(at.block) + at.offset, bytes);
    return false;
}

// What is not in this file: the parent's, or zeros.
bool DynamicImage::read_from_below(Io& io, const Place& at, uint32_t bytes) {
    const uint64_t offset = uint64_t{at.block} * block_bytes_ + at.offset;
    const uint64_t parent_bytes = parent_ ? parent_->geometry().bytes : 0;
    if (offset >= parent_bytes) {
        fill_zeros(io, bytes);
        advance(io, bytes);
        return true;
    }
    walk(io).stage = Stage::data;
    send(io, *parent_, offset, static_cast<uint32_t>(std::min<uint64_t>(bytes, parent_bytes - offset)));
    return false;
}

void DynamicImage::fill_zeros(Io& io, uint32_t bytes) {
    while (bytes > 0) {
        iovec& vector = io.vectors.front();
        const size_t count = std::min<size_t>(bytes, vector.iov_len);
        std::memset(vector.iov_base, 0, count);
        bytes -= static_cast<uint32_t>(count);
        vector.iov_base = static_cast<std::byte*>(vector.iov_base) + count;
        vector.iov_len -= count;
        if (vector.iov_len == 0) io.vectors = io.vectors.subspan(1);
    }
}

bool DynamicImage::step_write(Io& io) {
    Walk& at = walk(io);
    const Place where = place(io);
    if (at.stage == Stage::begin) {
        if (!writable_ || file_->sync_failed()) {
            finish(io, writable_ ? -EIO : -EROFS);
            return false;
        }
        if (table_.get(where.block) == kUnused || allocating(where.block)) {
            allocate(io, where.block);
            return false;
        }
        at.stage = complete_[where.block] ? Stage::data : Stage::data_marked;
        send(io, *file_, data_at(where.block) + where.offset, where.length);
        return false;
    }
    INVARIANT(at.stage == Stage::written || at.stage == Stage::synced || at.stage == Stage::marking);
    // Discarded by the guest while it was being written: it is gone, and the guest's own doing.
    if (at.stage == Stage::marking || table_.get(where.block) == kUnused) {
        advance(io, at.length);
        return true;
    }
    const auto bitmap = marks(where.block, io);
    if (!bitmap) return false;
    const uint32_t first = where.offset / 512;
    const uint32_t sectors = at.length / 512;
    if (*bitmap == nullptr ||
        (Bitmaps::test(**bitmap, first) && Bitmaps::run(**bitmap, first, sectors) == sectors)) {
        advance(io, at.length);
        return true;
    }
    if (at.stage == Stage::written) {
        at.stage = Stage::synced;
        sync(io);
    } else {
        at.stage = Stage::marking;
        bitmaps_.mark(**bitmap, io);
    }
    return false;
}

bool DynamicImage::step_discard(Io& io) {
    if (!geometry_.discard || !writable_) {
        finish(io, -EOPNOTSUPP);
        return false;
    }
    const Place at = place(io);
    if (table_.get(at.block) == kUnused || allocating(at.block)) {
        advance(io, at.length);
        return true;
    }
    if (!parent_ && at.offset == 0 && at.length == bytes_in(at.block) && gather(io, at)) return unmap(io);
    const auto bitmap = marks(at.block, io);
    if (!bitmap) return false;
    if (*bitmap != nullptr) {
        advance(io, at.length);  // a hint, and not worth a change of the bitmap
        return true;
    }
    walk(io).stage = Stage::data;
    send(io, *file_, data_at(at.block) + at.offset, at.length);
    return false;
}

// Without a parent: a sector that is not marked reads as zeros, and one that is does when it is punched out.
bool DynamicImage::step_zero(Io& io) {
    if (!writable_ || file_->sync_failed()) {
        finish(io, writable_ ? -EIO : -EROFS);
        return false;
    }
    const Place at = place(io);
    if (allocating(at.block)) {
        allocate(io, at.block);
        return false;
    }
    if (table_.get(at.block) == kUnused) {
        advance(io, at.length);
        return true;
    }
    if (at.offset == 0 && at.length == bytes_in(at.block) && gather(io, at)) return unmap(io);
    walk(io).stage = Stage::data;
    send(io, *file_, data_at(at.block) + at.offset, at.length);
    return false;
}

void DynamicImage::send(Io& outer, Image& to, uint64_t offset, uint32_t bytes) {
    if (free_pieces_ == nullptr && pieces_.size() * kPiecesAtOnce < kMostPieces) {
        pieces_.push_back(std::make_unique<Piece[]>(kPiecesAtOnce));
        for (size_t i = 0; i < kPiecesAtOnce; ++i) {
            Piece& made = pieces_.back()[i];
            made.done = [](Io& self, int32_t result) noexcept {
                auto& mine = static_cast<Piece&>(self);
                walk(*mine.outer).image->on_piece(mine, result);
            };
            made.next_free = std::exchange(free_pieces_, &made);
        }
    }
    if (free_pieces_ == nullptr) {
        walk(outer).stage = Stage::begin;
        return waiting_for_piece_.push(outer);
    }
    Piece& piece = *free_pieces_;
    free_pieces_ = piece.next_free;
    piece.outer = &outer;
    piece.op = outer.op;
    piece.buffer = outer.buffer;
    piece.offset = offset;
    piece.length = bytes;
    piece.count = 0;
    piece.cut = 0;
    if (outer.op == Op::read || outer.op == Op::write) {
        size_t sum = 0;
        while (sum < bytes) sum += outer.vectors[piece.count++].iov_len;
        iovec& last = outer.vectors[piece.count - 1];
        piece.last = last;
        piece.cut = sum - bytes;
        last.iov_len -= piece.cut;
    }
    piece.vectors = outer.vectors.first(piece.count);
    walk(outer).length = bytes;
    Io* one = &piece;
    if (&to == file_.get()) {
        file_->submit({&one, 1});
    } else {
        to.submit({&one, 1});
    }
}

void DynamicImage::on_piece(Piece& piece, int32_t result) {
    Io& outer = *piece.outer;
    if (piece.count == 0) {
        // Nothing was moved.
    } else if (piece.cut > 0) {
        outer.vectors[piece.count - 1] = {static_cast<std::byte*>(piece.last.iov_base) + (piece.last.iov_len - piece.cut),
                                          piece.cut};
        outer.vectors = outer.vectors.subspan(piece.count - 1);
    } else {
        outer.vectors = outer.vectors.subspan(piece.count);
    }
    piece.next_free = std::exchange(free_pieces_, &piece);
    Walk& at = walk(outer);
    at.result = result;
    if (at.stage == Stage::data_marked) {
        at.stage = Stage::written;
    } else {
        advance(outer, at.length);
    }
    Io* waiting = waiting_for_piece_.empty() ? nullptr : &waiting_for_piece_.pop();
    step(outer);
    if (waiting != nullptr) step(*waiting);
}

void DynamicImage::sync(Io& waiting) {
    waiting_for_sync_.push(waiting);
    if (syncing_) return;
    syncing_ = true;
    in_sync_ = waiting_for_sync_.take();
    space_.sync_begins();
    sync_.set(Op::flush, 0, nullptr, 0);
    Io* one = &sync_;
    file_->submit({&one, 1});
}

void DynamicImage::on_synced(int32_t result) {
    space_.sync_ends(result == 0);
    IoList done = in_sync_.take();
    syncing_ = false;
    if (!waiting_for_sync_.empty()) sync(waiting_for_sync_.pop());
    resume_all(done, result);
}

void DynamicImage::finish(Io& io, int32_t result) {
    if (inside_submit_ > 0) {
        walk(io).result = result;
        finished_.push(io);
        return reactor_.schedule(runner_);
    }
    --in_flight_;
    io.done(io, result);  // last: the image may be gone afterwards
}

void DynamicImage::go_on(Io& io) {
    ready_.push(io);
    reactor_.schedule(runner_);
}

void DynamicImage::run() {
    IoList done = finished_.take();
    IoList ready = ready_.take();
    while (!done.empty()) {
        Io& io = done.pop();
        finish(io, walk(io).result);
    }
    while (!ready.empty()) step(ready.pop());
}

}  // namespace ringback::image::vhd
