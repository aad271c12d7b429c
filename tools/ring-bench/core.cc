// SPDX-License-Identifier: Apache-2.0
//
// See core.h.
#include "tools/ring-bench/core.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "runtime/unique_fd.h"

namespace ringback::bench {

Result<std::unique_ptr<Core>> Core::start() {
    std::unique_ptr<Core> core(new Core);
    core->directory_ = (std::filesystem::temp_directory_path() / "ring-bench-XXXXXX").string();
    if (::mkdtemp(core->directory_.data()) == nullptr) return os_error("make " + core->directory_);
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return os_error("make a pipe");
    UniqueFd read_end(ends[0]), write_end(ends[1]);

    constexpr int kReadyFd = 3;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    // dup2 onto itself clears FD_CLOEXEC in posix_spawn.
    posix_spawn_file_actions_adddup2(&actions, write_end.get(), kReadyFd);
    const char* argv[] = {RINGBACK_CORE_BINARY,
                          "--directory",
                          core->directory_.c_str(),
                          "--exit-with-parent",
                          "--ready-fd",
                          "3",
                          nullptr};
    const int error = ::posix_spawn(&core->pid_, RINGBACK_CORE_BINARY, &actions, nullptr,
                                    const_cast<char**>(argv), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) return os_error(error, std::string("start ") + RINGBACK_CORE_BINARY);
    write_end.reset();

    pollfd ready{read_end.get(), POLLIN, 0};
    char byte = 0;
    if (::poll(&ready, 1, 20000) != 1 || ::read(read_end.get(), &byte, 1) != 1)
        return Error{ETIMEDOUT, std::string("start ") + RINGBACK_CORE_BINARY + ": it does not come up"};
    ::setenv("RINGBACK_CORE", core->directory_.c_str(), 1);
    return core;
}

Core::~Core() {
    if (pid_ > 0) {
        ::kill(pid_, SIGTERM);
        ::waitpid(pid_, nullptr, 0);
    }
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
}

}  // namespace ringback::bench
