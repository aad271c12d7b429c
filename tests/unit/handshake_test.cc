// SPDX-License-Identifier: Apache-2.0
//
// The handshake as tables (rules only), and as whole walks: a simulated device carries out each action, so that what is
// checked is where a walk passes through and where it ends.
#include "blkback/handshake.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <string>
#include <vector>

using namespace ringback;
using blk::Action;
using blk::ImagePhase;
using blk::RingPhase;
using blk::View;
using S = xen::XenbusState;

namespace {

// Carries actions out at once, and keeps the states that a frontend could see.
struct Device {
    View view;
    std::vector<S> seen;
    bool open_fails = false;
    bool offer_is_bad = false;
    bool forgotten = false;
    int connects = 0;

    explicit Device(S backend = S::initialising, S frontend = S::initialising) {
        view.backend = backend;
        view.frontend = frontend;
    }

    void publish(S state) {
        view.backend = state;
        seen.push_back(state);
    }

    void settle() {
        for (int step = 0; step < 50; ++step) {
            switch (blk::next_action(view)) {
                case Action::none: return;
                case Action::open_image: view.image = open_fails ? ImagePhase::failed : ImagePhase::open; break;
                case Action::close_image: view.image = ImagePhase::closed; break;
                case Action::publish_init_wait: publish(S::init_wait); break;
                case Action::connect:
                    ++connects;
                    view.ring = offer_is_bad ? RingPhase::none : RingPhase::connected;
                    view.broken = offer_is_bad;
                    view.announced = view.renewed = false;
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
        return view.ring == RingPhase::none && view.image != ImagePhase::open && view.image != ImagePhase::opening;
    }

    static Device connected() {
        Device device;
        device.settle();
        device.script_done();
        device.frontend(S::initialised);
        device.frontend(S::connected);
        device.seen.clear();
        return device;
    }
};

using States = std::vector<S>;

}  // namespace

TEST_CASE("a Linux frontend is taken from Initialising to Connected, one state at a time") {
    Device device;
    device.settle();
    CHECK(device.seen == States{S::init_wait});
    CHECK(device.view.image == ImagePhase::open);
    device.script_done();
    CHECK(device.seen == States{S::init_wait});
    device.frontend(S::initialised);
    device.frontend(S::connected);
    CHECK(device.seen == States{S::init_wait, S::connected});
    CHECK(device.connects == 1);
}

TEST_CASE("InitWait stays until the hotplug script is through, however far the frontend is") {
    const S frontend = static_cast<S>(GENERATE(range(0, 9)));
    Device device(S::initialising, frontend);
    device.settle();
    CHECK(device.seen == States{S::init_wait});
    CHECK(device.view.ring == RingPhase::none);
    device.script_done();
    if (frontend == S::initialised || frontend == S::connected) {
        CHECK(device.view.backend == S::connected);
    }
}

TEST_CASE("no state is skipped: Connected is never written over Initialising") {
    View view;
    view.backend = S::initialising;
    view.image = ImagePhase::open;
    view.ring = RingPhase::none;
    view.script_done = true;
    view.frontend = static_cast<S>(GENERATE(range(0, 9)));
    CHECK(blk::next_action(view) == Action::publish_init_wait);
}

TEST_CASE("a stock script's disk is opened only when the script is through") {
    Device device;
    device.view.script_opens = false;
    device.settle();
    CHECK(device.seen == States{S::init_wait});
    CHECK(device.view.image == ImagePhase::closed);
    device.script_done();
    CHECK(device.view.image == ImagePhase::open);
    device.frontend(S::initialised);
    CHECK(device.view.backend == S::connected);
}

TEST_CASE("an image that cannot be opened leaves InitWait for the script to tell") {
    Device device;
    device.open_fails = true;
    device.settle();
    CHECK(device.seen == States{S::init_wait});
    device.frontend(S::initialised);
    CHECK(device.view.backend == S::init_wait);
    SECTION("the toolstack takes it away") {
        device.frontend(S::initialising);
        device.toolstack_removes();
        CHECK(device.view.backend == S::closed);
    }
    SECTION("a script that went on all the same: the guest is told, and does not hang") {
        device.script_done();
        CHECK(device.view.backend == S::closing);
        device.frontend(S::closed);
        CHECK(device.view.backend == S::closed);
        CHECK(device.holds_nothing());
    }
}

TEST_CASE("opening that takes long does not keep libxl waiting") {
    View view;
    view.backend = S::initialising;
    view.frontend = S::initialising;
    view.image = ImagePhase::opening;
    CHECK(blk::next_action(view) == Action::none);
    view.open_overdue = true;
    CHECK(blk::next_action(view) == Action::publish_init_wait);
}

TEST_CASE("resume: new rings while Connected are taken without leaving Connected") {
    Device device = Device::connected();
    device.view.renewed = true;
    device.frontend(S::initialised);
    CHECK(device.connects == 2);
    CHECK(device.view.ring == RingPhase::connected);
    CHECK(device.seen == States{S::connected});
    CHECK(device.view.image == ImagePhase::open);
}

TEST_CASE("a connected frontend that only repeats itself is left alone") {
    Device device = Device::connected();
    device.frontend(S::initialised);
    device.frontend(S::connected);
    CHECK(device.seen.empty());
    CHECK(device.connects == 1);
}

TEST_CASE("a guest that shuts down: Closing, Closed, and nothing is held") {
    Device device = Device::connected();
    device.frontend(S::closing);
    CHECK(device.seen == States{S::closing});
    CHECK(device.view.ring == RingPhase::connected);
    device.frontend(S::closed);
    CHECK(device.seen == States{S::closing, S::closed});
    CHECK(device.holds_nothing());
    device.toolstack_removes();
    device.view.present = false;
    device.settle();
    CHECK(device.forgotten);
}

TEST_CASE("each step of a close walk is answered from every state") {
    // The Windows driver and a kernel started by kexec: Closing, Closed, Initialising, Initialised, one after the other.
    Device device;
    device.settle();
    device.script_done();
    const int start = GENERATE(0, 1, 2, 3);
    if (start >= 1) device.frontend(S::initialised);
    if (start >= 2) device.frontend(S::closing);
    if (start >= 3) device.frontend(S::closed);
    for (int round = 0; round < 3; ++round) {
        device.frontend(S::closing);
        CHECK((device.view.backend == S::closing || device.view.backend == S::closed));
        device.frontend(S::closed);
        CHECK(device.view.backend == S::closed);
        CHECK(device.holds_nothing());
        device.frontend(S::initialising);
        CHECK(device.view.backend == S::init_wait);
        device.frontend(S::initialised);
        CHECK(device.view.backend == S::connected);
    }
}

TEST_CASE("a frontend quicker than we look is still taken through every state") {
    Device device = Device::connected();
    device.frontend(S::closing);
    device.seen.clear();
    device.frontend(S::initialising);  // it was Closed in between
    CHECK(device.seen == States{S::closed, S::init_wait});
    CHECK(device.view.ring == RingPhase::none);
}

TEST_CASE("the toolstack takes a device away") {
    SECTION("the frontend never came up") {
        const S frontend = GENERATE(S::unknown, S::initialising, S::closed);
        Device device(S::initialising, frontend);
        device.settle();
        device.toolstack_removes();
        CHECK(device.view.backend == S::closed);
        CHECK(device.holds_nothing());
    }
    SECTION("the script never ran") {
        Device device;
        device.settle();
        CHECK_FALSE(device.view.script_done);
        device.toolstack_removes();
        CHECK(device.view.backend == S::closed);
    }
    SECTION("the frontend is up and follows") {
        Device device = Device::connected();
        device.toolstack_removes();
        CHECK(device.view.backend == S::closing);
        CHECK(device.view.ring == RingPhase::connected);
        device.frontend(S::closing);
        CHECK(device.view.ring == RingPhase::connected);
        device.frontend(S::closed);
        CHECK(device.view.backend == S::closed);
        CHECK(device.holds_nothing());
    }
    SECTION("the frontend is up and says nothing") {
        Device device = Device::connected();
        device.toolstack_removes();
        device.view.close_overdue = true;
        device.settle();
        CHECK(device.view.backend == S::closed);
        CHECK(device.holds_nothing());
    }
    SECTION("by force: the frontend's directory is gone") {
        Device device = Device::connected();
        device.view.frontend = S::unknown;
        device.toolstack_removes();
        CHECK(device.view.backend == S::closed);
        CHECK(device.holds_nothing());
    }
    SECTION("it was closed before: the state stays what it is") {
        Device device = Device::connected();
        device.frontend(S::closing);
        device.frontend(S::closed);
        device.seen.clear();
        device.toolstack_removes();
        CHECK(device.seen.empty());
    }
    SECTION("and it does not come back") {
        Device device = Device::connected();
        device.frontend(S::closing);
        device.frontend(S::closed);
        device.toolstack_removes();
        device.frontend(S::initialising);
        CHECK(device.view.backend == S::closed);
    }
}

TEST_CASE("a frontend that closes of its own will is given its time") {
    Device device = Device::connected();
    device.frontend(S::closing);
    device.view.close_overdue = true;
    device.settle();
    CHECK(device.view.backend == S::closing);
    CHECK(device.view.ring == RingPhase::connected);
}

TEST_CASE("rings that cannot be used: closing, and a new start only from Initialising") {
    Device device;
    device.settle();
    device.script_done();
    device.offer_is_bad = true;
    device.frontend(S::initialised);
    CHECK(device.view.backend == S::closing);
    device.view.close_overdue = true;  // the frontend does not react
    device.settle();
    CHECK(device.view.backend == S::closed);
    CHECK(device.connects == 1);
    CHECK(device.holds_nothing());
}

TEST_CASE("a connection that broke is closed, with its rings") {
    Device device = Device::connected();
    device.view.broken = true;
    device.settle();
    CHECK(device.view.backend == S::closing);
    device.frontend(S::closed);
    CHECK(device.view.backend == S::closed);
    CHECK(device.holds_nothing());
}

TEST_CASE("our directory is gone: everything is let go of, then forgotten, and nothing is written") {
    const S backend = static_cast<S>(GENERATE(range(0, 9)));
    Device device = Device::connected();
    device.view.backend = backend;
    device.view.present = false;
    device.settle();
    CHECK(device.forgotten);
    CHECK(device.holds_nothing());
    CHECK(device.seen.empty());
}

TEST_CASE("what is under way is waited for, in every view there is") {
    View view;
    view.backend = static_cast<S>(GENERATE(range(0, 9)));
    view.frontend = static_cast<S>(GENERATE(range(0, 9)));
    view.image = static_cast<ImagePhase>(GENERATE(range(0, 5)));
    view.ring = static_cast<RingPhase>(GENERATE(range(0, 4)));
    for (unsigned bits = 0; bits < 512; ++bits) {
        view.present = (bits & 1) != 0;
        view.online = (bits & 2) != 0;
        view.script_opens = (bits & 4) != 0;
        view.script_done = (bits & 8) != 0;
        view.open_overdue = (bits & 16) != 0;
        view.close_overdue = (bits & 32) != 0;
        view.renewed = (bits & 64) != 0;
        view.broken = (bits & 128) != 0;
        view.announced = (bits & 256) != 0;
        const Action action = blk::next_action(view);
        const bool ring_busy = view.ring == RingPhase::connecting || view.ring == RingPhase::disconnecting;
        bool fine = true;
        switch (action) {
            case Action::connect: fine = view.ring == RingPhase::none && view.image == ImagePhase::open; break;
            case Action::disconnect: fine = view.ring == RingPhase::connected; break;
            case Action::open_image: fine = view.image == ImagePhase::closed; break;
            case Action::close_image:
                fine = view.ring == RingPhase::none &&
                       (view.image == ImagePhase::open || view.image == ImagePhase::opening);
                break;
            case Action::publish_closed:
            case Action::forget:
                fine = view.ring == RingPhase::none &&
                       (view.image == ImagePhase::closed || view.image == ImagePhase::failed);
                break;
            case Action::publish_connected:
                fine = view.ring == RingPhase::connected && (view.script_done || view.backend == S::connected);
                break;
            case Action::publish_init_wait: fine = view.backend == S::initialising || view.backend == S::closed; break;
            case Action::publish_closing: fine = view.backend != S::closing && view.backend != S::closed; break;
            case Action::none: break;
        }
        if (ring_busy) fine = fine && action != Action::connect && action != Action::publish_closed;
        if (!view.present) fine = fine && action != Action::publish_closing && action != Action::publish_init_wait;
        if (!fine) {
            FAIL(blk::to_string(action) << " with backend " << xen::to_string(view.backend) << ", frontend "
                                        << xen::to_string(view.frontend) << ", image " << blk::to_string(view.image)
                                        << ", ring " << xen::to_string(view.ring) << ", bits " << bits);
        }
    }
    SUCCEED();
}

TEST_CASE("a worker's death changes no state: the rings are taken over, also for a frontend that closes meanwhile") {
    View view;
    view.backend = S::connected;
    view.frontend = S::connected;
    view.script_done = view.announced = view.owed = true;
    view.image = ImagePhase::opening;
    CHECK(blk::next_action(view) == Action::none);
    view.image = ImagePhase::open;
    CHECK(blk::next_action(view) == Action::connect);
    view.frontend = S::closing;
    CHECK(blk::next_action(view) == Action::publish_closing);
    view.backend = S::closing;
    CHECK(blk::next_action(view) == Action::connect);
    view.ring = RingPhase::connected;
    CHECK(blk::next_action(view) == Action::none);
    // Linux closes without waiting for its answers, and removes the disk only when it has them.
    view.frontend = S::closed;
    view.owed = false;
    CHECK(blk::next_action(view) == Action::disconnect);
    view.owed = true;
    view.ring = RingPhase::none;
    view.backend = S::connected;
    view.image = ImagePhase::opening;
    CHECK(blk::next_action(view) == Action::publish_closing);
    view.backend = S::closing;
    CHECK(blk::next_action(view) == Action::none);
    view.image = ImagePhase::open;
    CHECK(blk::next_action(view) == Action::connect);
    view.ring = RingPhase::connecting;
    CHECK(blk::next_action(view) == Action::none);
    // Gone, unusable, or out of time: there is nobody to take over for.
    view.ring = RingPhase::none;
    view.broken = true;
    CHECK(blk::next_action(view) == Action::close_image);
    view.broken = false;
    view.frontend = S::unknown;
    CHECK(blk::next_action(view) == Action::close_image);
    view.frontend = GENERATE(S::closing, S::closed);
    view.online = false;
    view.close_overdue = true;
    CHECK(blk::next_action(view) == Action::close_image);
}
