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
    vdi) # seen only when the block that is missing is read: what was copied until then can be resumed
        is 1 "a truncated vdi" "$godwit" copy short.vdi dst --quiet
        has truncated err "... is said to be truncated"
        rm -f dst dst.map ;;
    *) refused 3 "short.$format" "a truncated $format" copy short.$format ;;
    esac
done
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

# An image that a QEMU has open for writing.
mkfifo hold
qemu-io -f qcow2 good.qcow2 < hold > /dev/null 2>&1 &
holder=$!
cleanup "kill $holder 2> /dev/null"
exec 9> hold
echo 'write -q 0 64k' >&9
i=0
until ! qemu-img info good.qcow2 > /dev/null 2>&1 || [ $i -gt 300 ]; do sleep 0.1; i=$((i + 1)); done
refused 3 "good.qcow2" "an image in use by a QEMU" copy good.qcow2
exec 9>&-
wait $holder

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
echo x > file
is 3 "a folder that is a file" "$godwit" migrate good.raw dir:file --no-convert --quiet
done_testing
