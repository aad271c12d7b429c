// SPDX-License-Identifier: Apache-2.0
//
// Opening: header, chain, tables; what a crash has left; the marks that say that the image is in use.
#include <fmt/format.h>

#include "disk-images/qcow2/bitmaps.h"
#include "disk-images/qcow2/blocking_file.h"
#include "disk-images/qcow2/check.h"
#include "disk-images/qcow2/image.h"
#include "runtime/log.h"

namespace ringback::image::qcow2 {

namespace {

constexpr size_t kSlices = 1024;
constexpr size_t kSliceBytes = 4096;
constexpr size_t kFramesPerOperation = 8;
constexpr size_t kOwnFrames = 64;

Result<Header> usable_header(BlockingFile& file, const OpenOptions& options) {
    Header header = TRY(read_header(file));
    if (!options.writable) return header;
    if ((header.incompatible & incompatible::kCorrupt) != 0) {
        return Error{
            EUCLEAN,
            fmt::format("open {} for writing: it is marked as corrupt; run vdisk check --repair first",
                        file.name())};
    }
    // A crash has left counts that are too high (ours) or too low (somebody's who counts lazily). Version 2
    // has no mark.
    const bool dirty = (header.incompatible & incompatible::kDirty) != 0;
    const bool roomy = uint64_t{header.refcount_table_clusters} << header.cluster_bits >=
                       refcount_table_wanted(header, TRY(file.size()));
    if (dirty || header.version < 3 || !roomy) {
        if (dirty) log::notice("{}: it was not closed; looking for what that has left", file.name());
        const CheckReport report = TRY(check(file, roomy ? Repair::all : Repair::rebuild));
        if (report.corruptions > report.corruptions_fixed) {
            return Error{EUCLEAN,
                         fmt::format("open {} for writing: it is damaged ({}); run vdisk check", file.name(),
                                     report.messages.empty() ? "no details" : report.messages.front())};
        }
        if (report.leaks > 0)
            log::notice("{}: {} unused clusters reclaimed", file.name(), report.leaks_fixed);
        header = TRY(read_header(file));
    }
    return header;
}

}  // namespace

Result<std::unique_ptr<Image>> Qcow2Image::open(const Chain& chain, File file, Opener& opener,
                                                Reactor& reactor, const OpenOptions& options) {
    const std::string name = file.name;
    std::unique_ptr<ImageFile> opened = TRY(ImageFile::open(std::move(file), reactor, options));
    BlockingFile blocking(opened->fd(), name);
    const Header header = TRY(usable_header(blocking, options));
    std::unique_ptr<Qcow2Image> image(new Qcow2Image(std::move(opened), reactor, header, options));
    if (header.has_data_file()) {
        const std::string path = TRY(resolve_name(name, header.data_file_name));
        File data = TRY(opener.open(path, options.writable ? Opener::Access::write : Opener::Access::read));
        (void)TRY(Chain::add(&chain, data));
        image->data_file_ = TRY(ImageFile::open(std::move(data), reactor, options));
    }
    if (!header.backing_name.empty()) {
        image->backing_ =
            TRY(open_backing(chain, header.backing_name, header.backing_format, opener, reactor, options));
    }
    TRY(image->load_tables(TRY(blocking.size())));
    image->make_buffers();
    image->set_geometry(options.discard);
    if (options.writable) TRY(image->begin_writing());
    return std::unique_ptr<Image>(std::move(image));
}

Qcow2Image::Qcow2Image(std::unique_ptr<ImageFile> file, Reactor& reactor, const Header& header,
                       const OpenOptions& options)
    : reactor_(reactor),
      file_(std::move(file)),
      header_(header),
      format_(header),
      writable_(options.writable),
      cluster_(header.cluster()),
      per_slice_(std::min<uint64_t>(kSliceBytes, header.cluster()) / header.l2_entry_bytes()),
      frames_(kOperations * kFramesPerOperation + kOwnFrames),
      wakeups_(reactor),
      locks_(wakeups_),
      tables_(wakeups_),
      decompressor_(header.compression),
      operations_(kOperations) {
    for (Operation& operation : operations_)
        operation.next = std::exchange(free_operations_, &operation);
    backing_batch_.reserve(kOperations);
    finisher_.image = backing_submitter_.image = closer_.image = this;
    finisher_.run = [](Task& self) noexcept { static_cast<ImageTask&>(self).image->answer_finished(); };
    backing_submitter_.run = [](Task& self) noexcept {
        Qcow2Image& image = *static_cast<ImageTask&>(self).image;
        image.backing_->submit(image.backing_batch_);
        image.backing_batch_.clear();
    };
    closer_.run = [](Task& self) noexcept {
        Qcow2Image& image = *static_cast<ImageTask&>(self).image;
        image.closing_->closed(*image.closing_, image.closing_result_);
    };
}

Qcow2Image::~Qcow2Image() {
    INVARIANT(in_flight_ == 0);
    // Without close(): what goes on in the background ends first.
    while (allocator_ && !allocator_->idle())
        reactor_.turn(reactor_.in_flight() > 0);
}

Result<void> Qcow2Image::load_tables(uint64_t file_bytes) {
    BlockingFile file(file_->fd(), file_->name());
    std::vector<std::byte> raw(size_t{header_.l1_entries} * 8);
    TRY(file.read(header_.l1_offset, raw));
    l1_.resize(header_.l1_entries);
    for (size_t i = 0; i < l1_.size(); ++i)
        l1_[i] = get64(raw.data() + i * 8);
    l1_unwritten_.resize((l1_.size() + 63) / 64);
    const size_t slice_bytes = std::min<uint64_t>(kSliceBytes, cluster_);
    cache_ = std::make_unique<Cache>(*file_, wakeups_, reactor_, frames_, kSlices, slice_bytes);
    file_end_ = (file_bytes + cluster_ - 1) & ~(cluster_ - 1);
    if (!writable_) return {};
    raw.resize(size_t{header_.refcount_table_clusters} << header_.cluster_bits);
    TRY(file.read(header_.refcount_table_offset, raw));
    std::vector<uint64_t> table(raw.size() / 8);
    for (size_t i = 0; i < table.size(); ++i) {
        table[i] = get64(raw.data() + i * 8) & ~uint64_t{0x1ff};
        if (!table_valid(table[i]) && table[i] != 0 && (table[i] & (cluster_ - 1)) == 0 &&
            table[i] >= file_end_) {
            return Error{
                EUCLEAN,
                fmt::format("open {} for writing: a refcount block at {:#x} is behind the end of the file",
                            file_->name(), table[i])};
        }
        if ((table[i] & (cluster_ - 1)) != 0) {
            return Error{
                EUCLEAN,
                fmt::format("open {} for writing: a refcount block at {:#x} is not at a cluster's begin",
                            file_->name(), table[i])};
        }
    }
    allocator_ = std::make_unique<Allocator>(*file_, *cache_, wakeups_, frames_, header_, std::move(table),
                                             file_bytes);
    return {};
}

void Qcow2Image::make_buffers() {
    constexpr size_t kPage = 4096;
    constexpr uint64_t kMemory = 8U << 20;
    // Compressed data may be as long as two clusters and begin anywhere.
    const size_t cluster = std::max<size_t>(cluster_, kPage);
    const size_t packed = 2 * cluster + kPage;
    const auto count = static_cast<size_t>(std::clamp<uint64_t>(kMemory / cluster, 4, 16));
    const size_t copies = writable_ ? count : 0;
    buffer_memory_.reset(
        static_cast<std::byte*>(std::aligned_alloc(kPage, count * (cluster + packed) + copies * cluster)));
    sectors_.reset(static_cast<std::byte*>(std::aligned_alloc(kPage, kPage)));
    if (!buffer_memory_ || !sectors_) throw std::bad_alloc();
    std::byte* next = buffer_memory_.get();
    for (size_t i = 0; i < count; ++i) {
        unpacked_.push_back({.data = next, .packed = next + cluster});
        next += cluster + packed;
    }
    copy_buffers_.resize(copies);
    for (CopyBuffer& buffer : copy_buffers_) {
        buffer.data = next;
        next += cluster;
        buffer.next = std::exchange(free_copy_buffers_, &buffer);
    }
}

void Qcow2Image::set_geometry(bool discard) {
    geometry_.bytes = header_.bytes;
    geometry_.physical_block = std::max(file_->geometry().physical_block, kSectorSize);
    geometry_.discard = discard && writable_ && (header_.version >= 3 || !backing_);
    geometry_.discard_granularity = geometry_.discard ? static_cast<uint32_t>(cluster_) : 0;
}

// Before the first change: what others have to know. Bitmaps are not kept up to date here, so they say so
// themselves; features of others that a writer has to understand are switched off, as the format wants it.
Result<void> Qcow2Image::begin_writing() {
    BlockingFile file(file_->fd(), file_->name());
    TRY(mark_bitmaps_in_use(file, header_));
    header_.autoclear &= autoclear::kKnown;
    TRY(file.read(0, {sectors_.get(), kSectorSize}));
    if (header_.version < 3) return {};
    header_.incompatible |= incompatible::kDirty;
    put64(sectors_.get() + field::kIncompatible, header_.incompatible);
    put64(sectors_.get() + field::kIncompatible + 16, header_.autoclear);
    TRY(file.write(0, std::span<const std::byte>(sectors_.get(), kSectorSize)));
    return file.sync();
}

}  // namespace ringback::image::qcow2
