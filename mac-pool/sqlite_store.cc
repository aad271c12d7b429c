// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/sqlite_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <random>

#include "runtime/unique_fd.h"

namespace ringback::mac {

namespace {

constexpr int kApplicationId = 0x52424d50;  // "RBMP"
constexpr int kFormat = 1;
constexpr int kPatienceSeconds = 60;

struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Statement = std::unique_ptr<sqlite3_stmt, Finalize>;
struct Close {
    void operator()(sqlite3* database) const { sqlite3_close(database); }
};

// Waits between tries for the write lock. SQLite's own handler waits up to 100 ms in fixed steps, so that
// many writers leave the lock idle most of the time; a short random wait does not.
// `patience`: in microseconds.
int busy(void* patience, int tries) {
    thread_local std::minstd_rand random(static_cast<unsigned>(::getpid()));
    thread_local int64_t waited = 0;
    if (tries == 0) waited = 0;
    if (waited > *static_cast<const int64_t*>(patience)) return 0;
    const int64_t longest = std::min<int64_t>(500 << std::min(tries, 5), 10'000);
    const int64_t wait = std::uniform_int_distribution<int64_t>(longest / 4, longest)(random);
    ::usleep(static_cast<useconds_t>(wait));
    waited += wait;
    return 1;
}

class SqliteStore final : public Store, private Transaction {
  public:
    SqliteStore(std::string path, Clock clock, int patience_seconds)
        : path_(std::move(path)), clock_(std::move(clock)), patience_(int64_t{patience_seconds} * 1'000'000) {}

    Result<void> open(Open mode) {
        // The last directory of /var/lib/ringback/macpool.db may be for us to make.
        const std::string directory = path_.substr(0, path_.rfind('/'));
        if (mode == Open::create && !directory.empty() && ::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) {
            return os_error("make " + directory + " for the pool");
        }
        const int flags = O_RDWR | O_CLOEXEC | (mode == Open::create ? O_CREAT : 0);
        // Made here and not by SQLite: the pool is nobody else's business.
        const UniqueFd file(::open(path_.c_str(), flags, 0600));
        if (!file) {
            if (errno == ENOENT && mode == Open::existing) return no_pool();
            return os_error("open pool " + path_);
        }
        sqlite3* handle = nullptr;
        const int opened = sqlite3_open_v2(path_.c_str(), &handle, SQLITE_OPEN_READWRITE, nullptr);
        database_.reset(handle);
        if (opened != SQLITE_OK) return failed("open");
        sqlite3_extended_result_codes(handle, 1);
        sqlite3_busy_handler(handle, busy, &patience_);
        TRY(execute("PRAGMA synchronous=FULL"));
        TRY(execute("PRAGMA cache_size=-16000"));
        TRY(prepare_schema(mode));
        TRY(execute("PRAGMA journal_mode=WAL"));
        get_ = TRY(prepare("SELECT value FROM entry WHERE key = ?1 AND (expires IS NULL OR expires > ?2)"));
        put_ = TRY(prepare(
            "INSERT INTO entry VALUES (?1, ?2, ?3) ON CONFLICT(key) DO UPDATE SET value = ?2, expires = ?3"));
        remove_ = TRY(prepare("DELETE FROM entry WHERE key = ?1"));
        range_ =
            TRY(prepare("SELECT key, value FROM entry WHERE key >= ?1 AND key < ?2 AND "
                        "(expires IS NULL OR expires > ?3) ORDER BY key LIMIT ?4"));
        count_ =
            TRY(prepare("SELECT count(*) FROM entry WHERE key >= ?1 AND key < ?2 AND "
                        "(expires IS NULL OR expires > ?3)"));
        return {};
    }

    Result<void> transact(const Work& work) override {
        TRY(execute("BEGIN IMMEDIATE"));
        write_error_.reset();
        Result<void> done = work(*this);
        if (done.ok() && write_error_) done = *write_error_;
        if (done.ok()) done = execute("COMMIT");
        if (!done.ok() && sqlite3_get_autocommit(database_.get()) == 0) (void)execute("ROLLBACK");
        return done;
    }

    Result<void> scan(const std::string& prefix, const std::function<void(const Entry&)>& each) override {
        return range(prefix, -1, each);
    }

    Result<uint64_t> count(const std::string& prefix) override {
        sqlite3_stmt* statement = count_.get();
        bind(statement, 1, prefix);
        bind(statement, 2, after_prefix(prefix));
        sqlite3_bind_int64(statement, 3, clock_());
        const int step = sqlite3_step(statement);
        const auto value = static_cast<uint64_t>(sqlite3_column_int64(statement, 0));
        sqlite3_reset(statement);
        if (step != SQLITE_ROW) return failed("count " + prefix);
        return value;
    }

    [[nodiscard]] size_t batch() const override { return 100'000; }
    [[nodiscard]] std::string name() const override { return "sqlite:" + path_; }

  private:
    Result<std::optional<std::string>> get(const std::string& key) override {
        sqlite3_stmt* statement = get_.get();
        bind(statement, 1, key);
        sqlite3_bind_int64(statement, 2, clock_());
        const int step = sqlite3_step(statement);
        std::optional<std::string> value;
        if (step == SQLITE_ROW) value = column(statement, 0);
        sqlite3_reset(statement);
        if (step != SQLITE_ROW && step != SQLITE_DONE) return failed("read " + key);
        return value;
    }

    Result<std::optional<Entry>> first(const std::string& prefix) override {
        std::optional<Entry> found;
        TRY(range(prefix, 1, [&](const Entry& entry) { found = entry; }));
        return found;
    }

    Result<std::vector<std::string>> keys(const std::string& prefix) override {
        std::vector<std::string> found;
        TRY(range(prefix, -1, [&](const Entry& entry) { found.push_back(entry.first); }));
        return found;
    }

    void put(const std::string& key, const std::string& value) override { write(key, value, std::nullopt); }
    void put_expiring(const std::string& key, const std::string& value, int64_t seconds) override {
        write(key, value, clock_() + seconds);
    }

    void remove(const std::string& key) override {
        sqlite3_stmt* statement = remove_.get();
        bind(statement, 1, key);
        finish_write(statement, key);
    }

    void write(const std::string& key, const std::string& value, std::optional<int64_t> expires) {
        sqlite3_stmt* statement = put_.get();
        bind(statement, 1, key);
        bind(statement, 2, value);
        if (expires) {
            sqlite3_bind_int64(statement, 3, *expires);
        } else {
            sqlite3_bind_null(statement, 3);
        }
        finish_write(statement, key);
    }

    void finish_write(sqlite3_stmt* statement, const std::string& key) {
        const int step = sqlite3_step(statement);
        sqlite3_reset(statement);
        if (step != SQLITE_DONE && !write_error_) write_error_ = failed("write " + key);
    }

    Result<void> range(const std::string& prefix, int limit, const std::function<void(const Entry&)>& each) {
        sqlite3_stmt* statement = range_.get();
        bind(statement, 1, prefix);
        bind(statement, 2, after_prefix(prefix));
        sqlite3_bind_int64(statement, 3, clock_());
        sqlite3_bind_int(statement, 4, limit);
        int step = SQLITE_DONE;
        while ((step = sqlite3_step(statement)) == SQLITE_ROW)
            each({column(statement, 0), column(statement, 1)});
        sqlite3_reset(statement);
        if (step != SQLITE_DONE) return failed("read " + prefix);
        return {};
    }

    // Only `create` writes into a file that is no pool: who merely looks may have been given the wrong one.
    Result<void> prepare_schema(Open mode) {
        if (TRY(is_pool())) return {};
        if (mode == Open::existing) {
            TRY(check_ours());
            return no_pool();
        }
        // Whoever else makes it at this moment is waited for.
        TRY(execute("BEGIN IMMEDIATE"));
        const Result<void> made = make_schema();
        TRY(execute(made.ok() ? "COMMIT" : "ROLLBACK"));
        return made;
    }

    Result<bool> is_pool() {
        const int64_t application = TRY(number("PRAGMA application_id"));
        const int64_t format = TRY(number("PRAGMA user_version"));
        if (application == kApplicationId && format != kFormat) {
            return Error{EINVAL, fmt::format("{} is a MAC pool of format {}; this program knows format {}",
                                             path_, format, kFormat)};
        }
        return application == kApplicationId;
    }

    [[nodiscard]] Error no_pool() const { return {ENOENT, fmt::format("no pool at {}; `macpool init` makes one", path_)}; }

    Result<void> check_ours() {
        if (TRY(number("SELECT count(*) FROM sqlite_schema")) == 0) return {};
        return Error{EINVAL, fmt::format("{} is a SQLite file, but not a MAC pool", path_)};
    }

    Result<void> make_schema() {
        if (TRY(is_pool())) return {};
        TRY(check_ours());
        TRY(
            execute("CREATE TABLE entry (key TEXT PRIMARY KEY, value TEXT NOT NULL, expires INTEGER) WITHOUT "
                    "ROWID, STRICT"));
        TRY(execute(fmt::format("PRAGMA application_id={}", kApplicationId)));
        return execute(fmt::format("PRAGMA user_version={}", kFormat));
    }

    Result<int64_t> number(const char* query) {
        const Statement statement = TRY(prepare(query));
        if (sqlite3_step(statement.get()) != SQLITE_ROW) return failed(query);
        return sqlite3_column_int64(statement.get(), 0);
    }

    Result<Statement> prepare(const char* text) {
        sqlite3_stmt* statement = nullptr;
        if (sqlite3_prepare_v3(database_.get(), text, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr) !=
            SQLITE_OK) {
            return failed("prepare a statement");
        }
        return Statement(statement);
    }

    Result<void> execute(const std::string& text) {
        if (sqlite3_exec(database_.get(), text.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK)
            return failed(text);
        return {};
    }

    [[nodiscard]] Error failed(const std::string& tried) const {
        const int primary = sqlite3_errcode(database_.get());
        int code = EIO;
        if (primary == SQLITE_BUSY) code = EBUSY;
        if (primary == SQLITE_FULL) code = ENOSPC;
        if (primary == SQLITE_READONLY) code = EROFS;
        return {code, fmt::format("pool {}: {}: {}", path_, tried, sqlite3_errmsg(database_.get()))};
    }

    static void bind(sqlite3_stmt* statement, int index, const std::string& text) {
        sqlite3_bind_text(statement, index, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
    }
    static std::string column(sqlite3_stmt* statement, int index) {
        const unsigned char* text = sqlite3_column_text(statement, index);
        return {reinterpret_cast<const char*>(text),
                static_cast<size_t>(sqlite3_column_bytes(statement, index))};
    }

    std::string path_;
    Clock clock_;
    int64_t patience_;
    std::unique_ptr<sqlite3, Close> database_;
    Statement get_, put_, remove_, range_, count_;
    std::optional<Error> write_error_;
};

}  // namespace

Result<std::unique_ptr<Store>> open_sqlite(const Location& location, Clock clock, Open mode) {
    auto store = std::make_unique<SqliteStore>(location.url.substr(std::string_view("sqlite:").size()), std::move(clock),
                                               location.patience_seconds.value_or(kPatienceSeconds));
    TRY(store->open(mode));
    return std::unique_ptr<Store>(std::move(store));
}

}  // namespace ringback::mac
