# SPDX-License-Identifier: Apache-2.0
#
# Makes what the bed boots: the dom0 (hypervisor, kernel, ramdisk, root file system) and the ramdisks
# of the guests, out of one tree of Debian packages.
#
# Both ramdisks are ours and minimal: under software emulation every second of a distribution's
# ramdisk counts, and the dom0's own one can put the product in place before systemd reads a unit.

dom0_packages() {
  cat <<END
linux-image-amd64 xen-hypervisor-$xen_version-amd64 xen-utils-$xen_version xenstore-utils qemu-system-xen
systemd-sysv udev kmod iproute2 iputils-ping procps psmisc strace jq attr less zstd busybox-static xz-utils
liburing2 zlib1g libzstd1 libseccomp2 libcap-ng0 libsystemd0 libsqlite3-0 $runtime_libraries
lvm2 thin-provisioning-tools dmsetup e2fsprogs util-linux fdisk parted gdisk fio nbdkit libnbd-bin qemu-utils
libnl-3-200 libnl-route-3-200 iperf3 ethtool tcpdump openvswitch-switch openvswitch-switch-dpdk
END
}

build_dom0() {
  local tree=$1/tree kernel unit
  cp -a --reflink=auto "$base_tree" "$tree"
  # No initramfs-tools: the bed makes the ramdisk itself.
  # shellcheck disable=SC2046
  install_packages "$tree" $(dom0_packages)
  kernel=$(basename "$(echo "$tree"/lib/modules/*)")
  cp "$tree/boot/vmlinuz-$kernel" "$1/vmlinuz"
  gunzip -c "$tree/boot/xen-$xen_version-amd64.gz" >"$1/xen"
  echo "$kernel" >"$1/kernel-version"
  extract_elf "$1/vmlinuz" >"$tree/boot/guest-kernel"

  echo dom0 >"$tree/etc/hostname"
  echo '127.0.0.1 localhost dom0' >"$tree/etc/hosts"
  in_tree "$tree" passwd -d root
  # A scenario that wants it starts it.
  in_tree "$tree" systemctl disable openvswitch-switch.service
  rm -f "$tree/usr/sbin/policy-rc.d"
  mkdir -p "$tree/bed"
  # A getty on hvc0 hangs up whatever else writes there; the timers would only disturb measurements.
  for unit in serial-getty@hvc0 getty@tty1 getty-static systemd-timesyncd apt-daily.timer apt-daily-upgrade.timer \
      dpkg-db-backup.timer e2scrub_all.timer fstrim.timer e2scrub_reap systemd-pstore xendomains \
      systemd-networkd-wait-online; do
    [[ $unit == *.timer ]] || unit=$unit.service
    ln -sfn /dev/null "$tree/etc/systemd/system/$unit"
  done
  sed -i 's/^#*XENCONSOLED_ARGS=.*/XENCONSOLED_ARGS="--log=guest"/' "$tree/etc/default/xen"
  grep -q '^XENCONSOLED_ARGS' "$tree/etc/default/xen" || echo 'XENCONSOLED_ARGS="--log=guest"' >>"$tree/etc/default/xen"
  mkdir -p "$tree/var/log/xen/console"
  printf 'autoballoon="off"\n' >"$tree/etc/xen/xl.conf"
  cat >"$tree/etc/systemd/system/bed.service" <<'END'
[Unit]
Description=Test bed: runs what the host asks for
After=xen.service network.target
Wants=xen.service

[Service]
ExecStart=/bin/bash /bed/dom0/agent
KillMode=process
END
  ln -s ../bed.service "$tree/etc/systemd/system/multi-user.target.wants/bed.service"

  make_ramdisk "$tree" "$1/initrd" "$bed_dir/dom0/init" 'virtio_pci virtio_blk ext4 9p 9pnet_virtio' ''
  # So that systemd's first-boot services find nothing to do; the ramdisk runs those that a product may need.
  touch "$tree/etc/.updated" "$tree/var/.updated"
  mke2fs -q -t ext4 -O ^metadata_csum_seed -L dom0 -d "$tree" "$1/dom0.img" 12G
}

# extract_elf BZIMAGE: Xen's domain builder takes the bare kernel too, and in the bed unpacking the compressed
# one for each guest would cost more than anything else in its start.
extract_elf() {
  local magic tool offset
  while read -r magic tool; do
    for offset in $(LC_ALL=C grep -abo -P "$magic" "$1" | cut -d: -f1); do
      tail -c "+$((offset + 1))" "$1" | $tool 2>/dev/null >"$1.elf" || true
      [ "$(head -c 4 "$1.elf" | tail -c 3)" = ELF ] || continue
      cat "$1.elf"
      rm "$1.elf"
      return 0
    done
  done <<'END'
\x28\xb5\x2f\xfd zstd -dc
\xfd7zXZ\x00 xz -dc --single-stream
\x1f\x8b\x08 gunzip -c
END
  echo "no kernel found in $1"
  return 1
}

# make_ramdisk TREE OUTPUT INIT MODULES COMMANDS [FILE...]: busybox, INIT as /init, these modules and these commands of
# TREE with all they need. Without INIT it is an addition to another ramdisk and holds the commands only.
make_ramdisk() {
  local tree=$1 output=$2 init=$3 modules=$4 commands=$5 files="${*:6}" root kernel module line file
  root=$(mktemp -d)
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
  for file in bin sbin lib lib64; do ln -s usr/$file "$root/$file"; done
  if [ -n "$init" ]; then
    mkdir -p "$root"/{bb,dev,proc,sys,tmp,run,mnt,etc,root,var/log}
    cp "$tree/bin/busybox" "$root/bb/busybox"
    for file in $(in_tree "$tree" /bin/busybox --list); do
      [ "$file" = busybox ] || ln -s busybox "$root/bb/$file"
    done
    ln -s /bb/sh "$root/bin/sh"
    ln -s /bb/modprobe "$root/sbin/modprobe"
    install -m 755 "$init" "$root/init"
  fi
  # Paths keep the tree's own place for libraries, so that the loader finds them without a cache.
  for file in $commands; do
    file=$(in_tree "$tree" /bin/sh -c "command -v $file")
    cp -L "$tree$file" "$root/usr/bin/"
    in_tree "$tree" ldd "$file" | grep -o '/[^ ]*' | while read -r line; do
      mkdir -p "$root$(dirname "$line")"
      cp -nL "$tree$line" "$root$line"
    done
  done
  for file in $files; do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$tree$file" "$root$file"
  done
  if [ -n "$modules" ]; then
    kernel=$(basename "$(echo "$tree"/lib/modules/*)")
    mkdir -p "$root/lib/modules/$kernel"
    cp "$tree/lib/modules/$kernel"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$kernel"
    for module in $modules; do
      in_tree "$tree" modprobe -S "$kernel" --show-depends "$module"
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | while read -r file; do
      # Unpacked here once, and not in each start of a guest.
      case $file in
        *.xz) xz -dc "$tree$file" >"$root/lib/modules/$kernel/$(basename "$file" .xz)" ;;
        *) cp "$tree$file" "$root/lib/modules/$kernel" ;;
      esac
    done
    depmod -b "$root" "$kernel" 2>/dev/null
    rm -f "$root/lib/modules/$kernel"/*.bin
  fi
  (cd "$root" && find . | cpio --quiet -o -H newc) >"$output"
  rm -rf "$root"
}

build_guest() {
  make_ramdisk "$dom0/tree" "$1/ramdisk" "$bed_dir/guest/init" \
    'xen-blkfront xen-netfront ext4 xenfs xen-gntalloc xen-gntdev xen-evtchn' \
    'mkfs.ext4 fsck.ext4 resize2fs tune2fs dumpe2fs fstrim lsblk blkdiscard blockdev sfdisk sha256sum dd
     sync truncate stat flock dash xenstore-read xenstore-write xenstore-ls xenstore-watch xenstore-rm'
  make_ramdisk "$dom0/tree" "$1/fio" '' '' fio
  # The C library loads libgcc_s by name, for a thread that is cancelled.
  make_ramdisk "$dom0/tree" "$1/net" '' '' 'iperf3 ethtool tcpdump ip ping' /usr/lib/x86_64-linux-gnu/libgcc_s.so.1
}

# Sets `dom0` and `guest`, the directories of the cache that the bed boots from.
images() {
  require depmod:kmod debootstrap:debootstrap mke2fs:e2fsprogs cpio:cpio zstd:zstd xz:xz-utils
  base
  cached "dom0-$release-$(recipe_key host.sh image.sh dom0/init)" build_dom0
  dom0=$item
  cached "guest-$release-$(recipe_key host.sh image.sh dom0/init guest/init)" build_guest
  guest=$item
}
