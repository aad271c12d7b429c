// SPDX-License-Identifier: Apache-2.0
//
// The store's server: the xenstore wire protocol (Xen: public/io/xs_wire.h, docs/misc/xenstore.txt) on Unix
// sockets. `store` is for domain 0's processes, with all rights; `store.<domid>` carries that domain's
// identity, as its ring to xenstored would. Permissions, quotas and watch rules follow C xenstored 4.17,
// which is stricter than oxenstored where the two differ (conflicts in one directory).
//
// A connection that does not read is never waited for: replies and events are queued, and a guest's queue is
// bounded; events beyond it are dropped and counted.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "hypervisor/embedded/core/hypervisor.h"
#include "hypervisor/embedded/core/store_tree.h"

namespace ringback::xen::embedded {

class StoreServer {
  public:
    StoreServer(Loop& loop, Hypervisor& hypervisor, std::string directory);
    ~StoreServer();

    void listen(std::uint16_t domid);
    void close(std::uint16_t domid);  // the domain died: its connections go, and its introduction
    void fire_special(const std::string& name);

    // Writes as the core itself, before anybody can connect (domain 0's own nodes).
    void write(const std::string& path, const std::string& value, const std::string& permissions);

    // While set, events of different paths reach a connection in random order; events of one path keep
    // theirs.
    void shuffle(bool on, std::uint32_t seed);

    std::size_t nodes() const { return tree_.size(); }
    std::size_t watches() const;
    std::size_t transactions() const;
    std::size_t connections() const { return connections_.size(); }
    std::uint64_t dropped_events() const { return dropped_events_; }
    std::uint64_t requests() const { return requests_; }

  private:
    struct Watch {
        std::string given;  // as the client wrote it
        std::string path;   // absolute, or special
        std::string token;
        std::size_t prefix = 0;  // to cut from event paths when the client gave a relative one
        int depth = -1;
    };
    struct Event {
        std::string path;
        std::string token;
    };
    struct Connection {
        Fd socket;
        std::uint16_t domid = 0;
        std::string in;
        std::string out;
        std::size_t sent = 0;
        std::vector<Watch> watches;
        std::map<std::uint32_t, std::unique_ptr<Transaction>> transactions;
        std::uint32_t next_transaction = 1;
        std::vector<Event> held;  // events waiting to be shuffled
        bool flush_scheduled = false;
    };
    struct Message {
        std::uint32_t type, request_id, transaction_id;
        std::string payload;
        std::vector<std::string> strings;  // the payload's NUL-terminated parts, and the rest
        bool terminated = false;           // the payload ends with NUL
    };
    // An answer: an errno, or the payload of the reply.
    struct Answer {
        int error = 0;
        std::string payload;
    };

    void accept(std::uint16_t domid);
    void readable(int fd);
    void drop(int fd);
    bool flush(Connection& c);
    void queue(Connection& c, std::uint32_t type, std::uint32_t request_id, std::uint32_t tx,
               std::string_view payload);
    void process(Connection& c, Message& message);
    Answer dispatch(Connection& c, Message& message, Transaction* tx, std::vector<Change>& changes);

    // store_operations.cc
    Answer directory(Connection& c, const Message& m, Transaction* tx);
    Answer directory_part(Connection& c, const Message& m, Transaction* tx);
    Answer read(Connection& c, const Message& m, Transaction* tx);
    Answer write(Connection& c, const Message& m, Transaction* tx, std::vector<Change>& changes);
    Answer mkdir(Connection& c, const Message& m, Transaction* tx, std::vector<Change>& changes);
    Answer rm(Connection& c, const Message& m, Transaction* tx, std::vector<Change>& changes);
    Answer get_permissions(Connection& c, const Message& m, Transaction* tx);
    Answer set_permissions(Connection& c, const Message& m, Transaction* tx, std::vector<Change>& changes);
    Answer start_transaction(Connection& c, const Message& m);
    Answer end_transaction(Connection& c, const Message& m, std::vector<Change>& changes);
    Answer domain_operation(Connection& c, const Message& m);
    Answer control(Connection& c, const Message& m);
    int resolve(const Connection& c, const std::string& given, bool special_allowed, std::string& path) const;
    const Node* access(Connection& c, const std::string& path, std::uint8_t need, Transaction* tx,
                       int& error);
    int make(Connection& c, const std::string& path, Transaction* tx, std::vector<Change>& changes);

    // store_watches.cc
    Answer watch(Connection& c, const Message& m);
    Answer unwatch(Connection& c, const Message& m);
    void fire(const Change& change);
    bool may_see(Connection& c, const std::string& path, const Permissions& before);
    void add_event(Connection& c, const Watch& watch, const std::string& path);
    void send_held(int fd);

    Loop& loop_;
    Hypervisor& hypervisor_;
    std::string directory_;
    StoreTree tree_;
    std::map<std::string, Permissions> special_;
    std::map<std::uint16_t, Fd> listeners_;
    std::map<int, Connection> connections_;
    std::set<std::uint16_t> introduced_;
    bool shuffling_ = false;
    std::mt19937 random_;
    std::uint64_t dropped_events_ = 0;
    std::uint64_t requests_ = 0;
};

}  // namespace ringback::xen::embedded
