// SPDX-License-Identifier: Apache-2.0
//
// See supervisor_fixture.h.
#include "supervisor_fixture.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace ringback::test {

Daemon::Daemon(const CoreProcess& core, const std::string& configuration, const std::string& worker_program)
    : DaemonProcess(core, "blkbackd", "state_directory = \"" + core.directory() + "/state\"\n" + configuration,
                    {RINGBACK_BLKBACKD, "--spawn-workers", "--worker-program", worker_program}) {
    ::setenv("RINGBACK", RINGBACK_TOOL, 1);
    ::setenv("RINGBACK_SOCKET", socket().c_str(), 1);
    start();
}

void Daemon::kill_with(pid_t worker) {
    ::kill(pid_, SIGKILL);
    ::kill(worker, SIGKILL);
    ::waitpid(std::exchange(pid_, -1), nullptr, 0);
}

pid_t Daemon::worker(uint16_t domid) const {
    const nlohmann::json answer = ask({{"command", "status"}});
    for (const auto& guest : answer["guests"]) {
        if (guest["domid"] == domid) return guest["worker_pid"];
    }
    return 0;
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

int transfer(frontend::Queue& queue, frontend::Op op, uint64_t sector, std::string& data) {
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
    REQUIRE(queue.submit(request));
    queue.push();
    while (!result.done && queue.wait(kPatienceMs)) {
    }
    INFO(queue.broken());
    REQUIRE(result.done);
    return result.status;
}

}  // namespace ringback::test
