// SPDX-License-Identifier: Apache-2.0
//
// The walks of a disk through XenBus, with the real daemon, the real worker, libxl's order and the frontends' own ways.
#include <poll.h>
#include <signal.h>

#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

#include "hypervisor/ring.h"
#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using frontend::Op;

namespace {

std::string pattern(size_t size, char first) {
    std::string data(size, '\0');
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<char>(first + static_cast<char>(i % 61));
    return data;
}

std::string content(const std::string& path, size_t offset, size_t size) {
    std::ifstream file(path, std::ios::binary);
    std::string data(size, '\0');
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(data.data(), static_cast<std::streamsize>(size));
    return data;
}

void check_io(frontend::Blkfront& front, const std::string& path, uint64_t sector, char first) {
    std::string data = pattern(8192, first);
    const std::string written = data;
    REQUIRE(transfer(front, Op::write, sector, data) == 0);
    CHECK(content(path, sector * 512, 8192) == written);
    std::string back(8192, '\0');
    REQUIRE(transfer(front, Op::read, sector, back) == 0);
    CHECK(back == written);
}

// A guest's kernel that reacts to what the backend says, until the disk is closed.
class Kernel {
  public:
    explicit Kernel(frontend::Blkfront& front) : thread_([&front] {
        for (int waited = 0; waited < 200; ++waited) {
            if (front.poll_backend() == frontend::Change::closing) return;
            pollfd event{front.store_fd(), POLLIN, 0};
            (void)::poll(&event, 1, 100);
        }
    }) {}
    ~Kernel() { thread_.join(); }

  private:
    std::thread thread_;
};

}  // namespace

TEST_CASE("a Linux guest's disk: attach, connect, data, close, detach, nothing left") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    CHECK(bed.node(bed.back() + "/hotplug-status") == "connected");
    CHECK(bed.node(bed.back() + "/state") == "2");
    CHECK(bed.node(bed.back() + "/sectors") == "2048");
    CHECK(bed.node(bed.back() + "/feature-flush-cache") == "1");
    CHECK(bed.node(bed.back() + "/feature-max-indirect-segments") == "256");
    auto front = bed.front();
    must(front->attach());
    check_io(*front, path, 16, 'a');
    must(front->close());
    CHECK(bed.node(bed.back() + "/state") == "6");
    must(bed.xl.detach_disk(bed.t.domid, devid));
    bed.daemon.wait_without_workers();
    CHECK(std::filesystem::is_empty(bed.daemon.directory() + "/blk"));
    CHECK(front->still_mapped() == 0);
}

TEST_CASE("a frontend that is Initialised before the script ran is connected when it has run") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    const auto spec = bed.disk(path);
    const auto devid = must(bed.xl.write_disk_nodes(bed.t.domid, spec));
    must(bed.xl.wait_backend_ready(bed.t.domid, devid, spec));
    auto front = bed.front();
    must(front->publish());
    // The answer to a question about it: by now the daemon has seen the frontend's state, and has not moved.
    CHECK(bed.daemon.ask({{"command", "wait-ready"}, {"device", "backend/vbd/" + std::to_string(bed.t.domid) + "/51712"}})
              .value("ok", false));
    CHECK(bed.node(bed.back() + "/state") == "2");
    must(bed.xl.hotplug(bed.t.domid, devid, "add"));
    bed.wait_node(bed.back() + "/state", "4");
    must(front->finish());
    check_io(*front, path, 8, 'b');
}

TEST_CASE("the Windows driver's start, from whatever it finds") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    must(front->windows_start());
    check_io(*front, path, 0, 'c');
    must(front->windows_start());
    check_io(*front, path, 8, 'd');
    CHECK(front->still_mapped() == 0);
}

TEST_CASE("a kernel started by kexec takes the disk over") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    must(front->attach());
    check_io(*front, path, 0, 'e');
    must(front->kexec());
    check_io(*front, path, 8, 'f');
}

TEST_CASE("resume: new rings while Connected, without another state in between") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front({.queues = 2, .ring_order = 1});
    must(front->attach());
    check_io(*front, path, 0, 'g');
    must(front->resume());
    CHECK(bed.node(bed.back() + "/state") == "4");
    check_io(*front, path, 8, 'h');
    // The last unmap may be late, as on Xen.
    CHECK(eventually([&] { return front->still_mapped() == 0; }));
}

TEST_CASE("detach from a running guest") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    must(front->attach());
    {
        const Kernel kernel(*front);
        must(bed.xl.detach_disk(bed.t.domid, devid));
    }
    CHECK(bed.node(bed.back() + "/state").empty());
    CHECK(front->still_mapped() == 0);
    bed.daemon.wait_without_workers();
    // And the guest's only disk comes back: a worker is started anew.
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto again = bed.front();
    must(again->attach());
    check_io(*again, path, 8, 'i');
}

TEST_CASE("detach from a guest that never looked at its disk, and from one that says nothing") {
    DiskBed bed;
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    SECTION("never") { must(bed.xl.detach_disk(bed.t.domid, devid)); }
    SECTION("nothing, within libxl's ten seconds") {
        auto front = bed.front();
        must(front->attach());
        must(bed.xl.detach_disk(bed.t.domid, devid));
        CHECK(front->still_mapped() == 0);
    }
    SECTION("by force") {
        auto front = bed.front();
        must(front->attach());
        must(bed.xl.detach_disk(bed.t.domid, devid, true));
        CHECK(front->still_mapped() == 0);
    }
    bed.daemon.wait_without_workers();
    CHECK(std::filesystem::is_empty(bed.daemon.directory() + "/blk"));
}

TEST_CASE("a guest that is destroyed, and its successor on the same image at once") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    must(front->attach());
    check_io(*front, path, 0, 'j');
    const auto old = bed.t.domid;
    must(bed.xl.destroy_domain(old));
    bed.t.domid = must(bed.xl.create_domain({.name = "successor"}));
    REQUIRE(bed.t.domid != old);
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto again = bed.front();
    must(again->attach());
    check_io(*again, path, 8, 'k');
}

TEST_CASE("an unmodified configuration: the stock script, and its device") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    xen::embedded::DiskSpec spec;
    spec.params = path;  // the toolstack leaves it as physical-device-path
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, spec));
    auto front = bed.front();
    must(front->attach());
    CHECK(front->info().sectors == 2048);
    check_io(*front, path, 0, 'l');
    const Kernel kernel(*front);
    must(bed.xl.detach_disk(bed.t.domid, devid));
}

TEST_CASE("a stock script's device that cannot be served: the guest is told, nothing hangs") {
    DiskBed bed;
    xen::embedded::DiskSpec spec;
    spec.params = "/nonexistent/disk.img";
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, spec));
    bed.wait_node(bed.back() + "/state", "6");
    must(bed.xl.detach_disk(bed.t.domid, devid));
}

TEST_CASE("backendtype=tap of Xen 4.19 and later: kind vbd3") {
    DiskBed bed;
    const std::string path = bed.file("with blank, comma: colon.img");
    auto spec = bed.disk("aio:" + path);
    spec.kind = "vbd3";
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, spec));
    CHECK(bed.node(bed.back(devid, "vbd3") + "/sectors") == "2048");
    auto front = bed.front();
    must(front->attach());
    check_io(*front, path, 0, 'm');
    const Kernel kernel(*front);
    must(bed.xl.detach_disk(bed.t.domid, devid));
}

TEST_CASE("what a disk is told to be, it is") {
    DiskBed bed("[disk]\nmax_queues = 3\npersistent_grants = false\nbarrier = false\n");
    auto spec = bed.disk(bed.file("disk.img"));
    SECTION("as configured") {
        must(bed.xl.attach_disk(bed.t.domid, spec));
        CHECK(bed.node(bed.back() + "/multi-queue-max-queues") == "3");
        CHECK(bed.node(bed.back() + "/feature-persistent") == "0");
        CHECK(bed.node(bed.back() + "/feature-barrier") == "0");
        CHECK(bed.node(bed.back() + "/info") == "0");
        CHECK(bed.node(bed.back() + "/feature-discard") == "1");
    }
    SECTION("without discard") {
        spec.discard_enable = false;
        must(bed.xl.attach_disk(bed.t.domid, spec));
        CHECK(bed.node(bed.back() + "/feature-discard").empty());
    }
    SECTION("read-only") {
        spec.readonly = true;
        must(bed.xl.attach_disk(bed.t.domid, spec));
        CHECK(bed.node(bed.back() + "/info") == "4");
        CHECK(bed.node(bed.back() + "/feature-discard").empty());
        auto front = bed.front();
        must(front->attach());
        std::string data(512, 'x');
        CHECK(transfer(*front, Op::write, 0, data) != 0);
        CHECK(transfer(*front, Op::read, 0, data) == 0);
    }
    SECTION("a CD-ROM") {
        spec.cdrom = true;
        must(bed.xl.attach_disk(bed.t.domid, spec));
        CHECK(bed.node(bed.back() + "/info") == "7");
    }
}

TEST_CASE("a disk grows while it is used") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    must(front->attach());
    nlohmann::json request = {{"command", "resize"}, {"guest", "guest"}, {"disk", "xvda"}, {"bytes", 4U << 20}};
    const auto answer = bed.daemon.ask(request);
    INFO(answer.dump());
    REQUIRE(answer.value("ok", false));
    CHECK(std::filesystem::file_size(path) == 4U << 20);
    CHECK(bed.node(bed.back() + "/sectors") == "8192");
    CHECK(bed.node(bed.back() + "/state") == "4");
    CHECK(front->poll_backend() == frontend::Change::resized);
    CHECK(front->info().sectors == 8192);
    check_io(*front, path, 8000, 'n');
    // By itself, and then looked at again.
    std::filesystem::resize_file(path, 5U << 20);
    request.erase("bytes");
    request["guest"] = std::to_string(bed.t.domid);
    request["disk"] = "51712";
    CHECK(bed.daemon.ask(request).value("bytes", 0U) == 5U << 20);
    // It never shrinks, and the file is left as it is.
    request["bytes"] = 1U << 20;
    CHECK_FALSE(bed.daemon.ask(request).value("ok", true));
    CHECK(std::filesystem::file_size(path) == 5U << 20);
    request["disk"] = "xvdz";
    CHECK_FALSE(bed.daemon.ask(request).value("ok", true));
}

TEST_CASE("the daemon restarts under a guest that works, and finds its disk again") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    must(front->attach());
    const pid_t worker = bed.daemon.worker(bed.t.domid);
    REQUIRE(worker != 0);
    bed.daemon.stop();
    check_io(*front, path, 0, 'o');
    bed.daemon.start();
    check_io(*front, path, 8, 'p');
    CHECK(bed.node(bed.back() + "/state") == "4");
    // Answered only when it is open, here: adopted.
    const std::string name = "backend/vbd/" + std::to_string(bed.t.domid) + "/51712";
    CHECK(bed.daemon.ask({{"command", "wait-ready"}, {"device", name}}).value("ok", false));
    CHECK(bed.daemon.worker(bed.t.domid) == worker);
    check_io(*front, path, 16, 'q');
    {
        const Kernel kernel(*front);
        must(bed.xl.detach_disk(bed.t.domid, devid));
    }
    CHECK(front->still_mapped() == 0);
    bed.daemon.wait_without_workers();
}

TEST_CASE("a ring that breaks while no daemon is there is found broken by the next one") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    must(front->attach());
    check_io(*front, path, 0, 'o');
    bed.daemon.stop();
    auto& header = *reinterpret_cast<xen::SharedRingHeader*>(front->queue(0).shared());
    std::atomic_ref(header.req_prod).store(header.req_prod + 1000, std::memory_order_release);
    front->queue(0).notify();
    bed.daemon.start();
    bed.wait_node(bed.back() + "/state", "5");
}

TEST_CASE("a worker that is killed is replaced; its guest keeps its disk, in the same state") {
    DiskBed bed;
    const std::string path = bed.file("disk.img");
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    must(front->attach());
    const Neighbour neighbour(bed);
    const pid_t worker = bed.daemon.worker(bed.t.domid);
    REQUIRE(worker != bed.daemon.worker(neighbour.domid()));
    const pid_t other = bed.daemon.worker(neighbour.domid());
    REQUIRE(::kill(worker, SIGKILL) == 0);
    check_io(*front, path, 0, 'r');
    CHECK(front->poll_backend() == frontend::Change::none);
    CHECK(bed.node(bed.back() + "/state") == "4");
    CHECK(bed.daemon.worker(bed.t.domid) != worker);
    CHECK(bed.daemon.worker(neighbour.domid()) == other);
    neighbour.check();
    must(front->close());
    must(bed.xl.detach_disk(bed.t.domid, devid));
}
