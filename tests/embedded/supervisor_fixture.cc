// SPDX-License-Identifier: Apache-2.0
//
// See supervisor_fixture.h.
#include "supervisor_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>

namespace ringback::test {

namespace {

constexpr int kPatienceMs = 20000;

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    return address;
}

}  // namespace

Daemon::Daemon(const CoreProcess& core, const std::string& configuration, std::string worker_program)
    : directory_(core.directory() + "/run"),
      configuration_(core.directory() + "/blkbackd.toml"),
      worker_program_(std::move(worker_program)) {
    std::ofstream(configuration_) << configuration;
    std::filesystem::create_directory(directory_);
    ::setenv("LD_LIBRARY_PATH", RINGBACK_LIBRARY_PATH, 1);
    ::setenv("RINGBACK", RINGBACK_TOOL, 1);
    ::setenv("RINGBACK_SOCKET", socket().c_str(), 1);
    std::array<int, 2> pipe{};
    if (::pipe2(pipe.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
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
    start();
}

Daemon::~Daemon() {
    alive_.reset();
    ::waitpid(group_, nullptr, 0);
    if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
}

void Daemon::start() {
    const std::string path = directory_ + "/notify";
    ::unlink(path.c_str());
    const UniqueFd notify(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = address_of(path);
    REQUIRE(::bind(notify.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
        ::setpgid(0, group_);
        ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
        ::execl(RINGBACK_BLKBACKD, "blkbackd", "--config", configuration_.c_str(), "--spawn-workers",
                "--worker-program", worker_program_.c_str(), "--runtime-directory", directory_.c_str(),
                ::getenv("RINGBACK_VERBOSE") != nullptr ? "--verbose" : nullptr, nullptr);
        ::_exit(127);
    }
    pollfd ready{notify.get(), POLLIN, 0};
    REQUIRE(::poll(&ready, 1, kPatienceMs) == 1);
    std::array<char, 64> text{};
    REQUIRE(::recv(notify.get(), text.data(), text.size() - 1, 0) > 0);
    REQUIRE(std::string(text.data()).starts_with("READY=1"));
}

void Daemon::stop() {
    ::kill(pid_, SIGTERM);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    REQUIRE(WIFEXITED(status));
    REQUIRE(WEXITSTATUS(status) == 0);
}

void Daemon::kill_with(pid_t worker) {
    ::kill(pid_, SIGKILL);
    ::kill(worker, SIGKILL);
    ::waitpid(std::exchange(pid_, -1), nullptr, 0);
}

int Daemon::wait_exit() {
    UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    pollfd ended{process.get(), POLLIN, 0};
    REQUIRE(::poll(&ended, 1, kPatienceMs) == 1);
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    REQUIRE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

std::string Daemon::send_raw(const std::string& bytes) const {
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

nlohmann::json Daemon::ask(nlohmann::json request) const {
    request["version"] = 1;
    return nlohmann::json::parse(send_raw(request.dump() + "\n"), nullptr, false);
}

pid_t Daemon::worker(uint16_t domid) const {
    const nlohmann::json answer = ask({{"command", "status"}});
    for (const auto& guest : answer["guests"]) {
        if (guest["domid"] == domid) return guest["worker_pid"];
    }
    return 0;
}

size_t Daemon::processes_in_group() const {
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

void Daemon::wait_without_workers() const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
    while (processes_in_group() > 2 && std::chrono::steady_clock::now() < end) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));  // a process that is no child of ours: nothing to await
    }
    REQUIRE(processes_in_group() == 2);
}

DiskBed::DiskBed(const std::string& configuration, xen::embedded::DomainSpec spec,
                 const std::string& worker_program)
    : t({}, std::move(spec)), daemon(t.core, configuration, worker_program) {}

std::string DiskBed::file(const std::string& name, uint64_t bytes) const {
    const std::string path = t.core.directory() + "/" + name;
    std::ofstream{path};
    std::filesystem::resize_file(path, bytes);
    return path;
}

xen::embedded::DiskSpec DiskBed::disk(const std::string& target) const {
    xen::embedded::DiskSpec spec;
    spec.params = target;
    spec.script = RINGBACK_SCRIPT;
    spec.run_script = true;
    return spec;
}

std::unique_ptr<frontend::Blkfront> DiskBed::front(frontend::Options options) const {
    options.domid = t.domid;
    return must(frontend::Blkfront::create(options));
}

std::string DiskBed::back(uint32_t devid, const std::string& kind) const {
    return "/local/domain/0/backend/" + kind + "/" + std::to_string(t.domid) + "/" + std::to_string(devid);
}

std::string DiskBed::front_path(uint32_t devid) const {
    return "/local/domain/" + std::to_string(t.domid) + "/device/vbd/" + std::to_string(devid);
}

std::string DiskBed::node(const std::string& path) { return store.get(path).value_or(""); }

void DiskBed::wait_node(const std::string& path, const std::string& value) {
    INFO(path << " shall become " << value << " and is " << node(path));
    must(store.wait_for(
        path, [&](const std::optional<std::string>& now) { return now.value_or("") == value; }, kPatienceMs));
}

Neighbour::Neighbour(DiskBed& bed) : domid_(must(bed.xl.create_domain({.name = "neighbour"}))) {
    must(bed.xl.attach_disk(domid_, bed.disk(bed.file("neighbour.img"))));
    frontend::Options options;
    options.domid = domid_;
    front_ = must(frontend::Blkfront::create(options));
    must(front_->attach());
}

void Neighbour::check() const {
    std::string data(4096, 'n');
    CHECK(transfer(*front_, frontend::Op::write, 8, data) == 0);
    data.assign(4096, '\0');
    CHECK(transfer(*front_, frontend::Op::read, 8, data) == 0);
    CHECK(data == std::string(4096, 'n'));
}

CapturedLog::CapturedLog() : former_(::dup(STDERR_FILENO)), file_(::memfd_create("stderr", MFD_CLOEXEC)) {
    REQUIRE(::dup2(file_.get(), STDERR_FILENO) == STDERR_FILENO);
}

CapturedLog::~CapturedLog() {
    ::dup2(former_.get(), STDERR_FILENO);
    const std::string all = text();
    (void)!::write(STDERR_FILENO, all.data(), all.size());
}

std::string CapturedLog::text() const {
    std::string all(static_cast<size_t>(std::max<off_t>(::lseek(file_.get(), 0, SEEK_END), 0)), '\0');
    const ssize_t got = ::pread(file_.get(), all.data(), all.size(), 0);
    all.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
    return all;
}

size_t CapturedLog::lines(const std::string& part) const {
    std::istringstream all(text());
    size_t count = 0;
    for (std::string line; std::getline(all, line);) count += line.find(part) != std::string::npos ? 1 : 0;
    return count;
}

int transfer(frontend::Blkfront& front, frontend::Op op, uint64_t sector, std::string& data) {
    struct Done {
        bool done = false;
        int status = 0;
    } result;
    frontend::Request request;
    request.op = op;
    request.sector = sector;
    request.length = static_cast<uint32_t>(data.size());
    request.data = reinterpret_cast<std::byte*>(data.data());
    request.owner = &result;
    request.done = [](frontend::Request& finished, int status) {
        *static_cast<Done*>(finished.owner) = {true, status};
    };
    frontend::Queue& queue = front.queue(0);
    REQUIRE(queue.submit(request));
    queue.push();
    while (!result.done && queue.wait(kPatienceMs)) {
    }
    INFO(queue.broken());
    REQUIRE(result.done);
    return result.status;
}

}  // namespace ringback::test
