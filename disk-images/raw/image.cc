// SPDX-License-Identifier: Apache-2.0
#include "disk-images/raw/image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "disk-images/file_request.h"
#include "disk-images/raw/progress.h"
#include "runtime/log.h"

namespace ringback::image {

Result<std::unique_ptr<Image>> RawImage::open(File file, Reactor& reactor, const OpenOptions& options) {
    RawLayout layout = TRY(probe_layout(file, options));
    ImageLock lock = TRY(ImageLock::take(file.fd.get(), file.name, options.writable, options.lock_wait_ms));
    // Whoever had the lock until now may have changed it.
    layout = TRY(probe_layout(file, options));
    std::unique_ptr<Unaligned> unaligned;
    if (layout.unit > kSectorSize || layout.memory_align > kSectorSize) {
        unaligned = TRY(Unaligned::create(layout.unit, layout.memory_align));
    }
    std::unique_ptr<DiscardThread> discards;
    if (layout.block_device && layout.geometry.discard) {
        auto started = DiscardThread::start(
            file.fd.get(), reactor, layout.geometry.logical_block,
            [](Io& io, int32_t result) noexcept { progress(io).image->finish(io, result); });
        if (started.ok()) {
            discards = std::move(started).value();
        } else {
            log::warning("{}: discard is not offered: {}", file.name, started.error().message);
            layout.geometry.discard = false;
        }
    }
    const uint32_t slot = TRY(reactor.put_file(file.fd.get()));
    std::unique_ptr<RawImage> image(
        new RawImage(std::move(file), std::move(lock), layout, reactor, slot, options.writable));
    if (options.sync_failed) image->flushes_.set_failed();
    image->unaligned_ = std::move(unaligned);
    image->discards_ = std::move(discards);
    return std::unique_ptr<Image>(std::move(image));
}

RawImage::RawImage(File file, ImageLock lock, const RawLayout& layout, Reactor& reactor, uint32_t slot,
                   bool writable)
    : file_(std::move(file)),
      lock_(std::move(lock)),
      layout_(layout),
      reactor_(reactor),
      slot_(slot),
      writable_(writable),
      flushes_(reactor, file_.name, [](SharedSync<Io>& self, IoList waited) noexcept {
          RawImage& image = *static_cast<Flushes&>(self).image;
          while (!waited.empty()) image.finish(waited.pop(), image.sync_failed() ? -EIO : 0);
      }) {
    flushes_.image = this;
    finisher_.image = this;
    finisher_.run = [](Task& self) noexcept { static_cast<Finisher&>(self).image->answer_finished(); };
}

RawImage::~RawImage() {
    INVARIANT(in_flight_ == 0 && held_.empty());
    reactor_.drop_file(slot_);
}

void RawImage::check(const Io& io) const {
    const uint64_t bytes = layout_.geometry.bytes;
    INVARIANT((io.offset | io.length) % kSectorSize == 0);
    INVARIANT(io.length <= bytes && io.offset <= bytes - io.length);
    if (io.op != Op::read && io.op != Op::write) return;
    uint64_t sum = 0;
    for (const iovec& vector : io.vectors) {
        INVARIANT((reinterpret_cast<uintptr_t>(vector.iov_base) | vector.iov_len) % kSectorSize == 0);
        sum += vector.iov_len;
    }
    INVARIANT(sum == io.length);
}

void RawImage::submit(std::span<Io*> batch) {
    for (Io* io : batch) {
        check(*io);
        begin_progress(*io, *this);
        held_.push(*io);
    }
    advance();
}

bool RawImage::wants_alignment(const Io& io) const {
    return unaligned_ && unaligned_->wants(io);
}

void RawImage::advance() {
    while (!held_.empty() && !(unaligned_ && unaligned_->busy())) {
        if (in_flight_ > 0 && wants_alignment(held_.front())) return;
        start(held_.pop());
    }
}

bool RawImage::refused(const Io& io) const {
    return sync_failed() && io.op != Op::read;
}

void RawImage::start(Io& io) {
    ++in_flight_;
    if (refused(io)) return finish_later(io, -EIO);
    switch (io.op) {
        case Op::read:
        case Op::write:
            if (io.length == 0) return finish_later(io, 0);
            if (io.op == Op::write && !writable_) return finish_later(io, -EROFS);
            if (wants_alignment(io)) return transfer_blocks(unaligned_->begin(io));
            return transfer(io);
        case Op::flush:
            return flushes_.join(io, slot_);
        case Op::discard:
            if (!layout_.geometry.discard) return finish_later(io, -EOPNOTSUPP);
            if (io.length == 0) return finish_later(io, 0);
            if (discards_) return discards_->add(io);
            return punch(io);
        case Op::zero:
            if (!writable_) return finish_later(io, -EROFS);
            if (io.length == 0) return finish_later(io, 0);
            return punch(io);
    }
    INVARIANT(!"a request of no known kind");
}

void RawImage::transfer(Io& io) {
    io.completion.on_complete = [](Completion& self, int32_t result, uint32_t) noexcept {
        Io& done = io_of(self);
        progress(done).image->on_transfer(done, result);
    };
    const uint64_t offset = io.offset + progress(io).done;
    reactor_.submit(io.completion, [&](io_uring_sqe* sqe) {
        prepare_transfer(sqe, slot_, io.op == Op::read, io.vectors, offset, io.buffer);
    });
}

void RawImage::on_transfer(Io& io, int32_t result) {
    Progress& at = progress(io);
    if (try_again(result, at.retries)) return transfer(io);
    if (result < 0) return finish(io, result);
    // The next request has to be aligned again; what a direct transfer did beyond that is done once more.
    auto moved = static_cast<uint64_t>(result);
    if (layout_.direct) moved -= moved % layout_.unit;
    if (moved == 0) return finish(io, -EIO);
    at.done += moved;
    if (at.done == io.length) return finish(io, 0);
    at.retries = 0;
    consume(io.vectors, moved);
    transfer(io);
}

void RawImage::transfer_blocks(Io& io) {
    ++in_flight_;
    begin_progress(io, *this);
    io.done = [](Io& self, int32_t result) noexcept { progress(self).image->on_blocks(result); };
    transfer(io);
}

void RawImage::on_blocks(int32_t result) {
    Io* next = result == 0 ? unaligned_->next() : nullptr;
    if (next != nullptr) return transfer_blocks(*next);
    finish(unaligned_->end(), result);
}

void RawImage::punch(Io& io) {
    io.completion.on_complete = [](Completion& self, int32_t result, uint32_t) noexcept {
        Io& done = io_of(self);
        progress(done).image->on_punch(done, result);
    };
    // A hole reads as zeros; a device need not unmap what it zeroes.
    const int mode = layout_.block_device && io.op == Op::zero ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
    reactor_.submit(io.completion, [&](io_uring_sqe* sqe) {
        prepare_fallocate(sqe, slot_, mode | FALLOC_FL_KEEP_SIZE, io.offset, io.length);
    });
}

void RawImage::on_punch(Io& io, int32_t result) {
    if (try_again(result, progress(io).retries)) return punch(io);
    finish(io, result);
}

void RawImage::finish(Io& io, int32_t result) {
    if (refused(io)) result = -EIO;
    --in_flight_;
    if (!held_.empty()) advance();
    // Last: the caller may do with the request, and with an image that has nothing left to do, what he likes.
    io.done(io, result);
}

void RawImage::finish_later(Io& io, int32_t result) {
    progress(io).result = result;
    finished_.push(io);
    reactor_.schedule(finisher_);
}

void RawImage::answer_finished() {
    IoList done = finished_.take();
    while (!done.empty()) {
        Io& io = done.pop();
        finish(io, progress(io).result);
    }
}

Result<void> RawImage::refresh_size() {
    uint64_t bytes = TRY(read_size(file_, layout_.block_device));
    bytes -= bytes % layout_.unit;
    if (bytes < layout_.geometry.bytes) {
        return Error{EINVAL, fmt::format("resize {}: it shrank from {} to {} bytes; a disk in use only grows",
                                         file_.name, layout_.geometry.bytes, bytes)};
    }
    layout_.geometry.bytes = bytes;
    return {};
}

Result<Extent> RawImage::extent(uint64_t offset) {
    const uint64_t end = layout_.geometry.bytes;
    INVARIANT(offset < end && offset % kSectorSize == 0);
    const auto at = static_cast<off_t>(offset);
    // A device, or a file system, that knows no holes: all of it is data.
    Extent extent{.length = end - offset, .host_offset = offset};
    const off_t data = layout_.block_device ? at : lseek(file_.fd.get(), at, SEEK_DATA);
    if (data < 0 && errno != ENXIO) return os_error("look for data in " + file_.name);
    if (data != at) {
        extent.kind = Extent::Kind::zero;
        extent.host_offset = Extent::kNowhere;
        if (data >= 0) extent.length = std::min(static_cast<uint64_t>(data), end) - offset;
    } else if (!layout_.block_device) {
        const off_t hole = lseek(file_.fd.get(), at, SEEK_HOLE);
        if (hole < 0) return os_error("look for a hole in " + file_.name);
        extent.length = std::min(static_cast<uint64_t>(hole), end) - offset;
    }
    // Some file systems have smaller blocks than a sector's worth of data; a sector that has any is data.
    const uint64_t cut = extent.length % kSectorSize;
    if (extent.length < kSectorSize) {
        extent.kind = Extent::Kind::data;
        extent.length = kSectorSize;
        extent.host_offset = offset;
    } else if (cut != 0) {
        extent.length += extent.kind == Extent::Kind::data ? kSectorSize - cut : -cut;
    }
    return extent;
}

Result<void> RawImage::resize(uint64_t bytes) {
    INVARIANT(in_flight_ == 0 && held_.empty() && bytes % kSectorSize == 0);
    if (!writable_) return os_error(EROFS, "resize " + file_.name);
    if (layout_.block_device) return os_error(EOPNOTSUPP, "resize the device " + file_.name);
    if (bytes == 0 || bytes % layout_.unit != 0) {
        return Error{EINVAL, fmt::format("resize {} to {} bytes: a multiple of {} is needed", file_.name,
                                         bytes, layout_.unit)};
    }
    if (ftruncate(file_.fd.get(), static_cast<off_t>(bytes)) != 0) {
        return os_error(fmt::format("resize {} to {} bytes", file_.name, bytes));
    }
    layout_.geometry.bytes = bytes;
    return {};
}

}  // namespace ringback::image
