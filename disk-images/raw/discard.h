// SPDX-License-Identifier: Apache-2.0
//
// DiscardThread: BLKDISCARD for one block device, without holding up its reactor.
//
// The ioctl blocks until the device has done it, which takes seconds on some. io_uring can discard on block
// devices only since Linux 6.12; its fallocate, which older kernels have, zeroes there and fails on devices
// that discard without promising zeros. So a thread does it, one range at a time, in the order they came; the
// others wait in a list.
//
// The thread is started when the image is opened: later the process may not be allowed to start one. It
// sleeps on an atomic (a futex, no descriptor), touches nothing but `range_`, and answers through an eventfd
// that the reactor reads with an io_uring request of its own: that is in flight only while a discard is, so
// an idle device has nothing pending.
//
// The descriptor is the image's own, not a dup: the ioctl keeps the open file description, and with it the
// lock of lock.h, until the kernel is out of it, also when the process is killed.
//
// Thread: the owner of the reactor, but for work().
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <thread>

#include "disk-images/image.h"

namespace ringback::image {

class DiscardThread {
  public:
    using Finish = void (*)(Io& io, int32_t result) noexcept;

    // `fd` is borrowed. A discard is reported to `finish`, never from inside add().
    [[nodiscard]] static Result<std::unique_ptr<DiscardThread>> start(int fd, Reactor& reactor,
                                                                      uint32_t logical_block, Finish finish);
    ~DiscardThread();  // nothing is waiting or under way
    DiscardThread(const DiscardThread&) = delete;
    DiscardThread& operator=(const DiscardThread&) = delete;

    void add(Io& io);

  private:
    enum class Turn : uint32_t { reactor, thread, end };

    DiscardThread(int fd, UniqueFd done, Reactor& reactor, uint32_t logical_block, Finish finish);
    void work();  // the thread
    void next();
    void on_done();

    int fd_;
    UniqueFd done_;
    Reactor& reactor_;
    uint32_t logical_block_;
    Finish finish_;
    IoList waiting_;
    Io* current_ = nullptr;
    uint64_t done_count_ = 0;  // what the eventfd read brings
    std::atomic<Turn> turn_{Turn::reactor};
    std::array<uint64_t, 2> range_{};  // offset, length: written in the reactor's turn
    std::atomic<int32_t> result_{0};
    struct Done : Completion {
        DiscardThread* owner;
    } completion_;
    std::thread thread_;
};

}  // namespace ringback::image
