// SPDX-License-Identifier: Apache-2.0
//
// ringback-core: the embedded hypervisor core. One process that plays the hypervisor, the low half of the
// toolstack and xenstored for machines without Xen. Needs no privilege; everything it keeps is in memory, its
// directory holds only sockets.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <system_error>

#include "hypervisor/embedded/connection.h"
#include "hypervisor/embedded/core/admin.h"

namespace ringback::xen::embedded {
namespace {

constexpr std::uint32_t kPagesPerMib = 256;

std::uint64_t host_memory_mib() {
    std::ifstream in("/proc/meminfo");
    std::string word;
    std::uint64_t kib = 0;
    while (in >> word)
        if (word == "MemTotal:" && in >> kib) break;
    return kib / 1024;
}

// Domain 0 is there from the start, with the nodes that Xen's init-dom0less or xen-init-dom0 writes.
void make_domain_zero(Hypervisor& hypervisor, StoreServer& store, std::uint32_t mib) {
    DomainConfig config;
    config.name = "Domain-0";
    config.uuid = "00000000-0000-0000-0000-000000000000";
    config.type = "pv";
    config.max_pages = config.pages = mib * kPagesPerMib;
    std::uint16_t id = 0;
    if (int error = hypervisor.create_domain(config, 0, id))
        throw std::system_error(error, std::generic_category(), "creating domain 0");
    const std::string path = "/local/domain/0";
    store.write("/tool", "", "n0");
    store.write("/vm/" + config.uuid + "/name", config.name, "r0");
    store.write("/vm/" + config.uuid + "/uuid", config.uuid, "r0");
    store.write("/libxl/0/type", "pv", "n0");
    store.write(path + "/domid", "0", "r0");
    store.write(path + "/name", config.name, "r0");
    store.write(path + "/vm", "/vm/" + config.uuid, "r0");
    store.write(path + "/memory/static-max", std::to_string(mib * 1024), "r0");
    store.write(path + "/memory/target", std::to_string(mib * 1024), "r0");
    store.write(path + "/cpu/0/availability", "online", "r0");
}

int run(int argc, char** argv) {
    std::string directory = CoreConnection::directory();
    std::uint64_t host_mib = host_memory_mib();
    std::uint32_t domain_zero_mib = 64;
    std::uint32_t unmap_delay_ms = 5;
    bool exit_with_parent = false;
    int ready_fd = -1;
    CLI::App app("The embedded hypervisor core of Ringback", "ringback-core");
    app.add_option("--directory", directory,
                   "Where the sockets are made (default: RINGBACK_CORE, or /run/ringback-embedded)");
    app.add_option("--host-memory-mib", host_mib, "Memory of all domains together (default: this machine's)");
    app.add_option("--dom0-memory-mib", domain_zero_mib, "Memory of domain 0")->check(CLI::Range(1u, 65536u));
    app.add_option("--unmap-delay-ms", unmap_delay_ms, "How late an unmap is seen; 0: at once")
        ->check(CLI::Range(0u, 10000u));
    app.add_flag("--exit-with-parent", exit_with_parent, "End when the process that started this one does");
    app.add_option("--ready-fd", ready_fd, "Write a byte here and close it once all sockets are there");
    CLI11_PARSE(app, argc, argv);

    if (exit_with_parent) {
        const pid_t parent = ::getppid();
        ::prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (::getppid() != parent) return 1;
    }
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &files);
    }
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
        throw std::system_error(errno, std::generic_category(), "making " + directory);
    Fd lock(::open((directory + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!lock) throw std::system_error(errno, std::generic_category(), "opening " + directory + "/lock");
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0)
        throw std::system_error(errno, std::generic_category(), "another core runs in " + directory);

    Loop loop;
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::sigaddset(&signals, SIGINT);
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    Fd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    loop.add(signal_fd.get(), EPOLLIN, [&](std::uint32_t) { loop.stop(); });

    Hypervisor hypervisor(loop, host_mib * kPagesPerMib);
    hypervisor.unmap_delay_ms = unmap_delay_ms;
    Hypercalls hypercalls(loop, hypervisor, directory);
    StoreServer store(loop, hypervisor, directory);
    Admin admin(hypervisor, hypercalls, store);
    hypercalls.admin = [&](Op op, const std::string& payload, std::int64_t* args, std::string& reply) {
        return admin.handle(op, payload, args, reply);
    };
    hypervisor.on_release = [&] { store.fire_special("@releaseDomain"); };
    hypervisor.on_domain_created = [&](std::uint16_t id) {
        store.listen(id);
        hypercalls.listen(id);
    };
    hypervisor.on_domain_dying = [&](std::uint16_t id) {
        hypercalls.close(id);
        store.close(id);
    };
    make_domain_zero(hypervisor, store, domain_zero_mib);
    if (ready_fd >= 0) {
        if (::write(ready_fd, "1", 1) != 1)
            throw std::system_error(errno, std::generic_category(), "writing to --ready-fd");
        ::close(ready_fd);
    }
    loop.run();
    return 0;
}

}  // namespace
}  // namespace ringback::xen::embedded

int main(int argc, char** argv) {
    try {
        return ringback::xen::embedded::run(argc, argv);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "ringback-core: %s\n", e.what());
        return 1;
    }
}
