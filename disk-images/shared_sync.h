// SPDX-License-Identifier: Apache-2.0
//
// SharedSync: fdatasync of an image's file, one at a time, for all who wait for one.
//
// One at a time because the kernel reports a failed write-back once per open file: of two that run together one may
// claim success for data that is lost. Who asks meanwhile shares the next one: it starts after all of them asked, and
// that is all a flush asks for. After one has failed all later ones fail: failed() stays true, and what changes the
// disk is to be refused from then on.
//
// Thread: the reactor's owner.
#pragma once

#include <string>
#include <system_error>

#include "disk-images/intrusive_list.h"
#include "runtime/log.h"
#include "runtime/reactor.h"

namespace ringback::image {

template <typename T>
class SharedSync : Completion {
  public:
    // All who shared one; failed() says how it went.
    using Done = void (*)(SharedSync& self, IntrusiveList<T> waited) noexcept;

    // `name` is the file's, for the log, and outlives this.
    SharedSync(Reactor& reactor, const std::string& name, Done done) : reactor_(reactor), name_(name), done_(done) {
        on_complete = [](Completion& self, int32_t result, uint32_t) noexcept {
            static_cast<SharedSync&>(self).finished(result);
        };
    }
    void join(T& waiter, uint32_t slot) {
        slot_ = slot;
        waiting_.push(waiter);
        if (!running_) start();
    }
    [[nodiscard]] bool running() const { return running_; }
    [[nodiscard]] bool failed() const { return failed_; }
    void set_failed() { failed_ = true; }

  private:
    void start() {
        running_ = true;
        shared_ = waiting_.take();
        reactor_.submit(*this, [this](io_uring_sqe* sqe) {
            io_uring_prep_fsync(sqe, static_cast<int>(slot_), IORING_FSYNC_DATASYNC);
            sqe->flags |= IOSQE_FIXED_FILE;
        });
    }
    void finished(int32_t result) {
        running_ = false;
        if (result < 0 && !failed_) {
            failed_ = true;
            log::error("{}: fdatasync: {}; writes and flushes fail from now on, until the disk is attached again", name_,
                       std::generic_category().message(-result));
        }
        IntrusiveList<T> waited = shared_.take();
        if (failed_) {
            while (!waiting_.empty()) waited.push(waiting_.pop());
        } else if (!waiting_.empty()) {
            start();
        }
        done_(*this, waited);
    }

    Reactor& reactor_;
    const std::string& name_;
    const Done done_;
    uint32_t slot_ = 0;
    bool running_ = false;
    bool failed_ = false;
    IntrusiveList<T> waiting_;  // for the next one
    IntrusiveList<T> shared_;   // of the one under way
};

}  // namespace ringback::image
