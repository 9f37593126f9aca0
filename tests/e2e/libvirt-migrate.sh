#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# migrate with a real libvirtd at either end: this exercises a target that starts the guest, the same line again, kill -9 and
# the same line again, names that are taken, refusals before anything is copied, a domain as source, discard.
. "$(dirname "$0")/../lib.sh"
requires qemu-img virsh tar

mkdir d
uri=$("$top/tests/libvirtd" start "$work/d" $$ 2> why)
case $? in
    0) ;;
    77) echo "1..0 # SKIP $(cat why)" && exit 0 ;;
    *) echo "Bail out! $(cat why)" && exit 1 ;;
esac
cleanup "'$top/tests/libvirtd' stop '$work/d'"
target=libvirt+$uri
virsh() { command virsh -q -c "$uri" "$@"; }
state() { virsh domstate "$1" 2> /dev/null; }

truncate -s 8M disk.raw
printf 'this is the disk' | dd of=disk.raw bs=1 seek=1000000 conv=notrunc status=none
qemu-img convert -O vmdk -o subformat=streamOptimized disk.raw disk.vmdk
cat > vm.ovf << 'EOF'
<Envelope><References><File id="f" href="disk.vmdk"/></References><VirtualSystem id="packed"><VirtualHardwareSection>
<Item><ResourceType>4</ResourceType><AllocationUnits>byte * 2^20</AllocationUnits><VirtualQuantity>64</VirtualQuantity></Item>
<Item><ResourceType>17</ResourceType><HostResource>ovf:/file/f</HostResource></Item>
<Item><ResourceType>10</ResourceType><Address>52:54:00:01:02:03</Address></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>
EOF
tar -cf vm.ova vm.ovf disk.vmdk

is 3 "a pool that is not there" "$godwit" migrate vm.ova "$target&pool=none" --no-convert --name vm
has "no storage pool 'none'" err "... says which"
is 3 "a network that is not there" "$godwit" migrate vm.ova "$target" --no-convert --name vm --network 52:54:00:01:02:03=nowhere
has "no network 'nowhere'" err "... says which"
is 3 "a network for an interface that is not there" \
    "$godwit" migrate vm.ova "$target" --no-convert --name vm --network 52:54:00:09:09:09=user
[ -z "$(ls -A d/images)" ] && [ -z "$(virsh list --all --name)" ]
ok "nothing was made"

is 0 "an OVA to a guest that runs" "$godwit" migrate vm.ova "$target" --no-convert --name vm --start --network 52:54:00:01:02:03=user
[ "$(state vm)" = running ]
ok "it runs"
virsh dumpxml vm > vm-dump.xml
has 52:54:00:01:02:03 vm-dump.xml "with its old MAC"
cmp disk.raw d/images/vm-vda.raw
ok "on the OVA's disk"
virsh vol-info --pool default vm-vda.raw > /dev/null
ok "which the pool knows"
is 0 "the same line again" "$godwit" migrate vm.ova "$target" --no-convert --name vm --start --network 52:54:00:01:02:03=user
has "done already" err "... says that it is done"
job=$(awk '$1 == "job" { print $2 }' out)
is 3 "another machine under that name" "$godwit" migrate disk.raw "$target" --no-convert --name vm
has "already has a domain 'vm'" err "... says why"

is 3 "as a source it must be off" "$godwit" migrate "$target&domain=vm" dir:back --no-convert
has "is running" err "... says so"
virsh destroy vm > /dev/null
is 0 "a domain as source" "$godwit" migrate "$target&domain=vm" dir:back --no-convert
cmp disk.raw back/vm-vda.raw
ok "gives the same disk"
has 52:54:00:01:02:03 back/vm.xml "and the MAC"
is 3 "a domain that is not there" "$godwit" migrate "$target&domain=gone" dir:back2 --no-convert
is 2 "no domain named" "$godwit" migrate "$target" dir:back2 --no-convert
[ ! -e back2 ]
ok "nothing was made"

is 0 "discard" "$godwit" discard "$job"
[ -z "$(ls -A d/images)" ] && [ -z "$(virsh list --all --name)" ]
ok "nothing is left of it"

# Killed at several moments, at a rate that makes the copy last; each time the same line ends what was begun.
head -c 8M /dev/urandom > noise.raw
killed=0
for delay in 0.02 0.1 0.2 0.3 0.5; do
    "$godwit" migrate noise.raw "$target" --no-convert --name killed --rate 20M --quiet > /dev/null 2>&1 &
    pid=$!
    sleep $delay
    kill -9 $pid 2> /dev/null && killed=$((killed + 1))
    wait $pid 2> /dev/null
done
[ $killed -gt 0 ]
ok "killed while it worked"
is 0 "the same line after kill -9" "$godwit" migrate noise.raw "$target" --no-convert --name killed --rate 0 --quiet
cmp noise.raw d/images/killed-vda.raw
ok "the same disk"
[ "$(state killed)" = "shut off" ]
ok "defined once, not started"
done_testing
