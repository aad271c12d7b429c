# SPDX-License-Identifier: Apache-2.0
# deadline: 480
# PV and PVH guests on a Linux bridge, by the stock vif-bridge script: ping over IPv4 and IPv6, TCP both ways.
. /bed/product.sh
netback_start
bridge_start xenbr0

guest_start one kind=pv memory=384 tools=net vif='bridge=xenbr0,mac=00:16:3e:00:00:01'
guest_network one 2
guest_run one 'ping -c 3 -W 5 10.9.0.1'
guest_run one 'ping -6 -c 3 -W 5 fd09::1'

guest_start two kind=pvh memory=384 vcpus=2 tools=net vif='bridge=xenbr0,mac=00:16:3e:00:00:02'
guest_network two 3
guest_run two 'ping -c 3 -W 5 10.9.0.1'
guest_run two 'ping -c 3 -W 5 10.9.0.2'
# Of many sizes, whole in one packet and in fragments.
guest_run two 'for size in 0 1 17 18 100 1472 1473 4000 9000 30000 65000; do ping -q -c 2 -W 5 -i 0.2 -s $size 10.9.0.2 || exit 1; done'

iperf3 -s -D -I "$PWD/server.pid" --logfile "$results/server"
at_exit sh -c "kill \$(tr -d '\\0' <$PWD/server.pid)"
for guest in one two; do
  guest_run -t 90 "$guest" 'iperf3 -c 10.9.0.1 -t 5' >"$results/$guest.to-dom0"
  guest_run -t 90 "$guest" 'iperf3 -c 10.9.0.1 -t 5 -R' >"$results/$guest.from-dom0"
  guest_run -t 90 "$guest" 'iperf3 -6 -c fd09::1 -t 3' >"$results/$guest.to-dom0-v6"
done
guest_run one 'iperf3 -s -D'
guest_run -t 90 two 'iperf3 -c 10.9.0.2 -t 5' >"$results/guest-to-guest"
guest_run -t 90 two 'iperf3 -6 -c fd09::2 -t 5 -R' >"$results/guest-to-guest-v6-reverse"
grep -h receiver "$results"/*to-* || fail 'iperf3 measured nothing'

guest_shutdown one
guest_shutdown two
