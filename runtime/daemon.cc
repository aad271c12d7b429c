// SPDX-License-Identifier: Apache-2.0
#include "runtime/daemon.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>

#include <CLI/CLI.hpp>

#include "runtime/log.h"

namespace ringback {

void DaemonOptions::apply(DaemonConfig& config) const {
    if (spawn_workers) config.worker_start = WorkerStart::fork;
    if (!worker_program.empty()) config.worker_program = worker_program;
    if (!runtime_directory.empty()) config.runtime_directory = runtime_directory;
}

std::variant<DaemonOptions, int> parse_command_line(const DaemonText& text, int argc, char** argv) {
    DaemonOptions options;
    options.config_path = text.config_path;
    bool verbose = false;
    CLI::App app(text.about, text.name);
    app.set_version_flag("--version", fmt::format("{} {}", text.name, RINGBACK_VERSION));
    app.add_option("--config", options.config_path, "Configuration file")->capture_default_str();
    app.add_flag("--check", options.check, "Check the configuration and end");
    app.add_flag(text.spawn_flag, options.spawn_workers,
                 "Start workers as child processes, not as systemd units (worker_start = \"fork\")");
    app.add_option("--worker-program", options.worker_program, "Program of a child worker (worker_program)");
    app.add_option("--runtime-directory", options.runtime_directory, "Sockets and journals (runtime_directory)");
    app.add_flag("--verbose", verbose, "Log each step of each device");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    if (verbose) log::set_level(log::Level::debug);
    return options;
}

Result<UniqueFd> take_signals(EventLoop& loop) {
    ::signal(SIGPIPE, SIG_IGN);
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::sigaddset(&signals, SIGINT);
    if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) return os_error("block signals");
    UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd) return os_error("create a signal descriptor");
    TRY(loop.watch(fd.get(), EPOLLIN, [&loop](uint32_t) { loop.stop(); }));
    return fd;
}

void run_daemon(const DaemonText& text, EventLoop& loop, const std::function<void()>& before_wait) {
    log::notice("{} {} is ready", text.name, RINGBACK_VERSION);
    (void)::sd_notify(0, "READY=1");
    loop.run(before_wait);
    (void)::sd_notify(0, "STOPPING=1");
    log::notice("{} ends; {}", text.name, text.farewell);
}

int exit_status(const Result<void>& served) {
    if (served) return 0;
    log::error("{}", served.error().message);
    return 1;
}

}  // namespace ringback
