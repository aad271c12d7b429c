// SPDX-License-Identifier: Apache-2.0
#include "runtime/daemon_config.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
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

Result<UniqueFd> claim_directories(const DaemonConfig& config, const std::string& journal_directory) {
    for (const auto& [path, mode] : {std::pair(config.runtime_directory, 0755), std::pair(journal_directory, 0700)}) {
        if (::mkdir(path.c_str(), static_cast<mode_t>(mode)) != 0 && errno != EEXIST) return os_error("create " + path);
    }
    const std::string path = fmt::format("{}/{}d.lock", config.runtime_directory, config.name);
    UniqueFd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock) return os_error("open " + path);
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
        return os_error(fmt::format("lock {} (is another {}d running?)", path, config.name));
    }
    return lock;
}

}  // namespace ringback
