// SPDX-License-Identifier: Apache-2.0
//
// How a worker starts that lacks something on purpose (forgetful_worker, fenceless_worker): as the product's, without its
// sandbox. No step of its stops it.
#include <cstdlib>

#include "blkback/worker/steps.h"
#include "blkback/worker/worker.h"

namespace ringback::blk::worker {

void reached(Step) {}

}  // namespace ringback::blk::worker

using namespace ringback::blk::worker;

// As the supervisor calls it: --domid N --supervisor PATH.
int main(int argc, char** argv) {
    if (argc != 5) return 2;
    auto worker = Worker::prepare(
        {.domid = static_cast<ringback::xen::Domid>(std::atoi(argv[2])), .supervisor = argv[4], .polling = {}});
    return worker && (*worker)->run() ? 0 : 1;
}
