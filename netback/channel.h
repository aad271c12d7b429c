// SPDX-License-Identifier: Apache-2.0
//
// Channel: one end of the connection between netbackd and its switch worker (runtime/socket_channel.h).
#pragma once

#include "netback/worker_protocol.h"
#include "runtime/socket_channel.h"

namespace ringback::net {

using Channel = SocketChannel<Message, kProtocolVersion, kMaxDescriptors>;
using Received = Channel::Received;

}  // namespace ringback::net
