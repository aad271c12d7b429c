// SPDX-License-Identifier: Apache-2.0
#include "tools/netbench/endpoint.h"

#include <cstdio>

#include "hypervisor/store.h"

namespace ringback::netbench {

namespace {

std::vector<std::string> split(const std::string& word) {
    std::vector<std::string> parts;
    for (size_t begin = 0; begin <= word.size();) {
        const size_t end = std::min(word.find(',', begin), word.size());
        parts.push_back(word.substr(begin, end - begin));
        begin = end + 1;
    }
    return parts;
}

Result<bridge::MacAddress> address_of(const std::string& text) {
    bridge::MacAddress a{};
    char more = 0;
    if (std::sscanf(text.c_str(), "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx%c", &a[0], &a[1], &a[2], &a[3], &a[4], &a[5], &more) != 6) {
        return Error{EINVAL, "\"" + text + "\" is no MAC address"};
    }
    return a;
}

}  // namespace

Result<std::vector<std::unique_ptr<Endpoint>>> open_endpoints(const std::vector<std::string>& words) {
    std::vector<std::unique_ptr<Endpoint>> made(words.size());
    std::vector<std::string> sockets;
    std::vector<size_t> of_sockets;
    std::vector<bridge::MacAddress> addresses;
    for (size_t i = 0; i < words.size(); ++i) {
        const std::vector<std::string> parts = split(words[i]);
        addresses.push_back(TRY(address_of(parts.back())));
        if (parts[0] == "ring" && parts.size() == 3) {
            const auto domid = xen::parse_number(parts[1], 0, 0x7fef);
            if (!domid) return Error{EINVAL, "\"" + words[i] + "\" names no domain"};
            made[i] = TRY(open_ring(static_cast<uint16_t>(*domid)));
        } else if (parts[0] == "packet" && parts.size() == 4) {
            made[i] = TRY(open_packet(parts[1], parts[2]));
        } else if (parts[0] == "virtio" && parts.size() == 3) {
            sockets.push_back(parts[1]);
            of_sockets.push_back(i);
        } else {
            return Error{EINVAL, "\"" + words[i] + "\" is no endpoint"};
        }
    }
    if (!sockets.empty()) {
        auto ports = TRY(open_virtio(sockets));
        for (size_t i = 0; i < ports.size(); ++i) made[of_sockets[i]] = std::move(ports[i]);
    }
    for (size_t i = 0; i < made.size(); ++i) made[i]->address = addresses[i];
    return made;
}

}  // namespace ringback::netbench
