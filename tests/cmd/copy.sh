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

qemu-img snapshot -c before src.qcow2
qemu-io -c 'write -q -P 7 0 64k' src.qcow2
is 0 "an internal snapshot by name" "$godwit" copy src.qcow2 snap.img --snapshot before --quiet
cmp disk.raw snap.img
ok "... is what the disk was"
is 0 "... and to qcow2" "$godwit" copy src.qcow2 snap.qcow2 --snapshot before --quiet
qemu-img compare -q disk.raw snap.qcow2
ok "... is what the disk was too"

# To qcow2: the same engine, through a qemu-nbd that writes.
is 0 "to qcow2" "$godwit" copy stream.vmdk out.qcow2 --quiet --verify full --json
qemu-img compare -q disk.raw out.qcow2
ok "... is exact"
digest=$(jq -r .digest out)
"$godwit" copy stream.vmdk stream.img --json > out
[ -n "$digest" ] && [ "$digest" = "$(jq -r .digest out)" ]
ok "... has the digest of the raw copy"
[ "$(qemu-img check --output=json out.qcow2 | jq '."allocated-clusters"')" = 128 ] && [ "$(stat -c %b out.qcow2)" -lt 18000 ]
ok "... holes stay clusters that are not there"
[ "$(stat -c %a out.qcow2)" = 600 ] && [ -z "$(find . -name '*part*')" ]
ok "... is its owner's alone, and nothing else is left"
is 0 "the same line again" "$godwit" copy stream.vmdk out.qcow2 --json
jq -e '.complete_before and .read == 0 and .digest == "'"$digest"'"' out > /dev/null
ok "... reads nothing"
for size in 1 65537 1000003; do
    dd if=/dev/urandom of=odd.raw bs=$size count=1 status=none
    is 0 "a disk of $size bytes to qcow2" "$godwit" copy odd.raw odd.qcow2 --source-format raw --quiet --verify full
    qemu-img compare -q -f raw odd.raw odd.qcow2
    ok "... is exact, from a source that changed too"
done
qemu-io -c 'write -q -P 0x55 1000000 1' out.qcow2
is 1 "--verify full finds one changed byte in a qcow2" "$godwit" copy stream.vmdk out.qcow2 --quiet --verify full
qemu-img create -q -f qcow2 mine.qcow2 24M
sum=$(md5sum < mine.qcow2)
is 3 "a qcow2 that godwit did not make is refused" "$godwit" copy disk.raw mine.qcow2
[ "$(md5sum < mine.qcow2)" = "$sum" ] && [ ! -e mine.qcow2.map ]
ok "... and not touched"
"$godwit" copy disk.raw both.img --quiet > /dev/null
is 0 "a raw copy becomes a qcow2 one" "$godwit" copy disk.raw both.img --format qcow2 --quiet
qemu-img compare -q -f raw -F qcow2 disk.raw both.img
ok "... exactly"
truncate -s 32M loop.img
if loop=$(losetup -f --show loop.img 2> /dev/null); then
    cleanup "losetup -d $loop"
    is 3 "qcow2 onto a device is refused" "$godwit" copy disk.raw "$loop" --format qcow2
    is 0 "raw onto a device that is larger" "$godwit" copy disk.raw "$loop" --quiet --verify full
    cmp -n 25165824 disk.raw "$loop"
    ok "... is exact"
else
    skip "onto a device" "there is no loop device here"
fi

dd if=/dev/urandom of=big.raw bs=1M count=48 status=none
half() { # SIGNAL: a copy to half.qcow2, ended by it (NBD: its qemu-nbd was killed) after about a third
    rm -f half.qcow2 half.qcow2.map
    "$godwit" copy big.raw half.qcow2 --rate 24M --quiet > out 2> err &
    pid=$!
    for _ in $(seq 200); do
        sleep 0.05
        [ "$(stat -c %b half.qcow2 2> /dev/null || echo 0)" -lt 36000 ] || break
    done
    case $1 in
    NBD) kill -9 "$(cat /proc/$pid/task/$pid/children)" ;;
    *) kill -"$1" $pid ;;
    esac
    wait $pid
}
half INT
[ $? = 4 ] && qemu-img check -q half.qcow2 > check 2>&1 && [ ! -s check ]
ok "Ctrl-C ends with 4 and leaves a sound qcow2"
had=$(($(stat -c %b half.qcow2) * 512))
is 0 "... the same line goes on" "$godwit" copy big.raw half.qcow2 --json --verify full
resumed=$(jq .resumed out)
[ "$resumed" -gt 0 ] && [ $((had - resumed)) -le 17000000 ] && qemu-img compare -q big.raw half.qcow2
ok "... sends again what was in flight at most ($(((had - resumed) / 1024)) KiB), and is exact"
half NBD
[ $? = 5 ]
ok "a qemu-nbd that ends is 5: a retry may help"
has "the qemu-nbd that writes half.qcow2 ended" err "... and is named"
is 0 "... the same line goes on" "$godwit" copy big.raw half.qcow2 --json --verify full
[ "$(qemu-img check --output=json half.qcow2 | jq '[.leaks, .corruptions // 0]' -c)" = '[null,0]' ] && qemu-img compare -q big.raw half.qcow2
ok "... and is exact, no cluster lost"
half KILL 2> /dev/null
dd if=/dev/urandom of=half.qcow2 bs=64K seek=1 count=1 conv=notrunc status=none
sum=$(md5sum < half.qcow2)
is 3 "a damaged half of a qcow2 is refused" "$godwit" copy big.raw half.qcow2
has "half.qcow2" err "... and named"
[ "$(md5sum < half.qcow2)" = "$sum" ]
ok "... and not touched"
if mkdir full && mount -t tmpfs -o size=16M none full 2> /dev/null; then
    cleanup "umount $work/full"
    is 1 "to qcow2 on a file system without room" "$godwit" copy big.raw full/x.qcow2
    has "x.qcow2: write of" err "... says what could not be written"
    has "No space left on device" err "... and why"
    mount -o remount,size=64M full
    is 0 "... with room again it goes on" "$godwit" copy big.raw full/x.qcow2 --quiet --verify full
    qemu-img compare -q big.raw full/x.qcow2 && [ "$(ls -A full | wc -l)" = 2 ]
    ok "... and is exact"
else
    skip "a full file system" "mounting is not allowed here"
fi

start=$(date +%s%3N)
"$godwit" copy disk.raw rated.img --rate 4M --quiet > /dev/null
took=$(($(date +%s%3N) - start))
[ $took -gt 1200 ] && [ $took -lt 8000 ]
ok "--rate 4M makes 8 MiB take about two seconds ($took ms)"
"$godwit" copy disk.raw plain.img --rate 1M > /dev/null 2> err
grep -q 'of 24.0 MiB .*[KM]iB/s .* left' err && ! grep -q "$(printf '\r')" err
ok "progress is plain lines where there is no terminal"
done_testing
