// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/device_watch.h"

#include <fmt/format.h>

#include <algorithm>

namespace ringback::xen {

namespace {

constexpr int kEventsPerTurn = 4096;
constexpr const char* kRootToken = "root";
constexpr const char* kReleaseToken = "release";

}  // namespace

Result<void> DeviceWatch::start(Domid own, std::vector<std::string> kinds) {
    root_ = fmt::format("/local/domain/{}/backend/", own);
    kinds_ = std::move(kinds);
    for (const std::string& kind : kinds_) TRY(store_.watch(root_ + kind, kRootToken));
    TRY(store_.watch("@releaseDomain", kReleaseToken));
    for (const std::string& kind : kinds_) scan(kind);
    return {};
}

bool DeviceWatch::covers(const std::string& kind) const {
    return std::find(kinds_.begin(), kinds_.end(), kind) != kinds_.end();
}

bool DeviceWatch::take_events() {
    bool any = false;
    for (int taken = 0; taken < kEventsPerTurn; ++taken) {
        const auto event = store_.next_event();
        if (!event) break;
        if (event->token == kRootToken) {
            any |= take_path(event->path);
        } else if (event->token == kReleaseToken) {
            any = true;
        } else if (const auto id = DeviceId::parse(event->token)) {
            mark(*id);
        }
    }
    return any;
}

// A path under a root: a node of one device, or something above a device when more is created or removed at once.
bool DeviceWatch::take_path(const std::string& path) {
    if (!path.starts_with(root_)) return false;
    const std::string_view rest = std::string_view(path).substr(root_.size());
    size_t end = 0;
    for (int slash = 0; slash < 3 && end != std::string_view::npos; ++slash) {
        end = rest.find('/', slash == 0 ? 0 : end + 1);
    }
    if (const auto id = DeviceId::parse(rest.substr(0, end))) {
        mark(*id);
        return false;
    }
    scan(std::string(rest.substr(0, rest.find('/'))));
    return true;
}

void DeviceWatch::scan(const std::string& kind) {
    for (const std::string& domid : store_.list(root_ + kind)) {
        for (const std::string& devid : store_.list(root_ + kind + "/" + domid)) {
            if (const auto id = DeviceId::parse(kind + "/" + domid + "/" + devid)) mark(*id);
        }
    }
}

}  // namespace ringback::xen
