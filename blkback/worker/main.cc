// SPDX-License-Identifier: Apache-2.0
//
// blkback-worker: serves one guest's disks. Started by blkbackd, or by its systemd template unit.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "runtime/sandbox.h"
#include "blkback/worker/worker.h"
#include "blkback/worker_user.h"
#include "runtime/log.h"

using namespace ringback;

int main(int argc, char** argv) {
    blk::worker::Worker::Options options;
    bool no_polling = false;
    bool interface = false;
    bool own_user = false;
    CLI::App app("Serves the disks of one Xen guest. Started by blkbackd, not by hand.", "blkback-worker");
    app.set_version_flag("--version", RINGBACK_VERSION);
    app.add_option("--domid", options.domid, "Domain whose disks are served")->check(CLI::Range(0, 0x7fef));
    app.add_option("--supervisor", options.supervisor, "Socket of blkbackd");
    app.add_flag("--interface", interface, "Say from which versions it can take over, and end");
    app.add_flag("--own-user", own_user, "Become the user of this domain (root only)");
    app.add_flag("--no-polling", no_polling, "Sleep at once when a ring is empty");
    CLI11_PARSE(app, argc, argv);
    if (interface) {
        fmt::print("protocol {} journal {}\n", blk::kProtocolVersion, blk::kJournalVersion);
        return 0;
    }
    if (app.count("--domid") == 0 || options.supervisor.empty()) {
        fmt::print(stderr, "blkback-worker: --domid and --supervisor are needed\n");
        return 2;
    }

    // Twice the cost of a wake-up at most: on a machine where waking is very slow, looking longer only burns the core.
    constexpr uint64_t kMaxWindowNs = 200'000;
    if (!no_polling) options.polling.window_ns = std::min(measure_wake_cost(), kMaxWindowNs);
    auto worker = blk::worker::Worker::prepare(options);
    if (!worker) {
        log::error("domain {}: {}", options.domid, worker.error().message);
        return 1;
    }
    Sandbox sandbox;
    sandbox.locked_bytes = options.buffer_bytes;
    if (own_user) sandbox.identity = Identity{blk::worker_user(options.domid), blk::kWorkerGroup};
    if (auto entered = enter_sandbox(sandbox); !entered) {
        log::error("domain {}: {}", options.domid, entered.error().message);
        return 1;
    }
    if (auto served = (*worker)->run(); !served) {
        log::error("domain {}: {}", options.domid, served.error().message);
        return 1;
    }
    return 0;
}
