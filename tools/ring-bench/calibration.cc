// SPDX-License-Identifier: Apache-2.0
//
// See calibration.h.
#include "tools/ring-bench/calibration.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstring>
#include <memory>
#include <thread>

#include "runtime/poll_policy.h"

namespace ringback::bench {
namespace {

template <typename Body>
double ns_each(uint32_t count, Body body) {
    const uint64_t start = monotonic_ns();
    for (uint32_t i = 0; i < count; ++i)
        body(i);
    return static_cast<double>(monotonic_ns() - start) / count;
}

double copy_ns(size_t arena_bytes, uint32_t count) {
    constexpr size_t kPage = 4096;
    auto arena = std::make_unique<char[]>(arena_bytes);
    std::memset(arena.get(), 1, arena_bytes);
    const size_t pages = arena_bytes / kPage;
    // A stride that is coprime to the number of pages visits them all and defeats the prefetcher.
    const size_t stride = pages / 2 + 1;
    size_t at = 0;
    return ns_each(count, [&](uint32_t) {
        const size_t to = (at + stride) % pages;
        std::memcpy(&arena[to * kPage], &arena[at * kPage], kPage);
        asm volatile("" ::: "memory");
        at = to;
    });
}

double ping_pong_ns() {
    if (std::thread::hardware_concurrency() < 2) return 0;
    constexpr uint32_t kRounds = 20000;
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
    const int here = ::sched_getcpu();
    int other = -1;
    for (int cpu = 0; cpu < CPU_SETSIZE && other < 0; ++cpu)
        if (CPU_ISSET(cpu, &allowed) && cpu != here) other = cpu;
    if (other < 0) return 0;
    alignas(64) std::atomic<uint32_t> ball{0};
    std::thread partner([&] {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(other, &one);
        ::pthread_setaffinity_np(::pthread_self(), sizeof one, &one);
        for (uint32_t i = 0; i < kRounds; ++i) {
            while (ball.load(std::memory_order_acquire) != 2 * i + 1) {
            }
            ball.store(2 * i + 2, std::memory_order_release);
        }
    });
    const double ns = ns_each(kRounds, [&](uint32_t i) {
        ball.store(2 * i + 1, std::memory_order_release);
        while (ball.load(std::memory_order_acquire) != 2 * i + 2) {
        }
    });
    partner.join();
    return ns;
}

}  // namespace

Calibration calibrate() {
    Calibration c;
    c.syscall_ns = ns_each(100000, [](uint32_t) { ::syscall(SYS_getppid); });
    c.copy_l2_ns = copy_ns(128 << 10, 200000);
    c.copy_dram_ns = copy_ns(256 << 20, 100000);
    c.ping_pong_ns = ping_pong_ns();
    c.eventfd_wake_us = static_cast<double>(measure_wake_cost()) / 1000;
    return c;
}

}  // namespace ringback::bench
