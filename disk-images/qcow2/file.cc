// SPDX-License-Identifier: Apache-2.0
#include "disk-images/qcow2/file.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "disk-images/file_request.h"
#include "disk-images/raw/geometry.h"
#include "runtime/log.h"

namespace ringback::image::qcow2 {

namespace {

alignas(4096) std::array<std::byte, 4096> zeros{};

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
    if (options.sync_failed) made->set_failed();
    return made;
}

ImageFile::ImageFile(File file, ImageLock lock, Reactor& reactor)
    : file_(std::move(file)),
      lock_(std::move(lock)),
      reactor_(reactor),
      syncs_(reactor, file_.name, [](SharedSync<Waiter>&, IntrusiveList<Waiter> waited) noexcept {
          while (!waited.empty())
              waited.pop().handle.resume();
      }) {}

ImageFile::~ImageFile() {
    INVARIANT(!syncs_.running());
    if (registered_) reactor_.drop_file(slot_);
}

ImageFile::Request::Request(ImageFile& file, Op op, uint64_t offset, uint64_t length, std::span<iovec> vectors,
                            uint16_t buffer)
    : file_(file), op_(op), buffer_(buffer), offset_(offset), left_(length), vectors_(vectors) {
    on_complete = [](Completion& self, int32_t result, uint32_t) noexcept {
        static_cast<Request&>(self).finished(result);
    };
}

void ImageFile::Request::submit() {
    // A device need not unmap what it zeroes; that it zeroes is what counts here.
    const int mode = file_.block_device_ ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
    file_.reactor_.submit(*this, [&](io_uring_sqe* sqe) {
        if (op_ == Op::zero) {
            prepare_fallocate(sqe, file_.slot_, mode | FALLOC_FL_KEEP_SIZE, offset_, left_);
        } else {
            prepare_transfer(sqe, file_.slot_, op_ == Op::read, vectors_, offset_, buffer_);
        }
    });
}

void ImageFile::Request::finished(int32_t result) {
    if (try_again(result, retries_)) return submit();
    if (result >= 0 && op_ != Op::zero) return moved(static_cast<uint64_t>(result));
    result_ = std::min(result, 0);
    waiter_.resume();
}

void ImageFile::Request::moved(uint64_t bytes) {
    // A direct read that ends inside a sector has met the end of the file; a write has to go on from a
    // sector's begin.
    const bool end = op_ == Op::read && (bytes == 0 || (file_.direct_ && bytes % kSectorSize != 0));
    if (file_.direct_ && op_ == Op::write) bytes -= bytes % kSectorSize;
    if (!end && bytes == 0) {
        result_ = -EIO;
        return waiter_.resume();
    }
    consume(vectors_, bytes);
    left_ -= bytes;
    offset_ += bytes;
    retries_ = 0;
    if (end) {
        for (const iovec& vector : vectors_)
            std::memset(vector.iov_base, 0, vector.iov_len);
        left_ = 0;
    }
    if (left_ > 0) return submit();
    waiter_.resume();
}

}  // namespace ringback::image::qcow2
