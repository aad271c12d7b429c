// SPDX-License-Identifier: Apache-2.0
//
// Ledger: the rules of a pool, inside one transaction.
//
// Every address of the pool is in exactly one of three places: still to be drawn, held, or released. The
// addresses to be drawn are the positions from progress.next to progress.end of a list of draws; draw i is
// the address of rank permutation.forward(i). The list is virtual: position i holds draw i, except where a
// record "moved" says otherwise. So
//   - drawing takes the draw at `next`, and `next` grows;
//   - reserving by hand what is still to be drawn puts the last draw in its place, and `end` shrinks.
// Neither looks for a free address, so both touch the same few records whether the pool is empty or has one
// address left. (A cursor that skips what it finds taken would be as good for an empty pool, and would search
// for the last address among millions that were reserved by hand.) A released address goes to the end of a
// queue. The pool draws new ones first and then takes from the head of the queue, so an address rests as long
// as the pool allows, and at least the rest period.
//
// All operations succeed again, with the same result, when they have been done already (see Store).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mac-pool/records.h"
#include "mac-pool/store.h"

namespace ringback::mac {

// What does not change while a pool is open.
struct Rules {
    Settings settings;
    Space space;
    Permutation permutation;
};

struct Lease {
    Mac mac;
    Guest guest;  // both parts empty: held for no guest
    unsigned nic = 0;
    Origin origin = Origin::pool;
    int64_t since = 0;
    std::string note;
};

// "web (6f2c...) nic 0", or what it is held for otherwise.
[[nodiscard]] std::string holder_text(const Lease& lease);

struct Granted {
    Lease lease;
    bool fresh = false;  // false: the guest had it already
    std::string note;    // something that a person should know
};

class Ledger {
  public:
    Ledger(Transaction& transaction, const Rules& rules, int64_t now)
        : transaction_(transaction), rules_(rules), now_(now) {}

    // Addresses that will be reserved, and for whom: saves a far store many calls.
    [[nodiscard]] Result<void> expect(const std::vector<std::pair<Mac, std::optional<Guest>>>& coming);

    // The guest's record; nullopt: the pool knows no such guest. EEXIST: several guests have that name.
    [[nodiscard]] Result<std::optional<GuestRecord>> find(const Guest& guest);
    // The same, made if need be. A UUID that comes with a name takes over what the name held until now; a new
    // name of a known UUID is noted.
    [[nodiscard]] Result<GuestRecord> enter(const Guest& guest);

    [[nodiscard]] Result<std::optional<Lease>> holder(Mac mac);
    [[nodiscard]] Result<std::optional<Resting>> resting(Mac mac);

    // ENOSPC: the pool is exhausted.
    [[nodiscard]] Result<Granted> allocate(const Guest& guest, unsigned nic);
    // By hand or from an import, inside the ranges or outside. Without a guest it is held for none. EEXIST:
    // another guest or NIC holds it, or this NIC has another address.
    [[nodiscard]] Result<Granted> reserve(Mac mac, const std::optional<Guest>& guest, unsigned nic,
                                          Origin origin, const std::string& note);
    // Gives the address to another guest or NIC, whoever holds it now; what that NIC had before is released.
    [[nodiscard]] Result<void> move(Mac mac, const Guest& guest, unsigned nic);
    // Addresses that the guest holds already get other numbers of its NICs. What has one of these numbers and
    // is not among them must be released before.
    [[nodiscard]] Result<void> renumber(const Guest& guest, const std::map<unsigned, Mac>& wanted);
    // false: nobody held it.
    [[nodiscard]] Result<bool> release(Mac mac);
    // All of the guest's addresses, or the one of `nic`.
    [[nodiscard]] Result<std::vector<Mac>> release(const Guest& guest, std::optional<unsigned> nic);

  private:
    template <typename Record>
    [[nodiscard]] Result<std::optional<Record>> load(const std::string& key);
    [[nodiscard]] Result<Progress> progress();
    [[nodiscard]] Result<uint64_t> draw_at(uint64_t position);
    void place(uint64_t position, uint64_t draw);
    [[nodiscard]] Result<std::optional<Mac>> draw();
    [[nodiscard]] Result<Mac> take_rested();
    [[nodiscard]] Result<void> withdraw(Mac mac, uint64_t rank);
    void end_rest(Mac mac, const Resting& resting);
    [[nodiscard]] Result<void> bind(Mac mac, const Guest& guest, const Holding& holding);
    [[nodiscard]] Result<void> unbind(Mac mac, const Lease& lease);
    void save(const GuestRecord& record);
    void forget(const GuestRecord& record);

    Transaction& transaction_;
    const Rules& rules_;
    int64_t now_;
};

}  // namespace ringback::mac
