// SPDX-License-Identifier: Apache-2.0
//
// A guest's disk on an NBD server through the whole stack: blkbackd connects, its worker speaks. The server is killed, the worker is
// killed, blkbackd is restarted, under a load that judges every sector.
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "judged_load.h"
#include "supervisor_fixture.h"

using namespace ringback;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;
using frontend::Op;

namespace {

class Server {
  public:
    Server(const DiskBed& bed, std::vector<std::string> plugin)
        : socket_(bed.t.core.directory() + "/nbd.sock"), plugin_(std::move(plugin)) {
        start();
    }
    ~Server() { kill(); }
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;
    void start() {
        ::unlink(socket_.c_str());
        std::vector<std::string> words{"nbdkit", "--foreground", "--exit-with-parent", "--unix", socket_};
        words.insert(words.end(), plugin_.begin(), plugin_.end());
        std::vector<char*> argv;
        for (std::string& word : words) argv.push_back(word.data());
        argv.push_back(nullptr);
        REQUIRE(::posix_spawnp(&pid_, "nbdkit", nullptr, nullptr, argv.data(), environ) == 0);
        for (int i = 0; i < 2000 && !answers(); ++i) {
            REQUIRE(::waitpid(pid_, nullptr, WNOHANG) == 0);
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
    }
    void kill() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }
    [[nodiscard]] std::string address(const std::string& name = "") const { return "nbd+unix:///" + name + "?socket=" + socket_; }
    void plugin(std::vector<std::string> now) { plugin_ = std::move(now); }

  private:
    [[nodiscard]] bool answers() const {
        const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        socket_.copy(address.sun_path, sizeof address.sun_path - 1);
        return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    }
    std::string socket_;
    std::vector<std::string> plugin_;
    pid_t pid_ = 0;
};

pid_t worker_of(const DiskBed& bed) {
    std::ifstream file(bed.daemon.directory() + "/blk/" + std::to_string(bed.t.domid) + ".worker");
    pid_t pid = 0;
    file >> pid;
    return pid;
}

frontend::Options two_queues() {
    frontend::Options options;
    options.queues = 2;
    return options;
}

void check_clean(Load& load) {
    REQUIRE(load.drain());
    REQUIRE(load.read_all());
    CHECK(load.errors == 0);
    CHECK(load.corrupt == 0);
    CHECK(load.broken().empty());
}

}  // namespace

TEST_CASE("an NBD disk: its server and its worker are killed under load, and blkbackd is restarted; nothing is lost") {
    DiskBed bed("[disk]\nmax_queues = 2\n");
    Server server(bed, {"file", bed.file("disk.img", kSectors * 512)});
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(server.address())));
    auto front = bed.front(two_queues());
    must(front->attach());
    Load load(*front, 3);
    const auto go_on = [&] {
        const uint64_t since = load.answers + 300;
        REQUIRE(load.run_until([&] { return load.answers >= since; }));
    };
    for (int round = 0; round < 4; ++round) {
        go_on();
        server.kill();
        for (int i = 0; i < 20; ++i) REQUIRE(load.run_until([] { return true; }));
        server.start();
        go_on();
        const pid_t worker = worker_of(bed);
        REQUIRE(worker != 0);
        ::kill(worker, SIGKILL);
        REQUIRE(load.run_until([&] { return worker_of(bed) != 0 && worker_of(bed) != worker; }));
        go_on();
        if (round == 1) {
            bed.daemon.stop();
            bed.daemon.start();
        }
        if (round == 2) {  // the server too, while the successor looks for it
            server.kill();
            ::kill(worker_of(bed), SIGKILL);
            REQUIRE(load.run_until([&] { return worker_of(bed) != 0; }));
            server.start();
            go_on();
        }
    }
    check_clean(load);
    CHECK(bed.node(bed.back() + "/state") == "4");
    must(front->close());
    must(bed.xl.detach_disk(bed.t.domid, 51712));
    bed.daemon.wait_without_workers();
}

TEST_CASE("what a slow server still has of a dead worker does not undo a newer write") {
    DiskBed bed;
    const std::string folder = bed.t.core.directory();
    const std::string file = bed.file("disk.img");
    const auto mark = [&](const char* name) { return folder + "/" + name; };
    const auto wait_for = [](const std::string& path) {
        for (int i = 0; i < 4000 && !std::filesystem::exists(path); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        REQUIRE(std::filesystem::exists(path));
    };
    // One write, the next after `slow` is there, takes a second; others go on beside it.
    const std::string write = "dd of=" + file + " seek=$4 conv=notrunc oflag=seek_bytes status=none";
    Server server(bed, {"eval", "thread_model=echo parallel", "get_size=echo 1048576",
                        "pread=dd if=" + file + " skip=$4 count=$3 iflag=count_bytes,skip_bytes status=none",
                        "can_write=exit 0", "can_flush=exit 0", "flush=exit 0",
                        "pwrite=if mv " + mark("slow") + " " + mark("busy") + " 2>/dev/null; then sleep 1; " + write + "; touch " +
                            mark("landed") + "; else " + write + "; fi"});
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(server.address())));
    auto front = bed.front();
    must(front->attach());
    std::ofstream(mark("slow")) << "now";
    int status = 1;
    std::thread guest([&] {
        std::string older(4096, 'a');
        status = transfer(*front, Op::write, 8, older);
    });
    wait_for(mark("busy"));
    ::kill(worker_of(bed), SIGKILL);
    guest.join();
    CHECK(status == 0);
    std::string newer(4096, 'b');
    CHECK(transfer(*front, Op::write, 8, newer) == 0);
    wait_for(mark("landed"));
    std::string found(4096, '\0');
    CHECK(transfer(*front, Op::read, 8, found) == 0);
    CHECK(found == newer);
    must(front->close());
}

TEST_CASE("an NBD disk that cannot be had, or whose server stays away: one line, or errors after the reconnect time") {
    DiskBed bed("[disk]\nnbd_reconnect_seconds = 1\n[policy]\ndeny = [\"/proc\"]\n");
    Server server(bed, {"file", "dir=" + bed.t.core.directory()});
    REQUIRE_FALSE(bed.file("disk.img").empty());
    const auto refused = [&](const std::string& target, const std::string& why) {
        const auto attached = bed.xl.attach_disk(bed.t.domid, bed.disk(target));
        REQUIRE_FALSE(attached.ok());
        CHECK_THAT(attached.error().message, ContainsSubstring(why));
        CHECK(attached.error().message.find('\n') == std::string::npos);
        bed.daemon.wait_without_workers();
    };
    refused(server.address("nothing"), "nothing");
    refused("nbd+unix:///x?socket=" + bed.t.core.directory() + "/none", "No such file");
    refused("nbd+unix:///x?socket=" + bed.t.core.directory() + "/disk.img", "no socket");
    refused("nbd+unix:///x?socket=/proc/1/x", "/proc");
    refused("nbd://127.0.0.1:1/x", "refused");
    refused("nbd+unix:///x", "socket=");
    must(bed.xl.attach_disk(bed.t.domid, bed.disk(server.address("disk.img"))));
    auto front = bed.front();
    must(front->attach());
    std::string data(4096, 'n');
    REQUIRE(transfer(*front, Op::write, 8, data) == 0);
    server.kill();
    CHECK(transfer(*front, Op::read, 8, data) != 0);
    server.start();
    for (int i = 0; i < 100 && transfer(*front, Op::read, 8, data) != 0; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    CHECK(data == std::string(4096, 'n'));
    CHECK(transfer(*front, Op::read, 8, data) == 0);
    must(front->close());
}
