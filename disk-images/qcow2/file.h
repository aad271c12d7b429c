// SPDX-License-Identifier: Apache-2.0
//
// ImageFile: the file below an image (its own, or its data file), asynchronous.
//
// Each operation is something to co_await; its state lives in the awaiting frame. Partial transfers and
// transient errors are continued. What lies past the end of the file reads as zeros. Syncs are shared
// (shared_sync.h); after one has failed all later ones fail: failed() stays true.
//
// Direct I/O that wants more than 512 bytes of alignment is not used for this format, whose clusters may be
// 512 bytes: there the page cache serves.
//
// Thread: the reactor's owner.
#pragma once

#include <sys/uio.h>

#include <span>

#include "disk-images/image.h"
#include "disk-images/lock.h"
#include "disk-images/qcow2/co.h"
#include "disk-images/shared_sync.h"

namespace ringback::image::qcow2 {

// 4096 bytes of zeros, aligned.
[[nodiscard]] std::byte* zero_page();

class ImageFile {
  public:
    [[nodiscard]] static Result<std::unique_ptr<ImageFile>> open(File file, Reactor& reactor,
                                                                 const OpenOptions& options);
    ~ImageFile();
    ImageFile(const ImageFile&) = delete;
    ImageFile& operator=(const ImageFile&) = delete;

    class [[nodiscard]] Request : Completion {
      public:
        bool await_ready() const noexcept { return left_ == 0; }
        void await_suspend(std::coroutine_handle<> self) noexcept {
            waiter_ = self;
            submit();
        }
        int32_t await_resume() const noexcept { return result_; }

      private:
        friend class ImageFile;
        Request(ImageFile& file, Op op, uint64_t offset, uint64_t length, std::span<iovec> vectors, uint16_t buffer);
        void submit();
        void finished(int32_t result);
        void moved(uint64_t bytes);

        ImageFile& file_;
        Op op_;
        uint16_t buffer_;
        uint32_t retries_ = 0;
        int32_t result_ = 0;
        uint64_t offset_;
        uint64_t left_;
        std::span<iovec> vectors_;
        std::coroutine_handle<> waiter_;
    };
    // 0 or -errno. The vectors (their sum is `length`) are shortened; every length and base is a multiple of
    // 512.
    Request read(uint64_t offset, uint64_t length, std::span<iovec> vectors, uint16_t buffer = kNoBuffer) {
        return Request(*this, Op::read, offset, length, vectors, buffer);
    }
    Request write(uint64_t offset, uint64_t length, std::span<iovec> vectors, uint16_t buffer = kNoBuffer) {
        return Request(*this, Op::write, offset, length, vectors, buffer);
    }
    // The range reads as zeros, and its blocks are the file system's again. -EOPNOTSUPP: not possible here.
    Request punch(uint64_t offset, uint64_t length) {
        return Request(*this, Op::zero, offset, length, {}, kNoBuffer);
    }

    // co_await: what was written before is on stable storage.
    struct [[nodiscard]] Sync : Waiter {
        ImageFile& file;
        explicit Sync(ImageFile& which) : file(which) {}
        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> self) noexcept {
            handle = self;
            file.syncs_.join(*this, file.slot_);
        }
        int32_t await_resume() const noexcept { return file.failed() ? -EIO : 0; }
    };
    Sync sync() { return Sync(*this); }
    [[nodiscard]] bool failed() const { return syncs_.failed(); }
    void set_failed() { syncs_.set_failed(); }

    [[nodiscard]] const Geometry& geometry() const { return geometry_; }  // of the storage
    [[nodiscard]] bool block_device() const { return block_device_; }
    [[nodiscard]] int fd() const { return file_.fd.get(); }
    [[nodiscard]] const std::string& name() const { return file_.name; }

  private:
    ImageFile(File file, ImageLock lock, Reactor& reactor);

    File file_;
    ImageLock lock_;  // after file_: released before the descriptor is closed
    Reactor& reactor_;
    uint32_t slot_ = 0;
    bool registered_ = false;
    bool direct_ = false;
    bool block_device_ = false;
    Geometry geometry_;
    SharedSync<Waiter> syncs_;
};

}  // namespace ringback::image::qcow2
