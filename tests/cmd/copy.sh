#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# copy: this exercises `godwit copy`: every format and odd sizes to raw, to qcow2, again, onto what is there, from what changed.
. "$(dirname "$0")/../lib.sh"
requires jq qemu-img qemu-nbd

# A known pattern in every 64 KiB block of the first part, holes in between.
dd if=/dev/urandom of=disk.raw bs=64K count=96 status=none
truncate -s 24M disk.raw
dd if=/dev/urandom of=disk.raw bs=64K count=32 seek=320 conv=notrunc status=none
for format in raw qcow2 vmdk vpc vhdx vdi; do
    case $format in
    raw) cp disk.raw src.raw ;;
    vpc) qemu-img convert -O vpc -o force_size=on disk.raw src.vpc ;;
    *) qemu-img convert -O $format disk.raw src.$format ;;
    esac
    is 0 "$format to raw" "$godwit" copy src.$format "from-$format.img" --quiet --verify full
    cmp disk.raw "from-$format.img"
    ok "... is exact"
done
qemu-img convert -O vmdk -o subformat=streamOptimized disk.raw stream.vmdk
is 0 "streamOptimized vmdk to raw" "$godwit" copy stream.vmdk stream.img --quiet
cmp disk.raw stream.img
ok "... is exact"
[ "$(stat -c %b from-qcow2.img)" -lt 18000 ]
ok "zeros take no room"

for size in 1 511 512 513 65535 65537 1000003; do
    dd if=/dev/urandom of=odd.raw bs=$size count=1 status=none
    rm -f odd.img odd.img.map
    "$godwit" copy odd.raw odd.img --source-format raw --quiet --verify full > out 2> err && cmp odd.raw odd.img
    ok "a disk of $size bytes"
done

is 0 "the same line again" "$godwit" copy src.qcow2 from-qcow2.img --json
jq -e '.complete_before and .read == 0 and .size == 25165824' out > /dev/null
ok "... reads nothing, and says so as JSON"
dd if=/dev/urandom of=src.raw bs=64K count=1 seek=2 conv=notrunc status=none
is 0 "from a source that changed it begins anew" "$godwit" copy src.raw from-raw.img --quiet
cmp src.raw from-raw.img
ok "... and is exact"
echo something > mine
is 3 "a target that godwit did not make is refused" "$godwit" copy disk.raw mine
[ "$(cat mine)" = something ]
ok "... and not touched"
rm from-vdi.img
echo something > from-vdi.img
is 3 "... nor one that replaced a copy" "$godwit" copy src.vdi from-vdi.img
[ "$(cat from-vdi.img)" = something ]
ok "... which is not touched either"
is 2 "a disk onto itself is refused" "$godwit" copy disk.raw disk.raw
is 0 "--map says where the map is" "$godwit" copy disk.raw other.img --map here.map --quiet
[ -f here.map ] && [ ! -e other.img.map ]
ok "... and there it is"
printf 'x' | dd of=other.img bs=1 seek=100 conv=notrunc status=none
is 1 "--verify full finds one changed byte" "$godwit" copy disk.raw other.img --map here.map --quiet --verify full

is 0 "to qcow2" "$godwit" copy stream.vmdk out.qcow2 --quiet --verify full
qemu-img compare -q disk.raw out.qcow2
ok "... is exact"
is 3 "to a qcow2 that is there" "$godwit" copy stream.vmdk out.qcow2
qemu-img snapshot -c before src.qcow2
qemu-io -c 'write -q -P 7 0 64k' src.qcow2
is 0 "an internal snapshot by name" "$godwit" copy src.qcow2 snap.img --snapshot before --quiet
cmp disk.raw snap.img
ok "... is what the disk was"

start=$(date +%s%3N)
"$godwit" copy disk.raw rated.img --rate 4M --quiet > /dev/null
took=$(($(date +%s%3N) - start))
[ $took -gt 1200 ] && [ $took -lt 8000 ]
ok "--rate 4M makes 8 MiB take about two seconds ($took ms)"
"$godwit" copy disk.raw plain.img --rate 1M > /dev/null 2> err
grep -q 'of 24.0 MiB .*[KM]iB/s .* left' err && ! grep -q "$(printf '\r')" err
ok "progress is plain lines where there is no terminal"
done_testing
