# SPDX-License-Identifier: Apache-2.0
# deadline: 240
# Jumbo frames: the bridge's MTU reaches the guest, and packets of that size pass whole; two queues.
. /bed/product.sh
netback_start
bridge_start xenbr0 9000
guest_start jumbo kind=pv memory=384 vcpus=2 tools=net vif='bridge=xenbr0,mac=00:16:3e:00:00:21'
domid=$(xl domid jumbo)
assert_eq "$(cat "/sys/class/net/vif$domid.0/mtu")" 9000 'MTU of the port'
assert_eq "$(xenstore-read "/local/domain/$domid/device/vif/0/mtu")" 9000 "the frontend's mtu node"
assert_eq "$(xenstore-read "/local/domain/$domid/device/vif/0/multi-queue-num-queues")" 2 'queues'
guest_network jumbo 2
guest_run jumbo 'ip link set eth0 mtu 9000'
guest_run jumbo 'ping -c 3 -W 5 -M do -s 8972 10.9.0.1'
ping -c 3 -W 5 -M do -s 8972 10.9.0.2
# Without offloads every packet crosses as it will be on the wire; without scatter-gather none is larger than a page, and
# Linux's frontend goes back to 1500.
guest_run jumbo 'ethtool -K eth0 tx off tso off gso off gro off && ping -c 3 -W 5 -M do -s 8972 10.9.0.1'
guest_run jumbo 'ethtool -K eth0 sg off && ping -c 3 -W 5 -M do -s 1472 10.9.0.1'
guest_shutdown jumbo
