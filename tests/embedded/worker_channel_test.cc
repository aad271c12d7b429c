// SPDX-License-Identifier: Apache-2.0
//
// Whatever a worker hears on its connection, it serves its guest on: messages that are none end the connection, messages
// out of turn or with senseless contents are refused.
#include <sys/wait.h>

#include <cstring>

#include "worker_process_bed.h"

using namespace ringback;
using namespace ringback::test;
using blk::Text;

namespace {

struct Serving : WorkerProcessBed {
    Serving() {
        start();
        REQUIRE(attach().error == 0);
        connect();
    }
    void raw(const void* bytes, size_t size) const { (void)::send(channel.fd(), bytes, size, MSG_NOSIGNAL); }
    void check() {
        CHECK(transfer(frontend::Op::write) == xen::blkif::kOkay);
        CHECK(transfer(frontend::Op::read) == xen::blkif::kOkay);
        CHECK(::waitpid(pid, nullptr, WNOHANG) == 0);
    }
    Answer ask_attach(const char* format, int image, int journal_fd, uint32_t devid) {
        Message attach = message(MessageType::attach);
        attach.devid = devid;
        attach.body.attach = {};
        attach.body.attach.format = Text<16>(format);
        attach.body.attach.name = Text<1024>("image");
        attach.body.attach.writable = 1;
        std::vector<int> descriptors;
        for (const int fd : {image, journal_fd}) {
            if (fd >= 0) descriptors.push_back(fd);
        }
        return ask(attach, descriptors);
    }
};

}  // namespace

TEST_CASE("a datagram that is no message ends the connection, and nothing else") {
    Serving bed;
    Message message = bed.message(MessageType::stats);
    std::array<char, 2 * sizeof(Message)> large{};
    for (const char* what : {"nothing", "a byte", "truncated", "oversize", "another version", "zeros", "descriptors"}) {
        INFO(what);
        const std::string kind = what;
        if (kind == "nothing") bed.raw(large.data(), 0);
        if (kind == "a byte") bed.raw(large.data(), 1);
        if (kind == "truncated") bed.raw(&message, sizeof message - 1);
        if (kind == "zeros") bed.raw(large.data(), sizeof message);
        if (kind == "oversize") {
            std::memcpy(large.data(), &message, sizeof message);
            bed.raw(large.data(), large.size());
            large = {};
        }
        if (kind == "another version") {
            Message other = message;
            other.version = blk::kProtocolVersion + 1;
            bed.raw(&other, sizeof other);
        }
        if (kind == "descriptors") {
            // More than a message can carry here: sent past Channel, which would refuse.
            std::array<int, 16> fds{};
            fds.fill(bed.journal.get());
            alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof fds)> control{};
            iovec vector{&message, sizeof message};
            msghdr header{};
            header.msg_iov = &vector;
            header.msg_iovlen = 1;
            header.msg_control = control.data();
            header.msg_controllen = control.size();
            cmsghdr* rights = CMSG_FIRSTHDR(&header);
            rights->cmsg_level = SOL_SOCKET;
            rights->cmsg_type = SCM_RIGHTS;
            rights->cmsg_len = CMSG_LEN(sizeof fds);
            std::memcpy(CMSG_DATA(rights), fds.data(), sizeof fds);
            REQUIRE(::sendmsg(bed.channel.fd(), &header, MSG_NOSIGNAL) > 0);
        }
        // It comes again, and has its disk.
        bed.accept();
        CHECK(bed.receive().type == MessageType::present);
        CHECK(bed.ask(MessageType::stats).stats.connected == 1);
        bed.check();
    }
}

TEST_CASE("messages out of turn are refused") {
    Serving bed;
    for (const int type : {0, 1, 2, 9, 10, 11, 13, 15, 17, 999, 65535}) {
        INFO(type);
        CHECK(bed.ask(bed.message(static_cast<MessageType>(type))).error == EPROTO);
    }
    CHECK(bed.attach().error == EEXIST);
    CHECK(bed.ask(MessageType::detach).error == EBUSY);
    CHECK(bed.ask(MessageType::connect).error != 0);
    CHECK(bed.ask(MessageType::reconnect).error == EBUSY);
    CHECK(bed.ask(MessageType::resize).error == 0);
    for (const auto type : {MessageType::connect, MessageType::disconnect, MessageType::resize, MessageType::stats,
                            MessageType::detach, MessageType::limit, MessageType::answer, static_cast<MessageType>(999)}) {
        Message unknown = bed.message(type);
        unknown.devid = 4711;
        CHECK(bed.ask(unknown).error == ENODEV);
        unknown = bed.message(type);
        unknown.kind.bytes.fill('v');  // no NUL anywhere
        CHECK(bed.ask(unknown).error == ENODEV);
    }
    bed.check();
    // Twice is once.
    CHECK(bed.ask(MessageType::disconnect).error == 0);
    CHECK(bed.ask(MessageType::disconnect).error == 0);
    CHECK(bed.ask(MessageType::detach).error == 0);
    CHECK(bed.ask(MessageType::detach).error == ENODEV);
    CHECK(bed.ask(MessageType::connect).error == ENODEV);
}

TEST_CASE("an attach that makes no sense is refused") {
    Serving bed;
    const UniqueFd image(::open((bed.directory.path + "/other.img").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(::ftruncate(image.get(), 1 << 20) == 0);
    const UniqueFd journal(::memfd_create("journal", MFD_CLOEXEC));
    REQUIRE(::ftruncate(journal.get(), static_cast<off_t>(blk::kJournalBytes)) == 0);
    const UniqueFd small(::memfd_create("small", MFD_CLOEXEC));
    const UniqueFd folder(::open("/tmp", O_RDONLY | O_CLOEXEC));
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    const int none = -1;
    CHECK(bed.ask_attach("raw", none, none, 51728).error == EPROTO);
    CHECK(bed.ask_attach("raw", image.get(), none, 51728).error == EPROTO);
    CHECK(bed.ask_attach("raw", image.get(), small.get(), 51728).error == EINVAL);
    CHECK(bed.ask_attach("raw", image.get(), null.get(), 51728).error == EINVAL);
    CHECK(bed.ask_attach("raw", folder.get(), journal.get(), 51728).error != 0);
    CHECK(bed.ask_attach("raw", null.get(), journal.get(), 51728).error != 0);
    CHECK(bed.ask_attach("raw", small.get(), journal.get(), 51728).error != 0);
    CHECK(bed.ask_attach("", image.get(), journal.get(), 51728).error != 0);
    CHECK(bed.ask_attach("0123456789abcdef", image.get(), journal.get(), 51728).error != 0);
    bed.check();
    CHECK(bed.ask_attach("raw", image.get(), journal.get(), 51728).error == 0);
}

TEST_CASE("a connect that makes no sense is refused") {
    Serving bed;
    REQUIRE(bed.ask(MessageType::disconnect).error == 0);
    Message connect = bed.message(MessageType::connect);
    connect.body.connect = {};
    connect.body.connect.abi = blk::Abi::x86_64;
    connect.body.connect.queue_count = 1;
    connect.body.connect.queues[0].ring_refs[0] = bed.queue->ring_refs()[0];
    connect.body.connect.queues[0].remote_port = bed.queue->port();
    const auto with = [&](const auto& change) {
        Message changed = connect;
        changed.id = bed.next_id++;
        change(changed.body.connect);
        return bed.ask(changed).error;
    };
    CHECK(with([](blk::Connect& c) { c.queue_count = 0; }) == EINVAL);
    CHECK(with([](blk::Connect& c) { c.queue_count = blk::kMaxQueues + 1; }) == EINVAL);
    CHECK(with([](blk::Connect& c) { c.queue_count = 65535; }) == EINVAL);
    CHECK(with([](blk::Connect& c) { c.ring_order = blk::kMaxRingOrder + 1; }) == EINVAL);
    CHECK(with([](blk::Connect& c) { c.ring_order = 255; }) == EINVAL);
    CHECK(with([](blk::Connect& c) { c.abi = static_cast<blk::Abi>(77); }) == EINVAL);
    CHECK(with([](blk::Connect& c) { c.queues[0].ring_refs[0] = UINT32_MAX; }) != 0);
    CHECK(with([](blk::Connect& c) { c.queues[0].remote_port = UINT32_MAX; }) != 0);
    CHECK(with([](blk::Connect& c) { c.ring_order = 1; }) != 0);
    CHECK(with([](blk::Connect& c) { c.queue_count = 2; }) != 0);
    Message garbage = connect;
    garbage.id = bed.next_id++;
    std::memset(static_cast<void*>(&garbage.body), 0xff, sizeof garbage.body);
    CHECK(bed.ask(garbage).error == EINVAL);
    // And one that does.
    CHECK(with([](blk::Connect&) {}) == 0);
    CHECK(bed.ask(MessageType::stats).stats.connected == 1);
}

TEST_CASE("a worker that is told to quit lets go of what it has, and ends") {
    Serving bed;
    bed.check();
    must(bed.channel.send(bed.message(MessageType::quit)));
    int status = 0;
    REQUIRE(::waitpid(bed.pid, &status, 0) == bed.pid);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    CHECK(eventually([&] { return bed.queue->release() == 0; }));
}
