// SPDX-License-Identifier: Apache-2.0
//
// The driver's side of vhost-user against a device made here: the rings of a queue pair, and how a device is handed them. Open
// vSwitch's own device is tried in tests/embedded (ovs_namespaces).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <random>
#include <vector>

#include "bridge/vhost/queue_pair.h"
#include "bridge/vhost/server.h"

using namespace ringback;
using namespace ringback::bridge;
using namespace ringback::bridge::vhost;

namespace {

using Bytes = std::vector<std::byte>;

Bytes pattern(size_t size, size_t seed) {
    Bytes bytes(size);
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + seed);
    return bytes;
}

// What a device does on the other side of the same memory, as virtio 1.2 has it: it finds buffers by descriptors alone.
struct Device {
    explicit Device(const RingMemory& shared) : memory(shared), rings(shared.pair(0)) {}

    std::byte* at(uint64_t address) const {
        return reinterpret_cast<std::byte*>(&memory.pair(0)) + (address - RingMemory::kBase);
    }
    // Takes the next packet, header and all, and gives its buffers back; empty: there is none.
    Bytes take() {
        Ring& ring = rings.to_device;
        if (taken == ring.available.index) return {};
        Bytes packet;
        const uint16_t head = ring.available.ring[taken % kSlots];
        for (uint16_t i = head;; i = ring.descriptors[i].next) {
            const Descriptor& part = ring.descriptors[i];
            packet.insert(packet.end(), at(part.address), at(part.address) + part.length);
            if ((part.flags & kChained) == 0) break;
        }
        ring.used.ring[taken % kSlots] = {head, 0};
        ++taken;
        return packet;
    }
    void give_back() { rings.to_device.used.index = taken; }
    // False: the driver has not offered so many buffers.
    bool put(const VnetHeader& header, const Bytes& frame) {
        Ring& ring = rings.to_driver;
        const size_t size = 12 + frame.size();
        const auto slots = static_cast<uint16_t>((size + kBufferBytes - 1) / kBufferBytes);
        if (static_cast<uint16_t>(ring.available.index - put_) < slots) return false;
        Bytes whole(12);
        std::memcpy(whole.data(), &header, sizeof header);
        std::memcpy(whole.data() + 10, &slots, sizeof slots);
        whole.insert(whole.end(), frame.begin(), frame.end());
        for (size_t done = 0; done < whole.size(); ++put_) {
            const uint16_t id = ring.available.ring[put_ % kSlots];
            const size_t some = std::min<size_t>(whole.size() - done, ring.descriptors[id].length);
            std::memcpy(at(ring.descriptors[id].address), whole.data() + done, some);
            ring.used.ring[put_ % kSlots] = {id, static_cast<uint32_t>(some)};
            done += some;
        }
        ring.used.index = put_;
        return true;
    }
    const RingMemory& memory;
    RingPair& rings;
    uint16_t taken = 0;
    uint16_t put_ = 0;
};

bool send(QueuePair& queue, const Bytes& frame, const VnetHeader& header = {}) {
    const std::span<const std::byte> whole(frame);
    const std::array<std::span<const std::byte>, 2> parts{whole.first(frame.size() / 3), whole.subspan(frame.size() / 3)};
    return queue.send(header, parts);
}

Bytes receive(QueuePair& queue) {
    Bytes to(70000);
    to.resize(queue.receive(to));
    return to;
}

Bytes frame_of(const Bytes& packet, size_t header) { return {packet.begin() + static_cast<std::ptrdiff_t>(header), packet.end()}; }

}  // namespace

TEST_CASE("vhost: packets of every size cross in both directions, whole and with their headers") {
    const RingMemory memory = RingMemory::create(1).value();
    QueuePair queue(memory.pair(0));
    Device device(memory);
    const VnetHeader header{.flags = kVnetNeedsCsum, .gso_type = kVnetGsoTcp4, .header_length = 54, .gso_size = 1448, .csum_start = 34,
                            .csum_offset = 16};
    size_t seed = 0;
    for (const size_t size : {size_t{14}, size_t{60}, size_t{1514}, size_t{2035}, size_t{2036}, size_t{2037}, size_t{4084}, size_t{9014},
                              size_t{65553}}) {
        for (int again = 0; again < 20; ++again) {
            const Bytes frame = pattern(size, ++seed);
            REQUIRE(send(queue, frame, header));
            const Bytes out = device.take();
            device.give_back();
            REQUIRE(out.size() == size + 12);
            REQUIRE(std::memcmp(out.data(), &header, sizeof header) == 0);
            REQUIRE(frame_of(out, 12) == frame);
            REQUIRE(device.put(header, frame));
            const Bytes in = receive(queue);
            REQUIRE(std::memcmp(in.data(), &header, sizeof header) == 0);
            REQUIRE(frame_of(in, sizeof header) == frame);
            REQUIRE(queue.receive({}) == 0);
        }
    }
    CHECK_FALSE(queue.broken());
}

TEST_CASE("vhost: a device that takes nothing fills the ring and no more; one that gives back frees it") {
    const RingMemory memory = RingMemory::create(1).value();
    QueuePair queue(memory.pair(0));
    Device device(memory);
    size_t sent = 0;
    while (sent < 1000 && send(queue, pattern(5000, sent))) ++sent;  // three slots each
    CHECK(sent == kSlots / 3);
    CHECK_FALSE(send(queue, pattern(5000, 0)));
    for (size_t i = 0; i < sent; ++i) REQUIRE(frame_of(device.take(), 12) == pattern(5000, i));
    CHECK_FALSE(send(queue, pattern(5000, 0)));
    device.give_back();
    CHECK(send(queue, pattern(5000, 7)));
    CHECK(frame_of(device.take(), 12) == pattern(5000, 7));
}

TEST_CASE("vhost: a successor finds what was under way in both directions, at any moment") {
    const RingMemory memory = RingMemory::create(1).value();
    auto queue = std::make_unique<QueuePair>(memory.pair(0));
    Device device(memory);
    std::mt19937 random(7);
    std::vector<Bytes> to_device, to_driver;
    size_t out = 0, in = 0;
    for (size_t step = 0; step < 20000; ++step) {
        const size_t size = 14 + random() % (random() % 8 == 0 ? 60000 : 3000);
        switch (random() % 6) {
            case 0: queue = std::make_unique<QueuePair>(memory.pair(0)); break;
            case 1:
                if (send(*queue, pattern(size, step))) to_device.push_back(pattern(size, step));
                break;
            case 2:
                if (const Bytes got = device.take(); !got.empty()) {
                    REQUIRE(out < to_device.size());
                    REQUIRE(frame_of(got, 12) == to_device[out++]);
                }
                break;
            case 3: device.give_back(); break;
            case 4:
                if (device.put({}, pattern(size, step))) to_driver.push_back(pattern(size, step));
                break;
            default:
                if (const Bytes got = receive(*queue); !got.empty()) {
                    REQUIRE(in < to_driver.size());
                    REQUIRE(frame_of(got, 10) == to_driver[in++]);
                }
        }
        REQUIRE_FALSE(queue->broken());
        if (to_device.size() > 500) to_device.erase(to_device.begin(), to_device.begin() + static_cast<std::ptrdiff_t>(out)), out = 0;
        if (to_driver.size() > 500) to_driver.erase(to_driver.begin(), to_driver.begin() + static_cast<std::ptrdiff_t>(in)), in = 0;
    }
}

TEST_CASE("vhost: the device is asked to notify when there is nothing, and only then") {
    const RingMemory memory = RingMemory::create(1).value();
    QueuePair queue(memory.pair(0));
    Device device(memory);
    REQUIRE(device.put({}, pattern(100, 1)));
    CHECK(queue.has_packets());
    CHECK(receive(queue).size() == 110);
    CHECK(queue.receive({}) == 0);
    CHECK(memory.pair(0).to_driver.available.flags == 0);
    REQUIRE(device.put({}, pattern(100, 2)));
    CHECK(receive(queue).size() == 110);
    CHECK(memory.pair(0).to_driver.available.flags == kNoInterrupt);
}

TEST_CASE("vhost: a packet larger than the caller's memory is told by its size and is gone") {
    const RingMemory memory = RingMemory::create(1).value();
    QueuePair queue(memory.pair(0));
    Device device(memory);
    REQUIRE(device.put({}, pattern(5000, 1)));
    REQUIRE(device.put({}, pattern(50, 2)));
    Bytes small(100);
    CHECK(queue.receive(small) == 5010);
    CHECK(receive(queue).size() == 60);
}

TEST_CASE("vhost: a device that writes nonsense breaks its rings and nothing else") {
    const RingMemory memory = RingMemory::create(1).value();
    QueuePair queue(memory.pair(0));
    Device device(memory);
    REQUIRE(device.put({}, pattern(5000, 1)));
    RingPair& rings = memory.pair(0);
    const int what = GENERATE(0, 1, 2, 3, 4, 5, 6, 7);
    const auto set_slots = [&](uint16_t slots) { std::memcpy(rings.to_driver.buffers[0].data() + 10, &slots, sizeof slots); };
    bool by_sending = false;
    switch (what) {
        case 0: set_slots(0); break;
        case 1: set_slots(4); break;
        case 2: set_slots(65535); break;
        case 3: rings.to_driver.used.ring[1].id = 9; break;
        case 4: rings.to_driver.used.ring[2].length = 2049; break;
        case 5: rings.to_driver.used.ring[0].length = 11; break;
        case 6: rings.to_driver.used.index = 300; break;
        default:
            by_sending = true;
            rings.to_device.used.index = 1;
            for (int i = 0; i < 300; ++i) (void)send(queue, pattern(5000, 1));
            break;
    }
    if (by_sending) {
        rings.to_device.used.index = 1000;
        for (int i = 0; i < 300; ++i) (void)send(queue, pattern(5000, 1));
    } else {
        CHECK(receive(queue).empty());
    }
    CHECK(queue.broken());
    CHECK(queue.receive({}) == 0);
    CHECK_FALSE(queue.has_packets());
    CHECK_FALSE(send(queue, pattern(100, 1)));
}

TEST_CASE("vhost: a successor does not believe what it finds") {
    const RingMemory memory = RingMemory::create(1).value();
    RingPair& rings = memory.pair(0);
    const int what = GENERATE(0, 1, 2);
    {
        QueuePair queue(memory.pair(0));
        REQUIRE(send(queue, pattern(5000, 1)));
        REQUIRE(send(queue, pattern(5000, 1)));
    }
    if (what == 0) rings.to_device.used.index = 40000;
    if (what == 1) rings.to_device.available.ring[0] = 60000;
    if (what == 2) {
        for (Descriptor& one : rings.to_device.descriptors) one.flags = kChained;
    }
    QueuePair next(memory.pair(0));
    for (int i = 0; i < 600; ++i) (void)send(next, pattern(5000, 1));
    if (what != 1) CHECK(next.broken());
}

TEST_CASE("vhost: memory that could be made shorter, or is of another size, is not mapped") {
    const RingMemory memory = RingMemory::create(2).value();
    CHECK(RingMemory::map(UniqueFd(::dup(memory.fd())), 2).ok());
    CHECK_FALSE(RingMemory::map(UniqueFd(::dup(memory.fd())), 1).ok());
    CHECK(::ftruncate(memory.fd(), 4096) != 0);
    UniqueFd loose(::memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    REQUIRE(::ftruncate(loose.get(), static_cast<off_t>(memory.bytes())) == 0);
    CHECK_FALSE(RingMemory::map(std::move(loose), 2).ok());
}

namespace {

// Open vSwitch's end of the connection.
struct Client {
    explicit Client(const std::string& path) : socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof address.sun_path - 1);
        REQUIRE(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    }
    struct Message {
        uint32_t request = 0, flags = 0, size = 0;
        uint32_t words[16] = {};
        int descriptor = -1;
    };
    // The next message, if one is there.
    std::optional<Message> next() {
        Message message;
        iovec vector{&message, 12};
        alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int))]{};
        msghdr header{};
        header.msg_iov = &vector;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        if (::recvmsg(socket.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 12) return std::nullopt;
        if (const cmsghdr* rights = CMSG_FIRSTHDR(&header)) std::memcpy(&message.descriptor, CMSG_DATA(rights), sizeof(int));
        REQUIRE(message.size <= sizeof message.words);
        if (message.size != 0) REQUIRE(::recv(socket.get(), message.words, message.size, MSG_DONTWAIT) == message.size);
        CHECK((message.flags & 3) == 1);
        return message;
    }
    void answer(uint32_t request, uint64_t value) const {
        struct __attribute__((packed)) {
            uint32_t request, flags, size;
            uint64_t value;
        } reply{request, 5, 8, value};
        (void)!::send(socket.get(), &reply, sizeof reply, MSG_NOSIGNAL);  // the server may have gone: then the test sees it
    }
    UniqueFd socket;
};

constexpr uint64_t kEverything = ~uint64_t{0};

// A server, and devices that answer what they are asked; all in one loop, which is run once.
struct Bed {
    Bed() : loop(EventLoop::create().value()), path("/tmp/ringback-vhost-test-" + std::to_string(::getpid())) {
        server = Server::listen(loop, path,
                                {.up = [this](const Abilities& can) { ups.push_back(can); },
                                 .down = [this] { ++downs; },
                                 .bad = [this](const std::string& why) { bads.push_back(why); }})
                     .value();
    }
    ~Bed() { hang_up(); }
    void call() {
        client.emplace(path);
        REQUIRE(loop.watch(client->socket.get(), EPOLLIN, [this](uint32_t) {
            while (client) {
                const auto message = client->next();
                if (!message) return hang_up();
                got.push_back(*message);
                if (message->request == 1) client->answer(1, features);
                if (message->request == 15) client->answer(15, protocol);
                char more = 0;
                if (::recv(client->socket.get(), &more, 1, MSG_DONTWAIT | MSG_PEEK) != 1) return;
            }
        }).ok());
    }
    void hang_up() {
        if (client) loop.forget(client->socket.get());
        client.reset();
    }
    // Each step is tried until it says that it is done; then comes the next.
    void run(std::vector<std::function<bool()>> steps) {
        size_t at = 0;
        loop.after(std::chrono::seconds(20), [this] { loop.stop(); });
        loop.run([&] {
            while (at < steps.size() && steps[at]()) ++at;
            if (at == steps.size()) loop.stop();
        });
        INFO("step " << at);
        REQUIRE(at == steps.size());
    }
    [[nodiscard]] size_t count(uint32_t request) const {
        return static_cast<size_t>(std::count_if(got.begin(), got.end(), [=](const auto& one) { return one.request == request; }));
    }
    EventLoop loop;
    std::string path;
    std::vector<Abilities> ups;
    int downs = 0;
    std::vector<std::string> bads;
    std::unique_ptr<Server> server;
    std::optional<Client> client;
    std::vector<Client::Message> got;
    uint64_t features = kEverything;
    uint64_t protocol = kEverything;
};

uint64_t number(const Client::Message& message, size_t word) {
    uint64_t value = 0;
    std::memcpy(&value, message.words + word, sizeof value);
    return value;
}

}  // namespace

TEST_CASE("vhost: a device is told of the rings when they are there, and again when it comes again") {
    Bed bed;
    const RingMemory memory = RingMemory::create(2).value();
    const UniqueFd event(::memfd_create("event", MFD_CLOEXEC));
    size_t steps = 0;
    bed.run({
        [&] { return bed.call(), true; },
        // Connected, and nobody has spoken to it.
        [&] { return ++steps > 5 || (bed.loop.after(std::chrono::milliseconds(2), [] {}), false); },
        [&] {
            CHECK(bed.got.empty());
            bed.server->start(memory, {event.get(), event.get()}, {.checksum = true, .tcp4 = true});
            return true;
        },
        [&] { return bed.ups.size() == 1; },
        [&] {
            CHECK(bed.count(18) == 4);
            memory.pair(1).to_device.used.index = 77;
            bed.got.clear();
            bed.hang_up();
            return true;
        },
        [&] { return bed.downs == 1; },
        [&] { return bed.features &= ~uint64_t{1}, bed.call(), true; },  // takes no blank checksum now
        [&] { return bed.ups.size() == 2; },
    });
    CHECK(bed.ups[0] == Abilities{true, true, true});
    CHECK(bed.ups[1] == Abilities{});
    CHECK(bed.server->connection() >= 0);
    for (const auto& message : bed.got) {
        // Merged buffers, in order, many queues, version 1; what the guest takes; nothing else.
        if (message.request == 2) CHECK(number(message, 0) == ((1ULL << 15) | (1ULL << 22) | (1ULL << 30) | (1ULL << 32) | (1ULL << 35) | (1ULL << 1) | (1ULL << 7)));
        if (message.request == 5) {
            REQUIRE(message.descriptor >= 0);
            CHECK(message.words[0] == 1);
            CHECK(number(message, 4) == memory.bytes());
            CHECK(RingMemory::map(UniqueFd(message.descriptor), 2).ok());
        }
        if (message.request == 10 && message.words[0] == 3) CHECK(message.words[1] == 77);
        if (message.request == 9 && message.words[0] == 2) {
            CHECK(number(message, 2) == RingMemory::address_of(1, offsetof(RingPair, to_driver) + offsetof(Ring, descriptors)));
            CHECK(number(message, 4) == RingMemory::address_of(1, offsetof(RingPair, to_driver) + offsetof(Ring, used)));
            CHECK(number(message, 6) == RingMemory::address_of(1, offsetof(RingPair, to_driver) + offsetof(Ring, available)));
        }
    }
    CHECK(bed.count(9) == 4);
}

TEST_CASE("vhost: a device that cannot be used is refused by name, and the next one is tried") {
    Bed bed;
    const RingMemory memory = RingMemory::create(2).value();
    const UniqueFd event(::memfd_create("event", MFD_CLOEXEC));
    const int what = GENERATE(0, 1, 2);
    if (what == 0) bed.features = uint64_t{1} << 30;
    if (what == 1) bed.protocol = 0;
    bed.server->start(memory, {event.get(), event.get()}, {});
    bed.run({
        [&] { return bed.call(), true; },
        [&] {
            if (what == 2 && bed.client && bed.got.size() == 1) bed.client->answer(7, 0);
            return bed.bads.size() == 1;
        },
        [&] { return !bed.client; },
        [&] {
            bed.features = bed.protocol = kEverything;
            bed.call();
            return true;
        },
        [&] { return bed.ups.size() == 1; },
    });
    CHECK(bed.downs == 0);
    CHECK(bed.bads[0].find(bed.path) != std::string::npos);
}

TEST_CASE("vhost: a connection is handed on, and the device does not notice") {
    Bed bed;
    const RingMemory memory = RingMemory::create(1).value();
    const UniqueFd event(::memfd_create("event", MFD_CLOEXEC));
    bed.server->start(memory, {event.get()}, {});
    bed.run({
        [&] { return bed.call(), true; },
        [&] { return bed.ups.size() == 1; },
        [&] {
            UniqueFd kept(::dup(bed.server->connection()));
            bed.server.reset();
            bed.got.clear();
            bed.server = Server::listen(bed.loop, bed.path,
                                        {.up = [&](const Abilities& can) { bed.ups.push_back(can); },
                                         .down = [&] { ++bed.downs; },
                                         .bad = [&](const std::string& why) { bed.bads.push_back(why); }})
                             .value();
            bed.server->start(memory, {event.get()}, {});
            bed.server->adopt(std::move(kept), {.checksum = true});
            return true;
        },
        [&] { return bed.ups.size() == 2; },
        [&] { return bed.client && bed.got.empty(); },
        [&] { return bed.hang_up(), true; },
        [&] { return bed.downs == 1; },
    });
    CHECK(bed.ups[1] == Abilities{.checksum = true});
    bed.server.reset();
    CHECK(::access(bed.path.c_str(), F_OK) != 0);
}
