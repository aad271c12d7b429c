// SPDX-License-Identifier: Apache-2.0
#include "netback/worker/journal.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <utility>

namespace ringback::net::worker {

Result<Journal> Journal::map(int fd) {
    struct stat status{};
    if (fstat(fd, &status) != 0) return os_error("look at a vif's journal");
    if (static_cast<size_t>(status.st_size) != kJournalBytes) return os_error(EINVAL, "map a vif's journal");
    void* memory = mmap(nullptr, kJournalBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) return os_error("map a vif's journal");
    return Journal(static_cast<JournalFile*>(memory));
}

Journal::Journal(Journal&& other) noexcept : file_(std::exchange(other.file_, nullptr)) {}

Journal::~Journal() {
    if (file_ != nullptr) munmap(file_, kJournalBytes);
}

}  // namespace ringback::net::worker
