// SPDX-License-Identifier: Apache-2.0
//
// A worker in a process of its own, with one disk of one guest; the test is its supervisor and its frontend.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <optional>

#include "blkback/worker/journal.h"
#include "blkback/worker/worker.h"
#include "core_fixture.h"
#include "tools/frontend/blkfront_queue.h"

namespace ringback::test {

using blk::Answer;
using blk::Channel;
using blk::Message;
using blk::MessageType;

inline constexpr int kWorkerPatienceMs = 10'000;

struct TemporaryDirectory {
    TemporaryDirectory() { REQUIRE(mkdtemp(path.data()) != nullptr); }
    ~TemporaryDirectory() { std::filesystem::remove_all(path); }
    std::string path = "/tmp/ringback-worker-XXXXXX";
};

inline bool readable(int fd, int patience_ms = kWorkerPatienceMs) {
    pollfd wanted{fd, POLLIN, 0};
    return poll(&wanted, 1, patience_ms) == 1;
}

struct WorkerProcessBed {
    WorkerProcessBed() : disk(directory.path + "/disk.img") {
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
        REQUIRE(queue->wait(kWorkerPatienceMs));
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


}  // namespace ringback::test
