// SPDX-License-Identifier: Apache-2.0
//
// vdisk: images of virtual disks, looked at and worked on. docs/vdisk.md is its manual.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "disk-images/vdisk/commands.h"
#include "disk-images/vdisk/disk.h"
#include "runtime/log.h"

using namespace ringback;
using namespace ringback::vdisk;

namespace {

class CommandLine {
  public:
    CommandLine() : app_("Images of virtual disks: raw, qcow2, VHD, LVM volumes.", "vdisk") {
        app_.require_subcommand(1);
        app_.set_version_flag("--version", RINGBACK_VERSION);
        app_.footer("FILE is a path, or SCHEME:PATH with raw:, qcow2: or vhd:, or lvm:GROUP/VOLUME.\n"
                    "Exit status: 0 done, 1 failed, 2 usage, 3 the answer is no (disks differ, an image is damaged),\n"
                    "4 check found nothing worse than lost space.");
        making();
        looking();
        snapshots();
        bitmaps();
    }

    int run(int argc, char** argv) {
        try {
            app_.parse(argc, argv);
        } catch (const CLI::ParseError& error) {
            return app_.exit(error) == 0 ? kDone : kUsage;
        }
        const Result<int> done = chosen_();
        if (done) return done.value();
        fmt::print(stderr, "vdisk: {}\n", done.error().message);
        return kFailed;
    }

  private:
    using Command = std::function<Result<int>()>;

    CLI::App* add(const std::string& name, const std::string& what, Command command) { return add(app_, name, what, std::move(command)); }
    CLI::App* add(CLI::App& to, const std::string& name, const std::string& what, Command command) {
        CLI::App* sub = to.add_subcommand(name, what);
        sub->add_flag("--json", output_.json, "print JSON");
        sub->add_flag("-q,--quiet", output_.quiet, "print nothing but errors and what was asked for");
        sub->callback([this, command = std::move(command)] { chosen_ = command; });
        return sub;
    }
    void making() {
        CLI::App* sub = add("create", "Make an image", [this] { return create(create_, output_); });
        sub->add_option("file", create_.file, "the new image")->required();
        sub->add_option("size", create_.size, "its size: 512, 64M, 1.5G; without, the backing file's");
        sub->add_option("-f,--format", create_.format, "its format, where the name does not tell");
        sub->add_option("-b,--backing", create_.backing, "the image it continues");
        sub->add_option("-F,--backing-format", create_.backing_format, "that one's format");
        sub->add_option("-o,--option", create_.options, std::string("key=value: ") + option_help())->delimiter(',');
        sub->add_flag("--force", create_.force, "write over an existing file");

        sub = add("convert", "Copy an image into a new one, perhaps of another format", [this] { return convert(convert_, output_); });
        sub->add_option("source", convert_.source, "what is copied")->required();
        sub->add_option("target", convert_.target, "the new image")->required();
        sub->add_option("-f,--format", convert_.format, "the source's format");
        sub->add_option("-O,--target-format", convert_.target_format, "the target's format");
        sub->add_option("-o,--option", convert_.options, std::string("key=value for the target: ") + option_help())->delimiter(',');
        sub->add_flag("-n,--existing", convert_.existing, "the target exists, and is written into as it is");
        sub->add_flag("--force", convert_.force, "write over an existing file");

        sub = add("dd", "Copy a part of an image", [this] { return dd(dd_, output_); });
        sub->add_option("source", dd_.source, "what is copied")->required();
        sub->add_option("target", dd_.target, "where to; made when it does not exist")->required();
        sub->add_option("-f,--format", dd_.format, "the source's format");
        sub->add_option("-O,--target-format", dd_.target_format, "the target's format");
        sub->add_option("--bs", dd_.block, "what count, skip and seek count (default 1M)");
        sub->add_option("--count", dd_.count, "how much is copied (default: all that is left)");
        sub->add_option("--skip", dd_.skip, "where it begins in the source");
        sub->add_option("--seek", dd_.seek, "where it begins in the target");

        sub = add("resize", "Make a disk larger or smaller", [this] { return resize(resize_, output_); });
        sub->add_option("file", resize_.file, "the image")->required();
        sub->add_option("size", resize_.size, "the new size; +SIZE and -SIZE are relative")->required();
        sub->add_option("-f,--format", resize_.format, "its format");
        sub->add_flag("--shrink", resize_.shrink, "it may become smaller, and lose what is behind");

        sub = add("rebase", "Let an image continue another one", [this] { return rebase(rebase_, output_); });
        sub->add_option("file", rebase_.file, "the image")->required();
        sub->add_option("-f,--format", rebase_.format, "its format");
        sub->add_option("-b,--backing", rebase_.backing, "what it is to continue, as seen from its directory; \"\" for nothing")->required();
        sub->add_option("-F,--backing-format", rebase_.backing_format, "that one's format");
        sub->add_flag("-u,--unsafe", rebase_.unsafe, "only change the name: the backing file was moved");

        sub = add("measure", "Say how large a file an image would need", [this] { return measure(measure_, output_); });
        sub->add_option("file", measure_.file, "the image that would be converted");
        sub->add_option("--size", measure_.size, "instead: a new, empty disk of this size");
        sub->add_option("-f,--format", measure_.format, "the image's format");
        sub->add_option("-O,--target-format", measure_.target_format, "the format it would have (default qcow2)");
    }
    void looking() {
        CLI::App* sub = add("info", "Describe an image", [this] { return info(file_, format_, flag_, output_); });
        file(sub);
        sub->add_flag("--chain", flag_, "and what it continues");
        sub = add("check", "Look an image through for damage", [this] { return check(file_, format_, flag_, output_); });
        file(sub);
        sub->add_flag("--repair", flag_, "and repair it");
        file(add("map", "Say where a disk has data", [this] { return map(file_, format_, output_); }));
        file(add("partitions", "Say what is on a disk", [this] { return partitions(file_, format_, output_); }));
        file(add("commit", "Write a differencing image's content into what it continues",
                 [this] { return commit(file_, format_, output_); }));
        sub = add("compare", "Say whether two disks hold the same",
                  [this] { return compare(file_, format_, other_, other_format_, flag_, output_); });
        file(sub);
        sub->add_option("other", other_, "the other image")->required();
        sub->add_option("-F,--other-format", other_format_, "that one's format");
        sub->add_flag("--strict", flag_, "different sizes are a difference, whatever is there");
    }
    void bitmaps() {
        CLI::App& group = *app_.add_subcommand("bitmap", "What a qcow2 image knows of changed blocks");
        group.require_subcommand(1);
        file(add(group, "list", "Say which there are", [this] { return bitmap_list(file_, format_, output_); }));
        CLI::App* sub = add(group, "add", "Begin one", [this] { return bitmap_add(file_, format_, name_, granularity_, output_); });
        file(sub);
        sub->add_option("name", name_, "what it is called")->required();
        sub->add_option("-g,--granularity", granularity_, "bytes for which it has a bit (default 64K)");
        sub = add(group, "remove", "Give one up", [this] { return bitmap_remove(file_, format_, name_, output_); });
        file(sub);
        sub->add_option("name", name_, "its name")->required();
    }
    void snapshots() {
        CLI::App& group = *app_.add_subcommand("snapshot", "What a qcow2 image keeps of its own past");
        group.require_subcommand(1);
        file(add(group, "list", "Say which there are", [this] { return snapshot_list(file_, format_, output_); }));
        CLI::App* sub = add(group, "create", "Keep what the disk holds now", [this] { return snapshot_create(file_, format_, name_, output_); });
        file(sub);
        sub->add_option("name", name_, "what it is called")->required();
        sub = add(group, "apply", "Make the disk what it was then; what it holds now is lost",
                  [this] { return snapshot_apply(file_, format_, name_, output_); });
        file(sub);
        sub->add_option("name", name_, "its name, or id")->required();
        sub = add(group, "delete", "Keep it no longer", [this] { return snapshot_delete(file_, format_, name_, output_); });
        file(sub);
        sub->add_option("name", name_, "its name, or id")->required();
    }
    void file(CLI::App* sub) {
        sub->add_option("file", file_, "the image")->required();
        sub->add_option("-f,--format", format_, "its format, where the name does not tell: raw, qcow2, vhd");
    }

    CLI::App app_;
    Command chosen_;
    Output output_;
    CreateArguments create_;
    ConvertArguments convert_;
    DdArguments dd_;
    ResizeArguments resize_;
    RebaseArguments rebase_;
    MeasureArguments measure_;
    std::string file_, format_, other_, other_format_, name_, granularity_ = "64K";
    bool flag_ = false;
};

}  // namespace

int main(int argc, char** argv) {
    log::set_level(log::Level::error);
    return CommandLine().run(argc, argv);
}
