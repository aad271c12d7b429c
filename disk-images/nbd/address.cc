// SPDX-License-Identifier: Apache-2.0
#include "disk-images/nbd/address.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <memory>

namespace ringback::image::nbd {

namespace {

constexpr std::string_view kTcp = "nbd://";
constexpr std::string_view kUnix = "nbd+unix://";
constexpr size_t kMaxExportName = 4096;  // of the protocol

Error wrong(std::string_view text, const std::string& why) {
    return Error{EINVAL, fmt::format("the address \"{}\": {} (nbd://HOST[:PORT]/EXPORT or "
                                     "nbd+unix:///EXPORT?socket=/PATH)", text, why)};
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    const int lower = std::tolower(static_cast<unsigned char>(c));
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

Result<std::string> decode(std::string_view part, std::string_view whole) {
    std::string out;
    for (size_t i = 0; i < part.size(); ++i) {
        if (part[i] != '%') {
            out += part[i];
            continue;
        }
        const int high = i + 2 < part.size() ? hex_digit(part[i + 1]) : -1;
        const int low = high >= 0 ? hex_digit(part[i + 2]) : -1;
        if (low < 0) return wrong(whole, "% needs two hexadecimal digits after it");
        out += static_cast<char>(high * 16 + low);
        i += 2;
    }
    if (out.find('\0') != std::string::npos) return wrong(whole, "it holds a NUL");
    return out;
}

Result<void> take_query(Address& address, std::string_view query) {
    while (!query.empty()) {
        const std::string_view item = query.substr(0, query.find('&'));
        query.remove_prefix(std::min(query.size(), item.size() + 1));
        const size_t equal = item.find('=');
        if (item.substr(0, equal) != "socket" || equal == std::string_view::npos || !address.socket.empty()) {
            return wrong(address.text, fmt::format("\"{}\" is not understood", item));
        }
        address.socket = TRY(decode(item.substr(equal + 1), address.text));
        if (!address.socket.starts_with('/')) return wrong(address.text, "socket= needs an absolute path");
        if (address.socket.size() >= sizeof(sockaddr_un::sun_path)) return wrong(address.text, "the socket's path is too long");
    }
    return {};
}

Result<void> take_host(Address& address, std::string_view place) {
    if (place.find('@') != std::string_view::npos) return wrong(address.text, "NBD knows no users");
    const size_t bracket = place.starts_with('[') ? place.find(']') : 0;
    if (bracket == std::string_view::npos) return wrong(address.text, "a ] is missing");
    const size_t colon = place.find(':', bracket);
    address.host = place.substr(0, colon);
    if (bracket > 0) address.host = place.substr(1, bracket - 1);
    address.port = colon == std::string_view::npos ? "10809" : std::string(place.substr(colon + 1));
    const bool number = !address.port.empty() && address.port.size() <= 5 &&
                        std::all_of(address.port.begin(), address.port.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    if (address.host.empty()) return wrong(address.text, "the host is missing");
    if (!number || std::stoul(address.port) == 0 || std::stoul(address.port) > 65535) {
        return wrong(address.text, fmt::format("\"{}\" is no port", address.port));
    }
    return {};
}

void set_option(int socket, int level, int name, int value) { (void)setsockopt(socket, level, name, &value, sizeof value); }

}  // namespace

bool is_address(std::string_view text) {
    return text.starts_with(kTcp) || text.starts_with(kUnix) || text.starts_with("nbds://") || text.starts_with("nbds+unix://");
}

Result<Address> parse_address(std::string_view text) {
    if (text.starts_with("nbds")) return Error{ENOTSUP, fmt::format("the address \"{}\": NBD with TLS is not supported", text)};
    const bool local = text.starts_with(kUnix);
    if (!local && !text.starts_with(kTcp)) return wrong(text, "no NBD");
    if (text.find('\0') != std::string_view::npos) return wrong(text, "it holds a NUL");
    Address address{.text = std::string(text), .export_name = {}, .socket = {}, .host = {}, .port = {}};
    std::string_view rest = text.substr(local ? kUnix.size() : kTcp.size());
    const size_t question = rest.find('?');
    const std::string_view query = question == std::string_view::npos ? std::string_view() : rest.substr(question + 1);
    rest = rest.substr(0, question);
    const size_t slash = rest.find('/');
    const std::string_view place = rest.substr(0, slash);
    if (slash != std::string_view::npos) address.export_name = TRY(decode(rest.substr(slash + 1), text));
    if (address.export_name.size() > kMaxExportName) return wrong(text, "the export's name is too long");
    TRY(take_query(address, query));
    if (local) {
        if (!place.empty()) return wrong(text, "a Unix socket has no host: three slashes");
        if (address.socket.empty()) return wrong(text, "socket= is missing");
        return address;
    }
    if (!address.socket.empty()) return wrong(text, "socket= goes with nbd+unix");
    TRY(take_host(address, place));
    return address;
}

Result<std::vector<Endpoint>> resolve(const Address& address, bool names) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | (names ? AI_ADDRCONFIG : AI_NUMERICHOST);
    addrinfo* found = nullptr;
    const int failed = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
    if (failed == EAI_NONAME && !names) return Error{EAGAIN, fmt::format("{} is a name", address.host)};
    if (failed != 0) {
        return Error{EHOSTUNREACH, fmt::format("find the host {} of {}: {}", address.host, address.text, gai_strerror(failed))};
    }
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
    std::vector<Endpoint> endpoints;
    for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
        Endpoint& endpoint = endpoints.emplace_back();
        std::memcpy(&endpoint.address, one->ai_addr, one->ai_addrlen);
        endpoint.length = one->ai_addrlen;
    }
    return endpoints;
}

Result<Endpoint> unix_endpoint(const std::string& path) {
    Endpoint endpoint;
    auto& address = reinterpret_cast<sockaddr_un&>(endpoint.address);
    if (path.size() >= sizeof address.sun_path) return os_error(ENAMETOOLONG, "connect to the socket " + path);
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, path.size());
    endpoint.length = sizeof address;
    return endpoint;
}

Result<UniqueFd> connect(const Endpoint& endpoint, unsigned patience_seconds, const std::string& name) {
    const int family = endpoint.address.ss_family;
    UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return os_error("make a socket for " + name);
    if (family != AF_UNIX) {
        const auto patience = static_cast<int>(std::clamp(patience_seconds, 1U, 3600U));
        set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
        set_option(fd.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, patience * 1000);
        set_option(fd.get(), SOL_SOCKET, SO_KEEPALIVE, 1);
        set_option(fd.get(), IPPROTO_TCP, TCP_KEEPIDLE, std::clamp(patience / 2, 1, 30));
        set_option(fd.get(), IPPROTO_TCP, TCP_KEEPINTVL, std::clamp(patience / 6, 1, 10));
    }
    const auto* address = reinterpret_cast<const sockaddr*>(&endpoint.address);
    if (::connect(fd.get(), address, endpoint.length) != 0 && errno != EINPROGRESS) {
        return Error{ENOTCONN, os_error("connect to " + name).message};
    }
    return fd;
}

}  // namespace ringback::image::nbd
