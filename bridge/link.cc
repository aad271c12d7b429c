// SPDX-License-Identifier: Apache-2.0
#include "bridge/link.h"

#include <linux/if.h>
#include <linux/netlink.h>
#include <netlink/addr.h>
#include <netlink/cache.h>
#include <netlink/errno.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <netlink/socket.h>
#include <sys/socket.h>

namespace ringback::bridge {

namespace {

struct PutLink {
    void operator()(rtnl_link* link) const { rtnl_link_put(link); }
};
using LinkPointer = std::unique_ptr<rtnl_link, PutLink>;

struct FreeCache {
    void operator()(nl_cache* cache) const { nl_cache_free(cache); }
};

// libnl has error numbers of its own; what matters to a caller has an errno.
Error link_error(int code, std::string tried) {
    const int number = -code == NLE_NODEV || -code == NLE_OBJ_NOTFOUND ? ENODEV
                       : -code == NLE_PERM || -code == NLE_NOACCESS    ? EPERM
                       : -code == NLE_NOMEM                            ? ENOMEM
                                                                       : EIO;
    return {number, std::move(tried) + ": " + nl_geterror(code)};
}

LinkPointer named(unsigned index) {
    LinkPointer link(rtnl_link_alloc());
    INVARIANT(link != nullptr);
    rtnl_link_set_ifindex(link.get(), static_cast<int>(index));
    return link;
}

}  // namespace

void Links::Close::operator()(nl_sock* socket) const { nl_socket_free(socket); }

Result<Links> Links::open() {
    Links links(nl_socket_alloc());
    INVARIANT(links.socket_ != nullptr);
    if (const int error = nl_connect(links.socket_.get(), NETLINK_ROUTE); error < 0) {
        return link_error(error, "open a netlink socket");
    }
    return links;
}

Result<void> Links::change(unsigned index, const Settings& settings) {
    const LinkPointer link = named(index);
    const LinkPointer wanted = named(index);
    if (settings.address) {
        nl_addr* address = nl_addr_build(AF_LLC, settings.address->data(), settings.address->size());
        INVARIANT(address != nullptr);
        rtnl_link_set_addr(wanted.get(), address);
        nl_addr_put(address);
    }
    if (settings.mtu) rtnl_link_set_mtu(wanted.get(), *settings.mtu);
    if (settings.queue_length) rtnl_link_set_txqlen(wanted.get(), *settings.queue_length);
    if (settings.alias) rtnl_link_set_ifalias(wanted.get(), settings.alias->c_str());
    if (settings.up) {
        if (*settings.up) {
            rtnl_link_set_flags(wanted.get(), IFF_UP);
        } else {
            rtnl_link_unset_flags(wanted.get(), IFF_UP);
        }
    }
    const int error = rtnl_link_change(socket_.get(), link.get(), wanted.get(), 0);
    if (error < 0) return link_error(error, "change the network device of index " + std::to_string(index));
    return {};
}

Result<void> Links::remove(unsigned index) {
    const LinkPointer link = named(index);
    const int error = rtnl_link_delete(socket_.get(), link.get());
    if (error < 0) return link_error(error, "remove the network device of index " + std::to_string(index));
    return {};
}

Result<std::vector<Links::Link>> Links::list() {
    nl_cache* raw = nullptr;
    const int error = rtnl_link_alloc_cache(socket_.get(), AF_UNSPEC, &raw);
    if (error < 0) return link_error(error, "list the network devices");
    const std::unique_ptr<nl_cache, FreeCache> cache(raw);
    std::vector<Link> links;
    for (nl_object* object = nl_cache_get_first(raw); object != nullptr; object = nl_cache_get_next(object)) {
        auto* link = reinterpret_cast<rtnl_link*>(object);
        const char* alias = rtnl_link_get_ifalias(link);
        links.push_back({static_cast<unsigned>(rtnl_link_get_ifindex(link)), rtnl_link_get_name(link),
                         alias == nullptr ? "" : alias, rtnl_link_get_mtu(link)});
    }
    return links;
}

}  // namespace ringback::bridge
