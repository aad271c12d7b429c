// SPDX-License-Identifier: Apache-2.0
//
// NbdImage: a disk that a server has (connection.h), over one connection, or four if the server says that a flush on
// one counts for all.
//
// A connection that breaks is made anew; what was under way on it is done again. Requests wait meanwhile, up to the
// reconnect time; then they fail, and so do all that come until there is a connection again, which is tried once a second.
// A flush that fails for it ends writing like any other failed sync (image.h).
//
// The server that comes back has to have the same export: not smaller, and able to do what it could. That it still has what was written
// and not flushed is the server's affair: who kills a server whose cache is its own loses what a power cut would, and the guest
// is not told.
//
// The process that serves the disk connects to nobody: the first socket is the File, further ones come from the Opener, by the
// address, while the disk is served.
//
// Limits: a server that takes nothing below a larger block than 512 bytes is refused; the size is that at the opening.
//
// Thread: the owner of the reactor.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "disk-images/image.h"
#include "disk-images/nbd/connection.h"
#include "runtime/log.h"

namespace ringback::image::nbd {

class NbdImage final : public Image, private Connection::Events {
  public:
    // file.name is the address.
    [[nodiscard]] static Result<std::unique_ptr<Image>> open(File file, Opener& opener, Reactor& reactor,
                                                             const OpenOptions& options);
    // Breaks off what close() would have ended well.
    ~NbdImage() override;
    NbdImage(const NbdImage&) = delete;
    NbdImage& operator=(const NbdImage&) = delete;

    [[nodiscard]] const Geometry& geometry() const override { return geometry_; }
    void submit(std::span<Io*> batch) override;
    [[nodiscard]] Result<void> refresh_size() override;
    [[nodiscard]] bool sync_failed() const override { return sync_failed_; }
    void close(Closing& closing) override;
    [[nodiscard]] Result<Extent> extent(uint64_t offset) override;
    [[nodiscard]] Result<void> resize(uint64_t bytes) override;

  private:
    using Clock = std::chrono::steady_clock;
    struct Finisher : Task {
        NbdImage* image = nullptr;
    };
    struct Timer : Completion {
        NbdImage* image = nullptr;
        bool armed = false;
    };
    struct Reopening : Opener::Opening {
        NbdImage* image = nullptr;
        bool asked = false;
    };

    NbdImage(Address address, Opener& opener, Reactor& reactor, const OpenOptions& options);
    void add_connection();
    [[nodiscard]] Result<void> connect_first(UniqueFd socket);
    [[nodiscard]] Result<void> take_geometry(const Export& what);
    [[nodiscard]] std::string unlike(const Export& what) const;

    void ready(Connection& connection) noexcept override;
    void ended(Connection& connection, const std::string& why) noexcept override;
    void done(Io& io, int32_t result, bool lost) noexcept override;

    void start(Io& io);
    [[nodiscard]] Connection* least_busy() const;
    [[nodiscard]] size_t count_ready() const;
    void restart_waiting();
    void finish_later(Io& io, int32_t result);
    void answer_finished();
    void go_on();  // whatever is to be done about the connections
    void connect_one_more();
    void opened(Result<File> file);
    void arm_timer(std::chrono::milliseconds delay);
    void give_up();
    void all_stopped();

    const Address address_;
    Opener& opener_;
    Reactor& reactor_;
    const bool writable_;
    const bool discard_;
    const std::chrono::seconds patience_;
    bool sync_failed_;
    Geometry geometry_;
    Export export_;
    std::vector<std::unique_ptr<Connection>> connections_;
    IoList waiting_;   // for a connection
    IoList finished_;  // to be answered
    uint32_t owned_ = 0;
    bool gave_up_ = false;
    Clock::time_point lost_at_{};  // when the last connection went
    std::string why_lost_;
    Clock::time_point started_{};  // the latest connection
    Finisher finisher_;
    Timer timer_;
    __kernel_timespec delay_{};
    Reopening reopening_;
    Closing* closing_ = nullptr;
    LogLimiter complaints_;
};

}  // namespace ringback::image::nbd
