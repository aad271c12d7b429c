// SPDX-License-Identifier: Apache-2.0
//
// A whole Ringback for disks on an embedded core: blkbackd with its workers as child processes, the toolstack that
// behaves as libxl does, the installed hotplug script, and one guest. Everything ends with the test, however it ends.
#pragma once

#include <sys/types.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core_fixture.h"
#include "runtime/unique_fd.h"
#include "tools/frontend/blkfront.h"

namespace ringback::test {

class Daemon {
  public:
    // `configuration` is TOML for blkbackd.
    explicit Daemon(const CoreProcess& core, const std::string& configuration = "",
                    std::string worker_program = RINGBACK_WORKER);
    ~Daemon();
    Daemon(const Daemon&) = delete;
    Daemon& operator=(const Daemon&) = delete;

    // Ends blkbackd alone (its workers go on) and starts it again.
    void stop();
    void start();
    // Kills blkbackd and this worker, neither of which can do anything about it.
    void kill_with(pid_t worker);
    // Waits until blkbackd ends by itself; its exit status.
    [[nodiscard]] int wait_exit();
    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] const std::string& directory() const { return directory_; }
    [[nodiscard]] std::string socket() const { return directory_ + "/blkbackd.sock"; }
    // The answer, whatever it says.
    [[nodiscard]] nlohmann::json ask(nlohmann::json request) const;
    // Sends these bytes as they are; the answer's line.
    [[nodiscard]] std::string send_raw(const std::string& bytes) const;
    // The worker of this guest, 0: none.
    [[nodiscard]] pid_t worker(uint16_t domid) const;
    // Waits until no worker is left in the group.
    void wait_without_workers() const;

  private:
    [[nodiscard]] size_t processes_in_group() const;

    std::string directory_;
    std::string configuration_;
    std::string worker_program_;
    pid_t group_ = -1;   // leads the process group and ends it when the test is gone
    UniqueFd alive_;     // its other end tells the group's leader that the test is there
    pid_t pid_ = -1;
};

struct DiskBed {
    explicit DiskBed(const std::string& configuration = "", xen::embedded::DomainSpec spec = {},
                     const std::string& worker_program = RINGBACK_WORKER);

    // A sparse file of this size in the test's directory.
    [[nodiscard]] std::string file(const std::string& name, uint64_t bytes = 1U << 20) const;
    // A disk by our own script, which is run.
    [[nodiscard]] xen::embedded::DiskSpec disk(const std::string& target) const;
    [[nodiscard]] std::unique_ptr<frontend::Blkfront> front(frontend::Options options = {}) const;
    [[nodiscard]] std::string back(uint32_t devid = 51712, const std::string& kind = "vbd") const;
    [[nodiscard]] std::string front_path(uint32_t devid = 51712) const;
    [[nodiscard]] std::string node(const std::string& path);  // "" when absent
    void wait_node(const std::string& path, const std::string& value);

    CoreWithGuest t;
    Daemon daemon;
    xen::embedded::Toolstack& xl = t.toolstack;
    xen::embedded::StoreClient& store = t.toolstack.store();
};

// Another guest with a disk that has to go on, whatever happens to the first one's.
class Neighbour {
  public:
    explicit Neighbour(DiskBed& bed);
    void check() const;
    [[nodiscard]] uint16_t domid() const { return domid_; }

  private:
    uint16_t domid_;
    std::unique_ptr<frontend::Blkfront> front_;
};

// Standard error of this process and of those it starts, kept to be looked at. Shown when it goes.
class CapturedLog {
  public:
    CapturedLog();
    ~CapturedLog();
    CapturedLog(const CapturedLog&) = delete;
    CapturedLog& operator=(const CapturedLog&) = delete;

    [[nodiscard]] std::string text() const;
    // How many lines hold this.
    [[nodiscard]] size_t lines(const std::string& part) const;

  private:
    UniqueFd former_;
    UniqueFd file_;
};

// One request through the frontend's ring; its status.
int transfer(frontend::Blkfront& front, frontend::Op op, uint64_t sector, std::string& data);

}  // namespace ringback::test
