# SPDX-License-Identifier: Apache-2.0
# A "server" made of loop devices, for tests that source this after lib.sh: an agent in namespaces of its own (mounts and
# network), godwit in another network namespace, a cable between them. Isolation and fences touch nothing else.
#
#   host_begin AGENT       the two hosts; 10.77.0.2 is the server, 10.77.0.1 godwit
#   host_disk SIZE FS      one more disk with FS (ext4, xfs, btrfs) on it, mounted at $work/mnt/N
#   on_server COMMAND…     on_godwit COMMAND…
#   agent_start [OPTION…]  runs the enrolled agent with the disks there are, waits until it answers; its pid in $agent_pid
#   agent_enroll NAME      enrols it, godwit coming to it
#   call METHOD PATH [JSON]   a control call with godwit's certificate; the answer in reply, its status in $status
# shellcheck shell=bash
host_begin() {
    agent=$1
    requires ip curl jq losetup nsenter unshare fsfreeze nbdinfo
    [ "$(id -u)" = 0 ] || { echo "1..0 # SKIP namespaces and loop devices need root"; exit 0; }
    [ -e /dev/loop-control ] || { echo "1..0 # SKIP no loop devices here"; exit 0; }
    mkdir -p mnt
    unshare -m -n --propagation private sleep 36000 & server_ns=$!
    unshare -n sleep 36000 & godwit_ns=$!
    cleanup "kill $server_ns $godwit_ns; wait $server_ns $godwit_ns 2> /dev/null"
    until [ "$(readlink /proc/$server_ns/ns/net)" != "$(readlink /proc/self/ns/net)" ] &&
        [ "$(readlink /proc/$godwit_ns/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
    # Made inside, so that nothing of it is ever seen outside.
    on_server ip link add eth0 type veth peer name eth1
    nsenter -t $server_ns -n ip link set eth1 netns $godwit_ns
    on_server ip address add 10.77.0.2/24 dev eth0
    on_godwit ip address add 10.77.0.1/24 dev eth1
    for ns in on_server on_godwit; do $ns ip link set lo up; done
    on_server ip link set eth0 up
    on_godwit ip link set eth1 up
    on_server mount -t bpf none /sys/fs/bpf 2> /dev/null
    on_server mount -t tracefs none /sys/kernel/tracing 2> /dev/null
    disks= n_disks=0 agent_pid=
    cleanup 'agent_end'
}
on_server() { nsenter -t $server_ns -m -n "$@"; }
on_godwit() { nsenter -t $godwit_ns -n "$@"; }
host_disk() {
    n_disks=$((n_disks + 1))
    truncate -s "$1" disk$n_disks.raw
    local loop
    loop=$(losetup -f --show --direct-io=on disk$n_disks.raw) || return 1
    cleanup "losetup -d $loop"
    disks="$disks ${loop#/dev/}"
    mkdir -p mnt/$n_disks
    case $2 in
    ext4) mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$loop" ;; # the kernel writes nothing of its own later
    xfs) mkfs.xfs -q -f --unsupported "$loop" > mkfs.err 2>&1 || { cat mkfs.err >&2; return 1; } ;; # below 300M it warns, and works
    btrfs) mkfs.btrfs -q -f "$loop" ;;
    esac
    on_server mount "$loop" "$work/mnt/$n_disks"
    cleanup "on_server umount '$work/mnt/$n_disks' 2> /dev/null"
}
agent_run() { # COMMAND OPTION…: godwit-agent with this test's folders, instead of this shell
    local verb=$1
    shift
    exec nsenter -t $server_ns -m -n "$agent" "$verb" --config "$work/agent" --run "$work/agent-run" --state "$work/agent-state" "$@"
}
agent_enroll() {
    rm -f line
    (exec nsenter -t $godwit_ns -n "$godwit" agent enroll "$1" --at 10.77.0.2:7443 > line 2> enroll.err) &
    local enroller=$!
    until [ -s line ]; do
        kill -0 $enroller 2> /dev/null || return 1
        sleep 0.05
    done
    sed 's/^echo \([^ ]*\) .*/\1/' line > token
    (agent_run enroll --listen 10.77.0.2:7443 --plain 10.77.0.2:10809 --token-file "$work/token" 2> agent-enroll.err) ||
        { kill $enroller; return 1; }
    wait $enroller
}
agent_start() {
    local options=
    for d in $disks; do options="$options --disk $d"; done
    # shellcheck disable=SC2086
    agent_run run $options "$@" > agent.log 2>&1 &
    agent_pid=$!
    for _ in $(seq 200); do
        call GET /v1/hello 2> /dev/null
        [ "$status" = 200 ] && return
        kill -0 $agent_pid 2> /dev/null || { cat agent.log >&2; return 1; }
        sleep 0.05
    done
    return 1
}
agent_end() {
    [ -z "$agent_pid" ] || { kill "$agent_pid" 2> /dev/null; wait "$agent_pid" 2> /dev/null; }
    agent_pid=
}
agent_kill() {
    kill -9 "$agent_pid"
    wait "$agent_pid" 2> /dev/null
    agent_pid=
}
call() {
    local pki=$GODWIT_STATE/pki
    status=$(on_godwit curl -sk --http1.1 --max-time 60 --cert "$pki/own.pem" --key "$pki/own.key" -o reply -w '%{http_code}' \
        -X "$1" ${3:+-H 'Content-Type: application/json' --data "$3"} "https://10.77.0.2:7443$2")
}
# passes if METHOD PATH JSON is answered with STATUS
answers() {
    call "$3" "$4" "$5"
    [ "$status" = "$1" ]
    ok "$2"
    [ "$status" = "$1" ] || echo "#   $3 $4 was answered with $status: $(head -c 400 reply)"
}
