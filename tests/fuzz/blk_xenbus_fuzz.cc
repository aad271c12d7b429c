// SPDX-License-Identifier: Apache-2.0
//
// blkbackd between all who talk to it: the toolstack and guests in the store, workers on their socket, anybody on the control
// socket. The supervisor is the product's own, whole; the store, time and processes are not (fake_store.h).
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

#include "blkback/supervisor.h"
#include "control_client.h"
#include "xenbus_guest.h"

using namespace ringback;
using namespace ringback::fuzz;
using namespace ringback::blk;

namespace {

constexpr const char* kDevices[] = {"51712", "51728"};
constexpr const char* kKeys[] = {"state", "ring-ref", "ring-ref0", "ring-ref1", "ring-page-order", "num-ring-pages",
                                 "event-channel", "protocol", "feature-persistent", "multi-queue-num-queues", "queue-0/ring-ref",
                                 "queue-0/event-channel", "queue-1/ring-ref", "queue-1/event-channel", "queue-0/ring-ref0",
                                 "queue-0/ring-ref1"};
constexpr std::pair<const char*, const char*> kOffer[] = {{"ring-ref", "8"}, {"event-channel", "3"}, {"protocol", "x86_64-abi"},
                                                          {"feature-persistent", "1"}};
constexpr XenbusGuest::Form kForm{"vbd", kDevices, kKeys, kOffer, "3"};

struct House {
    std::string directory = "/dev/shm/ringback-fuzz-XXXXXX";
    Config config;
    EventLoop loop = must(EventLoop::create());
    std::unique_ptr<Supervisor> supervisor;

    House() {
        INVARIANT(::mkdtemp(directory.data()) != nullptr);
        config.runtime_directory = directory + "/run";
        config.worker_start = WorkerStart::fork;
        config.worker_program = "/proc/self/exe";
        config.control_group = "";
        config.max_queues = 2;
        const UniqueFd disk(::open((directory + "/disk").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        INVARIANT(disk && ::ftruncate(disk.get(), 1 << 20) == 0);
        FakeStore::get().write("/local/domain/0/backend/vbd", "");
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

// The worker of guest 7, which is honest while it does not say otherwise.
class Worker {
  public:
    explicit Worker(Input& input) : input_(input) {}

    void come() {
        auto connected = Channel::connect(house().config.worker_socket());
        if (!connected) return;
        channel_ = std::move(connected).value();
        Message hello;
        hello.type = MessageType::hello;
        hello.body.hello = {kProtocolVersion, static_cast<uint32_t>(::getpid()), XenbusGuest::kDomid};
        (void)channel_.send(hello);
    }
    void come_otherwise() {
        auto connected = Channel::connect(house().config.worker_socket());
        if (!connected) return;
        Channel other = std::move(connected).value();
        Message hello;
        hello.type = static_cast<MessageType>(input_.below(4));
        hello.body.hello = {kProtocolVersion + input_.below(2), input_.take<uint32_t>(), input_.take<uint16_t>()};
        (void)other.send(hello);
        if (input_.flag()) channel_ = std::move(other);
    }
    void go() { channel_ = Channel(); }
    // Hears all that was said, and answers as it should, or with an error.
    void listen(bool errors) {
        while (channel_) {
            auto received = channel_.receive();
            if (!received) return go();
            if (!received->has_value()) return;
            const Message& asked = (*received)->message;
            INVARIANT(asked.version == kProtocolVersion);
            if (asked.type == MessageType::quit) return go();
            if (asked.type == MessageType::file) continue;
            if (asked.type == MessageType::attach) INVARIANT((*received)->descriptors.size() == 2);
            last_id_ = asked.id;
            Message answer = about(asked, MessageType::answer);
            if (errors && input_.flag()) {
                constexpr std::array<int32_t, 6> kErrors{EBUSY, EAGAIN, EINVAL, EIO, ECONNRESET, -1};
                answer.body.answer.error = kErrors[input_.below(kErrors.size())];
            }
            if (asked.type == MessageType::connect || asked.type == MessageType::reconnect) rings_ = asked.body.connect;
            answer.body.answer.geometry = {1U << 20, 512, 4096, 4096, 0, 1};
            answer.body.answer.stats.connected = asked.type == MessageType::connect || asked.type == MessageType::reconnect ? 1 : 0;
            answer.body.answer.rings = rings_;
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
        message.type = static_cast<MessageType>(input_.below(18));
        message.id = input_.flag() ? last_id_ : input_.byte();
        message.kind = Text<16>(input_.below(4) == 0 ? input_.text(20) : "vbd");
        message.devid = input_.flag() ? 51712 : 51728;
        message.body.answer = {};
        if (message.type == MessageType::open_file) {
            message.body.open_file = {};
            message.body.open_file.name = Text<1024>(input_.flag() ? house().directory + "/disk" : input_.text(40));
            message.body.open_file.writable = input_.byte();
        } else {
            input_.fill(std::as_writable_bytes(std::span(&message.body, 1)).first(input_.byte() % sizeof message.body));
            message.body.answer.stats.connected = input_.byte() & 1;
            message.body.answer.stats.owing = input_.byte() & 1;
            message.body.answer.rings = rings_;
        }
        const int descriptor = channel_.fd();
        (void)channel_.send(message, std::span(&descriptor, input_.below(8) == 0 ? 1U : 0U));
    }

  private:
    static Message about(const Message& asked, MessageType type) {
        Message message;
        message.type = type;
        message.id = asked.id;
        message.kind = asked.kind;
        message.devid = asked.devid;
        message.body.answer = {};
        return message;
    }
    Input& input_;
    Channel channel_;
    uint64_t last_id_ = 0;
    Connect rings_{};
};

void command(Input& input, ControlClients& clients) {
    static const char* const kLines[] = {
        R"({"version":1,"command":"status"})",
        R"({"version":1,"command":"status","guest":"guest"})",
        R"({"version":1,"command":"wait-ready","device":"backend/vbd/7/51712"})",
        R"({"version":1,"command":"resize","guest":"7","disk":"51712","bytes":2097152})",
        R"({"version":1,"command":"resize","guest":"guest","disk":"xvda"})",
        R"({"version":1,"command":"replace-worker","guest":"7"})",
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
            if (take_started() > 0) worker.come();
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
                    store.write(at + "/script", (how & 1) == 0 ? "/etc/xen/scripts/block-ringback" : "/etc/xen/scripts/block");
                    store.write(at + "/mode", (how & 2) == 0 ? "w" : "r");
                    store.write(at + "/dev", "xvda");
                    store.write(at + "/params", ((how & 4) == 0 ? "" : "qcow2:") + house().directory + ((how & 8) == 0 ? "/disk" : "/none"));
                    if ((how & 16) != 0) store.write(at + "/physical-device-path", house().directory + "/disk");
                    if ((how & 32) != 0) store.write(at + "/device-type", "cdrom");
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
                    case 2: worker.come(); break;
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
