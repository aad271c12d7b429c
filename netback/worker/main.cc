// SPDX-License-Identifier: Apache-2.0
//
// netback-worker: serves the virtual NICs of all guests. Started by netbackd, or as its systemd unit.
#include <CLI/CLI.hpp>

#include "netback/worker/worker.h"
#include "runtime/log.h"
#include "runtime/sandbox.h"

using namespace ringback;

int main(int argc, char** argv) {
    net::worker::Worker::Options options;
    bool no_polling = false;
    CLI::App app("Serves the virtual NICs of Xen guests. Started by netbackd, not by hand.", "netback-worker");
    app.set_version_flag("--version", RINGBACK_VERSION);
    app.add_option("--supervisor", options.supervisor, "Socket of netbackd")->required();
    app.add_flag("--no-polling", no_polling, "Sleep at once when a ring is empty");
    CLI11_PARSE(app, argc, argv);

    // Twice the cost of a wake-up at most: on a machine where waking is very slow, looking longer only burns the core.
    constexpr uint64_t kMaxWindowNs = 200'000;
    if (!no_polling) options.polling.window_ns = std::min(measure_wake_cost(), kMaxWindowNs);
    auto worker = net::worker::Worker::prepare(options);
    if (!worker) {
        log::error("{}", worker.error().message);
        return 1;
    }
    // DPDK looks around the machine when the first vif is on a switch: files and system calls stay.
    Sandbox sandbox;
    sandbox.files_and_calls = false;
    if (auto entered = enter_sandbox(sandbox); !entered) {
        log::error("{}", entered.error().message);
        return 1;
    }
    if (auto served = (*worker)->run(); !served) {
        log::error("{}", served.error().message);
        return 1;
    }
    return 0;
}
