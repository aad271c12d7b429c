// SPDX-License-Identifier: Apache-2.0
#include "fake_store.h"

#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
extern "C" {
#include <xenstore.h>
}

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "runtime/check.h"
#include "runtime/child_process.h"

namespace ringback::fuzz {

namespace {

constexpr size_t kMaxEvents = 4096;

int wake = -1;  // readable while there are events
uint32_t next_transaction = 1;
int64_t now_ns = 1'000'000'000'000;
uint32_t started = 0;
bool starting = false;

void set_readable(bool readable) {
    uint64_t value = 1;
    if (readable) {
        INVARIANT(::write(wake, &value, sizeof value) == sizeof value);
    } else {
        INVARIANT(::read(wake, &value, sizeof value) == sizeof value);
    }
}

bool is_below(const std::string& path, const std::string& above) {
    return path.size() > above.size() && path.starts_with(above) && path[above.size()] == '/';
}

}  // namespace

FakeStore& FakeStore::get() {
    static FakeStore only;
    if (wake < 0) wake = ::eventfd(0, EFD_CLOEXEC);
    return only;
}

void FakeStore::put(Nodes& nodes, const std::string& path, const std::string& value) {
    for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
        nodes.try_emplace(path.substr(0, slash));
    }
    nodes[path] = value;
}

bool FakeStore::erase(Nodes& nodes, const std::string& path) {
    if (nodes.erase(path) == 0) return false;
    for (auto node = nodes.upper_bound(path); node != nodes.end() && node->first.starts_with(path);) {
        node = is_below(node->first, path) ? nodes.erase(node) : std::next(node);
    }
    return true;
}

void FakeStore::tell(const std::string& path, const std::string& token) {
    if (events.size() >= kMaxEvents) return;
    if (events.empty()) set_readable(true);
    events.emplace_back(path, token);
}

void FakeStore::changed(const std::string& path) {
    for (const auto& [watched, token] : watches) {
        if (path == watched || is_below(path, watched)) tell(path, token);
        if (is_below(watched, path)) tell(watched, token);
    }
}

void FakeStore::write(const std::string& path, const std::string& value) {
    put(nodes, path, value);
    changed(path);
}
void FakeStore::remove(const std::string& path) {
    if (erase(nodes, path)) changed(path);
}
std::optional<std::string> FakeStore::read(const std::string& path) const {
    const auto found = nodes.find(path);
    if (found == nodes.end()) return std::nullopt;
    return found->second;
}

void pass_time(std::chrono::milliseconds time) { now_ns += std::chrono::nanoseconds(time).count(); }
uint32_t take_started() { return std::exchange(started, 0); }

}  // namespace ringback::fuzz

using namespace ringback::fuzz;

namespace {

FakeStore& store() { return FakeStore::get(); }
FakeStore::Nodes& nodes_of(xs_transaction_t transaction) {
    if (transaction == XBT_NULL) return store().nodes;
    return store().transactions.at(transaction).nodes;
}
void note(xs_transaction_t transaction, const char* path) {
    if (transaction == XBT_NULL) return store().changed(path);
    store().transactions.at(transaction).changes.emplace_back(path);
}
// As libxenstore gives it: the pointers and what they point at in one piece.
char** packed(const std::vector<std::string>& texts) {
    size_t bytes = texts.size() * sizeof(char*) + 1;
    for (const std::string& text : texts) bytes += text.size() + 1;
    auto** list = static_cast<char**>(std::malloc(bytes));
    char* at = reinterpret_cast<char*>(list + texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
        list[i] = at;
        std::memcpy(at, texts[i].c_str(), texts[i].size() + 1);
        at += texts[i].size() + 1;
    }
    return list;
}

}  // namespace

extern "C" {

xs_handle* xs_open(unsigned long) { return reinterpret_cast<xs_handle*>(&store()); }
void xs_close(xs_handle*) {}
int xs_fileno(xs_handle*) { return wake; }

void* xs_read(xs_handle*, xs_transaction_t transaction, const char* path, unsigned* length) {
    const auto& nodes = nodes_of(transaction);
    const auto found = nodes.find(path);
    if (found == nodes.end()) {
        errno = ENOENT;
        return nullptr;
    }
    auto* value = static_cast<char*>(std::malloc(found->second.size() + 1));
    std::memcpy(value, found->second.c_str(), found->second.size() + 1);
    *length = static_cast<unsigned>(found->second.size());
    return value;
}
bool xs_write(xs_handle*, xs_transaction_t transaction, const char* path, const void* data, unsigned length) {
    FakeStore::put(nodes_of(transaction), path, std::string(static_cast<const char*>(data), length));
    note(transaction, path);
    return true;
}
bool xs_rm(xs_handle*, xs_transaction_t transaction, const char* path) {
    if (!FakeStore::erase(nodes_of(transaction), path)) {
        errno = ENOENT;
        return false;
    }
    note(transaction, path);
    return true;
}
char** xs_directory(xs_handle*, xs_transaction_t transaction, const char* path, unsigned* count) {
    const auto& nodes = nodes_of(transaction);
    if (!nodes.contains(path)) {
        errno = ENOENT;
        return nullptr;
    }
    std::vector<std::string> names;
    const std::string above = std::string(path) + "/";
    for (auto node = nodes.lower_bound(above); node != nodes.end() && node->first.starts_with(above); ++node) {
        const std::string name = node->first.substr(above.size());
        if (name.find('/') == std::string::npos) names.push_back(name);
    }
    *count = static_cast<unsigned>(names.size());
    return packed(names);
}
bool xs_watch(xs_handle*, const char* path, const char* token) {
    store().watches.emplace_back(path, token);
    store().tell(path, token);
    return true;
}
bool xs_unwatch(xs_handle*, const char* path, const char* token) {
    return std::erase(store().watches, std::pair<std::string, std::string>(path, token)) != 0;
}
char** xs_check_watch(xs_handle*) {
    if (store().events.empty()) {
        errno = EAGAIN;
        return nullptr;
    }
    const auto [path, token] = store().events.front();
    store().events.pop_front();
    if (store().events.empty()) set_readable(false);
    return packed({path, token});
}
xs_transaction_t xs_transaction_start(xs_handle*) {
    store().transactions[next_transaction].nodes = store().nodes;
    return next_transaction++;
}
bool xs_transaction_end(xs_handle*, xs_transaction_t transaction, bool abort) {
    auto ended = store().transactions.extract(transaction);
    INVARIANT(!ended.empty());
    if (abort) return true;
    if (store().refused_commits > 0) {
        --store().refused_commits;
        errno = EAGAIN;
        return false;
    }
    store().nodes = std::move(ended.mapped().nodes);
    for (const std::string& path : ended.mapped().changes) store().changed(path);
    return true;
}

// In the place of std::chrono::steady_clock::now(), of ringback::spawn(), and of the system calls that know processes.
int64_t __wrap__ZNSt6chrono3_V212steady_clock3nowEv() { return now_ns; }

long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f) {
    if (number == SYS_pidfd_open) {
        // A child is not watched: it is this process. One that said hello is, and ends when it is signalled.
        if (std::exchange(starting, false)) {
            errno = ENOSYS;
            return -1;
        }
        return ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    if (number == SYS_pidfd_send_signal) {
        const uint64_t one = 1;
        return ::write(static_cast<int>(a), &one, sizeof one) == sizeof one ? 0 : -1;
    }
    return __real_syscall(number, a, b, c, d, e, f);
}
int __wrap_kill(pid_t, int) {
    INVARIANT(!"a process is ended that is none of ours");
    return -1;
}
}

ringback::Result<pid_t> fake_spawn(const std::vector<std::string>&) asm(
    "__wrap__ZN8ringback5spawnERKSt6vectorINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEESaIS6_EE");
ringback::Result<pid_t> fake_spawn(const std::vector<std::string>& arguments) {
    INVARIANT(!arguments.empty());
    ++started;
    starting = true;
    return ::getpid();  // whoever connects is us
}
