// SPDX-License-Identifier: Apache-2.0
//
// commit: what an image says itself goes into the one it continues.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "disk-images/chain.h"
#include "disk-images/vdisk/commands.h"
#include "disk-images/vdisk/copy.h"
#include "disk-images/vhd/image.h"

namespace ringback::vdisk {

namespace {

Result<Spec> backing_of(const Spec& spec) {
    const image::File file = TRY(open_file(spec, false));
    const image::SyncIo sync(file.fd.get(), spec.path);
    if (spec.format != "vhd") return Error{ENOTSUP, fmt::format("commit {}: {} images cannot be committed yet", spec.path, spec.format)};
    const image::vhd::Layout layout = TRY(image::vhd::read_layout(sync));
    if (layout.footer.type != image::vhd::Type::differencing) {
        return Error{EINVAL, fmt::format("commit {}: it continues no other image", spec.path)};
    }
    return Spec{"vhd", TRY(image::resolve_name(spec.path, TRY(image::vhd::parent_name(sync, layout))))};
}

}  // namespace

Result<int> commit(const std::string& file, const std::string& format, const Output& output) {
    const Spec spec = TRY(find_image(file, format));
    const Spec below = TRY(backing_of(spec));
    const auto reactor = TRY(make_reactor());
    // Each by itself: with the chain open, what is below could not be written.
    Disk child = TRY(Disk::open_alone(spec, *reactor));
    Disk base = TRY(Disk::open(below, true, *reactor));
    TRY(child.check_parent(below));
    if (base.bytes() < child.bytes()) TRY(base->resize(child.bytes()));
    const CopyCounts counts = TRY(copy(child, base, *reactor, {.bytes = child.bytes(), .only_here = true}, progress_bar(output)));
    TRY(base.finish());
    if (output.json) {
        fmt::print("{}\n", nlohmann::ordered_json{{"file", spec.path}, {"into", below.path}, {"bytes-written", counts.written},
                                                  {"bytes-zeroed", counts.zeroed}}.dump(2));
    } else if (!output.quiet) {
        fmt::print("{}: {} written into {}; it holds nothing that is not there now\n", spec.path, human_size(counts.written), below.path);
    }
    return kDone;
}

}  // namespace ringback::vdisk
