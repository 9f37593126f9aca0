#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# info: this exercises `godwit info` without the appliance: the table, JSON, partitions, use.
. "$(dirname "$0")/../lib.sh"
requires jq qemu-img mkfs.ext4 sfdisk

truncate -s 64M disk.raw
printf 'label: gpt\n2048,8192,U\n10240,102400,L\n' | sfdisk -q disk.raw
truncate -s 50M part
mkfs.ext4 -q -L rootfs -U 6ab5e1cc-9f0a-4dd5-8f2c-000000000001 -d "$top/src/base" part 50M
dd if=part of=disk.raw bs=512 seek=10240 conv=notrunc status=none
qemu-img convert -O vmdk disk.raw disk.vmdk
cp disk.vmdk before

is 0 "info" "$godwit" info disk.vmdk --no-guest
for text in vmdk "64.0 MiB" ext4 rootfs 6ab5e1cc-9f0a-4dd5-8f2c-000000000001 "partition 1" "EFI"; do
    has "$text" out "the table has \"$text\""
done
is 0 "info --json" "$godwit" info disk.vmdk --no-guest --json
jq -e '.disks[0].format == "vmdk" and .disks[0].size == 67108864 and .disks[0].used < 30000000 and .guest == null and
    ([.allocation.volumes[] | select(.content == "ext4")] | length) == 1' out > /dev/null
ok "JSON has format, size, use and volumes"
cmp disk.vmdk before
ok "the disk is not changed"
is 0 "two disks as one machine" "$godwit" info disk.vmdk disk.raw --no-guest --json
jq -e '.disks | length == 2' out > /dev/null
ok "... are two disks"
GODWIT_APPLIANCE=/nonexistent "$godwit" info disk.vmdk > out 2> err
[ $? = 0 ] && grep -q "was not looked at" err && grep -q ext4 out
ok "without an appliance the rest is told, and why the guest is not"
done_testing
