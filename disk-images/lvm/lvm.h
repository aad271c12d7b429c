// SPDX-License-Identifier: Apache-2.0
//
// LVM volumes by name, through LVM's own command: `lvm lvs --reportformat json` and its like. The command is started
// without a shell, with arguments of which only a checked name comes from outside; its answer is read whole, bounded in
// size and in time, and its complaints become the error's text. Nothing links LVM: its locking, its daemons and its
// metadata stay its own affair.
//
// A volume is used by one at a time. Who else has it open is what LVM and the kernel tell ("open" in lvs: a file system,
// a guest, another host's lvmlockd lease); images on it are further protected by lock.h.
//
// Thread: any; every call blocks until the command has ended. A daemon gives them a thread of their own.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/result.h"

namespace ringback::image::lvm {

struct Name {
    std::string group;
    std::string volume;
    [[nodiscard]] std::string text() const { return group + "/" + volume; }
    // Its device, when it is active.
    [[nodiscard]] std::string path() const { return "/dev/" + text(); }
};

// "vg/lv". Only characters that LVM allows in names; nothing that its command could take for an option.
[[nodiscard]] Result<Name> parse_name(std::string_view text);

struct Volume {
    Name name;
    std::string path;     // "/dev/vg/lv"; none of a pool or a part of another volume
    uint64_t bytes = 0;
    bool active = false;
    bool open = false;
    bool writable = true;
    bool thin = false;
    bool thin_pool = false;
    std::string origin;   // of a snapshot
    std::string pool;     // of a thin volume
    double data_percent = -1;  // thin volumes, pools, snapshots
    std::string health;   // "", or what is wrong ("partial", ...)
};

// Arguments of the command that tells of one volume.
[[nodiscard]] std::vector<std::string> lookup_arguments(const Name& name);
// What it answered.
[[nodiscard]] Result<Volume> read_volume(const Name& name, const std::string& json);
// Why a volume cannot be a guest's disk; for what is no disk at all (pools, parts of others, damaged ones).
[[nodiscard]] Result<void> check_usable(const Volume& volume);

class Lvm {
  public:
    // `program` is LVM's command; tests put a stand-in there.
    explicit Lvm(std::string program = {});

    [[nodiscard]] Result<Volume> lookup(const Name& name) const;
    // Looked up, checked, and activated if it is not. To write, it may not be open anywhere (EBUSY).
    [[nodiscard]] Result<Volume> activate(const Name& name, bool writable) const;
    [[nodiscard]] Result<void> deactivate(const Name& name) const;
    // To at least `bytes` (LVM rounds up to its extents). Growing only.
    [[nodiscard]] Result<Volume> extend(const Name& name, uint64_t bytes) const;
    // A snapshot of a thin volume (thin itself), or of another with `bytes` of room for what changes.
    [[nodiscard]] Result<void> snapshot(const Name& origin, const std::string& name, uint64_t bytes) const;

  private:
    [[nodiscard]] Result<std::string> run(const std::string& doing, const std::vector<std::string>& arguments) const;
    std::string program_;
};

}  // namespace ringback::image::lvm
