// SPDX-License-Identifier: Apache-2.0
//
// netback-worker and what a supervisor may say to it, in any order, with any descriptors, while guests use their rings: the
// whole worker, with ports that are sockets and ports of the switch, whose table is asked for.
#include <sys/mman.h>

#include <array>

#include "netback/worker/worker.h"
#include "worker_bed.h"

using namespace ringback;
using namespace ringback::fuzz;
using namespace ringback::net;

namespace {

using Bed = WorkerBed<net::worker::Worker, Channel>;
constexpr uint32_t kVifs = 3;

class Supervisor {
  public:
    Supervisor(Input& input, Bed& bed) : input_(input), bed_(bed) {
        for (UniqueFd& journal : journals_) {
            journal.reset(::memfd_create("journal", MFD_CLOEXEC));
            INVARIANT(::ftruncate(journal.get(), static_cast<off_t>(kJournalBytes)) == 0);
        }
    }
    void step() {
        switch (input_.below(9)) {
            case 0:
            case 1: connect(); break;
            case 2: {
                constexpr std::array kTypes{MessageType::disconnect, MessageType::stats, MessageType::quit, MessageType::disconnect};
                const MessageType type = kTypes[input_.below(kTypes.size())];
                (void)bed_.channel().send(about(type, input_.below(kVifs)));
                // Nothing is said to one that may be ending.
                if (type == MessageType::quit) bed_.turn(4);
                break;
            }
            case 3: {
                Message message = about(MessageType::adjust, input_.below(kVifs));
                message.body.adjust = input_.take<Adjust>();
                (void)bed_.channel().send(message);
                break;
            }
            case 4: {
                Message message = about(MessageType::table, 0);
                message.body.table = {Text<32>(input_.flag() ? "sw" : input_.text(40)), input_.below(4) == 0 ? input_.take<uint32_t>() : 0};
                (void)bed_.channel().send(message);
                break;
            }
            case 5:
            case 6:
                bed_.turn(input_.below(8) + 1);
                bed_.listen([](const Received& received) {
                    INVARIANT(received.message.version == kProtocolVersion);
                    if (received.message.type == MessageType::answer) {
                        const TablePage& page = received.message.body.answer.table;
                        INVARIANT(page.count <= page.entries.size());
                    }
                });
                break;
            case 7: put_request(); break;
            default: say_anything();
        }
    }
    void let_go() {
        for (uint32_t vif = 0; vif < kVifs; ++vif) (void)bed_.channel().send(about(MessageType::disconnect, vif));
        // What was said with other numbers.
        for (const auto& [domid, handle] : others_) {
            Message message = about(MessageType::disconnect, handle);
            message.domid = domid;
            (void)bed_.channel().send(message);
        }
        bed_.turn(20);
        bed_.listen([](const Received&) {});
    }

  private:
    static Message about(MessageType type, uint32_t handle) {
        Message message;
        message.type = type;
        message.domid = kGuest;
        message.handle = handle;
        return message;
    }
    void connect() {
        const uint32_t vif = input_.below(kVifs);
        const auto how = input_.take<uint16_t>();
        Message message = about(MessageType::connect, vif);
        message.body.connect = {};
        Connect& connect = message.body.connect;
        connect.queue_count = static_cast<uint16_t>(1 + (how & 1));
        if ((how & 2) != 0) connect.queue_count = input_.take<uint16_t>();
        connect.scatter_gather = how >> 2 & 1;
        connect.resumed = how >> 3 & 1;
        connect.multicast_control = how >> 4 & 1;
        for (uint32_t i = 0; i < 2; ++i) connect.queues[i] = {1 + vif * 4 + i * 2, 2 + vif * 4 + i * 2, 1 + vif * 4 + i, 1 + vif * 4 + i};
        if ((how & 32) != 0) connect.queues[0].tx_ring_ref = input_.byte();
        if ((how & 64) != 0) connect.queues[0].rx_port = input_.byte();
        const bool switched = (how & 128) != 0;
        if (switched) {
            connect.port.name = Text<32>((how & 256) != 0 ? "sw" : input_.text(40));
            connect.port.address = {0, 0x16, 0x3e, 0, 0, static_cast<uint8_t>(how >> 9 & 3)};
            connect.port.vlan = (how & 2048) != 0 ? input_.take<uint16_t>() : bridge::kDefaultVlan;
            connect.port.trunk_count = (how & 4096) != 0 ? input_.take<uint16_t>() : uint16_t{0};
            for (uint16_t i = 0; i < 2; ++i) connect.port.trunks[i] = static_cast<uint16_t>(i + (how >> 13 & 3));
            connect.port.given_count = (how & 0x8000) != 0 ? input_.byte() : uint8_t{0};
            connect.port.table_entries = 16;
            connect.port.ageing_s = 300;
        }
        std::array<int, 3> descriptors{journals_[vif].get(), -1, -1};
        std::array<UniqueFd, 4> ends;
        for (size_t i = 0; i < 2; ++i) {
            std::array<int, 2> pair{};
            INVARIANT(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair.data()) == 0);
            ends[i * 2].reset(pair[0]);
            ends[i * 2 + 1].reset(pair[1]);
            descriptors[i + 1] = pair[0];
        }
        const size_t honest = switched ? 1 : 1 + std::min<size_t>(connect.queue_count, 2);
        (void)bed_.channel().send(message, std::span(descriptors).first(input_.below(8) == 7 ? input_.below(4) : honest));
    }
    void say_anything() {
        if (!bed_.channel()) return;
        if (input_.below(256) == 255) {  // of another size: the end of the connection
            const std::string bytes = input_.text(64);
            (void)::send(bed_.channel().fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            return;
        }
        constexpr std::array kTypes{MessageType::connect, MessageType::disconnect, MessageType::adjust, MessageType::stats, MessageType::table};
        Message message = about(kTypes[input_.below(kTypes.size())], input_.byte());
        if (input_.below(64) == 63) message.type = static_cast<MessageType>(input_.byte());
        if (message.type == MessageType::quit) return;
        message.domid = input_.byte() & 7;
        input_.fill(std::as_writable_bytes(std::span(&message.body, 1)).first(input_.byte()));
        if (message.type == MessageType::connect) {
            // A table of any size is the administrator's word.
            message.body.connect.port.table_entries %= 64;
            others_.emplace_back(message.domid, message.handle);
        }
        const std::array<int, 3> descriptors{journals_[0].get(), journals_[1].get(), journals_[2].get()};
        (void)bed_.channel().send(message, std::span(descriptors).first(input_.below(4)));
    }
    void put_request() {
        const uint32_t ref = 1 + input_.below(8);
        auto& header = *reinterpret_cast<xen::SharedRingHeader*>(FakeXen::get().page(ref).data());
        const auto entry = input_.take<xen::netif::TxRequest>();
        std::memcpy(FakeXen::get().page(ref).data() + sizeof header + header.req_prod % 256 * sizeof entry, &entry, sizeof entry);
        ++header.req_prod;
    }

    Input& input_;
    Bed& bed_;
    std::array<UniqueFd, kVifs> journals_;
    std::vector<std::pair<xen::Domid, uint32_t>> others_;
};

const WorkerSocket& socket_of_ours() {
    static const WorkerSocket only;
    return only;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static std::unique_ptr<Bed> bed;
    FakeXen::get().reset();
    Input input(data, size);
    if (!bed) {
        bed = std::make_unique<Bed>(must(net::worker::Worker::prepare({.supervisor = socket_of_ours().path, .polling = {}})), socket_of_ours());
    }
    Supervisor supervisor(input, *bed);
    for (int steps = 0; !input.empty() && steps < 60 && !bed->ended(); ++steps) supervisor.step();
    if (!bed->end([&supervisor] { supervisor.let_go(); })) bed.reset();
    return 0;
}
