// SPDX-License-Identifier: Apache-2.0
#include "runtime/command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <sstream>

#include "runtime/unique_fd.h"

namespace ringback {

namespace {

constexpr size_t kMostOutput = 1U << 20;
constexpr size_t kLongestLine = 400;
constexpr std::chrono::seconds kPatience{60};

// The locale decides how numbers and messages look.
const std::array<const char*, 4> kEnvironment{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1",
                                              nullptr};

struct Pipe {
    UniqueFd read;
    UniqueFd write;
};
Result<Pipe> make_pipe() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return os_error("make a pipe");
    return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

int wait_for(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

Result<CommandOutput> run_command(const std::vector<std::string>& words) {
    Pipe out = TRY(make_pipe());
    Pipe err = TRY(make_pipe());
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out.write.get(), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err.write.get(), STDERR_FILENO);
    // Whoever calls may have signals blocked; the command shall not.
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    pid_t pid = -1;
    const int failed = posix_spawnp(&pid, words.front().c_str(), &actions, &attributes, arguments.data(),
                                    const_cast<char* const*>(kEnvironment.data()));
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    CommandOutput output;
    if (failed == ENOENT) {
        output.status = 127;
        return output;
    }
    if (failed != 0) return os_error(failed, "run " + words.front());
    out.write.reset();
    err.write.reset();
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    std::array<char, 4096> buffer{};
    while (out.read || err.read) {
        std::array<pollfd, 2> wanted{pollfd{out.read.get(), POLLIN, 0}, pollfd{err.read.get(), POLLIN, 0}};
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
        const int ready = left.count() <= 0 ? 0 : poll(wanted.data(), wanted.size(), static_cast<int>(left.count()));
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0 || output.text.size() + output.complaints.size() > kMostOutput) {
            kill(pid, SIGKILL);
            (void)wait_for(pid);
            return Error{ready <= 0 ? ETIMEDOUT : EMSGSIZE,
                         fmt::format("run {}: {}", words.front(), ready <= 0 ? "it did not end within 60 s" : "it talks without end")};
        }
        for (size_t i = 0; i < wanted.size(); ++i) {
            if (wanted[i].revents == 0) continue;
            const ssize_t got = read(wanted[i].fd, buffer.data(), buffer.size());
            if (got > 0) {
                (i == 0 ? output.text : output.complaints).append(buffer.data(), static_cast<size_t>(got));
            } else if (got == 0 || errno != EINTR) {
                (i == 0 ? out.read : err.read).reset();
            }
        }
    }
    output.status = wait_for(pid);
    return output;
}

std::string explain(const CommandOutput& output, const std::vector<std::string>& words, const std::string& package) {
    if (output.status == 127 && output.complaints.empty()) return fmt::format("{} is not installed (package {})", words.front(), package);
    // Warnings are about everything there is on the host; complaints about what was asked.
    std::string line;
    std::istringstream complaints(output.complaints);
    for (std::string complaint; std::getline(complaints, complaint) && line.size() < kLongestLine;) {
        complaint.erase(0, complaint.find_first_not_of(' '));
        while (complaint.ends_with(' ') || complaint.ends_with('.')) complaint.pop_back();
        if (complaint.empty() || complaint.starts_with("WARNING")) continue;
        line += (line.empty() ? "" : "; ") + complaint;
    }
    if (!line.empty()) return line.substr(0, kLongestLine);
    return fmt::format("{} {} ended with status {}", words.front(), words.size() > 1 ? words[1] : "", output.status);
}

}  // namespace ringback
