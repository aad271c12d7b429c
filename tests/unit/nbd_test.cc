// SPDX-License-Identifier: Apache-2.0
//
// Network disks against a real server that comes and goes.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "image_hammer.h"
#include "nbd_fixture.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr uint64_t kBytes = 4U << 20;

struct Bed {
    TempDir folder;
    std::string file = folder.file("disk.img", kBytes);
    NbdServer server{folder.path() + "/nbd.sock", {"file", file}};
};

void check_one_line(const Error& error, const std::string& part) {
    CHECK_THAT(error.message, ContainsSubstring(part));
    CHECK(error.message.find('\n') == std::string::npos);
}

bool all_bytes(const std::byte* data, size_t size, std::byte value) {
    return std::all_of(data, data + size, [&](std::byte byte) { return byte == value; });
}

}  // namespace

TEST_CASE("addresses of network disks") {
    const auto local = nbd::parse_address("nbd+unix:///a%2Fb%20c?socket=/run/x%3Fy.sock").value();
    CHECK((local.export_name == "a/b c" && local.socket == "/run/x?y.sock" && local.host.empty()));
    CHECK(nbd::parse_address("nbd+unix:///?socket=/s").value().export_name.empty());
    const auto tcp = nbd::parse_address("nbd://storage.example/disk/1").value();
    CHECK((tcp.host == "storage.example" && tcp.port == "10809" && tcp.export_name == "disk/1" && tcp.socket.empty()));
    const auto six = nbd::parse_address("nbd://[::1]:99/x").value();
    CHECK((six.host == "::1" && six.port == "99"));
    CHECK(nbd::resolve(six, false).value().size() == 1);
    CHECK(nbd::resolve(tcp, false).error().code == EAGAIN);
    CHECK(nbd::parse_address("nbds://host/x").error().code == ENOTSUP);
    for (const char* bad : {"nbd://", "nbd:///x", "nbd://h:0/x", "nbd://h:66000/x", "nbd://h:x/x", "nbd://u@h/x", "nbd://[::1/x",
                            "nbd+unix:///x", "nbd+unix://h/x?socket=/s", "nbd+unix:///x?socket=s", "nbd+unix:///x?socket=/s&y=1",
                            "nbd+unix:///x?socket=/s&socket=/t", "nbd://h/x?socket=/s", "nbd://h/%", "nbd://h/%0", "nbd://h/%0g",
                            "nbd://h/%00", "nbd+unix:///x?socket", "http://h/x"}) {
        INFO(bad);
        const auto parsed = nbd::parse_address(bad);
        REQUIRE_FALSE(parsed.ok());
        CHECK(parsed.error().code == EINVAL);
    }
    CHECK_FALSE(nbd::parse_address("nbd+unix:///x?socket=/" + std::string(200, 's')).ok());
}

TEST_CASE("a network disk agrees with an oracle, on every connection") {
    Bed bed;
    NbdDisk disk(bed.server.address());
    CHECK(disk.image->geometry().bytes == kBytes);
    CHECK(disk.image->geometry().discard);
    hammer(disk, 1, 40);
    CHECK(disk.flush() == 0);
    CHECK(disk.server.connections == 4);  // nbdkit's file plugin says that a flush on one counts for all
    Memory all = memory(kBytes);
    const UniqueFd file(::open(bed.file.c_str(), O_RDONLY | O_CLOEXEC));
    REQUIRE(::pread(file.get(), all.get(), kBytes, 0) == static_cast<ssize_t>(kBytes));
    Memory read = memory(kBytes);
    REQUIRE(disk.transfer(Op::read, 0, read.get(), kBytes) == 0);
    CHECK(std::memcmp(all.get(), read.get(), kBytes) == 0);
}

TEST_CASE("zeros and discards, whatever the server can do of it") {
    Bed bed;
    const std::string filter = GENERATE("", "--filter=nozero", "--filter=multi-conn");
    if (filter == "--filter=nozero") bed.server.arguments({filter, "file", bed.file});
    if (filter == "--filter=multi-conn") bed.server.arguments({filter, "file", bed.file, "multi-conn-mode=disable"});
    bed.server.kill();
    bed.server.start();
    NbdDisk disk(bed.server.address());
    Memory data = memory(kBytes);
    std::memset(data.get(), 0x5a, kBytes);
    REQUIRE(disk.transfer(Op::write, 0, data.get(), kBytes) == 0);
    Request zero(Op::zero, 512, uint64_t{3U << 20});
    CHECK(disk.run(zero) == 0);
    REQUIRE(disk.transfer(Op::read, 0, data.get(), kBytes) == 0);
    CHECK(all_bytes(data.get(), 512, std::byte{0x5a}));
    CHECK(all_bytes(data.get() + 512, 3U << 20, std::byte{0}));
    CHECK(all_bytes(data.get() + 512 + (3U << 20), kBytes - 512 - (3U << 20), std::byte{0x5a}));
    CHECK(disk.discard(3U << 20, 1U << 20) == 0);
    REQUIRE(disk.transfer(Op::read, 3U << 20, data.get(), 1U << 20) == 0);
    CHECK(all_bytes(data.get(), 1U << 20, std::byte{0}));
    CHECK(disk.flush() == 0);
    CHECK(disk.server.connections == (filter == "--filter=multi-conn" ? 1 : 4));
}

TEST_CASE("a server that knows no flush but FUA gets every write with it; one that knows no discard is asked for none") {
    Bed bed;
    bed.server.kill();
    bed.server.arguments({"eval", "get_size=echo " + std::to_string(kBytes), "pread=dd if=" + bed.file + " skip=$4 count=$3 " +
                          "iflag=count_bytes,skip_bytes status=none", "can_write=exit 0", "can_fua=echo native", "can_flush=exit 3",
                          "can_trim=exit 3", "pwrite=echo \"$5\" >>" + bed.folder.path() + "/flags; dd of=" + bed.file +
                          " seek=$4 conv=notrunc oflag=seek_bytes status=none"});
    bed.server.start();
    NbdDisk disk(bed.server.address());
    CHECK_FALSE(disk.image->geometry().discard);
    Memory data = memory(4096);
    fill(data.get(), 4096, 3);
    REQUIRE(disk.transfer(Op::write, 8192, data.get(), 4096) == 0);
    CHECK(disk.flush() == 0);
    Memory back = memory(4096);
    REQUIRE(disk.transfer(Op::read, 8192, back.get(), 4096) == 0);
    CHECK(std::memcmp(data.get(), back.get(), 4096) == 0);
    std::ifstream flags(bed.folder.path() + "/flags");
    std::string line;
    REQUIRE(std::getline(flags, line));
    CHECK_THAT(line, ContainsSubstring("fua"));
    CHECK(disk.discard(0, 4096) == -EOPNOTSUPP);
}

TEST_CASE("a server killed and started again under load: every request is answered, nothing is lost") {
    Bed bed;
    NbdDisk disk(bed.server.address(), {.writable = true, .reconnect_seconds = 30});
    constexpr size_t kBlock = 8192;
    constexpr size_t kBlocks = 64;
    std::vector<uint64_t> oracle(kBlocks, 0);
    Memory space = memory(kBlock * kBlocks);
    std::mt19937_64 random(7);
    for (int round = 0; round < 6; ++round) {
        std::vector<std::unique_ptr<Request>> requests;
        std::vector<Io*> batch;
        for (size_t i = 0; i < kBlocks; ++i) {
            std::byte* data = space.get() + i * kBlock;
            oracle[i] = random();
            fill(data, kBlock, oracle[i]);
            requests.push_back(std::make_unique<Request>(Op::write, i * kBlock, std::vector<iovec>{{data, kBlock}}));
            batch.push_back(requests.back().get());
        }
        disk.image->submit(batch);
        for (uint64_t turns = random() % 4; turns > 0; --turns) disk.reactor->turn(false);
        bed.server.kill();
        for (uint64_t turns = random() % 4; turns > 0; --turns) disk.reactor->turn(false);
        bed.server.start();
        for (const auto& request : requests) {
            disk.wait(*request);
            REQUIRE((request->result == 0 && request->answers == 1));
        }
        REQUIRE(disk.flush() == 0);
        Memory back = memory(kBlock * kBlocks);
        REQUIRE(disk.transfer(Op::read, 0, back.get(), kBlock * kBlocks) == 0);
        CHECK(std::memcmp(back.get(), space.get(), kBlock * kBlocks) == 0);
    }
}

TEST_CASE("a server that stays away: requests wait, then fail; when it is back, reads go on") {
    Bed bed;
    NbdDisk disk(bed.server.address(), {.writable = true, .reconnect_seconds = 1});
    Memory data = memory(4096);
    fill(data.get(), 4096, 9);
    REQUIRE(disk.transfer(Op::write, 0, data.get(), 4096) == 0);
    bed.server.kill();
    Request read(Op::read, 0, std::vector<iovec>{{data.get(), 4096}});
    disk.submit(read);
    const auto since = std::chrono::steady_clock::now();
    disk.wait(read);
    CHECK(read.result == -EIO);
    CHECK(std::chrono::steady_clock::now() - since > std::chrono::milliseconds(500));  // it did wait
    CHECK(disk.transfer(Op::read, 0, data.get(), 4096) == -EIO);
    const bool flushed = GENERATE(false, true);
    if (flushed) CHECK(disk.flush() == -EIO);
    bed.server.start();
    Memory back = memory(4096);
    while (disk.transfer(Op::read, 0, back.get(), 4096) != 0) disk.reactor->turn(true);
    fill(data.get(), 4096, 9);
    CHECK(std::memcmp(data.get(), back.get(), 4096) == 0);
    // A flush that failed is no different from other failed syncs.
    CHECK(disk.image->sync_failed() == flushed);
    CHECK(disk.transfer(Op::write, 0, data.get(), 4096) == (flushed ? -EIO : 0));
}

TEST_CASE("a server that comes back with another export is not used") {
    Bed bed;
    NbdDisk disk(bed.server.address(), {.writable = true, .reconnect_seconds = 1});
    Memory data = memory(4096);
    bed.server.kill();
    const int what = GENERATE(0, 1);
    if (what == 0) {
        bed.server.arguments({"file", bed.folder.file("small.img", kBytes / 2)});
    } else {
        bed.server.arguments({"--readonly", "file", bed.file});
    }
    bed.server.start();
    CHECK(disk.transfer(Op::read, 0, data.get(), 4096) == -EIO);
    CHECK(disk.transfer(Op::write, 0, data.get(), 4096) == -EIO);
}

TEST_CASE("what cannot be a disk is refused in one line") {
    Bed bed;
    NbdDisk disk;
    bed.server.kill();
    check_one_line(disk.open(bed.server.address()).error(), "connect to nbd+unix");
    bed.server.arguments({"file", "dir=" + bed.folder.path()});
    bed.server.start();
    check_one_line(disk.open(bed.server.address("nothing")).error(), "nothing");
    REQUIRE(disk.open(bed.server.address("disk.img")).ok());
    REQUIRE(close_and_wait(*disk.image, *disk.reactor) == 0);
    disk.image.reset();
    bed.server.kill();
    bed.server.arguments({"--readonly", "file", bed.file});
    bed.server.start();
    check_one_line(disk.open(bed.server.address()).error(), "access=ro");
    REQUIRE(disk.open(bed.server.address(), {.writable = false}).ok());
    Memory data = memory(4096);
    CHECK(disk.transfer(Op::read, 0, data.get(), 4096) == 0);
    CHECK(disk.transfer(Op::write, 0, data.get(), 4096) == -EIO);
    CHECK(disk.flush() == 0);
    REQUIRE(close_and_wait(*disk.image, *disk.reactor) == 0);
    disk.image.reset();
    bed.server.kill();
    bed.server.arguments({"file", bed.folder.file("tiny.img", 511)});
    bed.server.start();
    check_one_line(disk.open(bed.server.address()).error(), "511 bytes");
    bed.server.kill();
    bed.server.arguments({"--filter=blocksize-policy", "file", bed.file, "blocksize-minimum=4096", "blocksize-preferred=4096",
                          "blocksize-maximum=1M", "blocksize-error-policy=error"});
    bed.server.start();
    check_one_line(disk.open(bed.server.address()).error(), "4096");
}

TEST_CASE("who answers with anything but NBD, or not at all, is refused in bounded time") {
    Bed bed;
    const std::string path = bed.folder.path() + "/other.sock";
    const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const auto endpoint = nbd::unix_endpoint(path).value();
    REQUIRE(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&endpoint.address), endpoint.length) == 0);
    REQUIRE(::listen(listener.get(), 4) == 0);
    NbdDisk disk;
    const bool talks = GENERATE(true, false);
    std::thread other([&] {
        const UniqueFd client(::accept(listener.get(), nullptr, nullptr));
        if (talks) (void)!::write(client.get(), "220 this is another protocol, and quite long\n", 45);
        char byte = 0;
        while (::read(client.get(), &byte, 1) > 0) {
        }
    });
    const auto opened = disk.open("nbd+unix:///?socket=" + path);
    other.join();
    REQUIRE_FALSE(opened.ok());
    check_one_line(opened.error(), talks ? "magic" : "no answer");
}
