// SPDX-License-Identifier: Apache-2.0
#include "bridge/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <cstring>

#include "bridge/vnet_header.h"

namespace ringback::bridge {

namespace {

constexpr short kFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;

}  // namespace

Result<UniqueFd> Tap::open_queue(const std::string& name) {
    ifreq request{};
    if (name.empty() || name.size() >= sizeof request.ifr_name) return os_error(ENAMETOOLONG, "open the TAP " + name);
    name.copy(request.ifr_name, name.size());
    request.ifr_flags = kFlags;
    UniqueFd queue(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!queue) return os_error("open /dev/net/tun");
    if (::ioctl(queue.get(), TUNSETIFF, &request) != 0) return os_error("open the TAP " + name);
    int header = sizeof(VnetHeader);
    if (::ioctl(queue.get(), TUNSETVNETHDRSZ, &header) != 0) return os_error("set the header size of the TAP " + name);
    return queue;
}

Result<Tap> Tap::open(const std::string& name) {
    Tap tap;
    tap.queues_.push_back(TRY(open_queue(name)));
    if (::ioctl(tap.queues_.front().get(), TUNSETPERSIST, 1) != 0) return os_error("make the TAP " + name + " stay");
    TRY(tap.find_index());
    TRY(tap.set_carrier(false));
    return tap;
}

Result<Tap> Tap::adopt(std::vector<UniqueFd> queues) {
    if (queues.empty()) return os_error(EINVAL, "take over a TAP without queues");
    Tap tap;
    tap.queues_ = std::move(queues);
    TRY(tap.find_index());
    return tap;
}

Result<void> Tap::find_index() {
    const std::string now = TRY(name());
    index_ = ::if_nametoindex(now.c_str());
    if (index_ == 0) return os_error("find the network device " + now);
    return {};
}

Result<std::string> Tap::name() const {
    ifreq request{};
    if (::ioctl(queues_.front().get(), TUNGETIFF, &request) != 0) return os_error("ask a TAP for its name");
    return std::string(request.ifr_name, ::strnlen(request.ifr_name, sizeof request.ifr_name));
}

Result<void> Tap::set_queues(size_t count) {
    INVARIANT(count > 0);
    while (queues_.size() > count) queues_.pop_back();
    while (queues_.size() < count) queues_.push_back(TRY(open_queue(TRY(name()))));
    return {};
}

Result<void> Tap::set_offloads(const Offloads& offloads) {
    unsigned long flags = 0;
    if (offloads.checksum) {
        flags |= TUN_F_CSUM;
        if (offloads.tcp4) flags |= TUN_F_TSO4 | TUN_F_TSO_ECN;
        if (offloads.tcp6) flags |= TUN_F_TSO6 | TUN_F_TSO_ECN;
    }
    if (::ioctl(queues_.front().get(), TUNSETOFFLOAD, flags) != 0) return os_error("set the offloads of a TAP");
    return {};
}

Result<void> Tap::set_carrier(bool on) {
    int carrier = on ? 1 : 0;
    if (::ioctl(queues_.front().get(), TUNSETCARRIER, &carrier) != 0) return os_error("set the carrier of a TAP");
    return {};
}

Result<void> Tap::remove(Links& links) {
    auto removed = links.remove(index_);
    queues_.clear();
    return removed;
}

}  // namespace ringback::bridge
