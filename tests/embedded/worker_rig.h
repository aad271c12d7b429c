// SPDX-License-Identifier: Apache-2.0
//
// A guest's queues and the worker's half of the same disk in one thread: the frontend fills, the backend runs, the
// frontend looks. Everything is the product's code but XenBus and the process boundary, which other tests cover.
#pragma once

#include <stdlib.h>

#include <string>
#include <vector>

#include "blkback/worker/device.h"
#include "core_fixture.h"
#include "tools/frontend/blkfront_queue.h"

namespace ringback::test {

struct RigOptions {
    uint32_t queues = 1;
    uint32_t ring_order = 0;
    bool persistent = false;
    uint32_t max_segments = 11;
    xen::blkif::Abi abi = xen::blkif::Abi::x86_64;
    uint64_t disk_bytes = 16U << 20;
    bool writable = true;
    bool discard = true;
    size_t buffer_bytes = 16U << 20;
    PollPolicy::Limits polling{};
    int journal = -1;  // the journal's file, if somebody else is to read it
    bool connect = true;
};

class Rig : image::Opener {
  public:
    explicit Rig(const RigOptions& options = {});
    ~Rig() override;

    // One request, waited for; the status of its answer.
    int run(frontend::Request& request, size_t queue = 0);
    int transfer(frontend::Op op, uint64_t sector, std::vector<std::byte>& data, size_t queue = 0);
    // Turns frontend and backend until nothing is in flight; false: it does not end.
    bool settle();
    // The same until `condition` holds.
    template <typename Condition>
    bool turn_until(Condition condition) {
        return repeat_until(condition, [this] { turn(); });
    }
    void turn();
    void connect();
    // The same with an answer, for connections that are to fail; the frontend's queues are made if there are none.
    Result<void> try_connect();
    void disconnect();

    RigOptions options;
    CoreWithGuest core;
    std::string path;
    std::unique_ptr<Reactor> reactor;
    std::unique_ptr<xen::EventChannels> events;
    std::vector<xen::GrantTable> grants;
    std::unique_ptr<blk::worker::BufferPool> buffers;
    std::vector<blk::worker::Ring*> rings_by_port;
    UniqueFd journal;
    std::unique_ptr<blk::worker::Device> device;
    std::vector<frontend::Queue> queues;
    int disconnected = 0;
    std::vector<std::string> failures;

  private:
    Result<image::File> open(const std::string& name, Access access) override;
    struct EventsWatch : Completion {
        Rig* rig;
    } watch_;
    std::string directory_;
};

}  // namespace ringback::test
