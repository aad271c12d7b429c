// SPDX-License-Identifier: Apache-2.0
//
// See admin.h.
#include "hypervisor/embedded/core/admin.h"

#include <cerrno>
#include <nlohmann/json.hpp>

namespace ringback::xen::embedded {
namespace {

using nlohmann::json;

constexpr std::uint32_t kPagesPerMib = 256;
constexpr std::uint32_t kMaxVcpus = 128;

json describe(const Counters& c) {
    return {{"hypercalls", c.hypercalls},
            {"maps", c.maps},
            {"map_failures", c.map_failures},
            {"unmaps", c.unmaps},
            {"copy_calls", c.copy_calls},
            {"copies", c.copies},
            {"copy_failures", c.copy_failures},
            {"copy_bytes", c.copy_bytes},
            {"notifies_received", c.notifies_received},
            {"notifies_sent", c.notifies_sent}};
}

const char* reason_name(ShutdownReason reason) {
    switch (reason) {
        case ShutdownReason::poweroff:
            return "poweroff";
        case ShutdownReason::reboot:
            return "reboot";
        case ShutdownReason::suspend:
            return "suspend";
        case ShutdownReason::crash:
            return "crash";
        case ShutdownReason::none:
            break;
    }
    return "";
}

json describe(const Domain& d) {
    std::vector<bool> vcpus = d.vcpu_online;
    return {{"domid", d.id},
            {"name", d.name},
            {"uuid", d.uuid},
            {"type", d.type},
            {"max_pages", d.max_pages},
            {"pages", d.pages},
            {"allocated_pages", d.allocated},
            {"granted", d.granted()},
            {"pinned", d.pinned()},
            {"vcpus", vcpus},
            {"paused", d.paused},
            {"dying", d.dying()},
            {"shutdown", reason_name(d.shutdown)},
            {"counters", describe(d.counters)}};
}

}  // namespace

int Admin::handle(Op op, const std::string& payload, std::int64_t* args, std::string& reply) {
    try {
        switch (op) {
            case Op::create_domain:
                return create(payload, args[0]);
            case Op::domain_info:
                hypervisor_.collect_counters();
                reply = describe(*hypervisor_.find(static_cast<std::uint16_t>(args[0]))).dump();
                return 0;
            case Op::list_domains: {
                hypervisor_.collect_counters();
                json list = json::array();
                for (const auto& [id, domain] : hypervisor_.domains())
                    list.push_back(describe(*domain));
                reply = list.dump();
                // The reply is one message; a host with very many domains asks for them one by one.
                return reply.size() + sizeof(Reply) > kMaxMessage ? E2BIG : 0;
            }
            case Op::counters:
                reply = counters();
                return 0;
            case Op::inject:
                return inject(payload, reply);
            default:
                return ENOSYS;
        }
    } catch (const json::exception&) {
        return EINVAL;
    }
}

int Admin::create(const std::string& payload, std::int64_t& domid) {
    json j = json::parse(payload);
    DomainConfig config;
    config.name = j.at("name").get<std::string>();
    config.uuid = j.at("uuid").get<std::string>();
    config.type = j.value("type", "pvh");
    std::uint64_t max_mib = j.value("max_memory_mib", std::uint64_t{32});
    std::uint64_t mib = j.value("memory_mib", max_mib);
    if (max_mib > UINT32_MAX / kPagesPerMib || mib > max_mib) return EINVAL;
    config.max_pages = static_cast<std::uint32_t>(max_mib) * kPagesPerMib;
    config.pages = static_cast<std::uint32_t>(mib) * kPagesPerMib;
    config.max_vcpus = j.value("max_vcpus", 1u);
    config.vcpus = j.value("vcpus", config.max_vcpus);
    if (config.max_vcpus > kMaxVcpus) return EINVAL;
    std::uint16_t id = 0;
    int error = hypervisor_.create_domain(config, j.value("domid", -1), id);
    domid = id;
    return error;
}

int Admin::inject(const std::string& payload, std::string& reply) {
    json j = json::parse(payload);
    if (j.contains("map_failures")) {
        hypervisor_.faults.map_failures = j["map_failures"].get<std::uint32_t>();
        hypervisor_.faults.map_domid = j.value("domid", -1);
        hypervisor_.faults.map_error = j.value("errno", EINVAL);
        if (hypervisor_.faults.map_error <= 0) return EINVAL;
    }
    if (j.contains("copy_failures")) {
        Domain* domain = hypervisor_.find_alive(j.at("domid").get<std::uint16_t>());
        if (domain == nullptr) return ESRCH;
        auto status = static_cast<std::uint16_t>(j.value("status", -1));
        domain->shared()->copy_fault =
            (std::uint64_t{status} << 32) | j["copy_failures"].get<std::uint32_t>();
    }
    if (j.contains("unmap_delay_ms")) hypervisor_.unmap_delay_ms = j["unmap_delay_ms"].get<std::uint32_t>();
    if (j.contains("shuffle")) store_.shuffle(j["shuffle"].get<bool>(), j.value("seed", 1u));
    json state = {{"map_failures", hypervisor_.faults.map_failures},
                  {"unmap_delay_ms", hypervisor_.unmap_delay_ms}};
    reply = state.dump();
    return 0;
}

std::string Admin::counters() {
    hypervisor_.collect_counters();
    json total = {
        {"domains", hypervisor_.domains().size()}, {"host_pages", hypervisor_.host_pages()},
        {"used_pages", hypervisor_.used_pages()},  {"live_maps", hypervisor_.live_mappings()},
        {"ports", hypervisor_.open_ports()},       {"gone", describe(hypervisor_.totals_of_gone_domains)}};
    json calls = json::object();
    static constexpr std::pair<Op, const char*> kNames[] = {{Op::attach_domain, "attach_domain"},
                                                            {Op::map_grants, "map_grants"},
                                                            {Op::unmap, "unmap"},
                                                            {Op::alloc_unbound, "alloc_unbound"},
                                                            {Op::bind_interdomain, "bind_interdomain"},
                                                            {Op::close_port, "close_port"},
                                                            {Op::create_domain, "create_domain"},
                                                            {Op::destroy_domain, "destroy_domain"},
                                                            {Op::populate, "populate"},
                                                            {Op::decrease, "decrease"}};
    for (auto [op, name] : kNames)
        calls[name] = hypercalls_.calls(op);
    json domains = json::object();
    for (const auto& [id, domain] : hypervisor_.domains())
        domains[std::to_string(id)] = describe(domain->counters);
    json store = {{"nodes", store_.nodes()},       {"connections", store_.connections()},
                  {"watches", store_.watches()},   {"transactions", store_.transactions()},
                  {"requests", store_.requests()}, {"dropped_events", store_.dropped_events()}};
    return json{{"total", total}, {"calls", calls}, {"domains", domains}, {"store", store}}.dump();
}

}  // namespace ringback::xen::embedded
