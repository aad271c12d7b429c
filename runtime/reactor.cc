// SPDX-License-Identifier: Apache-2.0
#include "runtime/reactor.h"

#include <sys/poll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>

#include "runtime/ring_restrictions.h"

namespace ringback {

namespace {

// Requests whose outcome nobody waits for (cancellations).
void ignore(Completion&, int32_t, uint32_t) noexcept {}
Completion ignored{ignore};

void fill_free_slots(std::vector<uint32_t>& free, uint32_t count) {
    free.resize(count);
    std::iota(free.rbegin(), free.rend(), 0U);  // the lowest slot is taken first
}

}  // namespace

Reactor::Reactor(const Options& options) : polling_(options.polling) {
    fill_free_slots(free_files_, options.files);
    fill_free_slots(free_buffers_, options.buffers);
}

Result<std::unique_ptr<Reactor>> Reactor::create(const Options& options) {
    std::unique_ptr<Reactor> reactor(new Reactor(options));
    io_uring_params params{};
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED |
                   IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP | IORING_SETUP_TASKRUN_FLAG;
    params.cq_entries = options.entries * 4;
    if (int rc = io_uring_queue_init_params(options.entries, &reactor->ring_, &params); rc < 0) {
        return os_error(-rc, "create an io_uring (Linux 6.1 or newer with io_uring enabled is needed)");
    }
    reactor->ring_open_ = true;
    if (int rc = io_uring_register_files_sparse(&reactor->ring_, options.files); rc < 0) {
        return os_error(-rc, "register the io_uring file table");
    }
    if (int rc = io_uring_register_buffers_sparse(&reactor->ring_, options.buffers); rc < 0) {
        return os_error(-rc, "register the io_uring buffer table");
    }
    TRY(restrict_ring(reactor->ring_));
    return reactor;
}

Reactor::~Reactor() {
    if (ring_open_) io_uring_queue_exit(&ring_);
}

Result<void> Reactor::start() {
    // liburing 2.3 declares io_uring_enable_rings() but does not export it.
    if (syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) < 0) {
        return os_error("enable the io_uring");
    }
    ring_.flags &= ~IORING_SETUP_R_DISABLED;
    // Saves the file look-up of each enter; not all kernels allow it, and none needs it.
    (void)io_uring_register_ring_fd(&ring_);
    return {};
}

io_uring_sqe* Reactor::next_sqe() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe != nullptr) return sqe;
    enter(false);
    sqe = io_uring_get_sqe(&ring_);
    return sqe != nullptr ? sqe : wait_for_sqe();
}

// The kernel took nothing: it has no room for more completions (EBUSY) or no memory for more requests (EAGAIN). Both end
// when completions are taken, but not by calling them: whoever submits is in the middle of something.
io_uring_sqe* Reactor::wait_for_sqe() {
    constexpr int kAttempts = 10'000;  // of a millisecond: a machine that has no memory for so long serves nobody
    constexpr timespec kPause{0, 1'000'000};
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        set_aside();
        if (const int rc = io_uring_get_events(&ring_); rc < 0) nanosleep(&kPause, nullptr);
        set_aside();
        enter(false);
        if (io_uring_sqe* sqe = io_uring_get_sqe(&ring_)) return sqe;
        nanosleep(&kPause, nullptr);
    }
    INVARIANT(!"the kernel takes no io_uring requests");
    return nullptr;
}

void Reactor::set_aside() {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_batch_cqe(&ring_, &cqe, 1) == 1) {
        set_aside_.push_back(*cqe);
        io_uring_cq_advance(&ring_, 1);
    }
}

void Reactor::schedule(Task& task) {
    if (task.scheduled) return;
    task.scheduled = true;
    task.next = nullptr;
    if (last_task_ != nullptr) {
        last_task_->next = &task;
    } else {
        first_task_ = &task;
    }
    last_task_ = &task;
}

void Reactor::run_tasks() {
    // Tasks scheduled meanwhile run in the next turn, after its completions: a busy ring cannot starve the others.
    Task* task = first_task_;
    first_task_ = last_task_ = nullptr;
    while (task != nullptr) {
        Task* next = task->next;
        task->scheduled = false;
        task->run(*task);
        task = next;
    }
}

void Reactor::start_polling(PollSource& source) {
    if (source.active) return;
    source.active = true;
    source.next = sources_;
    sources_ = &source;
}

void Reactor::stop_polling(PollSource& source) {
    if (!source.active) return;
    PollSource** link = &sources_;
    while (*link != &source) link = &(*link)->next;
    *link = source.next;
    source.active = false;
}

bool Reactor::poll_sources() {
    bool found = false;
    PollSource** link = &sources_;
    while (*link != nullptr) {
        PollSource& source = **link;
        if (source.look(source)) {
            *link = source.next;
            source.active = false;
            found = true;
        } else {
            link = &source.next;
        }
    }
    return found;
}

void Reactor::rest_sources() {
    PollSource* source = sources_;
    sources_ = nullptr;
    while (source != nullptr) {
        PollSource* next = source->next;
        source->active = false;
        source->rest(*source);
        source = next;
    }
}

void Reactor::watch_readable(int fd, Completion& completion) {
    submit(completion, [fd](io_uring_sqe* sqe) { io_uring_prep_poll_multishot(sqe, fd, POLLIN); });
}

void Reactor::cancel(Completion& completion) {
    submit(ignored, [&completion](io_uring_sqe* sqe) {
        io_uring_prep_cancel(sqe, &completion, IORING_ASYNC_CANCEL_ALL);
    });
}

Result<uint32_t> Reactor::put_file(int fd) {
    if (free_files_.empty()) return os_error(ENFILE, "register a file: all slots are taken");
    const uint32_t slot = free_files_.back();
    if (int rc = io_uring_register_files_update(&ring_, slot, &fd, 1); rc < 0) {
        return os_error(-rc, "register a file");
    }
    free_files_.pop_back();
    return slot;
}

void Reactor::drop_file(uint32_t slot) {
    const int none = -1;
    INVARIANT(io_uring_register_files_update(&ring_, slot, &none, 1) == 1);
    free_files_.push_back(slot);
}

Result<uint32_t> Reactor::put_buffer(std::span<std::byte> memory) {
    if (free_buffers_.empty()) return os_error(ENOBUFS, "register a buffer: all slots are taken");
    const uint32_t slot = free_buffers_.back();
    const iovec vector{memory.data(), memory.size()};
    const __u64 tag = 0;
    if (int rc = io_uring_register_buffers_update_tag(&ring_, slot, &vector, &tag, 1); rc < 0) {
        return os_error(-rc, "register a buffer (locked memory limit?)");
    }
    free_buffers_.pop_back();
    return slot;
}

void Reactor::drop_buffer(uint32_t slot) {
    const iovec none{nullptr, 0};
    const __u64 tag = 0;
    INVARIANT(io_uring_register_buffers_update_tag(&ring_, slot, &none, &tag, 1) == 1);
    free_buffers_.push_back(slot);
}

void Reactor::complete(const io_uring_cqe& cqe) {
    auto* completion = static_cast<Completion*>(io_uring_cqe_get_data(&cqe));
    if ((cqe.flags & IORING_CQE_F_MORE) == 0) --in_flight_;
    ++counters_.completed;
    completion->on_complete(*completion, cqe.res, cqe.flags);
}

void Reactor::reap() {
    while (!set_aside_.empty()) {
        std::vector<io_uring_cqe> older;
        older.swap(set_aside_);  // a completion may submit, and set more aside
        for (const io_uring_cqe& cqe : older) complete(cqe);
    }
    // Each is taken out of the ring before it is called, which may set aside all that are left.
    for (unsigned left = io_uring_cq_ready(&ring_); left > 0 && io_uring_cq_ready(&ring_) > 0; --left) {
        const io_uring_cqe cqe = ring_.cq.cqes[*ring_.cq.khead & ring_.cq.ring_mask];
        io_uring_cq_advance(&ring_, 1);
        complete(cqe);
    }
}

void Reactor::enter(bool wait) {
    ++counters_.enters;
    int rc = 0;
    if (wait) {
        ++counters_.sleeps;
        rc = io_uring_submit_and_wait(&ring_, 1);
    } else {
        // Asking for events is what runs deferred completions (DEFER_TASKRUN).
        rc = io_uring_submit_and_get_events(&ring_);
    }
    // EBUSY: completions must be reaped first; the next turn does. EINTR, EAGAIN: the next turn tries again.
    INVARIANT(rc >= 0 || rc == -EINTR || rc == -EAGAIN || rc == -EBUSY || rc == -ETIME);
    if (rc > 0) counters_.submitted += static_cast<unsigned>(rc);
}

bool Reactor::wants_enter() const {
    constexpr unsigned kKernelHasNews = IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW;
    return io_uring_sq_ready(&ring_) > 0 ||
           (__atomic_load_n(ring_.sq.kflags, __ATOMIC_RELAXED) & kKernelHasNews) != 0;
}

void Reactor::turn(bool may_sleep) {
    const auto has_work = [this] { return first_task_ != nullptr || has_completions(); };
    const bool found = has_work() || (may_sleep ? poll_window() : poll_sources());
    if (!found) rest_sources();
    if (may_sleep && !found && !has_work()) {
        enter(true);
    } else if (wants_enter()) {
        enter(false);
    }
    reap();
    run_tasks();
}

bool Reactor::poll_window() {
    // A look takes a few nanoseconds, asking for the time ten times that: so the first looks, which find work when a ring
    // is busy, go without, and so do most of the others.
    constexpr int kLooksPerClock = 8;
    if (sources_ == nullptr || !polling_.open()) return false;
    do {
        for (int look = 0; look < kLooksPerClock; ++look) {
            // Before the system call, which leaves the processor with nothing predicted: the same look costs twice as
            // much after it.
            const bool found = poll_sources();
            if (wants_enter()) enter(false);
            if (found || has_completions()) {
                polling_.hit();
                ++counters_.poll_hits;
                return true;
            }
        }
    } while (polling_.go_on(monotonic_ns()));
    ++counters_.poll_misses;
    return false;
}

void Reactor::run() {
    while (!stopping_) turn(true);
}

}  // namespace ringback
