#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bad input: this exercises what must be refused: one line that says why, the exit code of the documents, nothing half made.
. "$(dirname "$0")/../lib.sh"
requires jq qemu-img qemu-io mkfs.ext4 mkswap

# The appliance is not reached by any of these: refusals come first.
refused() { # CODE TEXT NAME COMMAND…
    code=$1 text=$2 name=$3
    shift 3
    "$@" > out 2> err
    got=$?
    [ $got = "$code" ] && grep -qi -- "$text" err && [ "$(grep -c '^godwit: ' err)" -ge 1 ] && [ "$(grep -vc '^godwit: job\|^warning' err)" = 1 ] &&
        [ ! -e dst ] && [ ! -e dst.map ] && [ -z "$(ls -A target 2> /dev/null)" ]
    ok "$name: $code, \"$text\""
    if [ $got != "$code" ] || ! grep -qi -- "$text" err || [ -e dst ] || [ -e dst.map ] || [ -e target ]; then
        echo "#   ended with $got; left: $(ls -A dst dst.map target 2> /dev/null | tr '\n' ' ')"
        sed 's/^/#   err: /' err
    fi
    rm -rf dst dst.map target
}
migrate() { "$godwit" migrate "$1" dir:target --quiet --no-convert; }
copy() { "$godwit" copy "$1" dst --quiet; }

dd if=/dev/urandom of=good.raw bs=1M count=8 status=none
for format in qcow2 vmdk vhdx vdi vpc; do
    qemu-img convert -O $format good.raw good.$format
    size=$(stat -c %s good.$format)
    head -c 300 good.$format > cut.$format
    refused 3 "cut.$format" "a $format cut to 300 bytes" copy cut.$format
    head -c $((size * 2 / 3)) good.$format > short.$format
    # vpc keeps its footer at the end: without it the file is a raw disk by right.
    case $format in
    vpc) ;;
    *) refused 3 "short.$format" "a truncated $format" copy short.$format ;;
    esac
done
head -c -1 good.qcow2 > short.qcow2
refused 3 truncated "a qcow2 that lacks its last byte" copy short.qcow2
qemu-img convert -O vmdk -o subformat=streamOptimized good.raw stream.vmdk
cp stream.vmdk corrupt.vmdk
dd if=/dev/urandom of=corrupt.vmdk bs=1k seek=4096 count=64 conv=notrunc status=none
"$godwit" info corrupt.vmdk --no-guest > out 2> err || is 1 "a corrupt streamOptimized vmdk" "$godwit" copy corrupt.vmdk dst --quiet
has "corrupt or truncated" err "... is said to be corrupt"
rm -f dst dst.map
cp good.qcow2 corrupt.qcow2
dd if=/dev/urandom of=corrupt.qcow2 bs=1k seek=64 count=64 conv=notrunc status=none
refused 3 corrupt.qcow2 "a corrupt qcow2" copy corrupt.qcow2
cp good.qcow2 absurd.qcow2
printf '\177\377\377\377\377\377\377\000' | dd of=absurd.qcow2 bs=1 seek=24 conv=notrunc status=none
refused 3 absurd.qcow2 "a qcow2 with an absurd size" copy absurd.qcow2
: > empty.raw
refused 3 "empty.raw" "an empty file" copy empty.raw
refused 1 "missing.qcow2" "a source that is not there" copy missing.qcow2

mkdir sub
qemu-img convert -O qcow2 good.raw sub/base.qcow2
(cd sub && qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 && qemu-img create -q -f qcow2 -u -b gone.qcow2 -F qcow2 orphan.qcow2 8M)
qemu-img create -q -f qcow2 -b "$work/good.qcow2" -F qcow2 sub/outside.qcow2
"$godwit" copy sub/top.qcow2 chain.img --quiet > /dev/null && cmp good.raw chain.img
ok "a backing file in the same folder is read"
refused 3 gone "a backing file that is missing" copy sub/orphan.qcow2
refused 3 allow-path "a backing file outside the source's folder" copy sub/outside.qcow2
is 0 "... which --allow-path allows" "$godwit" copy sub/outside.qcow2 allowed.img --allow-path --quiet

cat > vm.vmx << 'EOF'
.encoding = "UTF-8"
displayName = "vm"
scsi0.present = "TRUE"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "not-there.vmdk"
EOF
refused 3 not-there.vmdk "a VMX naming a disk that is not there" migrate vm.vmx
mkdir ova
cat > ova/vm.ovf << 'EOF'
<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References><File ovf:href="../../good.vmdk" ovf:id="f1"/></References>
<DiskSection><Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="8388608"/></DiskSection>
<VirtualSystem ovf:id="vm"><VirtualHardwareSection>
<Item><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>ovf:/disk/d1</rasd:HostResource><rasd:InstanceID>1</rasd:InstanceID></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>
EOF
tar -C ova -cf evil.ova vm.ovf
refused 3 "" "an OVA with ../ in a path" migrate evil.ova

printf 'root:x:0:0\n' > ova/disk.vmdk
sed 's|../../good.vmdk|disk.vmdk|' ova/vm.ovf > ova/named.ovf
tar -C ova -cf text.ova named.ovf disk.vmdk
refused 3 VMDK "an OVA whose .vmdk is none" migrate text.ova
qemu-img create -q -f qcow2 ova/odd.qcow2 8M
sed 's|../../good.vmdk|odd.qcow2|' ova/vm.ovf > ova/odd.ovf
tar -C ova -cf odd.ova odd.ovf odd.qcow2
[ $(($(stat -c %s ova/odd.qcow2) % 512)) != 0 ] && is 0 "... and one with a disk whose length is no whole sectors is read" "$godwit" info odd.ova --no-guest

# An image that a QEMU has open for writing.
mkfifo hold
qemu-io -f qcow2 good.qcow2 < hold > holder.out 2>&1 &
holder=$!
cleanup "kill $holder 2> /dev/null"
exec 9> hold
echo 'write 0 64k' >&9
# Its own word that it writes: asking with qemu-img could take the lock from it.
i=0
until grep -q wrote holder.out || [ $i -gt 300 ]; do sleep 0.1; i=$((i + 1)); done
refused 3 "good.qcow2" "an image in use by a QEMU" copy good.qcow2
exec 9>&-
wait $holder

# Names that would be paths, told before anything is looked at.
is 2 "migrate --name ../x" "$godwit" migrate good.raw dir:target --name ../x
has "'x' could" err "... says which name would do"
is 2 "convert --name ../x" "$godwit" convert good.raw -o target --name ../x
[ ! -e target ]
ok "... and makes nothing"

# What conversion cannot work with, seen before the appliance is asked.
strict() { "$godwit" migrate "$1" dir:target --quiet; }
if "$godwit" migrate good.raw dir:target --quiet 2>&1 | grep -qi "appliance"; then
    skip "disks without a system" "there is no appliance here"
else
    refused 3 "no operating system" "a disk with no operating system" strict good.raw
    truncate -s 8M swap.raw
    mkswap -q swap.raw
    printf 'S1SUSPEND\0' | dd of=swap.raw bs=1 seek=4086 conv=notrunc status=none
    refused 3 "hibernated" "a hibernated system" strict swap.raw
    if command -v cryptsetup > /dev/null; then
        truncate -s 32M luks.raw
        echo key | cryptsetup -q luksFormat --pbkdf pbkdf2 --pbkdf-force-iterations 1000 luks.raw - 2> /dev/null
        refused 3 "luks-key" "an encrypted disk without a key" strict luks.raw
    else
        skip "an encrypted disk" "cryptsetup is not installed"
    fi
fi

# Targets.
mkdir -p held
echo "<domain/>" > held/good.xml
is 3 "a folder that holds a guest of that name" "$godwit" migrate good.raw dir:held --no-convert --quiet
[ "$(cat held/good.xml)" = "<domain/>" ]
ok "... which is not touched"
if [ "$(id -u)" != 0 ]; then
    mkdir -m 555 readonly
    is 3 "a folder that cannot be written to" "$godwit" migrate good.raw dir:readonly/x --no-convert --quiet
elif mkdir small && mount -t tmpfs -o size=4M none small 2> /dev/null; then
    cleanup "umount $work/small"
    is 3 "a file system without room" "$godwit" migrate good.raw dir:small/x --no-convert --quiet
    has "needed" err "... says how much is needed"
    [ -z "$(ls -A small)" ]
    ok "... and nothing is left there"
    mount -o remount,ro small
    is 3 "a read-only file system" "$godwit" migrate good.raw dir:small/x --no-convert --quiet
    is 1 "copy to a read-only file system" "$godwit" copy good.raw small/dst --quiet
else
    skip "a full file system" "mounting is not allowed here"
fi

# A map is written beside the copy: nothing else may lie there, the source least of all.
cp good.raw source.map
is 3 "a source in the place of the map" "$godwit" copy source.map source --quiet
is 3 "... also by --map" "$godwit" copy source.map other --map source.map --quiet
cmp good.raw source.map && [ ! -e source ] && [ ! -e other ]
ok "... is as it was, and nothing else was made"
is 2 "a copy that is its own map" "$godwit" copy good.raw dst --map ./dst
is 1 "a map in a folder that is not there" "$godwit" copy good.raw dst --map nowhere/map
[ ! -e dst ]
ok "... leaves no copy"

# Names and descriptors.
bad=$(printf 'a\377b')
cp good.qcow2 "$bad.qcow2"
refused 2 UTF-8 "a name that is not UTF-8" copy "$bad.qcow2"
ln -s "$bad.qcow2" link.qcow2
refused 3 UTF-8 "... behind a link" copy link.qcow2
is 2 "a target's that is not UTF-8" "$godwit" migrate good.raw "dir:$bad" --no-convert --json
jq -e .error out > /dev/null
ok "... is said as JSON"
"$godwit" jobs --json | jq -e 'length > 0 and all(.target | contains("dir:a") | not)' > /dev/null
ok "... and leaves no job"
is 2 "an empty name" "$godwit" copy good.raw ""
if [ -c /dev/full ]; then
    "$godwit" info good.raw --no-guest > /dev/full 2> err
    [ $? = 1 ] && grep -q "writing the result" err
    ok "a result that cannot be written is a failure"
fi
"$godwit" copy good.vmdk closed.img --verify full <&- >&- 2>&- && cmp good.raw closed.img
ok "closed descriptors do no harm"
"$godwit" migrate good.vmdk dir:piped --no-convert --rate 40M 2>&1 | head -n 1 > /dev/null
cmp good.raw piped/good-vda.raw && [ -f piped/good.xml ]
ok "a reader that goes away does not end a migration"
mkdir none
is 1 "without prlimit" env PATH="$work/none:$(dirname "$(command -v qemu-img)" | sed 's/.*/none/')" "$godwit" copy good.qcow2 dst
has "not installed" err "... it is said what to install"

# Devices: larger than the source, with sectors of 4096 bytes, mounted.
truncate -s 9M loop.img
truncate -s 8M table.img
if [ "$(id -u)" = 0 ] && loop=$(losetup -f --show loop.img 2> /dev/null); then
    cleanup "losetup -d $loop"
    is 0 "to a device that is larger" "$godwit" copy good.raw "$loop" --quiet --verify full
    cmp -n 8388608 good.raw loop.img && [ "$(tail -c 1048576 loop.img | tr -d '\0' | wc -c)" = 0 ]
    ok "... whose rest reads as zeros"
    head -c 1000 good.raw > tiny.raw
    is 0 "... also of a size that is no sector's multiple" "$godwit" copy tiny.raw "$loop" --quiet --verify full
    mkfs.ext4 -q -F "$loop"
    mkdir mnt
    if mount "$loop" mnt 2> /dev/null; then
        is 3 "from a device that is mounted" "$godwit" copy "$loop" dst --quiet
        has "in use" err "... is refused"
        is 3 "to one that is mounted" "$godwit" copy tiny.raw "$loop" --quiet
        umount mnt
    fi
else
    skip "devices" "no loop devices here"
fi
echo x > file
is 3 "a folder that is a file" "$godwit" migrate good.raw dir:file --no-convert --quiet
done_testing
