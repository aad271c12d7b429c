// SPDX-License-Identifier: Apache-2.0
#include "bridge/open_vswitch.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <sstream>

#include "runtime/command.h"
#include "runtime/log.h"

namespace ringback::bridge {

namespace {

// libxl waits 10 s for a backend, and an order is three commands at most, of which only one waits for ovs-vswitchd.
constexpr int kPatienceSeconds = 4;
constexpr std::chrono::seconds kPause{3};

std::string trimmed(std::string line) {
    while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
    return line;
}

std::string list(const std::vector<uint16_t>& numbers) { return fmt::format("[{}]", fmt::join(numbers, ",")); }

}  // namespace

Result<std::unique_ptr<OpenVSwitch>> OpenVSwitch::start(EventLoop& loop, std::string database, std::string command) {
    UniqueFd answered(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!answered) return os_error("create an event descriptor");
    std::unique_ptr<OpenVSwitch> made(new OpenVSwitch(loop, std::move(database), std::move(command), std::move(answered)));
    TRY(loop.watch(made->answered_.get(), EPOLLIN, [self = made.get()](uint32_t) { self->take_answers(); }));
    made->thread_ = std::thread([self = made.get()] { self->follow(); });
    return made;
}

OpenVSwitch::OpenVSwitch(EventLoop& loop, std::string database, std::string command, UniqueFd answered)
    : loop_(loop), database_(std::move(database)), command_(std::move(command)), answered_(std::move(answered)) {}

OpenVSwitch::~OpenVSwitch() {
    loop_.forget(answered_.get());
    {
        const std::lock_guard guard(lock_);
        stopping_ = true;
    }
    wake_.notify_one();
    if (thread_.joinable()) thread_.join();
}

OpenVSwitch::Ticket OpenVSwitch::give(std::function<Result<void>()> run, Done done) {
    const Ticket ticket = next_++;
    open_.emplace(ticket, std::move(done));
    {
        const std::lock_guard guard(lock_);
        orders_.push_back({ticket, std::move(run)});
    }
    wake_.notify_one();
    return ticket;
}

OpenVSwitch::Ticket OpenVSwitch::add(const Port& port, bool fresh, Done done) {
    return give([this, port, fresh] { return put(port, fresh); }, std::move(done));
}

OpenVSwitch::Ticket OpenVSwitch::remove(const std::string& name, Done done) {
    return give([this, name] { return take_away(name); }, std::move(done));
}

void OpenVSwitch::keep_only(std::set<std::string> owners) {
    give([this, owners = std::move(owners)] { return sweep(owners); }, [](const Result<void>& swept) {
        // It need not run when netbackd starts.
        if (!swept) log::notice("Open vSwitch is not asked what ports are left over: {}", swept.error().message);
    });
}

void OpenVSwitch::take_answers() {
    uint64_t count = 0;
    (void)!::read(answered_.get(), &count, sizeof count);
    std::vector<std::pair<Ticket, Result<void>>> answers;
    {
        const std::lock_guard guard(lock_);
        answers.swap(answers_);
    }
    for (const auto& [ticket, result] : answers) {
        auto found = open_.extract(ticket);
        if (found) found.mapped()(result);
    }
}

void OpenVSwitch::follow() {
    std::unique_lock lock(lock_);
    while (!stopping_) {
        if (orders_.empty()) {
            const auto something = [this] { return stopping_ || !orders_.empty(); };
            if (leftovers_.empty()) {
                wake_.wait(lock, something);
            } else if (!wake_.wait_for(lock, kPause, something)) {
                lock.unlock();
                try_leftovers();
                lock.lock();
            }
            continue;
        }
        const Order order = std::move(orders_.front());
        orders_.pop_front();
        lock.unlock();
        Result<void> result = order.run();
        lock.lock();
        answers_.emplace_back(order.ticket, std::move(result));
        const uint64_t one = 1;
        (void)!::write(answered_.get(), &one, sizeof one);
    }
}

Result<std::string> OpenVSwitch::vsctl(const std::vector<std::string>& words) const {
    std::vector<std::string> all{command_, "--db=" + database_, fmt::format("--timeout={}", kPatienceSeconds)};
    all.insert(all.end(), words.begin(), words.end());
    const CommandOutput output = TRY(run_command(all));
    if (output.status == 0) return output.text;
    if (output.status == 128 + SIGALRM) {
        return Error{ETIMEDOUT, fmt::format("Open vSwitch: ovs-vswitchd does not answer within {} s; does it run?", kPatienceSeconds)};
    }
    return Error{EIO, "Open vSwitch: " + explain(output, all, "openvswitch-switch")};
}

// What ovs-vswitchd itself would say of these is in its log only.
Result<void> OpenVSwitch::check(const std::string& bridge) const {
    std::istringstream lines(
        TRY(vsctl({"get", "Bridge", bridge, "datapath_type", "--", "get", "Open_vSwitch", ".", "dpdk_initialized"})));
    std::string datapath, dpdk;
    std::getline(lines, datapath);
    std::getline(lines, dpdk);
    if (trimmed(dpdk) != "true") {
        return Error{ENOTSUP, "Open vSwitch runs without DPDK (package openvswitch-switch-dpdk, other_config:dpdk-init=true)"};
    }
    if (trimmed(datapath) != "netdev") {
        return Error{ENOTSUP, fmt::format("Open vSwitch: bridge \"{}\" is not of DPDK's datapath (datapath_type=netdev) but {}", bridge,
                                          trimmed(datapath))};
    }
    return {};
}

Result<void> OpenVSwitch::put(const Port& port, bool fresh) {
    leftovers_.erase(port.name);
    TRY(check(port.bridge));
    std::vector<std::string> words;
    if (fresh) words = {"--if-exists", "del-port", port.name, "--"};
    const auto add = [&words](std::vector<std::string> more) { words.insert(words.end(), more.begin(), more.end()); };
    add({"--may-exist", "add-port", port.bridge, port.name});
    const bool both = port.vlan != 0 && !port.trunks.empty();
    add({"--", "set", "Port", port.name, port.vlan == 0 ? "tag=[]" : fmt::format("tag={}", port.vlan), "trunks=" + list(port.trunks),
         both ? "vlan_mode=native-untagged" : "vlan_mode=[]"});
    add({"--", "set", "Interface", port.name, "type=dpdkvhostuserclient",
         fmt::format("options:vhost-server-path=\"{}\"", port.socket), fmt::format("external_ids:ringback=\"{}\"", port.owner),
         fmt::format("external_ids:attached-mac=\"{}\"", port.mac),
         port.mtu == 0 ? "mtu_request=[]" : fmt::format("mtu_request={}", port.mtu)});
    const auto added = vsctl(words);
    // ovs-vsctl does not fail when the port could not be set up, it only says so.
    const auto wrong = added ? vsctl({"get", "Interface", port.name, "error"}) : Result<std::string>(added.error());
    if (wrong && trimmed(wrong.value()) == "[]") return {};
    if (fresh) (void)take_away(port.name);
    if (!wrong) return wrong.error();
    return Error{EIO, fmt::format("Open vSwitch: port {}: {}", port.name, trimmed(wrong.value()))};
}

Result<void> OpenVSwitch::take_away(const std::string& name) {
    // Not waiting for ovs-vswitchd: when it comes back it finds the port gone.
    const auto removed = vsctl({"--no-wait", "--if-exists", "del-port", name});
    if (removed) return {};
    leftovers_.insert(name);
    return removed.error();
}

Result<void> OpenVSwitch::sweep(const std::set<std::string>& owners) {
    // A name and its owner in each line, as text without quotes.
    std::istringstream lines(TRY(vsctl({"--format=csv", "--data=bare", "--no-headings", "--columns=name,external_ids", "find",
                                        "Interface", "type=dpdkvhostuserclient"})));
    constexpr std::string_view kMark = "ringback=";
    for (std::string line; std::getline(lines, line);) {
        const size_t comma = line.find(',');
        const size_t mark = line.find(kMark);
        if (comma == std::string::npos || mark == std::string::npos) continue;
        const size_t begin = mark + kMark.size();
        const std::string owner = line.substr(begin, line.find_first_of(" \"\r", begin) - begin);
        if (owners.contains(owner)) continue;
        const std::string name = line.substr(0, comma);
        log::notice("port {} of Open vSwitch is left over from a {} that is gone: removed", name, owner);
        TRY(take_away(name));
    }
    return {};
}

void OpenVSwitch::try_leftovers() {
    const std::set<std::string> names = leftovers_;
    for (const std::string& name : names) {
        if (!take_away(name)) return;
        leftovers_.erase(name);
        log::notice("port {} of Open vSwitch is removed at last", name);
    }
}

}  // namespace ringback::bridge
