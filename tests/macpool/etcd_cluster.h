// SPDX-License-Identifier: Apache-2.0
//
// An etcd cluster of three on loopback, for one test process: ports chosen at run time, data in a temporary
// directory, all gone when it ends. The members die with the thread that started them (PR_SET_PDEATHSIG),
// whatever happens to it.
#pragma once

#include <sys/types.h>

#include <array>
#include <string>

namespace ringback::test {

class EtcdCluster {
  public:
    // Running, with a leader. With TLS where `certificates` is a directory with ca.pem, server.pem,
    // server.key, client.pem and client.key: clients must then show a certificate.
    explicit EtcdCluster(std::string certificates = {});
    ~EtcdCluster();
    EtcdCluster(const EtcdCluster&) = delete;
    EtcdCluster& operator=(const EtcdCluster&) = delete;

    // Whether this machine has etcd at all.
    [[nodiscard]] static bool available();
    // etcd+http[s]://127.0.0.1:PORT,.../PREFIX
    [[nodiscard]] std::string url(const std::string& prefix) const;
    // The hard way.
    void kill_member(size_t member);
    // Again on the data it had.
    void start_member(size_t member);

  private:
    struct Member {
        pid_t pid = -1;
        int client_port = 0;
        int peer_port = 0;
    };
    [[nodiscard]] bool healthy(const Member& member) const;

    std::string certificates_;
    std::string directory_;
    std::array<Member, 3> members_;
};

}  // namespace ringback::test
