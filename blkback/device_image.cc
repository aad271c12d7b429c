// SPDX-License-Identifier: Apache-2.0
//
// A device's image: what its target is, looked up and opened, handed to the worker with its journal, and closed again.
#include <fcntl.h>
#include <unistd.h>

#include "blkback/device.h"
#include "hypervisor/backend.h"

namespace ringback::blk {

namespace {

using std::chrono::milliseconds;

// The guest's own former life may still hold the image while it reboots.
constexpr milliseconds kLockPatience{2000};
constexpr milliseconds kLockPause{50};
// A dead worker's requests end when the storage has done them; there is no sense in giving up before.
constexpr milliseconds kFencePause{1};
constexpr unsigned kQuickFenceTries = 100;

}  // namespace

std::string Device::journal_path() const {
    return xen::journal_path(around_.config.journal_directory(), id_);
}

Result<UniqueFd> Device::create_journal() const {
    const std::string path = journal_path();
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return os_error("remove the stale journal " + path);
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) return os_error("create the journal " + path);
    if (::ftruncate(fd.get(), static_cast<off_t>(kJournalBytes)) != 0) return os_error("size the journal " + path);
    return fd;
}

void Device::open_image() {
    if (successor_ && !around_.recoveries.begin(id_, Clock::now())) {  // another of the guest's disks first
        image_ = ImagePhase::opening;
        return open_later(kLockPause);
    }
    read_description();
    if (const auto opened = try_open(); !opened) not_opened(opened.error());
}

Result<Target> Device::find_target() const {
    const auto read = [&](const char* key) { return around_.store.read(directory_ + "/" + key).value_or(""); };
    if (script_opens_) return parse_target(id_.kind, read("params"));
    return prepared_target(read("physical-device-path"), read("physical-device"));
}

Result<void> Device::try_open() {
    if (frontend_.empty()) return Error{EINVAL, "its frontend path is not in the frontend domain's own directory"};
    const Target target = TRY(find_target());
    target_ = target.path;
    format_ = target.format;
    // A dead worker's volume is active, and LVM would say that it is open: its successor goes by the locks alone.
    if (target.server) return open_server(target);
    return target.volume && !successor_ ? look_up(target) : open_file(target);
}

Result<void> Device::look_up(const Target& target) {
    image_ = ImagePhase::opening;
    if (!opening_since_) opening_since_ = Clock::now();
    if (lookup_) {
        open_later(kLockPause);
        return {};
    }
    const auto activate = [name = *target.volume, writable = writable_]() -> Result<void> {
        TRY(image::lvm::Lvm().activate(name, writable));
        return {};
    };
    lookup_ = TRY(Lookup::start(around_.loop, "lvm:" + target.volume->text(), activate, [this, target](const Result<void>& found) {
        lookup_.reset();
        around_.look_again(id_);
        if (image_ != ImagePhase::opening || lock_retry_) return;  // it was closed meanwhile
        const auto opened = found ? open_file(target) : found;
        if (!opened) not_opened(opened.error());
    }));
    return {};
}

Result<void> Device::open_file(const Target& target) {
    OpenedFile file = TRY(open_target(target.path, around_.rules, {writable_, direct_io_safe_, nullptr, !successor_}));
    why_buffered_ = file.why_buffered;
    direct_ = file.direct;
    if (!direct_ && !opening_since_ && !successor_) log_guest("{} is used through the page cache: {}", target.path, why_buffered_);
    return attach(target, std::move(file.fd));
}

// A successor waits for the server as its worker would have, and for what the server has of the dead one.
bool Device::wait_for_server() const {
    return successor_ && server_ && lost_at_ && Clock::now() < *lost_at_ + std::chrono::seconds(around_.config.nbd_reconnect_seconds);
}

Result<UniqueFd> Device::connect_server(const image::nbd::Address& address) {
    if (!server_ || server_->name() != address.text) server_ = std::make_unique<ServerLink>(around_.loop, address);
    return server_->connect(around_.rules, around_.config.nbd_reconnect_seconds);
}

Result<void> Device::open_server(const Target& target) {
    image_ = ImagePhase::opening;
    if (!opening_since_) opening_since_ = Clock::now();
    const bool drained = !successor_ || !server_ || server_->drained();
    auto socket = drained ? connect_server(*target.server)
                          : Result<UniqueFd>(Error{ETIMEDOUT, fmt::format("open {}: the server does not end the dead worker's "
                                                                          "connection", target.path)});
    if (!socket && (socket.error().code == EAGAIN || wait_for_server())) {
        open_later(drained ? kLockPause : kFencePause);
        return {};
    }
    direct_ = true;
    why_buffered_.clear();
    return attach(target, TRY(std::move(socket)));
}

Result<void> Device::attach(const Target& target, UniqueFd file) {
    UniqueFd journal = TRY(successor_ ? dead_workers_journal() : create_journal());
    image_ = ImagePhase::opening;
    if (!opening_since_) opening_since_ = Clock::now();
    const auto fill = [&](Message& message) {
        message.body.attach = Attach{};
        message.body.attach.format = Text<16>(target.format);
        message.body.attach.name = Text<1024>(target.path);
        message.body.attach.writable = writable_ ? 1 : 0;
        message.body.attach.direct = direct_ ? 1 : 0;
        message.body.attach.discard = discard_wanted_ ? 1 : 0;
        message.body.attach.recover = successor_ ? 1 : 0;
        message.body.attach.reconnect_seconds = around_.config.nbd_reconnect_seconds;
    };
    request(MessageType::attach, fill, {std::move(file), std::move(journal)},
            [this](const Answer& answer) { attached(answer); });
    return {};
}

Result<OpenedFile> Device::open_named(const std::string& name, bool writable) {
    if (format_ == "nbd" && name == target_ && (image_ == ImagePhase::opening || image_ == ImagePhase::open)) {
        OpenedFile connection;
        connection.fd = TRY(connect_server(TRY(image::nbd::parse_address(name))));
        return connection;
    }
    if (image_ != ImagePhase::opening) return Error{EPERM, fmt::format("open {}: no image is being opened", name)};
    if (!name.starts_with('/')) return Error{EPERM, fmt::format("open {}: no absolute path", name)};
    if (writable && !writable_) return Error{EPERM, fmt::format("open {} for writing: the disk is read-only", name)};
    const PathRules within = TRY(named_file_rules(target_, around_.config.image_roots));
    return open_target(name, around_.rules, {writable, direct_io_safe_, &within, !successor_});
}

void Device::attached(const Answer& answer) {
    const bool unwanted = image_ == ImagePhase::closing;
    if (answer.error == EEXIST) {
        // An earlier supervisor ended between asking for this and saying so in the store, or the device was taken away
        // and made anew while there was none. Not with this journal: again.
        image_ = ImagePhase::closing;
        return request(MessageType::disconnect, [](Message&) {}, {}, [this](const Answer&) { close_image(); });
    }
    if (answer.error != 0) {
        if (server_) server_->break_off();  // the worker has let go of what it was given; so shall the server
        if (unwanted) return image_closed();
        if (successor_ && answer.error == ECONNRESET) return;  // worker_lost() comes next
        if (answer.error == ENOTCONN && wait_for_server()) return open_later(kLockPause);
        if (successor_ && answer.error == EBUSY) return open_later(++fence_tries_ < kQuickFenceTries ? kFencePause : kLockPause);
        return not_opened({answer.error, answer.message.str()});
    }
    geometry_ = answer.geometry;
    image_ = ImagePhase::open;
    error_.clear();
    successor_ = false;
    if (unwanted) return close_image();
    if (!owed_) end_recovery();
}

// Whoever has the image may be about to let go. The waiting is done here and not in the worker, which serves other disks.
void Device::not_opened(const Error& error) {
    if (error.code != EBUSY) return fail_image(error.message);
    image_ = ImagePhase::opening;
    if (!opening_since_) opening_since_ = Clock::now();
    if (!busy_since_) busy_since_ = Clock::now();
    if (Clock::now() >= *busy_since_ + kLockPatience) return fail_image(error.message);
    open_later(kLockPause);
}

void Device::open_later(milliseconds delay) {
    lock_retry_ = around_.loop.after(delay, [this] {
        lock_retry_.reset();
        open_image();
        around_.look_again(id_);
    });
}

void Device::stop_retrying() {
    if (lock_retry_) around_.loop.cancel(*lock_retry_);
    lock_retry_.reset();
}

void Device::fail_image(const std::string& why) {
    stop_retrying();
    server_.reset();
    image_ = ImagePhase::failed;
    owed_ = successor_ = false;
    end_recovery();
    error_ = why;
    (void)::unlink(journal_path().c_str());
    log_guest("{}", why);
}

void Device::close_image() {
    const bool opening = image_ == ImagePhase::opening;
    image_ = ImagePhase::closing;
    if (lock_retry_ || lookup_) {  // the worker has nothing of it
        stop_retrying();
        return image_closed();
    }
    if (opening) return;  // attached() goes on from here
    request(MessageType::detach, [](Message&) {}, {}, [this](const Answer& answer) {
        if (answer.error != 0 && answer.error != ECONNRESET) log_guest("detach: {}", answer.message.str());
        image_closed();
    });
}

void Device::image_closed() {
    server_.reset();
    image_ = ImagePhase::closed;
    owed_ = successor_ = false;
    end_recovery();
    if (::unlink(journal_path().c_str()) != 0 && errno != ENOENT) {
        log_guest("{}", os_error("remove the journal " + journal_path()).message);
    }
}

}  // namespace ringback::blk
