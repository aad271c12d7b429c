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

void check_kernel_backend(Report& report) {
    const auto held = matches("/sys/bus/xen-backend/devices/vbd*-*-*/driver");
    for (const std::string& link : held) {
        const std::string device = link.substr(29, link.rfind('/') - 29);
        report.bad(fmt::format("the kernel's xen-blkback serves {}, which blkbackd therefore refuses", device),
                   "shut that guest down, modprobe -r xen-blkback, and start it again");
    }
    if (exists("/sys/module/xen_blkback")) {
        if (held.empty()) report.bad("the kernel's xen-blkback is loaded: it takes the next disk", "modprobe -r xen-blkback");
    } else {
        report.good("the kernel's xen-blkback is not loaded");
    }
    utsname kernel{};
    (void)::uname(&kernel);
    std::istringstream builtin(read_all(fmt::format("/lib/modules/{}/modules.builtin", kernel.release)));
    bool compiled_in = false;
    for (std::string line; std::getline(builtin, line);) compiled_in |= line.ends_with("/xen-blkback.ko");
    if (compiled_in) {
        report.bad("xen-blkback is compiled into this kernel: no blacklist keeps it away",
                   "echo 0 > /sys/bus/xen-backend/drivers_autoprobe, at every boot, before the first guest");
        return;
    }
    for (const char* pattern : {"/etc/modprobe.d/*.conf", "/usr/lib/modprobe.d/*.conf", "/lib/modprobe.d/*.conf"}) {
        for (const std::string& file : matches(pattern)) {
            std::istringstream lines(read_all(file));
            for (std::string line; std::getline(lines, line);) {
                if (line == "blacklist xen-blkback" || line == "blacklist xen_blkback") {
                    return report.good(fmt::format("xen-blkback is blacklisted ({})", file));
                }
            }
        }
    }
    report.bad("xen-blkback is not blacklisted: udev loads it with the next disk",
               "printf 'blacklist xen-blkback\\ninstall xen-blkback /bin/false\\n' > /etc/modprobe.d/ringback.conf");
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

void check_daemon(Report& report, const std::string& socket) {
    const auto answer = ask(socket, {{"command", "doctor-info"}}, std::chrono::seconds(5));
    if (!answer) {
        const bool denied = answer.error().code == EACCES;
        return report.bad(answer.error().message, denied ? "run this as root" : "systemctl enable --now blkbackd; then journalctl -u blkbackd");
    }
    const nlohmann::json& info = answer.value();
    report.good(fmt::format("blkbackd {} serves {} disk(s)", info.value("daemon_version", "?"), info.value("devices", 0)));
    for (const nlohmann::json& entry : info.value("troubled", nlohmann::json::array())) {
        report.bad(fmt::format("disk {}: {}", entry.value("device", ""), entry.value("error", "")),
                   "xl block-detach it, mend what the message says, xl block-attach it again");
    }
}

}  // namespace

int doctor(const std::string& socket) {
    Report report;
    check_hypervisor(report);
    check_kernel_backend(report);
    check_installation(report);
    check_daemon(report, socket);
    fmt::print("{}\n", report.wrong() ? "this host is not ready" : "this host is ready");
    return report.wrong() ? 1 : 0;
}

}  // namespace ringback::tools
