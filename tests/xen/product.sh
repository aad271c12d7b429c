# SPDX-License-Identifier: Apache-2.0
#
# What the scenarios of the disk backend share: our daemon or the kernel's own backend, one at a time. Sourced by a
# scenario that wants them: . /bed/product.sh

# The kernel's backend gone, ours up and ready.
ringback_start() {
  modprobe -r xen-blkback 2>/dev/null || :
  [ ! -d /sys/module/xen_blkback ] || fail "xen-blkback is loaded and does not go"
  systemctl start blkbackd || { journalctl -u blkbackd --no-pager -n 30 >&2; fail "blkbackd does not start"; }
  at_exit ringback_stop
}

ringback_stop() {
  systemctl stop blkbackd
  journalctl -u 'blkbackd*' -u 'blkback-worker@*' --no-pager -o short-monotonic >"$results/journal" 2>/dev/null || :
}

# The other way round, for comparisons.
kernel_blkback_start() {
  modprobe --ignore-install xen-blkback
  at_exit modprobe -r xen-blkback
}

# our_disk IMAGE [VDEV [ACCESS]]: an xl disk line served by us.
our_disk() { echo "format=raw,vdev=${2:-xvda},access=${3:-rw},script=block-ringback,target=$1"; }

# A tree of files with contents that can be checked, on an ext4 of its own; then unmounted, checked, mounted again and
# compared. Runs in the guest; $1 is the device.
guest_tree_survives() {
  guest_run -t 150 "$1" "
    set -e
    mkfs.ext4 -q $2
    mkdir -p /mnt; mount -t ext4 $2 /mnt
    for d in a b c d; do
      mkdir /mnt/\$d
      for f in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/mnt/\$d/\$f bs=8191 count=\$((f * 3)) 2>/dev/null; done
    done
    (cd /mnt && find . -type f | sort | xargs sha256sum) >/tmp/sums
    umount /mnt
    fsck.ext4 -fn $2
    echo 3 >/proc/sys/vm/drop_caches
    mount -t ext4 $2 /mnt
    (cd /mnt && sha256sum -c --quiet /tmp/sums)
    test \$(wc -l </tmp/sums) = 32
    umount /mnt"
}

# --- Virtual NICs ---

# The kernel's backend gone, ours up and ready.
netback_start() {
  modprobe -r xen-netback 2>/dev/null || :
  [ ! -d /sys/module/xen_netback ] || fail "xen-netback is loaded and does not go"
  systemctl start netbackd || { journalctl -u netbackd --no-pager -n 30 >&2; fail "netbackd does not start"; }
  at_exit netback_stop
}

netback_stop() {
  systemctl stop netbackd netback-worker
  journalctl -u netbackd -u netback-worker --no-pager -o short-monotonic >"$results/journal.net" 2>/dev/null || :
}

# bridge_start NAME [MTU]: a Linux bridge in the dom0 with an address of its own: 10.9.0.1/24 and fd09::1/64.
bridge_start() {
  ip link add name "$1" type bridge stp_state 0 forward_delay 0
  at_exit ip link delete "$1"
  ip link set "$1" mtu "${2:-1500}" up
  ip address add 10.9.0.1/24 dev "$1"
  ip address add fd09::1/64 dev "$1" nodad
}

# guest_network GUEST NUMBER [INTERFACE]: 10.9.0.NUMBER/24 and fd09::NUMBER/64.
guest_network() {
  guest_run "$1" "ip link set ${3:-eth0} up && ip address add 10.9.0.$2/24 dev ${3:-eth0} &&
    ip address add fd09::$2/64 dev ${3:-eth0} nodad"
}
