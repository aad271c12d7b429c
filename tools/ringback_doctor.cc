// SPDX-License-Identifier: Apache-2.0
//
// `ringback doctor`: is this host ready? Looks at the host itself, not only at the daemon, because most of what goes
// wrong goes wrong before the daemon can say so. Every complaint comes with the command that mends it.
#include "tools/ringback_doctor.h"

#include <fmt/format.h>
#include <glob.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <utility>

#include "hypervisor/store.h"
#include "tools/ringback_commands.h"

namespace ringback::tools {

namespace {

struct Report {
    void good(std::string what) { findings.push_back({true, std::move(what), {}}); }
    void bad(std::string what, std::string mend) { findings.push_back({false, std::move(what), std::move(mend)}); }

    std::vector<Finding> findings;
};

std::string read_all(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    std::string all = text.str();
    while (!all.empty() && all.back() == '\n') all.pop_back();
    return all;
}

std::vector<std::string> matches(const std::string& pattern) {
    glob_t found{};
    std::vector<std::string> paths;
    if (::glob(pattern.c_str(), 0, nullptr, &found) == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    ::globfree(&found);
    return paths;
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

void check_hypervisor(Report& report, const Host& host) {
    const std::string major = read_all(host.root + "/sys/hypervisor/version/major");
    const std::string minor = read_all(host.root + "/sys/hypervisor/version/minor");
    if (read_all(host.root + "/sys/hypervisor/type") == "xen" && !major.empty()) {
        report.good(fmt::format("Xen {}.{}", major, minor));
    } else {
        report.bad("this machine does not run on Xen", "boot the entry with the Xen hypervisor (apt install xen-system-amd64)");
    }
    for (const auto& [node, module] : {std::pair{"/dev/xen/gntdev", "xen-gntdev"}, {"/dev/xen/evtchn", "xen-evtchn"}}) {
        if (exists(host.root + node)) {
            report.good(node);
        } else {
            report.bad(fmt::format("{} is missing", node), fmt::format("modprobe {}", module));
        }
    }
    const auto store = xen::Store::open();
    if (store && store.value().own_domid()) {
        report.good("xenstored answers");
    } else {
        report.bad(store ? "xenstored does not tell this domain's id" : store.error().message,
                   "systemctl start xenstored xen-init-dom0 (or: service xen start)");
    }
}

// A backend of the kernel's that must keep its hands off what one of our daemons serves.
struct KernelBackend {
    std::string module;    // xen-blkback
    std::string variable;  // xen_blkback
    const char* nodes;
    const char* daemon;
    const char* thing;
    const char* file;
};

bool compiled_in(const Host& host, const KernelBackend& kernel) {
    std::istringstream builtin(read_all(fmt::format("{}/lib/modules/{}/modules.builtin", host.root, host.kernel)));
    for (std::string line; std::getline(builtin, line);) {
        if (line.ends_with("/" + kernel.module + ".ko")) return true;
    }
    return false;
}

void check_blacklist(Report& report, const Host& host, const KernelBackend& kernel) {
    for (const char* pattern : {"/etc/modprobe.d/*.conf", "/usr/lib/modprobe.d/*.conf", "/lib/modprobe.d/*.conf"}) {
        for (const std::string& file : matches(host.root + pattern)) {
            std::istringstream lines(read_all(file));
            for (std::string line; std::getline(lines, line);) {
                if (line == "blacklist " + kernel.module || line == "blacklist " + kernel.variable) {
                    return report.good(fmt::format("{} is blacklisted ({})", kernel.module, file));
                }
            }
        }
    }
    report.bad(fmt::format("{} is not blacklisted: udev loads it with the next {}", kernel.module, kernel.thing),
               fmt::format("printf 'blacklist {0}\\ninstall {0} /bin/false\\n' > /etc/modprobe.d/{1}", kernel.module,
                           kernel.file));
}

void check_kernel_backend(Report& report, const Host& host, const KernelBackend& kernel) {
    const auto held = matches(host.root + kernel.nodes);
    for (const std::string& link : held) {
        const std::string path = link.substr(0, link.rfind('/'));
        const std::string device = path.substr(path.rfind('/') + 1);
        report.bad(fmt::format("the kernel's {} serves {}, which {} therefore refuses", kernel.module, device, kernel.daemon),
                   fmt::format("shut that guest down, modprobe -r {}, and start it again", kernel.module));
    }
    if (compiled_in(host, kernel)) {
        if (read_all(host.root + "/sys/bus/xen-backend/drivers_autoprobe") == "0") {
            return report.good(fmt::format("{} is compiled into this kernel, and takes nothing by itself "
                                           "(drivers_autoprobe is 0)", kernel.module));
        }
        return report.bad(fmt::format("{} is compiled into this kernel: no blacklist keeps it away", kernel.module),
                          "echo 0 > /sys/bus/xen-backend/drivers_autoprobe, at every boot, before the first guest");
    }
    if (!exists(host.root + "/sys/module/" + kernel.variable)) {
        report.good(fmt::format("the kernel's {} is not loaded", kernel.module));
    } else if (held.empty()) {
        report.bad(fmt::format("the kernel's {} is loaded: it takes the next {}", kernel.module, kernel.thing),
                   fmt::format("modprobe -r {}", kernel.module));
    }
    check_blacklist(report, host, kernel);
}

void check_installation(Report& report, const Host& host) {
    constexpr const char* kScript = "/etc/xen/scripts/block-ringback";
    if (::access((host.root + kScript).c_str(), X_OK) == 0) {
        report.good(kScript);
    } else {
        report.bad(fmt::format("the hotplug script {} is missing or not executable", kScript),
                   "install Ringback with --prefix=/usr (meson install), then chmod 755 the script");
    }
    if (host.open_files < 4096) {
        report.bad(fmt::format("a process may have only {} open files", host.open_files), "raise it: LimitNOFILE=65536 in the unit");
    }
    std::istringstream limit(read_all(host.root + "/sys/module/xen_gntdev/parameters/limit"));
    uint64_t grants = 0;
    if (limit >> grants && grants < 65536) {
        report.bad(fmt::format("/dev/xen/gntdev maps at most {} grants for one handle", grants),
                   "echo 1048576 > /sys/module/xen_gntdev/parameters/limit");
    }
}

void check_daemon(Report& report, const std::string& socket, const KernelBackend& kernel) {
    const auto answer = ask(socket, {{"command", "doctor-info"}}, std::chrono::seconds(5));
    if (!answer) {
        const bool denied = answer.error().code == EACCES;
        return report.bad(answer.error().message,
                          denied ? "run this as root"
                                 : fmt::format("systemctl enable --now {0}; then journalctl -u {0}", kernel.daemon));
    }
    const nlohmann::json& info = answer.value();
    report.good(fmt::format("{} {} serves {} {}(s)", kernel.daemon, info.value("daemon_version", "?"),
                            info.value("devices", 0), kernel.thing));
    for (const nlohmann::json& entry : info.value("troubled", nlohmann::json::array())) {
        report.bad(fmt::format("{} {}: {}", kernel.thing, entry.value("device", ""), entry.value("error", "")),
                   "detach it with xl, mend what the message says, attach it again");
    }
}

}  // namespace

Host Host::this_one(const std::string& socket, const std::string& net_socket) {
    Host host;
    utsname kernel{};
    if (::uname(&kernel) == 0) host.kernel = kernel.release;
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0) host.open_files = files.rlim_max;
    host.socket = socket;
    host.net_socket = net_socket;
    return host;
}

std::vector<Finding> examine(const Host& host) {
    const KernelBackend disks{"xen-blkback", "xen_blkback", "/sys/bus/xen-backend/devices/vbd*-*-*/driver",
                              "blkbackd",    "disk",        "ringback.conf"};
    const KernelBackend nics{"xen-netback", "xen_netback", "/sys/bus/xen-backend/devices/vif-*-*/driver",
                             "netbackd",    "vif",         "ringback-net.conf"};
    Report report;
    check_hypervisor(report, host);
    check_kernel_backend(report, host, disks);
    check_installation(report, host);
    check_daemon(report, host.socket, disks);
    // A host may leave its networks to the kernel: asked only where netbackd has ever run.
    if (exists(host.net_socket)) {
        check_kernel_backend(report, host, nics);
        if (exists(host.root + "/dev/net/tun")) {
            report.good("/dev/net/tun");
        } else {
            report.bad("/dev/net/tun is missing", "modprobe tun");
        }
        check_daemon(report, host.net_socket, nics);
    }
    return std::move(report.findings);
}

int doctor(const std::string& socket, const std::string& net_socket) {
    bool ready = true;
    for (const Finding& finding : examine(Host::this_one(socket, net_socket))) {
        if (finding.good) {
            fmt::print("ok      {}\n", finding.what);
        } else {
            fmt::print("WRONG   {}\n        mend it: {}\n", finding.what, finding.mend);
        }
        ready = ready && finding.good;
    }
    fmt::print("{}\n", ready ? "this host is ready" : "this host is not ready");
    return ready ? 0 : 1;
}

}  // namespace ringback::tools
