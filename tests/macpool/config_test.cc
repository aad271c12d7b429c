// SPDX-License-Identifier: Apache-2.0
#include "mac-pool/config.h"

#include <sqlite3.h>
#include <sys/stat.h>

#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <fstream>
#include <sstream>

#include "mac-pool/etcd_client.h"
#include "tests/macpool/fixture.h"

using namespace ringback;
using namespace ringback::mac;
using namespace ringback::test;
using Catch::Matchers::ContainsSubstring;

namespace {

// A credentials file with a private key beside it.
struct Credentials {
    explicit Credentials(const std::string& text, mode_t mode = 0600, mode_t key_mode = 0600) {
        write(config.credentials, text, mode);
        write(key, "key", key_mode);
    }
    static void write(const std::string& path, const std::string& text, mode_t mode) {
        std::ofstream(path) << text;
        REQUIRE(::chmod(path.c_str(), mode) == 0);
    }
    Directory directory;
    std::string key = directory.file("key");
    Config config{"etcd+https://a:1/p", directory.file("credentials")};
};

}  // namespace

TEST_CASE("the configuration that is installed says what the defaults are") {
    std::ifstream file(RINGBACK_SOURCE_DIR "/packaging/macpool.toml");
    std::ostringstream text;
    for (std::string line; std::getline(file, line);) {
        text << (line.size() > 1 && line[0] == '#' && line[1] != ' ' ? line.substr(1) : line) << "\n";
    }
    REQUIRE_THAT(text.str(), ContainsSubstring("\npool = "));
    const Config config = must(parse_config(text.str(), "macpool.toml"));
    CHECK(config.url == kDefaultUrl);
    CHECK(config.credentials == kCredentialsPath);
    CHECK(must(parse_config("", "x")).url == kDefaultUrl);
}

TEST_CASE("what is no setting is refused with its line") {
    CHECK(must_fail(parse_config("pool = 'sqlite:/a'\npol = 'x'\n", "f")).message ==
          "f:2: pol is not a setting");
    CHECK(must_fail(parse_config("pool = 7\n", "f")).message == "f:1: pool must be a text in quotes");
    CHECK_THAT(must_fail(parse_config("pool = \n", "f")).message, ContainsSubstring("f:1: "));
    CHECK_FALSE(load_config("/nonexistent/macpool.toml").ok());
}

TEST_CASE("credentials are taken from a file that only its owner can read") {
    const Credentials good("user = 'u'\npassword = 'p'\nca_file = '/ca'\n");
    const Location location = must(locate(good.config));
    CHECK(location.user == "u");
    CHECK(location.password == "p");
    CHECK(location.ca_file == "/ca");
    for (const mode_t mode : {0640, 0604, 0660}) {
        const Credentials open("user = 'u'\npassword = 'p'\n", mode);
        const Error error = must_fail(locate(open.config));
        CHECK(error.code == EACCES);
        CHECK_THAT(error.message, ContainsSubstring("chmod 600 " + open.config.credentials));
    }
    CHECK_THAT(must_fail(locate(Credentials("user = 'u'\n").config)).message,
               ContainsSubstring("come together"));
    CHECK_THAT(must_fail(locate(Credentials("key_file = '/k'\n").config)).message,
               ContainsSubstring("come together"));
    CHECK_THAT(must_fail(locate(Credentials("pass = 'u'\n").config)).message,
               ContainsSubstring(":1: pass is not a setting"));
    CHECK_FALSE(locate(Config{"etcd+https://a:1/p", "/nonexistent/credentials"}).ok());
    CHECK(locate(Config{"sqlite:/p", "/nonexistent/credentials"}).ok());
}

TEST_CASE("a private key that others can read is refused") {
    const mode_t mode = GENERATE(as<mode_t>{}, 0600, 0644);
    Credentials credentials("", 0600, mode);
    Credentials::write(credentials.config.credentials,
                       "cert_file = '/c'\nkey_file = '" + credentials.key + "'\n", 0600);
    CHECK(locate(credentials.config).ok() == (mode == 0600));
}

TEST_CASE("a pool's address is read strictly") {
    const EtcdAddress address = must(parse_etcd_url("etcd+https://a:2379,[::1]:2380/ringback/macpool"));
    CHECK(address.members == std::vector<std::string>{"https://a:2379", "https://[::1]:2380"});
    CHECK(address.prefix == "/ringback/macpool/");
    for (const char* url : {"etcd+https://a:2379", "etcd+https://a:2379/", "etcd+https://a/p",
                            "etcd+https://:1/p", "etcd+https://a:/p", "etcd+https://a:1,/p",
                            "etcd+https:///p", "etcd+https://u:p@a:1/p", "etcd+https://a:1x/p"}) {
        CHECK_THAT(must_fail(parse_etcd_url(url)).message, ContainsSubstring(url));
    }
    for (const char* url :
         {"", "sqlite", "sqlite:", "sqlite:relative.db", "https://a:1/p", "etcd://a:1/p", "mysql:/x"}) {
        Location location;
        location.url = url;
        CHECK(must_fail(open_store(location, system_clock(), Open::create)).code == EINVAL);
    }
}

TEST_CASE("base64 is what etcd speaks") {
    for (const auto& [text, coded] :
         std::vector<std::pair<std::string, std::string>>{{"", ""},
                                                          {"f", "Zg=="},
                                                          {"fo", "Zm8="},
                                                          {"foo", "Zm9v"},
                                                          {"foob", "Zm9vYg=="},
                                                          {"fooba", "Zm9vYmE="},
                                                          {"foobar", "Zm9vYmFy"},
                                                          {std::string("\0\xff\xfe", 3), "AP/+"}}) {
        CHECK(base64(text) == coded);
        CHECK(unbase64(coded) == text);
    }
    CHECK(unbase64("Zg!=").empty());
}

TEST_CASE("a password goes over TLS or to this host, and nowhere else") {
    Location location;
    location.url = "etcd+http://elsewhere:2379/p";
    location.user = "u";
    location.password = "p";
    auto store = must(open_store(location, system_clock(), Open::existing));
    const Error error = must_fail(store->count("mac/"));
    CHECK(error.code == EACCES);
    CHECK_THAT(error.message, ContainsSubstring("without TLS"));
}

TEST_CASE("another SQLite file is not taken for a pool, and not changed") {
    Directory directory;
    const std::string path = directory.file("other.db");
    sqlite3* other = nullptr;
    REQUIRE(sqlite3_open(path.c_str(), &other) == SQLITE_OK);
    REQUIRE(sqlite3_exec(other, "CREATE TABLE theirs (x)", nullptr, nullptr, nullptr) == SQLITE_OK);
    REQUIRE(sqlite3_close(other) == SQLITE_OK);
    const std::string before = slurp(path);
    Location location;
    location.url = "sqlite:" + path;
    CHECK_THAT(must_fail(open_store(location, system_clock(), Open::create)).message,
               ContainsSubstring("not a MAC pool"));
    CHECK(slurp(path) == before);
    location.url = "sqlite:" + directory.file("none.db");
    const Error error = must_fail(open_store(location, system_clock(), Open::existing));
    CHECK(error.code == ENOENT);
    CHECK_FALSE(std::filesystem::exists(directory.file("none.db")));
    location.url = "sqlite:" + directory.file("new/pool.db");
    CHECK(open_store(location, system_clock(), Open::create).ok());
    struct stat status {};
    REQUIRE(::stat(directory.file("new/pool.db").c_str(), &status) == 0);
    CHECK((status.st_mode & 077) == 0);
}
