// SPDX-License-Identifier: Apache-2.0
//
// A worker that keeps no rule, for supervisor_channel_test: started by blkbackd in the worker's place, it says hello and
// then what the file hostile-DOMID beside the supervisor's socket names. Without that file it becomes the real worker.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <deque>
#include <fstream>
#include <string>
#include <utility>

#include "blkback/channel.h"

using namespace ringback;
using namespace ringback::blk;

namespace {

struct Talk {
    Talk(std::string socket, uint16_t own) : path(std::move(socket)), domid(own) {
        auto connected = Channel::connect(path);
        if (!connected) _exit(2);
        channel = std::move(*connected);
    }
    void raw(const void* bytes, size_t size) const { (void)::send(channel.fd(), bytes, size, MSG_NOSIGNAL); }
    void say(MessageType type, uint64_t id = 0) {
        Message message = about(type);
        message.id = id;
        message.body.answer = {};
        (void)channel.send(message);
    }
    static Message about(MessageType type) {
        Message message;
        message.type = type;
        message.kind = Text<16>("vbd");
        message.devid = 51712;
        return message;
    }
    void hello(uint16_t as, uint32_t protocol = kProtocolVersion) {
        Message message;
        message.type = MessageType::hello;
        message.body.hello = {protocol, static_cast<uint32_t>(::getpid()), as};
        (void)channel.send(message);
    }
    // The next thing the supervisor says; its descriptors are dropped.
    Message hear() {
        Message message;
        if (::recv(channel.fd(), &message, sizeof message, 0) <= 0) _exit(0);
        return message;
    }
    [[noreturn]] void until_told_off() {
        for (;;) (void)hear();
    }

    std::string path;
    Channel channel;
    uint16_t domid;
};

void flood(Talk& talk) {
    Message message = Talk::about(MessageType::open_file);
    message.body.open_file = {};
    while (::send(talk.channel.fd(), &message, sizeof message, MSG_NOSIGNAL) > 0) {
    }
}

void give_descriptors(Talk& talk) {
    const std::array<int, 4> open = {0, 1, 2, 2};
    for (int i = 0; i < 100; ++i) {
        if (!talk.channel.send(Talk::about(MessageType::present), open)) return;
    }
}

void misbehave(Talk& talk, const std::string& how) {
    if (how == "no hello") return talk.say(MessageType::stats);
    if (how == "another guest") return talk.hello(static_cast<uint16_t>(talk.domid + 1));
    if (how == "another protocol") return talk.hello(talk.domid, kProtocolVersion + 1);
    talk.hello(talk.domid);
    if (how == "hello again") return talk.hello(talk.domid);
    const std::array<char, 2 * sizeof(Message)> bytes{};
    if (how == "nothing") return talk.raw(bytes.data(), 0);
    if (how == "a byte") return talk.raw(bytes.data(), 1);
    if (how == "truncated") {
        const Message message = Talk::about(MessageType::present);
        return talk.raw(&message, sizeof message - 1);
    }
    if (how == "oversize") {
        std::array<char, 2 * sizeof(Message)> large{};
        const Message message = Talk::about(MessageType::present);
        std::memcpy(large.data(), &message, sizeof message);
        return talk.raw(large.data(), large.size());
    }
    if (how == "another version") {
        Message message = Talk::about(MessageType::present);
        message.version = 77;
        return talk.raw(&message, sizeof message);
    }
    if (how == "unknown type") return talk.say(static_cast<MessageType>(999));
    if (how == "type zero") return talk.say(static_cast<MessageType>(0));
    if (how == "a supervisor's words") return talk.say(MessageType::attach);
    if (how == "an answer to nobody") return talk.say(MessageType::answer, 0xffffffffffffffff);
    if (how == "two answers") {
        const uint64_t id = talk.hear().id;
        talk.say(MessageType::answer, id);
        return talk.say(MessageType::answer, id);
    }
    if (how == "files without end") return flood(talk);
    if (how == "descriptors") return give_descriptors(talk);
    if (how == "texts without end") {
        Message message = Talk::about(MessageType::device_failed);
        message.kind.bytes.fill('v');
        std::memset(static_cast<void*>(&message.body), 'x', sizeof message.body);
        message.devid = 0xffffffff;
        for (int i = 0; i < 2000 && talk.channel.send(message).ok(); ++i) {
        }
        message = Talk::about(MessageType::answer);
        message.id = talk.hear().id;
        std::memset(static_cast<void*>(&message.body), 0xff, sizeof message.body);
        return talk.raw(&message, sizeof message);
    }
    if (how == "failures without end") {
        const Message message = Talk::about(MessageType::device_failed);
        for (int i = 0; i < 2000; ++i) talk.raw(&message, sizeof message);
        return;
    }
    if (how == "connections without end") {
        std::deque<Channel> many;
        for (int i = 0; i < 1000; ++i) {
            auto another = Channel::connect(talk.path);
            if (another) many.push_back(std::move(*another));
            if (many.size() > 100) many.pop_front();
        }
        talk.until_told_off();
    }
    _exit(0);  // "gone"
}

}  // namespace

int main(int argc, char** argv) {
    std::string path;
    uint16_t domid = 0;
    for (int i = 1; i + 1 < argc; ++i) {
        if (std::string(argv[i]) == "--supervisor") path = argv[i + 1];
        if (std::string(argv[i]) == "--domid") domid = static_cast<uint16_t>(std::stoi(argv[i + 1]));
    }
    std::ifstream role(path.substr(0, path.rfind('/')) + "/hostile-" + std::to_string(domid));
    std::string how;
    if (!std::getline(role, how)) {
        ::execv(RINGBACK_WORKER, argv);
        return 127;
    }
    Talk talk(path, domid);
    misbehave(talk, how);
    talk.until_told_off();
}
