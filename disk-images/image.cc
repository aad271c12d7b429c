// SPDX-License-Identifier: Apache-2.0
#include "disk-images/image.h"

#include <fmt/format.h>

#include "disk-images/raw/image.h"

namespace ringback::image {

Result<std::unique_ptr<Image>> open_image(const std::string& format, File file, Opener&, Reactor& reactor,
                                          const OpenOptions& options) {
    if (format == "raw") return RawImage::open(std::move(file), reactor, options);
    return Error{ENOTSUP,
                 fmt::format("open {}: unknown image format \"{}\" (known: raw)", file.name, format)};
}

}  // namespace ringback::image
