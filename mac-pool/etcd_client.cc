// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/etcd_client.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>

namespace ringback::mac {

using nlohmann::json;

namespace {

constexpr long kConnectMilliseconds = 2000;
constexpr long kCallMilliseconds = 7000;  // a little more than etcd's own limit for a request
constexpr int kPatienceSeconds = 30;      // an election takes one or two
constexpr const char* kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// gRPC codes in etcd's error answers.
constexpr int kDeadlineExceeded = 4;
constexpr int kPermissionDenied = 7;
constexpr int kUnavailable = 14;
constexpr int kUnauthenticated = 16;

bool loopback(const std::string& member) {
    const std::string host = member.substr(member.find("://") + 3);
    return host.starts_with("127.") || host.starts_with("localhost:") || host.starts_with("[::1]:");
}

size_t take(char* data, size_t size, size_t count, void* to) {
    static_cast<std::string*>(to)->append(data, size * count);
    return size * count;
}

}  // namespace

std::string base64(std::string_view bytes) {
    std::string text;
    text.reserve((bytes.size() + 2) / 3 * 4);
    for (size_t at = 0; at < bytes.size(); at += 3) {
        const size_t have = std::min<size_t>(3, bytes.size() - at);
        uint32_t group = 0;
        for (size_t index = 0; index < 3; ++index) {
            group = group << 8 | (index < have ? static_cast<unsigned char>(bytes[at + index]) : 0U);
        }
        for (size_t index = 0; index < 4; ++index) {
            text += index <= have ? kAlphabet[group >> (18 - 6 * index) & 63] : '=';
        }
    }
    return text;
}

std::string unbase64(std::string_view text) {
    std::string bytes;
    uint32_t group = 0;
    unsigned bits = 0;
    for (const char c : text) {
        if (c == '=') break;
        const size_t value = std::string_view(kAlphabet).find(c);
        if (value == std::string_view::npos) return {};
        group = group << 6 | static_cast<uint32_t>(value);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            bytes += static_cast<char>(group >> bits & 0xff);
        }
    }
    return bytes;
}

Result<EtcdAddress> parse_etcd_url(const std::string& url) {
    const auto refuse = [&](const char* why) {
        return Error{EINVAL, fmt::format("pool '{}': {}", url, why)};
    };
    const size_t scheme = url.find("://");
    if (scheme == std::string::npos || !url.starts_with("etcd+")) return refuse("not an etcd address");
    const size_t slash = url.find('/', scheme + 3);
    if (slash == std::string::npos || slash + 1 == url.size())
        return refuse("no key prefix after the hosts (/ringback/macpool)");
    EtcdAddress address;
    address.prefix = url.substr(slash);
    if (address.prefix.back() != '/') address.prefix += '/';
    const std::string protocol = url.substr(5, scheme - 5);
    std::string hosts = url.substr(scheme + 3, slash - scheme - 3);
    if (hosts.find('@') != std::string::npos) return refuse("credentials belong into the credentials file");
    while (true) {
        const size_t comma = hosts.find(',');
        const std::string host = hosts.substr(0, comma);
        const size_t colon = host.rfind(':');
        if (colon == std::string::npos || colon == 0 || colon + 1 == host.size() ||
            host.find_first_not_of("0123456789", colon + 1) != std::string::npos) {
            return refuse("each host must be HOST:PORT");
        }
        address.members.push_back(protocol + "://" + host);
        if (comma == std::string::npos) break;
        hosts.erase(0, comma + 1);
    }
    return address;
}

struct EtcdClient::Curl {
    CURL* handle = curl_easy_init();
    ~Curl() { curl_easy_cleanup(handle); }
};

EtcdClient::EtcdClient(EtcdAddress address, Location location)
    : address_(std::move(address)), location_(std::move(location)), curl_(std::make_unique<Curl>()) {
    INVARIANT(curl_->handle != nullptr);
    // Hosts do not all begin with the same member.
    member_ = static_cast<size_t>(::getpid()) % address_.members.size();
}

EtcdClient::~EtcdClient() = default;

long EtcdClient::patience() const {
    return location_.patience_seconds.value_or(kPatienceSeconds);
}

void EtcdClient::next_member() {
    member_ = (member_ + 1) % address_.members.size();
}

Result<EtcdClient::Reply> EtcdClient::post(const std::string& method, const std::string& body) {
    CURL* curl = curl_->handle;
    const std::string& member = address_.members[member_];
    const std::string url = member + "/v3/" + method;
    Reply reply;
    curl_easy_reset(curl);  // keeps the connections
    curl_slist* headers = curl_slist_append(nullptr, "Content-Type: application/json");
    if (!token_.empty()) headers = curl_slist_append(headers, ("Authorization: " + token_).c_str());
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.data());
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &reply.body);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, kConnectMilliseconds);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, std::min(kCallMilliseconds, patience() * 1000));
    curl_easy_setopt(curl, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2);
    if (!location_.ca_file.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, location_.ca_file.c_str());
    if (!location_.cert_file.empty()) curl_easy_setopt(curl, CURLOPT_SSLCERT, location_.cert_file.c_str());
    if (!location_.key_file.empty()) curl_easy_setopt(curl, CURLOPT_SSLKEY, location_.key_file.c_str());
    char detail[CURL_ERROR_SIZE] = "";
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
    const CURLcode code = curl_easy_perform(curl);
    curl_slist_free_all(headers);
    if (code != CURLE_OK) {
        // A wrong certificate is wrong at every member and at every try. That ours is refused is told in an
        // alert, which comes as a failed handshake or as a broken connection.
        const std::string text = detail[0] != '\0' ? detail : curl_easy_strerror(code);
        const bool broken = code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CERTPROBLEM ||
                            code == CURLE_SSL_CACERT_BADFILE || code == CURLE_URL_MALFORMAT ||
                            text.find(" alert ") != std::string::npos;
        return Error{broken ? EACCES : EAGAIN, fmt::format("etcd {}: {}", member, text)};
    }
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &reply.status);
    return reply;
}

Result<void> EtcdClient::authenticate() {
    for (const std::string& member : address_.members) {
        if (member.starts_with("http:") && !loopback(member)) {
            return Error{EACCES, fmt::format("etcd {}: a password is not sent without TLS; use etcd+https://",
                                             member)};
        }
    }
    token_.clear();
    const Reply reply = TRY(
        post("auth/authenticate", json{{"name", location_.user}, {"password", location_.password}}.dump()));
    const json answer = json::parse(reply.body, nullptr, false);
    if (reply.status == 200 && answer.is_object() && answer.contains("token")) {
        token_ = answer["token"].get<std::string>();
        return {};
    }
    const int grpc = answer.is_object() ? answer.value("code", 0) : 0;
    return Error{grpc == kUnavailable || grpc == kDeadlineExceeded || reply.status >= 502 ? EAGAIN : EACCES,
                 fmt::format("etcd {}: log in as {}: {}", address_.members[member_], location_.user,
                             answer.is_object() ? answer.value("message", reply.body) : reply.body)};
}

Result<json> EtcdClient::call(const std::string& method, const json& request) {
    return send(method, request.dump());
}

Result<json> EtcdClient::send(const std::string& method, const std::string& body) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(patience());
    Error last{EAGAIN, "etcd: not asked"};
    bool fresh_token = false;
    for (unsigned failures = 0; std::chrono::steady_clock::now() < deadline;) {
        if (!location_.user.empty() && token_.empty()) {
            const auto in = authenticate();
            if (!in.ok() && in.error().code != EAGAIN) return in.error();
            fresh_token = in.ok();
            if (!in.ok()) last = in.error();
        }
        if (location_.user.empty() || !token_.empty()) {
            auto reply = post(method, body);
            if (reply.ok()) {
                json answer = json::parse(reply->body, nullptr, false);
                if (reply->status == 200 && answer.is_object()) return answer;
                const int grpc = answer.is_object() ? answer.value("code", 0) : 0;
                const std::string text =
                    answer.is_object() ? answer.value("message", reply->body) : reply->body;
                last = {EAGAIN, fmt::format("etcd {}: {}: {}", address_.members[member_], method, text)};
                // A token ends after some minutes, and when its member restarts.
                const bool stale =
                    grpc == kUnauthenticated || text.find("invalid auth token") != std::string::npos;
                if (stale && !location_.user.empty() && !fresh_token) {
                    token_.clear();
                    continue;
                }
                // Without a user, where the cluster wants one.
                const bool nobody = text.find("user name is empty") != std::string::npos;
                if (stale || nobody || grpc == kPermissionDenied) return Error{EACCES, last.message};
                // It ended before it was used.
                if (text.find("lease not found") != std::string::npos) return Error{ESTALE, last.message};
                if (grpc != kUnavailable && grpc != kDeadlineExceeded && reply->status < 502) {
                    return Error{EIO, last.message};
                }
            } else {
                last = reply.error();
                if (last.code != EAGAIN) return last;
            }
        }
        next_member();
        // All of them once at full speed, then slower.
        if (++failures >= address_.members.size()) ::usleep(100'000);
    }
    return last;
}

}  // namespace ringback::mac
