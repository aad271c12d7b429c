// SPDX-License-Identifier: Apache-2.0
//
// Disk: an image that a command works on, on a reactor of its own, locked as every image is (lock.h): a reader refuses
// one that somebody writes, a writer one that anybody uses.
//
// Two disks of one command share a reactor, so that one loop drives both.
//
// Thread: one.
#pragma once

#include <memory>
#include <string>

#include "disk-images/image.h"
#include "disk-images/vdisk/spec.h"

namespace ringback::vdisk {

// Backing files as their children name them: this is the administrator's own tool, so what he may open, it may.
class PlainOpener final : public image::Opener {
  public:
    [[nodiscard]] Result<image::File> open(const std::string& name, Access access) override;
};

[[nodiscard]] Result<std::unique_ptr<Reactor>> make_reactor();

class Disk {
  public:
    [[nodiscard]] static Result<Disk> open(const Spec& spec, bool writable, Reactor& reactor);
    // Read-only, and without what it continues: for extents that are its own.
    [[nodiscard]] static Result<Disk> open_alone(const Spec& spec, Reactor& reactor);
    // Whether the image at `below` is still the one that this one was made on.
    [[nodiscard]] Result<void> check_parent(const Spec& below) const;
    Disk(Disk&&) = default;
    Disk& operator=(Disk&&) = delete;
    ~Disk();

    [[nodiscard]] image::Image& operator*() const { return *image_; }
    [[nodiscard]] image::Image* operator->() const { return image_.get(); }
    [[nodiscard]] const Spec& spec() const { return spec_; }
    [[nodiscard]] uint64_t bytes() const { return image_->geometry().bytes; }

    // One request, waited for.
    [[nodiscard]] Result<void> read(uint64_t offset, std::span<std::byte> to);
    [[nodiscard]] Result<void> write(uint64_t offset, std::span<std::byte> from);
    [[nodiscard]] Result<void> run(image::Op op, uint64_t offset, uint64_t bytes, const char* doing);
    // Everything on stable storage, and the image left clean. To be called at the end of what succeeded.
    [[nodiscard]] Result<void> finish();

  private:
    Disk(Spec spec, std::unique_ptr<PlainOpener> opener, std::unique_ptr<image::Image> image, Reactor& reactor, bool writable)
        : spec_(std::move(spec)), opener_(std::move(opener)), image_(std::move(image)), reactor_(&reactor), writable_(writable) {}
    [[nodiscard]] Result<void> transfer(image::Op op, uint64_t offset, std::span<std::byte> data, const char* doing);
    [[nodiscard]] Result<void> wait(image::Io& io, const char* doing);

    Spec spec_;
    std::unique_ptr<PlainOpener> opener_;
    std::unique_ptr<image::Image> image_;
    Reactor* reactor_;
    bool writable_;
};

// What a new image is to be.
struct NewImage {
    uint64_t bytes = 0;
    std::string backing;         // "" for none
    std::string backing_format;
    std::vector<std::string> options;  // key=value of the format
    bool force = false;          // over what is there
};
// Makes the file (or takes a block device as it is); returns the disk's size, which the format may round.
[[nodiscard]] Result<uint64_t> create_image(const Spec& spec, const NewImage& wanted);
// Of the options that create_image() knows, by format: for --help and messages.
[[nodiscard]] const char* option_help();

}  // namespace ringback::vdisk
