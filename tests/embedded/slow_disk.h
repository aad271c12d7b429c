// SPDX-License-Identifier: Apache-2.0
//
// SlowDisk: storage that takes its time, as a file on a file system of our own (FUSE, spoken to the kernel directly).
//
// What a killed process leaves in the kernel is the hard part of a takeover, and no ordinary disk leaves it there long
// enough to be looked at. Here a direct read or write stays in the kernel, with no process waiting for it, until this
// disk has done it: after a random time, or when the test says so. Data moves at that moment and not before, so a late
// write of a dead worker is late on the disk too.
//
// Thread: its own serves the requests; the members are for the test's. Every access to the file by the test's own process
// would wait for itself: content() looks into the memory.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace ringback::test {

class SlowDisk {
  public:
    // Mounts in a mount namespace of this process, which is made for it: who is to see the disk starts later. nullptr: this
    // machine does not let us.
    [[nodiscard]] static std::unique_ptr<SlowDisk> mount(uint64_t bytes);
    ~SlowDisk();
    SlowDisk(const SlowDisk&) = delete;
    SlowDisk& operator=(const SlowDisk&) = delete;

    [[nodiscard]] std::string path() const { return directory_ + "/disk.img"; }

    enum class Kind : uint8_t { read, write };
    // One read or write of eight takes a random time up to this, the others a fiftieth of that.
    void delay(std::chrono::microseconds longest);
    // The next `count` of a kind stay where they are until release().
    void hold(Kind kind, size_t count);
    void release();
    [[nodiscard]] size_t held() const;
    [[nodiscard]] size_t arrived(Kind kind) const;
    [[nodiscard]] size_t done(Kind kind) const;
    [[nodiscard]] uint64_t content(uint64_t offset) const;  // eight bytes

  private:
    struct Server;
    SlowDisk(std::string directory, std::unique_ptr<Server> server);
    std::string directory_;
    std::unique_ptr<Server> server_;
};

}  // namespace ringback::test
