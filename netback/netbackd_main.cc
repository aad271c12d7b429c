// SPDX-License-Identifier: Apache-2.0
//
// netbackd: the supervisor of the virtual NICs. Reads the configuration, starts the Supervisor, ends on SIGTERM
// without touching the worker.
#include <signal.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>

#include <CLI/CLI.hpp>

#include "netback/config.h"
#include "netback/supervisor.h"
#include "runtime/event_loop.h"
#include "runtime/log.h"
#include "runtime/unique_fd.h"

namespace {

using namespace ringback;

Result<void> serve(const net::Config& config) {
    ::signal(SIGPIPE, SIG_IGN);
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::sigaddset(&signals, SIGINT);
    if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) return os_error("block signals");
    const UniqueFd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signal_fd) return os_error("create a signal descriptor");

    EventLoop loop = TRY(EventLoop::create());
    TRY(loop.watch(signal_fd.get(), EPOLLIN, [&loop](uint32_t) { loop.stop(); }));
    const std::unique_ptr<net::Supervisor> supervisor = TRY(net::Supervisor::start(loop, config));
    log::notice("netbackd {} is ready", RINGBACK_VERSION);
    (void)::sd_notify(0, "READY=1");
    loop.run([&supervisor] { supervisor->work(); });
    (void)::sd_notify(0, "STOPPING=1");
    log::notice("netbackd ends; the worker goes on");
    return supervisor->verdict();
}

}  // namespace

int main(int argc, char** argv) {
    std::string path = net::kConfigPath;
    std::string runtime_directory;
    std::string worker_program;
    bool check = false;
    bool spawn_worker = false;
    bool verbose = false;
    CLI::App app("Serves the virtual NICs of Xen guests: supervisor of the worker that moves the packets.", "netbackd");
    app.set_version_flag("--version", std::string("netbackd ") + RINGBACK_VERSION);
    app.add_option("--config", path, "Configuration file")->capture_default_str();
    app.add_flag("--check", check, "Check the configuration and end");
    app.add_flag("--spawn-worker", spawn_worker,
                 "Start the worker as a child process, not as a systemd unit (worker_start = \"fork\")");
    app.add_option("--worker-program", worker_program, "Program of a child worker (worker_program)");
    app.add_option("--runtime-directory", runtime_directory, "Sockets and journals (runtime_directory)");
    app.add_flag("--verbose", verbose, "Log each step of each vif");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    if (verbose) log::set_level(log::Level::debug);
    auto config = net::load_config(path);
    if (!config) {
        log::error("{}", config.error().message);
        return 1;
    }
    if (check) return 0;
    if (spawn_worker) config->worker_start = net::WorkerStart::fork;
    if (!worker_program.empty()) config->worker_program = worker_program;
    if (!runtime_directory.empty()) config->runtime_directory = runtime_directory;
    if (const auto served = serve(config.value()); !served) {
        log::error("{}", served.error().message);
        return 1;
    }
    return 0;
}
