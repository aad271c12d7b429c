// SPDX-License-Identifier: Apache-2.0
#include "disk-images/vhd/header.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <ctime>

namespace ringback::image::vhd {

namespace {

constexpr std::array<char, 8> kFooterCookie{'c', 'o', 'n', 'e', 'c', 't', 'i', 'x'};
constexpr std::array<char, 8> kHeaderCookie{'c', 'x', 's', 'p', 'a', 'r', 's', 'e'};
constexpr uint32_t kVersion = 0x00010000;
constexpr uint32_t kReservedFeature = 2;  // always set
constexpr uint32_t kWindows = 0x5769326b;
constexpr size_t kFooterChecksum = 64;
constexpr size_t kHeaderChecksum = 36;
constexpr size_t kNameOffset = 64;
constexpr size_t kNameBytes = 512;
constexpr size_t kLocatorOffset = 576;
constexpr size_t kLocatorBytes = 24;
constexpr uint32_t kSmallestBlock = 4096;  // below, programs disagree about the size of a bitmap
constexpr uint32_t kLargestBlock = 256U << 20;
constexpr time_t kYear2000 = 946684800;

template <typename T>
T get(std::span<const std::byte> data, size_t at) {
    T value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value << 8 | std::to_integer<T>(data[at + i]));
    return value;
}
template <>
uint8_t get<uint8_t>(std::span<const std::byte> data, size_t at) {
    return std::to_integer<uint8_t>(data[at]);
}

template <typename T>
void put(std::span<std::byte> data, size_t at, T value) {
    for (size_t i = sizeof(T); i-- > 0;) {
        data[at + i] = static_cast<std::byte>(value & 0xff);
        if constexpr (sizeof(T) > 1) value = static_cast<T>(value >> 8);
    }
}

uint32_t checksum(std::span<const std::byte> data, size_t field) {
    uint32_t sum = 0;
    for (size_t i = 0; i < data.size(); ++i) {
        if (i < field || i >= field + 4) sum += std::to_integer<uint32_t>(data[i]);
    }
    return ~sum;
}

Error damaged(const std::string& name, const std::string& what) {
    return Error{EINVAL, fmt::format("open {}: the VHD is damaged: {}", name, what)};
}

void append_utf8(std::string& to, uint32_t code) {
    const auto put_byte = [&](uint32_t byte) { to.push_back(static_cast<char>(byte)); };
    if (code < 0x80) {
        put_byte(code);
    } else if (code < 0x800) {
        put_byte(0xc0 | code >> 6);
        put_byte(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        put_byte(0xe0 | code >> 12);
        put_byte(0x80 | (code >> 6 & 0x3f));
        put_byte(0x80 | (code & 0x3f));
    } else {
        put_byte(0xf0 | code >> 18);
        put_byte(0x80 | (code >> 12 & 0x3f));
        put_byte(0x80 | (code >> 6 & 0x3f));
        put_byte(0x80 | (code & 0x3f));
    }
}

// Up to the first NUL. Half a surrogate pair becomes U+FFFD: a name that names nothing.
std::string from_utf16(std::span<const std::byte> data, bool big_endian) {
    const auto unit = [&](size_t at) {
        const auto first = std::to_integer<uint32_t>(data[at]);
        const auto second = std::to_integer<uint32_t>(data[at + 1]);
        return big_endian ? first << 8 | second : second << 8 | first;
    };
    std::string text;
    for (size_t at = 0; at + 1 < data.size(); at += 2) {
        uint32_t code = unit(at);
        if (code == 0) break;
        if (code >= 0xd800 && code < 0xdc00 && at + 3 < data.size() && unit(at + 2) >= 0xdc00 && unit(at + 2) < 0xe000) {
            code = 0x10000 + ((code - 0xd800) << 10) + (unit(at + 2) - 0xdc00);
            at += 2;
        } else if (code >= 0xd800 && code < 0xe000) {
            code = 0xfffd;
        }
        append_utf8(text, code);
    }
    return text;
}

std::vector<std::byte> to_utf16(const std::string& text, bool big_endian) {
    std::vector<std::byte> data;
    const auto unit = [&](uint32_t value) {
        const auto high = static_cast<std::byte>(value >> 8);
        const auto low = static_cast<std::byte>(value & 0xff);
        data.push_back(big_endian ? high : low);
        data.push_back(big_endian ? low : high);
    };
    for (size_t i = 0; i < text.size();) {
        const auto lead = static_cast<uint8_t>(text[i++]);
        size_t more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
        uint32_t code = more == 3 ? lead & 7U : more == 2 ? lead & 15U : more == 1 ? lead & 31U : lead;
        for (; more > 0 && i < text.size(); --more) code = code << 6 | (static_cast<uint8_t>(text[i++]) & 0x3fU);
        if (code >= 0x10000) {
            unit(0xd800 + ((code - 0x10000) >> 10 & 0x3ff));
            unit(0xdc00 + ((code - 0x10000) & 0x3ff));
        } else {
            unit(code);
        }
    }
    return data;
}

std::string percent_decoded(std::string_view text) {
    const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; };
    std::string result;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0) {
            result.push_back(static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2])));
            i += 2;
        } else {
            result.push_back(text[i]);
        }
    }
    return result;
}

std::string percent_encoded(const std::string& text) {
    std::string result;
    for (const char c : text) {
        const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                           std::string_view("-._~/").find(c) != std::string_view::npos;
        if (plain) {
            result.push_back(c);
        } else {
            result += fmt::format("%{:02X}", static_cast<uint8_t>(c));
        }
    }
    return result;
}

}  // namespace

const char* type_name(Type type) {
    switch (type) {
        case Type::fixed: return "fixed";
        case Type::dynamic: return "dynamic";
        case Type::differencing: return "differencing";
    }
    return "unknown";
}

Uuid random_uuid() {
    Uuid uuid{};
    INVARIANT(getrandom(uuid.data(), uuid.size(), 0) == static_cast<ssize_t>(uuid.size()));
    uuid[6] = static_cast<uint8_t>((uuid[6] & 0x0f) | 0x40);
    uuid[8] = static_cast<uint8_t>((uuid[8] & 0x3f) | 0x80);
    return uuid;
}

std::string to_text(const Uuid& uuid) {
    std::string text;
    for (size_t i = 0; i < uuid.size(); ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text.push_back('-');
        text += fmt::format("{:02x}", uuid[i]);
    }
    return text;
}

Chs geometry_of(uint64_t sectors) {
    sectors = std::min(sectors, kLargestChs.total());
    uint64_t per_track = 0;
    uint64_t heads = 0;
    uint64_t cylinders_times_heads = 0;
    if (sectors >= uint64_t{65535} * 16 * 63) {
        per_track = 255;
        heads = 16;
        cylinders_times_heads = sectors / per_track;
    } else {
        per_track = 17;
        cylinders_times_heads = sectors / per_track;
        heads = std::max<uint64_t>((cylinders_times_heads + 1023) / 1024, 4);
        if (cylinders_times_heads >= heads * 1024 || heads > 16) {
            per_track = 31;
            heads = 16;
            cylinders_times_heads = sectors / per_track;
        }
        if (cylinders_times_heads >= heads * 1024) {
            per_track = 63;
            heads = 16;
            cylinders_times_heads = sectors / per_track;
        }
    }
    return {static_cast<uint16_t>(cylinders_times_heads / heads), static_cast<uint8_t>(heads),
            static_cast<uint8_t>(per_track)};
}

uint64_t round_to_geometry(uint64_t bytes) {
    const uint64_t sectors = (bytes + 511) / 512;
    if (sectors > kLargestChs.total()) return sectors * 512;
    uint64_t tried = sectors;
    while (geometry_of(tried).total() < sectors) ++tried;
    return geometry_of(tried).total() * 512;
}

bool Footer::made_by(const char* name) const { return std::memcmp(creator.data(), name, creator.size()) == 0; }

uint64_t Footer::disk_bytes() const {
    const bool by_geometry = (made_by("vpc ") || made_by("qemu")) && chs != kLargestChs;
    return by_geometry ? chs.total() * 512 : current_bytes;
}

bool has_footer_cookie(std::span<const std::byte> data) {
    return data.size() >= kFooterCookie.size() && std::memcmp(data.data(), kFooterCookie.data(), kFooterCookie.size()) == 0;
}

Result<Footer> parse_footer(std::span<const std::byte, kFooterBytes> data, const std::string& name) {
    if (!has_footer_cookie(data)) return Error{EINVAL, fmt::format("open {}: it is no VHD (no footer)", name)};
    if (get<uint32_t>(data, kFooterChecksum) != checksum(data, kFooterChecksum)) {
        return damaged(name, "the checksum of its footer is wrong");
    }
    if (get<uint32_t>(data, 12) >> 16 != kVersion >> 16) {
        return Error{ENOTSUP, fmt::format("open {}: VHD version {}.{} is not supported (known: 1.0)", name,
                                          get<uint16_t>(data, 12), get<uint16_t>(data, 14))};
    }
    Footer footer;
    footer.data_offset = get<uint64_t>(data, 16);
    footer.timestamp = get<uint32_t>(data, 24);
    std::memcpy(footer.creator.data(), data.data() + 28, footer.creator.size());
    footer.creator_version = get<uint32_t>(data, 32);
    footer.original_bytes = get<uint64_t>(data, 40);
    footer.current_bytes = get<uint64_t>(data, 48);
    footer.chs = {get<uint16_t>(data, 56), get<uint8_t>(data, 58), get<uint8_t>(data, 59)};
    const uint32_t type = get<uint32_t>(data, 60);
    if (type < 2 || type > 4) return damaged(name, fmt::format("disk type {}", type));
    footer.type = static_cast<Type>(type);
    std::memcpy(footer.id.data(), data.data() + 68, footer.id.size());
    footer.saved_state = get<uint8_t>(data, 84) != 0;
    const uint64_t bytes = footer.disk_bytes();
    if (bytes == 0 || bytes % 512 != 0) return damaged(name, fmt::format("a disk of {} bytes", bytes));
    if (bytes > kMaxBytes && footer.type != Type::fixed) {
        return Error{EFBIG, fmt::format("open {}: a VHD disk of {} bytes; the format ends at 2040 GiB (2 TiB in all)", name,
                                        bytes)};
    }
    return footer;
}

std::array<std::byte, kFooterBytes> format_footer(const Footer& footer) {
    std::array<std::byte, kFooterBytes> data{};
    std::memcpy(data.data(), kFooterCookie.data(), kFooterCookie.size());
    put<uint32_t>(data, 8, kReservedFeature);
    put<uint32_t>(data, 12, kVersion);
    put<uint64_t>(data, 16, footer.data_offset);
    put<uint32_t>(data, 24, footer.timestamp);
    std::memcpy(data.data() + 28, footer.creator.data(), footer.creator.size());
    put<uint32_t>(data, 32, footer.creator_version);
    put<uint32_t>(data, 36, kWindows);
    put<uint64_t>(data, 40, footer.original_bytes);
    put<uint64_t>(data, 48, footer.current_bytes);
    put<uint16_t>(data, 56, footer.chs.cylinders);
    put<uint8_t>(data, 58, footer.chs.heads);
    put<uint8_t>(data, 59, footer.chs.sectors);
    put<uint32_t>(data, 60, static_cast<uint32_t>(footer.type));
    std::memcpy(data.data() + 68, footer.id.data(), footer.id.size());
    put<uint8_t>(data, 84, footer.saved_state ? 1 : 0);
    put<uint32_t>(data, kFooterChecksum, checksum(data, kFooterChecksum));
    return data;
}

Result<DynamicHeader> parse_header(std::span<const std::byte, kHeaderBytes> data, const std::string& name) {
    if (std::memcmp(data.data(), kHeaderCookie.data(), kHeaderCookie.size()) != 0) {
        return damaged(name, "its dynamic header is missing");
    }
    if (get<uint32_t>(data, kHeaderChecksum) != checksum(data, kHeaderChecksum)) {
        return damaged(name, "the checksum of its dynamic header is wrong");
    }
    if (get<uint32_t>(data, 24) >> 16 != kVersion >> 16) {
        return Error{ENOTSUP, fmt::format("open {}: dynamic header version {:#x} is not supported", name,
                                          get<uint32_t>(data, 24))};
    }
    DynamicHeader header;
    header.table_offset = get<uint64_t>(data, 16);
    header.entries = get<uint32_t>(data, 28);
    header.block_bytes = get<uint32_t>(data, 32);
    if (!std::has_single_bit(header.block_bytes) || header.block_bytes < kSmallestBlock || header.block_bytes > kLargestBlock) {
        return damaged(name, fmt::format("blocks of {} bytes", header.block_bytes));
    }
    std::memcpy(header.parent_id.data(), data.data() + 40, header.parent_id.size());
    header.parent_timestamp = get<uint32_t>(data, 56);
    header.parent_name = from_utf16(data.subspan(kNameOffset, kNameBytes), true);
    for (size_t i = 0; i < header.locators.size(); ++i) {
        const size_t at = kLocatorOffset + i * kLocatorBytes;
        header.locators[i] = {get<uint32_t>(data, at), get<uint32_t>(data, at + 4), get<uint32_t>(data, at + 8),
                              get<uint64_t>(data, at + 16)};
    }
    return header;
}

std::array<std::byte, kHeaderBytes> format_header(const DynamicHeader& header) {
    std::array<std::byte, kHeaderBytes> data{};
    std::memcpy(data.data(), kHeaderCookie.data(), kHeaderCookie.size());
    put<uint64_t>(data, 8, ~uint64_t{0});
    put<uint64_t>(data, 16, header.table_offset);
    put<uint32_t>(data, 24, kVersion);
    put<uint32_t>(data, 28, header.entries);
    put<uint32_t>(data, 32, header.block_bytes);
    std::memcpy(data.data() + 40, header.parent_id.data(), header.parent_id.size());
    put<uint32_t>(data, 56, header.parent_timestamp);
    std::vector<std::byte> name = to_utf16(header.parent_name, true);
    name.resize(std::min(name.size(), kNameBytes - 2));
    std::copy(name.begin(), name.end(), data.begin() + kNameOffset);
    for (size_t i = 0; i < header.locators.size(); ++i) {
        const size_t at = kLocatorOffset + i * kLocatorBytes;
        const Locator& locator = header.locators[i];
        put<uint32_t>(data, at, locator.platform);
        put<uint32_t>(data, at + 4, locator.space);
        put<uint32_t>(data, at + 8, locator.length);
        put<uint64_t>(data, at + 16, locator.offset);
    }
    put<uint32_t>(data, kHeaderChecksum, checksum(data, kHeaderChecksum));
    return data;
}

uint32_t now_2000() { return static_cast<uint32_t>(std::time(nullptr) - kYear2000); }

std::optional<std::string> locator_path(uint32_t platform, std::span<const std::byte> data) {
    std::string path;
    if (platform == kRelativeWindows) {
        path = from_utf16(data, false);
        std::replace(path.begin(), path.end(), '\\', '/');
        if (path.size() > 1 && path[1] == ':') return std::nullopt;  // a drive letter
    } else if (platform == kUri) {
        std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
        text = text.substr(0, text.find('\0'));
        if (!text.starts_with("file://")) return std::nullopt;
        path = percent_decoded(text.substr(7));
        if (path.starts_with("localhost/")) path.erase(0, 9);
    } else {
        return std::nullopt;
    }
    if (path.starts_with("./")) path.erase(0, 2);
    if (path.empty() || path.find('\0') != std::string::npos) return std::nullopt;
    return path;
}

std::vector<std::byte> format_locator(uint32_t platform, const std::string& path) {
    const bool absolute = path.starts_with('/');
    if (platform == kUri) {
        const std::string text = (absolute ? "file://" : "file://./") + percent_encoded(path);
        std::vector<std::byte> data(text.size());
        std::memcpy(data.data(), text.data(), text.size());
        return data;
    }
    std::string windows = absolute ? path : "./" + path;
    std::replace(windows.begin(), windows.end(), '/', '\\');
    return to_utf16(windows, false);
}

}  // namespace ringback::image::vhd
