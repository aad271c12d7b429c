// SPDX-License-Identifier: Apache-2.0
//
// RawImage: a disk whose content is a file or a block device, byte for byte.
//
// A request becomes one io_uring request on the registered file; nothing else happens on the usual path. What
// makes the rest of this class:
//
//   - Partial transfers and transient errors are continued from the completion. A transfer that makes no
//   progress (a
//     file cut off under us) is -EIO: a guest must not read zeros where its data was.
//   - Flushes share their fdatasync (shared_sync.h).
//   - After a sync failed, what changes the disk is answered -EIO, also what was on its way by then. Reads go
//   on.
//   - Where direct I/O wants more than 512 bytes of alignment, requests that have less go through
//   unaligned.h, alone:
//     requests wait in held_ in the order they came while one is done that way, and it waits until what was
//     started is finished. Read-modify-write beside another write of the same block would lose that write.
//   - Discards punch holes in files (io_uring) and go to a helper thread for devices (discard.h). A discard
//   is answered
//     when the kernel is done with it, so no later write can be lost to it.
//
// Where an Io is at any time: held_, in the kernel, in a list of waiting flushes or discards, or in
// finished_, whose requests are answered by a task, because submit() itself never answers.
//
// Thread: the owner of the reactor.
#pragma once

#include <memory>

#include "disk-images/image.h"
#include "disk-images/lock.h"
#include "disk-images/raw/discard.h"
#include "disk-images/raw/geometry.h"
#include "disk-images/raw/unaligned.h"
#include "disk-images/shared_sync.h"

namespace ringback::image {

class RawImage final : public Image {
  public:
    [[nodiscard]] static Result<std::unique_ptr<Image>> open(File file, Reactor& reactor,
                                                             const OpenOptions& options);
    ~RawImage() override;
    RawImage(const RawImage&) = delete;
    RawImage& operator=(const RawImage&) = delete;

    [[nodiscard]] const Geometry& geometry() const override { return layout_.geometry; }
    void submit(std::span<Io*> batch) override;
    [[nodiscard]] Result<void> refresh_size() override;
    [[nodiscard]] bool sync_failed() const override { return flushes_.failed(); }
    [[nodiscard]] Result<Extent> extent(uint64_t offset) override;
    [[nodiscard]] Result<void> resize(uint64_t bytes) override;

  private:
    RawImage(File file, ImageLock lock, const RawLayout& layout, Reactor& reactor, uint32_t slot,
             bool writable);

    void check(const Io& io) const;
    [[nodiscard]] bool wants_alignment(const Io& io) const;
    void advance();  // starts what is held, as far as it may start
    void start(Io& io);
    void transfer(Io& io);         // (the rest of) a read or write to the kernel
    void transfer_blocks(Io& io);  // one of unaligned_'s
    void punch(Io& io);

    void on_transfer(Io& io, int32_t result);
    void on_blocks(int32_t result);
    void on_punch(Io& io, int32_t result);

    [[nodiscard]] bool refused(const Io& io) const;
    void finish(Io& io, int32_t result);        // answers
    void finish_later(Io& io, int32_t result);  // answers from the task
    void answer_finished();

    File file_;
    ImageLock lock_;  // after file_: released before the descriptor is closed
    RawLayout layout_;
    Reactor& reactor_;
    uint32_t slot_;
    bool writable_;
    std::unique_ptr<Unaligned> unaligned_;     // null: nothing can be unaligned here
    std::unique_ptr<DiscardThread> discards_;  // null: not a block device, or no discard
    uint32_t in_flight_ = 0;  // started and not answered
    IoList held_;
    IoList finished_;
    struct Flushes : SharedSync<Io> {
        using SharedSync::SharedSync;
        RawImage* image = nullptr;
    } flushes_;
    struct Finisher : Task {
        RawImage* image;
    } finisher_;
};

}  // namespace ringback::image
