// SPDX-License-Identifier: Apache-2.0
//
// See ring_loop.h.
#include "tools/ring-bench/ring_loop.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/poll_policy.h"
#include "tools/ring-bench/allocations.h"

namespace ringback::bench {

class RingLoop::NoOpener : public image::Opener {
  public:
    Result<image::File> open(const std::string& name, Access) override {
        return Error{EACCES, "open " + name + ": a raw image needs no other file"};
    }
};

Result<std::unique_ptr<RingLoop>> RingLoop::open(const RingOptions& options) {
    std::unique_ptr<RingLoop> loop(new RingLoop);
    TRY(loop->start(options));
    return loop;
}

Result<void> RingLoop::start(const RingOptions& options) {
    guest_ = std::make_unique<xen::embedded::Guest>(TRY(xen::embedded::Guest::connect(options.domid)));
    grants_.push_back(TRY(xen::GrantTable::open()));
    events_ = std::make_unique<xen::EventChannels>(TRY(xen::EventChannels::open()));
    // The ring is always polled, as a busy one is: the same work without the luck of a window.
    reactor_ = TRY(Reactor::create({.polling = {.window_ns = 1'000'000, .always = true}}));
    TRY(reactor_->start());
    buffers_ = std::make_unique<blk::worker::BufferPool>(*reactor_, size_t{16} << 20);
    TRY(buffers_->reserve());
    opener_ = std::make_unique<NoOpener>();

    UniqueFd file(::open(options.path.c_str(), O_RDWR | O_CLOEXEC | (options.direct ? O_DIRECT : 0)));
    if (!file) return os_error("open " + options.path);
    std::unique_ptr<image::Image> image =
        TRY(image::open_image("raw", {std::move(file), true, options.direct, options.path}, *opener_,
                              *reactor_, {.writable = true}));
    const xen::DeviceId id{"vbd", options.domid, 51712};
    UniqueFd journal_file(::memfd_create("journal", MFD_CLOEXEC));
    if (!journal_file || ::ftruncate(journal_file.get(), blk::kJournalBytes) != 0)
        return os_error("make a journal");
    blk::worker::Journal journal = TRY(blk::worker::Journal::map(journal_file.get(), id));
    device_ = std::make_unique<blk::worker::Device>(
        id, blk::worker::Device::Resources{*reactor_, *events_, grants_, *buffers_, rings_by_port_},
        std::move(image), std::move(journal), true, options.direct,
        blk::worker::Device::Callbacks{
            .disconnected = [this](blk::worker::Device&) { disconnected_ = true; },
            .failed = [this](blk::worker::Device&, const std::string&) { ++errors_; }});

    queue_ = std::make_unique<frontend::Queue>(TRY(frontend::Queue::create(*guest_, {})));
    blk::Connect connect{};
    connect.abi = xen::blkif::Abi::x86_64;
    connect.persistent = options.persistent ? 1 : 0;
    connect.queue_count = 1;
    connect.queues[0].ring_refs[0] = queue_->ring_refs()[0];
    connect.queues[0].remote_port = queue_->port();
    TRY(device_->connect(connect));
    TRY(queue_->start(
        {.persistent = options.persistent, .max_segments = 11, .pool_pages = queue_->entries()}));
    requests_.resize(queue_->entries());
    for (frontend::Request& request : requests_) {
        request.length = kBlock;
        request.owner = this;
        request.done = [](frontend::Request& r, int status) {
            if (status != 0) ++static_cast<RingLoop*>(r.owner)->errors_;
        };
    }
    return {};
}

RingLoop::~RingLoop() {
    if (device_ && device_->connected()) {
        device_->disconnect();
        while (!disconnected_)
            reactor_->turn(false);
    }
    device_.reset();
    while (reactor_ && reactor_->in_flight() > 0)
        reactor_->turn(false);
    queue_.reset();
}

RingCounts RingLoop::now() const {
    const blk::Stats stats = device_->stats();
    return {.operations = stats.reads + stats.writes,
            .enters = reactor_->counters().enters,
            .notifies_sent = stats.notifies_sent,
            .notifies_taken = queue_->counters().notifies,
            .grant_copy_calls = stats.grant_copy_calls,
            .persistent_maps = stats.persistent_maps,
            .allocations = allocations()};
}

void RingLoop::turn_until_answered() {
    while (!queue_->answered() && errors_ == 0)
        reactor_->turn(true);
}

Slice RingLoop::run(const Job& job, uint64_t duration_ns) {
    Addresses addresses(job.blocks);
    Slice slice;
    const RingCounts before = now();
    const uint64_t cpu = thread_cpu_ns();
    const uint64_t start = monotonic_ns();
    do {
        for (uint32_t i = 0; i < job.depth; ++i) {
            requests_[i].op = job.write ? frontend::Op::write : frontend::Op::read;
            requests_[i].sector = addresses.next() * (kBlock / frontend::kSectorSize);
            INVARIANT(queue_->submit(requests_[i]));
        }
        queue_->push();
        const uint64_t began = monotonic_ns();
        turn_until_answered();
        slice.timed_ns += monotonic_ns() - began;
        (void)queue_->reap(!job.polled);
        slice.operations += job.depth;
        slice.wall_ns = monotonic_ns() - start;
    } while (slice.wall_ns < duration_ns && errors_ == 0);
    slice.cpu_ns = thread_cpu_ns() - cpu;
    slice.errors = errors_;
    const RingCounts after = now();
    counts_.operations += after.operations - before.operations;
    counts_.enters += after.enters - before.enters;
    counts_.notifies_sent += after.notifies_sent - before.notifies_sent;
    counts_.notifies_taken += after.notifies_taken - before.notifies_taken;
    counts_.grant_copy_calls += after.grant_copy_calls - before.grant_copy_calls;
    counts_.persistent_maps += after.persistent_maps - before.persistent_maps;
    counts_.allocations += after.allocations - before.allocations;
    return slice;
}

}  // namespace ringback::bench
