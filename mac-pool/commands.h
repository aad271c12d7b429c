// SPDX-License-Identifier: Apache-2.0
//
// The commands of macpool, one function each. Results go to standard output, all else to standard error. They
// return the program's exit status: 0 done, 1 failed or something is wrong.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mac-pool/config.h"
#include "mac-pool/pool.h"

namespace ringback::mac {

struct Options {
    std::string config = kConfigPath;
    std::string url;  // instead of the configuration's
    bool json = false;
};

struct InitRequest {
    std::vector<std::string> ranges;
    std::vector<std::string> exclusions;
    std::string rest = "24h";
};

int init(const Options& options, const InitRequest& request);
int allocate(const Options& options, const std::string& guest, unsigned nic);
// Without a guest: for none.
int reserve(const Options& options, const std::string& mac, const std::string& guest, unsigned nic);
// One address, or a guest's: all or the one of a NIC.
int release(const Options& options, const std::string& mac, const std::string& guest,
            std::optional<unsigned> nic);
// An address or a guest.
int show(const Options& options, const std::string& word);
int list(const Options& options, bool resting);
int export_pool(const Options& options);
int stats(const Options& options);

// Shared by the files of commands.
[[nodiscard]] Result<Pool> open_pool(const Options& options);
int fail(const Options& options, const Error& error);
void warn(const std::string& text);

}  // namespace ringback::mac
