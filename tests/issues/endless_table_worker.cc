// SPDX-License-Identifier: Apache-2.0
//
// A switch worker that was taken over, for endless_table_test: its table has no end, each time in another way, and the last time
// it has one.
#include <poll.h>

#include <array>
#include <string_view>

#include "netback/channel.h"

using namespace ringback;
using namespace ringback::net;

namespace {

uint32_t next_cursor(unsigned asked, uint32_t cursor) {
    switch (asked) {
        case 1: return 64;                                  // the same page again and again
        case 2: return cursor + 1;                          // as slowly as can be
        case 3: return cursor + 64;                         // on and on
        case 4: return cursor < 128 ? cursor + 64 : 64;     // round and round
        default: return 0;
    }
}

}  // namespace

int main(int argc, char** argv) {
    std::string path;
    for (int i = 1; i + 1 < argc; ++i) {
        if (argv[i] == std::string_view("--supervisor")) path = argv[i + 1];
    }
    auto channel = Channel::connect(path);
    if (!channel) return 2;
    Message hello;
    hello.type = MessageType::hello;
    hello.body.hello = {kProtocolVersion, 0, 0};
    if (!channel->send(hello)) return 2;
    for (unsigned asked = 0;;) {
        pollfd readable{channel->fd(), POLLIN, 0};
        (void)::poll(&readable, 1, -1);
        auto received = channel->receive();
        if (!received) return 0;
        if (!received->has_value()) continue;
        const Message& request = (*received)->message;
        Message answer;
        answer.type = MessageType::answer;
        answer.id = request.id;
        answer.body.answer = {};
        if (request.type == MessageType::table) {
            const uint32_t cursor = request.body.table.cursor;
            if (cursor == 0) ++asked;
            answer.body.answer.table.count = 64;
            answer.body.answer.table.cursor = next_cursor(asked, cursor);
        }
        (void)channel->send(answer);
    }
}
