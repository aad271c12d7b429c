// SPDX-License-Identifier: Apache-2.0
//
// EtcdClient: calls of etcd's v3 interface through its JSON gateway.
//
// The gateway and not gRPC: one HTTP library that every distribution has, against a code generator and its
// run time. Any member may be asked; one that does not answer, or has no leader, is left for the next, until
// the deadline. Whether a call that broke off had its effect cannot be known, so the caller must be able to
// make it again (see Store).
//
// Source: etcd's documentation, "gRPC gateway", and api/etcdserverpb/rpc.proto (bytes are base64, 64-bit
// numbers strings).
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "mac-pool/store.h"

namespace ringback::mac {

struct EtcdAddress {
    std::vector<std::string> members;  // http://HOST:PORT
    std::string prefix;                // "/ringback/macpool/": every key of the pool begins with it
};
// The parts of etcd+https://HOST:PORT[,HOST:PORT...]/PREFIX.
[[nodiscard]] Result<EtcdAddress> parse_etcd_url(const std::string& url);

class EtcdClient {
  public:
    EtcdClient(EtcdAddress address, Location location);
    ~EtcdClient();
    EtcdClient(const EtcdClient&) = delete;
    EtcdClient& operator=(const EtcdClient&) = delete;

    // `method` is "kv/txn". EAGAIN: no member could serve it before the deadline. ESTALE: a lease in it has ended.
    [[nodiscard]] Result<nlohmann::json> call(const std::string& method, const nlohmann::json& request);
    // The same, with the request written out already.
    [[nodiscard]] Result<nlohmann::json> send(const std::string& method, const std::string& body);
    [[nodiscard]] const std::string& prefix() const { return address_.prefix; }

  private:
    struct Reply {
        long status = 0;
        std::string body;
    };
    [[nodiscard]] Result<Reply> post(const std::string& method, const std::string& body);
    [[nodiscard]] Result<void> authenticate();
    void next_member();
    [[nodiscard]] long patience() const;  // in seconds

    EtcdAddress address_;
    Location location_;
    size_t member_ = 0;
    std::string token_;
    struct Curl;
    std::unique_ptr<Curl> curl_;
};

[[nodiscard]] std::string base64(std::string_view bytes);
// Text that is not base64 gives an empty string: etcd never sends any.
[[nodiscard]] std::string unbase64(std::string_view text);

}  // namespace ringback::mac
