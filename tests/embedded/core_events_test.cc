// SPDX-License-Identifier: Apache-2.0
//
// Event channels on the embedded core, through the drop-in libxenevtchn: the rules that crash recovery rests
// on.
#include <fcntl.h>
#include <poll.h>

#include <catch2/catch_test_macros.hpp>
#include <cerrno>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "core_fixture.h"

extern "C" {
#include <xenevtchn.h>
}

using namespace ringback;
using namespace ringback::test;
using ringback::xen::embedded::GuestPort;

namespace {

struct CloseEvtchn {
    void operator()(xenevtchn_handle* h) const { xenevtchn_close(h); }
};
using Evtchn = std::unique_ptr<xenevtchn_handle, CloseEvtchn>;

Evtchn open_evtchn() {
    Evtchn handle(xenevtchn_open(nullptr, 0));
    REQUIRE(handle);
    return handle;
}

bool readable(const Evtchn& evtchn, int timeout_ms = 0) {
    pollfd p{xenevtchn_fd(evtchn.get()), POLLIN, 0};
    return ::poll(&p, 1, timeout_ms) == 1;
}

evtchn_port_t bind_to(const Evtchn& evtchn, std::uint16_t domid, std::uint32_t remote) {
    int port = xenevtchn_bind_interdomain(evtchn.get(), domid, remote);
    REQUIRE(port > 0);
    return static_cast<evtchn_port_t>(port);
}

// Takes the event that every fresh binding starts with.
void take_first(const Evtchn& evtchn, evtchn_port_t port) {
    REQUIRE(readable(evtchn));
    REQUIRE(xenevtchn_pending(evtchn.get()) == static_cast<int>(port));
    REQUIRE(xenevtchn_unmask(evtchn.get(), port) == 0);
}

int bind_error(const Evtchn& evtchn, std::uint32_t domid, std::uint32_t remote) {
    errno = 0;
    return xenevtchn_bind_interdomain(evtchn.get(), domid, remote) < 0 ? errno : 0;
}

}  // namespace

TEST_CASE("a new binding is pending, then events go both ways") {
    CoreWithGuest t;
    GuestPort front = must(t.guest.alloc_unbound_port(0));
    Evtchn evtchn = open_evtchn();
    const evtchn_port_t port = bind_to(evtchn, t.domid, front.number());
    take_first(evtchn, port);
    CHECK_FALSE(readable(evtchn));

    front.notify();
    REQUIRE(readable(evtchn, 10000));
    CHECK(xenevtchn_pending(evtchn.get()) == static_cast<int>(port));
    CHECK_FALSE(front.clear());
    REQUIRE(xenevtchn_notify(evtchn.get(), port) == 0);
    CHECK(front.wait(10000));
    CHECK_FALSE(front.clear());

    const auto counters = nlohmann::json::parse(must(t.toolstack.domain_info(t.domid)))["counters"];
    CHECK(counters["notifies_sent"] == 1);
    CHECK(counters["notifies_received"] == 1);
}

TEST_CASE("a port that fired stays masked until it is written back, and loses nothing") {
    CoreWithGuest t;
    GuestPort front = must(t.guest.alloc_unbound_port(0)), other = must(t.guest.alloc_unbound_port(0));
    Evtchn evtchn = open_evtchn();
    const evtchn_port_t port = bind_to(evtchn, t.domid, front.number());
    take_first(evtchn, port);
    const evtchn_port_t second = bind_to(evtchn, t.domid, other.number());
    take_first(evtchn, second);

    front.notify();
    REQUIRE(xenevtchn_pending(evtchn.get()) == static_cast<int>(port));
    front.notify();
    front.notify();
    CHECK_FALSE(readable(evtchn));
    other.notify();  // others are not masked
    REQUIRE(readable(evtchn, 10000));
    CHECK(xenevtchn_pending(evtchn.get()) == static_cast<int>(second));
    REQUIRE(xenevtchn_unmask(evtchn.get(), port) == 0);
    REQUIRE(readable(evtchn, 10000));
    CHECK(xenevtchn_pending(evtchn.get()) == static_cast<int>(port));
    REQUIRE(xenevtchn_unmask(evtchn.get(), port) == 0);
    CHECK_FALSE(readable(evtchn));  // the two were one event
}

TEST_CASE("pending blocks, or not, as the descriptor says") {
    CoreWithGuest t;
    GuestPort front = must(t.guest.alloc_unbound_port(0));
    Evtchn evtchn = open_evtchn();
    const evtchn_port_t port = bind_to(evtchn, t.domid, front.number());
    take_first(evtchn, port);
    std::thread guest([&] { front.notify(); });
    CHECK(xenevtchn_pending(evtchn.get()) == static_cast<int>(port));
    guest.join();
    REQUIRE(::fcntl(xenevtchn_fd(evtchn.get()), F_SETFL, O_NONBLOCK) == 0);
    errno = 0;
    CHECK(xenevtchn_pending(evtchn.get()) == -1);
    CHECK(errno == EAGAIN);
}

TEST_CASE("only an unbound port that waits for the caller can be bound") {
    CoreWithGuest t;
    GuestPort front = must(t.guest.alloc_unbound_port(0)), for_another = must(t.guest.alloc_unbound_port(7));
    Evtchn evtchn = open_evtchn();
    CHECK(bind_error(evtchn, 4711, front.number()) == ESRCH);
    CHECK(bind_error(evtchn, t.domid, 999) == EINVAL);
    CHECK(bind_error(evtchn, t.domid, 0) == EINVAL);
    CHECK(bind_error(evtchn, t.domid, for_another.number()) == EINVAL);
    bind_to(evtchn, t.domid, front.number());
    CHECK(bind_error(evtchn, t.domid, front.number()) == EINVAL);  // taken
}

TEST_CASE("after its backend's death a port is unbound, drops notifies, and can be bound again") {
    CoreWithGuest t;
    GuestPort front = must(t.guest.alloc_unbound_port(0));
    Child backend([&](Child& self) {
        xenevtchn_handle* handle = xenevtchn_open(nullptr, 0);
        if (xenevtchn_bind_interdomain(handle, t.domid, front.number()) < 0) return 1;
        self.report(1);
        return self.wait_for_death();
    });
    REQUIRE(backend.next() == 1);
    Evtchn evtchn = open_evtchn();
    CHECK(bind_error(evtchn, t.domid, front.number()) == EINVAL);  // alive: the successor has to wait
    backend.kill();
    front.notify();  // nobody there; no error
    evtchn_port_t port = 0;
    REQUIRE(eventually([&] {
        int bound = xenevtchn_bind_interdomain(evtchn.get(), t.domid, front.number());
        port = static_cast<evtchn_port_t>(bound);
        return bound > 0;
    }));
    CHECK_FALSE(front.clear());  // the guest noticed nothing
    take_first(evtchn, port);    // and the successor makes up for what was lost
    front.notify();
    CHECK(readable(evtchn, 10000));
}

TEST_CASE("a guest that closes its port is not an error for the backend") {
    CoreWithGuest t;
    GuestPort front = must(t.guest.alloc_unbound_port(0));
    Evtchn evtchn = open_evtchn();
    const evtchn_port_t port = bind_to(evtchn, t.domid, front.number());
    take_first(evtchn, port);
    front.close();
    CHECK(xenevtchn_notify(evtchn.get(), port) == 0);
    CHECK(xenevtchn_unbind(evtchn.get(), port) == 0);
    errno = 0;
    CHECK(xenevtchn_notify(evtchn.get(), port) == -1);
    CHECK(errno == ENOTCONN);
    CHECK(xenevtchn_unbind(evtchn.get(), port) == -1);
    const auto total = nlohmann::json::parse(must(t.toolstack.counters()))["total"];
    CHECK(total["ports"] == 0);
}

TEST_CASE("a guest can bind to a port that domain 0 offers") {
    CoreWithGuest t;
    Evtchn evtchn = open_evtchn();
    const int port = xenevtchn_bind_unbound_port(evtchn.get(), t.domid);
    REQUIRE(port > 0);
    GuestPort front = must(t.guest.bind_interdomain(0, static_cast<std::uint32_t>(port)));
    CHECK(front.clear());
    REQUIRE(xenevtchn_notify(evtchn.get(), static_cast<evtchn_port_t>(port)) == 0);
    CHECK(front.wait(10000));
    front.notify();
    CHECK(xenevtchn_pending(evtchn.get()) == port);
}

TEST_CASE("a restricted handle binds to its one domain only") {
    CoreWithGuest t;
    const std::uint16_t other = must(t.toolstack.create_domain({}));
    xen::embedded::Guest second = must(xen::embedded::Guest::connect(other));
    GuestPort front = must(t.guest.alloc_unbound_port(0)), theirs = must(second.alloc_unbound_port(0));
    Evtchn evtchn = open_evtchn();
    CHECK(xenevtchn_restrict(evtchn.get(), 0) == -1);
    REQUIRE(xenevtchn_restrict(evtchn.get(), t.domid) == 0);
    CHECK(bind_error(evtchn, other, theirs.number()) == EACCES);
    CHECK(xenevtchn_bind_unbound_port(evtchn.get(), t.domid) == -1);
    CHECK(xenevtchn_restrict(evtchn.get(), other) == -1);
    CHECK(bind_error(evtchn, t.domid, front.number()) == 0);
}

TEST_CASE("what has no meaning here is refused") {
    CoreWithGuest t;
    Evtchn evtchn = open_evtchn();
    CHECK(xenevtchn_bind_virq(evtchn.get(), 3) == -1);
    CHECK(xenevtchn_fdopen(nullptr, 0, 0) == nullptr);
    CHECK(xenevtchn_open(nullptr, 0x80) == nullptr);
}
