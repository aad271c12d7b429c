// SPDX-License-Identifier: Apache-2.0
//
// What a worker said while nobody listened, or could not say, was lost: that a ring is broken, when the supervisor was
// away; the first of two requests to disconnect; any answer that found the socket full. And a worker whose predecessor
// had seen a sync fail took writes again. The test is the supervisor; the worker is a process.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <set>

#include "blkback/worker/journal.h"
#include "blkback/worker/worker.h"
#include "core_fixture.h"
#include "hypervisor/ring.h"
#include "tools/frontend/blkfront_queue.h"

using namespace ringback;
using namespace ringback::test;
using blk::Answer;
using blk::Channel;
using blk::Message;
using blk::MessageType;

namespace {

constexpr int kPatienceMs = 10'000;

struct TemporaryDirectory {
    TemporaryDirectory() { REQUIRE(mkdtemp(path.data()) != nullptr); }
    ~TemporaryDirectory() { std::filesystem::remove_all(path); }
    std::string path = "/tmp/ringback-worker-XXXXXX";
};

bool readable(int fd, int patience_ms = kPatienceMs) {
    pollfd wanted{fd, POLLIN, 0};
    return poll(&wanted, 1, patience_ms) == 1;
}

struct Bed {
    Bed() : disk(directory.path + "/disk.img") {
        journal.reset(memfd_create("journal", MFD_CLOEXEC));
        REQUIRE(ftruncate(journal.get(), static_cast<off_t>(blk::kJournalBytes)) == 0);
        UniqueFd made(open(disk.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        REQUIRE(ftruncate(made.get(), 1 << 20) == 0);
        listen();
    }

    std::string socket() const { return directory.path + "/supervisor.sock"; }
    void listen() {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        socket().copy(address.sun_path, sizeof address.sun_path - 1);
        listener.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
        REQUIRE(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
        REQUIRE(::listen(listener.get(), 4) == 0);
    }
    // This supervisor ends; nobody is there until listen().
    void go_away() {
        listener.reset();
        std::filesystem::remove(socket());
        channel.close();
    }
    void start() {
        worker.emplace([this](Child&) {
            auto made = blk::worker::Worker::prepare({.domid = core.domid, .supervisor = socket(), .polling = {}});
            return made.ok() && (*made)->run().ok() ? 0 : 1;
        });
        accept();
    }
    // A worker comes and says hello.
    void accept() {
        REQUIRE(readable(listener.get()));
        channel = Channel(UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)));
        const Message hello = receive();
        REQUIRE(hello.type == MessageType::hello);
        pid = static_cast<pid_t>(hello.body.hello.pid);
    }
    Message receive() {
        REQUIRE(readable(channel.fd()));
        auto received = must(channel.receive());
        REQUIRE(received.has_value());
        return received->message;
    }
    Message message(MessageType type) {
        Message made;
        made.type = type;
        made.id = next_id++;
        made.kind = blk::Text<16>("vbd");
        made.devid = 51712;
        made.body.answer = {};
        return made;
    }
    Answer ask(const Message& question, std::vector<int> descriptors = {}) {
        must(channel.send(question, descriptors));
        for (;;) {
            const Message got = receive();
            if (got.type == MessageType::answer && got.id == question.id) return got.body.answer;
        }
    }
    Answer ask(MessageType type) { return ask(message(type)); }
    Answer attach() {
        Message attach = message(MessageType::attach);
        attach.body.attach = {};
        attach.body.attach.format = blk::Text<16>("raw");
        attach.body.attach.name = blk::Text<1024>(disk);
        attach.body.attach.writable = 1;
        const UniqueFd file(open(disk.c_str(), O_RDWR | O_CLOEXEC));
        return ask(attach, {file.get(), journal.get()});
    }
    void connect() {
        queue.emplace(must(frontend::Queue::create(core.guest, {.ring_order = 0, .backend_domid = 0})));
        must(queue->start({.persistent = false, .max_segments = 11}));
        Message connect = message(MessageType::connect);
        connect.body.connect = {};
        connect.body.connect.abi = xen::blkif::Abi::x86_64;
        connect.body.connect.queue_count = 1;
        connect.body.connect.queues[0].ring_refs[0] = queue->ring_refs()[0];
        connect.body.connect.queues[0].remote_port = queue->port();
        REQUIRE(ask(connect).error == 0);
    }
    int transfer(frontend::Op op) {
        std::vector<std::byte> data(4096);
        int status = 1;
        frontend::Request request;
        request.op = op;
        request.data = data.data();
        request.length = 4096;
        request.owner = &status;
        request.done = [](frontend::Request& done, int answer) { *static_cast<int*>(done.owner) = answer; };
        REQUIRE(queue->submit(request));
        queue->push();
        REQUIRE(queue->wait(kPatienceMs));
        return status;
    }

    CoreWithGuest core;
    TemporaryDirectory directory;
    std::string disk;
    UniqueFd journal;
    UniqueFd listener;
    Channel channel;
    std::optional<frontend::Queue> queue;
    std::optional<Child> worker;
    pid_t pid = 0;
    uint64_t next_id = 1;
};

}  // namespace

TEST_CASE("a ring that broke while the supervisor was away is reported to the next one") {
    Bed bed;
    bed.start();
    REQUIRE(bed.attach().error == 0);
    bed.connect();
    CHECK(bed.ask(MessageType::stats).stats.failed == 0);
    bed.go_away();
    auto& header = *reinterpret_cast<xen::SharedRingHeader*>(bed.queue->shared());
    std::atomic_ref(header.req_prod).store(1000, std::memory_order_release);
    bed.queue->notify();
    bed.listen();
    bed.accept();
    Answer answer{};
    CHECK(eventually([&] {
        answer = bed.ask(MessageType::stats);
        return answer.stats.failed != 0;
    }));
    CHECK(answer.stats.connected == 1);
    CHECK(answer.message.str() == "the frontend claims more requests than its ring holds");
    // Whoever comes next is told without asking.
    bed.channel.close();
    bed.accept();
    const Message present = bed.receive();
    REQUIRE(present.type == MessageType::present);
    CHECK(present.body.answer.stats.failed == 1);
    CHECK(present.body.answer.message.str() == answer.message.str());
    // And it ends with the connection.
    CHECK(bed.ask(MessageType::disconnect).stats.failed == 0);
    CHECK(bed.ask(MessageType::stats).message.str().empty());
}

TEST_CASE("each of two requests to disconnect is answered") {
    Bed bed;
    bed.start();
    REQUIRE(bed.attach().error == 0);
    bed.connect();
    // Both are there before the worker looks.
    REQUIRE(kill(bed.pid, SIGSTOP) == 0);
    const Message first = bed.message(MessageType::disconnect);
    const Message second = bed.message(MessageType::disconnect);
    must(bed.channel.send(first));
    must(bed.channel.send(second));
    REQUIRE(kill(bed.pid, SIGCONT) == 0);
    std::set<uint64_t> answered;
    while (answered.size() < 2) answered.insert(bed.receive().id);
    CHECK(answered == std::set<uint64_t>{first.id, second.id});
}

TEST_CASE("a worker whose answers are not read gives the connection up and comes again") {
    Bed bed;
    bed.start();
    REQUIRE(bed.attach().error == 0);
    CHECK(eventually([&] {
        // Questions without end, until the socket is full of answers.
        (void)bed.channel.send(bed.message(MessageType::stats));
        return readable(bed.listener.get(), 0);
    }));
    bed.accept();
    CHECK(bed.ask(MessageType::stats).error == 0);
}

TEST_CASE("a worker whose predecessor saw a sync fail takes no writes") {
    Bed bed;
    must(blk::worker::Journal::map(bed.journal.get(), {"vbd", bed.core.domid, 51712})).set_sync_failed();
    bed.start();
    const Answer attached = bed.attach();
    REQUIRE(attached.error == 0);
    CHECK(attached.stats.sync_failed == 1);
    bed.connect();
    CHECK(bed.transfer(frontend::Op::write) == xen::blkif::kError);
    CHECK(bed.transfer(frontend::Op::read) == xen::blkif::kOkay);
    // Attached anew, with a journal of its own, it is as good as new.
    REQUIRE(bed.ask(MessageType::disconnect).error == 0);
    REQUIRE(bed.ask(MessageType::detach).error == 0);
    bed.journal.reset(memfd_create("journal", MFD_CLOEXEC));
    REQUIRE(ftruncate(bed.journal.get(), static_cast<off_t>(blk::kJournalBytes)) == 0);
    REQUIRE(bed.attach().error == 0);
    bed.connect();
    CHECK(bed.transfer(frontend::Op::write) == xen::blkif::kOkay);
}

TEST_CASE("a worker does not wait for an image that is locked") {
    Bed bed;
    const UniqueFd other(open(bed.disk.c_str(), O_RDWR | O_CLOEXEC));
    REQUIRE(flock(other.get(), LOCK_EX) == 0);
    bed.start();
    CHECK(bed.attach().error == EBUSY);
    REQUIRE(flock(other.get(), LOCK_UN) == 0);
    CHECK(bed.attach().error == 0);
}
