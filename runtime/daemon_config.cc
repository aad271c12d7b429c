// SPDX-License-Identifier: Apache-2.0
#include "runtime/daemon_config.h"

#include <sys/un.h>

namespace ringback {

const char* to_string(WorkerStart start) { return start == WorkerStart::systemd ? "systemd" : "fork"; }

Result<void> DaemonConfig::take(const Setting& setting) {
    if (setting.key == "runtime_directory") {
        TRY(setting.take(runtime_directory));
        if (runtime_directory.front() != '/') return setting.wrong("must be an absolute path");
        if (worker_socket().size() >= sizeof(sockaddr_un::sun_path)) {
            return setting.wrong("is too long for a socket's path");
        }
        return {};
    }
    if (setting.key == "control_group") return setting.take(control_group);
    if (setting.key == "worker_program") return setting.take(worker_program);
    if (setting.key == "worker_start") {
        std::string value;
        TRY(setting.take(value));
        if (value != "systemd" && value != "fork") return setting.wrong("must be \"systemd\" or \"fork\"");
        worker_start = value == "fork" ? WorkerStart::fork : WorkerStart::systemd;
        return {};
    }
    return setting.unknown();
}

}  // namespace ringback
