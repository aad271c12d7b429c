# SPDX-License-Identifier: Apache-2.0
# deadline: 300
# Open vSwitch's kernel datapath, by the stock vif-openvswitch script; VLAN access ports keep guests apart.
. /bed/product.sh
netback_start
modprobe openvswitch
systemctl start openvswitch-switch
at_exit systemctl stop openvswitch-switch ovs-vswitchd ovsdb-server
ovs-vsctl --timeout=20 add-br ovs0
at_exit ovs-vsctl --timeout=20 del-br ovs0
ip link set ovs0 up
ip address add 10.9.0.1/24 dev ovs0
guest_start one kind=pvh memory=384 tools=net vif='bridge=ovs0,script=vif-openvswitch,mac=00:16:3e:00:00:31'
guest_start two kind=pv memory=384 tools=net vif='bridge=ovs0,script=vif-openvswitch,mac=00:16:3e:00:00:32'
guest_start tagged kind=pvh vif='bridge=ovs0.7,script=vif-openvswitch,mac=00:16:3e:00:00:33'
guest_network one 2
guest_network two 3
guest_run tagged 'ip link set eth0 up && ip address add 10.9.0.4/24 dev eth0'
guest_run one 'ping -c 3 -W 5 10.9.0.1'
guest_run two 'ping -c 3 -W 5 10.9.0.2'
if guest_run tagged 'ping -c 2 -W 2 10.9.0.1'; then fail 'a guest in VLAN 7 reaches the others'; fi
guest_run one 'iperf3 -s -D'
guest_run -t 60 two 'iperf3 -c 10.9.0.2 -t 5' >"$results/iperf3"
grep receiver "$results/iperf3"
for guest in one two tagged; do guest_shutdown $guest; done
assert_eq "$(ovs-vsctl --timeout=20 list-ports ovs0)" '' 'ports left in the switch'
