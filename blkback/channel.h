// SPDX-License-Identifier: Apache-2.0
//
// Channel: one end of the connection between the supervisor and a guest's worker (runtime/socket_channel.h).
#pragma once

#include "blkback/worker_protocol.h"
#include "runtime/socket_channel.h"

namespace ringback::blk {

using Channel = SocketChannel<Message, kProtocolVersion, 4>;
using Received = Channel::Received;

}  // namespace ringback::blk
