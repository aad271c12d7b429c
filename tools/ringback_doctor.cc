// SPDX-License-Identifier: Apache-2.0
//
// `ringback doctor`: is this host ready? Looks at the host itself, not only at the daemon, because most of what goes
// wrong goes wrong before the daemon can say so. Every complaint comes with the command that mends it.
#include <fmt/format.h>
#include <glob.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <sstream>
#include <vector>

#include "hypervisor/store.h"
#include "tools/ringback_commands.h"

namespace ringback::tools {

namespace {

class Report {
  public:
    void good(const std::string& what) { fmt::print("ok      {}\n", what); }
    void bad(const std::string& what, const std::string& mend) {
        fmt::print("WRONG   {}\n        mend it: {}\n", what, mend);
        wrong_ = true;
    }
    [[nodiscard]] bool wrong() const { return wrong_; }

  private:
    bool wrong_ = false;
};

std::string read_all(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    std::string all = text.str();
    while (!all.empty() && all.back() == '\n') all.pop_back();
    return all;
}

std::vector<std::string> matches(const char* pattern) {
    glob_t found{};
    std::vector<std::string> paths;
    if (::glob(pattern, 0, nullptr, &found) == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    ::globfree(&found);
    return paths;
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

void check_hypervisor(Report& report) {
    const std::string major = read_all("/sys/hypervisor/version/major");
    const std::string minor = read_all("/sys/hypervisor/version/minor");
    if (read_all("/sys/hypervisor/type") == "xen" && !major.empty()) {
        report.good(fmt::format("Xen {}.{}", major, minor));
    } else {
        report.bad("this machine does not run on Xen", "boot the entry with the Xen hypervisor (apt install xen-system-amd64)");
    }
    for (const auto& [node, module] : {std::pair{"/dev/xen/gntdev", "xen-gntdev"}, {"/dev/xen/evtchn", "xen-evtchn"}}) {
        if (exists(node)) {
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

void check_blacklist(Report& report, const KernelBackend& kernel) {
    utsname name{};
    (void)::uname(&name);
    std::istringstream builtin(read_all(fmt::format("/lib/modules/{}/modules.builtin", name.release)));
    bool compiled_in = false;
    for (std::string line; std::getline(builtin, line);) compiled_in |= line.ends_with("/" + kernel.module + ".ko");
    if (compiled_in) {
        report.bad(fmt::format("{} is compiled into this kernel: no blacklist keeps it away", kernel.module),
                   "echo 0 > /sys/bus/xen-backend/drivers_autoprobe, at every boot, before the first guest");
        return;
    }
    for (const char* pattern : {"/etc/modprobe.d/*.conf", "/usr/lib/modprobe.d/*.conf", "/lib/modprobe.d/*.conf"}) {
        for (const std::string& file : matches(pattern)) {
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

void check_kernel_backend(Report& report, const KernelBackend& kernel) {
    constexpr size_t kPrefix = std::string_view("/sys/bus/xen-backend/devices/").size();
    const auto held = matches(kernel.nodes);
    for (const std::string& link : held) {
        const std::string device = link.substr(kPrefix, link.rfind('/') - kPrefix);
        report.bad(fmt::format("the kernel's {} serves {}, which {} therefore refuses", kernel.module, device, kernel.daemon),
                   fmt::format("shut that guest down, modprobe -r {}, and start it again", kernel.module));
    }
    if (exists("/sys/module/" + kernel.variable)) {
        if (held.empty()) {
            report.bad(fmt::format("the kernel's {} is loaded: it takes the next {}", kernel.module, kernel.thing),
                       fmt::format("modprobe -r {}", kernel.module));
        }
    } else {
        report.good(fmt::format("the kernel's {} is not loaded", kernel.module));
    }
    check_blacklist(report, kernel);
}

void check_installation(Report& report) {
    constexpr const char* kScript = "/etc/xen/scripts/block-ringback";
    if (::access(kScript, X_OK) == 0) {
        report.good(kScript);
    } else {
        report.bad(fmt::format("the hotplug script {} is missing or not executable", kScript),
                   "install Ringback with --prefix=/usr (meson install), then chmod 755 the script");
    }
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_max < 4096) {
        report.bad(fmt::format("a process may have only {} open files", files.rlim_max), "raise it: LimitNOFILE=65536 in the unit");
    }
    std::istringstream limit(read_all("/sys/module/xen_gntdev/parameters/limit"));
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

int doctor(const std::string& socket, const std::string& net_socket) {
    const KernelBackend disks{"xen-blkback", "xen_blkback", "/sys/bus/xen-backend/devices/vbd*-*-*/driver",
                              "blkbackd",    "disk",        "ringback.conf"};
    const KernelBackend nics{"xen-netback", "xen_netback", "/sys/bus/xen-backend/devices/vif-*-*/driver",
                             "netbackd",    "vif",         "ringback-net.conf"};
    Report report;
    check_hypervisor(report);
    check_kernel_backend(report, disks);
    check_installation(report);
    check_daemon(report, socket, disks);
    // A host may leave its networks to the kernel: asked only where netbackd has ever run.
    if (exists(net_socket)) {
        check_kernel_backend(report, nics);
        if (exists("/dev/net/tun")) {
            report.good("/dev/net/tun");
        } else {
            report.bad("/dev/net/tun is missing", "modprobe tun");
        }
        check_daemon(report, net_socket, nics);
    }
    fmt::print("{}\n", report.wrong() ? "this host is not ready" : "this host is ready");
    return report.wrong() ? 1 : 0;
}

}  // namespace ringback::tools
