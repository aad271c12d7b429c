// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/xl_config.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "mac-pool/guest.h"
#include "runtime/unique_fd.h"

namespace ringback::mac {

namespace {

constexpr off_t kLargest = 4 << 20;  // a guest's configuration has some hundred bytes

bool blank(char c) {
    return c == ' ' || c == '\t';
}

}  // namespace

class XlConfig::Reader {
  public:
    explicit Reader(XlConfig& config) : config_(config), text_(config.text_) {}

    Result<void> read() {
        while (true) {
            const Token token = TRY(next());
            if (token.kind == Kind::end) return {};
            if (token.kind == Kind::newline || token.kind == Kind::semicolon) continue;
            if (token.kind != Kind::word) return refuse(token, "expected a setting, NAME = VALUE");
            TRY(assignment(text_.substr(token.span.begin, token.span.end - token.span.begin)));
            const Token end = TRY(next());
            if (end.kind == Kind::end) return {};
            if (end.kind != Kind::newline && end.kind != Kind::semicolon)
                return refuse(end, "expected the end of the line or ';'");
        }
    }

  private:
    enum class Kind { end, newline, semicolon, comma, open, close, assign, append, word, number, string };
    struct Token {
        Kind kind = Kind::end;
        Span span;  // of a string: without the quotes
        size_t line = 0;
        std::string value;           // of a string or number, with escapes resolved
        std::vector<size_t> places;  // of each character of `value` in the text
    };

    [[nodiscard]] Error refuse(const Token& token, std::string_view why) const {
        return {EINVAL, fmt::format("{}:{}: {}", config_.origin_, token.line, why)};
    }

    Token simple(Kind kind, size_t length) {
        const Token token{kind, {at_, at_ + length}, line_, {}, {}};
        at_ += length;
        if (kind == Kind::newline) ++line_;
        return token;
    }

    Result<Token> next() {
        while (at_ < text_.size() && blank(text_[at_]))
            ++at_;
        if (at_ < text_.size() && text_[at_] == '#') at_ = std::min(text_.find('\n', at_), text_.size());
        if (at_ == text_.size()) return simple(Kind::end, 0);
        const char c = text_[at_];
        switch (c) {
            case '\n':
                return simple(Kind::newline, 1);
            case ';':
                return simple(Kind::semicolon, 1);
            case ',':
                return simple(Kind::comma, 1);
            case '[':
                return simple(Kind::open, 1);
            case ']':
                return simple(Kind::close, 1);
            case '=':
                return simple(Kind::assign, 1);
            case '\'':
            case '"':
                return string(c);
            default:
                break;
        }
        if (text_.compare(at_, 2, "+=") == 0) return simple(Kind::append, 2);
        const auto run = [&](const char* allowed) {
            return std::min(text_.find_first_not_of(allowed, at_), text_.size()) - at_;
        };
        if (c >= 'a' && c <= 'z') return simple(Kind::word, run("abcdefghijklmnopqrstuvwxyz0123456789_"));
        if (c >= '0' && c <= '9') {
            Token token = simple(Kind::number, run("0123456789abcdefx"));
            token.value = text_.substr(token.span.begin, token.span.end - token.span.begin);
            return token;
        }
        const bool printable = c > ' ' && c < 0x7f;
        return refuse({Kind::end, {}, line_, {}, {}},
                      printable ? fmt::format("xl does not take the character '{}' here", c)
                                : fmt::format("xl does not take the byte 0x{:02x} here",
                                              static_cast<unsigned char>(c)));
    }

    Result<Token> string(char quote) {
        Token token{Kind::string, {at_ + 1, at_ + 1}, line_, {}, {}};
        for (++at_; at_ < text_.size() && text_[at_] != '\n'; ++at_) {
            char c = text_[at_];
            if (c == quote) {
                token.span.end = at_++;
                return token;
            }
            token.places.push_back(at_);
            if (c == '\\') {
                constexpr std::string_view kEscapes = "\\\\''\"\"n\nt\tr\r";
                const char escaped = at_ + 1 < text_.size() ? text_[at_ + 1] : '\n';
                size_t pair = 0;
                while (pair < kEscapes.size() && kEscapes[pair] != escaped)
                    pair += 2;
                if (pair >= kEscapes.size())
                    return refuse(token, "an escape in a string that xl does not take, or garbles");
                c = kEscapes[pair + 1];
                ++at_;
            }
            token.value += c;
        }
        return refuse(token, "a string without its closing quote");
    }

    Result<void> assignment(const std::string& setting) {
        const Token how = TRY(next());
        if (how.kind != Kind::assign && how.kind != Kind::append)
            return refuse(how, fmt::format("expected = after {}", setting));
        const bool append = how.kind == Kind::append;
        if (append && (setting == "name" || setting == "uuid"))
            return refuse(how, fmt::format("{} with +=", setting));
        const Token value = TRY(next());
        if (value.kind == Kind::open) {
            if (setting == "name" || setting == "uuid")
                return refuse(value, fmt::format("{} must not be a list", setting));
            if (setting == "vif" && !append) config_.vifs_.clear();
            return list(setting == "vif");
        }
        if (value.kind != Kind::string && value.kind != Kind::number) {
            return refuse(value, fmt::format("expected a string, a number or a list after {} =", setting));
        }
        if (setting == "vif")
            return refuse(value, "vif is a single value, and xl wants a list: vif = [ '...' ]");
        const size_t quotes = value.kind == Kind::string ? 1 : 0;
        const Span whole{value.span.begin - quotes, value.span.end + quotes};
        if (setting == "name") {
            config_.name_ = value.value;
            config_.name_token_ = whole;
        }
        if (setting == "uuid") {
            const auto uuid = parse_uuid(value.value);
            if (!uuid.ok()) return refuse(value, uuid.error().message);
            config_.uuid_ = uuid.value();
            config_.uuid_token_ = whole;
        }
        return {};
    }

    Result<Token> next_in_list() {
        while (true) {
            Token token = TRY(next());
            if (token.kind != Kind::newline) return token;
        }
    }

    Result<void> list(bool vif) {
        for (bool wants_value = true;;) {
            const Token token = TRY(next_in_list());
            if (token.kind == Kind::close) return {};
            if (!wants_value) {
                if (token.kind != Kind::comma) return refuse(token, "expected ',' or ']' in a list");
                wants_value = true;
                continue;
            }
            wants_value = false;
            if (token.kind == Kind::open && !vif) {
                TRY(list(false));
                continue;
            }
            if (vif && token.kind != Kind::string)
                return refuse(token, "an entry of vif must be a string in quotes");
            if (token.kind != Kind::string && token.kind != Kind::number)
                return refuse(token, "expected a value or ']' in a list");
            if (vif) TRY(entry(token));
        }
    }

    // type=...,mac=...,bridge=...: words apart by commas, blanks before them ignored, as xl does.
    Result<void> entry(const Token& token) {
        Vif vif{token.line, token.span, std::nullopt, std::nullopt};
        const std::string& value = token.value;
        for (size_t begin = 0; begin <= value.size();) {
            const size_t comma = std::min(value.find(',', begin), value.size());
            size_t word = begin;
            while (word < comma && value[word] == ' ')
                ++word;
            if (value.compare(word, 4, "mac=") == 0) {
                size_t first = word + 4;
                size_t last = comma;
                while (last > first && blank(value[last - 1]))
                    --last;
                if (vif.mac) return refuse(token, "two mac= in one vif");
                const auto mac = parse_unicast(std::string_view(value).substr(first, last - first));
                if (!mac.ok()) return refuse(token, mac.error().message);
                vif.mac = mac.value();
                vif.value = Span{token.places[first], token.places[last - 1] + 1};
            }
            begin = comma + 1;
        }
        config_.vifs_.push_back(vif);
        return {};
    }

    XlConfig& config_;
    const std::string& text_;
    size_t at_ = 0;
    size_t line_ = 1;
};

Result<XlConfig> XlConfig::parse(std::string text, std::string origin) {
    XlConfig config;
    config.text_ = std::move(text);
    config.origin_ = std::move(origin);
    TRY(Reader(config).read());
    return config;
}

std::string XlConfig::place(size_t vif) const {
    return fmt::format("{}:{}", origin_, vifs_[vif].line);
}

void XlConfig::replace(Span span, std::string text) {
    std::erase_if(
        edits_, [&](const Edit& edit) { return edit.span.begin == span.begin && edit.span.end == span.end; });
    edits_.push_back({span, std::move(text)});
}

void XlConfig::set_mac(size_t vif, Mac mac) {
    Vif& entry = vifs_[vif];
    if (entry.mac == mac) return;
    entry.mac = mac;
    if (entry.value) {
        replace(*entry.value, mac.text());
        return;
    }
    const std::string_view content =
        std::string_view(text_).substr(entry.content.begin, entry.content.end - entry.content.begin);
    std::string word = "mac=" + mac.text();
    if (content.find_first_not_of(" \t") != std::string_view::npos)
        word += content.front() == ' ' ? "," : ", ";
    replace({entry.content.begin, entry.content.begin}, word);
}

void XlConfig::set_uuid(const std::string& uuid) {
    if (uuid_ == uuid) return;
    uuid_ = uuid;
    const std::string quoted = "\"" + uuid + "\"";
    if (uuid_token_) {
        replace(*uuid_token_, quoted);
        return;
    }
    // On a line of its own after the name's, unless something else begins on that line, a list perhaps.
    const size_t end = std::min(text_.find('\n', name_token_.end), text_.size());
    const size_t rest = std::min(text_.find_first_not_of(" \t", name_token_.end), text_.size());
    const bool alone = rest >= end || text_[rest] == '#';
    const size_t at = alone ? end : name_token_.end;
    replace({at, at}, (alone ? "\nuuid = " : "; uuid = ") + quoted);
}

std::string XlConfig::text() const {
    std::vector<Edit> edits = edits_;
    std::ranges::stable_sort(edits, {}, [](const Edit& edit) { return edit.span.begin; });
    std::string text;
    size_t at = 0;
    for (const Edit& edit : edits) {
        text.append(text_, at, edit.span.begin - at);
        text += edit.text;
        at = edit.span.end;
    }
    text.append(text_, at);
    return text;
}

Result<XlConfig> read_xl_config(const std::string& path) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file) return os_error("open " + path);
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) return os_error("look at " + path);
    if (!S_ISREG(status.st_mode)) return Error{EINVAL, path + " is not a file"};
    if (status.st_size > kLargest) return Error{EFBIG, path + " is too large for a guest's configuration"};
    std::string text;
    char buffer[16384];
    while (true) {
        const ssize_t got = ::read(file.get(), buffer, sizeof buffer);
        if (got < 0) return os_error("read " + path);
        if (got == 0) break;
        text.append(buffer, static_cast<size_t>(got));
    }
    return XlConfig::parse(std::move(text), path);
}

Result<void> replace_file(const std::string& path, const std::string& text) {
    char* resolved = ::realpath(path.c_str(), nullptr);
    if (resolved == nullptr) return os_error("find " + path);
    const std::string target = resolved;
    ::free(resolved);
    struct stat status {};
    if (::stat(target.c_str(), &status) != 0) return os_error("look at " + target);
    std::string temporary = target + ".XXXXXX";
    const UniqueFd file(::mkostemp(temporary.data(), O_CLOEXEC));
    if (!file) return os_error("make a file beside " + target);
    const auto give_up = [&](const std::string& tried) {
        const Error error = os_error(tried);
        ::unlink(temporary.c_str());
        return error;
    };
    for (size_t done = 0; done < text.size();) {
        const ssize_t put = ::write(file.get(), text.data() + done, text.size() - done);
        if (put < 0) return give_up("write " + temporary);
        done += static_cast<size_t>(put);
    }
    if (::fchown(file.get(), status.st_uid, status.st_gid) != 0)
        return give_up("set the owner of " + temporary);
    if (::fchmod(file.get(), status.st_mode & 07777) != 0) return give_up("set the mode of " + temporary);
    if (::fsync(file.get()) != 0) return give_up("sync " + temporary);
    if (::rename(temporary.c_str(), target.c_str()) != 0) return give_up("replace " + target);
    const UniqueFd directory(
        ::open(target.substr(0, target.rfind('/') + 1).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory || ::fsync(directory.get()) != 0) return os_error("sync the directory of " + target);
    return {};
}

}  // namespace ringback::mac
