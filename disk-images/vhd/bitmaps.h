// SPDX-License-Identifier: Apache-2.0
//
// Bitmaps: which sectors of a block are in this file, for blocks of which not all are (in a differencing disk the others
// are the parent's; elsewhere they are zeros). Blocks that are complete need none, and the image remembers those.
//
// A bounded cache: what it costs does not grow with the disk. A bit is believed when it has been written to the file, so
// that a write is never taken for marked because of a marking that failed later. Markings that come while one is on its
// way to the file share the next.
//
// Thread: the owner of the image.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "disk-images/raw/image.h"
#include "disk-images/vhd/walk.h"

namespace ringback::image::vhd {

class Bitmaps {
  public:
    class Entry;

    Bitmaps(RawImage& file, uint32_t bitmap_bytes, uint32_t block_bytes, uint64_t disk_bytes);
    ~Bitmaps();

    // Null: it has to be read first; `io` is resumed then, and asks again. `sector` is where the bitmap is.
    [[nodiscard]] Entry* get(uint32_t block, uint32_t sector, Io& io);
    [[nodiscard]] bool complete(const Entry& entry) const;
    void set_disk_bytes(uint64_t bytes) { disk_bytes_ = bytes; }
    // Length of the run of equal bits that begins at `first`, at most `limit`.
    [[nodiscard]] static uint32_t run(const std::byte* bitmap, uint32_t first, uint32_t limit);
    [[nodiscard]] static uint32_t run(const Entry& entry, uint32_t first, uint32_t limit);
    [[nodiscard]] static bool test(const std::byte* bitmap, uint32_t sector);
    [[nodiscard]] static bool test(const Entry& entry, uint32_t sector);
    // Marks the sectors of the part that `io`'s walk is at; it is resumed when that is in the file.
    void mark(Entry& entry, Io& io);
    // The block is complete or gone. False: something is under way with its bitmap.
    bool forget(uint32_t block);

  private:
    void load(Entry& entry);
    void write(Entry& entry);
    void on_loaded(Entry& entry, int32_t result);
    void on_written(Entry& entry, int32_t result);
    void became_idle();

    RawImage& file_;
    const uint32_t bytes_;
    const uint32_t block_bytes_;
    uint64_t disk_bytes_;
    uint64_t clock_ = 0;
    std::vector<std::unique_ptr<Entry>> entries_;
    size_t limit_;
    IoList waiting_;  // for an entry to be had
};

class Bitmaps::Entry {
  private:
    friend class Bitmaps;
    enum class State : uint8_t { empty, loading, idle, writing };
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    struct Transfer : OwnIo {
        Entry* entry;
    };
    Bitmaps* owner = nullptr;
    State state = State::empty;
    uint32_t block = 0;
    uint32_t sector = 0;
    uint64_t last_used = 0;
    std::unique_ptr<std::byte[], Free> memory;  // what is in the file, then what is being written
    std::byte* known = nullptr;
    std::byte* next = nullptr;
    Transfer io;
    IoList waiting;  // for it to be loaded
    IoList to_mark;  // in the next round
    IoList marking;  // in this one
};

}  // namespace ringback::image::vhd
