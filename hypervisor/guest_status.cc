// SPDX-License-Identifier: Apache-2.0
#include "hypervisor/guest_status.h"

#include <chrono>

namespace ringback::xen {

namespace {

constexpr std::chrono::milliseconds kPatience{2000};

}  // namespace

std::shared_ptr<GuestStatus> GuestStatus::start(EventLoop& loop, const Store& store, const char* devices,
                                                const ControlRequest& request, Responder respond) {
    const auto guest = request.text("guest");
    std::optional<Domid> only;
    std::string wrong = guest ? "" : guest.error().message;
    if (guest && guest.value()) {
        const auto found = find_guest(store, *guest.value());
        if (found) only = found.value();
        else wrong = found.error().message;
    }
    if (!wrong.empty()) {
        respond(control_error(wrong));
        return nullptr;
    }
    std::shared_ptr<GuestStatus> status(new GuestStatus(store, devices, only, std::move(respond)));
    loop.after(kPatience, [status] { status->send(); });
    return status;
}

nlohmann::json& GuestStatus::guest(Domid domid) {
    nlohmann::json& guests = answer_["guests"];
    const auto [place, fresh] = places_.try_emplace(domid, guests.size());
    if (fresh) {
        guests.push_back({{"domid", domid},
                          {"name", guest_name(store_, domid)},
                          {"uuid", guest_uuid(store_, domid)},
                          {devices_, nlohmann::json::array()}});
    }
    return guests[place->second];
}

size_t GuestStatus::add(Domid domid, nlohmann::json device) {
    nlohmann::json& list = guest(domid)[devices_];
    list.push_back(std::move(device));
    return list.size() - 1;
}

void GuestStatus::got(Domid domid, size_t device, nlohmann::json counters) {
    if (!sent_ && !counters.empty()) guest(domid)[devices_][device]["counters"] = std::move(counters);
    one_less();
}

void GuestStatus::one_less() {
    if (--expected_ == 0) send();
}

void GuestStatus::send() {
    if (sent_) return;
    sent_ = true;
    respond_(std::move(answer_));
}

}  // namespace ringback::xen
