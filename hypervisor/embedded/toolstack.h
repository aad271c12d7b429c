// SPDX-License-Identifier: Apache-2.0
//
// The toolstack of the embedded core: what xl and libxl 4.17 do for a domain and its disks, in libxl's own
// order, with libxl's nodes, permissions, conditions and time limits, so that a backend which satisfies this
// one is not surprised by the other. Where libxl is unforgiving (the backend's state has to *equal* 2 when
// the watch is handled; nodes are deleted whatever the backend says once the limit is over), so is this.
// Thread: one owner.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hypervisor/embedded/connection.h"
#include "hypervisor/embedded/store_client.h"

namespace ringback::xen::embedded {

struct DomainSpec {
    std::string name = "guest";
    std::string uuid = {};     // made up if empty
    std::string type = "pvh";  // pv, pvh, hvm
    std::uint64_t memory_mib = 32;
    std::uint64_t max_memory_mib = 0;  // 0: as memory_mib
    std::uint32_t vcpus = 1;
    std::uint32_t max_vcpus = 0;  // 0: as vcpus
    int domid = -1;               // -1: the next one
};

struct DiskSpec {
    std::string vdev = "xvda";
    std::string params = {};  // target=, as the user wrote it
    std::string script = "/etc/xen/scripts/block";
    std::string kind = "vbd";  // vbd3: backendtype=tap of Xen 4.19 and later
    bool readonly = false;
    bool cdrom = false;
    bool direct_io_safe = false;
    std::optional<bool> discard_enable = {};
    std::uint16_t backend_domid = 0;
    // Runs `script` with libxl's environment. Off: does only what the stock script does to the store
    // (physical-device-path, hotplug-status), without starting anything.
    bool run_script = false;
    std::vector<std::pair<std::string, std::string>> extra_frontend_nodes = {};
    // What no toolstack writes: another value for a node of the backend's, or (nullopt) none.
    std::vector<std::pair<std::string, std::optional<std::string>>> wrong_backend_nodes = {};
};

struct NicSpec {
    std::uint32_t handle = 0;
    std::string mac = "00:16:3e:00:00:01";
    std::string bridge = "xenbr0";
    std::string script = "/etc/xen/scripts/vif-bridge";
    std::string vifname = {};
    std::string rate = {};  // "bytes,microseconds"
    std::string mtu = {};
    std::string ip = {};
    std::uint16_t backend_domid = 0;
};

struct Timeouts {  // milliseconds; libxl_internal.h
    int device = 10000;
    int hotplug = 40000;
};

class Toolstack {
  public:
    [[nodiscard]] static Result<Toolstack> connect();

    Result<std::uint16_t> create_domain(const DomainSpec& spec);
    // As `xl destroy`: pauses, removes all devices by force, all at once, then nodes and domain.
    Result<void> destroy_domain(std::uint16_t domid);
    // The hypercall alone: the domain is dead at this moment, every node stays, no device is closed.
    Result<void> kill_domain(std::uint16_t domid);
    // What the domain itself or its owner caused; fires @releaseDomain.
    Result<void> shutdown_domain(std::uint16_t domid, ShutdownReason reason);
    Result<void> resume_domain(std::uint16_t domid);
    Result<void> pause_domain(std::uint16_t domid, bool paused);
    Result<void> rename_domain(std::uint16_t domid, const std::string& name);
    // As `xl mem-set` and `xl mem-max`: the target is in the store, the guest's balloon driver does the rest.
    Result<void> set_memory_target(std::uint16_t domid, std::uint64_t kib);
    Result<void> set_max_memory(std::uint16_t domid, std::uint64_t kib);
    // As `xl vcpu-set`: the first `count` online.
    Result<void> set_vcpus(std::uint16_t domid, std::uint32_t count);

    // Nodes in one transaction, waits for the backend's state 2, runs the script. Returns the device id. On
    // failure everything written is removed again, as libxl does; the message carries hotplug-error if the
    // script left one.
    Result<std::uint32_t> attach_disk(std::uint16_t domid, const DiskSpec& spec);
    // As `xl block-detach`; `force` as its --force.
    Result<void> detach_disk(std::uint16_t domid, std::uint32_t devid, bool force = false);

    // The same for a NIC; no script is run, its outcome is written. Removed with detach_disk() by its handle.
    Result<void> attach_nic(std::uint16_t domid, const NicSpec& spec);

    // Exactly what these steps write, for tests that want to stand in the middle.
    Result<std::uint32_t> write_disk_nodes(std::uint16_t domid, const DiskSpec& spec);
    Result<void> write_nic_nodes(std::uint16_t domid, const NicSpec& spec);
    Result<void> wait_backend_ready(std::uint16_t domid, std::uint32_t devid, const DiskSpec& spec);
    Result<void> hotplug(std::uint16_t domid, std::uint32_t devid, const std::string& action);

    // JSON of the core: a domain, all domains, the counters.
    Result<std::string> domain_info(std::uint16_t domid);
    Result<std::string> list_domains();
    Result<std::string> counters();
    // Fault injection, see docs/embedded-core.md for the keys.
    Result<std::string> inject(const std::string& json);

    StoreClient& store() { return store_; }
    CoreConnection& core() { return *core_; }
    Timeouts timeouts;

  private:
    explicit Toolstack(StoreClient store)
        : core_(std::make_unique<CoreConnection>()), store_(std::move(store)) {}
    struct Device {
        std::uint16_t domid;
        std::string kind;
        std::uint32_t devid;
        std::string frontend, backend, libxl;
        std::string script;
    };
    Result<void> call(Op op, std::initializer_list<std::int64_t> args, const std::string& what,
                      const std::string& payload = {});
    Result<std::string> ask(Op op, std::initializer_list<std::int64_t> args, const std::string& what,
                            const std::string& payload = {});
    Result<Device> find_device(std::uint16_t domid, std::uint32_t devid);
    std::vector<Device> devices(std::uint16_t domid);
    Result<void> begin_removal(const Device& device);
    void remove_nodes(const Device& device);
    void prune(std::string path, std::uint32_t tx);
    Result<void> run_script(const Device& device, const std::string& action);

    std::unique_ptr<CoreConnection> core_;
    StoreClient store_;
};

// The device number of xvdX, hdX, sdX or dNpM, as libxl has it; nothing if the name is none of these.
std::optional<std::uint32_t> device_number(const std::string& vdev);

}  // namespace ringback::xen::embedded
