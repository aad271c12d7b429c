// SPDX-License-Identifier: Apache-2.0
//
// netbackd between all who talk to it: the toolstack and guests in the store, the switch worker on its socket (its tables
// too), anybody on the control socket. The supervisor is the product's own, whole; the store, time and processes are not
// (fake_store.h). It lives in a network namespace of its own, as it looks through all network devices for what is left over.
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>

#include "control_client.h"
#include "netback/supervisor.h"
#include "xenbus_guest.h"

using namespace ringback;
using namespace ringback::fuzz;
using namespace ringback::net;

namespace {

constexpr const char* kDevices[] = {"0", "1"};
constexpr const char* kKeys[] = {"state", "tx-ring-ref", "rx-ring-ref", "event-channel", "event-channel-tx", "event-channel-rx",
                                 "request-rx-copy", "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6", "feature-no-csum-offload",
                                 "feature-ipv6-csum-offload", "feature-rx-notify", "request-multicast-control",
                                 "multi-queue-num-queues", "queue-0/tx-ring-ref", "queue-0/rx-ring-ref", "queue-0/event-channel",
                                 "queue-1/tx-ring-ref", "queue-1/rx-ring-ref", "queue-1/event-channel-tx"};
constexpr std::pair<const char*, const char*> kOffer[] = {{"tx-ring-ref", "8"}, {"rx-ring-ref", "9"}, {"event-channel", "3"},
                                                          {"request-rx-copy", "1"}, {"feature-sg", "1"}, {"feature-rx-notify", "1"}};
constexpr XenbusGuest::Form kForm{"vif", kDevices, kKeys, kOffer, "4"};

struct House {
    std::string directory = "/dev/shm/ringback-fuzz-XXXXXX";
    Config config;
    EventLoop loop = must(EventLoop::create());
    std::unique_ptr<Supervisor> supervisor;

    House() {
        INVARIANT(::unshare(CLONE_NEWNET) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0);
        INVARIANT(::mkdtemp(directory.data()) != nullptr);
        config.runtime_directory = directory + "/run";
        config.worker_start = WorkerStart::fork;
        config.worker_program = "/proc/self/exe";
        config.control_group = "";
        config.max_queues = 2;
        config.switch_names = "sw";
        FakeStore::get().write("/local/domain/0/backend/vif", "");
        FakeStore::get().write("/local/domain/7/name", "guest");
        supervisor = must(Supervisor::start(loop, config));
    }
    ~House() { std::filesystem::remove_all(directory); }
    void turn() {
        supervisor->work();
        loop.turn(false);
    }
};

House& house() {
    static House only;
    return only;
}

// The switch worker, which is honest while it does not say otherwise.
class Worker {
  public:
    explicit Worker(Input& input) : input_(input) {}

    void come(uint32_t vifs) {
        auto connected = Channel::connect(house().config.worker_socket());
        if (!connected) return;
        channel_ = std::move(connected).value();
        Message hello;
        hello.type = MessageType::hello;
        hello.body.hello = {kProtocolVersion, static_cast<uint32_t>(::getpid()), vifs};
        (void)channel_.send(hello);
    }
    void come_otherwise() {
        auto connected = Channel::connect(house().config.worker_socket());
        if (!connected) return;
        Channel other = std::move(connected).value();
        Message hello;
        hello.type = static_cast<MessageType>(input_.below(4));
        hello.body.hello = {kProtocolVersion + input_.below(2), input_.take<uint32_t>(), input_.take<uint32_t>()};
        (void)other.send(hello);
        if (input_.flag()) channel_ = std::move(other);
    }
    void go() { channel_ = Channel(); }
    void listen(bool errors) {
        while (channel_) {
            auto received = channel_.receive();
            if (!received) return go();
            if (!received->has_value()) return;
            const Message& asked = (*received)->message;
            INVARIANT(asked.version == kProtocolVersion);
            if (asked.type == MessageType::quit) return go();
            if (asked.type == MessageType::connect) {
                INVARIANT(!(*received)->descriptors.empty());
                connect_ = asked.body.connect;
            }
            last_id_ = asked.id;
            Message answer = about(asked, MessageType::answer);
            if (errors && input_.flag()) {
                constexpr std::array<int32_t, 6> kErrors{EEXIST, EAGAIN, EINVAL, EIO, ECONNRESET, -1};
                answer.body.answer.error = kErrors[input_.below(kErrors.size())];
            }
            if (errors && asked.type == MessageType::table) fill_table(answer.body.answer.table);
            (void)channel_.send(answer);
        }
    }
    void say_anything() {
        if (!channel_) return;
        if (input_.below(16) == 0) {  // of another size
            const std::string bytes = input_.text(64);
            (void)::send(channel_.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            return;
        }
        Message message;
        message.version = input_.below(32) == 0 ? input_.take<uint32_t>() : kProtocolVersion;
        message.type = static_cast<MessageType>(input_.below(12));
        message.id = input_.flag() ? last_id_ : input_.byte();
        message.domid = input_.below(4) == 0 ? input_.take<uint16_t>() : uint16_t{XenbusGuest::kDomid};
        message.handle = input_.below(3);
        message.body.answer = {};
        if (message.type == MessageType::present) {
            message.body.connect = connect_;
        } else if (input_.flag()) {
            fill_table(message.body.answer.table);
        }
        input_.fill(std::as_writable_bytes(std::span(&message.body, 1)).first(input_.byte() % sizeof message.body));
        const UniqueFd journal(::memfd_create("journal", MFD_CLOEXEC));
        INVARIANT(::ftruncate(journal.get(), input_.flag() ? static_cast<off_t>(kJournalBytes) : 0) == 0);
        const int descriptor = journal.get();
        (void)channel_.send(message, std::span(&descriptor, input_.below(2)));
    }

  private:
    void fill_table(TablePage& page) {
        page.count = input_.below(8) == 0 ? input_.take<uint32_t>() : input_.below(70);
        page.cursor = input_.below(4) == 0 ? input_.take<uint32_t>() : input_.below(4) * 64;
        for (uint32_t i = 0; i < 3; ++i) {
            page.entries[i].domid = input_.byte();
            page.entries[i].vlan = input_.take<uint16_t>();
        }
    }
    static Message about(const Message& asked, MessageType type) {
        Message message;
        message.type = type;
        message.id = asked.id;
        message.domid = asked.domid;
        message.handle = asked.handle;
        message.body.answer = {};
        return message;
    }
    Input& input_;
    Channel channel_;
    uint64_t last_id_ = 0;
    Connect connect_{};
};

void command(Input& input, ControlClients& clients) {
    static const char* const kLines[] = {
        R"({"version":1,"command":"status"})",
        R"({"version":1,"command":"status","guest":"guest"})",
        R"({"version":1,"command":"switch-table","switch":"sw"})",
        R"({"version":1,"command":"doctor-info"})",
    };
    std::string line = kLines[input.below(std::size(kLines))];
    for (uint32_t changes = input.below(4); changes > 0; --changes) line[input.byte() % line.size()] = static_cast<char>(input.byte());
    clients.say(line + "\n");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input(data, size);
    XenbusGuest guest(input, kForm);
    Worker worker(input);
    ControlClients clients(house().config.control_socket());
    const auto turns = [&](uint32_t count, bool honest) {
        for (uint32_t i = 0; i < count; ++i) {
            house().turn();
            guest.check();
            if (take_started() > 0) worker.come(0);
            if (honest) worker.listen(false);
            clients.listen();
        }
    };
    for (int steps = 0; !input.empty() && steps < 100; ++steps) {
        switch (input.below(14)) {
            case 0:
                guest.create([&](const std::string& at) {
                    const uint8_t how = input.byte();
                    FakeStore& store = FakeStore::get();
                    store.write(at + "/script", "/etc/xen/scripts/vif-ringback");
                    store.write(at + "/bridge", (how & 1) == 0 ? "sw" : (how & 2) == 0 ? "sw.5:6:7" : "none");
                    store.write(at + "/mac", (how & 4) == 0 ? "00:16:3e:00:00:01" : "00:16:3e:00:00:02");
                    if ((how & 8) != 0) store.write(at + "/ip", "192.0.2.1 2001:db8::1");
                    if ((how & 16) != 0) store.write(at + "/rate", "10000,50000");
                    store.write(at + "/handle", "0");
                });
                break;
            case 1: guest.remove(); break;
            case 2: guest.toolstack(); break;
            case 3:
            case 4:
            case 5: guest.guest(); break;
            case 6:
            case 7: turns(input.below(8) + 1, true); break;
            case 8: turns(input.below(4) + 1, false); break;
            case 9: worker.listen(true); break;
            case 10: worker.say_anything(); break;
            case 11: pass_time(std::chrono::milliseconds(input.below(4) == 0 ? 20'000 : input.byte() * 20)); break;
            case 12: command(input, clients); break;
            default:
                switch (input.below(4)) {
                    case 0: worker.go(); break;
                    case 1: worker.come_otherwise(); break;
                    case 2: worker.come(input.below(3)); break;
                    default: FakeStore::get().refused_commits = input.below(3);
                }
        }
    }
    // Everything ends, and nothing of it is left for the next one.
    FakeStore::get().refused_commits = 0;
    guest.clean();
    clients.hang_up();
    for (int i = 0; i < 12; ++i) {
        turns(2, true);
        if (i == 4) worker.go();
        if (i > 4) pass_time(std::chrono::seconds(20));
    }
    return 0;
}
