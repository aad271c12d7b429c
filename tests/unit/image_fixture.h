// SPDX-License-Identifier: Apache-2.0
//
// What the image tests share: a temporary folder, aligned memory, requests that remember their answer, and a
// disk that is an image on a reactor of its own.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "disk-images/image.h"

namespace ringback::image::test {

class TempDir {
  public:
    TempDir() {
        const char* base = std::getenv("TMPDIR");
        std::string name = std::string(base != nullptr ? base : "/tmp") + "/image-test-XXXXXX";
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    ~TempDir() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    [[nodiscard]] const std::string& path() const { return path_; }
    // A sparse file of that many bytes.
    [[nodiscard]] std::string file(const std::string& name, uint64_t bytes) const {
        const std::string path = path_ + "/" + name;
        const UniqueFd fd(::open(path.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600));
        REQUIRE(fd);
        REQUIRE(ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0);
        return path;
    }

  private:
    std::string path_;
};

struct FreeMemory {
    void operator()(std::byte* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<std::byte[], FreeMemory>;
inline Memory memory(size_t bytes, size_t align = 4096) {
    return Memory(static_cast<std::byte*>(std::aligned_alloc(align, (bytes + align - 1) / align * align)));
}
inline void fill(std::byte* to, size_t bytes, uint64_t seed) {
    for (size_t i = 0; i < bytes; i += 8) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        const uint64_t word = seed ^ (seed >> 29);
        std::memcpy(to + i, &word, 8);
    }
}

inline Result<File> open_file(const std::string& path, bool writable, bool direct) {
    const int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | (direct ? O_DIRECT : 0);
    UniqueFd fd(::open(path.c_str(), flags));
    if (!fd) return os_error("open " + path);
    return File{std::move(fd), writable, direct, path};
}

class NoOpener final : public Opener {
    Result<File> open(const std::string& name, Access) override { return Error{EACCES, "open " + name}; }
};

// A request that remembers its answer.
struct Request : Io {
    std::vector<iovec> parts;
    int answers = 0;
    int32_t result = 1;

    Request() {
        done = [](Io& self, int32_t value) noexcept {
            auto& mine = static_cast<Request&>(self);
            ++mine.answers;
            mine.result = value;
        };
    }
    Request(Op what, uint64_t at, uint64_t bytes) : Request() {
        op = what;
        offset = at;
        length = bytes;
    }
    Request(Op what, uint64_t at, std::vector<iovec> where) : Request(what, at, uint64_t{0}) {
        parts = std::move(where);
        vectors = parts;
        for (const iovec& part : parts)
            length += part.iov_len;
    }
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;
};

struct Disk {
    std::unique_ptr<Reactor> reactor;
    NoOpener opener;
    std::unique_ptr<Image> image;

    Disk() : reactor(std::move(Reactor::create({})).value()) { reactor->start().value(); }
    Disk(const std::string& path, bool writable, bool direct) : Disk() {
        Result<void> opened = open(path, {.writable = writable}, direct);
        INFO((opened.ok() ? std::string() : opened.error().message));
        REQUIRE(opened.ok());
    }
    Result<void> open(const std::string& path, const OpenOptions& options, bool direct) {
        File file = TRY(open_file(path, options.writable, direct));
        image = TRY(open_image("raw", std::move(file), opener, *reactor, options));
        return {};
    }
    void submit(Request& request) {
        Io* one = &request;
        image->submit({&one, 1});
        CHECK(request.answers == 0);  // never from inside submit()
    }
    void wait(const Request& request) {
        while (request.answers == 0)
            reactor->turn(reactor->in_flight() > 0);
    }
    int32_t run(Request& request) {
        submit(request);
        wait(request);
        return request.result;
    }
    int32_t transfer(Op op, uint64_t offset, std::byte* data, size_t bytes) {
        Request request(op, offset, std::vector<iovec>{{data, bytes}});
        return run(request);
    }
    int32_t flush() {
        Request request(Op::flush, 0, uint64_t{0});
        return run(request);
    }
    int32_t discard(uint64_t offset, uint64_t bytes) {
        Request request(Op::discard, offset, bytes);
        return run(request);
    }
};

}  // namespace ringback::image::test
