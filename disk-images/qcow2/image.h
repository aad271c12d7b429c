// SPDX-License-Identifier: Apache-2.0
//
// Qcow2Image: a disk in the format of QEMU, versions 2 and 3. docs/qcow2.md tells the order of updates and
// why no power cut, crash or error can break it.
//
// A request is an Operation out of a fixed pool; what does not get one waits in the order it came. An
// operation works through its request piece by piece; a piece is what lies in one place:
//
//     lock the piece's clusters  ->  look it up in the tables  ->  move the data  ->  unlock (read, write in
//     place) lock them exclusively  ->  take host clusters  ->  write data  ->  change the L2 table  -> write
//     the table to the file  ->  give back what it named before  ->  unlock                        (other
//     writes)
//
// The parts, each with its own rules:  co.h (waiting)  file.h (I/O)  cache.h (tables)  locks.h (who with
// whom) allocator.h (clusters)  read.cc  write.cc  drop.cc (discard, zero)  open.cc  close.cc.
//
// A metadata write that fails leaves the table changed in memory and not in the file. The request that wanted
// it fails; all later ones that build on it write it again first (settle), so nothing is ever answered that
// the file does not have.
//
// Thread: the reactor's owner.
#pragma once

#include <array>
#include <vector>

#include "disk-images/chain.h"
#include "disk-images/image.h"
#include "disk-images/qcow2/allocator.h"
#include "disk-images/qcow2/cursor.h"
#include "disk-images/qcow2/decompress.h"
#include "disk-images/qcow2/locks.h"

namespace ringback::image::qcow2 {

class Qcow2Image final : public Image {
  public:
    [[nodiscard]] static Result<std::unique_ptr<Image>> open(const Chain& chain, File file, Opener& opener,
                                                             Reactor& reactor, const OpenOptions& options);
    ~Qcow2Image() override;
    Qcow2Image(const Qcow2Image&) = delete;
    Qcow2Image& operator=(const Qcow2Image&) = delete;

    [[nodiscard]] const Geometry& geometry() const override { return geometry_; }
    void submit(std::span<Io*> batch) override;
    [[nodiscard]] Result<void> refresh_size() override { return {}; }
    [[nodiscard]] bool sync_failed() const override {
        return file_->failed() || (data_file_ && data_file_->failed());
    }
    void close(Closing& closing) override;
    [[nodiscard]] Result<Extent> extent(uint64_t offset) override;
    [[nodiscard]] Result<void> resize(uint64_t bytes) override;

    [[nodiscard]] FramePool& frames() { return frames_; }
    [[nodiscard]] const Header& header() const { return header_; }

  private:
    static constexpr size_t kOperations = 128;
    static constexpr size_t kParts = 130;
    static constexpr uint64_t kClustersPerPiece = 128;
    static constexpr size_t kDropped = 128;  // clusters a discard gives up at a time

    struct Operation {
        Io* io = nullptr;
        Operation* next = nullptr;
        uint16_t buffer = kNoBuffer;
        std::array<iovec, kParts> parts;     // of the transfer under way
        std::array<uint64_t, kDropped> old;  // L2 entries that were replaced
    };
    struct Mapping {
        enum class Kind : uint8_t { backing, zero, data, compressed };
        Kind kind = Kind::backing;
        bool in_place = false;  // data that may be written where it is
        uint64_t length = 0;
        uint64_t host = 0;
        uint32_t compressed_bytes = 0;
    };
    // A decompressed cluster, kept for who reads on.
    struct Unpacked {
        uint64_t key = 0;  // where the compressed data is; 0: nothing here
        bool busy = false;
        std::byte* data = nullptr;
        std::byte* packed = nullptr;
        iovec vector{};
    };
    struct CopyBuffer {
        CopyBuffer* next = nullptr;
        std::byte* data = nullptr;
    };
    struct FreeMemory {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    struct ImageTask : Task {
        Qcow2Image* image;
    };
    // A read of the backing file: handed over at the end of the turn with all others of it.
    struct [[nodiscard]] BackingRead : Io {
        Qcow2Image& image;
        std::coroutine_handle<> waiter;
        int32_t result = 0;
        BackingRead(Qcow2Image& to, uint64_t at, uint64_t bytes, std::span<iovec> where, uint16_t registered);
        bool await_ready() const noexcept { return length == 0; }
        void await_suspend(std::coroutine_handle<> self) noexcept;
        int32_t await_resume() const noexcept { return result; }
    };

    Qcow2Image(std::unique_ptr<ImageFile> file, Reactor& reactor, const Header& header,
               const OpenOptions& options);

    // open.cc
    [[nodiscard]] Result<void> load_tables(uint64_t file_bytes);
    [[nodiscard]] Result<void> begin_writing();
    void make_buffers();
    void set_geometry(bool discard);

    // image.cc
    void start_held();
    Detached serve(Operation& operation);
    Co flush();
    void answer_finished();
    [[nodiscard]] ImageFile& data() { return data_file_ ? *data_file_ : *file_; }
    [[nodiscard]] uint64_t file_end() const { return allocator_ ? allocator_->end() : file_end_; }
    [[nodiscard]] bool backed(uint64_t at) const { return backing_ && at < backing_->geometry().bytes; }
    int32_t corrupt(const char* what, uint64_t where);

    // read.cc
    [[nodiscard]] uint64_t table_of(uint64_t at) const {
        return l1_[at / header_.l2_coverage()] & kOffsetMask;
    }
    [[nodiscard]] bool table_valid(uint64_t table) const;
    [[nodiscard]] uint64_t slice_of(uint64_t at) const;
    [[nodiscard]] uint64_t index_in_slice(uint64_t at) const {
        return (at >> header_.cluster_bits) % per_slice_;
    }
    Co map(uint64_t at, uint64_t limit, Mapping& mapping);
    int32_t walk(const Slice& slice, uint64_t at, uint64_t limit, Mapping& mapping);
    [[nodiscard]] Mapping::Kind kind_of(const Cluster& cluster, uint64_t in_cluster) const;
    Co read(Operation& operation, Cursor& cursor, uint64_t at, uint64_t length, bool lock);
    Co read_piece(Operation& operation, Cursor& cursor, uint64_t at, const Mapping& mapping);
    Co read_compressed(Cursor& cursor, uint64_t at, const Mapping& mapping);

    // write.cc
    Co write(Operation& operation, Cursor& cursor, uint64_t at, uint64_t length);
    Co write_new(Operation& operation, Cursor& cursor, uint64_t at, uint64_t length, uint64_t& moved);
    Co write_run(Operation& operation, Cursor& cursor, Slice& slice, uint64_t at, uint64_t length,
                 uint64_t clusters, uint64_t& moved);
    [[nodiscard]] bool replaces_data(const Slice& slice, uint64_t at, uint64_t clusters) const;
    Co write_one(Operation& operation, Cursor& cursor, Slice& slice, uint64_t at, uint64_t length);
    Co copy_around(Operation& operation, CopyBuffer& buffer, uint64_t base, uint64_t low, uint64_t from,
                   uint64_t to, uint64_t high);
    Co take_copy_buffer(CopyBuffer*& buffer);
    void give_copy_buffer(CopyBuffer& buffer);
    [[nodiscard]] bool plain(const Cluster& cluster, uint64_t at, uint64_t from, uint64_t to) const;
    [[nodiscard]] uint32_t bits_of(uint64_t from, uint64_t to) const;
    [[nodiscard]] bool may_be_data(uint64_t host, uint64_t bytes) const;
    Co settle(uint64_t at);
    // The L2 table for `at` is there, may be changed, and the L1 table in the file says so.
    Co writable_table(uint64_t at);
    Co make_table(uint64_t index);
    Co copy_table(uint64_t from, uint64_t to);
    Co write_l1(uint64_t index);
    Co write_l1_leftovers();
    Co give_back_entry(uint64_t entry);

    // drop.cc
    Co drop(Operation& operation, uint64_t at, uint64_t length, bool must_be_zero);
    Co drop_clusters(Operation& operation, uint64_t at, uint64_t count, bool must_be_zero);

    // close.cc
    Detached shut(Closing& closing);
    Co write_header();
    template <typename Make>
    int32_t run_to_end(Make&& make);
    Detached run_and_tell(Co& what, int32_t& result, bool& done);
    Co find_extent(uint64_t at, Extent& extent);
    Co grow_or_shrink(uint64_t bytes);
    Co move_l1(uint64_t entries);

    Reactor& reactor_;
    std::unique_ptr<ImageFile> file_;
    std::unique_ptr<ImageFile> data_file_;
    std::unique_ptr<Image> backing_;
    Header header_;
    EntryFormat format_;
    Geometry geometry_;
    const bool writable_;
    const uint64_t cluster_;  // bytes
    uint64_t per_slice_;      // L2 entries in a slice
    uint64_t file_end_ = 0;   // of a read-only file
    bool corrupt_ = false;    // found so; writes fail
    bool leftovers_ = false;  // clusters that a failed update may have leaked
    std::vector<uint64_t> l1_;
    std::vector<uint8_t> l1_unwritten_;  // sectors of it that could not be written
    uint64_t l1_unwritten_count_ = 0;
    std::unique_ptr<std::byte[], FreeMemory> sectors_;  // header, a sector of L1
    iovec header_vector_{};
    iovec l1_vector_{};

    FramePool frames_;
    Wakeups wakeups_;
    ClusterLocks locks_;
    Mutex tables_;  // L1 table, L2 tables being made
    std::unique_ptr<Cache> cache_;
    std::unique_ptr<Allocator> allocator_;  // null: read-only
    Decompressor decompressor_;
    std::unique_ptr<std::byte[], FreeMemory> buffer_memory_;
    std::vector<Unpacked> unpacked_;
    size_t next_unpacked_ = 0;
    WaitList unpackers_;
    std::vector<CopyBuffer> copy_buffers_;
    CopyBuffer* free_copy_buffers_ = nullptr;
    WaitList copiers_;

    std::vector<Operation> operations_;
    Operation* free_operations_ = nullptr;
    IoList held_;
    IoList finished_;
    uint32_t in_flight_ = 0;  // submitted and not answered
    ImageTask finisher_;
    std::vector<Io*> backing_batch_;  // reserved for all operations
    ImageTask backing_submitter_;
    Closing* closing_ = nullptr;
    int32_t closing_result_ = 0;
    ImageTask closer_;
};

}  // namespace ringback::image::qcow2
