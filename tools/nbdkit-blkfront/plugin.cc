// SPDX-License-Identifier: Apache-2.0
//
// An nbdkit plugin that is a guest: what an NBD client does to the exported disk goes through a blkif ring of
// the embedded core to whatever backend serves the guest's disk. So qemu-io, nbdcopy, fio and (through
// nbdfuse) the kernel's file systems are real clients of that backend.
//
// The connection to the core is made after nbdkit has forked and is shared by all NBD connections: a guest's
// disk has one frontend. Requests not aligned to 512 bytes are refused by nbdkit itself (block_size).
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "hypervisor/embedded/toolstack.h"
#include "hypervisor/store.h"
#include "tools/nbdkit-blkfront/disk.h"

namespace {

using ringback::frontend::Disk;

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

ringback::frontend::Options options;
bool domid_given = false;
std::unique_ptr<Disk> disk;

const char kHelp[] =
    "domid=N           The guest's domain (required).\n"
    "vdev=NAME         Its disk, as xl names it (default: xvda).\n"
    "core=DIRECTORY    The core's sockets (default: $RINGBACK_CORE).\n"
    "queues=N          Queues to ask for (default: 1).\n"
    "ring-order=N      Pages in a ring to ask for, as a power of two (default: 0).\n"
    "persistent=BOOL   Persistent grants, if the backend offers them (default: true).\n"
    "segments=N        Segments of a request to ask for; above 11 they are indirect (default: 32).\n"
    "abi=NAME          x86_64 or x86_32 (default: x86_64).";

// A number in range, or an nbdkit error and false.
bool parse(const char* key, const char* value, uint32_t low, uint32_t high, uint32_t& to) {
    const std::optional<uint64_t> number = ringback::xen::parse_number(value, low, high);
    if (!number) {
        nbdkit_error("%s=%s: a number from %u to %u is needed", key, value, low, high);
        return false;
    }
    to = static_cast<uint32_t>(*number);
    return true;
}

int config(const char* key, const char* value) {
    const std::string name = key;
    uint32_t number = 0;
    if (name == "domid") {
        if (!parse(key, value, 1, 0x7fef, number)) return -1;
        options.domid = static_cast<uint16_t>(number);
        domid_given = true;
    } else if (name == "vdev") {
        const auto devid = ringback::xen::embedded::device_number(value);
        if (!devid) {
            nbdkit_error("vdev=%s: not the name of a disk", value);
            return -1;
        }
        options.devid = *devid;
    } else if (name == "core") {
        ::setenv("RINGBACK_CORE", value, 1);
    } else if (name == "queues") {
        if (!parse(key, value, 1, 64, options.queues)) return -1;
    } else if (name == "ring-order") {
        if (!parse(key, value, 0, 8, options.ring_order)) return -1;
    } else if (name == "persistent") {
        const int on = nbdkit_parse_bool(value);
        if (on < 0) return -1;
        options.persistent = on != 0;
    } else if (name == "segments") {
        if (!parse(key, value, 1, 4096, options.max_segments)) return -1;
    } else if (name == "abi") {
        const std::string abi = value;
        if (abi != "x86_64" && abi != "x86_32") {
            nbdkit_error("abi=%s: x86_64 or x86_32 is needed", value);
            return -1;
        }
        options.abi = abi == "x86_32" ? ringback::xen::blkif::Abi::x86_32 : ringback::xen::blkif::Abi::x86_64;
    } else {
        nbdkit_error("unknown parameter %s", key);
        return -1;
    }
    return 0;
}

int config_complete() {
    if (domid_given) return 0;
    nbdkit_error("domid=N is needed");
    return -1;
}

int after_fork() {
    ringback::Result<std::unique_ptr<Disk>> opened = Disk::open(options);
    if (!opened.ok()) {
        nbdkit_error("%s", opened.error().message.c_str());
        return -1;
    }
    disk = std::move(opened).value();
    return 0;
}

void cleanup() {
    disk.reset();
}

void* open_connection(int) {
    return NBDKIT_HANDLE_NOT_NEEDED;
}

int64_t get_size(void*) {
    return static_cast<int64_t>(disk->info().sectors * ringback::frontend::kSectorSize);
}

int block_size(void*, uint32_t* minimum, uint32_t* preferred, uint32_t* maximum) {
    *minimum = ringback::frontend::kSectorSize;
    *preferred = ringback::frontend::kPageSize;
    *maximum = 32U << 20;
    return 0;
}

int can_write(void*) {
    return disk->info().read_only ? 0 : 1;
}
int can_flush(void*) {
    return disk->info().flush ? 1 : 0;
}
int can_trim(void*) {
    return disk->info().discard ? 1 : 0;
}
// A flush on any connection covers what was answered on all of them.
int can_multi_conn(void*) {
    return 1;
}
int can_fua(void*) {
    return NBDKIT_FUA_EMULATE;
}

// 0, or -1 with the error told to nbdkit.
int answer(const char* what, int error) {
    if (error == 0) return 0;
    const std::string dead = disk->dead();
    nbdkit_error("%s: %s", what, dead.empty() ? "the backend answered with an error" : dead.c_str());
    nbdkit_set_error(error);
    return -1;
}

bool aligned(uint64_t number) {
    return number % ringback::frontend::kSectorSize == 0;
}

int pread(void*, void* to, uint32_t count, uint64_t offset, uint32_t) {
    if (!aligned(count) || !aligned(offset)) return answer("read", EINVAL);
    return answer("read", disk->read(static_cast<std::byte*>(to), offset, count));
}

int pwrite(void*, const void* from, uint32_t count, uint64_t offset, uint32_t) {
    if (!aligned(count) || !aligned(offset)) return answer("write", EINVAL);
    return answer("write", disk->write(static_cast<const std::byte*>(from), offset, count));
}

int flush(void*, uint32_t) {
    return answer("flush", disk->flush());
}

int trim(void*, uint32_t count, uint64_t offset, uint32_t) {
    if (!aligned(count) || !aligned(offset)) return answer("trim", EINVAL);
    return answer("trim", disk->discard(offset, count));
}

nbdkit_plugin make_plugin() {
    nbdkit_plugin plugin{};
    plugin.name = "blkfront";
    plugin.longname = "a blkif frontend on Ringback's embedded hypervisor core";
    plugin.version = RINGBACK_VERSION;
    plugin.config = config;
    plugin.config_complete = config_complete;
    plugin.config_help = kHelp;
    plugin.after_fork = after_fork;
    plugin.cleanup = cleanup;
    plugin.open = open_connection;
    plugin.get_size = get_size;
    plugin.block_size = block_size;
    plugin.can_write = can_write;
    plugin.can_flush = can_flush;
    plugin.can_trim = can_trim;
    plugin.can_multi_conn = can_multi_conn;
    plugin.can_fua = can_fua;
    plugin.pread = pread;
    plugin.pwrite = pwrite;
    plugin.flush = flush;
    plugin.trim = trim;
    return plugin;
}

nbdkit_plugin plugin = make_plugin();

}  // namespace

NBDKIT_REGISTER_PLUGIN(plugin)
