// SPDX-License-Identifier: Apache-2.0
//
// See daemon_process.h.
#include "daemon_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>

namespace ringback::test {

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    return address;
}

DaemonProcess::DaemonProcess(const CoreProcess& core, std::string name, const std::string& configuration,
                             std::vector<std::string> command)
    : name_(std::move(name)), directory_(core.directory() + "/run"), command_(std::move(command)) {
    const std::string file = core.directory() + "/" + name_ + ".toml";
    std::ofstream(file) << configuration;
    std::filesystem::create_directory(directory_);
    command_.insert(command_.end(), {"--config", file, "--runtime-directory", directory_});
    if (::getenv("RINGBACK_VERBOSE") != nullptr) command_.emplace_back("--verbose");
    ::setenv("LD_LIBRARY_PATH", RINGBACK_LIBRARY_PATH, 1);
    std::array<int, 2> pipe{};
    REQUIRE(::pipe2(pipe.data(), O_CLOEXEC) == 0);
    alive_.reset(pipe[1]);
    group_ = ::fork();
    if (group_ == 0) {
        ::setpgid(0, 0);
        ::close(pipe[1]);
        char byte = 0;
        while (::read(pipe[0], &byte, 1) < 0 && errno == EINTR) {
        }
        ::kill(0, SIGKILL);
        ::_exit(0);
    }
    ::setpgid(group_, group_);
    ::close(pipe[0]);
}

DaemonProcess::~DaemonProcess() {
    alive_.reset();
    ::waitpid(group_, nullptr, 0);
    if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
}

void DaemonProcess::start() {
    const std::string path = directory_ + "/notify";
    ::unlink(path.c_str());
    const UniqueFd notify(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = address_of(path);
    REQUIRE(::bind(notify.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
    std::vector<char*> argv;
    for (const std::string& word : command_) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
        ::setpgid(0, group_);
        ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
    pollfd ready{notify.get(), POLLIN, 0};
    REQUIRE(::poll(&ready, 1, kPatienceMs) == 1);
    std::array<char, 64> text{};
    REQUIRE(::recv(notify.get(), text.data(), text.size() - 1, 0) > 0);
    REQUIRE(std::string(text.data()).starts_with("READY=1"));
}

void DaemonProcess::stop(int signal) {
    ::kill(pid_, signal);
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    REQUIRE((signal == SIGKILL ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

int DaemonProcess::wait_exit() {
    UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    pollfd ended{process.get(), POLLIN, 0};
    REQUIRE(::poll(&ended, 1, kPatienceMs) == 1);
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    REQUIRE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

std::string DaemonProcess::send_raw(const std::string& bytes) const {
    const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = address_of(socket());
    REQUIRE(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
    (void)::send(client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    std::string answer;
    while (answer.find('\n') == std::string::npos) {
        pollfd readable{client.get(), POLLIN, 0};
        if (::poll(&readable, 1, kPatienceMs) != 1) break;
        std::array<char, 65536> part{};
        const ssize_t got = ::recv(client.get(), part.data(), part.size(), 0);
        if (got <= 0) break;
        answer.append(part.data(), static_cast<size_t>(got));
    }
    return answer;
}

nlohmann::json DaemonProcess::ask(nlohmann::json request) const {
    request["version"] = 1;
    return nlohmann::json::parse(send_raw(request.dump() + "\n"), nullptr, false);
}

size_t DaemonProcess::processes_in_group() const {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
        const std::string name = entry.path().filename();
        if (name.find_first_not_of("0123456789") != std::string::npos) continue;
        std::ifstream stat(entry.path() / "stat");
        std::string line;
        std::getline(stat, line);
        const size_t end = line.rfind(')');
        if (end == std::string::npos || end + 2 >= line.size() || line[end + 2] == 'Z') continue;
        count += ::getpgid(std::stoi(name)) == group_ ? 1 : 0;
    }
    return count;
}

void DaemonProcess::wait_without_workers() const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
    while (processes_in_group() > 2 && std::chrono::steady_clock::now() < end) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));  // a process that is no child of ours: nothing to await
    }
    REQUIRE(processes_in_group() == 2);
}

}  // namespace ringback::test
