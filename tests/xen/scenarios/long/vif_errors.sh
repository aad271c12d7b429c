# SPDX-License-Identifier: Apache-2.0
# deadline: 240
# What cannot be served is refused on xl's stderr, and the other vif keeps running.
. /bed/product.sh
netback_start
bridge_start xenbr0
guest_start good kind=pvh memory=384 tools=net vif='bridge=xenbr0,mac=00:16:3e:00:00:51'
guest_network good 2
guest_run good 'ping -c 2 -W 5 10.9.0.1'
snapshot_before
port=/sys/class/net/vif$(xl domid good).1
assert_fails xl network-attach good bridge=nosuchbridge
assert_match "$output" 'nosuchbridge' "xl's message"
# libxl leaves what it could not attach for the user to take away; the script complains about the bridge once more.
xl network-detach good 1 || :
wait_until 10 'the port to go' test ! -e "$port"
# A device of the vif's name that is not ours to take.
ip link add name "${port##*/}" type bridge
assert_fails xl network-attach good bridge=xenbr0
[ -d "$port/bridge" ] || fail "a device that is not ours was taken"
xl network-detach good 1 || :
ip link delete "${port##*/}"
assert_nothing_left
guest_run good 'ping -c 2 -W 5 10.9.0.1'
xl network-attach good bridge=xenbr0 mac=00:16:3e:00:00:52
wait_until 10 'eth1 in the guest' guest_run good 'test -e /sys/class/net/eth1'
guest_shutdown good
