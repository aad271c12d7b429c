// SPDX-License-Identifier: Apache-2.0
//
// The worker without its journal: it serves as the product's does, and as a successor begins anew, so that what a dead
// worker had under way is lost. kill_loop_test must notice that.
#include <cstdlib>

#include "blkback/worker/steps.h"
#include "blkback/worker/worker.h"

namespace ringback::blk::worker {

void reached(Step) {}
bool journal_is_used() { return false; }

}  // namespace ringback::blk::worker

using namespace ringback::blk::worker;

// As the supervisor calls it: --domid N --supervisor PATH.
int main(int argc, char** argv) {
    if (argc != 5) return 2;
    auto worker = Worker::prepare(
        {.domid = static_cast<ringback::xen::Domid>(std::atoi(argv[2])), .supervisor = argv[4], .polling = {}});
    return worker && (*worker)->run() ? 0 : 1;
}
