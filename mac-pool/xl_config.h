// SPDX-License-Identifier: Apache-2.0
//
// XlConfig: an xl guest configuration as far as a pool needs it: the name, the UUID, and the vif lines, which
// it can change while every other byte stays.
//
// So the text is not parsed into a tree and written again: it is split into tokens that know their place, and
// an edit replaces the characters of one string. The grammar is that of xl's own parser (libxlu's cfg files;
// the tests compare with that library): the last assignment wins, `+=` appends, lists may go over lines and
// end in a comma, strings have either quote and backslash escapes. What xl would read in another way than a
// person (a single value where a list belongs, escapes by number, which xl garbles) is refused with its line.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mac-pool/address.h"

namespace ringback::mac {

class XlConfig {
  public:
    // `origin` names the text in messages.
    [[nodiscard]] static Result<XlConfig> parse(std::string text, std::string origin);

    // "" when there is none.
    [[nodiscard]] const std::string& name() const { return name_; }
    // Canonical; "" when there is none.
    [[nodiscard]] const std::string& uuid() const { return uuid_; }
    [[nodiscard]] const std::string& origin() const { return origin_; }
    // The number of a NIC is its place in the list, as xl counts.
    [[nodiscard]] size_t vifs() const { return vifs_.size(); }
    [[nodiscard]] std::optional<Mac> mac(size_t vif) const { return vifs_[vif].mac; }
    // "guest.cfg:12"
    [[nodiscard]] std::string place(size_t vif) const;

    void set_mac(size_t vif, Mac mac);
    void set_uuid(const std::string& uuid);
    [[nodiscard]] bool changed() const { return !edits_.empty(); }
    // With all edits.
    [[nodiscard]] std::string text() const;

  private:
    struct Span {
        size_t begin = 0;
        size_t end = 0;
    };
    struct Vif {
        size_t line = 0;
        Span content;  // between the quotes
        std::optional<Mac> mac;
        std::optional<Span> value;  // of mac=
    };
    struct Edit {
        Span span;
        std::string text;
    };
    class Reader;

    void replace(Span span, std::string text);

    std::string text_;
    std::string origin_;
    std::string name_;
    std::string uuid_;
    Span name_token_;
    std::optional<Span> uuid_token_;
    std::vector<Vif> vifs_;
    std::vector<Edit> edits_;
};

[[nodiscard]] Result<XlConfig> read_xl_config(const std::string& path);
// Puts `text` in the place of the file in one step, with the owner and mode it had; what a symbolic link
// names is replaced, not the link. Whoever reads meanwhile, or after a power cut, sees the old text or the
// new one.
[[nodiscard]] Result<void> replace_file(const std::string& path, const std::string& text);

}  // namespace ringback::mac
