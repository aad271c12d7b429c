# SPDX-License-Identifier: Apache-2.0
# deadline: 420
# fio writes random sizes at random offsets and verifies every block, at queue depth 32 over two queues, with
# persistent grants and without, with indirect requests and larger rings.
. /bed/product.sh
ringback_start
for persistent in 1 0; do
  rm -f disk.img
  truncate -s 64M disk.img
  guest_start verify kind=pvh vcpus=2 memory=384 tools=fio disk="$(our_disk "$PWD/disk.img")" \
    cmdline="xen_blkfront.max_queues=2 xen_blkfront.max_ring_page_order=$((1 - persistent)) xen_blkfront.max_indirect_segments=64 xen_blkfront.feature_persistent=$persistent"
  front=/local/domain/$(xl domid verify)/device/vbd/51712
  assert_eq "$(xenstore-read "$front/multi-queue-num-queues")" 2 'queues'
  assert_eq "$(xenstore-read "$front/feature-persistent" 2>/dev/null || echo 0)" $persistent 'persistent grants'
  guest_run -t 170 verify 'fio --name=v --filename=/dev/xvda --direct=1 --ioengine=libaio --iodepth=16 --numjobs=2 \
    --offset_increment=32m --size=32m --io_size=24m --rw=randrw --rwmixwrite=70 --bsrange=512-256k --bs_unaligned=0 --blockalign=512 \
    --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting --output-format=terse --terse-version=3' >fio.out || {
    cat fio.out >&2
    fail "fio, persistent=$persistent"
  }
  ringback status --json >"$results/status-$persistent.json"
  guest_shutdown verify
done
