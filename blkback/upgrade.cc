// SPDX-License-Identifier: Apache-2.0
#include "blkback/upgrade.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>

#include "runtime/control_client.h"

namespace ringback::blk {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kAnswerPatience{60'000};
constexpr milliseconds kRestartPatience{30'000};
constexpr milliseconds kPause{100};

Result<nlohmann::json> ask(const Config& config, nlohmann::json request) {
    return ringback::ask(config.control_socket(), std::move(request), kAnswerPatience);
}

// What the installed worker says of itself: "protocol 2 journal 2".
Result<std::string> interface_of(const std::string& program) {
    FILE* tool = ::popen(("'" + program + "' --interface").c_str(), "re");
    if (tool == nullptr) return os_error("run " + program);
    std::array<char, 128> line{};
    const bool said = std::fgets(line.data(), line.size(), tool) != nullptr;
    const int status = ::pclose(tool);
    std::string text = line.data();
    while (!text.empty() && text.back() == '\n') text.pop_back();
    if (!said || status != 0) return Error{EPROTO, fmt::format("{} does not say what it can take over", program)};
    return text;
}

bool runs(uint64_t pid, const char* program) {
    struct stat running{}, installed{};
    return ::stat(fmt::format("/proc/{}/exe", pid).c_str(), &running) == 0 && ::stat(program, &installed) == 0 &&
           running.st_dev == installed.st_dev && running.st_ino == installed.st_ino;
}

Result<void> refuse_unless_alike(const nlohmann::json& info, const std::string& installed) {
    const std::string running = info.value("interface", std::string("nothing"));
    if (running == installed) return {};
    return Error{EPROTO, fmt::format("the installed worker has \"{}\", the running blkbackd and its workers \"{}\": it cannot "
                                     "take over. Nothing was stopped; shut the guests down or migrate them first",
                                     installed, running)};
}

// blkbackd itself: its workers serve on, and are adopted.
Result<void> renew_supervisor(const Config& config, const nlohmann::json& info) {
    const uint64_t pid = info.value("pid", uint64_t{0});
    if (runs(pid, "/proc/self/exe")) return {};
    if (config.worker_start != WorkerStart::systemd) {
        return Error{EBUSY, fmt::format("the running blkbackd (process {}) is another program than this one: restart it first; "
                                        "its guests do not notice", pid)};
    }
    if (std::system("systemctl restart blkbackd") != 0) return Error{EIO, "systemctl restart blkbackd failed"};
    const auto end = std::chrono::steady_clock::now() + kRestartPatience;
    for (;;) {
        const auto now = ask(config, {{"command", "doctor-info"}});
        if (now && runs(now.value().value("pid", uint64_t{0}), "/proc/self/exe")) break;
        if (std::chrono::steady_clock::now() > end) return Error{ETIMEDOUT, "blkbackd did not come back in time"};
        std::this_thread::sleep_for(kPause);
    }
    fmt::print("blkbackd was restarted\n");
    return {};
}

bool settled(const nlohmann::json& status) {
    for (const nlohmann::json& guest : status["guests"]) {
        for (const nlohmann::json& disk : guest["disks"]) {
            const std::string image = disk.value("image", ""), ring = disk.value("ring", "");
            if (image == "opening" || image == "closing" || ring == "connecting" || ring == "disconnecting" ||
                disk.value("recovering", false)) {
                return false;
            }
        }
    }
    return true;
}

// A blkbackd that has just been started is still adopting its workers.
Result<nlohmann::json> settled_status(const Config& config) {
    const auto end = std::chrono::steady_clock::now() + kRestartPatience;
    for (;;) {
        nlohmann::json status = TRY(ask(config, {{"command", "status"}}));
        if (settled(status) || std::chrono::steady_clock::now() > end) return status;
        std::this_thread::sleep_for(kPause);
    }
}

Result<void> renew_workers(const Config& config, const std::string& installed) {
    const nlohmann::json status = TRY(settled_status(config));
    for (const nlohmann::json& guest : status["guests"]) {
        const uint64_t pid = guest.value("worker_pid", uint64_t{0});
        const std::string name = fmt::format("{} (domain {})", guest.value("name", std::string("?")), guest.value("domid", 0));
        if (pid == 0) continue;
        if (runs(pid, config.worker_program.c_str())) {
            fmt::print("{}: has the installed worker already\n", name);
            continue;
        }
        const auto moved = ask(config, {{"command", "replace-worker"},
                                        {"guest", std::to_string(guest.value("domid", 0))},
                                        {"interface", installed}});
        if (!moved) return Error{moved.error().code, fmt::format("{}: {}; the guests after it have not been touched", name,
                                                                 moved.error().message)};
        fmt::print("{}: worker {} for {}", name, moved.value().value("worker_pid", uint64_t{0}), pid);
        for (const nlohmann::json& disk : moved.value()["disks"]) {
            fmt::print(", {} paused for {} ms", disk.value("device", ""), disk.value("pause_ms", uint64_t{0}));
        }
        fmt::print("\n");
        std::fflush(stdout);
    }
    return {};
}

}  // namespace

Result<void> upgrade(const Config& config) {
    const std::string installed = TRY(interface_of(config.worker_program));
    const nlohmann::json info = TRY(ask(config, {{"command", "doctor-info"}}));
    TRY(refuse_unless_alike(info, installed));
    TRY(renew_supervisor(config, info));
    return renew_workers(config, installed);
}

}  // namespace ringback::blk
