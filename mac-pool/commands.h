// SPDX-License-Identifier: Apache-2.0
//
// The commands of macpool, one function each. Results go to standard output, all else to standard error. They
// return the program's exit status: 0 done, 1 failed or something is wrong.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mac-pool/apply.h"
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

struct SourceRequest {
    std::vector<std::string> xl;  // files and directories
    bool xenstore = false;
    bool host = false;
    bool switches = false;     // this host's bridges and Open vSwitch
    std::string switch_table;  // a file, or "-"
    [[nodiscard]] bool empty() const {
        return xl.empty() && !xenstore && !host && !switches && switch_table.empty();
    }
};

int import(const Options& options, const SourceRequest& sources);
// Without sources: all that this host has.
int scan(const Options& options, SourceRequest sources);
int apply(const Options& options, const std::string& path, Clone clone);

// Shared by the files of commands.
[[nodiscard]] Result<Pool> open_pool(const Options& options);
int fail(const Options& options, const Error& error);
// Runs `work` on the configured pool; an error in it is told and ends with 1.
int with_pool(const Options& options, const std::function<Result<int>(Pool&)>& work);
void warn(const std::string& text);

}  // namespace ringback::mac
