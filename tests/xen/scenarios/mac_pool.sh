# SPDX-License-Identifier: Apache-2.0
# deadline: 420
# A guest made from a configuration that `macpool apply` filled in carries that address inside, and keeps it over reboot,
# save and restore; domids, xenstore and the stock bridge script agree with the pool.
modprobe --ignore-install xen-netback
at_exit modprobe -r xen-netback
ip link add xenbr0 type bridge
at_exit ip link del xenbr0
ip link set xenbr0 up
export RINGBACK_MAC_POOL=sqlite:$PWD/pool.db
macpool init

address_inside() { guest_run net 'cat /sys/class/net/eth0/address'; }

guest_config net kind=pv vif='bridge=xenbr0'
cp net.cfg before.cfg
macpool apply net.cfg
diff before.cfg net.cfg >changes || :
assert_eq "$(grep -c '^[<>]' changes)" 3 'lines that apply changed or added'
mac=$(sed -n "s/^vif = \[ 'mac=\([0-9a-f:]*\), bridge=xenbr0',  *\]$/\1/p" net.cfg)
assert_match "$mac" '^00:16:3e(:[0-9a-f]{2}){3}$' 'the address in the file'
uuid=$(sed -n 's/^uuid = "\(.*\)"$/\1/p' net.cfg)
cp net.cfg once.cfg
macpool apply net.cfg
cmp once.cfg net.cfg || fail 'a second apply changed the file'

guest_create net
guest_wait_ready net
assert_eq "$(address_inside)" "$mac" 'the address inside'
assert_eq "$(xl domid net)" "$(xl list | awk '$1 == "net" { print $2 }')"
# The running guest is the one of the file, by domid, name and UUID.
for who in "$(xl domid net)" net "$uuid"; do
  assert_eq "$(macpool allocate --guest "$who" --nic 0)" "$mac" "the address of guest $who"
done
macpool scan --xl net.cfg --xenstore --host
# A pool that knows nothing finds it in xenstore, and says so before it is told.
other="sqlite:$PWD/other.db"
macpool --pool "$other" init
assert_fails macpool --pool "$other" scan --xenstore
assert_match "$output" "unknown: $mac" 'the scan of a pool that does not know'
assert_match "$(macpool --pool "$other" import --xenstore)" '^1 addresses added'
assert_match "$(macpool --pool "$other" show "$mac")" "net \($uuid\) nic 0"

domid=$(xl domid net)
xl reboot net
guest_wait_ready net
[ "$(xl domid net)" != "$domid" ] || fail 'the guest was not rebooted'
assert_eq "$(address_inside)" "$mac" 'the address after a reboot'

xl save net net.save
wait_until 30 'the end of the saved domain' domain_gone net
xl restore net.save
assert_eq "$(address_inside)" "$mac" 'the address after save and restore'
assert_eq "$(macpool allocate --guest "$(xl domid net)" --nic 0)" "$mac"
guest_shutdown net

# A copy of the file is not another guest until somebody says so.
sed "s/^name = .*/name = 'copy'/" net.cfg >copy.cfg
assert_fails macpool apply copy.cfg
assert_match "$output" '--keep.*--new' 'what the refusal says'
macpool apply --new copy.cfg
! grep -q -e "$mac" -e "$uuid" copy.cfg || fail 'the copy kept an address or the UUID'
