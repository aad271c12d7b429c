// SPDX-License-Identifier: Apache-2.0
//
// Links: the host's network devices, over rtnetlink (libnl-route).
//
// Devices are named by index: a name may change hands between two calls.
//
// Thread: one owner. Needs CAP_NET_ADMIN.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/result.h"

struct nl_sock;

namespace ringback::bridge {

using MacAddress = std::array<uint8_t, 6>;

class Links {
  public:
    struct Settings {
        std::optional<MacAddress> address;
        std::optional<uint32_t> mtu;
        std::optional<uint32_t> queue_length;  // packets the device holds for whoever reads it
        std::optional<std::string> alias;      // a text that says whose it is
        std::optional<bool> up;
    };
    struct Link {
        unsigned index = 0;
        std::string name;
        std::string alias;
        uint32_t mtu = 0;
    };

    [[nodiscard]] static Result<Links> open();

    [[nodiscard]] Result<void> change(unsigned index, const Settings& settings);
    [[nodiscard]] Result<void> remove(unsigned index);
    // Every device there is.
    [[nodiscard]] Result<std::vector<Link>> list();

  private:
    struct Close {
        void operator()(nl_sock* socket) const;
    };
    explicit Links(nl_sock* socket) : socket_(socket) {}
    std::unique_ptr<nl_sock, Close> socket_;
};

}  // namespace ringback::bridge
