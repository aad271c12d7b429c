// SPDX-License-Identifier: Apache-2.0
//
// blkbackd: the supervisor of the virtual disks. Reads the configuration, starts the Supervisor, ends on SIGTERM
// without touching a worker. As `blkbackd upgrade` it is a client of the one that runs (upgrade.h).
#include "blkback/config.h"
#include "blkback/supervisor.h"
#include "blkback/upgrade.h"
#include "runtime/daemon.h"

namespace {

using namespace ringback;

constexpr DaemonText kText{
    .name = "blkbackd",
    .about = "Serves the virtual disks of Xen guests: supervisor of the workers that move the data.",
    .spawn_flag = "--spawn-workers",
    .config_path = blk::kConfigPath,
    .farewell = "workers go on",
};

constexpr DaemonText kUpgradeText{
    .name = "blkbackd upgrade",
    .about = "Moves every guest to the installed programs, one by one, and says how long each of them was paused. Options as the "
             "running blkbackd has them.",
    .spawn_flag = "--spawn-workers",
    .config_path = blk::kConfigPath,
    .farewell = "",
};

Result<void> serve(const DaemonOptions& options) {
    blk::Config config = TRY(blk::load_config(options.config_path));
    if (options.check) return {};
    options.apply(config);
    EventLoop loop = TRY(EventLoop::create());
    const UniqueFd signals = TRY(take_signals(loop));
    const std::unique_ptr<blk::Supervisor> supervisor = TRY(blk::Supervisor::start(loop, config));
    run_daemon(kText, loop, [&supervisor] { supervisor->work(); });
    return supervisor->verdict();
}

Result<void> move_guests(const DaemonOptions& options) {
    blk::Config config = TRY(blk::load_config(options.config_path));
    options.apply(config);
    return blk::upgrade(config);
}

}  // namespace

int main(int argc, char** argv) {
    const bool upgrading = argc > 1 && std::string_view(argv[1]) == "upgrade";
    const auto options = upgrading ? parse_command_line(kUpgradeText, argc - 1, argv + 1)
                                   : parse_command_line(kText, argc, argv);
    if (const int* status = std::get_if<int>(&options)) return *status;
    return exit_status((upgrading ? move_guests : serve)(std::get<DaemonOptions>(options)));
}
