// SPDX-License-Identifier: Apache-2.0
//
// TableWriter: changes of the table on their way to the file, a sector of 128 entries at a time. Changes of the same
// sector that come while one is being written share the next write.
//
// Whoever changes an entry does so in the table in memory first, and joins here; he is called when it is in the file.
//
// Thread: the owner of the image.
#pragma once

#include <cstring>

#include "disk-images/raw/image.h"
#include "disk-images/vhd/table.h"
#include "disk-images/vhd/walk.h"

namespace ringback::image::vhd {

struct TableChange {
    uint32_t block = 0;
    void (*written)(TableChange&, int32_t result) noexcept = nullptr;
    TableChange* next = nullptr;
};

class TableWriter {
  public:
    TableWriter(RawImage& file, Table& table) : file_(file), table_(table) {
        io_.writer = this;
        io_.done = [](Io& io, int32_t result) noexcept { static_cast<Transfer&>(io).writer->on_written(result); };
    }
    void write(TableChange& change) {
        change.next = waiting_;
        waiting_ = &change;
        if (under_way_ == nullptr) start();
    }

  private:
    struct Transfer : OwnIo {
        TableWriter* writer = nullptr;
    };

    void start() {
        const uint32_t which = waiting_->block / Table::kEntriesPerSector;
        TableChange* others = nullptr;
        while (waiting_ != nullptr) {
            TableChange* change = std::exchange(waiting_, waiting_->next);
            TableChange*& list = change->block / Table::kEntriesPerSector == which ? under_way_ : others;
            change->next = list;
            list = change;
        }
        waiting_ = others;
        std::memcpy(sector_.data(), table_.sector_content(under_way_->block).data(), sector_.size());
        io_.set(Op::write, table_.sector_offset(under_way_->block), sector_.data(), sector_.size());
        Io* one = &io_;
        file_.submit({&one, 1});
    }
    void on_written(int32_t result) {
        TableChange* done = std::exchange(under_way_, nullptr);
        // What joins from inside the calls below must not start before all of these have been called: a failed change
        // is taken back by its owner, and the next content shall not have it.
        TableChange busy;
        under_way_ = &busy;
        while (done != nullptr) {
            TableChange* next = done->next;
            done->written(*done, result);
            done = next;
        }
        under_way_ = nullptr;
        if (waiting_ != nullptr) start();
    }

    RawImage& file_;
    Table& table_;
    TableChange* waiting_ = nullptr;
    TableChange* under_way_ = nullptr;
    alignas(4096) std::array<std::byte, 512> sector_{};
    Transfer io_;
};

}  // namespace ringback::image::vhd
