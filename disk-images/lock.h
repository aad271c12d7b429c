// SPDX-License-Identifier: Apache-2.0
//
// ImageLock: who may use an image file. Two locks with two jobs, both on the open file description that does
// the I/O.
//
// 1. The fence between generations: flock(), exclusive for a writer, shared for a reader. When a worker is
// killed, its
//    io_uring requests may still be on their way to the disk; each holds a reference to the description, and
//    the kernel drops the flock only with the last of them. So the successor that holds the lock on a
//    description of its own knows that nothing of its predecessor can land on top of what it writes. That is
//    why nobody may dup the descriptor.
//
// 2. Exclusion from other programs: the byte ranges QEMU and its tools lock (OFD locks), so that qemu-img and
// we refuse
//    each other. Every permission has a bit: 0 consistent read, 1 write, 2 write unchanged, 3 resize. Who
//    uses a permission holds a shared lock on byte 100 + bit. Who does not bear others using it holds a
//    shared lock on byte 200 + bit. Nobody waits: one takes one's own bytes first, then asks whether anybody
//    else has a byte that conflicts (I use what he does not bear, or the reverse), and if so gives up. Two
//    that come at once may both give up; they never both get in.
//       writer: uses consistent read, write, resize; bears consistent read and write unchanged
//       reader: uses consistent read;                bears consistent read and write unchanged
//
// Waiting: one attempt, then attempts every few milliseconds until wait_ms is over. This sleeps on the
// calling thread, which is a reactor's: a caller that serves other guests on it passes 0 and calls again from
// a timer. A worker that replaces a dead one serves nobody yet, and may wait. A block device may be held for
// moments by udev, which takes a shared flock while it probes: 0 can fail there for no lasting reason.
//
// The lock is dropped explicitly in the destructor, not left to close(): the reactor's file table holds a
// reference of its own, which older kernels (6.1) let go of about a second later. Nothing is in flight then
// (Image promises).
//
// Thread: any, one at a time.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "runtime/result.h"

namespace ringback::image {

class ImageLock {
  public:
    // `fd` is borrowed and outlives the lock; `name` is for messages. EBUSY: somebody else uses the file.
    [[nodiscard]] static Result<ImageLock> take(int fd, const std::string& name, bool writable,
                                                uint32_t wait_ms);

    ImageLock(ImageLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    ImageLock& operator=(ImageLock&&) = delete;
    ~ImageLock();

  private:
    explicit ImageLock(int fd) : fd_(fd) {}
    int fd_;
};

}  // namespace ringback::image
