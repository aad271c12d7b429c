// SPDX-License-Identifier: Apache-2.0
#include "tests/macpool/etcd_cluster.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "runtime/unique_fd.h"

namespace ringback::test {

namespace {

constexpr const char* kProgram = "/usr/bin/etcd";

// Free at this moment; all are held open until the last is chosen, so that they differ.
std::vector<int> free_ports(size_t count) {
    std::vector<UniqueFd> sockets;
    std::vector<int> ports;
    for (size_t index = 0; index < count; ++index) {
        UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof address;
        if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
            ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
            throw std::runtime_error("no free port on loopback");
        }
        ports.push_back(ntohs(address.sin_port));
        sockets.push_back(std::move(socket));
    }
    return ports;
}

size_t ignore(char*, size_t size, size_t count, void*) {
    return size * count;
}

}  // namespace

bool EtcdCluster::available() {
    return ::access(kProgram, X_OK) == 0;
}

EtcdCluster::EtcdCluster(std::string certificates) : certificates_(std::move(certificates)) {
    // In memory where that is possible: three members that sync to one disk measure the disk.
    std::string name =
        (::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : std::filesystem::temp_directory_path().string()) +
        "/macpool-etcd-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make " + name);
    directory_ = name;
    const auto ports = free_ports(6);
    for (size_t index = 0; index < members_.size(); ++index) {
        members_[index].client_port = ports[2 * index];
        members_[index].peer_port = ports[2 * index + 1];
    }
    for (size_t index = 0; index < members_.size(); ++index)
        start_member(index);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    for (const Member& member : members_) {
        // Its health says whether it knows a leader.
        while (!healthy(member)) {
            if (std::chrono::steady_clock::now() > deadline)
                throw std::runtime_error("etcd does not start; see " + directory_);
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
    }
}

EtcdCluster::~EtcdCluster() {
    for (size_t index = 0; index < members_.size(); ++index)
        kill_member(index);
    std::filesystem::remove_all(directory_);
}

void EtcdCluster::start_member(size_t member) {
    Member& own = members_[member];
    std::string cluster;
    for (size_t index = 0; index < members_.size(); ++index) {
        cluster +=
            fmt::format("{}m{}=http://127.0.0.1:{}", index == 0 ? "" : ",", index, members_[index].peer_port);
    }
    const std::string client =
        fmt::format("http{}://127.0.0.1:{}", certificates_.empty() ? "" : "s", own.client_port);
    const std::string peer = fmt::format("http://127.0.0.1:{}", own.peer_port);
    std::vector<std::string> words{kProgram,
                                   "--name",
                                   fmt::format("m{}", member),
                                   "--data-dir",
                                   fmt::format("{}/m{}", directory_, member),
                                   "--listen-client-urls",
                                   client,
                                   "--advertise-client-urls",
                                   client,
                                   "--listen-peer-urls",
                                   peer,
                                   "--initial-advertise-peer-urls",
                                   peer,
                                   "--initial-cluster",
                                   cluster,
                                   "--initial-cluster-state",
                                   "new",
                                   "--initial-cluster-token",
                                   directory_,
                                   "--logger",
                                   "zap"};
    if (!certificates_.empty()) {
        for (const char* option : {"cert-file=server.pem", "key-file=server.key", "trusted-ca-file=ca.pem"}) {
            const std::string text = option;
            const size_t equals = text.find('=');
            words.push_back("--" + text.substr(0, equals));
            words.push_back(certificates_ + "/" + text.substr(equals + 1));
        }
        words.push_back("--client-cert-auth");
    }
    std::vector<char*> arguments;
    for (const std::string& word : words)
        arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    const std::string log = fmt::format("{}/m{}.log", directory_, member);
    const pid_t parent = ::getpid();
    own.pid = ::fork();
    if (own.pid == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) ::_exit(1);
        const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
        ::dup2(out, 1);
        ::dup2(out, 2);
        ::execv(kProgram, arguments.data());
        ::_exit(127);
    }
}

void EtcdCluster::kill_member(size_t member) {
    Member& own = members_[member];
    if (own.pid <= 0) return;
    ::kill(own.pid, SIGKILL);
    ::waitpid(own.pid, nullptr, 0);
    own.pid = -1;
}

std::string EtcdCluster::url(const std::string& prefix) const {
    return fmt::format("etcd+http{}://127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}/{}",
                       certificates_.empty() ? "" : "s", members_[0].client_port, members_[1].client_port,
                       members_[2].client_port, prefix);
}

bool EtcdCluster::healthy(const Member& member) const {
    CURL* curl = curl_easy_init();
    const std::string url =
        fmt::format("http{}://127.0.0.1:{}/health", certificates_.empty() ? "" : "s", member.client_port);
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    if (!certificates_.empty()) {
        curl_easy_setopt(curl, CURLOPT_CAINFO, (certificates_ + "/ca.pem").c_str());
        curl_easy_setopt(curl, CURLOPT_SSLCERT, (certificates_ + "/client.pem").c_str());
        curl_easy_setopt(curl, CURLOPT_SSLKEY, (certificates_ + "/client.key").c_str());
    }
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, ignore);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 2000L);
    long status = 0;
    if (curl_easy_perform(curl) == CURLE_OK) curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(curl);
    return status == 200;
}

}  // namespace ringback::test
