// SPDX-License-Identifier: Apache-2.0
#include "disk-images/raw/discard.h"

#include <linux/fs.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace ringback::image {

Result<std::unique_ptr<DiscardThread>> DiscardThread::start(int fd, Reactor& reactor, uint32_t logical_block,
                                                            Finish finish) {
    UniqueFd done(eventfd(0, EFD_CLOEXEC));
    if (!done) return os_error("create an eventfd for discards");
    std::unique_ptr<DiscardThread> made(
        new DiscardThread(fd, std::move(done), reactor, logical_block, finish));
    // Signals are for the process's main thread.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = 0;
    try {
        made->thread_ = std::thread([owner = made.get()] { owner->work(); });
    } catch (const std::system_error& error) {
        failure = error.code().value();
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (failure != 0) return os_error(failure, "start a thread for discards");
    return made;
}

DiscardThread::DiscardThread(int fd, UniqueFd done, Reactor& reactor, uint32_t logical_block, Finish finish)
    : fd_(fd), done_(std::move(done)), reactor_(reactor), logical_block_(logical_block), finish_(finish) {
    completion_.owner = this;
    completion_.on_complete = [](Completion& self, int32_t, uint32_t) noexcept {
        static_cast<Done&>(self).owner->on_done();
    };
}

DiscardThread::~DiscardThread() {
    if (!thread_.joinable()) return;
    INVARIANT(current_ == nullptr && waiting_.empty());
    turn_.store(Turn::end, std::memory_order_release);
    turn_.notify_one();
    thread_.join();
}

void DiscardThread::add(Io& io) {
    waiting_.push(io);
    if (current_ == nullptr) next();
}

void DiscardThread::next() {
    current_ = &waiting_.pop();
    // Part of a block cannot be discarded, and need not be: a discard is a hint.
    const uint64_t begin = (current_->offset + logical_block_ - 1) / logical_block_ * logical_block_;
    const uint64_t end = (current_->offset + current_->length) / logical_block_ * logical_block_;
    range_ = {begin, std::max(begin, end) - begin};
    reactor_.submit(completion_, [this](io_uring_sqe* sqe) {
        io_uring_prep_read(sqe, done_.get(), &done_count_, sizeof done_count_, 0);
    });
    turn_.store(Turn::thread, std::memory_order_release);
    turn_.notify_one();
}

void DiscardThread::work() {
    for (;;) {
        turn_.wait(Turn::reactor, std::memory_order_acquire);
        if (turn_.load(std::memory_order_acquire) == Turn::end) return;
        int32_t result = 0;
        if (range_[1] > 0 && ioctl(fd_, BLKDISCARD, range_.data()) != 0) result = -errno;
        result_.store(result, std::memory_order_relaxed);
        turn_.store(Turn::reactor, std::memory_order_release);
        const uint64_t one = 1;
        INVARIANT(write(done_.get(), &one, sizeof one) == sizeof one);
    }
}

void DiscardThread::on_done() {
    INVARIANT(turn_.load(std::memory_order_acquire) == Turn::reactor);
    Io& io = *current_;
    current_ = nullptr;
    const int32_t result = result_.load(std::memory_order_relaxed);
    if (!waiting_.empty()) next();
    finish_(io, result);
}

}  // namespace ringback::image
