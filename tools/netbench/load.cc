// SPDX-License-Identifier: Apache-2.0
#include "tools/netbench/load.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "runtime/poll_policy.h"

namespace ringback::netbench {

namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kStragglers = 100'000'000;  // nothing came for so long: nothing will
constexpr uint16_t kNoRun = 0;
constexpr bridge::MacAddress kEverybody{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

double cpu_seconds() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6; };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

class Sender {
  public:
    Sender(const Ends& ends, const Job& job, uint16_t number)
        : ends_(ends),
          rate_(job.rate),
          length_(static_cast<uint64_t>(job.seconds * 1e9)),
          stream_(ends.from->address, ends.to->address, job.sizes, number),
          began_(monotonic_ns()) {}
    // False: it is over.
    bool step() {
        const uint64_t now = monotonic_ns();
        if (now - began_ >= length_) {
            ended_ = now;
            return false;
        }
        size_t count = kBurst;
        if (rate_ > 0) {
            const auto due = static_cast<uint64_t>(static_cast<double>(now - began_) / 1e9 * rate_);
            if (due <= stream_.frames()) return true;
            count = std::min<uint64_t>(kBurst, due - stream_.frames());
        }
        stream_.sent(ends_.from->send(stream_.make(count, now)));
        return true;
    }
    [[nodiscard]] const Stream& stream() const { return stream_; }
    [[nodiscard]] double seconds() const { return static_cast<double>(ended_ - began_) / 1e9; }

  private:
    const Ends& ends_;
    const double rate_;
    const uint64_t length_;
    Stream stream_;
    const uint64_t began_;
    uint64_t ended_ = 0;
};

// The other core than this thread's, if there is one.
void move_away(int from) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    for (int cpu = 0; cpu < static_cast<int>(std::thread::hardware_concurrency()); ++cpu) {
        if (cpu != from) CPU_SET(cpu, &cpus);
    }
    if (CPU_COUNT(&cpus) > 0) (void)::pthread_setaffinity_np(::pthread_self(), sizeof cpus, &cpus);
}

}  // namespace

Result<void> meet(const Ends& ends, double patience_seconds) {
    const uint64_t end = monotonic_ns() + static_cast<uint64_t>(patience_seconds * 1e9);
    Tally there(UINT16_MAX), back(UINT16_MAX);
    Stream forward(ends.from->address, ends.to->address, {kSmallest}, UINT16_MAX);
    Stream backward(ends.to->address, ends.from->address, {kSmallest}, UINT16_MAX);
    while (there.frames == 0 || back.frames == 0) {
        const uint64_t now = monotonic_ns();
        if (now > end) {
            return Error{ETIMEDOUT, fmt::format("send the first frames: {} arrived of {} one way, {} of {} the other", there.frames,
                                                forward.frames(), back.frames, backward.frames())};
        }
        forward.sent(ends.from->send(forward.make(1, now)));
        backward.sent(ends.to->send(backward.make(1, now)));
        for (const uint64_t until = now + 2'000'000; monotonic_ns() < until;) {
            ends.to->receive(there);
            ends.from->receive(back);
        }
    }
    return {};
}

Result<Outcome> run(const Ends& ends, const Job& job, uint16_t number) {
    Outcome outcome(number);
    Tally nobody(kNoRun);
    std::atomic<bool> sending{true};
    std::atomic<uint64_t> sent{0};
    const double cpu = cpu_seconds();
    const int here = ::sched_getcpu();
    // Until the sender has ended and what it sent is there, or nothing comes any more.
    const auto receive_rest = [&](Tally& tally) {
        uint64_t ended = 0;
        for (;;) {
            ends.to->receive(tally);
            if (sending.load(std::memory_order_acquire)) continue;
            const uint64_t now = monotonic_ns();
            if (ended == 0) ended = now;
            if (tally.frames >= sent.load(std::memory_order_relaxed) || now - std::max(tally.last_ns, ended) > kStragglers) return;
        }
    };
    std::thread receiver;
    if (ends.split) {
        receiver = std::thread([&] {
            move_away(here);
            receive_rest(outcome.tally);
        });
    }
    Sender sender(ends, job, number);
    Stream flood(ends.flood != nullptr ? ends.flood->address : kEverybody, kEverybody, {kSmallest}, kNoRun);
    while (sender.step()) {
        if (!ends.split) ends.to->receive(outcome.tally);
        if (!job.flood || ends.flood == nullptr) continue;
        flood.sent(ends.flood->send(flood.make(kBurst, 0)));
        ends.flood->receive(nobody);
        ends.from->receive(nobody);
    }
    sent = sender.stream().frames();
    sending.store(false, std::memory_order_release);
    if (ends.split)
        receiver.join();
    else
        receive_rest(outcome.tally);
    ends.from->receive(nobody);
    outcome.sent = sender.stream().frames();
    outcome.sent_bytes = sender.stream().bytes();
    outcome.flooded = flood.frames();
    outcome.seconds = sender.seconds();
    outcome.cpu_seconds = cpu_seconds() - cpu;
    for (const Endpoint* end : {ends.from, ends.to, ends.flood}) {
        if (end != nullptr && !end->broken().empty()) return Error{EPROTO, "send frames: " + end->broken()};
    }
    return outcome;
}

}  // namespace ringback::netbench
