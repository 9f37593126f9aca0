# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For tests of live migration: running servers under QEMU, on throw-away overlays. The test names the kinds of guests that it
# will run in $live_kinds and sources this, first of all. They are made; then it runs in namespaces of its own: what it starts
# ends with it, however it ends, and its network is a bridge br0 on which this end, godwit's, is 192.0.2.1 and every machine a
# host with its own address. It has what tests/lib.sh gives; and:
#
#   live_choose KIND         for the next live_boot; the first of $live_kinds is chosen
#   live_boot NAME [virtio|metal|nvme]   a machine NAME with overlays NAME/root.qcow2 and NAME/data.qcow2, made when they are
#                            not there; its hardware as the guest was made for, unless told
#   live_wait NAME [SECONDS] until it answers; 120 s. Says how long it took on stdout
#   live_run NAME COMMAND    as root in it: output, exit code (LIVE_TIMEOUT: 60 s)
#   live_serial NAME COMMAND the same over its serial line: works without a network
#   live_push NAME FILE PATH copies a file into it, with its mode
#   live_cut NAME            power cut: kill -9
#   live_reset NAME          the reset button
#   live_off NAME            powers it down, 60 s; then it is cut
#   live_qmp NAME COMMAND    QMP, for example '{"execute": "stop"}'
#   live_fact NAME FACT      address, mac, suite, hardware, nic
#   live_collect FILE        collects acknowledgements on 192.0.2.1:7000;   live_collected: ends it, its summary on stdout
#   live_ping                asks the machine at $address all the time;   live_pinged: ends it, what it saw in the file ping
#   live_enroll NAME         its agent ($AGENT), enrolled as crm01 by the line that godwit prints; its address in $address
#   live_libvirtd            a libvirtd of this test's own, on this network: its URI in $uri; skips the test where it cannot be
#
# A processor with few features: for each more, a guest loads drivers that TCG takes seconds for.
# A power cut loses what the guest had not written out; what QEMU had given to this kernel stays.

live_here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
live_choose() { live_guest=$("$live_here/guest" "$1"); }

if [ -z "${LIVE_INSIDE:-}" ]; then
    live_skip() { echo "1..0 # SKIP $1"; exit 0; }
    [ "$(id -u)" = 0 ] || live_skip "running guests in namespaces needs root"
    for program in qemu-system-x86_64 qemu-img mmdebstrap sfdisk jq python3 ip setpriv mkfs.xfs lvm gcc; do
        command -v $program > /dev/null || live_skip "$program is not installed"
    done
    [ -e /dev/loop-control ] || live_skip "making a guest needs loop devices"
    [ -e /dev/net/tun ] || live_skip "machines on a network need /dev/net/tun"
    TMPDIR=$(mktemp -d "${TMPDIR:-/var/tmp}/godwit-live-XXXXXX") || exit 1
    export TMPDIR LIVE_INSIDE=1
    # The folder is removed after the last process has gone, also when all are killed: by a child that waits for that.
    # shellcheck disable=SC2034 # it only has to be open
    exec {live_alive}> >(trap '' INT TERM HUP; cat > /dev/null; rm -rf --one-file-system "${TMPDIR:?}")
    for kind in $live_kinds; do # here, where the packages' archive can be reached
        "$live_here/guest" "$kind" > "$TMPDIR/log" 2>&1 && continue
        tail -n 20 "$TMPDIR/log" | sed 's/^/# /'
        echo "1..1"
        echo "not ok 1 - the guest $kind is made"
        exit 1
    done
    setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "$@" &
    live_child=$!
    trap 'kill -9 $live_child 2> /dev/null; exit 130' INT TERM HUP
    wait $live_child
    exit
fi
# shellcheck source=../lib.sh
. "$live_here/../lib.sh"
records=$(readlink -f "${RECORDS:-$top/build/tests/live/records}")
[ -x "$records" ] || { echo "Bail out! $records is not built"; exit 1; }
ip link set lo up
ip link add br0 type bridge forward_delay 0
ip addr add 192.0.2.1/24 dev br0
ip link set br0 up
live_choose "${live_kinds%% *}"

live_fact() { sed -n "s/^$2=//p" "$1/facts"; }

live_boot() {
    local name=$1 disk n=0 hardware tap=tap-$1 arguments=()
    mkdir -p "$name"
    [ -e "$name/facts" ] || cp "$live_guest/facts" "$name/facts"
    hardware=${2:-$(live_fact "$name" hardware)}
    for disk in root data; do
        [ -e "$name/$disk.qcow2" ] ||
            qemu-img create -q -f qcow2 -F raw -b "$live_guest/$disk.raw" "$name/$disk.qcow2" || return 1
        arguments+=(-drive "if=none,id=$disk,file=$name/$disk.qcow2,format=qcow2,discard=unmap")
        case $hardware-$disk in
        nvme-data) arguments+=(-device "nvme,drive=$disk,serial=$disk") ;;
        virtio-* | nvme-root) arguments+=(-device "virtio-blk-pci,drive=$disk,serial=$disk") ;;
        metal-*) arguments+=(-device "ide-hd,bus=ide.$n,drive=$disk,serial=$disk") ;;
        esac
        n=$((n + 1))
    done
    ip link show "$tap" > /dev/null 2>&1 || ip tuntap add "$tap" mode tap
    ip link set "$tap" master br0 up
    case $hardware in virtio | nvme) n=virtio-net-pci ;; metal) n=e1000 ;; esac
    rm -f "$name/pid" "$name"/*.sock
    qemu-system-x86_64 -accel tcg -machine q35 -cpu qemu64,-svm,+rdrand -smp 2 -m "${LIVE_MEMORY:-512}" -nodefaults -no-user-config \
        -display none -pidfile "$name/pid" -qmp "unix:$name/qmp.sock,server=on,wait=off" \
        -chardev "file,id=console,path=$name/console,append=on" -serial chardev:console \
        -chardev "socket,id=exec,path=$name/exec.sock,server=on,wait=off" -serial chardev:exec \
        "${arguments[@]}" -netdev "tap,id=net,ifname=$tap,script=no,downscript=no" \
        -device "$n,netdev=net,mac=$(live_fact "$name" mac),addr=3" > "$name/qemu.log" 2>&1 &
    echo $! > "$name/qemu"
}
live_wait() {
    local begin=$SECONDS address
    address=$(live_fact "$1" address):7778
    until timeout 5 "$records" run "$address" true 2> /dev/null; do
        if ! kill -0 "$(cat "$1/qemu")" 2> /dev/null || [ $((SECONDS - begin)) -gt "${2:-120}" ]; then
            echo "# $1 does not answer after $((SECONDS - begin)) s:"
            tail -n 5 "$1/qemu.log" "$1/console" | tr -d '\r' | sed 's/^/# /'
            return 1
        fi
        sleep 0.2
    done
    echo "# $1 answers after $((SECONDS - begin)) s"
}
live_run() { timeout "${LIVE_TIMEOUT:-60}" "$records" run "$(live_fact "$1" address):7778" "$2"; }
live_serial() { timeout "${LIVE_TIMEOUT:-60}" "$records" run "./$1/exec.sock" "$2"; }
live_push() { timeout "${LIVE_TIMEOUT:-60}" "$records" push "$(live_fact "$1" address):7778" "$2" "$3"; }
live_cut() {
    local pid
    pid=$(cat "$1/qemu")
    kill -9 "$pid"
    wait "$pid" 2> /dev/null
    rm "$1/qemu"
}
live_off() {
    local pid
    pid=$(cat "$1/qemu")
    live_run "$1" 'systemctl poweroff' > /dev/null
    for _ in $(seq 600); do
        kill -0 "$pid" 2> /dev/null || { wait "$pid"; rm "$1/qemu"; return 0; }
        sleep 0.1
    done
    live_cut "$1"
    return 1
}
live_qmp() {
    python3 - "$1/qmp.sock" "$2" <<'X'
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect(sys.argv[1])
f = s.makefile('rw')
f.readline()
for command in ('{"execute": "qmp_capabilities"}', sys.argv[2]):
    f.write(command + '\n')
    f.flush()
    while True:
        reply = json.loads(f.readline())
        if 'event' not in reply:
            break
print(json.dumps(reply))
sys.exit('error' in reply)
X
}
live_reset() { live_qmp "$1" '{"execute": "system_reset"}' > /dev/null; }

live_collect() {
    "$records" collect 7000 "$1" > collected &
    live_collector=$!
    for _ in $(seq 50); do
        ss -ltn 'sport = 7000' | grep -q LISTEN && return
        sleep 0.1
    done
}
live_collected() {
    kill "$live_collector"
    wait "$live_collector"
    cat collected
}

live_ping() { "$records" ping "$address" 7777 > ping & pinger=$!; }
live_pinged() {
    sleep 1 # the first answers of whoever serves now
    kill $pinger
    wait $pinger
}

live_enroll() {
    local agent=${AGENT:-$top/build/src/agent/godwit-agent} enroll
    # One with sanitizers is not static; the plain build's is meant then.
    if ldd "$agent" 2> /dev/null | grep -q 'lib[a-z]*san'; then agent=$top/build/src/agent/godwit-agent; fi
    address=$(live_fact "$1" address)
    live_push "$1" "$agent" /root/godwit-agent || return 1
    "$godwit" agent enroll crm01 --at "$address:7443" > line 2> enroll.log &
    enroll=$!
    until [ -s line ]; do kill -0 $enroll || return 1; sleep 0.1; done
    # The line as it is printed, but for the program's place.
    live_run "$1" "PATH=\$PATH:/root; $(cat line)" > agent.log 2>&1
    wait $enroll
}

live_libvirtd() {
    requires virsh libvirtd
    mkdir d
    uri=$(LIBVIRTD_NETWORK=here "$top/tests/libvirtd" start "$work/d" $$ 2> why)
    case $? in
    0) ;;
    77) echo "1..0 # SKIP $(cat why)" && exit 0 ;;
    *) echo "Bail out! $(cat why)" && exit 1 ;;
    esac
    cleanup "'$top/tests/libvirtd' stop '$work/d'"
}
virsh() { command virsh -q -c "$uri" "$@"; }
