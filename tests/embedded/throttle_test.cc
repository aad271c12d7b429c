// SPDX-License-Identifier: Apache-2.0
//
// `throttle`, from the control socket to the ring: requests are held back in the guest's ring, limits hold over deaths of
// either process and reboots of the guest, and what disks share goes to those that want it, by weight.
#include <catch2/catch_test_macros.hpp>
#include <chrono>
#include <memory>
#include <vector>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using frontend::Op;

namespace {

struct Held {
    explicit Held(size_t count) : requests(count), data(4096) {}
    std::vector<frontend::Request> requests;
    std::vector<std::byte> data;
    size_t done = 0;
    int worst = 0;

    void submit(frontend::Queue& queue) {
        for (frontend::Request& request : requests) {
            request.op = Op::read;
            request.length = 4096;
            request.data = data.data();
            request.owner = this;
            request.done = [](frontend::Request& finished, int status) {
                Held& held = *static_cast<Held*>(finished.owner);
                ++held.done;
                if (status != 0) held.worst = status;
            };
            REQUIRE(queue.submit(request));
        }
        queue.push();
    }
};

nlohmann::json disk_of(const DiskBed& bed, uint16_t domid, const std::string& vdev = "xvda") {
    const nlohmann::json answer = bed.daemon.ask({{"command", "status"}});
    for (const auto& guest : answer["guests"]) {
        if (guest["domid"] != domid) continue;
        for (const auto& disk : guest["disks"]) {
            if (disk["vdev"] == vdev) return disk;
        }
    }
    return {};
}

nlohmann::json limit_of(const DiskBed& bed, uint16_t domid, const std::string& vdev = "xvda") {
    return disk_of(bed, domid, vdev).value("throttle", nlohmann::json::object());
}

nlohmann::json throttle(const DiskBed& bed, nlohmann::json request) {
    request["command"] = "throttle";
    return bed.daemon.ask(request);
}

void must_throttle(const DiskBed& bed, const nlohmann::json& request) {
    const auto answer = throttle(bed, request);
    INFO(answer.dump());
    REQUIRE(answer.value("ok", false));
}

// A guest whose only disk is always busy: eight reads, and another one for each that ends.
struct Busy {
    explicit Busy(frontend::Blkfront& front) : front_(front), requests_(8), data_(4096) {
        for (frontend::Request& request : requests_) {
            request.op = Op::read;
            request.length = 4096;
            request.data = data_.data();
            request.owner = this;
            request.done = [](frontend::Request& finished, int) { static_cast<Busy*>(finished.owner)->again_.push_back(&finished); };
            again_.push_back(&request);
        }
    }
    void turn(bool more = true) {
        auto& queue = front_.queue(0);
        (void)queue.reap();
        if (!more) return;
        for (frontend::Request* request : std::exchange(again_, {})) REQUIRE(queue.submit(*request));
        queue.push();
    }
    [[nodiscard]] bool quiet() const { return again_.size() == requests_.size(); }

  private:
    frontend::Blkfront& front_;
    std::vector<frontend::Request> requests_;
    std::vector<std::byte> data_;
    std::vector<frontend::Request*> again_;
};

}  // namespace

TEST_CASE("requests above the limit wait in the guest's ring, and go on when it is lifted") {
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    must(front->attach());
    // One request, and the next one more than an hour later: nothing here depends on how fast the test runs.
    must_throttle(bed, {{"guest", "guest"}, {"disk", "xvda"}, {"operations", 1}, {"burst_ms", 1000}});
    REQUIRE(eventually([&] { return limit_of(bed, bed.t.domid).value("operations", 0) == 1; }));
    must_throttle(bed, {{"guest", "guest"}, {"disk", "xvda"}, {"bytes", 1}});
    REQUIRE(eventually([&] { return limit_of(bed, bed.t.domid).value("bytes", 0) == 1; }));
    Held held(8);
    held.submit(front->queue(0));
    REQUIRE(eventually([&] {
        (void)front->queue(0).reap();
        return held.done == 1 && disk_of(bed, bed.t.domid)["counters"].value("throttled_ms", 0) > 0;
    }));
    const auto counters = disk_of(bed, bed.t.domid)["counters"];
    CHECK(counters["reads"] == 1);
    CHECK(counters["in_flight"] == 0);

    SECTION("lifted") {
        must_throttle(bed, {{"guest", "guest"}, {"disk", "xvda"}, {"off", 1}});
        REQUIRE(eventually([&] {
            (void)front->queue(0).reap();
            return held.done == 8;
        }));
        CHECK(held.worst == 0);
        CHECK(limit_of(bed, bed.t.domid).empty());
    }
    SECTION("a frontend that closes is not kept waiting") {
        must(front->close());
        must(bed.xl.detach_disk(bed.t.domid, 51712));
    }
    SECTION("by a worker's successor, and by the next blkbackd too") {
        const pid_t worker = bed.daemon.worker(bed.t.domid);
        ::kill(worker, SIGKILL);
        REQUIRE(eventually([&] { return bed.daemon.worker(bed.t.domid) != worker && bed.daemon.worker(bed.t.domid) != 0; }));
        REQUIRE(eventually([&] { return limit_of(bed, bed.t.domid).value("bytes", 0) == 1; }));
        bed.daemon.stop(SIGKILL);
        bed.daemon.start();
        REQUIRE(eventually([&] { return limit_of(bed, bed.t.domid).value("bytes", 0) == 1; }));
        must_throttle(bed, {{"guest", "guest"}, {"disk", "xvda"}, {"off", 1}});
        REQUIRE(eventually([&] {
            (void)front->queue(0).reap();
            return held.done == 8;
        }));
        CHECK(held.worst == 0);
    }
}

TEST_CASE("a guest's rate goes to the disks that use it, and comes back when the other one wants it") {
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("a.img"))));
    auto second = bed.disk(bed.file("b.img"));
    second.vdev = "xvdb";
    must(bed.xl.attach_disk(bed.t.domid, second));
    auto a = bed.front();
    must(a->attach());
    auto b = bed.front({.devid = 51728});
    must(b->attach());
    must_throttle(bed, {{"guest", "guest"}, {"operations", 2000}});
    must_throttle(bed, {{"guest", "guest"}, {"disk", "xvdb"}, {"weight", 300}});
    Busy on_a(*a);
    Busy on_b(*b);
    const auto of = [&](const char* vdev) { return limit_of(bed, bed.t.domid, vdev).value("operations", 0); };
    CHECK(repeat_until([&] { return of("xvda") > 1900 && of("xvdb") < 100; }, [&] { on_a.turn(); }));
    CHECK(repeat_until([&] { return of("xvda") <= 520 && of("xvda") >= 480 && of("xvdb") >= 1480; },
                       [&] {
                           on_a.turn();
                           on_b.turn();
                       }));
    CHECK(of("xvda") + of("xvdb") <= 2001);
    must_throttle(bed, {{"guest", "guest"}, {"off", 1}});
    CHECK(repeat_until([&] { return on_a.quiet() && on_b.quiet(); },
                       [&] {
                           on_a.turn(false);
                           on_b.turn(false);
                       }));
}

TEST_CASE("a group is limited across guests; a limit is found again by UUID") {
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    Neighbour neighbour(bed);
    const std::string other = std::to_string(neighbour.domid());
    CHECK_FALSE(throttle(bed, {{"guest", "guest"}, {"disk", "xvda"}, {"join", "gold"}}).value("ok", true));
    must_throttle(bed, {{"group", "gold"}, {"operations", 1000}});
    must_throttle(bed, {{"guest", "guest"}, {"disk", "xvda"}, {"join", "gold"}});
    must_throttle(bed, {{"guest", other}, {"disk", "xvda"}, {"join", "gold"}});
    // Nobody asks for anything: by weight.
    CHECK(eventually([&] {
        return limit_of(bed, bed.t.domid).value("operations", 0) == 500 && limit_of(bed, neighbour.domid()).value("operations", 0) == 500;
    }));
    const auto members = throttle(bed, {{"group", "gold"}});
    CHECK(members["disks"].size() == 2);
    // Taken away and attached again, it is in the group again.
    must(bed.xl.detach_disk(bed.t.domid, 51712));
    CHECK(eventually([&] { return limit_of(bed, neighbour.domid()).value("operations", 0) == 1000; }));
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    CHECK(eventually([&] { return limit_of(bed, bed.t.domid).value("operations", 0) == 500; }));
    must_throttle(bed, {{"group", "gold"}, {"off", 1}});
    CHECK(eventually([&] { return limit_of(bed, bed.t.domid).empty() && limit_of(bed, neighbour.domid()).empty(); }));
    neighbour.check();
}

TEST_CASE("what cannot be is refused by name, and changes nothing") {
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    const nlohmann::json disk = {{"guest", "guest"}, {"disk", "xvda"}};
    const auto refused = [&](nlohmann::json with, const std::string& part) {
        const std::string error = throttle(bed, std::move(with)).value("error", "");
        INFO(error);
        CHECK(error.find(part) != std::string::npos);
    };
    const auto with = [&](const char* key, const nlohmann::json& value) {
        nlohmann::json request = disk;
        request[key] = value;
        return request;
    };
    refused({{"operations", 5}}, "a guest or a group");
    refused({{"guest", "guest"}, {"group", "gold"}}, "a guest or a group");
    refused({{"guest", "nobody"}, {"operations", 5}}, "nobody");
    refused({{"guest", "guest"}, {"disk", "xvdz"}, {"operations", 5}}, "xvdz");
    refused({{"guest", "guest"}, {"weight", 5}}, "name it");
    refused({{"group", "a b"}, {"operations", 5}}, "no name of a group");
    refused({{"group", "gold"}}, "no group");
    refused(with("operations", -1), "operations");
    refused(with("operations", 2'000'000'000U), "operations");
    refused(with("burst_ms", 0), "burst");
    refused(with("weight", 0), "weight");
    refused(with("bytes", "many"), "bytes");
    CHECK(limit_of(bed, bed.t.domid).empty());
}
