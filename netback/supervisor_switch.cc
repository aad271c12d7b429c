// SPDX-License-Identifier: Apache-2.0
//
// What the control socket is asked about the built-in switch: who is behind which port (docs/control-protocol.md).
#include <fmt/format.h>

#include "hypervisor/guest.h"
#include "netback/supervisor.h"

namespace ringback::net {

namespace {

// An answer that the worker gives page by page.
struct TableJob {
    Responder respond;
    std::string name;
    nlohmann::json entries = nlohmann::json::array();
    SwitchWorker& worker;
    std::function<std::string(xen::Domid)> guest_name;
};

void ask_page(const std::shared_ptr<TableJob>& job, uint32_t cursor) {
    Message message;
    message.type = MessageType::table;
    message.body.table = {Text<32>(job->name), cursor};
    job->worker.request(message, {}, [job, cursor](const Answer& answer) {
        if (answer.error != 0) return job->respond(control_error(answer.message.str()));
        for (size_t i = 0; i < std::min<size_t>(answer.table.count, answer.table.entries.size()); ++i) {
            const TableEntry& entry = answer.table.entries[i];
            job->entries.push_back({{"mac", fmt::format("{:02x}", fmt::join(entry.address, ":"))},
                                    {"vlan", entry.vlan},
                                    {"device", fmt::format("vif/{}/{}", entry.domid, entry.handle)},
                                    {"guest", job->guest_name(entry.domid)},
                                    {"configured", entry.pinned != 0},
                                    {"age_seconds", entry.age_s}});
        }
        const uint32_t next = answer.table.cursor;
        // As many entries as were given are behind us at least: so there is an end, whatever the worker says.
        if (next != 0 && (next < cursor + answer.table.entries.size() || next >= kMaxTableEntries)) {
            return job->respond(control_error(fmt::format("the switch worker's table does not end: it goes on at {} after {}", next, cursor)));
        }
        if (next != 0) return ask_page(job, next);
        job->respond({{"ok", true}, {"switch", job->name}, {"entries", std::move(job->entries)}});
    });
}

}  // namespace

void Supervisor::switch_table(const ControlRequest& request, Responder respond) {
    const auto name = request.text("switch");
    if (!name) return respond(control_error(name.error().message));
    if (!name.value() || !config_.has_switch(*name.value())) {
        return respond(control_error(fmt::format("there is no switch \"{}\"; there are: \"{}\"", name.value().value_or(""),
                                                 config_.switch_names)));
    }
    const auto job = std::make_shared<TableJob>(TableJob{.respond = std::move(respond),
                                                         .name = *name.value(),
                                                         .worker = worker_,
                                                         .guest_name = [this](xen::Domid domid) { return xen::guest_name(store_, domid); }});
    if (worker_.pid() == 0) return job->respond({{"ok", true}, {"switch", job->name}, {"entries", job->entries}});
    ask_page(job, 0);
}

}  // namespace ringback::net
