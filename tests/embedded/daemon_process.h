// SPDX-License-Identifier: Apache-2.0
//
// A supervisor of ours on an embedded core, with its workers as child processes, all in one process group. Everything
// ends with the test, however it ends.
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <sys/un.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core_fixture.h"
#include "runtime/unique_fd.h"

namespace ringback::test {

inline constexpr int kPatienceMs = 20000;

[[nodiscard]] sockaddr_un address_of(const std::string& path);

class DaemonProcess {
  public:
    // start() is the caller's. `configuration` is TOML for the daemon, `command` its program and first arguments.
    DaemonProcess(const CoreProcess& core, std::string name, const std::string& configuration,
                  std::vector<std::string> command);
    ~DaemonProcess();
    DaemonProcess(const DaemonProcess&) = delete;
    DaemonProcess& operator=(const DaemonProcess&) = delete;

    // Ends the daemon alone (its workers go on), by SIGTERM or SIGKILL, and starts it again.
    void stop(int signal = SIGTERM);
    void start();
    // Waits until it ends by itself; its exit status.
    [[nodiscard]] int wait_exit();
    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] const std::string& directory() const { return directory_; }
    [[nodiscard]] std::string socket() const { return directory_ + "/" + name_ + ".sock"; }
    // The answer, whatever it says.
    [[nodiscard]] nlohmann::json ask(nlohmann::json request) const;
    // Sends these bytes as they are; the answer's line.
    [[nodiscard]] std::string send_raw(const std::string& bytes) const;
    // Waits until no worker is left in the group.
    void wait_without_workers() const;

  private:
    [[nodiscard]] size_t processes_in_group() const;

    std::string name_;
    std::string directory_;
    std::vector<std::string> command_;
    pid_t group_ = -1;  // leads the process group and ends it when the test is gone
    UniqueFd alive_;    // its other end tells the group's leader that the test is there

  protected:
    pid_t pid_ = -1;
};

}  // namespace ringback::test
