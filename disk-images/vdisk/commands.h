// SPDX-License-Identifier: Apache-2.0
//
// The commands of vdisk. Each does its work and returns the exit status; an Error becomes one line on standard error and
// status 1. What a command found goes to standard output, as text for people or, with --json, as one JSON value.
//
// Thread: main.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runtime/result.h"

namespace ringback::vdisk {

inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;
inline constexpr int kNo = 3;      // the answer is no: disks differ, an image is damaged
inline constexpr int kLeaks = 4;   // check: nothing worse than space that is lost

struct Output {
    bool json = false;
    bool quiet = false;
};

struct CreateArguments {
    std::string file, format, size, backing, backing_format;
    std::vector<std::string> options;
    bool force = false;
};
[[nodiscard]] Result<int> create(const CreateArguments& arguments, const Output& output);

struct ConvertArguments {
    std::string source, format, target, target_format;
    std::vector<std::string> options;
    bool force = false;     // over an existing file
    bool existing = false;  // into an existing image or device, which keeps its size
};
[[nodiscard]] Result<int> convert(const ConvertArguments& arguments, const Output& output);

struct DdArguments {
    std::string source, format, target, target_format, block = "1M", count, skip = "0", seek = "0";
};
[[nodiscard]] Result<int> dd(const DdArguments& arguments, const Output& output);

struct ResizeArguments {
    std::string file, format, size;
    bool shrink = false;
};
[[nodiscard]] Result<int> resize(const ResizeArguments& arguments, const Output& output);

struct MeasureArguments {
    std::string file, format, size, target_format = "qcow2";
};
[[nodiscard]] Result<int> measure(const MeasureArguments& arguments, const Output& output);

[[nodiscard]] Result<int> info(const std::string& file, const std::string& format, bool chain, const Output& output);
[[nodiscard]] Result<int> check(const std::string& file, const std::string& format, bool repair, const Output& output);
[[nodiscard]] Result<int> map(const std::string& file, const std::string& format, const Output& output);
[[nodiscard]] Result<int> compare(const std::string& first, const std::string& first_format, const std::string& second,
                                  const std::string& second_format, bool strict, const Output& output);
[[nodiscard]] Result<int> partitions(const std::string& file, const std::string& format, const Output& output);
[[nodiscard]] Result<int> commit(const std::string& file, const std::string& format, const Output& output);

struct RebaseArguments {
    std::string file, format, backing, backing_format;  // backing "": none
    bool unsafe = false;  // only the name is changed
};
[[nodiscard]] Result<int> rebase(const RebaseArguments& arguments, const Output& output);

[[nodiscard]] Result<int> bitmap_list(const std::string& file, const std::string& format, const Output& output);
[[nodiscard]] Result<int> bitmap_add(const std::string& file, const std::string& format, const std::string& name,
                                     const std::string& granularity, const Output& output);
[[nodiscard]] Result<int> bitmap_remove(const std::string& file, const std::string& format, const std::string& name,
                                        const Output& output);

// Snapshots inside a qcow2 image; `name` may be an id.
[[nodiscard]] Result<int> snapshot_list(const std::string& file, const std::string& format, const Output& output);
[[nodiscard]] Result<int> snapshot_create(const std::string& file, const std::string& format, const std::string& name,
                                          const Output& output);
[[nodiscard]] Result<int> snapshot_apply(const std::string& file, const std::string& format, const std::string& name,
                                         const Output& output);
[[nodiscard]] Result<int> snapshot_delete(const std::string& file, const std::string& format, const std::string& name,
                                          const Output& output);

// A bar on standard error when that is a terminal and nobody asked for quiet; else nothing.
[[nodiscard]] std::function<void(uint64_t, uint64_t)> progress_bar(const Output& output);

}  // namespace ringback::vdisk
