// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/guest.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

namespace ringback::mac {

namespace {

constexpr size_t kUuidDigits = 32;
constexpr size_t kLongestName = 255;

// A record that is not UTF-8 could not be written as JSON.
bool utf8(std::string_view text) {
    try {
        (void)nlohmann::json(text).dump();
        return true;
    } catch (const nlohmann::json::exception&) {
        return false;
    }
}

bool dash_before(size_t digit) {
    return digit == 8 || digit == 12 || digit == 16 || digit == 20;
}

}  // namespace

std::string Guest::text() const {
    if (uuid.empty()) return name;
    return name.empty() ? uuid : fmt::format("{} ({})", name, uuid);
}

bool same_guest(const Guest& one, const Guest& other) {
    if (!one.uuid.empty() && !other.uuid.empty()) return one.uuid == other.uuid;
    return !one.name.empty() && one.name == other.name;
}

Result<std::string> parse_uuid(std::string_view text) {
    const Error error{EINVAL, fmt::format("'{}' is not a UUID", text)};
    const bool dashed = text.find('-') != std::string_view::npos;
    std::string canonical;
    size_t digits = 0;
    bool zero = true;
    for (size_t at = 0; at < text.size(); ++at) {
        if (dash_before(digits) && (canonical.empty() || canonical.back() != '-')) {
            canonical += '-';
            if (dashed) {
                if (text[at] != '-') return error;
                continue;
            }
        }
        const char c =
            text[at] >= 'A' && text[at] <= 'F' ? static_cast<char>(text[at] - 'A' + 'a') : text[at];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')) || ++digits > kUuidDigits) return error;
        zero = zero && c == '0';
        canonical += c;
    }
    if (digits != kUuidDigits) return error;
    if (zero) return Error{EINVAL, fmt::format("'{}' is the all-zero UUID, which names no guest", text)};
    return canonical;
}

std::string make_uuid() {
    std::random_device random;
    uint32_t words[4];
    for (uint32_t& word : words)
        word = random();
    words[1] = (words[1] & 0xffff0fff) | 0x4000;
    words[2] = (words[2] & 0x3fffffff) | 0x80000000;
    return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:04x}{:08x}", words[0], words[1] >> 16,
                       words[1] & 0xffff, words[2] >> 16, words[2] & 0xffff, words[3]);
}

Result<std::string> parse_guest_name(std::string_view text) {
    const bool bad = std::ranges::any_of(
        text, [](char c) { return c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
    if (text.empty() || text.size() > kLongestName || bad || !utf8(text)) {
        return Error{EINVAL, fmt::format("'{}' cannot be a guest's name", text)};
    }
    return std::string(text);
}

GuestWord classify_guest(std::string_view text) {
    if (!text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos && text.size() <= 5) {
        return GuestWord::domid;
    }
    return parse_uuid(text).ok() ? GuestWord::uuid : GuestWord::name;
}

}  // namespace ringback::mac
