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
    EtcdCluster();  // running, with a leader
    ~EtcdCluster();
    EtcdCluster(const EtcdCluster&) = delete;
    EtcdCluster& operator=(const EtcdCluster&) = delete;

    // Whether this machine has etcd at all.
    [[nodiscard]] static bool available();
    // etcd+http://127.0.0.1:PORT,.../PREFIX
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

    std::string directory_;
    std::array<Member, 3> members_;
};

}  // namespace ringback::test
