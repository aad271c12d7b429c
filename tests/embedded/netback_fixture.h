// SPDX-License-Identifier: Apache-2.0
//
// A whole Ringback for NICs on an embedded core: netbackd with its worker as a child process, the toolstack that behaves
// as libxl does, and one guest, all in a network namespace of the test's own. Everything ends with the test.
#pragma once

#include <sys/types.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core_fixture.h"
#include "daemon_process.h"
#include "runtime/unique_fd.h"
#include "tools/frontend/netfront.h"

namespace ringback::test {

// A network namespace for this thread and what it starts; the test is skipped where that is not allowed.
void enter_network_namespace();

struct NetSettings {
    std::string lines{};            // of its configuration
    std::string switch_lines{};     // of [switch]
    std::string worker_program{};   // empty: ours
};

class NetDaemon : public DaemonProcess {
  public:
    explicit NetDaemon(const CoreProcess& core, const NetSettings& settings);
    // Of the first guest that has a vif of that number, or of this one.
    [[nodiscard]] nlohmann::json vif(uint32_t handle = 0, int domid = -1) const;
    [[nodiscard]] pid_t worker() const;
};

// The host's side of a vif: a packet socket on its network device.
class HostPort {
  public:
    explicit HostPort(const std::string& interface);
    void send(const std::vector<std::byte>& packet) const;
    // The next packet of ours (ethertype 0x88b5); empty: none came in time.
    [[nodiscard]] std::vector<std::byte> receive(int timeout_ms = 10000) const;

  private:
    UniqueFd socket_;
};

struct NetBed {
    explicit NetBed(const NetSettings& settings = {});

    [[nodiscard]] std::unique_ptr<frontend::Netfront> front(frontend::NetOptions options = {}) const;
    [[nodiscard]] std::string back(uint32_t handle = 0) const;
    [[nodiscard]] std::string front_path(uint32_t handle = 0) const;
    [[nodiscard]] std::string interface(uint32_t handle = 0) const;
    [[nodiscard]] std::string node(const std::string& path);  // "" when absent
    void wait_node(const std::string& path, const std::string& value);
    // A packet each way, as a guest and a host would.
    void check_traffic(frontend::Netfront& front, const std::string& interface, size_t size = 500);

    struct Namespace {
        Namespace() { enter_network_namespace(); }
    } network;
    CoreWithGuest t;
    NetDaemon daemon;
    xen::embedded::Toolstack& xl = t.toolstack;
    xen::embedded::StoreClient& store = t.toolstack.store();
};

}  // namespace ringback::test
