// SPDX-License-Identifier: Apache-2.0
//
// The vif's handshake as whole walks: a simulated device carries out each action, so that what is checked is where a walk
// passes through and where it ends.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <algorithm>
#include <vector>

#include "netback/handshake.h"

using namespace ringback;
using net::Action;
using net::PortPhase;
using net::RingPhase;
using net::View;
using S = xen::XenbusState;

namespace {

// Carries actions out at once, and keeps the states that a frontend could see.
struct Vif {
    View view;
    std::vector<S> seen;
    bool port_fails = false;
    bool port_is_slow = false;  // opening and closing end when the test says so
    bool offer_is_bad = false;
    bool forgotten = false;
    int connects = 0;
    int ports_made = 0;

    explicit Vif(S backend = S::initialising, S frontend = S::initialising) {
        view.backend = backend;
        view.frontend = frontend;
    }
    void publish(S state) {
        view.backend = state;
        seen.push_back(state);
    }
    void settle() {
        for (int step = 0; step < 50; ++step) {
            switch (net::next_action(view)) {
                case Action::none: return;
                case Action::open_port:
                    ++ports_made;
                    view.port = port_is_slow ? PortPhase::opening : port_fails ? PortPhase::failed : PortPhase::open;
                    break;
                case Action::remove_port: view.port = port_is_slow ? PortPhase::closing : PortPhase::none; break;
                case Action::publish_init_wait: publish(S::init_wait); break;
                case Action::connect:
                    ++connects;
                    view.ring = offer_is_bad ? RingPhase::none : RingPhase::connected;
                    view.broken = offer_is_bad;
                    view.announced = false;
                    break;
                case Action::publish_connected:
                    view.announced = true;
                    publish(S::connected);
                    break;
                case Action::disconnect: view.ring = RingPhase::none; break;
                case Action::publish_closing: publish(S::closing); break;
                case Action::publish_closed: publish(S::closed); break;
                case Action::forget: forgotten = true; return;
            }
        }
        FAIL("the walk does not come to rest");
    }
    void frontend(S state) {
        view.frontend = state;
        settle();
    }
    void script_done() {
        view.script_done = true;
        settle();
    }
    void toolstack_removes() {
        view.online = false;
        if (view.backend != S::closed) view.backend = S::closing;
        settle();
    }
    [[nodiscard]] bool holds_nothing() const {
        return view.ring == RingPhase::none && view.port == PortPhase::none;
    }
    static Vif connected() {
        Vif vif;
        vif.settle();
        vif.script_done();
        vif.frontend(S::connected);
        REQUIRE(vif.view.backend == S::connected);
        vif.seen.clear();
        return vif;
    }
};

}  // namespace

TEST_CASE("vif: Linux's walk, with the port made before InitWait") {
    Vif vif;
    vif.settle();
    CHECK(vif.view.port == PortPhase::open);
    CHECK(vif.seen == std::vector{S::init_wait});
    // The frontend is up before the script is through: InitWait stays, as libxl looks for exactly that.
    vif.frontend(S::connected);
    CHECK(vif.view.backend == S::init_wait);
    CHECK(vif.connects == 0);
    vif.script_done();
    CHECK(vif.seen == std::vector{S::init_wait, S::connected});
    CHECK(vif.connects == 1);
}

TEST_CASE("vif: without a port it does not linger in Initialising either") {
    Vif vif;
    vif.port_fails = true;
    vif.settle();
    CHECK(vif.view.backend == S::init_wait);
    vif.frontend(S::connected);
    CHECK(vif.view.backend == S::init_wait);
    CHECK(vif.connects == 0);
    vif.toolstack_removes();
    vif.frontend(S::unknown);
    CHECK(vif.view.backend == S::closed);
    CHECK(vif.holds_nothing());
}

TEST_CASE("vif: a port that takes its time to open and to close is waited for") {
    Vif vif;
    vif.port_is_slow = true;
    vif.settle();
    CHECK(vif.seen.empty());
    vif.frontend(S::connected);
    CHECK(vif.seen.empty());
    vif.view.port = GENERATE(PortPhase::open, PortPhase::failed);
    const bool opened = vif.view.port == PortPhase::open;
    vif.settle();
    CHECK(vif.seen == std::vector{S::init_wait});
    if (opened) vif.script_done();
    CHECK(vif.connects == (opened ? 1 : 0));
    vif.toolstack_removes();
    vif.frontend(S::closed);
    CHECK(vif.view.port == PortPhase::closing);
    CHECK(vif.view.backend == S::closing);
    vif.view.port = PortPhase::none;
    vif.settle();
    CHECK(vif.view.backend == S::closed);
    CHECK(vif.ports_made == 1);
}

TEST_CASE("vif: taken away while its port is being opened, it goes when that is through") {
    Vif vif;
    vif.port_is_slow = true;
    vif.settle();
    if (GENERATE(false, true)) vif.view.present = false;
    vif.toolstack_removes();
    vif.frontend(S::unknown);
    CHECK(vif.view.port == PortPhase::opening);
    CHECK_FALSE(vif.forgotten);
    vif.view.port = PortPhase::open;
    vif.settle();
    CHECK(vif.view.port == PortPhase::closing);
    vif.view.port = PortPhase::none;
    vif.settle();
    CHECK((vif.forgotten || vif.view.backend == S::closed));
}

TEST_CASE("vif: the Windows frontend's start, from whatever it finds") {
    Vif vif = Vif::connected();
    // It waits for each state; nothing but these may be seen.
    vif.frontend(S::closing);
    CHECK(vif.view.backend == S::closing);
    vif.frontend(S::closed);
    CHECK(vif.view.backend == S::closed);
    CHECK(vif.view.ring == RingPhase::none);
    CHECK(vif.view.port == PortPhase::open);  // it stays in its bridge
    vif.frontend(S::initialising);
    CHECK(vif.view.backend == S::init_wait);
    vif.frontend(S::connected);
    CHECK(vif.view.backend == S::connected);
    CHECK(vif.seen == std::vector{S::closing, S::closed, S::init_wait, S::connected});
    CHECK(vif.ports_made == 1);
    CHECK(vif.connects == 2);
}

TEST_CASE("vif: closed before it was ever connected, and back") {
    Vif vif;
    vif.settle();
    vif.script_done();
    vif.frontend(S::closing);
    CHECK(vif.view.backend == S::closing);
    vif.frontend(S::closed);
    CHECK(vif.view.backend == S::closed);
    vif.frontend(S::initialising);
    vif.frontend(S::connected);
    CHECK(vif.view.backend == S::connected);
}

TEST_CASE("vif: a frontend that starts anew without a word is walked through all states") {
    Vif vif = Vif::connected();
    vif.frontend(S::initialising);
    CHECK(vif.seen == std::vector{S::closing, S::closed, S::init_wait});
    CHECK(vif.view.ring == RingPhase::none);
    vif.frontend(S::connected);
    CHECK(vif.view.backend == S::connected);
    CHECK(vif.connects == 2);
}

TEST_CASE("vif: detach with a frontend that follows") {
    Vif vif = Vif::connected();
    vif.toolstack_removes();
    CHECK(vif.view.backend == S::closing);  // the frontend is given time
    vif.frontend(S::closing);
    vif.frontend(S::closed);
    CHECK(vif.view.backend == S::closed);
    CHECK(vif.holds_nothing());
    vif.view.present = false;
    vif.settle();
    CHECK(vif.forgotten);
}

TEST_CASE("vif: detach with a frontend that does not") {
    Vif vif = Vif::connected();
    vif.toolstack_removes();
    CHECK(vif.view.backend == S::closing);
    vif.view.close_overdue = true;
    vif.settle();
    CHECK(vif.view.backend == S::closed);
    CHECK(vif.holds_nothing());
}

TEST_CASE("vif: destroyed, with the frontend's directory gone first") {
    Vif vif = Vif::connected();
    vif.view.frontend = S::unknown;
    vif.toolstack_removes();
    CHECK(vif.view.backend == S::closed);
    CHECK(vif.holds_nothing());
}

TEST_CASE("vif: a directory that vanishes takes everything with it") {
    Vif vif = Vif::connected();
    vif.view.present = false;
    vif.view.backend = vif.view.frontend = S::unknown;
    vif.settle();
    CHECK(vif.forgotten);
    CHECK(vif.holds_nothing());
}

TEST_CASE("vif: a bad offer closes the vif, and a new start of the frontend opens it again") {
    Vif vif;
    vif.offer_is_bad = true;
    vif.settle();
    vif.script_done();
    vif.frontend(S::connected);
    CHECK(vif.view.backend == S::closing);
    CHECK(vif.connects == 1);
    vif.frontend(S::closed);
    CHECK(vif.view.backend == S::closed);
    vif.offer_is_bad = vif.view.broken = false;  // as the device does at a new start
    vif.frontend(S::initialising);
    vif.frontend(S::connected);
    CHECK(vif.view.backend == S::connected);
}

TEST_CASE("vif: a worker that died is replaced with both sides Connected throughout") {
    Vif vif = Vif::connected();
    vif.view.ring = RingPhase::none;
    CHECK(net::next_action(vif.view) == Action::connect);
    vif.view.ring = RingPhase::connected;  // announced still: nothing to publish
    CHECK(net::next_action(vif.view) == Action::none);
    CHECK(vif.seen.empty());
}

TEST_CASE("vif: whose address is taken waits in InitWait, and can go meanwhile") {
    Vif vif;
    vif.view.address_taken = true;
    vif.settle();
    vif.script_done();
    vif.frontend(S::connected);
    CHECK(vif.connects == 0);
    CHECK(vif.view.backend == S::init_wait);
    SECTION("it is free") {
        vif.view.address_taken = false;
        vif.settle();
        CHECK(vif.connects == 1);
        CHECK(vif.view.backend == S::connected);
    }
    SECTION("the vif is taken away") {
        vif.toolstack_removes();
        vif.frontend(S::closing);
        vif.frontend(S::closed);
        CHECK(vif.view.backend == S::closed);
        CHECK(vif.holds_nothing());
    }
}

TEST_CASE("vif: a supervisor without worker and port takes up a connected vif") {
    Vif vif(S::connected, S::connected);
    vif.view.script_done = vif.view.announced = true;
    CHECK(net::next_action(vif.view) == Action::open_port);
    vif.view.port = PortPhase::open;
    CHECK(net::next_action(vif.view) == Action::connect);
}

TEST_CASE("vif: whatever is seen, it comes to rest, and shows neither Initialised nor Initialising") {
    const auto backend = static_cast<S>(GENERATE(range(0, 9)));
    const auto frontend = static_cast<S>(GENERATE(range(0, 9)));
    const int bits = GENERATE(range(0, 128));
    Vif vif(backend, frontend);
    vif.view.online = (bits & 1) != 0;
    vif.view.script_done = (bits & 2) != 0;
    vif.view.close_overdue = (bits & 4) != 0;
    vif.view.broken = (bits & 8) != 0;
    vif.view.present = (bits & 16) != 0;
    if ((bits & 32) != 0) {
        vif.view.port = PortPhase::open;
        vif.view.ring = RingPhase::connected;
    }
    vif.view.address_taken = (bits & 64) != 0;
    vif.settle();
    CHECK(std::none_of(vif.seen.begin(), vif.seen.end(),
                       [](S state) { return state == S::initialised || state == S::initialising; }));
    if (vif.view.present) CHECK(vif.view.backend != S::initialising);
    if (vif.view.backend == S::closed && !vif.view.online) CHECK(vif.holds_nothing());
}
