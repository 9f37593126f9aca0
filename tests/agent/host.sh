# SPDX-License-Identifier: Apache-2.0
# A "server" made of loop devices, for tests that source this after lib.sh: an agent in namespaces of its own (mounts and
# network), godwit in another network namespace, a cable between them. Isolation and fences touch nothing else.
#
#   host_begin AGENT [WIRE [ROLE]]   the two hosts; $server_ip is the server, $godwit_ip godwit. WIRE: a row of host_wires, "plain"
#                          unless told. ROLE: the agent "listens", which it does unless told, or "dials"
#   host_disk SIZE FS      one more disk with FS (ext4, xfs, btrfs) on it, mounted at $work/mnt/N
#   on_server COMMAND…     on_godwit COMMAND…     on_far COMMAND…: where the server's cable ends, in eth1: godwit or a router
#   host_network           rules, addresses, routes and filters of the server, to be compared
#   agent_start [OPTION…]  runs the enrolled agent with the disks there are, waits until it answers; its pid in $agent_pid
#   agent_enroll NAME      enrols it, godwit coming to it
#   call METHOD PATH [JSON]   a control call with godwit's certificate; the answer in reply, its status in $status
# shellcheck shell=bash
# The server's address and godwit's, the card that has the server's, the next hop on the way to godwit
host_wires='
    plain    10.77.0.2  10.77.0.1  eth0     -
    ipv6     fd77::2    fd77::1    eth0     -
    vlan     10.77.0.2  10.77.0.1  eth0.10  -
    bond     10.77.0.2  10.77.0.1  bond0    -
    bridge   10.77.0.2  10.77.0.1  br0      -
    router   10.77.0.2  10.78.0.1  eth0     10.77.0.9
    router6  fd77::2    fd78::1    eth0     fd77::9
    linklocal fd77::2   fd78::1    eth0     fe80::9'
host_begin() {
    agent=$1 role=${3:-listens}
    read -r server_ip godwit_ip card gateway < <(echo "$host_wires" | awk -v w="${2:-plain}" '$1 == w { print $2, $3, $4, $5 }')
    requires ip curl jq losetup nsenter unshare fsfreeze nbdinfo
    [ "$(id -u)" = 0 ] || { echo "1..0 # SKIP namespaces and loop devices need root"; exit 0; }
    [ -e /dev/loop-control ] || { echo "1..0 # SKIP no loop devices here"; exit 0; }
    mkdir -p mnt
    unshare -m -n --propagation private sleep 36000 & server_ns=$!
    unshare -n sleep 36000 & godwit_ns=$!
    unshare -n sleep 36000 & router_ns=$!
    cleanup "kill $server_ns $godwit_ns $router_ns; wait $server_ns $godwit_ns $router_ns 2> /dev/null"
    for ns in $server_ns $godwit_ns $router_ns; do
        until [ "$(readlink /proc/$ns/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
        nsenter -t $ns -n ip link set lo up
        # For tests: an address is there at once.
        nsenter -t $ns -n sh -c 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad' 2> /dev/null
    done
    far_ns=$godwit_ns
    [ "$gateway" = - ] || far_ns=$router_ns
    host_wire
    on_server mount -t bpf none /sys/fs/bpf 2> /dev/null
    on_server mount -t tracefs none /sys/kernel/tracing 2> /dev/null
    disks= n_disks=0 agent_pid=
    cleanup 'agent_end'
}
on_server() { nsenter -t $server_ns -m -n "$@"; }
on_godwit() { nsenter -t $godwit_ns -n "$@"; }
on_far() { nsenter -t $far_ns -n "$@"; }
ip_prefix() { case $1 in *:*) echo "$1/64" ;; *) echo "$1/24" ;; esac; }
ip_port() { case $1 in *:*) echo "[$1]:$2" ;; *) echo "$1:$2" ;; esac; }
# Made inside, so that nothing of it is ever seen outside.
host_wire() {
    on_server ip link add eth0 type veth peer name eth1
    on_server ip link set eth1 netns $far_ns
    on_server ip link set eth0 up
    on_far ip link set eth1 up
    local far_card=eth1
    case $card in
    eth0.10)
        on_server ip link add link eth0 name eth0.10 type vlan id 10 2> vlan.err &&
            on_far ip link add link eth1 name eth1.10 type vlan id 10 ||
            { echo "1..0 # SKIP this kernel has no VLANs (8021q)"; exit 0; }
        far_card=eth1.10 ;;
    bond0)
        on_server ip link add bond0 type bond mode active-backup miimon 100 2> bond.err || { echo "1..0 # SKIP this kernel has no bonding"; exit 0; }
        on_server ip link set eth0 down
        on_server ip link set eth0 master bond0 ;;
    br0)
        on_server ip link add br0 type bridge forward_delay 0
        on_server ip link set eth0 master br0 ;;
    esac
    [ "$card" = eth0 ] || on_server ip link set "$card" up
    [ $far_card = eth1 ] || on_far ip link set $far_card up
    on_server ip address add "$(ip_prefix "$server_ip")" dev "$card"
    [ "$gateway" != - ] || { on_far ip address add "$(ip_prefix "$godwit_ip")" dev $far_card; return; }
    on_far ip link add eth2 type veth peer name eth1 netns $godwit_ns
    on_far ip link set eth2 up
    on_godwit ip link set eth1 up
    on_godwit ip address add "$(ip_prefix "$godwit_ip")" dev eth1
    local behind=10.78.0.9
    case $godwit_ip in *:*) behind=fd78::9 ;; esac
    on_far ip address add "$(ip_prefix "$gateway")" dev eth1
    case $gateway in fe80:*) on_far ip address add fd77::9/64 dev eth1 ;; esac
    on_far ip address add "$(ip_prefix "$behind")" dev eth2
    on_far sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'
    on_server ip route add default via "$gateway" dev "$card"
    on_godwit ip route add default via $behind
}
host_network() {
    on_server ip address | grep -v valid_lft
    for v in -4 -6; do on_server ip $v rule; on_server ip $v route show table all; done
    on_server tc qdisc show
    for c in $(on_server ip -o link | cut -d: -f2 | cut -d@ -f1); do
        on_server tc filter show dev "$c" ingress; on_server tc filter show dev "$c" egress
    done
    on_server cat /proc/sys/net/ipv4/conf/all/arp_ignore
}
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
    local verb=$1 limit='timeout 60'
    [ "$verb" != run ] || limit=
    shift
    # shellcheck disable=SC2086
    exec $limit nsenter -t $server_ns -m -n "$agent" "$verb" --config "$work/agent" --run "$work/agent-run" --state "$work/agent-state" "$@"
}
agent_enroll() {
    rm -f line
    local at=(--at "$(ip_port "$server_ip" 7443)")
    [ $role = listens ] || at=(--listen "$(ip_port "$godwit_ip" 7443)")
    (exec nsenter -t $godwit_ns -n "$godwit" agent enroll "$1" "${at[@]}" > line 2> enroll.err) &
    local enroller=$!
    until [ -s line ]; do
        kill -0 $enroller 2> /dev/null || return 1
        sleep 0.05
    done
    sed 's/^echo \([^ ]*\) .*/\1/' line > token
    [ $role = listens ] || until on_godwit sh -c 'cat /proc/net/tcp /proc/net/tcp6' | grep -q ':1D13 .* 0A '; do
        kill -0 $enroller 2> /dev/null || return 1
        sleep 0.05
    done
    # As the line says it.
    local way
    read -r -a way < <(sed 's/.*godwit-agent enroll \(.*\) && .*/\1/' line)
    [ $role = dials ] || way+=(--plain "$(ip_port "$server_ip" 10809)")
    (agent_run enroll "${way[@]}" --token-file "$work/token" 2> agent-enroll.err) ||
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
        if [ $role = dials ]; then
            on_godwit "$godwit" info agent://crm > info 2>&1 && return
        else
            call GET /v1/hello 2> /dev/null
            [ "$status" = 200 ] && return
        fi
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
        -X "$1" ${3:+-H 'Content-Type: application/json' --data "$3"} "https://$(ip_port "$server_ip" 7443)$2")
}
# The same of a server that may be fenced, which answers after a while, and not every call: whoever wants in calls again (docs/live.md).
insist() { for _ in 1 2 3 4 5; do call "$@"; [ "$status" = 000 ] || return 0; sleep 0.2; done; }
# passes if METHOD PATH JSON is answered with STATUS
answers() {
    insist "$3" "$4" "$5"
    [ "$status" = "$1" ]
    ok "$2"
    [ "$status" = "$1" ] || echo "#   $3 $4 was answered with $status: $(head -c 400 reply)"
}
