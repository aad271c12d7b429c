// SPDX-License-Identifier: Apache-2.0
//
// Spec: which image a word of the command line means, and in which format.
//
// The format is never taken from the content: a guest writes its disk's first sectors, and could make a raw disk look like
// a qcow2 that names a file of the host. It is what --format says, or a scheme in front ("qcow2:disk"), or the file's
// name (".qcow2", ".vhd", ".raw", ".img"; a block device is raw). Where only the name says it, the first bytes have to
// agree, so that an image with a misleading name is not taken for raw without a word: then the user has to say it.
//
// Thread: any.
#pragma once

#include <cstdint>
#include <string>

#include "disk-images/image.h"
#include "runtime/result.h"

namespace ringback::vdisk {

struct Spec {
    std::string format;  // "raw", "qcow2", "vhd"
    std::string path;
    bool volume = false;  // an LVM volume, by "lvm:vg/lv"
};

// `format` is --format's, "" when not given. An existing image.
[[nodiscard]] Result<Spec> find_image(const std::string& word, const std::string& format);
// One that shall be made: its name decides, content there is none.
[[nodiscard]] Result<Spec> name_image(const std::string& word, const std::string& format);

// What the file begins (or ends) like: a format's name, "" for nothing known.
[[nodiscard]] std::string looks_like(const std::string& path);

// "512", "10k", "64M", "1.5G", "2T": bytes.
[[nodiscard]] Result<uint64_t> parse_size(const std::string& text);
[[nodiscard]] std::string human_size(uint64_t bytes);

// A fresh description of the image's file.
[[nodiscard]] Result<image::File> open_file(const Spec& spec, bool writable);

}  // namespace ringback::vdisk
