// SPDX-License-Identifier: Apache-2.0
#include "image_target.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace ringback::fuzz {

namespace {

constexpr size_t kMaxTransfer = 256 * image::kSectorSize;

class ChainOpener final : public image::Opener {
  public:
    ChainOpener(std::span<const std::byte> content, const ImagePlan& plan) : content_(content), plan_(plan) {}
    Result<image::File> open(const std::string& name, Access access) override {
        // More than any chain that is allowed.
        INVARIANT(++opened_ <= 256);
        const bool writable = access == Access::write;
        if (plan_.chain) return image::File{memory_file(content_, content_.size() + plan_.hole), writable, false, name};
        return image::File{memory_file({}, 64 << 10), writable, false, name};
    }

  private:
    std::span<const std::byte> content_;
    const ImagePlan& plan_;
    int opened_ = 0;
};

struct Waiting : image::Io {
    bool finished = false;
    int32_t result = 0;
};

void run(image::Image& image, const ImagePlan::Step& step, std::span<std::byte> memory) {
    const uint64_t sectors = image.geometry().bytes / image::kSectorSize;
    Waiting io;
    io.op = static_cast<image::Op>(step.op % 5);
    io.done = [](image::Io& self, int32_t result) noexcept {
        static_cast<Waiting&>(self).finished = true;
        static_cast<Waiting&>(self).result = result;
    };
    iovec vector{memory.data(), 0};
    if (io.op != image::Op::flush) {
        if (sectors == 0) return;
        // Near the beginning, or somewhere in all of it.
        const uint64_t first = (step.place & 0x8000) != 0 ? (sectors - 1) * (step.place & 0x7fff) / 0x7fff
                                                          : std::min<uint64_t>(step.place, sectors - 1);
        const uint64_t count = std::min<uint64_t>(sectors - first, step.sectors % 128 + 1U);
        io.offset = first * image::kSectorSize;
        io.length = count * image::kSectorSize;
        vector.iov_len = io.length;
        if (io.op == image::Op::read || io.op == image::Op::write) io.vectors = {&vector, 1};
        (void)image.extent(io.offset);
    }
    image::Io* one = &io;
    image.submit({&one, 1});
    wait_until([&io] { return io.finished; });
    INVARIANT(io.result <= 0);
}

}  // namespace

ImagePlan::ImagePlan(Input& input) {
    const uint8_t flags = input.byte();
    writable = (flags & 1) != 0;
    repair_sums = (flags & 2) != 0;
    chain = (flags & 4) != 0;
    hole = (flags & 8) != 0 ? uint64_t{512} << (flags >> 4) << input.below(16) : 0;
    for (Step& step : steps) step = input.take<Step>();
}

UniqueFd memory_file(std::span<const std::byte> content, uint64_t bytes) {
    UniqueFd file(::memfd_create("image", MFD_CLOEXEC));
    INVARIANT(file && ::ftruncate(file.get(), static_cast<off_t>(bytes)) == 0);
    INVARIANT(::pwrite(file.get(), content.data(), content.size(), 0) == static_cast<ssize_t>(content.size()));
    return file;
}

bool drive_image(const std::string& format, std::span<const std::byte> content, const ImagePlan& plan) {
    alignas(4096) static std::array<std::byte, kMaxTransfer> memory;
    ChainOpener opener(content, plan);
    image::File file{memory_file(content, content.size() + plan.hole), plan.writable, false, "image"};
    auto image = image::open_image(format, std::move(file), opener, reactor(), {.writable = plan.writable});
    if (!image) {
        INVARIANT(!image.error().message.empty());
        wait_until([] { return reactor().in_flight() == 0; });
        return false;
    }
    for (const ImagePlan::Step& step : plan.steps) run(**image, step, memory);
    (void)image::close_and_wait(**image, reactor());
    image->reset();
    wait_until([] { return reactor().in_flight() == 0; });
    return true;
}

}  // namespace ringback::fuzz
