# SPDX-License-Identifier: Apache-2.0
# deadline: 420
# NICs come and go while the guest runs; reboot, shutdown, and destroy under load; vifname and rate; nothing left over.
. /bed/product.sh
netback_start
bridge_start xenbr0
snapshot_before

guest_start life kind=pvh memory=384 tools=net vif='bridge=xenbr0,mac=00:16:3e:00:00:11,vifname=lifenic'
guest_network life 2
guest_run life 'ping -c 2 -W 5 10.9.0.1'
[ -e /sys/class/net/lifenic ] || fail 'vifname= was not honoured'
for round in 1 2; do
  xl network-attach life bridge=xenbr0 mac=00:16:3e:00:00:12 rate=1MB/s
  wait_until 10 'eth1 in the guest' guest_run life 'test -e /sys/class/net/eth1'
  guest_run life 'ip link set eth1 up && ip address add 10.9.0.12/24 dev eth1 && ping -c 2 -W 5 -I eth1 10.9.0.1'
  started=$SECONDS
  xl network-detach life 1
  [ $((SECONDS - started)) -lt 10 ] || fail "network-detach took $((SECONDS - started)) s"
  wait_until 10 'eth1 to go' guest_run life 'test ! -e /sys/class/net/eth1'
done
domid=$(xl domid life)
xl reboot life
guest_wait_ready life
[ "$(xl domid life)" != "$domid" ] || fail 'the guest was not rebooted'
guest_network life 2
guest_run life 'ping -c 2 -W 5 10.9.0.1'
guest_shutdown life
# The stock script takes the device's new name apart to find the frontend's domain, and writes the MTU there.
xenstore-rm /local/domain/lifenic 2>/dev/null || :
assert_nothing_left

guest_start busy kind=pv memory=384 tools=net vif='bridge=xenbr0,mac=00:16:3e:00:00:13'
guest_network busy 3
iperf3 -s -1 -D -I "$PWD/server.pid" --logfile "$results/server"
guest_run busy 'iperf3 -c 10.9.0.1 -t 100 >/dev/null 2>&1 </dev/null & sleep 3'
started=$SECONDS
guest_destroy busy
[ $((SECONDS - started)) -lt 15 ] || fail "xl destroy took $((SECONDS - started)) s"
kill "$(tr -d '\0' <server.pid)"
assert_nothing_left
