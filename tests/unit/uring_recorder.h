// SPDX-License-Identifier: Apache-2.0
//
// What a program asks of the kernel through io_uring, seen and meddled with from inside the same program:
// liburing's functions that submit are defined here once more, and call the real ones. So the code under test
// needs no seam for it.
//
// Recorded: writes (with their bytes), holes and syncs, each with the moments of its issue and its
// completion. Moments are numbers that only grow; moment() is for the test's own events.
//
// Faults: the n-th data request from now on fails with an error instead of being done, or a transfer is cut
// short.
#pragma once

#include <liburing.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ringback::image::test {

struct Recorded {
    enum class Kind : uint8_t { write, hole, sync };
    static constexpr uint64_t kNever = ~uint64_t{0};
    Kind kind = Kind::write;
    uint64_t offset = 0;
    uint64_t length = 0;
    std::vector<std::byte> bytes;
    uint64_t issued = 0;
    uint64_t completed = kNever;
};

class UringRecorder {
  public:
    static UringRecorder& instance();

    void record(bool on) {
        recording_ = on;
        if (on) log_.clear();
    }
    [[nodiscard]] const std::vector<Recorded>& log() const { return log_; }
    uint64_t moment() { return ++now_; }

    // `error` (positive) for request number `countdown` (1: the next); 0: none. shorten: it moves less,
    // without an error.
    void fail(uint64_t countdown, int error, bool shorten = false) {
        countdown_ = countdown;
        error_ = error;
        shorten_ = shorten;
        faulted_ = 0;
        happened_ = false;
    }
    [[nodiscard]] bool happened() const { return happened_; }

    void before(io_uring* ring);
    void after(io_uring* ring);

  private:
    void take(io_uring_sqe& sqe);
    uint64_t now_ = 0;
    bool recording_ = false;
    std::vector<Recorded> log_;
    std::vector<std::pair<uint64_t, size_t>> open_;  // user data, index in the log
    uint64_t countdown_ = 0;
    int error_ = 0;
    bool shorten_ = false;
    bool happened_ = false;
    uint64_t faulted_ = 0;  // user data
    unsigned seen_ = 0;     // completions
};

}  // namespace ringback::image::test
