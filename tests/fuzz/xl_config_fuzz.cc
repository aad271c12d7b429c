// SPDX-License-Identifier: Apache-2.0
//
// macpool's reader of xl configurations, and of addresses and ranges. What it takes it has to give back byte by byte; what it
// writes it has to read.
#include "mac-pool/space.h"
#include "mac-pool/xl_config.h"
#include "target.h"

using namespace ringback;
using namespace ringback::fuzz;
using namespace ringback::mac;

namespace {

void config(const std::string& text) {
    auto parsed = XlConfig::parse(text, "guest.cfg");
    if (!parsed) {
        INVARIANT(!parsed.error().message.empty());
        return;
    }
    INVARIANT(parsed->text() == text && !parsed->changed());
    const Mac mac{0x00163e000001};
    for (size_t vif = 0; vif < parsed->vifs(); ++vif) {
        (void)parsed->place(vif);
        parsed->set_mac(vif, Mac{mac.value + vif});
    }
    const std::string uuid = "00112233-4455-6677-8899-aabbccddeeff";
    if (!parsed->name().empty()) parsed->set_uuid(uuid);
    const auto again = XlConfig::parse(parsed->text(), "guest.cfg");
    if (!again) std::fprintf(stderr, "%s\n%s\n", again.error().message.c_str(), parsed->text().c_str());
    INVARIANT(again.ok() && again.value().vifs() == parsed->vifs());
    for (size_t vif = 0; vif < parsed->vifs(); ++vif) INVARIANT(again.value().mac(vif) == (Mac{mac.value + vif}));
    if (!parsed->name().empty()) INVARIANT(again.value().uuid() == uuid && again.value().name() == parsed->name());
}

void ranges(Input& input) {
    std::vector<Range> given;
    std::vector<Range> excluded;
    while (!input.empty()) {
        const bool excludes = input.flag();
        const std::string text = input.text(input.below(40));
        if (const auto mac = parse_mac(text)) INVARIANT(parse_mac(mac.value().text()).ok());
        (void)parse_unicast(text);
        const auto range = parse_range(text);
        if (!range) continue;
        INVARIANT(range.value().first <= range.value().last && parse_range(range.value().text()).ok());
        (excludes ? excluded : given).push_back(range.value());
    }
    const auto space = Space::make(given, excluded);
    if (!space) return;
    INVARIANT(space.value().size() > 0);
    for (const uint64_t rank : {uint64_t{0}, space.value().size() / 2, space.value().size() - 1}) {
        INVARIANT(space.value().rank(space.value().at(rank)) == rank);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Input input(data, size);
    if (input.below(4) == 0) {
        ranges(input);
    } else {
        config(input.rest());
    }
    return 0;
}
