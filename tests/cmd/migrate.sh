#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# migrate: this exercises a migration as a job, without conversion: free space is left out, the report, verify, finish,
# discard, a changed source, the same line again.
. "$(dirname "$0")/../lib.sh"
requires jq qemu-img mkfs.ext4 sfdisk dd

# An MBR disk with one ext4 of 60 MiB: a file in it, and rubbish in its free space.
truncate -s 64M disk.raw
echo '2048,122880,L' | sfdisk -q disk.raw
truncate -s 60M part
mkfs.ext4 -q -d "$top/src/base" part 60M
dd if=part of=disk.raw bs=1M seek=1 conv=notrunc status=none
printf 'RUBBISH-IN-FREE-SPACE' | dd of=disk.raw bs=1M seek=50 conv=notrunc status=none
qemu-img convert -O qcow2 disk.raw disk.qcow2

is 0 "migrate" "$godwit" migrate disk.qcow2 dir:got --no-convert --name vm --verify full --json
jq -e '.state == "done" and .phase == "launch" and (.report.phases | length) == 8 and .report.disks[0].verified > 0' out > /dev/null
ok "the result as JSON has state, phases and figures"
[ -f got/vm.xml ] && [ -f got/vm-vda.raw ] && [ -f got/vm-vda.map ] && jq -e '.disks[0].digest' got/report.json > /dev/null
ok "the folder holds domain, replica, map and report"
dd if=got/vm-vda.raw bs=1M skip=1 count=60 of=copied status=none
e2fsck -fn copied > log 2>&1
ok "the file system on the replica is sound"
! grep -q RUBBISH-IN-FREE-SPACE got/vm-vda.raw
ok "free space is not copied"
jq -e '.report.disks[0] | .used < 32000000 and .read <= .used * 1.02' out > /dev/null
ok "not more than what is in use was read"

is 0 "the same line again" "$godwit" migrate disk.qcow2 dir:got --no-convert --name vm --verify full --json
has "done already" err "... says that the job is done"
is 3 "another machine of the same name in the same folder" "$godwit" migrate disk.raw dir:got --no-convert --name vm
is 0 "verify" "$godwit" verify 1 --json
jq -e '.verify == "full" and .mismatched == 0 and .verified > 0' out > /dev/null
ok "... says what was compared"
printf 'x' | dd of=got/vm-vda.raw bs=1 seek=1048700 conv=notrunc status=none
is 1 "verify finds one changed byte" "$godwit" verify 1
dd if=disk.raw of=got/vm-vda.raw bs=4k count=1 skip=256 seek=256 conv=notrunc status=none
touch -d yesterday disk.qcow2
is 0 "verify with a source that changed since" "$godwit" verify 1
has "with its map alone" err "... says so"

is 0 "status" "$godwit" status 1
has "copy" out "... has the phases"
is 0 "finish" "$godwit" finish 1
[ ! -e got/vm-vda.map ] && [ -f got/vm-vda.raw ]
ok "... forgets the map"
is 0 "finish again" "$godwit" finish 1
is 3 "verify of a finished job is refused" "$godwit" verify 1
echo keep > got/mine
touch got/..vm.godwit.AbCd12 got/.vm.xml.AbCd12 got/.report.json.AbCd12 # as a kill between writing and renaming leaves them
is 0 "discard" "$godwit" discard 1
[ "$(ls -A got)" = mine ]
ok "... removes the job's files and no other"
is 3 "discard again is refused" "$godwit" discard 1
[ -f disk.qcow2 ]
ok "the source is still there"

qemu-img create -q -f qcow2 large.qcow2 12T
is 0 "a disk of 12 TiB without data needs no room" "$godwit" migrate large.qcow2 dir:large --no-convert --quiet
is 0 "--all-blocks" "$godwit" migrate disk.raw dir:all --no-convert --all-blocks --quiet
cmp disk.raw all/disk-vda.raw
ok "... copies free space too"
is 0 "--format qcow2" "$godwit" migrate disk.raw dir:flat --no-convert --format qcow2 --quiet --all-blocks
qemu-img compare -q disk.raw flat/disk-vda.qcow2 && [ ! -e flat/disk-vda.raw ]
ok "... leaves one qcow2 file"
has "disk-vda.qcow2" flat/disk.xml "... which the domain names"

# A source that changes between two runs.
GODWIT_STOP_AFTER=copy "$godwit" migrate disk.raw dir:again --no-convert --all-blocks --quiet > /dev/null 2>&1
printf 'CHANGED' | dd of=disk.raw bs=1M seek=40 conv=notrunc status=none
is 0 "a source that changed after an interrupted run" "$godwit" migrate disk.raw dir:again --no-convert --all-blocks
has "copying it anew" err "... is copied anew"
cmp disk.raw again/disk-vda.raw
ok "... and the replica is the new one"
rm -rf again
is 0 "a done job whose disks were taken away" "$godwit" migrate disk.raw dir:again --no-convert --all-blocks --quiet
cmp disk.raw again/disk-vda.raw
ok "... is done anew"
done_testing
