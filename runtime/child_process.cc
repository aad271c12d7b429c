// SPDX-License-Identifier: Apache-2.0
#include "runtime/child_process.h"

#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

extern char** environ;

namespace ringback {

Result<pid_t> spawn(const std::vector<std::string>& arguments) {
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    posix_spawnattr_t attributes;
    INVARIANT(::posix_spawnattr_init(&attributes) == 0);
    sigset_t none;
    ::sigemptyset(&none);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    sigset_t defaults;
    ::sigemptyset(&defaults);
    ::sigaddset(&defaults, SIGPIPE);
    ::posix_spawnattr_setsigdefault(&attributes, &defaults);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    pid_t pid = 0;
    const int error = ::posix_spawnp(&pid, argv[0], nullptr, &attributes, argv.data(), environ);
    ::posix_spawnattr_destroy(&attributes);
    if (error != 0) return os_error(error, "start " + arguments[0]);
    return pid;
}

Children::~Children() {
    for (auto& [fd, handle] : handles_) loop_.forget(fd);
}

void Children::watch(pid_t pid, std::function<void(int status)> ended) {
    UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!handle) return;  // it stays a zombie until we end, and its socket still tells of its end
    const int fd = handle.get();
    const auto reap = [this, fd, pid, ended = std::move(ended)](uint32_t) {
        int status = 0;
        if (::waitpid(pid, &status, WNOHANG) == 0) return;
        loop_.forget(fd);
        handles_.erase(fd);
        ended(status);
    };
    if (loop_.watch(fd, EPOLLIN, reap)) handles_.emplace(fd, std::move(handle));
}

}  // namespace ringback
