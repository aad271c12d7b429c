// SPDX-License-Identifier: Apache-2.0
#include "disk-images/image.h"

#include <fmt/format.h>

#include "disk-images/chain.h"
#include "disk-images/nbd/image.h"
#include "disk-images/qcow2/image.h"
#include "disk-images/raw/image.h"
#include "disk-images/vhd/image.h"

namespace ringback::image {

Result<std::unique_ptr<Image>> open_image_below(const Chain* before, const std::string& format, File file,
                                                Opener& opener, Reactor& reactor, const OpenOptions& options) {
    const Chain chain = TRY(Chain::add(before, file));
    if (format == "raw") return RawImage::open(std::move(file), reactor, options);
    if (format == "qcow2") return qcow2::Qcow2Image::open(chain, std::move(file), opener, reactor, options);
    if (format == "vhd") return vhd::open(chain, std::move(file), opener, reactor, options);
    return Error{ENOTSUP,
                 fmt::format("open {}: unknown image format \"{}\" (known: raw, qcow2, vhd)", file.name, format)};
}

Result<std::unique_ptr<Image>> open_image(const std::string& format, File file, Opener& opener,
                                          Reactor& reactor, const OpenOptions& options) {
    // Not below: what a header names is a file.
    if (format == "nbd") return nbd::NbdImage::open(std::move(file), opener, reactor, options);
    return open_image_below(nullptr, format, std::move(file), opener, reactor, options);
}

int32_t close_and_wait(Image& image, Reactor& reactor) {
    struct Waiting : Closing {
        int32_t result = 0;
        bool done = false;
    } waiting;
    waiting.closed = [](Closing& self, int32_t result) noexcept {
        static_cast<Waiting&>(self).result = result;
        static_cast<Waiting&>(self).done = true;
    };
    image.close(waiting);
    while (!waiting.done)
        reactor.turn(reactor.in_flight() > 0);
    return waiting.result;
}

}  // namespace ringback::image
