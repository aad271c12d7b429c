// SPDX-License-Identifier: Apache-2.0
//
// Two guests on the built-in switch: what one sends is looked at, sent on, cut, copied from its pages into the other's, or kept
// until that one has room; with VLANs, address filters, and guests that come and go meanwhile.
#include "net_guest.h"

using namespace ringback;
using namespace ringback::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    FakeXen::get().reset();
    Input input(data, size);
    {
        NetGuest one(input, 1, 1, true);
        NetGuest other(input, 2, 9, true);
        if (input.flag()) FakeXen::get().on_copy = [&input] { change_memory(input); };
        for (int steps = 0; !input.empty() && steps < 200; ++steps) (input.flag() ? one : other).step();
        FakeXen::get().on_copy = nullptr;
        one.turn(3);
    }
    INVARIANT(FakeXen::get().mapped() == 0 && FakeXen::get().bound() == 0);
    turn_until([] { return reactor().in_flight() == 0; });
    return 0;
}
