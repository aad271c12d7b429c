// SPDX-License-Identifier: Apache-2.0
#include "tools/ringback_hotplug.h"

#include <fmt/format.h>

#include <cstdio>

#include "hypervisor/store.h"
#include "hypervisor/xenbus.h"
#include "runtime/control_client.h"

namespace ringback::tools {

namespace {

constexpr std::chrono::seconds kPatience{35};  // libxl kills the script after 40 s

Result<void> add(const xen::Store& store, const std::string& directory, const std::string& xenbus_path,
                 const std::string& socket) {
    (void)TRY(ask(socket, {{"command", "wait-ready"}, {"device", xenbus_path}}, kPatience));
    // No physical-device-path: libxl would have QEMU open the same file for an HVM guest's emulated disk, and there
    // would be two writers. Without it that disk is for the guest's PV driver only.
    return store.update(directory, [&](xen::Store::Update& update) {
        update.write("hotplug-status", "connected");
        return true;
    });
}

}  // namespace

int hotplug(const std::string& action, const std::string& xenbus_path, const std::string& socket) {
    const auto id = xen::DeviceId::parse(
        xenbus_path.starts_with("backend/") ? std::string_view(xenbus_path).substr(8) : std::string_view());
    if (!id) {
        fmt::print(stderr, "block-ringback: XENBUS_PATH is \"{}\", not backend/KIND/DOMID/DEVID; this is run by xl\n",
                   xenbus_path);
        return 2;
    }
    // blkbackd has let go of the disk when libxl gets here, and libxl removes the nodes.
    if (action == "remove") return 0;

    const auto store = xen::Store::open();
    if (!store) {
        fmt::print(stderr, "block-ringback: {}\n", store.error().message);
        return 1;
    }
    const auto own = store.value().own_domid();
    const std::string directory = own ? xen::backend_directory(own.value(), *id) : std::string();
    const Result<void> added = own ? add(store.value(), directory, xenbus_path, socket) : Result<void>(own.error());
    if (added) return 0;
    const std::string text = fmt::format("disk {}: {}", id->text(), added.error().message);
    fmt::print(stderr, "block-ringback: {}\n", text);
    // libxl shows this one as its own error.
    (void)store.value().update(directory, [&](xen::Store::Update& update) {
        update.write("hotplug-error", text.substr(0, 1024));
        update.write("hotplug-status", "error");
        return true;
    });
    return 1;
}

}  // namespace ringback::tools
