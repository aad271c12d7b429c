// SPDX-License-Identifier: Apache-2.0
#include "runtime/log.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace ringback::log {

namespace {
Level current_level = Level::info;
}

void set_level(Level level) { current_level = level; }

bool enabled(Level level) { return static_cast<int>(level) <= static_cast<int>(current_level); }

void write_line(Level level, std::string_view text) {
    // A text may hold pieces of what a guest or a file name says: no control character reaches the terminal or journal.
    std::string line = fmt::format("<{}>{}", static_cast<int>(level), text);
    std::replace_if(
        line.begin(), line.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
    line += '\n';
    // Standard error gone or full is no reason to stop serving disks.
    [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace ringback::log

namespace ringback {

bool LogLimiter::allow() {
    const auto now = std::chrono::steady_clock::now();
    if (now - window_start_ >= interval_) {
        window_start_ = now;
        used_ = 0;
    }
    if (used_ >= burst_) {
        ++suppressed_;
        return false;
    }
    ++used_;
    return true;
}

uint64_t LogLimiter::take_suppressed() { return std::exchange(suppressed_, 0); }

}  // namespace ringback
