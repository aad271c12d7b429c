// SPDX-License-Identifier: Apache-2.0
//
// See slow_disk.h. The protocol is linux/fuse.h; a root directory with one file in it needs little of it.
#include "slow_disk.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/unique_fd.h"

namespace ringback::test {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kRoot = FUSE_ROOT_ID;
constexpr uint64_t kFile = 2;
constexpr const char* kName = "disk.img";
constexpr size_t kMaxTransfer = 1U << 20;
constexpr uint16_t kMaxAsync = 512;

}  // namespace

struct SlowDisk::Server {
    struct Waiting {
        fuse_in_header header{};
        Kind kind{};
        uint64_t offset = 0;
        uint32_t size = 0;
        std::vector<std::byte> data;  // of a write
        Clock::time_point due;
        bool held = false;
    };

    Server(UniqueFd fuse, uint64_t bytes) : device(std::move(fuse)), wake(::eventfd(0, EFD_CLOEXEC)), memory(bytes) {}

    void poke() const {
        const uint64_t one = 1;
        (void)!::write(wake.get(), &one, sizeof one);
    }

    void run() {
        std::vector<std::byte> buffer(kMaxTransfer + 65536);
        for (;;) {
            std::array<pollfd, 2> events{pollfd{device.get(), POLLIN, 0}, pollfd{wake.get(), POLLIN, 0}};
            const timespec patience = until_due();
            (void)::ppoll(events.data(), events.size(), &patience, nullptr);
            if ((events[1].revents & POLLIN) != 0) {
                uint64_t count = 0;
                (void)!::read(wake.get(), &count, sizeof count);
                if (ending) return;
            }
            if (events[0].revents != 0) {
                const ssize_t got = ::read(device.get(), buffer.data(), buffer.size());
                if (got < 0 && errno == ENODEV) return;  // unmounted
                if (got >= static_cast<ssize_t>(sizeof(fuse_in_header))) take(buffer);
            }
            finish_due();
        }
    }

    timespec until_due() {
        const std::lock_guard lock(mutex);
        auto next = Clock::now() + std::chrono::seconds(1);
        for (const Waiting& one : waiting) next = one.held ? next : std::min(next, one.due);
        const auto left = std::max(next - Clock::now(), Clock::duration::zero());
        return {std::chrono::duration_cast<std::chrono::seconds>(left).count(),
                static_cast<long>((left % std::chrono::seconds(1)).count())};
    }

    void finish_due() {
        for (;;) {
            Waiting one;
            {
                const std::lock_guard lock(mutex);
                const auto now = Clock::now();
                const auto found = std::find_if(waiting.begin(), waiting.end(),
                                                [&](const Waiting& w) { return !w.held && w.due <= now; });
                if (found == waiting.end()) return;
                one = std::move(*found);
                waiting.erase(found);
                if (one.kind == Kind::write) {
                    std::memcpy(&memory[one.offset], one.data.data(), one.size);
                } else {
                    one.data.assign(memory.begin() + static_cast<ptrdiff_t>(one.offset),
                                    memory.begin() + static_cast<ptrdiff_t>(one.offset + one.size));
                }
                ++finished[static_cast<size_t>(one.kind)];
            }
            if (one.kind == Kind::write) {
                fuse_write_out out{};
                out.size = one.size;
                reply(one.header, &out, sizeof out);
            } else {
                reply(one.header, one.data.data(), one.data.size());
            }
        }
    }

    void reply(const fuse_in_header& to, const void* data, size_t size, int error = 0) const {
        fuse_out_header header{};
        header.len = static_cast<uint32_t>(sizeof header + size);
        header.error = -error;
        header.unique = to.unique;
        const std::array<iovec, 2> parts{iovec{&header, sizeof header}, iovec{const_cast<void*>(data), size}};
        (void)!::writev(device.get(), parts.data(), size > 0 ? 2 : 1);  // fails for one that was given up: nobody waits
    }

    [[nodiscard]] fuse_attr attributes(uint64_t node) const {
        fuse_attr attr{};
        attr.ino = node;
        attr.nlink = 1;
        attr.mode = node == kRoot ? S_IFDIR | 0755 : S_IFREG | 0644;
        attr.size = node == kRoot ? 0 : memory.size();
        attr.blocks = attr.size / 512;
        attr.blksize = 4096;
        return attr;
    }

    void take(const std::vector<std::byte>& buffer) {
        fuse_in_header header{};
        std::memcpy(&header, buffer.data(), sizeof header);
        const std::byte* body = buffer.data() + sizeof header;
        switch (header.opcode) {
            case FUSE_INIT: {
                fuse_init_out out{};
                out.major = FUSE_KERNEL_VERSION;
                out.minor = 31;
                out.max_readahead = 0;
                out.flags = FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_BIG_WRITES | FUSE_MAX_PAGES;
                out.max_background = kMaxAsync;
                out.congestion_threshold = kMaxAsync;
                out.max_write = kMaxTransfer;
                out.max_pages = kMaxTransfer / 4096;
                return reply(header, &out, sizeof out);
            }
            case FUSE_LOOKUP: {
                if (std::strcmp(reinterpret_cast<const char*>(body), kName) != 0) return reply(header, nullptr, 0, ENOENT);
                fuse_entry_out out{};
                out.nodeid = kFile;
                out.entry_valid = out.attr_valid = 3600;
                out.attr = attributes(kFile);
                return reply(header, &out, sizeof out);
            }
            case FUSE_GETATTR: {
                fuse_attr_out out{};
                out.attr_valid = 3600;
                out.attr = attributes(header.nodeid);
                return reply(header, &out, sizeof out);
            }
            case FUSE_OPEN: {
                fuse_open_out out{};
                out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
                return reply(header, &out, sizeof out);
            }
            case FUSE_STATFS: {
                fuse_statfs_out out{};
                out.st.bsize = out.st.frsize = 4096;
                return reply(header, &out, sizeof out);
            }
            case FUSE_READ: {
                fuse_read_in in{};
                std::memcpy(&in, body, sizeof in);
                return add(header, Kind::read, in.offset, in.size, nullptr);
            }
            case FUSE_WRITE: {
                fuse_write_in in{};
                std::memcpy(&in, body, sizeof in);
                return add(header, Kind::write, in.offset, in.size, body + sizeof in);
            }
            case FUSE_RELEASE:
            case FUSE_FLUSH:
            case FUSE_FSYNC: return reply(header, nullptr, 0);
            case FUSE_FORGET:
            case FUSE_BATCH_FORGET:
            case FUSE_INTERRUPT: return;  // have no answer
            default: return reply(header, nullptr, 0, ENOSYS);
        }
    }

    void add(const fuse_in_header& header, Kind kind, uint64_t offset, uint32_t size, const std::byte* data) {
        if (offset >= memory.size()) return reply(header, nullptr, 0);  // the end of the file
        const std::lock_guard lock(mutex);
        Waiting one;
        one.header = header;
        one.kind = kind;
        one.offset = offset;
        one.size = static_cast<uint32_t>(std::min<uint64_t>(size, memory.size() - offset));
        if (data != nullptr) one.data.assign(data, data + one.size);
        one.due = Clock::now() + longest * static_cast<int64_t>(random() % 1000) / (random() % 8 == 0 ? 1000 : 50'000);
        ++arrivals[static_cast<size_t>(kind)];
        size_t& left = to_hold[static_cast<size_t>(kind)];
        if (left > 0) {
            --left;
            one.held = true;
        }
        waiting.push_back(std::move(one));
    }

    const UniqueFd device;
    const UniqueFd wake;
    std::thread thread;
    std::atomic<bool> ending = false;

    mutable std::mutex mutex;  // what is below
    std::vector<std::byte> memory;
    std::vector<Waiting> waiting;
    std::array<size_t, 2> to_hold{}, arrivals{}, finished{};  // of each kind
    std::chrono::microseconds longest{0};
    std::mt19937_64 random{11};
};

std::unique_ptr<SlowDisk> SlowDisk::mount(uint64_t bytes) {
    UniqueFd fuse(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
    // Of our own, so that a test that dies leaves no mount behind; not shared with the machine's.
    if (!fuse || ::unshare(CLONE_NEWNS) != 0) return nullptr;
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return nullptr;
    std::string directory = "/tmp/ringback-slow-XXXXXX";
    if (::mkdtemp(directory.data()) == nullptr) return nullptr;
    const std::string options = "fd=" + std::to_string(fuse.get()) + ",rootmode=40000,user_id=" +
                                std::to_string(::geteuid()) + ",group_id=" + std::to_string(::getegid());
    if (::mount("ringback", directory.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) != 0) {
        (void)::rmdir(directory.c_str());
        return nullptr;
    }
    return std::unique_ptr<SlowDisk>(new SlowDisk(directory, std::make_unique<Server>(std::move(fuse), bytes)));
}

SlowDisk::SlowDisk(std::string directory, std::unique_ptr<Server> server)
    : directory_(std::move(directory)), server_(std::move(server)) {
    server_->thread = std::thread([it = server_.get()] { it->run(); });
}

SlowDisk::~SlowDisk() {
    (void)::umount2(directory_.c_str(), MNT_DETACH);
    server_->ending = true;
    server_->poke();
    server_->thread.join();
    (void)::rmdir(directory_.c_str());
}

void SlowDisk::delay(std::chrono::microseconds longest) {
    const std::lock_guard lock(server_->mutex);
    server_->longest = longest;
}

void SlowDisk::hold(Kind kind, size_t count) {
    const std::lock_guard lock(server_->mutex);
    server_->to_hold[static_cast<size_t>(kind)] = count;
}

void SlowDisk::release() {
    {
        const std::lock_guard lock(server_->mutex);
        server_->to_hold = {};
        for (auto& one : server_->waiting) one.held = false;
    }
    server_->poke();
}

size_t SlowDisk::held() const {
    const std::lock_guard lock(server_->mutex);
    return static_cast<size_t>(
        std::count_if(server_->waiting.begin(), server_->waiting.end(), [](const auto& one) { return one.held; }));
}

size_t SlowDisk::arrived(Kind kind) const {
    const std::lock_guard lock(server_->mutex);
    return server_->arrivals[static_cast<size_t>(kind)];
}

size_t SlowDisk::done(Kind kind) const {
    const std::lock_guard lock(server_->mutex);
    return server_->finished[static_cast<size_t>(kind)];
}

uint64_t SlowDisk::content(uint64_t offset) const {
    const std::lock_guard lock(server_->mutex);
    uint64_t value = 0;
    std::memcpy(&value, &server_->memory[offset], sizeof value);
    return value;
}

}  // namespace ringback::test
