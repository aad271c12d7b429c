// SPDX-License-Identifier: Apache-2.0
//
// ServerLink: the connections of one network disk, as the supervisor has them: it makes them, as its worker may not, and keeps a
// descriptor of each as the fence (docs/recovery.md). When a worker dies, the kernel cannot say what of its requests the server
// still has; a server that is told that nothing more comes, and closes, has done them all.
//
// Nothing here blocks: a TCP socket is handed over while it connects; the host's name is asked for by a Lookup.
//
// Thread: the supervisor's.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blkback/lookup.h"
#include "blkback/policy.h"
#include "disk-images/nbd/address.h"

namespace ringback::blk {

class ServerLink {
  public:
    ServerLink(EventLoop& loop, image::nbd::Address address) : loop_(loop), address_(std::move(address)) {}

    [[nodiscard]] const std::string& name() const { return address_.text; }
    // EAGAIN: its host is being looked up.
    [[nodiscard]] Result<UniqueFd> connect(const PathRules& rules, unsigned patience_seconds);
    // The worker that had the connections is dead.
    void break_off();
    // Nothing of what it asked is under way any more.
    [[nodiscard]] bool drained();

  private:
    [[nodiscard]] Result<image::nbd::Endpoint> next_endpoint(UniqueFd& found, const PathRules& rules);
    void forget_ended();

    EventLoop& loop_;
    image::nbd::Address address_;
    std::vector<image::nbd::Endpoint> endpoints_;
    size_t next_ = 0;
    std::unique_ptr<Lookup> lookup_;
    std::optional<Error> not_found_;
    std::vector<UniqueFd> connections_;  // the worker has a descriptor of each, too
};

}  // namespace ringback::blk
