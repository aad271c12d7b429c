// SPDX-License-Identifier: Apache-2.0
//
// netbackd: the supervisor of the virtual NICs. Reads the configuration, starts the Supervisor, ends on SIGTERM
// without touching the worker.
#include "netback/config.h"
#include "netback/supervisor.h"
#include "runtime/daemon.h"

namespace {

using namespace ringback;

constexpr DaemonText kText{
    .name = "netbackd",
    .about = "Serves the virtual NICs of Xen guests: supervisor of the worker that moves the packets.",
    .spawn_flag = "--spawn-worker",
    .config_path = net::kConfigPath,
    .farewell = "the worker goes on",
};

Result<void> serve(const DaemonOptions& options) {
    net::Config config = TRY(net::load_config(options.config_path));
    if (options.check) return {};
    options.apply(config);
    EventLoop loop = TRY(EventLoop::create());
    const UniqueFd signals = TRY(take_signals(loop));
    const std::unique_ptr<net::Supervisor> supervisor = TRY(net::Supervisor::start(loop, config));
    run_daemon(kText, loop, [&supervisor] { supervisor->work(); });
    return supervisor->verdict();
}

}  // namespace

int main(int argc, char** argv) {
    const auto options = parse_command_line(kText, argc, argv);
    if (const int* status = std::get_if<int>(&options)) return *status;
    return exit_status(serve(std::get<DaemonOptions>(options)));
}
