// SPDX-License-Identifier: Apache-2.0
//
// FakeStore: xenstored behind libxenstore's functions, in this process: nodes, transactions, watches. Who writes without a
// transaction is the toolstack or the guest. And what else a supervisor has around it: time, which stands still until an input
// moves it on, and processes, none of which is ever started.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ringback::fuzz {

class FakeStore {
  public:
    static FakeStore& get();

    void write(const std::string& path, const std::string& value);
    void remove(const std::string& path);
    [[nodiscard]] std::optional<std::string> read(const std::string& path) const;

    // For libxenstore's functions.
    using Nodes = std::map<std::string, std::string>;
    static void put(Nodes& nodes, const std::string& path, const std::string& value);
    static bool erase(Nodes& nodes, const std::string& path);
    void changed(const std::string& path);
    void tell(const std::string& path, const std::string& token);

    Nodes nodes{{"domid", "0"}};
    std::vector<std::pair<std::string, std::string>> watches;
    std::deque<std::pair<std::string, std::string>> events;
    uint32_t refused_commits = 0;  // so many transactions meet another writer
    struct Transaction {
        Nodes nodes;
        std::vector<std::string> changes;
    };
    std::map<uint32_t, Transaction> transactions;

  private:
    FakeStore() = default;
};

// The supervisor's clock.
void pass_time(std::chrono::milliseconds time);
// How many programs were to be started since this was asked last.
uint32_t take_started();

}  // namespace ringback::fuzz
