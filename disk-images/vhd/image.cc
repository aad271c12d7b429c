// SPDX-License-Identifier: Apache-2.0
#include "disk-images/vhd/image.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "disk-images/vhd/dynamic.h"

namespace ringback::image::vhd {

namespace {

class FixedImage final : public Image {
  public:
    FixedImage(std::unique_ptr<RawImage> file, int fd, std::string name, uint64_t bytes)
        : file_(std::move(file)), fd_(fd), name_(std::move(name)), geometry_(file_->geometry()) {
        geometry_.bytes = bytes;
    }
    [[nodiscard]] const Geometry& geometry() const override { return geometry_; }
    void submit(std::span<Io*> batch) override {
        for (const Io* io : batch) INVARIANT(io->length <= geometry_.bytes && io->offset <= geometry_.bytes - io->length);
        file_->submit(batch);
    }
    [[nodiscard]] Result<void> refresh_size() override {
        return Error{ENOTSUP, fmt::format("resize {}: a VHD grows while nobody uses it (vdisk resize)", name_)};
    }
    [[nodiscard]] bool sync_failed() const override { return file_->sync_failed(); }
    [[nodiscard]] Result<Extent> extent(uint64_t offset) override {
        Extent extent = TRY(file_->extent(offset));
        extent.length = std::min(extent.length, geometry_.bytes - offset);
        return extent;
    }
    [[nodiscard]] Result<void> resize(uint64_t bytes) override {
        const SyncIo sync(fd_, name_);
        TRY(vhd::resize(sync, bytes));
        geometry_.bytes = bytes;
        return file_->resize(bytes + kFooterBytes);
    }

  private:
    std::unique_ptr<RawImage> file_;
    const int fd_;  // file_'s
    const std::string name_;
    Geometry geometry_;
};

struct Opened {
    std::unique_ptr<Image> image;
    Footer footer;
};

Result<Opened> open_file(const Chain& chain, File file, Opener& opener, Reactor& reactor, const OpenOptions& options) {
    const std::string name = file.name;
    const int fd = file.fd.get();
    std::unique_ptr<Image> opened = TRY(RawImage::open(std::move(file), reactor, options));
    std::unique_ptr<RawImage> raw(static_cast<RawImage*>(opened.release()));
    const SyncIo sync(fd, name);
    const Layout layout = TRY(read_layout(sync));
    if (!layout.dynamic()) {
        return Opened{std::make_unique<FixedImage>(std::move(raw), fd, name, layout.footer.disk_bytes()), layout.footer};
    }
    struct stat about {};
    if (fstat(fd, &about) != 0) return os_error(fmt::format("open {}", name));
    if (options.writable && S_ISBLK(about.st_mode)) {
        return Error{ENOTSUP, fmt::format("open {} for writing: a {} VHD on a block device cannot grow; convert it to a "
                                          "fixed one, or put it into a file", name, type_name(layout.footer.type))};
    }
    std::unique_ptr<Image> parent;
    if (layout.footer.type == Type::differencing) {
        const std::string wanted = TRY(resolve_name(name, TRY(parent_name(sync, layout))));
        File parent_file = TRY(opener.open(wanted, Opener::Access::read));
        const Chain below = TRY(Chain::add(&chain, parent_file));
        Opened under = TRY(open_file(below, std::move(parent_file), opener, reactor,
                                     {.writable = false, .discard = false, .lock_wait_ms = options.lock_wait_ms}));
        if (under.footer.id != layout.header.parent_id) {
            return Error{EINVAL, fmt::format("open {}: its parent {} is another disk than when the child was made ({}, was {})",
                                             name, wanted, to_text(under.footer.id), to_text(layout.header.parent_id))};
        }
        parent = std::move(under.image);
    }
    auto image = TRY(DynamicImage::open(std::move(raw), fd, name, std::move(parent), reactor, layout, options));
    return Opened{std::move(image), layout.footer};
}

}  // namespace

Result<std::unique_ptr<Image>> open(const Chain& chain, File file, Opener& opener, Reactor& reactor,
                                    const OpenOptions& options) {
    return std::move(TRY(open_file(chain, std::move(file), opener, reactor, options)).image);
}

Result<std::unique_ptr<Image>> open_alone(File file, Reactor& reactor) {
    const std::string name = file.name;
    const int fd = file.fd.get();
    const OpenOptions options{.writable = false, .discard = false};
    std::unique_ptr<Image> opened = TRY(RawImage::open(std::move(file), reactor, options));
    std::unique_ptr<RawImage> raw(static_cast<RawImage*>(opened.release()));
    const Layout layout = TRY(read_layout(SyncIo(fd, name)));
    if (!layout.dynamic()) return Error{EINVAL, fmt::format("open {}: a fixed VHD has no parent", name)};
    return DynamicImage::open(std::move(raw), fd, name, nullptr, reactor, layout, options);
}

}  // namespace ringback::image::vhd
