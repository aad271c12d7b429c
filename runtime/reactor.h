// SPDX-License-Identifier: Apache-2.0
//
// Reactor: one io_uring and the thread that owns it.
//
// Everything a guest's queues need happens on one reactor: their rings, grants, journal and images belong to its
// thread, so nothing on the data path is shared and nothing is locked. The loop is
//
//     one io_uring_enter that submits and waits  ->  reap all completions  ->  run every scheduled task once
//
// A completion only updates its request and schedules its ring's task; the task then works on the whole batch. That
// is what makes one grant copy, one response push, one notify and one io_uring_enter serve many requests.
//
// Created in two steps: create() makes the ring disabled (R_DISABLED) and its file and buffer tables while the process
// is still privileged; start() enables it on the thread that will own it (SINGLE_ISSUER binds to the enabling thread,
// DEFER_TASKRUN runs completions only when that thread asks).
//
// Polling: a source that was just busy may ask to be polled instead of waiting for its event. See poll_policy.h for
// how long; an idle reactor sleeps in the kernel and wakes for nothing.
//
// Thread: all members but create() belong to the owner thread.
#pragma once

#include <liburing.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/poll_policy.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback {

// What an io_uring request reports to. Lives inside the object that owns the request and must outlive it.
struct Completion {
    using Handler = void (*)(Completion&, int32_t result, uint32_t flags) noexcept;
    Handler on_complete = nullptr;
};

// Work to be done once, after the current batch of completions. Scheduling twice before it runs counts once.
struct Task {
    using Handler = void (*)(Task&) noexcept;
    Handler run = nullptr;
    Task* next = nullptr;
    bool scheduled = false;
};

// Something to look at instead of sleeping. `look` returns true when it found (and scheduled) work; `rest` is called
// when the window is over and must arm the source's event and look one last time.
struct PollSource {
    using Look = bool (*)(PollSource&) noexcept;
    using Rest = void (*)(PollSource&) noexcept;
    Look look = nullptr;
    Rest rest = nullptr;
    PollSource* next = nullptr;
    bool active = false;
};

struct ReactorCounters {
    uint64_t enters = 0;       // io_uring_enter calls
    uint64_t sleeps = 0;       // of these: calls that were allowed to wait
    uint64_t submitted = 0;    // SQEs
    uint64_t completed = 0;    // CQEs
    uint64_t poll_hits = 0;    // polling windows that found work
    uint64_t poll_misses = 0;  // polling windows that ended in sleep
};

class Reactor {
  public:
    struct Options {
        uint32_t entries = 1024;   // submission queue size; completions get four times as many
        uint32_t files = 1024;     // slots of the sparse registered file table
        uint32_t buffers = 64;     // slots of the sparse registered buffer table
        PollPolicy::Limits polling{};
    };

    [[nodiscard]] static Result<std::unique_ptr<Reactor>> create(const Options& options);
    ~Reactor();
    Reactor(const Reactor&) = delete;
    Reactor& operator=(const Reactor&) = delete;

    // Enables the ring; the calling thread owns the reactor from here on.
    [[nodiscard]] Result<void> start();

    // A submission entry bound to `completion`, never null: a full queue is submitted first. The caller fills it
    // with an io_uring_prep_* call and must not set the user data afterwards. Completions are never called from here.
    template <typename Prepare>
    void submit(Completion& completion, Prepare&& prepare) {
        io_uring_sqe* sqe = next_sqe();
        prepare(sqe);
        io_uring_sqe_set_data(sqe, &completion);
        ++in_flight_;
    }

    void schedule(Task& task);
    void start_polling(PollSource& source);
    void stop_polling(PollSource& source);  // before a source is destroyed

    // Calls `completion` whenever `fd` is readable (multishot; re-armed by the reactor's user on !IORING_CQE_F_MORE).
    void watch_readable(int fd, Completion& completion);
    // Cancels every request of `completion`; each still completes once (with -ECANCELED or its result).
    void cancel(Completion& completion);

    // Registered files: a slot per open image file. put_file() returns when the kernel accepted the change; requests
    // under way keep their own reference.
    [[nodiscard]] Result<uint32_t> put_file(int fd);
    void drop_file(uint32_t slot);
    // Registered buffers: pins `memory` for as long as it is registered.
    [[nodiscard]] Result<uint32_t> put_buffer(std::span<std::byte> memory);
    void drop_buffer(uint32_t slot);

    // One turn of the loop. may_sleep=false never waits (tests and in-process benchmarks).
    void turn(bool may_sleep);
    // Turns until stop().
    void run();
    void stop() { stopping_ = true; }
    [[nodiscard]] bool stopping() const { return stopping_; }

    [[nodiscard]] const ReactorCounters& counters() const { return counters_; }
    [[nodiscard]] uint64_t in_flight() const { return in_flight_; }
    [[nodiscard]] const PollPolicy& polling() const { return polling_; }

  private:
    explicit Reactor(const Options& options);
    io_uring_sqe* next_sqe();
    io_uring_sqe* wait_for_sqe();
    void set_aside();
    void complete(const io_uring_cqe& cqe);
    [[nodiscard]] bool has_completions() const { return !set_aside_.empty() || io_uring_cq_ready(&ring_) > 0; }
    // Entries to submit, or completions that the kernel holds back until asked (IORING_SETUP_TASKRUN_FLAG tells).
    [[nodiscard]] bool wants_enter() const;
    void enter(bool wait);
    void reap();
    void run_tasks();
    // Looks at the polled sources for one window. True: there is work, do not sleep.
    bool poll_window();
    bool poll_sources();
    void rest_sources();

    io_uring ring_{};
    bool ring_open_ = false;
    bool stopping_ = false;
    uint64_t in_flight_ = 0;
    Task* first_task_ = nullptr;
    Task* last_task_ = nullptr;
    PollSource* sources_ = nullptr;
    PollPolicy polling_;
    std::vector<uint32_t> free_files_;
    std::vector<uint32_t> free_buffers_;
    std::vector<io_uring_cqe> set_aside_;  // completions older than those in the ring
    ReactorCounters counters_;
};

}  // namespace ringback
