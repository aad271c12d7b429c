# SPDX-License-Identifier: Apache-2.0
# deadline: 480
# PV and PVH guests on the built-in switch (script=vif-ringback): ping of every size, TCP both ways, a worker killed under it;
# a bridge that is none is an error of xl.
. /bed/product.sh
settings=/etc/ringback/netbackd.toml
cp "$settings" "$PWD/netbackd.toml"
at_exit cp "$PWD/netbackd.toml" "$settings"
sed -i 's/^#names = .*/names = "lan0"/' "$settings"
grep -q '^names = "lan0"' "$settings" || fail 'the settings have no place for a switch'
netback_start

on_switch='script=vif-ringback,bridge=lan0'
guest_start one kind=pv memory=384 tools=net vif="$on_switch,mac=00:16:3e:00:00:51"
guest_network one 2
guest_start two kind=pvh memory=384 vcpus=2 tools=net vif="$on_switch,mac=00:16:3e:00:00:52,ip=10.9.0.3 fd09::3"
guest_network two 3
[ ! -e "/sys/class/net/vif$(xl domid one).0" ] || fail 'a vif on the switch has a network device'
guest_run one 'ping -c 3 -W 5 10.9.0.3'
guest_run two 'ping -6 -c 3 -W 5 fd09::2'
guest_run two 'for size in 0 1 17 18 100 1472 1473 4000 9000 30000 65000; do ping -q -c 2 -W 5 -i 0.2 -s $size 10.9.0.2 || exit 1; done'
guest_run two 'for size in 0 1 100 1452 1453 9000 65000; do ping -6 -q -c 2 -W 5 -i 0.2 -s $size fd09::2 || exit 1; done'

guest_run one 'iperf3 -s -D'
guest_run -t 90 two 'iperf3 -c 10.9.0.2 -t 5' >"$results/to-pv"
guest_run -t 90 two 'iperf3 -c 10.9.0.2 -t 5 -R' >"$results/from-pv"
guest_run -t 90 two 'iperf3 -6 -c fd09::2 -t 5' >"$results/to-pv-v6"
grep -h receiver "$results"/*-pv* || fail 'iperf3 measured nothing'

guest_run two 'iperf3 -c 10.9.0.2 -t 30 >/tmp/stream 2>&1 </dev/null &'
worker() { systemctl show -p MainPID --value netback-worker; }
new_worker() { [ "$(worker)" != "$1" ] && [ "$(worker)" != 0 ]; }
for _ in 1 2; do
  nap 4
  old=$(worker)
  kill -KILL "$old"
  wait_until 15 'a new worker' new_worker "$old"
done
wait_until 60 'the end of the stream' guest_run two '! pidof iperf3 >/dev/null'
guest_run two 'cat /tmp/stream' >"$results/stream"
grep -q receiver "$results/stream" || fail "the stream broke: $(tail -n 1 "$results/stream")"

# The guest that was given addresses can use no other.
guest_run two 'ip address add 10.9.0.77/24 dev eth0'
assert_fails guest_run two 'ping -c 2 -W 2 -I 10.9.0.77 10.9.0.2'
assert_match "$output" ' 0 received' 'a ping from an address that was not given'
spoofed=$(ringback status --json | jq '[.[].vifs[].counters.switch.spoofed] | add')
[ "$spoofed" -ge 1 ] || fail "refused for their source: $spoofed"

ringback switch table lan0 | tee "$results/table"
assert_eq "$(grep -c configured "$results/table")" 2 'the addresses in the table'
assert_fails xl network-attach one script=vif-ringback bridge=nowhere mac=00:16:3e:00:00:53
assert_match "$output" 'script: .*there is no switch "nowhere"' 'what xl says'
guest_run one 'ping -c 1 -W 5 10.9.0.3'
guest_shutdown one
guest_shutdown two
