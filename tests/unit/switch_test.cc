// SPDX-License-Identifier: Apache-2.0
//
// The switch's decisions, against a model that is as plain as can be.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "bridge/switch/dpdk.h"
#include "bridge/switch/switch.h"

using namespace ringback;
using namespace ringback::bridge;

namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr MacAddress kBroadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

MacAddress host(uint8_t number) { return {0x00, 0x16, 0x3e, 0, 0, number}; }

struct Shape {
    MacAddress to{};
    MacAddress from{};
    int tag = -1;  // the VLAN it names
    uint16_t type = 0x88b5;
};

std::vector<std::byte> frame(const Shape& shape) {
    std::vector<std::byte> bytes;
    const auto put = [&](unsigned value) { bytes.push_back(static_cast<std::byte>(value)); };
    for (const uint8_t byte : shape.to) put(byte);
    for (const uint8_t byte : shape.from) put(byte);
    if (shape.tag >= 0) {
        for (const unsigned byte : {0x81U, 0x00U, 0x60U | static_cast<unsigned>(shape.tag) >> 8, static_cast<unsigned>(shape.tag) & 0xff}) put(byte);
    }
    put(shape.type >> 8);
    put(shape.type & 0xff);
    bytes.resize(64);
    return bytes;
}

struct Bench {
    explicit Bench(const MacTable::Settings& settings = {}) {
        REQUIRE(start_dpdk(32));
        auto made = Switch::create(settings);
        REQUIRE(made);
        sw = std::move(made).value();
    }
    PortIndex add(const PortRules& rules) {
        const auto port = sw->add_port(rules, now);
        REQUIRE(port);
        return port.value();
    }
    Verdict ask(PortIndex from, const Shape& shape) {
        const auto bytes = frame(shape);
        return sw->classify(from, bytes, static_cast<uint32_t>(bytes.size()), now);
    }
    std::unique_ptr<Switch> sw;
    uint64_t now = kSecond;
};

// What a switch should do, as one would explain it to somebody.
struct Model {
    struct Known {
        PortIndex port;
        bool pinned;
        uint64_t seen;
    };
    std::vector<PortRules> ports;
    std::map<std::pair<MacAddress, uint16_t>, Known> known;
    uint64_t ageing;

    void add(const PortRules& rules) {
        const auto port = static_cast<PortIndex>(ports.size());
        ports.push_back(rules);
        auto vlans = rules.trunks;
        if (rules.vlan != 0) vlans.push_back(rules.vlan);
        for (const uint16_t vlan : vlans) known[{rules.address, vlan}] = {port, true, 0};
    }
    [[nodiscard]] bool wears(PortIndex port, uint16_t vlan) const {
        const auto& trunks = ports[port].trunks;
        return std::find(trunks.begin(), trunks.end(), vlan) != trunks.end();
    }
    Verdict ask(PortIndex from, const Shape& shape, uint64_t now) {
        Verdict out;
        const PortRules& rules = ports[from];
        if ((shape.from[0] & 1) != 0 || (!rules.any_source && shape.from != rules.address)) return out;
        uint16_t vlan = rules.vlan;
        if (shape.tag > 0) {
            if (!wears(from, static_cast<uint16_t>(shape.tag))) return out;
            vlan = static_cast<uint16_t>(shape.tag);
        }
        if (vlan == 0) return out;
        if (shape.to[0] == 1 && shape.to[1] == 0x80) return out;
        if (rules.any_source) {
            auto& entry = known.try_emplace({shape.from, vlan}, Known{from, false, now}).first->second;
            if (entry.pinned && entry.port != from) return out;
            if (!entry.pinned) entry = {from, false, now};
        }
        out.vlan = vlan;
        const auto found = known.find({shape.to, vlan});
        const bool counts = found != known.end() && (found->second.pinned || now - found->second.seen < ageing);
        if ((shape.to[0] & 1) == 0 && counts) {
            if (found->second.port == from) return {};
            out.fate = Fate::one;
            out.to = found->second.port;
            return out;
        }
        out.fate = Fate::all;
        return out;
    }
};

}  // namespace

TEST_CASE("random frames go where a plain model says") {
    const uint32_t seed = GENERATE(1U, 2U, 3U, 4U, 5U, 6U, 7U, 8U);
    std::mt19937 random(seed);
    const auto pick = [&](size_t below) { return random() % below; };
    constexpr uint64_t kAgeing = 100 * kSecond;
    Bench bench({.entries = 512, .per_port = 512, .ageing_ns = kAgeing});
    Model model{{}, {}, kAgeing};
    for (uint8_t i = 0; i < 7; ++i) {
        PortRules rules{.address = host(i), .any_source = pick(2) == 0, .vlan = static_cast<uint16_t>(pick(4))};
        for (const uint16_t vlan : std::array<uint16_t, 3>{2, 3, 5}) {
            if (vlan != rules.vlan && pick(3) == 0) rules.trunks.push_back(vlan);
        }
        CHECK(bench.add(rules) == i);
        model.add(rules);
    }
    std::set<int> fates;
    for (int i = 0; i < 20000; ++i) {
        const auto from = static_cast<PortIndex>(pick(7));
        Shape shape;
        shape.from = pick(3) == 0 ? host(static_cast<uint8_t>(pick(20))) : host(static_cast<uint8_t>(from));
        shape.to = host(static_cast<uint8_t>(pick(24)));
        if (pick(20) == 0) shape.to = kBroadcast;
        if (pick(20) == 0) shape.to = {0x33, 0x33, 0, 0, 0, 1};
        if (pick(50) == 0) shape.to = {0x01, 0x80, 0xc2, 0, 0, 3};
        if (pick(50) == 0) shape.from[0] |= 1;
        if (pick(2) == 0) shape.tag = static_cast<int>(pick(7));
        bench.now += pick(kSecond);
        if (pick(500) == 0) bench.now += kAgeing / 2;
        const Verdict got = bench.ask(from, shape);
        const Verdict want = model.ask(from, shape, bench.now);
        INFO("frame " << i << " of seed " << seed);
        REQUIRE(got.fate == want.fate);
        fates.insert(static_cast<int>(got.fate));
        if (got.fate == Fate::dropped) continue;
        REQUIRE(got.vlan == want.vlan);
        REQUIRE(got.tag == (shape.tag >= 0 ? 4 : 0));
        if (got.fate == Fate::one) REQUIRE(got.to == want.to);
        for (PortIndex to = 0; to < 7; ++to) {
            const Form form = model.ports[to].vlan == got.vlan ? Form::untagged
                              : model.wears(to, got.vlan)      ? Form::tagged
                                                               : Form::none;
            REQUIRE(bench.sw->form(to, got.vlan) == form);
        }
    }
    CHECK(fates.size() == 3);
}

TEST_CASE("a port that goes takes its addresses with it, and a new one gets its place") {
    Bench bench;
    const PortIndex one = bench.add({.address = host(1)});
    const PortIndex two = bench.add({.address = host(2), .any_source = true});
    CHECK(bench.ask(two, {.to = host(1), .from = host(9)}).fate == Fate::one);
    CHECK(bench.ask(one, {.to = host(9), .from = host(1)}).to == two);
    bench.sw->remove_port(two);
    CHECK(bench.ask(one, {.to = host(9), .from = host(1)}).fate == Fate::all);
    CHECK(bench.ask(one, {.to = host(2), .from = host(1)}).fate == Fate::all);
    CHECK(bench.sw->ports().size() == 1);
    CHECK(bench.add({.address = host(3)}) == two);
    CHECK(bench.ask(one, {.to = host(3), .from = host(1)}).to == two);
}

TEST_CASE("an address is one port's in a VLAN") {
    Bench bench;
    (void)bench.add({.address = host(1)});
    const auto again = bench.sw->add_port({.address = host(1), .trunks = {7}}, bench.now);
    REQUIRE(!again);
    CHECK(again.error().code == EEXIST);
    CHECK(again.error().message.find("00:16:3e:00:00:01") != std::string::npos);
    // Nothing is left of the attempt.
    (void)bench.add({.address = host(1), .vlan = 7});
    // A learned one gives way to the port it belongs to.
    const PortIndex any = bench.add({.address = host(2), .any_source = true});
    (void)bench.ask(any, {.to = host(1), .from = host(3)});
    const PortIndex own = bench.add({.address = host(3)});
    CHECK(bench.ask(any, {.to = host(3), .from = host(2)}).to == own);
    CHECK(bench.ask(any, {.to = host(1), .from = host(3)}).fate == Fate::dropped);
    CHECK(bench.sw->counters(any).spoofed == 1);
}

TEST_CASE("who makes addresses up fills its own share of the table only, and old ones make room") {
    Bench bench({.entries = 256, .per_port = 100, .ageing_ns = 10 * kSecond});
    const PortIndex liar = bench.add({.address = host(1), .any_source = true});
    const PortIndex other = bench.add({.address = host(2), .any_source = true});
    for (unsigned i = 0; i < 5000; ++i) {
        const MacAddress made_up{0x02, 0, 0, 0, static_cast<uint8_t>(i >> 8), static_cast<uint8_t>(i)};
        CHECK(bench.ask(liar, {.to = host(2), .from = made_up}).fate == Fate::one);
    }
    CHECK(bench.sw->counters(liar).unlearned == 4900);
    (void)bench.ask(other, {.to = host(1), .from = host(77)});
    CHECK(bench.ask(liar, {.to = host(77), .from = host(1)}).to == other);
    bench.now += 11 * kSecond;
    CHECK(bench.ask(liar, {.to = host(77), .from = host(1)}).fate == Fate::all);
    for (unsigned i = 0; i < 100; ++i) {
        (void)bench.ask(liar, {.to = host(2), .from = {0x06, 0, 0, 0, 0, static_cast<uint8_t>(i)}});
    }
    uint32_t cursor = 0;
    size_t fresh = 0;
    do {
        for (const auto& entry : bench.sw->table().list(bench.now, 7, cursor)) fresh += entry.address[0] == 6 ? 1 : 0;
    } while (cursor != 0);
    CHECK(fresh >= 90);
}

TEST_CASE("a new NIC finds its place in a table full of learned addresses: the one not seen for longest goes") {
    Bench bench({.entries = 64, .per_port = 64, .ageing_ns = 1000 * kSecond});
    const PortIndex liar = bench.add({.address = host(1), .any_source = true});
    const auto made_up = [](unsigned i) { return MacAddress{0x02, 0, 0, 0, 0, static_cast<uint8_t>(i)}; };
    for (unsigned i = 0; i < 63; ++i) {
        bench.now += kSecond;
        CHECK(bench.ask(liar, {.to = host(9), .from = made_up(i)}).fate == Fate::all);
    }
    bench.now += kSecond;
    (void)bench.ask(liar, {.to = host(9), .from = made_up(0)});  // seen again: 1 is the oldest now
    CHECK(bench.sw->counters(liar).unlearned == 0);
    for (unsigned i = 1; i < 63; ++i) {
        const MacAddress own{0x00, 0x16, 0x3e, 0, 1, static_cast<uint8_t>(i)};
        CHECK(bench.ask(liar, {.to = made_up(i), .from = host(1)}).fate == Fate::dropped);  // known, behind this port
        const PortIndex port = bench.add({.address = own});
        CHECK(bench.ask(liar, {.to = own, .from = host(1)}).to == port);
        CHECK(bench.ask(liar, {.to = made_up(i), .from = host(1)}).fate == Fate::all);
    }
    CHECK(bench.ask(liar, {.to = made_up(0), .from = host(1)}).fate == Fate::dropped);
    (void)bench.add({.address = host(7)});
    const auto none = bench.sw->add_port({.address = host(8)}, bench.now);
    REQUIRE(!none);
    CHECK(none.error().code == ENOSPC);
    CHECK(none.error().message.find("full of addresses of NICs") != std::string::npos);
}

TEST_CASE("the table tells who is where, and since when") {
    Bench bench;
    (void)bench.add({.address = host(1), .vlan = 4, .trunks = {9}});
    const PortIndex any = bench.add({.address = host(2), .any_source = true, .vlan = 4});
    (void)bench.ask(any, {.to = host(1), .from = host(8)});
    bench.now += 5 * kSecond;
    uint32_t cursor = 0;
    const auto entries = bench.sw->table().list(bench.now, 100, cursor);
    CHECK(cursor == 0);
    std::set<std::tuple<MacAddress, int, int, bool, uint64_t>> seen;
    for (const auto& entry : entries) seen.insert({entry.address, entry.vlan, entry.port, entry.pinned, entry.age_ns});
    CHECK(seen == decltype(seen){{host(1), 4, 0, true, 0}, {host(1), 9, 0, true, 0}, {host(2), 4, 1, true, 0}, {host(8), 4, 1, false, 5 * kSecond}});
}

TEST_CASE("floods and bytes are metered per port") {
    Bench bench;
    const PortIndex loud = bench.add({.address = host(1), .floods_per_second = 100});
    const PortIndex quiet = bench.add({.address = host(2), .floods_per_second = 100});
    const PortIndex slow = bench.add({.address = host(3), .bytes_per_second = 1'000'000});
    // Each step is a millisecond: 10 broadcasts in it, where 100 a second are allowed.
    for (int i = 0; i < 10000; ++i) {
        if (i % 10 == 0) bench.now += 1'000'000;
        (void)bench.ask(loud, {.to = kBroadcast, .from = host(1)});
        CHECK(bench.ask(loud, {.to = host(2), .from = host(1)}).fate == Fate::one);
    }
    const auto& counters = bench.sw->counters(loud);
    CHECK(counters.flooded + counters.storm == 10000);
    CHECK(counters.flooded >= 95);
    CHECK(counters.flooded <= 135);  // with a burst of one largest frame
    CHECK(bench.ask(quiet, {.to = kBroadcast, .from = host(2)}).fate == Fate::all);

    const auto bytes = frame({.to = host(1), .from = host(3)});
    uint64_t passed = 0;
    for (int i = 0; i < 20000; ++i) {  // 10 MB in a second, each 1000 bytes, of which 1 MB and a burst may pass
        if (i % 2 == 0) bench.now += 200'000;
        if (bench.sw->classify(slow, bytes, 1000, bench.now).fate == Fate::one) passed += 1000;
    }
    CHECK(passed >= 1'900'000);
    CHECK(passed <= 2'250'000);
    CHECK(bench.sw->counters(slow).policed > 0);
}

TEST_CASE("a flooded frame counts by its size, and the largest passes whatever the limit") {
    Bench bench;
    static constexpr uint32_t kLargest = 65535 + 18;
    const uint64_t limit = GENERATE(1U, 10U, 2000U);
    const uint32_t size = GENERATE(60U, 1514U, 9014U, kLargest);
    const PortIndex loud = bench.add({.address = host(1), .floods_per_second = limit});
    const auto bytes = frame({.to = kBroadcast, .from = host(1)});
    CHECK(bench.sw->classify(loud, bytes, kLargest, bench.now).fate == Fate::all);
    bench.now += 3600 * kSecond;
    const auto before = bench.sw->counters(loud).flooded;
    constexpr uint64_t kSeconds = 100;
    for (uint64_t i = 0; i < 100 * kSeconds; ++i) {
        bench.now += kSecond / 100;
        for (uint64_t k = 0; k < 1 + limit / 50; ++k) (void)bench.sw->classify(loud, bytes, size, bench.now);
    }
    // In packets of 2 KiB that others have to take.
    const uint64_t cost = (bench.sw->counters(loud).flooded - before) * (1 + size / 2048);
    CHECK(cost <= kSeconds * limit + std::max<uint64_t>(limit / 10, 1 + kLargest / 2048));
    CHECK(cost + (1 + size / 2048) >= kSeconds * limit);
}

TEST_CASE("behind a tag that counts there is no second one to come to light when it is taken off") {
    Bench bench;
    const PortIndex access = bench.add({.address = host(1)});
    const PortIndex trunk = bench.add({.address = host(2), .trunks = {5}});
    for (const uint16_t second : std::array<uint16_t, 2>{0x8100, 0x88a8}) {
        CHECK(bench.ask(access, {.to = host(2), .from = host(1), .tag = 0, .type = second}).fate == Fate::dropped);
        CHECK(bench.ask(trunk, {.to = host(1), .from = host(2), .tag = 0, .type = second}).fate == Fate::dropped);
        CHECK(bench.ask(trunk, {.to = kBroadcast, .from = host(2), .tag = 5, .type = second}).fate == Fate::dropped);
    }
    CHECK(bench.sw->counters(access).vlan_refused == 2);
    CHECK(bench.sw->counters(trunk).vlan_refused == 4);
    CHECK(bench.ask(access, {.to = host(2), .from = host(1), .tag = 0}).fate == Fate::one);
    CHECK(bench.ask(access, {.to = host(2), .from = host(1), .type = 0x88a8}).fate == Fate::one);
    CHECK(bench.ask(trunk, {.to = kBroadcast, .from = host(2), .tag = 5}).fate == Fate::all);
}

TEST_CASE("frames cut off before their headers end are dropped") {
    Bench bench;
    const PortIndex port = bench.add({.address = host(1), .trunks = {5}});
    const auto whole = frame({.to = kBroadcast, .from = host(1), .tag = 5});
    for (size_t size = 0; size < 18; ++size) {
        const std::vector<std::byte> part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
        CHECK(bench.sw->classify(port, part, 64, bench.now).fate == Fate::dropped);
    }
    CHECK(bench.sw->classify(port, whole, 64, bench.now).fate == Fate::all);
}

namespace {

// Behind an Ethernet header of its own.
bool claims(const MacAddress& own, std::vector<uint8_t> packet, uint16_t type, const std::string& given) {
    std::vector<std::byte> bytes = frame({.to = kBroadcast, .from = own, .type = type});
    bytes.resize(14);
    for (const uint8_t byte : packet) bytes.push_back(static_cast<std::byte>(byte));
    const auto networks = parse_networks(given);
    REQUIRE(networks);
    return source_allowed(bytes, 14, type, own, networks.value());
}

std::vector<uint8_t> ipv4(std::array<uint8_t, 4> from, uint8_t protocol = 6, uint16_t source = 0, uint16_t destination = 0) {
    std::vector<uint8_t> packet(28);
    packet[0] = 0x45;
    packet[9] = protocol;
    std::copy(from.begin(), from.end(), packet.begin() + 12);
    packet[20] = static_cast<uint8_t>(source >> 8);
    packet[21] = static_cast<uint8_t>(source);
    packet[22] = static_cast<uint8_t>(destination >> 8);
    packet[23] = static_cast<uint8_t>(destination);
    return packet;
}

using Bytes = std::vector<uint8_t>;

Bytes joined(std::initializer_list<Bytes> parts) {
    Bytes all;
    for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
}

std::array<uint8_t, 16> address6(const std::string& text) { return parse_networks(text).value()[0].address; }

// What is behind the fixed header, beginning with a header of this kind.
Bytes ipv6(const std::string& from, uint8_t next, const Bytes& rest) {
    Bytes packet(40);
    packet[0] = 0x60;
    packet[4] = static_cast<uint8_t>(rest.size() >> 8);
    packet[5] = static_cast<uint8_t>(rest.size());
    packet[6] = next;
    const auto address = address6(from);
    std::copy(address.begin(), address.end(), packet.begin() + 8);
    return joined({packet, rest});
}
Bytes ipv6(const std::string& from) { return ipv6(from, 17, Bytes(24)); }

constexpr uint8_t kIcmp6 = 58;
// Of neighbour discovery, with a target; options behind it.
Bytes discovery(uint8_t type, const std::string& target, const Bytes& options = {}) {
    Bytes message(8);
    message[0] = type;
    if (type == 133) return joined({message, options});
    const auto about = address6(target);
    return joined({message, Bytes(about.begin(), about.end()), options});
}
Bytes link_option(uint8_t type, const MacAddress& address) { return joined({{type, 1}, Bytes(address.begin(), address.end())}); }
// An extension header of so many bytes, a multiple of eight.
Bytes extension(uint8_t next, size_t size = 8) {
    Bytes header(size);
    header[0] = next;
    header[1] = static_cast<uint8_t>(size / 8 - 1);
    return header;
}
Bytes fragment(uint8_t next, unsigned offset, bool more) {
    return {next, 0, static_cast<uint8_t>(offset >> 5), static_cast<uint8_t>(offset << 3 | (more ? 1U : 0U)), 0, 0, 0, 1};
}

std::vector<uint8_t> arp(const MacAddress& sender, std::array<uint8_t, 4> address, std::array<uint8_t, 4> target = {}) {
    constexpr std::array<uint8_t, 8> kForm{0, 1, 8, 0, 6, 4, 0, 1};
    std::vector<uint8_t> packet(28);
    std::copy(kForm.begin(), kForm.end(), packet.begin());
    std::copy(sender.begin(), sender.end(), packet.begin() + 8);
    std::copy(address.begin(), address.end(), packet.begin() + 14);
    std::copy(target.begin(), target.end(), packet.begin() + 24);
    return packet;
}

}  // namespace

TEST_CASE("a guest with addresses of its own claims no others") {
    const MacAddress own = host(1);
    const std::string given = "192.0.2.7 198.51.100.0/25 2001:db8::7";
    CHECK(claims(own, ipv4({192, 0, 2, 7}), 0x0800, given));
    CHECK(claims(own, ipv4({198, 51, 100, 127}), 0x0800, given));
    CHECK_FALSE(claims(own, ipv4({198, 51, 100, 128}), 0x0800, given));
    CHECK_FALSE(claims(own, ipv4({192, 0, 2, 8}), 0x0800, given));
    CHECK(claims(own, ipv4({0, 0, 0, 0}, 17, 68, 67), 0x0800, given));
    CHECK_FALSE(claims(own, ipv4({0, 0, 0, 0}, 17, 68, 53), 0x0800, given));
    CHECK_FALSE(claims(own, ipv4({0, 0, 0, 0}, 6), 0x0800, given));
    CHECK_FALSE(claims(own, std::vector<uint8_t>{0x45, 0, 0}, 0x0800, given));
    CHECK(claims(own, arp(own, {192, 0, 2, 7}), 0x0806, given));
    CHECK(claims(own, arp(own, {0, 0, 0, 0}, {192, 0, 2, 7}), 0x0806, given));
    CHECK_FALSE(claims(own, arp(own, {0, 0, 0, 0}, {192, 0, 2, 1}), 0x0806, given));  // it would have to give it up
    CHECK_FALSE(claims(own, arp(own, {192, 0, 2, 1}), 0x0806, given));
    CHECK_FALSE(claims(own, arp(host(2), {192, 0, 2, 7}), 0x0806, given));
    CHECK(claims(own, ipv6("2001:db8::7"), 0x86dd, given));
    CHECK(claims(own, ipv6("fe80::1"), 0x86dd, given));
    CHECK_FALSE(claims(own, ipv6("2001:db8::8"), 0x86dd, given));
    CHECK_FALSE(claims(own, ipv6("::"), 0x86dd, given));
    CHECK_FALSE(claims(own, std::vector<uint8_t>(50), 0x88b5, given));
}

TEST_CASE("neighbour discovery says nothing of addresses that are not the guest's, whatever it is behind") {
    const MacAddress own = host(1);
    const auto passes = [&](const Bytes& packet) { return claims(own, packet, 0x86dd, "192.0.2.7 2001:db8::7"); };
    const std::string mine = "2001:db8::7", other = "2001:db8::8";
    // Advertisements.
    CHECK(passes(ipv6(mine, kIcmp6, discovery(136, mine))));
    CHECK(passes(ipv6("fe80::1", kIcmp6, discovery(136, mine, link_option(2, own)))));
    CHECK(passes(ipv6("fe80::1", kIcmp6, discovery(136, "fe80::1"))));
    CHECK_FALSE(passes(ipv6("fe80::1", kIcmp6, discovery(136, other))));
    CHECK_FALSE(passes(ipv6("fe80::1", kIcmp6, discovery(136, mine, link_option(2, host(2))))));
    CHECK_FALSE(passes(ipv6("::", kIcmp6, discovery(136, mine))));
    // Solicitations: whoever asks has an address, or wants one of its own.
    CHECK(passes(ipv6(mine, kIcmp6, discovery(135, other, link_option(1, own)))));
    CHECK_FALSE(passes(ipv6(mine, kIcmp6, discovery(135, other, link_option(1, host(2))))));
    CHECK(passes(ipv6("::", kIcmp6, discovery(135, mine, {14, 1, 1, 2, 3, 4, 5, 6}))));  // a nonce (RFC 7527)
    CHECK(passes(ipv6("::", kIcmp6, discovery(135, "fe80::1"))));
    CHECK_FALSE(passes(ipv6("::", kIcmp6, discovery(135, other))));
    CHECK(passes(ipv6("::", kIcmp6, discovery(133, ""))));
    CHECK(passes(ipv6("fe80::1", kIcmp6, discovery(133, "", link_option(1, own)))));
    CHECK_FALSE(passes(ipv6("fe80::1", kIcmp6, discovery(133, "", link_option(1, host(2))))));
    // It is no router, and knows no better one.
    CHECK_FALSE(passes(ipv6("fe80::1", kIcmp6, discovery(134, mine))));
    CHECK_FALSE(passes(ipv6("fe80::1", kIcmp6, discovery(137, mine))));
    // From nobody comes nothing else but who listens to what, behind a router alert.
    CHECK(passes(ipv6("::", 0, joined({extension(kIcmp6), {143, 0, 0, 0, 0, 0, 0, 0}}))));
    CHECK_FALSE(passes(ipv6("::", kIcmp6, {128, 0, 0, 0, 0, 0, 0, 0})));
    CHECK(passes(ipv6(mine, kIcmp6, {128, 0, 0, 0, 0, 0, 0, 0})));

    for (const uint8_t kind : {uint8_t{0}, uint8_t{43}, uint8_t{60}}) {
        INFO("behind a header of kind " << int{kind});
        for (const size_t size : {8U, 16U, 96U}) {
            CHECK(passes(ipv6(mine, kind, joined({extension(kIcmp6, size), discovery(136, mine)}))));
            CHECK(passes(ipv6(mine, kind, joined({extension(17, size), Bytes(24)}))));
            CHECK_FALSE(passes(ipv6(mine, kind, joined({extension(kIcmp6, size), discovery(136, other)}))));
            CHECK_FALSE(passes(ipv6(mine, kind, joined({extension(60, size), extension(kIcmp6), discovery(136, other)}))));
            CHECK_FALSE(passes(ipv6(mine, kind, joined({extension(51, size), Bytes{kIcmp6, 4}, Bytes(22), discovery(136, other)}))));
        }
        // What they lead to is not there to be seen.
        CHECK_FALSE(passes(ipv6(mine, kind, {kIcmp6})));
        CHECK_FALSE(passes(ipv6(mine, kind, {kIcmp6, 1, 0, 0, 0, 0, 0, 0})));
        CHECK_FALSE(passes(ipv6(mine, kind, extension(kIcmp6))));
        CHECK_FALSE(passes(ipv6(mine, kind, joined({extension(60), {kIcmp6}}))));
    }
    // Fragments: the first has all headers, and none is of neighbour discovery.
    CHECK(passes(ipv6(mine, 44, joined({fragment(17, 0, true), Bytes(24)}))));
    CHECK(passes(ipv6(mine, 44, joined({fragment(kIcmp6, 0, true), {128, 0, 0, 0, 0, 0, 0, 0}}))));
    CHECK(passes(ipv6(mine, 44, joined({fragment(kIcmp6, 100, false), Bytes(24, 136)}))));
    CHECK_FALSE(passes(ipv6("::", 44, joined({fragment(kIcmp6, 100, false), Bytes(24, 136)}))));
    CHECK_FALSE(passes(ipv6(mine, 44, joined({fragment(kIcmp6, 0, true), discovery(136, mine)}))));
    CHECK_FALSE(passes(ipv6(mine, 44, joined({fragment(kIcmp6, 0, false), discovery(136, other)}))));
    CHECK_FALSE(passes(ipv6(mine, 60, joined({extension(44), fragment(60, 0, false), extension(kIcmp6), discovery(136, other)}))));
    CHECK_FALSE(passes(ipv6(mine, 44, joined({fragment(60, 0, true), {kIcmp6}}))));

    // Cut off anywhere, as what is known of a long packet is.
    const Bytes whole = ipv6("fe80::1", 0, joined({extension(kIcmp6), discovery(136, mine, link_option(2, own))}));
    CHECK(passes(whole));
    CHECK(passes(joined({whole, Bytes(20, 0xff)})));  // what a wire adds
    for (size_t size = 0; size < whole.size(); ++size) {
        INFO(size << " bytes");
        CHECK_FALSE(passes(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size))));
    }
    for (const uint8_t length : {uint8_t{0}, uint8_t{2}, uint8_t{255}}) {
        CHECK_FALSE(passes(ipv6(mine, kIcmp6, discovery(136, mine, {2, length, 0, 0, 0, 0, 0, 0}))));
    }
}

TEST_CASE("addresses and bridge names are taken whole or not at all") {
    for (const char* bad : {"1.2.3", "1.2.3.4/33", "1.2.3.4/", "x", "2001:db8::/129", "1.2.3.4 5"}) {
        INFO(bad);
        CHECK_FALSE(parse_networks(bad));
    }
    CHECK(parse_networks(" 1.2.3.4  ::1/64 ").value().size() == 2);
    const auto plain = parse_bridge_name("lan0");
    CHECK(plain.value().name == "lan0");
    CHECK(plain.value().vlan == kDefaultVlan);
    const auto full = parse_bridge_name("lan0.12:5:4094");
    CHECK(full.value().vlan == 12);
    CHECK(full.value().trunks == std::vector<uint16_t>{5, 4094});
    CHECK(parse_bridge_name("lan0:7").value().trunks == std::vector<uint16_t>{7});
    for (const char* bad : {"lan0.", "lan0.0", "lan0.4095", "lan0:", "lan0.1:x", "lan0.1:"}) {
        INFO(bad);
        CHECK_FALSE(parse_bridge_name(bad));
    }
}
