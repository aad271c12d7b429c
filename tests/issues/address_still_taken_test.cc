// SPDX-License-Identifier: Apache-2.0
//
// A vif whose address another one still had on the switch was refused by the worker and given up, although the other one was about
// to go: a NIC detached and attached again at once, or a guest migrated on its host, had no network until it was attached anew.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "netback_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;

namespace {

// A guest on the switch, and the domain that it is being migrated to.
struct Migration {
    explicit Migration(const NetSettings& settings = {}) : bed(settings) {
        xen::embedded::NicSpec nic;
        nic.bridge = "lan0";
        nic.script = "/etc/xen/scripts/vif-ringback";
        must(bed.xl.attach_nic(bed.t.domid, nic));
        before = bed.front();
        must(before->attach());
        const std::string uuid = bed.node("/local/domain/" + std::to_string(bed.t.domid) + "/vm").substr(4);
        domid = must(bed.xl.create_domain({.name = "guest--incoming", .uuid = uuid}));
        must(bed.xl.attach_nic(domid, nic));
        after = must(frontend::Netfront::create({.domid = domid}));
        must(after->publish());
        REQUIRE(eventually([&] { return error().find(holder()) != std::string::npos; }));
    }
    [[nodiscard]] std::string holder() const { return "by vif/" + std::to_string(bed.t.domid) + "/0"; }
    [[nodiscard]] std::string error() const { return bed.daemon.vif(0, domid).value("error", ""); }
    [[nodiscard]] std::string state() { return bed.node(after->backend_path() + "/state"); }
    NetBed bed;
    uint16_t domid = 0;
    std::unique_ptr<frontend::Netfront> before, after;
};

}  // namespace

TEST_CASE("a vif whose address another one still has is connected when that one has gone") {
    Migration m;
    CHECK(m.state() == "2");
    CHECK(m.bed.daemon.vif(0, m.domid)["ring"] == "none");
    m.before.reset();
    must(m.bed.xl.destroy_domain(m.bed.t.domid));
    m.bed.wait_node(m.after->backend_path() + "/state", "4");
    CHECK(m.bed.daemon.vif(0, m.domid)["ring"] == "connected");
    CHECK(m.error() == "");
}

TEST_CASE("a vif that waits for its address can be taken away") {
    Migration m;
    must(m.after->close());
    CHECK(m.state() == "6");
    must(m.bed.xl.detach_disk(m.domid, 0));
    CHECK(eventually([&] { return m.bed.daemon.vif(0, m.domid).is_null(); }));
    CHECK(m.bed.daemon.vif(0, m.bed.t.domid)["ring"] == "connected");
}

TEST_CASE("a vif whose address stays taken is refused after a while, with the other one's name") {
    Migration m({.switch_lines = "address_wait_seconds = 1\n"});
    REQUIRE(eventually([&] { return m.state() == "5"; }));
    CHECK_THAT(m.error(), ContainsSubstring("the address 00:16:3e:00:00:01 is in use on switch \"lan0\" " + m.holder()));
    CHECK(m.bed.daemon.vif(0, m.bed.t.domid)["ring"] == "connected");
}
