// SPDX-License-Identifier: Apache-2.0
//
// See toolstack.h. Disks: what libxl writes, waits for and removes (Xen 4.17: libxl_disk.c, libxl_device.c).
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>

#include "hypervisor/embedded/toolstack.h"

namespace ringback::xen::embedded {
namespace {

using Nodes = std::vector<std::pair<std::string, std::string>>;

std::string frontend_path(std::uint16_t domid, std::uint32_t devid) {
    return "/local/domain/" + std::to_string(domid) + "/device/vbd/" + std::to_string(devid);
}

std::string libxl_path(std::uint16_t domid, const std::string& kind, std::uint32_t devid) {
    return "/libxl/" + std::to_string(domid) + "/device/" + kind + "/" + std::to_string(devid);
}

bool number(const std::string& text, std::size_t from, std::uint32_t& value) {
    auto [end, error] = std::from_chars(text.data() + from, text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::optional<std::uint32_t> device_number(const std::string& vdev) {
    std::uint32_t disk = 0, part = 0;
    if (vdev.size() > 1 && vdev[0] == 'd' && vdev[1] >= '0' && vdev[1] <= '9') {
        std::size_t p = vdev.find('p');
        if (p == std::string::npos) return std::nullopt;
        if (!number(vdev.substr(0, p), 1, disk) || !number(vdev, p + 1, part)) return std::nullopt;
    } else {
        const std::size_t prefix = vdev.starts_with("xvd")                            ? 3
                                   : vdev.starts_with("hd") || vdev.starts_with("sd") ? 2
                                                                                      : 0;
        if (prefix == 0) return std::nullopt;
        std::size_t i = prefix;
        std::uint32_t letters = 0;
        for (; i < vdev.size() && vdev[i] >= 'a' && vdev[i] <= 'z'; ++i)
            letters = letters * 26 + static_cast<std::uint32_t>(vdev[i] - 'a') + 1;
        if (letters == 0 || letters > (1u << 20)) return std::nullopt;
        disk = letters - 1;
        if (i < vdev.size() && !number(vdev, i, part)) return std::nullopt;
        if (prefix == 2 && vdev[0] == 'h') {
            if (disk > 3 || part > 63) return std::nullopt;
            return ((disk < 2 ? 3u : 22u) << 8) | ((disk & 1) << 6) | part;
        }
        if (prefix == 2) {
            if (disk > 15 || part > 15) return std::nullopt;
            return (8u << 8) | (disk << 4) | part;
        }
    }
    if (disk <= 15 && part <= 15) return (202u << 8) | (disk << 4) | part;
    if (disk <= 1048575 && part <= 255) return (1u << 28) | (disk << 8) | part;
    return std::nullopt;
}

Result<std::uint32_t> Toolstack::write_disk_nodes(std::uint16_t domid, const DiskSpec& spec) {
    const std::optional<std::uint32_t> devid = device_number(spec.vdev);
    if (!devid) return os_error(EINVAL, "attach a disk as " + spec.vdev);
    const std::string id = std::to_string(domid), dev = std::to_string(*devid);
    const std::string be_id = std::to_string(spec.backend_domid);
    const std::string front = frontend_path(domid, *devid);
    const std::string back = "/local/domain/" + be_id + "/backend/" + spec.kind + "/" + id + "/" + dev;
    const std::string copy = libxl_path(domid, spec.kind, *devid);
    std::optional<std::string> type = store_.get("/libxl/" + id + "/type");
    if (!type) return os_error(ENOENT, "attach a disk to domain " + id);
    const char* device_type = spec.cdrom ? "cdrom" : "disk";

    Nodes backend = {{"frontend", front},
                     {"params", spec.params},
                     {"script", spec.script},
                     {"frontend-id", id},
                     {"online", "1"},
                     {"removable", spec.cdrom ? "1" : "0"},
                     {"bootable", "1"},
                     {"state", "1"},
                     {"dev", spec.vdev},
                     {"type", spec.kind == "vbd" ? "phy" : "tap"},
                     {"mode", spec.readonly || spec.cdrom ? "r" : "w"},
                     {"device-type", device_type}};
    if (spec.direct_io_safe) backend.emplace_back("direct-io-safe", "1");
    if (spec.discard_enable) backend.emplace_back("discard-enable", *spec.discard_enable ? "1" : "0");
    backend.emplace_back("specification", "xen");
    Nodes frontend = {{"backend", back},       {"backend-id", be_id},        {"state", "1"},
                      {"virtual-device", dev}, {"device-type", device_type}, {"trusted", "1"}};
    if (*type == "pv") frontend.emplace_back("protocol", "x86_64-abi");
    frontend.insert(frontend.end(), spec.extra_frontend_nodes.begin(), spec.extra_frontend_nodes.end());

    TRY(store_.transact([&](std::uint32_t tx) -> Result<void> {
        if (store_.get(copy, tx)) return os_error(EEXIST, "attach " + spec.vdev + " to domain " + id);
        (void)store_.remove(front, tx);
        TRY(store_.mkdir(front, tx));
        TRY(store_.set_permissions(front, {"n" + id, "r" + be_id}, tx));
        for (const auto& [key, value] : frontend)
            TRY(store_.write(front + "/" + key, value, tx));
        (void)store_.remove(back, tx);
        TRY(store_.mkdir(back, tx));
        TRY(store_.set_permissions(back, {"n" + be_id, "r" + id}, tx));
        for (const auto& [key, value] : backend)
            TRY(store_.write(back + "/" + key, value, tx));
        for (const auto& [key, value] : spec.wrong_backend_nodes) {
            if (value)
                TRY(store_.write(back + "/" + key, *value, tx));
            else
                TRY(store_.remove(back + "/" + key, tx));
        }
        TRY(store_.write(copy + "/frontend", front, tx));
        TRY(store_.write(copy + "/backend", back, tx));
        for (const auto& [key, value] : backend)
            TRY(store_.write(copy + "/" + key, value, tx));
        // Not libxl's: how this toolstack was told to run the script.
        if (spec.run_script) TRY(store_.write(copy + "/run-script", "1", tx));
        return {};
    }));
    return *devid;
}

Result<void> Toolstack::wait_backend_ready(std::uint16_t domid, std::uint32_t devid, const DiskSpec& spec) {
    const std::string state = "/local/domain/" + std::to_string(spec.backend_domid) + "/backend/" +
                              spec.kind + "/" + std::to_string(domid) + "/" + std::to_string(devid) +
                              "/state";
    bool vanished = false;
    TRY(store_.wait_for(
        state,
        [&](const std::optional<std::string>& value) {
            vanished = !value;
            return vanished || *value == "2";
        },
        timeouts.device));
    if (vanished) return os_error(ENOENT, "wait for " + state);
    return {};
}

Result<std::uint32_t> Toolstack::attach_disk(std::uint16_t domid, const DiskSpec& spec) {
    const std::uint32_t devid = TRY(write_disk_nodes(domid, spec));
    Result<void> done = wait_backend_ready(domid, devid, spec);
    if (done.ok()) done = hotplug(domid, devid, "add");
    if (done.ok()) return devid;
    (void)detach_disk(domid, devid, true);
    return done.error();
}

Result<Toolstack::Device> Toolstack::find_device(std::uint16_t domid, std::uint32_t devid) {
    for (Device& device : devices(domid))
        if (device.devid == devid) return std::move(device);
    return os_error(ENOENT, "find device " + std::to_string(devid) + " of domain " + std::to_string(domid));
}

std::vector<Toolstack::Device> Toolstack::devices(std::uint16_t domid) {
    std::vector<Device> found;
    const std::string root = "/libxl/" + std::to_string(domid) + "/device";
    Result<std::vector<std::string>> kinds = store_.list(root);
    if (!kinds.ok()) return found;
    for (const std::string& kind : *kinds) {
        Result<std::vector<std::string>> ids = store_.list(root + "/" + kind);
        if (!ids.ok()) continue;
        for (const std::string& id : *ids) {
            const std::string path = root + "/" + kind + "/" + id;
            Device device;
            device.domid = domid;
            device.kind = kind;
            if (!number(id, 0, device.devid)) continue;
            device.libxl = path;
            device.frontend = store_.get(path + "/frontend").value_or("");
            device.backend = store_.get(path + "/backend").value_or("");
            device.script = store_.get(path + "/script").value_or("");
            found.push_back(std::move(device));
        }
    }
    return found;
}

Result<void> Toolstack::begin_removal(const Device& device) {
    return store_.transact([&](std::uint32_t tx) -> Result<void> {
        std::optional<std::string> state = store_.get(device.backend + "/state", tx);
        if (!state) return {};
        TRY(store_.write(device.backend + "/online", "0", tx));
        if (*state != "6") TRY(store_.write(device.backend + "/state", "5", tx));
        return {};
    });
}

// Removes a node and the parents it leaves empty.
void Toolstack::prune(std::string path, std::uint32_t tx) {
    while (path.size() > 1) {
        if (!store_.remove(path, tx).ok()) return;
        path.resize(path.rfind('/'));
        Result<std::vector<std::string>> rest = store_.list(path, tx);
        if (!rest.ok() || !rest->empty()) return;
    }
}

void Toolstack::remove_nodes(const Device& device) {
    (void)store_.transact([&](std::uint32_t tx) -> Result<void> {
        prune(device.frontend, tx);
        prune(device.backend, tx);
        prune(device.libxl, tx);
        return {};
    });
}

Result<void> Toolstack::detach_disk(std::uint16_t domid, std::uint32_t devid, bool force) {
    const Device device = TRY(find_device(domid, devid));
    if (force) (void)store_.remove(device.frontend);
    TRY(begin_removal(device));
    Result<void> closed = store_.wait_for(
        device.backend + "/state", [](const auto& state) { return !state || *state == "6"; },
        timeouts.device);
    if (closed.ok())
        (void)run_script(device, "remove");
    else if (!force)
        return closed;
    remove_nodes(device);
    return {};
}

Result<void> Toolstack::hotplug(std::uint16_t domid, std::uint32_t devid, const std::string& action) {
    return run_script(TRY(find_device(domid, devid)), action);
}

Result<void> Toolstack::run_script(const Device& device, const std::string& action) {
    if (!store_.get(device.libxl + "/run-script")) {
        if (action != "add") return {};
        TRY(store_.write(device.backend + "/physical-device-path",
                         store_.get(device.backend + "/params").value_or("")));
        return store_.write(device.backend + "/hotplug-status", "connected");
    }
    const std::string tried = "hotplug script " + device.script + " " + action;
    // XENBUS_PATH is relative to the backend domain's directory.
    const std::string relative = device.backend.substr(device.backend.find("/backend/") + 1);
    std::vector<std::string> environment = {
        "script=" + device.script, "XENBUS_TYPE=" + device.kind, "XENBUS_PATH=" + relative,
        "XENBUS_BASE_PATH=backend",
        // The stock tools that scripts use find the store by this. The first of
        // two equal names counts, so what follows cannot change any of these.
        "XENSTORED_PATH=" + CoreConnection::directory() + "/store"};
    for (char** e = environ; *e != nullptr; ++e)
        environment.emplace_back(*e);
    std::vector<char*> env;
    for (std::string& e : environment)
        env.push_back(e.data());
    env.push_back(nullptr);
    std::string script = device.script, argument = action;
    char* argv[] = {script.data(), argument.data(), nullptr};
    // Its own process group, so that a script that hangs is ended with its children.
    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    pid_t pid = 0;
    int error = ::posix_spawn(&pid, script.c_str(), nullptr, &attributes, argv, env.data());
    ::posix_spawnattr_destroy(&attributes);
    if (error != 0) return os_error(error, tried);
    Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    pollfd p{process.get(), POLLIN, 0};
    int ready;
    do {
        ready = ::poll(&p, 1, timeouts.hotplug);
    } while (ready < 0 && errno == EINTR);
    if (ready == 0) ::kill(-pid, SIGKILL);
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (ready == 0) return os_error(ETIMEDOUT, tried);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
    return Error{
        EIO, tried + " failed: " + store_.get(device.backend + "/hotplug-error").value_or("no message left")};
}

}  // namespace ringback::xen::embedded
