// SPDX-License-Identifier: Apache-2.0
//
// XenbusGuest: the nodes of a guest's devices, written by the toolstack (which is trusted, and clumsy) and by the guest (which is
// neither), in any order, at any time.
//
// Held against the supervisor: a directory that was removed stays away, and the states it writes are states.
#pragma once

#include <array>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "fake_store.h"
#include "target.h"

namespace ringback::fuzz {

class XenbusGuest {
  public:
    static constexpr int kDomid = 7;
    struct Form {
        const char* kind;
        std::span<const char* const> devices;
        std::span<const char* const> keys;                            // that a frontend writes
        std::span<const std::pair<const char*, const char*>> offer;  // what a good one writes
        const char* offered;                                         // and its state then
    };
    XenbusGuest(Input& input, const Form& form) : input_(input), form_(form) {}

    template <typename More>
    void create(const More& more) {
        const std::string device = this->device();
        const std::string at = back(device);
        if (!made_.insert(at).second) return;
        FakeStore& store = FakeStore::get();
        store.write(at + "/frontend", front(device));
        store.write(at + "/frontend-id", std::to_string(kDomid));
        store.write(at + "/online", "1");
        more(at);
        store.write(front(device) + "/backend", at);
        store.write(front(device) + "/backend-id", "0");
        store.write(front(device) + "/state", "1");
        store.write(at + "/state", "1");
    }
    void remove() {
        const std::string device = this->device();
        if (input_.flag()) FakeStore::get().remove(front(device));
        if (input_.flag()) {
            made_.erase(back(device));
            FakeStore::get().remove(back(device));
        }
    }
    void toolstack() {
        const std::string at = back(device());
        if (!made_.contains(at)) return;
        switch (input_.below(4)) {
            case 0: FakeStore::get().write(at + "/hotplug-status", input_.flag() ? "connected" : "error"); break;
            case 1:
                FakeStore::get().write(at + "/online", "0");
                FakeStore::get().write(at + "/state", "5");
                break;
            case 2: FakeStore::get().write(at + "/online", input_.flag() ? "1" : "0"); break;
            default: FakeStore::get().write(at + "/state", value());
        }
    }
    void guest() {
        const std::string at = front(device());
        switch (input_.below(4)) {
            case 0:
                for (const auto& [key, text] : form_.offer) FakeStore::get().write(at + "/" + key, text);
                FakeStore::get().write(at + "/state", form_.offered);
                break;
            case 1: FakeStore::get().write(at + "/state", value()); break;
            default: {
                const std::string path = at + "/" + form_.keys[input_.below(static_cast<uint32_t>(form_.keys.size()))];
                if (input_.below(4) == 0) {
                    FakeStore::get().remove(path);
                } else {
                    FakeStore::get().write(path, value());
                }
            }
        }
    }
    void check() const {
        const FakeStore& store = FakeStore::get();
        for (const char* device : form_.devices) {
            const std::string at = back(device);
            INVARIANT(made_.contains(at) == store.read(at).has_value());
        }
    }
    void clean() {
        for (const char* device : form_.devices) {
            FakeStore::get().remove(back(device));
            FakeStore::get().remove(front(device));
            made_.erase(back(device));
        }
    }
    [[nodiscard]] std::string device() { return form_.devices[input_.below(static_cast<uint32_t>(form_.devices.size()))]; }
    [[nodiscard]] std::string back(const std::string& device) const {
        return std::string("/local/domain/0/backend/") + form_.kind + "/" + std::to_string(kDomid) + "/" + device;
    }
    [[nodiscard]] std::string front(const std::string& device) const {
        return "/local/domain/" + std::to_string(kDomid) + "/device/" + form_.kind + "/" + device;
    }
    // A number, or any text.
    [[nodiscard]] std::string value() {
        switch (input_.below(4)) {
            case 0:
            case 1: return std::to_string(input_.below(10));
            case 2: return std::to_string(input_.take<uint64_t>());
            default: return input_.text(input_.below(24));
        }
    }

  private:
    Input& input_;
    const Form& form_;
    std::set<std::string> made_;
};

}  // namespace ringback::fuzz
