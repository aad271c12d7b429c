// SPDX-License-Identifier: Apache-2.0
#include "blkback/handshake.h"

namespace ringback::blk {

namespace {

using State = xen::XenbusState;

// The rings first, then the image, then `last`.
Action dismantle(const View& view, Action last) {
    switch (view.ring) {
        case RingPhase::connecting:
        case RingPhase::disconnecting: return Action::none;
        case RingPhase::connected: return Action::disconnect;
        case RingPhase::none: break;
    }
    switch (view.image) {
        case ImagePhase::opening:
        case ImagePhase::open: return Action::close_image;
        case ImagePhase::closing: return Action::none;
        case ImagePhase::closed:
        case ImagePhase::failed: break;
    }
    return last;
}

bool wants_rings(State frontend) { return frontend == State::initialised || frontend == State::connected; }

bool unusable(const View& view) { return view.broken || view.image == ImagePhase::failed; }

// A frontend that has closed still waits for what a dead worker owes it; not for ever.
bool waits_for_answers(const View& view) {
    return view.owed && !unusable(view) && !view.close_overdue && view.frontend == State::closed;
}

// Rings towards the frontend's wish; Action::none when they are as they should be or something is under way.
Action follow_rings(const View& view) {
    if (!wants_rings(view.frontend)) return Action::none;
    switch (view.image) {
        case ImagePhase::closed: return Action::open_image;
        case ImagePhase::open: break;
        default: return Action::none;
    }
    if (view.ring == RingPhase::none) return Action::connect;
    if (view.ring != RingPhase::connected) return Action::none;
    if (view.renewed) return Action::disconnect;
    return view.announced ? Action::none : Action::publish_connected;
}

Action from_initialising(const View& view) {
    if (!view.online) return dismantle(view, Action::publish_closed);
    if (!view.script_opens) return Action::publish_init_wait;
    if (view.image == ImagePhase::closed) return Action::open_image;
    if (view.image == ImagePhase::opening && !view.open_overdue) return Action::none;
    return view.image == ImagePhase::closing ? Action::none : Action::publish_init_wait;
}

Action from_init_wait(const View& view) {
    if (!view.online) return dismantle(view, Action::publish_closed);
    if (!view.script_done) {
        return view.script_opens && view.image == ImagePhase::closed ? Action::open_image : Action::none;
    }
    if (unusable(view)) return Action::publish_closing;
    switch (view.frontend) {
        case State::closing: return Action::publish_closing;
        case State::closed:
        case State::unknown: return dismantle(view, Action::publish_closed);
        default: break;
    }
    if (view.image == ImagePhase::closed) return Action::open_image;
    if (!wants_rings(view.frontend) && view.ring == RingPhase::connected) return Action::disconnect;
    return follow_rings(view);
}

Action from_connected(const View& view) {
    if (!view.online || unusable(view)) return Action::publish_closing;
    switch (view.frontend) {
        case State::closing: return Action::publish_closing;
        case State::closed:
        case State::unknown:
            return waits_for_answers(view) ? Action::publish_closing : dismantle(view, Action::publish_closed);
        default: return follow_rings(view);
    }
}

Action from_closing(const View& view) {
    switch (view.frontend) {
        case State::init_wait:
        case State::initialised:
        case State::connected:
        case State::closing:
            // It closes when it has its answers.
            if (view.owed && !unusable(view) && !view.close_overdue && view.image == ImagePhase::open &&
                view.ring == RingPhase::none && view.frontend != State::init_wait) {
                return Action::connect;
            }
            // A frontend that closes of its own will may take the time its guest needs.
            if (view.online && view.frontend == State::closing && !unusable(view)) return Action::none;
            return view.close_overdue ? dismantle(view, Action::publish_closed) : Action::none;
        default: break;
    }
    if (!waits_for_answers(view)) return dismantle(view, Action::publish_closed);
    return view.image == ImagePhase::open && view.ring == RingPhase::none ? Action::connect : Action::none;
}

Action from_closed(const View& view) {
    const bool comes_back = view.frontend == State::initialising || view.frontend == State::initialised;
    if (!view.online || !comes_back || unusable(view)) return dismantle(view, Action::none);
    if (view.ring != RingPhase::none) return dismantle(view, Action::none);
    switch (view.image) {
        case ImagePhase::closed: return Action::open_image;
        case ImagePhase::open: return Action::publish_init_wait;
        default: return Action::none;
    }
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
        case State::reconfigured: break;  // no backend of this kind is ever there, and we did not write it
    }
    return Action::none;
}

const char* to_string(Action action) {
    switch (action) {
        case Action::none: return "none";
        case Action::open_image: return "open image";
        case Action::close_image: return "close image";
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

const char* to_string(ImagePhase phase) {
    switch (phase) {
        case ImagePhase::closed: return "closed";
        case ImagePhase::opening: return "opening";
        case ImagePhase::open: return "open";
        case ImagePhase::failed: return "failed";
        case ImagePhase::closing: return "closing";
    }
    return "closed";
}

}  // namespace ringback::blk
