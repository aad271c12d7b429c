// SPDX-License-Identifier: Apache-2.0
//
// The netif rings between a guest and a network device: tx with its extras, rx, multicast lists, offloads, rates, a successor
// that takes over; one or two queues, one event channel or two. The device is a socket, whose other end looks at what it gets
// and sends anything.
#include "net_guest.h"

using namespace ringback;
using namespace ringback::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    FakeXen::get().reset();
    Input input(data, size);
    {
        NetGuest guest(input, 1, 1, false);
        if (input.flag()) FakeXen::get().on_copy = [&input] { change_memory(input); };
        for (int steps = 0; !input.empty() && steps < 200; ++steps) guest.step();
        FakeXen::get().on_copy = nullptr;
        guest.turn(3);
    }
    INVARIANT(FakeXen::get().mapped() == 0 && FakeXen::get().bound() == 0);
    turn_until([] { return reactor().in_flight() == 0; });
    return 0;
}
