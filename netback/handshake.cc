// SPDX-License-Identifier: Apache-2.0
#include "netback/handshake.h"

namespace ringback::net {

namespace {

using State = xen::XenbusState;

// The rings, then `last`.
Action let_go(const View& view, Action last) {
    switch (view.ring) {
        case RingPhase::connecting:
        case RingPhase::disconnecting: return Action::none;
        case RingPhase::connected: return Action::disconnect;
        case RingPhase::none: break;
    }
    return last;
}

// On its way from one to the other; its end leads to the next look.
bool changing(PortPhase port) { return port == PortPhase::opening || port == PortPhase::closing; }

// The port too, when the vif is being taken away.
Action dismantle(const View& view, Action last) {
    const bool goes = !view.online || !view.present;
    if (goes && changing(view.port)) return let_go(view, Action::none);
    return let_go(view, goes && view.port != PortPhase::none ? Action::remove_port : last);
}

// netif's frontends go straight to Connected; one that thinks it has to be Initialised first is served as well.
bool wants_rings(State frontend) { return frontend == State::initialised || frontend == State::connected; }

bool unusable(const View& view) { return view.broken || view.port == PortPhase::failed; }

Action follow_rings(const View& view) {
    if (!wants_rings(view.frontend)) return Action::none;
    if (view.port == PortPhase::none) return Action::open_port;
    if (changing(view.port)) return Action::none;
    if (view.ring == RingPhase::none) return view.address_taken ? Action::none : Action::connect;
    if (view.ring != RingPhase::connected) return Action::none;
    return view.announced ? Action::none : Action::publish_connected;
}

Action from_initialising(const View& view) {
    if (!view.online) return dismantle(view, Action::publish_closed);
    if (changing(view.port)) return Action::none;
    return view.port == PortPhase::none ? Action::open_port : Action::publish_init_wait;
}

Action from_init_wait(const View& view) {
    if (!view.online) return dismantle(view, Action::publish_closed);
    if (view.port == PortPhase::none) return Action::open_port;
    if (!view.script_done) return Action::none;
    if (unusable(view)) return Action::publish_closing;
    switch (view.frontend) {
        case State::closing: return Action::publish_closing;
        case State::closed:
        case State::unknown: return let_go(view, Action::publish_closed);
        case State::initialising:
        case State::init_wait: return let_go(view, Action::none);
        default: return follow_rings(view);
    }
}

Action from_connected(const View& view) {
    if (!view.online || unusable(view)) return Action::publish_closing;
    switch (view.frontend) {
        case State::initialising:
        case State::init_wait:
        case State::closing: return Action::publish_closing;
        case State::closed:
        case State::unknown: return let_go(view, Action::publish_closed);
        default: return follow_rings(view);
    }
}

Action from_closing(const View& view) {
    switch (view.frontend) {
        case State::initialised:
        case State::connected:
        case State::closing:
            // A frontend that closes of its own will may take the time its guest needs.
            if (view.online && view.frontend == State::closing && !unusable(view)) return Action::none;
            return view.close_overdue ? dismantle(view, Action::publish_closed) : Action::none;
        default: return dismantle(view, Action::publish_closed);
    }
}

Action from_closed(const View& view) {
    const bool comes_back = view.frontend == State::initialising;
    if (!view.online || !comes_back || unusable(view)) return dismantle(view, Action::none);
    return let_go(view, Action::publish_init_wait);
}

}  // namespace

Action next_action(const View& view) {
    if (!view.present) return dismantle(view, Action::forget);
    switch (view.backend) {
        case State::initialising: return from_initialising(view);
        case State::init_wait: return from_init_wait(view);
        case State::connected: return from_connected(view);
        case State::closing: return from_closing(view);
        case State::closed: return from_closed(view);
        case State::unknown:
        case State::initialised:
        case State::reconfiguring:
        case State::reconfigured: break;  // no vif is ever there, and we did not write it
    }
    return Action::none;
}

const char* to_string(Action action) {
    switch (action) {
        case Action::none: return "none";
        case Action::open_port: return "open port";
        case Action::remove_port: return "remove port";
        case Action::publish_init_wait: return "publish InitWait";
        case Action::connect: return "connect";
        case Action::publish_connected: return "publish Connected";
        case Action::disconnect: return "disconnect";
        case Action::publish_closing: return "publish Closing";
        case Action::publish_closed: return "publish Closed";
        case Action::forget: return "forget";
    }
    return "none";
}

const char* to_string(PortPhase phase) {
    switch (phase) {
        case PortPhase::none: return "none";
        case PortPhase::opening: return "opening";
        case PortPhase::open: return "open";
        case PortPhase::closing: return "closing";
        case PortPhase::failed: return "failed";
    }
    return "none";
}

}  // namespace ringback::net
