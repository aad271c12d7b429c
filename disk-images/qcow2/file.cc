// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "disk-images/raw/geometry.h"
#include "runtime/log.h"

namespace ringback::image::qcow2 {

namespace {

constexpr uint32_t kMaxRetries = 16;
alignas(4096) std::array<std::byte, 4096> zeros{};

bool transient(int32_t result) {
    return result == -EAGAIN || result == -EINTR;
}

void consume(std::span<iovec>& vectors, size_t bytes) {
    while (bytes > 0 && bytes >= vectors.front().iov_len) {
        bytes -= vectors.front().iov_len;
        vectors = vectors.subspan(1);
    }
    if (bytes > 0) {
        vectors.front().iov_base = static_cast<std::byte*>(vectors.front().iov_base) + bytes;
        vectors.front().iov_len -= bytes;
    }
}

}  // namespace

std::byte* zero_page() {
    return zeros.data();
}

Result<std::unique_ptr<ImageFile>> ImageFile::open(File file, Reactor& reactor, const OpenOptions& options) {
    ImageLock lock = TRY(ImageLock::take(file.fd.get(), file.name, options.writable, options.lock_wait_ms));
    RawLayout layout = TRY(probe_layout(file, options));
    if (layout.direct && (layout.unit > kSectorSize || layout.memory_align > kSectorSize)) {
        log::notice("{}: direct I/O needs {} bytes of alignment there; served through the page cache",
                    file.name, std::max(layout.unit, layout.memory_align));
        const int flags = fcntl(file.fd.get(), F_GETFL);
        if (flags < 0 || fcntl(file.fd.get(), F_SETFL, flags & ~O_DIRECT) != 0) {
            return os_error(fmt::format("switch {} to buffered I/O", file.name));
        }
        layout.direct = false;
    }
    std::unique_ptr<ImageFile> made(new ImageFile(std::move(file), std::move(lock), reactor));
    made->slot_ = TRY(reactor.put_file(made->fd()));
    made->registered_ = true;
    made->direct_ = layout.direct;
    made->block_device_ = layout.block_device;
    made->geometry_ = layout.geometry;
    made->failed_ = options.sync_failed;
    return made;
}

ImageFile::ImageFile(File file, ImageLock lock, Reactor& reactor)
    : file_(std::move(file)), lock_(std::move(lock)), reactor_(reactor) {
    sync_request_.file = this;
    sync_request_.on_complete = [](Completion& self, int32_t result, uint32_t) noexcept {
        static_cast<SyncRequest&>(self).file->on_sync(result);
    };
}

ImageFile::~ImageFile() {
    INVARIANT(!syncing_);
    if (registered_) reactor_.drop_file(slot_);
}

ImageFile::Transfer::Transfer(ImageFile& file, bool reads, uint64_t offset, uint64_t length,
                              std::span<iovec> vectors, uint16_t buffer)
    : file_(file), reads_(reads), buffer_(buffer), offset_(offset), left_(length), vectors_(vectors) {
    on_complete = [](Completion& self, int32_t result, uint32_t) noexcept {
        static_cast<Transfer&>(self).finished(result);
    };
}

void ImageFile::Transfer::submit() {
    const int slot = static_cast<int>(file_.slot_);
    file_.reactor_.submit(*this, [&](io_uring_sqe* sqe) {
        const iovec& first = vectors_.front();
        const auto length = static_cast<unsigned>(std::min<size_t>(first.iov_len, 1U << 30));
        const auto count = static_cast<unsigned>(std::min<size_t>(vectors_.size(), IOV_MAX));
        if (count == 1 && buffer_ != kNoBuffer) {
            if (reads_) {
                io_uring_prep_read_fixed(sqe, slot, first.iov_base, length, offset_, buffer_);
            } else {
                io_uring_prep_write_fixed(sqe, slot, first.iov_base, length, offset_, buffer_);
            }
        } else if (count == 1) {
            if (reads_) {
                io_uring_prep_read(sqe, slot, first.iov_base, length, offset_);
            } else {
                io_uring_prep_write(sqe, slot, first.iov_base, length, offset_);
            }
        } else if (reads_) {
            io_uring_prep_readv(sqe, slot, vectors_.data(), count, offset_);
        } else {
            io_uring_prep_writev(sqe, slot, vectors_.data(), count, offset_);
        }
        sqe->flags |= IOSQE_FIXED_FILE;
    });
}

void ImageFile::Transfer::finished(int32_t result) {
    if (transient(result) && retries_ < kMaxRetries) {
        ++retries_;
        return submit();
    }
    if (result < 0) {
        result_ = result;
        return waiter_.resume();
    }
    auto moved = static_cast<uint64_t>(result);
    // A direct read that ends inside a sector has met the end of the file; a write has to go on from a
    // sector's begin.
    const bool end = reads_ && (moved == 0 || (file_.direct_ && moved % kSectorSize != 0));
    if (file_.direct_ && !reads_) moved -= moved % kSectorSize;
    if (!end && moved == 0) {
        result_ = -EIO;
        return waiter_.resume();
    }
    consume(vectors_, moved);
    left_ -= moved;
    offset_ += moved;
    retries_ = 0;
    if (end) {
        for (const iovec& vector : vectors_)
            std::memset(vector.iov_base, 0, vector.iov_len);
        left_ = 0;
    }
    if (left_ > 0) return submit();
    waiter_.resume();
}

ImageFile::Allocate::Allocate(ImageFile& file, int mode, uint64_t offset, uint64_t length)
    : file_(file), mode_(mode), offset_(offset), length_(length) {
    on_complete = [](Completion& self, int32_t result, uint32_t) noexcept {
        auto& mine = static_cast<Allocate&>(self);
        if (transient(result) && mine.retries_ < kMaxRetries) {
            ++mine.retries_;
            return mine.submit();
        }
        mine.result_ = result < 0 ? result : 0;
        mine.waiter_.resume();
    };
}

void ImageFile::Allocate::submit() {
    file_.reactor_.submit(*this, [&](io_uring_sqe* sqe) {
        io_uring_prep_fallocate(sqe, static_cast<int>(file_.slot_), mode_, static_cast<off_t>(offset_),
                                static_cast<off_t>(length_));
        sqe->flags |= IOSQE_FIXED_FILE;
    });
}

ImageFile::Allocate ImageFile::punch(uint64_t offset, uint64_t length) {
    // A device need not unmap what it zeroes; that it zeroes is what counts here.
    const int mode = block_device_ ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
    return Allocate(*this, mode | FALLOC_FL_KEEP_SIZE, offset, length);
}

void ImageFile::start_sync() {
    syncing_ = true;
    syncs_ = waiting_syncs_.take();
    reactor_.submit(sync_request_, [this](io_uring_sqe* sqe) {
        io_uring_prep_fsync(sqe, static_cast<int>(slot_), IORING_FSYNC_DATASYNC);
        sqe->flags |= IOSQE_FIXED_FILE;
    });
}

void ImageFile::on_sync(int32_t result) {
    syncing_ = false;
    if (result < 0 && !failed_) {
        failed_ = true;
        log::error("{}: fdatasync: {}; writes and flushes fail from now on, until the disk is attached again",
                   file_.name, std::generic_category().message(-result));
    }
    WaitList done = syncs_.take();
    if (failed_) {
        while (!waiting_syncs_.empty())
            done.push(waiting_syncs_.pop());
    } else if (!waiting_syncs_.empty()) {
        start_sync();
    }
    while (!done.empty())
        done.pop().handle.resume();
}

}  // namespace ringback::image::qcow2
