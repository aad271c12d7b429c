// SPDX-License-Identifier: Apache-2.0
//
// A real NBD server (nbdkit) on a Unix socket, that can be killed and started again, and an Opener that connects to it.
#pragma once

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <thread>

#include "disk-images/nbd/address.h"
#include "image_fixture.h"

namespace ringback::image::test {

class NbdServer {
  public:
    // `arguments`: nbdkit's, after those that say where it listens.
    NbdServer(std::string socket, std::vector<std::string> arguments) : socket_(std::move(socket)), arguments_(std::move(arguments)) {
        start();
    }
    ~NbdServer() { kill(); }
    NbdServer(const NbdServer&) = delete;
    NbdServer& operator=(const NbdServer&) = delete;

    void start() {
        ::unlink(socket_.c_str());
        std::vector<std::string> words{"nbdkit", "--foreground", "--exit-with-parent", "--unix", socket_};
        words.insert(words.end(), arguments_.begin(), arguments_.end());
        std::vector<char*> argv;
        for (std::string& word : words) argv.push_back(word.data());
        argv.push_back(nullptr);
        REQUIRE(::posix_spawnp(&pid_, "nbdkit", nullptr, nullptr, argv.data(), environ) == 0);
        const auto endpoint = nbd::unix_endpoint(socket_).value();
        // It makes the socket before it listens.
        for (int i = 0; i < 2000 && !nbd::connect(endpoint, 1, socket_).ok(); ++i) {
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
    void arguments(std::vector<std::string> now) { arguments_ = std::move(now); }

  private:
    std::string socket_;
    std::vector<std::string> arguments_;
    pid_t pid_ = 0;
};

struct NbdOpener final : Opener {
    Result<File> open(const std::string& name, Access access) override {
        const nbd::Address address = TRY(nbd::parse_address(name));
        const nbd::Endpoint endpoint =
            address.socket.empty() ? TRY(nbd::resolve(address, false))[0] : TRY(nbd::unix_endpoint(address.socket));
        ++connections;
        return File{TRY(nbd::connect(endpoint, 5, name)), access == Access::write, true, name};
    }
    int connections = 0;
};

// Like Disk, with the image on a server.
struct NbdDisk : Disk {
    explicit NbdDisk(const std::string& address, OpenOptions options = {.writable = true}) {
        auto result = open(address, options);
        INFO((result.ok() ? std::string() : result.error().message));
        REQUIRE(result.ok());
    }
    NbdDisk() = default;
    ~NbdDisk() {
        if (image) close_and_wait(*image, *reactor);
        image.reset();
    }
    Result<void> open(const std::string& address, const OpenOptions& options = {.writable = true}) {
        File file = TRY(server.open(address, options.writable ? Opener::Access::write : Opener::Access::read));
        image = TRY(open_image("nbd", std::move(file), server, *reactor, options));
        return {};
    }
    NbdOpener server;
};

}  // namespace ringback::image::test
