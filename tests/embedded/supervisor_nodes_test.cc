// SPDX-License-Identifier: Apache-2.0
//
// Every node that blkbackd reads, with every kind of value that it should not hold. A frontend that writes it loses its
// own disk, gets it back when it starts anew, and disturbs nobody; a toolstack that writes it is told why.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <map>
#include <set>

#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;
using xen::XenbusState;

namespace {

using Value = std::optional<std::string>;  // nullopt: no such node

struct BadValue {
    const char* name;
    Value value;
};

// What a node that should hold `good` may hold instead.
std::vector<BadValue> bad_values(const std::string& good) {
    return {{"missing", std::nullopt},
            {"empty", ""},
            {"negative", "-1"},
            {"past 64 bits", "18446744073709551617"},
            {"past 32 bits", "4294967297"},
            {"no number", "many"},
            {"hexadecimal", "0x" + good},
            {"a fraction", good + ".0"},
            {"blanks behind", good + "  "},
            {"a blank before", " " + good},
            {"a line end", good + "\n"},
            {"a NUL behind", good + std::string(1, '\0')},
            {"a NUL and more", good + std::string("\0junk", 5)},
            {"bytes that are no text", "\xff\xfe\x1b[2J\x80"},
            {"a format", "%s%n%s%n{}{0}"},
            {"a path", "../../../0/domid"},
            {"long", std::string(1900, '9')}};
}

// A guest's frontend nodes, written one by one with the guest's own rights.
class Scribbler {
  public:
    explicit Scribbler(DiskBed& bed) : bed_(bed), front_(bed.front()), home_(bed.front_path() + "/") {
        const auto pages = must(front_->guest().alloc_pages(4));
        for (uint32_t page = 0; page < 4; ++page) refs_.push_back(must(front_->guest().grant(pages + page, 0)));
        for (int port = 0; port < 2; ++port) ports_.push_back(must(front_->guest().alloc_unbound_port(0)));
    }

    // An offer that is accepted as it stands.
    [[nodiscard]] std::map<std::string, std::string> offer(uint32_t order, uint32_t queues) const {
        std::map<std::string, std::string> nodes = {{"protocol", "x86_64-abi"}, {"feature-persistent", "1"}};
        if (order > 0) nodes["ring-page-order"] = std::to_string(order);
        if (queues > 1) nodes["multi-queue-num-queues"] = std::to_string(queues);
        size_t next = 0;
        for (uint32_t queue = 0; queue < queues; ++queue) {
            const std::string where = queues > 1 ? "queue-" + std::to_string(queue) + "/" : "";
            for (uint32_t page = 0; page < 1U << order; ++page) {
                nodes[where + "ring-ref" + (order > 0 ? std::to_string(page) : "")] = std::to_string(refs_[next++]);
            }
            nodes[where + "event-channel"] = std::to_string(ports_[queue].number());
        }
        return nodes;
    }
    void write(const std::map<std::string, std::string>& nodes, const std::string& key, const Value& value) {
        for (const char* old : {"ring-ref", "ring-ref0", "ring-ref1", "event-channel", "protocol", "feature-persistent",
                                "ring-page-order", "num-ring-pages", "multi-queue-num-queues", "queue-0", "queue-1"}) {
            (void)front_->store().remove(home_ + old);
        }
        for (const auto& [name, good] : nodes) {
            if (name != key) must(front_->store().write(home_ + name, good));
        }
        if (value) must(front_->store().write(home_ + key, *value));
    }
    void go(XenbusState state, const char* backend) {
        must(front_->set_state(state));
        bed_.wait_node(bed_.back() + "/state", backend);
    }
    // From wherever it is, back to where a frontend starts.
    void start_anew() {
        go(XenbusState::closed, "6");
        go(XenbusState::initialising, "2");
    }
    frontend::Blkfront& front() { return *front_; }

  private:
    DiskBed& bed_;
    std::unique_ptr<frontend::Blkfront> front_;
    std::string home_;
    std::vector<uint32_t> refs_;
    std::vector<xen::embedded::GuestPort> ports_;
};

struct FrontendNode {
    const char* key;
    uint32_t order;
    uint32_t queues;
    std::set<std::string> harmless;  // values that mean what a missing node means, and are served
};

const std::set<std::string> kAll = [] {
    std::set<std::string> names;
    for (const BadValue& bad : bad_values("1")) names.insert(bad.name);
    return names;
}();

}  // namespace

TEST_CASE("every frontend node with every bad value: that disk closes, starts anew, and no other notices") {
    const CapturedLog log;
    DiskBed bed("[disk]\nmax_queues = 2\n");
    const Neighbour neighbour(bed);
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    Scribbler guest(bed);
    const std::vector<FrontendNode> nodes = {
        {"protocol", 0, 1, {"missing"}},
        {"feature-persistent", 0, 1, kAll},
        {"ring-ref", 0, 1, {}},
        {"event-channel", 0, 1, {}},
        {"ring-page-order", 0, 1, {"missing"}},
        {"num-ring-pages", 0, 1, {"missing"}},
        {"ring-page-order", 1, 1, {"missing"}},  // a ring of one page, whose reference may be called ring-ref0
        {"ring-ref0", 1, 1, {}},
        {"ring-ref1", 1, 1, {}},
        {"multi-queue-num-queues", 0, 1, {"missing"}},
        {"multi-queue-num-queues", 0, 2, {}},
        {"queue-0/ring-ref", 0, 2, {}},
        {"queue-1/ring-ref", 0, 2, {}},
        {"queue-0/event-channel", 0, 2, {}},
        {"queue-1/event-channel", 0, 2, {}},
        {"queue-0/ring-ref0", 1, 2, {}},
        {"queue-1/ring-ref1", 1, 2, {}},
    };
    size_t attempts = 0;
    for (const FrontendNode& node : nodes) {
        const auto offer = guest.offer(node.order, node.queues);
        const auto own = offer.find(node.key);
        for (const BadValue& bad : bad_values(own != offer.end() ? own->second : "0")) {
            INFO(node.key << ": " << bad.name << ", order " << node.order << ", queues " << node.queues);
            guest.write(offer, node.key, bad.value);
            const bool served = node.harmless.contains(bad.name);
            guest.go(XenbusState::initialised, served ? "4" : "5");
            if (served) guest.go(XenbusState::closing, "5");
            guest.start_anew();
            ++attempts;
        }
        neighbour.check();
    }
    // The same frontend, when it behaves.
    guest.write(guest.offer(1, 2), "", std::nullopt);
    guest.go(XenbusState::initialised, "4");
    guest.start_anew();
    must(bed.xl.detach_disk(bed.t.domid, devid));
    bed.wait_node(bed.back() + "/state", "");
    // All that was told about this guest, in a test of well under a minute.
    CHECK(attempts > 250);
    CHECK(log.lines("vbd/" + std::to_string(bed.t.domid) + "/") < 100);
    CHECK(log.text().find('\x1b') == std::string::npos);
}

TEST_CASE("the frontend's state with every bad value: the disk is closed, whatever it did before") {
    DiskBed bed;
    const Neighbour neighbour(bed);
    const std::string path = bed.file("disk.img");
    const auto devid = must(bed.xl.attach_disk(bed.t.domid, bed.disk(path)));
    auto front = bed.front();
    const std::string state = bed.front_path() + "/state";
    for (const BadValue& bad : bad_values("4")) {
        INFO(bad.name);
        for (const bool connected : {false, true}) {
            if (connected) must(front->attach());
            if (bad.value) must(front->store().write(state, *bad.value));
            else must(front->store().remove(state));
            bed.wait_node(bed.back() + "/state", "6");
            front->drop_rings();
            must(front->store().write(state, "1"));
            bed.wait_node(bed.back() + "/state", "2");
        }
    }
    CHECK(eventually([&] { return front->still_mapped() == 0; }));
    neighbour.check();
    must(bed.xl.detach_disk(bed.t.domid, devid));
}

TEST_CASE("what the store does not hold, a guest cannot send: long values end at its limits") {
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    const std::string node = bed.front_path() + "/ring-ref";
    CHECK_FALSE(front->store().write(node, std::string(4000, '1')).ok());
    // A message that claims a mebibyte is no message: xenstored drops the guest's connection, and no other.
    (void)front->store().write(node, std::string(1U << 20, '1'));
    CHECK(bed.node(node).empty());
    CHECK(bed.daemon.ask({{"command", "status"}}).value("ok", false));
}

namespace {

struct BackendNode {
    const char* key;
    const char* good;
    std::set<std::string> harmless;  // these are taken as the node's absence, or as a name
    const char* why;                 // what xl's user reads for all others
};

}  // namespace

TEST_CASE("every backend node with every bad value: attaching fails with a reason, or does what the manual says") {
    DiskBed bed;
    const Neighbour neighbour(bed);
    const std::string image = bed.file("disk.img");
    const std::string domid = std::to_string(bed.t.domid);
    const std::string home = bed.front_path();
    // The guest's worker stays for this one.
    auto other = bed.disk(bed.file("other.img"));
    other.vdev = "xvdb";
    must(bed.xl.attach_disk(bed.t.domid, other));
    const std::vector<BackendNode> nodes = {
        {"frontend", home.c_str(), {}, "its frontend path is not in the frontend domain's own directory"},
        {"frontend-id", domid.c_str(), {}, "its frontend path is not in the frontend domain's own directory"},
        {"params", image.c_str(), {}, "target"},
        {"script", "/etc/xen/scripts/block", kAll, ""},
        {"dev", "xvda", kAll, ""},
        {"mode", "w", kAll, ""},
        {"removable", "0", kAll, ""},
        {"device-type", "disk", kAll, ""},
        {"direct-io-safe", "1", kAll, ""},
        {"discard-enable", "1", kAll, ""},
        {"online", "1", kAll, ""},
    };
    for (const BackendNode& node : nodes) {
        for (const BadValue& bad : bad_values(node.good)) {
            INFO(node.key << ": " << bad.name);
            auto spec = bed.disk(image);
            spec.run_script = node.harmless.empty();
            spec.wrong_backend_nodes = {{node.key, bad.value}};
            const auto attached = bed.xl.attach_disk(bed.t.domid, spec);
            if (node.harmless.contains(bad.name)) {
                must(attached);
                const auto status = bed.daemon.ask({{"command", "status"}, {"guest", std::to_string(bed.t.domid)}});
                CHECK(status.value("ok", false));
                must(bed.xl.detach_disk(bed.t.domid, 51712));
                continue;
            }
            REQUIRE_FALSE(attached.ok());
            const bool a_path = std::string(node.key) == "params" && bad.value && bad.value->starts_with('/') &&
                                bad.value->find('\0') == std::string::npos;
            CHECK_THAT(attached.error().message, ContainsSubstring(a_path ? image : node.why));
            CHECK(bed.node(bed.back() + "/state").empty());
        }
        neighbour.check();
    }
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(image)));
}

TEST_CASE("a stock script that leaves every bad device: the guest is told, and boots without the disk") {
    DiskBed bed;
    const Neighbour neighbour(bed);
    const std::string image = bed.file("disk.img");
    xen::embedded::DiskSpec spec;
    spec.params = image;
    for (const std::string key : {"physical-device-path", "physical-device"}) {
        for (const BadValue& bad : bad_values(key == "physical-device" ? "7:0" : image)) {
            INFO(key << ": " << bad.name);
            const auto devid = must(bed.xl.write_disk_nodes(bed.t.domid, spec));
            must(bed.xl.wait_backend_ready(bed.t.domid, devid, spec));
            if (bad.value) must(bed.store.write(bed.back() + "/" + key, *bad.value));
            must(bed.store.write(bed.back() + "/hotplug-status", "connected"));
            bed.wait_node(bed.back() + "/state", "6");
            must(bed.xl.detach_disk(bed.t.domid, devid));
        }
    }
    neighbour.check();
}

TEST_CASE("a hotplug-status that is anything but connected leaves the disk where it is") {
    DiskBed bed;
    const auto spec = bed.disk(bed.file("disk.img"));
    const auto devid = must(bed.xl.write_disk_nodes(bed.t.domid, spec));
    must(bed.xl.wait_backend_ready(bed.t.domid, devid, spec));
    auto front = bed.front();
    must(front->publish());
    const std::string device = "backend/vbd/" + std::to_string(bed.t.domid) + "/51712";
    for (const BadValue& bad : bad_values("connected")) {
        INFO(bad.name);
        if (bad.value) must(bed.store.write(bed.back() + "/hotplug-status", *bad.value));
        // The answer comes after a look at the device.
        CHECK(bed.daemon.ask({{"command", "wait-ready"}, {"device", device}}).value("ok", false));
        CHECK(bed.node(bed.back() + "/state") == "2");
    }
    must(bed.store.write(bed.back() + "/hotplug-status", "connected"));
    bed.wait_node(bed.back() + "/state", "4");
    must(front->finish());
    std::string data(4096, 'x');
    CHECK(transfer(*front, frontend::Op::write, 0, data) == 0);
    must(front->close());
    must(bed.xl.detach_disk(bed.t.domid, devid));
}

TEST_CASE("a guest's name and its UUID may hold anything") {
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    const std::string domain = "/local/domain/" + std::to_string(bed.t.domid);
    for (const BadValue& bad : bad_values("guest")) {
        INFO(bad.name);
        for (const char* key : {"/name", "/vm"}) {
            if (bad.value) must(bed.store.write(domain + key, *bad.value));
            else must(bed.store.remove(domain + key));
            const auto status = bed.daemon.ask({{"command", "status"}, {"guest", std::to_string(bed.t.domid)}});
            REQUIRE(status.value("ok", false));
            CHECK(status["guests"][0].value("domid", 0) == bed.t.domid);
        }
    }
}

TEST_CASE("a guest that closes and opens its disk without end is not logged without end") {
    const CapturedLog log;
    DiskBed bed;
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(bed.file("disk.img"))));
    auto front = bed.front();
    for (int round = 0; round < 60; ++round) {
        must(front->attach());
        must(front->close());
        must(front->set_state(XenbusState::initialising));
        bed.wait_node(bed.back() + "/state", "2");
    }
    CHECK(log.lines("vbd/" + std::to_string(bed.t.domid) + "/") < 100);
}
