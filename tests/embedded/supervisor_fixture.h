// SPDX-License-Identifier: Apache-2.0
//
// A whole Ringback for disks on an embedded core: blkbackd with its workers as child processes, the toolstack that
// behaves as libxl does, the installed hotplug script, and one guest.
#pragma once

#include <sys/types.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "core_fixture.h"
#include "daemon_process.h"
#include "runtime/unique_fd.h"
#include "tools/frontend/blkfront.h"

namespace ringback::test {

class Daemon : public DaemonProcess {
  public:
    // `configuration` is TOML for blkbackd.
    explicit Daemon(const CoreProcess& core, const std::string& configuration = "",
                    const std::string& worker_program = RINGBACK_WORKER);
    // Kills blkbackd and this worker, neither of which can do anything about it.
    void kill_with(pid_t worker);
    // The worker of this guest, 0: none.
    [[nodiscard]] pid_t worker(uint16_t domid) const;
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
int transfer(frontend::Queue& queue, frontend::Op op, uint64_t sector, std::string& data);
inline int transfer(frontend::Blkfront& front, frontend::Op op, uint64_t sector, std::string& data) {
    return transfer(front.queue(0), op, sector, data);
}

}  // namespace ringback::test
