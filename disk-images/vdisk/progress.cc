// SPDX-License-Identifier: Apache-2.0
//
// The progress bar: one line on a terminal, rewritten five times a second at most, wiped at the end.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "disk-images/vdisk/commands.h"
#include "disk-images/vdisk/spec.h"

namespace ringback::vdisk {

std::function<void(uint64_t, uint64_t)> progress_bar(const Output& output) {
    if (output.quiet || isatty(STDERR_FILENO) == 0) return {};
    using Clock = std::chrono::steady_clock;
    const auto began = Clock::now();
    return [began, last = began](uint64_t done, uint64_t total) mutable {
        const auto now = Clock::now();
        if (done >= total) {
            std::fputs("\r\033[K", stderr);
            return;
        }
        if (now - last < std::chrono::milliseconds(200)) return;
        last = now;
        constexpr size_t kWidth = 40;
        const double part = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
        const double seconds = std::chrono::duration<double>(now - began).count();
        const auto filled = static_cast<size_t>(part * kWidth);
        const double left = part > 0 ? seconds / part - seconds : 0;
        const std::string line =
            fmt::format("\r\033[K[{}{}] {:5.1f} %  {}/s  {:.0f} s left", std::string(filled, '='),
                        std::string(kWidth - filled, ' '), part * 100,
                        human_size(static_cast<uint64_t>(static_cast<double>(done) / std::max(seconds, 0.001))), left);
        std::fputs(line.c_str(), stderr);
        std::fflush(stderr);
    };
}

}  // namespace ringback::vdisk
