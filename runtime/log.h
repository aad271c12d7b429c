// SPDX-License-Identifier: Apache-2.0
//
// Log: one line an event on standard error, in the form the journal reads ("<6>text").
//
// A single write(2) a line: nothing is buffered, so nothing is lost when the process is killed, and the call works
// inside a sandbox. Nothing a guest does may log without bound: lines that a guest can cause go through a LogLimiter
// that belongs to its device. Any thread.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <string_view>

namespace ringback::log {

enum class Level : int { error = 3, warning = 4, notice = 5, info = 6, debug = 7 };

// Lines above this level are dropped. Set once, in main(), before any thread is started.
void set_level(Level level);
[[nodiscard]] bool enabled(Level level);
void write_line(Level level, std::string_view text);

template <typename... Args>
void line(Level level, fmt::format_string<Args...> format, Args&&... args) {
    if (enabled(level)) write_line(level, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
    line(Level::error, format, std::forward<Args>(args)...);
}
template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
    line(Level::warning, format, std::forward<Args>(args)...);
}
template <typename... Args>
void notice(fmt::format_string<Args...> format, Args&&... args) {
    line(Level::notice, format, std::forward<Args>(args)...);
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
    line(Level::info, format, std::forward<Args>(args)...);
}
template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
    line(Level::debug, format, std::forward<Args>(args)...);
}

}  // namespace ringback::log

namespace ringback {

// At most `burst` lines per interval; what is suppressed is counted and told with the next line that passes.
class LogLimiter {
  public:
    explicit LogLimiter(uint32_t burst = 5, std::chrono::seconds interval = std::chrono::seconds(60))
        : burst_(burst), interval_(interval) {}

    // True when a line may be written now.
    [[nodiscard]] bool allow();
    // How many lines were suppressed since the last allowed one; resets.
    [[nodiscard]] uint64_t take_suppressed();

  private:
    uint32_t burst_;
    std::chrono::seconds interval_;
    uint32_t used_ = 0;
    uint64_t suppressed_ = 0;
    std::chrono::steady_clock::time_point window_start_{};
};

}  // namespace ringback
