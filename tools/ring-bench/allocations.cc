// SPDX-License-Identifier: Apache-2.0
//
// Counts what this process allocates with operator new. In a file of its own: inlined into its callers, the
// compiler would take the pair of malloc and free for a mismatch.
#include <atomic>
#include <cstdlib>
#include <new>

#include "tools/ring-bench/allocations.h"

namespace {
std::atomic<uint64_t> count{0};
}

namespace ringback::bench {
uint64_t allocations() {
    return count.load(std::memory_order_relaxed);
}
}  // namespace ringback::bench

void* operator new(size_t size) {
    count.fetch_add(1, std::memory_order_relaxed);
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
    std::free(memory);
}
