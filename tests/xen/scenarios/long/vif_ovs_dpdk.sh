# SPDX-License-Identifier: Apache-2.0
# deadline: 600
# PV and PVH guests on an Open vSwitch with DPDK, without huge pages (a PV dom0 has none): ping of every size, TCP both ways, the
# worker, netbackd and Open vSwitch killed; VLAN access ports; what cannot be served is refused by xl; nothing is left.
#
# Open vSwitch's polling thread takes one of the dom0's two emulated CPUs, so nothing here says how fast anything is.
. /bed/product.sh
vswitchd=/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk
[ -x $vswitchd ] || fail 'the dom0 has no openvswitch-switch-dpdk'
ovs=$PWD/ovs
mkdir "$ovs"
export OVS_RUNDIR=$ovs OVS_DBDIR=$ovs OVS_LOGDIR=$ovs OVS_SYSCONFDIR=$ovs
vsctl() { ovs-vsctl --db="unix:$ovs/db.sock" --timeout=30 "$@"; }
end_by() { if [ -s "$1" ]; then kill -KILL "$(cat "$1")" 2>/dev/null || :; fi; }
ovsdb-tool create "$ovs/conf.db" /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server "$ovs/conf.db" --remote="punix:$ovs/db.sock" --no-chdir --unixctl="$ovs/db.ctl" --pidfile="$ovs/db.pid" --detach \
  -vconsole:off --log-file="$results/ovsdb.log"
at_exit end_by "$ovs/db.pid"
vsctl --no-wait init

settings=/etc/ringback/netbackd.toml
cp "$settings" "$PWD/netbackd.toml"
at_exit cp "$PWD/netbackd.toml" "$settings"
sed -i "s|^#bridges = .*|bridges = \"br0 kernel0\"|; s|^#database = .*|database = \"unix:$ovs/db.sock\"|" "$settings"
grep -q '^bridges = ' "$settings" || fail 'the settings have no place for Open vSwitch'
netback_start
on_ovs='script=vif-ringback,bridge=br0'

# ovs-vswitchd does not run, and then runs without DPDK: both are said at once, by xl.
guest_start one kind=pvh memory=384 tools=net
assert_fails xl network-attach one script=vif-ringback bridge=br0 mac=00:16:3e:00:00:70
assert_match "$output" 'Open vSwitch' 'what xl says without ovs-vswitchd'
xl network-detach one 0 2>/dev/null || :
guest_shutdown one

start_vswitchd() {
  rm -f "$ovs/vswitchd.pid"
  $vswitchd "unix:$ovs/db.sock" --no-chdir --unixctl="$ovs/vswitchd.ctl" --pidfile="$ovs/vswitchd.pid" --detach -vconsole:off \
    --log-file="$results/vswitchd.log"
}
vsctl --no-wait set Open_vSwitch . other_config:dpdk-init=true other_config:per-port-memory=true \
  'other_config:dpdk-extra=--no-pci --no-huge --legacy-mem -m 256'
start_vswitchd
at_exit end_by "$ovs/vswitchd.pid"
vsctl add-br br0 -- set Bridge br0 datapath_type=netdev

guest_start one kind=pv memory=384 tools=net vif="$on_ovs,mac=00:16:3e:00:00:71"
guest_start two kind=pvh memory=384 vcpus=2 tools=net vif="$on_ovs,mac=00:16:3e:00:00:72"
guest_start tagged kind=pvh vif="script=vif-ringback,bridge=br0.7,mac=00:16:3e:00:00:73"
guest_network one 2
guest_network two 3
guest_run tagged 'ip link set eth0 up && ip address add 10.9.0.4/24 dev eth0'
wait_until 30 'the first packet' guest_run two 'ping -c 1 -W 1 10.9.0.2'
guest_run one 'ping -6 -c 3 -W 5 fd09::3'
guest_run two 'for size in 0 1 100 1472 1473 9000 65000; do ping -q -c 2 -W 5 -i 0.2 -s $size 10.9.0.2 || exit 1; done'
if guest_run tagged 'ping -c 2 -W 2 10.9.0.2'; then fail 'a guest in VLAN 7 reaches the others'; fi
guest_run one 'iperf3 -s -D'
guest_run -t 90 two 'iperf3 -c 10.9.0.2 -t 5' >"$results/to-pv"
guest_run -t 90 two 'iperf3 -c 10.9.0.2 -t 5 -R' >"$results/from-pv"
grep -h receiver "$results"/*-pv || fail 'iperf3 measured nothing'

# A bridge that is none.
assert_fails xl network-attach one script=vif-ringback bridge=kernel0 mac=00:16:3e:00:00:74
assert_match "$output" 'kernel0' 'what xl says of a bridge that is none'
xl network-detach one 1 2>/dev/null || :

guest_run two 'iperf3 -c 10.9.0.2 -t 60 >/tmp/stream 2>&1 </dev/null &'
pid_of() { systemctl show -p MainPID --value "$1"; }
new_one() { [ "$(pid_of "$1")" != "$2" ] && [ "$(pid_of "$1")" != 0 ]; }
for what in netback-worker netbackd netback-worker; do
  nap 3
  old=$(pid_of $what)
  kill -KILL "$old"
  wait_until 20 "a new $what" new_one $what "$old"
  wait_until 30 "the guest to be reached after the death of $what" guest_run two 'ping -c 1 -W 1 10.9.0.2'
done
end_by "$ovs/vswitchd.pid"
nap 2
start_vswitchd
wait_until 60 'the guest to be reached after the death of Open vSwitch' guest_run two 'ping -c 1 -W 1 10.9.0.2'
wait_until 120 'the end of the stream' guest_run two '! pidof iperf3 >/dev/null'
guest_run two 'cat /tmp/stream' >"$results/stream"
grep -q receiver "$results/stream" || fail "the stream broke: $(tail -n 1 "$results/stream")"

for guest in one two tagged; do guest_shutdown $guest; done
no_ports() { [ -z "$(vsctl list-ports br0)" ]; }
wait_until 20 'the ports to go' no_ports
