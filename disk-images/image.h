// SPDX-License-Identifier: Apache-2.0
//
// Image: a virtual disk's content, whatever file format holds it. Knows no Xen and no ring.
//
// An Io is one request to an image. It belongs to the caller, who keeps it, its vectors and its memory
// untouched until `done` is called; the image keeps its own bookkeeping in `scratch`, so that neither side
// allocates per request. submit() takes a batch: one virtual call serves all requests a guest had in its
// ring.
//
// Offsets and lengths are bytes, multiples of 512 (kSectorSize), inside the disk: the caller has checked
// that, the image INVARIANT-checks it. A result is 0 or -errno; a partial transfer is completed or failed by
// the image, never reported.
//
// Promises every format keeps:
//   - a write that was answered 0 survives the death of this process (not of the host);
//   - a flush that was answered 0 has put every write answered before its submission on stable storage;
//   - after a sync has failed once, the image fails every later write and flush (sync_failed() is true): what
//   the page
//     cache holds then is unknown, and a Linux guest would stop flushing after the first error and go on.
//
// Opening: the header is parsed in the process that serves the data, which is sandboxed and opens nothing. It
// gets descriptors, and asks its Opener by name for further files (backing, data); whoever owns the policy
// decides.
//
// Thread: the owner of the reactor the image was opened on.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "disk-images/intrusive_list.h"
#include "runtime/reactor.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace ringback::image {

inline constexpr uint32_t kSectorSize = 512;
inline constexpr uint16_t kNoBuffer = 0xffff;

// zero: the range reads as zeros afterwards, whatever becomes of its blocks. discard: a hint; what it reads
// as afterwards is the format's affair.
enum class Op : uint8_t { read, write, flush, discard, zero };

struct Io {
    Op op = Op::read;
    // Set when the whole of vectors lies in one buffer registered with the reactor under this slot.
    uint16_t buffer = kNoBuffer;
    uint64_t offset = 0;
    uint64_t length = 0;       // sum of the vectors (read, write); range (discard, zero); 0 (flush)
    std::span<iovec> vectors;  // read, write; every base and length a multiple of 512. The image may shorten
                               // the vectors of a request under way (resuming a partial transfer).
    void (*done)(Io&, int32_t result) noexcept = nullptr;  // never called from inside submit()

    Completion completion;              // the image's
    std::array<uint64_t, 4> scratch{};  // the image's
    Io* next = nullptr;                 // the image's
};
using IoList = IntrusiveList<Io>;

// What a frontend is told about the disk.
struct Geometry {
    uint64_t bytes = 0;  // size, multiple of 512
    uint32_t logical_block =
        kSectorSize;  // smallest unit the storage itself takes (below: read-modify-write in here)
    uint32_t physical_block = kSectorSize;  // unit that costs no read-modify-write
    bool discard = false;
    uint32_t discard_granularity = 0;  // bytes
    uint32_t discard_alignment = 0;    // bytes
};

// A file as the supervisor hands it over: opened by it for this one worker generation, not shared with
// anybody. For a network disk a socket, and `name` its address.
struct File {
    UniqueFd fd;
    bool writable = false;
    bool direct = false;  // O_DIRECT is set (false: buffered fallback)
    std::string name;     // for messages
};

class Opener {
  public:
    enum class Access : uint8_t { read, write };
    virtual ~Opener() = default;
    // `name` as the image's header has it. The policy's owner resolves it, decides, and sends the file or the
    // reason. A relative name has been made one from the directory of the file that names it (chain.h).
    [[nodiscard]] virtual Result<File> open(const std::string& name, Access access) = 0;

    // For a disk that is being served, which cannot wait here: a connection to its server once more. Belongs to the image;
    // `opened` is called once, perhaps from inside open_later().
    struct Opening {
        void (*opened)(Opening& self, Result<File> file) = nullptr;
    };
    virtual void open_later(const std::string& name, Access access, Opening& opening) { opening.opened(opening, open(name, access)); }
    // `opened` is not called any more.
    virtual void forget(Opening&) {}
};

// What the disk holds from some offset on, for `length` bytes at least.
struct Extent {
    enum class Kind : uint8_t {
        data,  // has to be read
        zero,  // reads as zeros
    };
    Kind kind = Kind::data;
    bool here = true;  // this image says so, not a backing file (or nobody)
    bool compressed = false;
    uint64_t length = 0;
    uint64_t host_offset = kNowhere;  // data that is one run of bytes in the image's own (or data) file
    static constexpr uint64_t kNowhere = ~uint64_t{0};
};

// Whom close() tells. Belongs to the caller, and outlives the call of `closed`.
struct Closing {
    // 0, or why the image could not be left clean (-errno): its next opening repairs it. May be called from
    // inside close(); the image may be destroyed from inside the call.
    void (*closed)(Closing& self, int32_t result) noexcept = nullptr;
};

class Image {
  public:
    virtual ~Image() = default;
    [[nodiscard]] virtual const Geometry& geometry() const = 0;
    virtual void submit(std::span<Io*> batch) = 0;
    // Looks at the storage again after it grew; the geometry changes accordingly. Shrinking is refused
    // (EINVAL).
    [[nodiscard]] virtual Result<void> refresh_size() = 0;
    [[nodiscard]] virtual bool sync_failed() const = 0;
    // Ends well what the image has begun on its own account (space taken ahead, marks in its header). Nothing
    // of the caller's is in flight (an INVARIANT), and nothing is submitted any more. An image that is
    // destroyed without it is as after a crash: whole, and put in order by its next opening.
    virtual void close(Closing& closing) { closing.closed(closing, 0); }

    // For tools, not for a disk that is being served: these block on the storage, and nothing is in flight
    // meanwhile. What the disk, its backing files included, holds at `offset` (below geometry().bytes;
    // multiple of 512).
    [[nodiscard]] virtual Result<Extent> extent(uint64_t offset) = 0;
    // A new size, multiple of 512. What is added reads as zeros; what is cut off is gone.
    [[nodiscard]] virtual Result<void> resize(uint64_t bytes) = 0;

    // Nothing is in flight when an image is destroyed (an INVARIANT): the caller drains first.
};

// close(), turning the reactor until it is done. For tools and tests: whatever else lives on the reactor runs
// meanwhile.
int32_t close_and_wait(Image& image, Reactor& reactor);

struct OpenOptions {
    bool writable = false;
    bool discard = true;  // false: never offered, never done
    // Time to wait for a predecessor's lock on the same file (see lock.h). 0: one attempt.
    uint32_t lock_wait_ms = 0;
    // A sync failed since the disk was attached, under a former process: fails writes and flushes from the
    // start.
    bool sync_failed = false;
    uint32_t reconnect_seconds = 60;  // requests wait for a network disk's server that long
};

// Locks the file against other generations and other programs (lock.h), parses the header, registers the file
// with the reactor. `format` is a name from the target's prefix (known_formats), never probed. ENOTSUP:
// unknown format. `opener` outlives an "nbd" image, and for the others this call.
[[nodiscard]] Result<std::unique_ptr<Image>> open_image(const std::string& format, File file, Opener& opener,
                                                        Reactor& reactor, const OpenOptions& options);

}  // namespace ringback::image
