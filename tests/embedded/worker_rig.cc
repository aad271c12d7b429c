// SPDX-License-Identifier: Apache-2.0
#include "worker_rig.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <catch2/catch_test_macros.hpp>
#include <filesystem>

namespace ringback::test {

Rig::Rig(const RigOptions& wanted) : options(wanted), core({}, {.memory_mib = 256}) {
    directory_ = "/var/tmp/ringback-rig-XXXXXX";  // on a disk: O_DIRECT works there, on tmpfs it may not
    REQUIRE(mkdtemp(directory_.data()) != nullptr);
    path = directory_ + "/disk.img";
    UniqueFd image_fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    REQUIRE(ftruncate(image_fd.get(), static_cast<off_t>(options.disk_bytes)) == 0);
    bool direct = true;
    UniqueFd data(::open(path.c_str(), (options.writable ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC));
    if (!data) {
        direct = false;
        data.reset(::open(path.c_str(), (options.writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    }
    journal.reset(options.journal >= 0 ? dup(options.journal) : memfd_create("journal", MFD_CLOEXEC));
    REQUIRE(ftruncate(journal.get(), static_cast<off_t>(blk::kJournalBytes)) == 0);

    reactor = must(Reactor::create({.polling = options.polling}));
    events = std::make_unique<xen::EventChannels>(must(xen::EventChannels::open()));
    grants.push_back(must(xen::GrantTable::open()));
    must(reactor->start());
    buffers = std::make_unique<blk::worker::BufferPool>(*reactor, options.buffer_bytes);
    const xen::DeviceId id{"vbd", core.domid, 51712};
    auto image = must(image::open_image("raw", {std::move(data), options.writable, direct, path}, *this, *reactor,
                                        {.writable = options.writable, .discard = options.discard}));
    device = std::make_unique<blk::worker::Device>(
        id, blk::worker::Device::Resources{*reactor, *events, grants, *buffers, rings_by_port}, std::move(image),
        must(blk::worker::Journal::map(journal.get(), id)), options.writable, direct,
        blk::worker::Device::Callbacks{
            .disconnected = [this](blk::worker::Device&) { ++disconnected; },
            .failed = [this](blk::worker::Device&, const std::string& why) { failures.push_back(why); }});
    watch_.rig = this;
    watch_.on_complete = [](Completion& self, int32_t, uint32_t) noexcept {
        Rig& rig = *static_cast<EventsWatch&>(self).rig;
        while (const auto port = rig.events->pending()) {
            if (*port < rig.rings_by_port.size() && rig.rings_by_port[*port] != nullptr) {
                rig.rings_by_port[*port]->on_event();
            }
        }
    };
    reactor->watch_readable(events->fd(), watch_);
    if (options.connect) connect();
}

Rig::~Rig() {
    if (device->connected()) disconnect();
    device.reset();
    std::filesystem::remove_all(directory_);
}

void Rig::connect() { must(try_connect()); }

Result<void> Rig::try_connect() {
    blk::Connect parameters{};
    parameters.abi = options.abi;
    parameters.persistent = options.persistent ? 1 : 0;
    parameters.ring_order = static_cast<uint8_t>(options.ring_order);
    parameters.queue_count = static_cast<uint16_t>(options.queues);
    queues.reserve(options.queues);
    for (uint32_t i = 0; i < options.queues; ++i) {
        if (queues.size() == i) {
            queues.push_back(must(frontend::Queue::create(
                core.guest, {.ring_order = options.ring_order, .abi = options.abi, .backend_domid = 0})));
            must(queues.back().start({.persistent = options.persistent, .max_segments = options.max_segments}));
        }
        const auto& refs = queues[i].ring_refs();
        std::copy(refs.begin(), refs.end(), parameters.queues[i].ring_refs.begin());
        parameters.queues[i].remote_port = queues[i].port();
    }
    return device->connect(parameters);
}

void Rig::disconnect() {
    const int before = disconnected;
    device->disconnect();
    REQUIRE(turn_until([&] { return disconnected > before; }));
}

void Rig::turn() {
    for (auto& queue : queues) queue.push();
    reactor->turn(false);
    for (auto& queue : queues) queue.reap();
}

bool Rig::settle() {
    return turn_until([&] {
        for (auto& queue : queues) {
            if (queue.in_flight() > 0 && queue.broken().empty()) return false;
        }
        return true;
    });
}

int Rig::run(frontend::Request& request, size_t queue) {
    int status = 1;
    request.owner = &status;
    request.done = [](frontend::Request& done, int answer) { *static_cast<int*>(done.owner) = answer; };
    REQUIRE(queues[queue].submit(request));
    REQUIRE(turn_until([&] { return status != 1; }));
    return status;
}

int Rig::transfer(frontend::Op op, uint64_t sector, std::vector<std::byte>& data, size_t queue) {
    frontend::Request request;
    request.op = op;
    request.sector = sector;
    request.data = data.data();
    request.length = static_cast<uint32_t>(data.size());
    return run(request, queue);
}

Result<image::File> Rig::open(const std::string& name, Access) { return os_error(EACCES, "open " + name); }

}  // namespace ringback::test
