// SPDX-License-Identifier: Apache-2.0
//
// The walks of frontends that are not Linux's: boot loaders that hand the disk on to a kernel (GRUB, Mini-OS), FreeBSD
// with the names it gives its rings, domain 0 as its own guest (pygrub), and a toolstack that closes in any state.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <optional>
#include <thread>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using frontend::Op;
using xen::XenbusState;

namespace {

// A frontend that writes each node by itself.
struct BareFront {
    explicit BareFront(DiskBed& in, uint32_t ring_order = 0)
        : bed(in),
          guest(must(xen::embedded::Guest::connect(bed.t.domid))),
          store(must(xen::embedded::StoreClient::open(bed.t.domid))),
          queue(must(frontend::Queue::create(guest, {.ring_order = ring_order, .backend_domid = 0}))) {}

    void write(const std::string& key, const std::string& value) { must(store.write(bed.front_path() + "/" + key, value)); }
    void state(XenbusState value) { write("state", std::to_string(static_cast<int>(value))); }
    void backend_becomes(const char* value) { bed.wait_node(bed.back() + "/state", value); }
    void start() { must(queue.start({.persistent = false, .max_segments = 11})); }
    // Says where the rings are, and waits to be connected.
    void connect(XenbusState announced) {
        write("event-channel", std::to_string(queue.port()));
        write("protocol", "x86_64-abi");
        state(announced);
        backend_becomes("4");
        start();
    }
    void check_io(char first) {
        std::string data(4096, first);
        REQUIRE(transfer(queue, Op::write, 16, data) == 0);
        data.assign(4096, '\0');
        REQUIRE(transfer(queue, Op::read, 16, data) == 0);
        CHECK(data == std::string(4096, first));
    }

    DiskBed& bed;
    xen::embedded::Guest guest;
    xen::embedded::StoreClient store;
    frontend::Queue queue;
};

// The kernel that was booted finds the disk as if nobody had been there.
void a_kernel_takes_over(DiskBed& bed) {
    auto front = bed.front({.queues = 2, .ring_order = 1});
    must(front->attach());
    std::string data(4096, 'k');
    CHECK(transfer(*front, Op::write, 0, data) == 0);
    must(front->close());
}

}  // namespace

TEST_CASE("GRUB reads its kernel, closes without Closing, empties its nodes and hands the disk on") {
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    {
        BareFront grub(bed);
        grub.write("ring-ref", std::to_string(grub.queue.ring_refs()[0]));
        grub.connect(XenbusState::initialised);
        grub.check_io('g');  // it never writes Connected
        grub.state(XenbusState::closed);
        grub.backend_becomes("6");
        grub.write("ring-ref", "");
        grub.write("event-channel", "");
        grub.state(XenbusState::initialising);
        grub.backend_becomes("2");
        CHECK(eventually([&] { return grub.queue.release() == 0; }));
    }
    a_kernel_takes_over(bed);
}

TEST_CASE("Mini-OS connects without Initialised, and closes step by step before it hands the disk on") {
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    {
        BareFront mini(bed);
        mini.write("ring-ref", std::to_string(mini.queue.ring_refs()[0]));
        mini.connect(XenbusState::connected);
        mini.check_io('m');
        mini.state(XenbusState::closing);
        mini.backend_becomes("5");
        mini.state(XenbusState::closed);
        mini.backend_becomes("6");
        mini.state(XenbusState::initialising);
        mini.backend_becomes("2");
        CHECK(eventually([&] { return mini.queue.release() == 0; }));
        must(mini.store.remove(bed.front_path() + "/ring-ref"));
        must(mini.store.remove(bed.front_path() + "/event-channel"));
    }
    a_kernel_takes_over(bed);
}

TEST_CASE("FreeBSD counts the pages of its ring, and keeps a disk that is open until it is not") {
    DiskBed bed;
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    BareFront bsd(bed, 2);
    bsd.write("num-ring-pages", "4");
    if (GENERATE(false, true)) bsd.write("ring-page-order", "2");
    for (size_t page = 0; page < 4; ++page) {
        bsd.write("ring-ref" + std::to_string(page), std::to_string(bsd.queue.ring_refs()[page]));
    }
    bsd.connect(XenbusState::initialised);
    bsd.state(XenbusState::connected);
    bsd.check_io('f');
    std::optional<Result<void>> detached;
    std::jthread toolstack([&] { detached.emplace(bed.xl.detach_disk(bed.t.domid, devid)); });
    must(bsd.store.wait_for(
        bed.back() + "/state", [](const auto& state) { return state == "5"; }, 20000));
    // In use: it says Closing and goes on.
    bsd.state(XenbusState::closing);
    bsd.check_io('F');
    CHECK(bsd.store.get(bed.back() + "/state") == "5");
    bsd.state(XenbusState::closed);
    toolstack.join();
    must(*detached);
    CHECK(eventually([&] { return bsd.queue.release() == 0; }));
}

TEST_CASE("domain 0 is a guest too: pygrub looks into an image through a disk of its own host") {
    DiskBed bed;
    bed.t.domid = 0;
    const std::string path = bed.file("disk.img");
    const auto devid = must(bed.xl.attach_disk(0, bed.disk(path)));
    auto front = bed.front();
    must(front->attach());
    std::string data(4096, 'p');
    CHECK(transfer(*front, Op::write, 8, data) == 0);
    CHECK(transfer(*front, Op::read, 8, data) == 0);
    must(front->close());
    must(bed.xl.detach_disk(0, devid));
    bed.daemon.wait_without_workers();
    CHECK(eventually([&] { return front->still_mapped() == 0; }));
}

TEST_CASE("the toolstack closes a disk whatever its frontend is at") {
    DiskBed bed;
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    const auto state = GENERATE(XenbusState::unknown, XenbusState::initialising, XenbusState::closed);
    const bool had_rings = GENERATE(false, true);
    INFO(xen::to_string(state) << (had_rings ? " after it was connected" : ""));
    if (had_rings) must(front->attach());
    must(front->set_state(state));
    must(bed.xl.detach_disk(bed.t.domid, devid));
    CHECK(bed.node(bed.back() + "/state").empty());
    bed.daemon.wait_without_workers();
    front->drop_rings();
    CHECK(eventually([&] { return front->still_mapped() == 0; }));
}

TEST_CASE("a guest that is restored elsewhere starts at Initialised, without having been seen before") {
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    // The new domain's kernel resumes: rings at once, whatever the backend is at.
    must(front->publish());
    bed.wait_node(bed.back() + "/state", "4");
    must(front->finish());
    std::string data(4096, 'r');
    CHECK(transfer(*front, Op::write, 0, data) == 0);
    must(front->close());
}
