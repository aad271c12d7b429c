// SPDX-License-Identifier: Apache-2.0
//
// DynamicImage: a dynamic or differencing VHD, read and written asynchronously on the reactor.
//
// A write into a block that is not in the file first gets the block its place, in this order: a slot that reads as zeros;
// its bitmap, all ones (dynamic disks: a sector that was never written reads as zeros from the slot as well; a
// differencing disk's new bitmap stays zeros, and its sectors the parent's); the table's entry; then the data, and only
// then the answer. So an answered write survives this process. A power cut between two of these leaves what was there
// before: the slot reads as zeros because the file's growth was synced before its first use (space.h), and an entry
// that was lost loses nothing that a flush was answered for.
//
// Where a bitmap has to be changed (differencing disks, and dynamic ones of programs that mark each sector) the data
// is written, then synced, then its sectors are marked: after a power cut a marked sector holds data, and not what the
// device had not written yet. Such syncs are shared by all that wait, and a sector costs one only once.
//
// Discards and zeroes of whole blocks of a dynamic disk take them out of the table and punch their slot out; smaller ones punch
// the sectors out and leave them marked. On a differencing disk, nothing that is the parent's is touched.
//
// Where a request is at any time: in one of the lists of what it waits for (here, in bitmaps.h), or in the file's or the
// parent's hands as a Piece.
//
// Thread: the owner of the reactor.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "disk-images/vhd/bitmaps.h"
#include "disk-images/vhd/space.h"
#include "disk-images/vhd/table_writer.h"

namespace ringback::image::vhd {

class DynamicImage final : public Image {
  public:
    // `file` is open and locked, `fd` its descriptor (borrowed from it). `parent` is null unless differencing.
    [[nodiscard]] static Result<std::unique_ptr<Image>> open(std::unique_ptr<RawImage> file, int fd, std::string name,
                                                             std::unique_ptr<Image> parent, Reactor& reactor,
                                                             const Layout& layout, const OpenOptions& options);
    ~DynamicImage() override;
    DynamicImage(const DynamicImage&) = delete;
    DynamicImage& operator=(const DynamicImage&) = delete;

    [[nodiscard]] const Geometry& geometry() const override { return geometry_; }
    void submit(std::span<Io*> batch) override;
    [[nodiscard]] Result<void> refresh_size() override;
    [[nodiscard]] bool sync_failed() const override { return file_->sync_failed(); }
    void close(Closing& closing) override;
    [[nodiscard]] Result<Extent> extent(uint64_t offset) override;
    [[nodiscard]] Result<void> resize(uint64_t bytes) override;

    // A request that waited goes on, from the loop: whoever calls this is in the middle of something.
    void go_on(Io& io);

  private:
    struct Piece : Io {
        Io* outer = nullptr;
        iovec last{};    // the request's vector that the piece ends in, as it was
        size_t cut = 0;  // bytes of that which are not the piece's
        size_t count = 0;
        Piece* next_free = nullptr;
    };
    struct Allocation : TableChange {
        DynamicImage* image = nullptr;
        uint32_t slot = 0;
        bool active = false;
        IoList waiting;
        struct BitmapIo : OwnIo {
            Allocation* allocation = nullptr;
        } bitmap;
    };
    struct Unmap : TableChange {
        DynamicImage* image = nullptr;
        Io* outer = nullptr;
        uint32_t count = 0;  // blocks from `block` on
        uint32_t at = 0;     // of them: the one being punched
        std::array<uint32_t, Table::kEntriesPerSector> slots{};
        struct PunchIo : OwnIo {
            Unmap* unmap = nullptr;
        } punch;
    };
    struct OwnSync : OwnIo {
        DynamicImage* image = nullptr;
    };
    struct Runner : Task {
        DynamicImage* image = nullptr;
    };

    DynamicImage(std::unique_ptr<RawImage> file, int fd, std::string name, std::unique_ptr<Image> parent,
                 Reactor& reactor, const Layout& layout, Table table, const OpenOptions& options);

    // Where a request stands.
    struct Place {
        uint32_t block;
        uint32_t offset;  // in the block
        uint32_t length;  // to the end of the request or the block
    };
    [[nodiscard]] Place place(const Io& io) const;
    [[nodiscard]] uint32_t bytes_in(uint32_t block) const;  // less than a block's at the disk's end
    [[nodiscard]] uint64_t data_at(uint32_t block) const { return uint64_t{table_.get(block)} * 512 + bitmap_bytes_; }

    void step(Io& io);
    [[nodiscard]] std::optional<Bitmaps::Entry*> marks(uint32_t block, Io& io);
    [[nodiscard]] Result<Extent> extent_in(uint32_t block, uint64_t offset);
    [[nodiscard]] Result<Extent> extent_below(uint64_t offset, uint64_t length);
    // Each does what can be done at once; true: go on, false: the request waits, or is finished.
    [[nodiscard]] bool step_read(Io& io);
    [[nodiscard]] bool step_write(Io& io);
    [[nodiscard]] bool step_zero(Io& io);
    [[nodiscard]] bool step_discard(Io& io);
    [[nodiscard]] bool read_from_below(Io& io, const Place& at, uint32_t bytes);
    void advance(Io& io, uint32_t bytes);
    void fill_zeros(Io& io, uint32_t bytes);

    void send(Io& outer, Image& to, uint64_t offset, uint32_t bytes);
    void on_piece(Piece& piece, int32_t result);
    // blocks.cc
    void allocate(Io& io, uint32_t block);
    void start(Allocation& allocation);
    void link(Allocation& allocation, int32_t result);
    void end(Allocation& allocation, int32_t result);
    [[nodiscard]] bool allocating(uint32_t block) const;
    void on_grown(int32_t result);
    [[nodiscard]] bool gather(Io& io, const Place& at);
    [[nodiscard]] bool unmap(Io& io);
    void punch_next(int32_t result);

    void sync(Io& waiting);
    void on_synced(int32_t result);
    void finish(Io& io, int32_t result);
    void run();

    std::unique_ptr<RawImage> file_;
    const int fd_;  // file_'s
    const std::string name_;
    std::unique_ptr<Image> parent_;
    Reactor& reactor_;
    Geometry geometry_;
    const bool writable_;
    const uint32_t block_bytes_;
    const uint32_t bitmap_bytes_;
    Table table_;
    std::vector<bool> complete_;  // blocks whose sectors are all in the file, as far as known
    TableWriter table_writer_;
    Bitmaps bitmaps_;
    Space space_;
    std::unique_ptr<std::byte[], decltype(&std::free)> ones_;  // a bitmap

    uint32_t in_flight_ = 0;
    uint32_t inside_submit_ = 0;
    uint32_t allocating_ = 0;
    std::vector<std::unique_ptr<Piece[]>> pieces_;
    Piece* free_pieces_ = nullptr;
    std::array<Allocation, 32> allocations_;
    Unmap unmap_;
    bool unmapping_ = false;
    OwnSync sync_;
    bool syncing_ = false;
    std::vector<std::byte> extent_bitmap_;  // of the block that extent() was last asked about
    uint32_t extent_block_ = kUnused;
    Runner runner_;
    IoList waiting_for_piece_;
    IoList waiting_for_allocation_;
    IoList waiting_for_unmap_;
    IoList waiting_for_sync_;
    IoList in_sync_;
    IoList finished_;  // inside submit(), which answers nobody
    IoList ready_;     // to be stepped
};

}  // namespace ringback::image::vhd
