// SPDX-License-Identifier: Apache-2.0
//
// The locks on images: between our own generations, and both ways with the real QEMU tools.
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include <array>
#include <thread>

#include "disk-images/lock.h"
#include "image_fixture.h"

using namespace ringback;
using namespace ringback::image;
using namespace ringback::image::test;

namespace {

constexpr uint64_t kMiB = 1 << 20;

bool have(const char* program) {
    return std::system(fmt::format("command -v {} >/dev/null 2>&1", program).c_str()) == 0;
}

struct Outcome {
    int status;
    std::string text;
};
Outcome shell(const std::string& command) {
    FILE* pipe = popen(("timeout 20 " + command + " 2>&1 </dev/null").c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::string text;
    std::array<char, 512> part{};
    while (fgets(part.data(), part.size(), pipe) != nullptr)
        text += part.data();
    const int status = pclose(pipe);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text};
}

// A qemu-io that has the image open until this object ends; it leaves by itself when its input is closed.
class QemuIo {
  public:
    QemuIo(const std::string& path, bool writable) {
        int in[2];
        int out[2];
        REQUIRE((pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0));
        pid_ = fork();
        REQUIRE(pid_ >= 0);
        if (pid_ == 0) {
            dup2(in[0], STDIN_FILENO);
            dup2(out[1], STDOUT_FILENO);
            dup2(out[1], STDERR_FILENO);
            if (writable) {
                execlp("qemu-io", "qemu-io", "-f", "raw", path.c_str(), static_cast<char*>(nullptr));
            } else {
                execlp("qemu-io", "qemu-io", "-r", "-f", "raw", path.c_str(), static_cast<char*>(nullptr));
            }
            _exit(127);
        }
        input_.reset(in[1]);
        ::close(in[0]);
        ::close(out[1]);
        const UniqueFd output(out[0]);
        const std::string command = "read 0 512\n";
        REQUIRE(::write(in[1], command.data(), command.size()) == static_cast<ssize_t>(command.size()));
        std::string text;
        std::array<char, 256> part{};
        ssize_t got = 0;
        while (text.find("read 512/512") == std::string::npos &&
               (got = ::read(output.get(), part.data(), part.size())) > 0) {
            text.append(part.data(), static_cast<size_t>(got));
        }
        INFO(text);
        CHECK(text.find("read 512/512") != std::string::npos);
    }
    ~QemuIo() { close(); }
    void close() {
        if (pid_ < 0) return;
        input_.reset();
        waitpid(pid_, nullptr, 0);
        pid_ = -1;
    }
    QemuIo(const QemuIo&) = delete;
    QemuIo& operator=(const QemuIo&) = delete;

  private:
    pid_t pid_ = -1;
    UniqueFd input_;
};

std::string refusal(const std::string& path, bool writable) {
    Disk disk;
    const Result<void> opened = disk.open(path, {.writable = writable}, true);
    REQUIRE_FALSE(opened.ok());
    CHECK(opened.error().code == EBUSY);
    CHECK(opened.error().message.find(path) != std::string::npos);
    CHECK(opened.error().message.find("in use by another program") != std::string::npos);
    return opened.error().message;
}

void lock_byte(const File& file, short type, off_t at, off_t length) {
    struct flock range {};
    range.l_type = type;
    range.l_whence = SEEK_SET;
    range.l_start = at;
    range.l_len = length;
    REQUIRE(fcntl(file.fd.get(), F_OFD_SETLK, &range) == 0);
}

}  // namespace

TEST_CASE("lock: one writer, or any number of readers") {
    TempDir dir;
    const std::string path = dir.file("disk", kMiB);
    {
        const Disk writer(path, true, true);
        const std::string text = refusal(path, true);
        CHECK(text.find(fmt::format("pid {}", getpid())) != std::string::npos);
        refusal(path, false);
    }
    const Disk one(path, false, true);
    const Disk two(path, false, false);
    refusal(path, true);
}

TEST_CASE("lock: a refused attempt leaves nothing behind") {
    TempDir dir;
    const std::string path = dir.file("disk", kMiB);
    const File blocker = std::move(open_file(path, true, false)).value();
    lock_byte(blocker, F_RDLCK, 101, 1);
    // Stays open, so that nothing but the attempt itself can free what it took.
    const File mine = std::move(open_file(path, true, false)).value();
    CHECK_FALSE(ImageLock::take(mine.fd.get(), path, true, 0).ok());
    CHECK(flock(blocker.fd.get(), LOCK_EX | LOCK_NB) == 0);
    lock_byte(blocker, F_WRLCK, 100, 200);
}

TEST_CASE("lock: a bounded wait ends with a refusal, and nothing is waited for without one") {
    TempDir dir;
    const std::string path = dir.file("disk", kMiB);
    auto predecessor = std::make_unique<Disk>(path, true, true);
    Disk successor;
    CHECK_FALSE(successor.open(path, {.writable = true, .lock_wait_ms = 20}, true).ok());
    predecessor.reset();
    CHECK(successor.open(path, {.writable = true}, true).ok());
}

TEST_CASE("lock: the fence holds until the killed predecessor is gone, and no longer") {
    TempDir dir;
    const std::string path = dir.file("disk", kMiB);
    int ready[2];
    REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(30);
        const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
        const auto lock = ImageLock::take(fd.get(), path, true, 0);
        const char answer = lock.ok() ? 'y' : 'n';
        if (::write(ready[1], &answer, 1) != 1) _exit(1);
        for (;;)
            pause();
    }
    char answer = 'n';
    REQUIRE(::read(ready[0], &answer, 1) == 1);
    ::close(ready[0]);
    ::close(ready[1]);
    CHECK(answer == 'y');
    refusal(path, true);
    std::thread killer([&] { kill(child, SIGKILL); });
    Disk successor;
    const Result<void> opened = successor.open(path, {.writable = true, .lock_wait_ms = 10'000}, true);
    killer.join();
    waitpid(child, nullptr, 0);
    CHECK(opened.ok());
}

TEST_CASE("lock: qemu-img refuses what we write, and reads what we read") {
    if (!have("qemu-img")) SKIP("qemu-img is not installed (package qemu-utils)");
    TempDir dir;
    const std::string path = dir.file("disk", kMiB);
    const std::string copy = "qemu-img convert -f raw -O raw " + path + " " + dir.path() + "/copy";
    const std::string resize = "qemu-img resize -f raw " + path + " 2M";
    {
        const Disk writer(path, true, true);
        for (const std::string& command : {copy, resize}) {
            const Outcome refused = shell(command);
            INFO(refused.text);
            CHECK(refused.status != 0);
            CHECK(refused.text.find("\"write\" lock") != std::string::npos);
        }
        // Told to share, it may look.
        CHECK(shell("qemu-img convert -U -f raw -O raw " + path + " " + dir.path() + "/copy").status == 0);
    }
    {
        const Disk reader(path, false, true);
        CHECK(shell(copy).status == 0);
        CHECK(shell(resize).status != 0);
    }
    CHECK(shell(resize).status == 0);
}

TEST_CASE("lock: we refuse what a QEMU tool writes") {
    if (!have("qemu-io")) SKIP("qemu-io is not installed (package qemu-utils)");
    TempDir dir;
    const std::string path = dir.file("disk", kMiB);
    QemuIo writer(path, true);
    for (const bool writable : {true, false}) {
        CHECK(refusal(path, writable).find("it has \"write\" access") != std::string::npos);
    }
    writer.close();
    const Disk disk(path, true, true);
}

TEST_CASE("lock: a reader that bears no writer keeps our writers out, and lets readers in") {
    // What qemu-img convert holds on its source: uses consistent read, bears neither writing nor resizing.
    TempDir dir;
    const std::string path = dir.file("disk", kMiB);
    const File source = std::move(open_file(path, true, false)).value();
    for (const off_t at : {100, 201, 203})
        lock_byte(source, F_RDLCK, at, 1);
    CHECK(refusal(path, true).find("it allows nobody else \"write\" access") != std::string::npos);
    const Disk beside(path, false, true);
}
