// SPDX-License-Identifier: Apache-2.0
//
// blkback-worker and what a supervisor may say to it, in any order, with any descriptors, while a guest uses the rings: the
// whole worker, with raw and qcow2 images in memory, of which one names a backing file.
#include <poll.h>
#include <sys/mman.h>

#include <array>
#include <functional>
#include <vector>

#include "blkback/worker/worker.h"
#include "worker_bed.h"

using namespace ringback;
using namespace ringback::fuzz;
using namespace ringback::blk;

namespace {

using Bed = WorkerBed<blk::worker::Worker, Channel>;

// While an image is opened the worker waits for an answer about its backing file: here is the time to give it.
std::function<void()> while_waiting;

void put(std::vector<uint8_t>& bytes, size_t at, uint64_t value, size_t size) {
    for (size_t i = 0; i < size; ++i) bytes[at + i] = static_cast<uint8_t>(value >> (8 * (size - 1 - i)));
}

// 64 KiB in clusters of 512 bytes: header, L1, refcount table, refcount block.
std::vector<uint8_t> small_qcow2() {
    std::vector<uint8_t> bytes(4 * 512);
    put(bytes, 0, 0x514649fb, 4);
    put(bytes, 4, 3, 4);
    put(bytes, 8, 400, 8);   // backing file's name
    put(bytes, 16, 4, 4);
    put(bytes, 20, 9, 4);
    put(bytes, 24, 65536, 8);
    put(bytes, 36, 2, 4);
    put(bytes, 40, 512, 8);
    put(bytes, 48, 1024, 8);
    put(bytes, 56, 1, 4);
    put(bytes, 96, 4, 4);    // 16 bits a refcount
    put(bytes, 100, 104, 4);
    put(bytes, 104, 0xe2792aca, 4);  // the backing file's format
    put(bytes, 108, 3, 4);
    std::memcpy(&bytes[112], "raw", 3);
    std::memcpy(&bytes[400], "base", 4);
    put(bytes, 1024, 1536, 8);
    for (size_t cluster = 0; cluster < 4; ++cluster) put(bytes, 1536 + cluster * 2, 1, 2);
    return bytes;
}

UniqueFd file_of(std::span<const uint8_t> bytes, size_t size) {
    UniqueFd file(::memfd_create("file", MFD_CLOEXEC));
    INVARIANT(file && ::ftruncate(file.get(), static_cast<off_t>(size)) == 0);
    INVARIANT(::pwrite(file.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
    return file;
}

class Supervisor {
  public:
    Supervisor(Input& input, Bed& bed) : input_(input), bed_(bed) {
        for (UniqueFd& journal : journals_) journal = file_of({}, kJournalBytes);
        while_waiting = [this] { answer_about_file(); };
    }
    ~Supervisor() { while_waiting = nullptr; }

    void step() {
        switch (input_.below(10)) {
            case 0: attach(); break;
            case 1:
            case 2: say(input_.below(4) == 0 ? MessageType::reconnect : MessageType::connect); break;
            case 3: {
                constexpr std::array kTypes{MessageType::disconnect, MessageType::resize, MessageType::stats, MessageType::detach};
                say(kTypes[input_.below(kTypes.size())]);
                break;
            }
            case 4:
            case 5:
            case 6:
                bed_.turn(input_.below(8) + 1);
                bed_.listen([](const Received& received) { INVARIANT(received.message.version == kProtocolVersion); });
                break;
            case 7: put_request(); break;
            case 8: say_anything(); break;
            default:
                if (input_.below(64) == 0) bed_.hang_up();
        }
    }
    void let_go() {
        for (uint32_t devid = 0; devid < 2; ++devid) {
            for (const MessageType type : {MessageType::disconnect, MessageType::detach}) {
                (void)bed_.channel().send(about(type, devid));
                bed_.turn(20);
                bed_.listen([](const Received&) {});
            }
        }
    }

  private:
    static Message about(MessageType type, uint32_t devid) {
        Message message;
        message.type = type;
        message.kind = Text<16>("vbd");
        message.devid = devid;
        return message;
    }
    void attach() {
        const uint32_t devid = input_.below(2);
        const uint8_t how = input_.byte();
        Message message = about(MessageType::attach, devid);
        message.body.attach = {};
        Attach& attach = message.body.attach;
        UniqueFd image;
        if ((how & 1) == 0) {
            attach.format = Text<16>("raw");
            image = file_of({}, 65536);
        } else {
            attach.format = Text<16>((how & 2) == 0 ? "qcow2" : "vhd");
            auto content = small_qcow2();
            for (uint32_t changes = input_.below(4); changes > 0; --changes) content[input_.take<uint16_t>() % content.size()] = input_.byte();
            if ((how & 4) != 0) put(content, 8, 0, 8);
            image = file_of(content, content.size());
        }
        attach.writable = how >> 3 & 1;
        attach.discard = how >> 4 & 1;
        attach.recover = how >> 5 & 1;
        attach.name = Text<1024>("image");
        const std::array<int, 2> descriptors{image.get(), journals_[devid].get()};
        (void)bed_.channel().send(message, std::span(descriptors).first((how & 64) == 0 ? 2 : input_.below(3)));
    }
    void say(MessageType type) {
        const uint32_t devid = input_.below(2);
        Message message = about(type, devid);
        if (type == MessageType::connect || type == MessageType::reconnect) {
            message.body.connect = {};
            Connect& connect = message.body.connect;
            const uint8_t how = input_.byte();
            connect.abi = static_cast<Abi>(how & 3);
            connect.persistent = how >> 2 & 1;
            connect.ring_order = how >> 3 & 1;
            connect.queue_count = static_cast<uint16_t>(1 + (how >> 4 & 1));
            if ((how & 32) != 0) connect.ring_order = input_.byte();
            if ((how & 64) != 0) connect.queue_count = input_.take<uint16_t>();
            for (uint32_t queue = 0; queue < 2; ++queue) {
                for (uint32_t page = 0; page < 2; ++page) connect.queues[queue].ring_refs[page] = 1 + devid * 8 + queue * 2 + page;
                connect.queues[queue].remote_port = 1 + devid * 2 + queue;
            }
            if ((how & 128) != 0) connect.queues[0].ring_refs[0] = input_.byte();
        }
        (void)bed_.channel().send(message);
    }
    void say_anything() {
        if (!bed_.channel()) return;
        if (input_.below(256) == 255) {  // of another size: the end of the connection
            const std::string bytes = input_.text(64);
            (void)::send(bed_.channel().fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            return;
        }
        Message message = about(static_cast<MessageType>(input_.below(18)), input_.byte());
        if (input_.flag()) message.kind = Text<16>(input_.text(20));
        if (message.type == MessageType::quit) return;
        input_.fill(std::as_writable_bytes(std::span(&message.body, 1)).first(input_.byte()));
        const std::array<int, 2> descriptors{journals_[0].get(), journals_[1].get()};
        (void)bed_.channel().send(message, std::span(descriptors).first(input_.below(3)));
    }
    void answer_about_file() {
        bed_.listen([this](const Received& received) {
            if (received.message.type != MessageType::open_file) return;
            INVARIANT(received.message.body.open_file.name.str().size() < 1024);
            Message message = about(MessageType::file, received.message.devid);
            message.id = received.message.id + (input_.below(16) == 15 ? 1 : 0);
            message.body.attach = {};
            const UniqueFd base = file_of({}, 32768);
            const int descriptor = base.get();
            const bool given = input_.below(8) != 7;
            if (!given) message.body.attach.name = Text<1024>("no");
            (void)bed_.channel().send(message, std::span(&descriptor, given ? 1U : 0U));
        });
    }
    // A guest that reads and writes while all that goes on.
    void put_request() {
        const uint32_t ref = 1 + input_.below(2) * 8;
        auto& header = *reinterpret_cast<xen::SharedRingHeader*>(FakeXen::get().page(ref).data());
        xen::blkif::x86_64::ReadWrite entry{};
        entry.operation = input_.byte();
        entry.nr_segments = input_.byte();
        entry.sector_number = input_.byte();
        for (auto& segment : entry.segments) segment = {20 + input_.byte() % 40U, 0, static_cast<uint8_t>(input_.byte() & 7), 0};
        std::memcpy(FakeXen::get().page(ref).data() + sizeof header + header.req_prod % 32 * sizeof entry, &entry, sizeof entry);
        ++header.req_prod;
    }

    Input& input_;
    Bed& bed_;
    std::array<UniqueFd, 2> journals_;
};

const WorkerSocket& socket_of_ours() {
    static const WorkerSocket only;
    return only;
}

}  // namespace

extern "C" int __real_poll(pollfd* descriptors, nfds_t count, int timeout);
extern "C" int __wrap_poll(pollfd* descriptors, nfds_t count, int) {
    if (while_waiting) while_waiting();
    return __real_poll(descriptors, count, 0);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static std::unique_ptr<Bed> bed;
    FakeXen::get().reset();
    Input input(data, size);
    if (!bed) {
        bed = std::make_unique<Bed>(must(blk::worker::Worker::prepare({.domid = kGuest, .supervisor = socket_of_ours().path, .buffer_bytes = 1U << 20, .polling = {}})), socket_of_ours());
    }
    Supervisor supervisor(input, *bed);
    for (int steps = 0; !input.empty() && steps < 60 && !bed->ended(); ++steps) supervisor.step();
    if (!bed->end([&supervisor] { supervisor.let_go(); })) bed.reset();
    return 0;
}
