# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For the benches of live migration, which source it: a server made of loop devices with a real agent, and godwit in another network
# namespace (tests/agent/host.sh: on_server, on_godwit, host_disk, agent_start, call), in a fresh folder that goes when they end; and:
#
#   say TEXT                 to stderr: what is going on
#   bench_host SIZE…         the hosts, a disk of each SIZE with ext4 on it, the agent enrolled as crm
#   fill FILE BYTES          random bytes; FILE below the folder
#   g COMMAND…               godwit
#   g_begin OPTION…          `godwit migrate agent://crm OPTION…`, its process in $job; its words in err; $g_from: another
#                            source
#   wait_for STATE JOB PID   until a job is in this state (READY…), five minutes at most, as long as its process runs
#   wire                     bytes that crossed the cable so far, both directions, headers included
#   load_begin, load_mark, load_end    bench/dirty on the first disk; its figures in the file load
bench=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=${bench%/*}
export GODWIT=${GODWIT:-$top/build/src/cmd/godwit}
# shellcheck source=../tests/lib.sh
. "$top/tests/lib.sh"
top=${bench%/*} # lib.sh takes it from the place of its tests
# shellcheck source=../tests/agent/host.sh
. "$top/tests/agent/host.sh"
agent_program=${AGENT:-$top/build/src/agent/godwit-agent}
load_pid='' job=''

say() { echo "$*" >&2; }
fail() { say "$*"; exit 1; }
bench_host() {
    host_begin "$agent_program"
    cleanup 'kill -9 $load_pid $job 2> /dev/null'
    local size
    for size; do host_disk "$size" ext4; done
    agent_enroll crm || fail "the agent is not enrolled: $(cat enroll.err agent-enroll.err)"
}
fill() { head -c "$2" /dev/urandom | on_server tee "$work/$1" > /dev/null; }
g() { on_godwit "$GODWIT" "$@"; }
g_begin() {
    (exec nsenter -t "$godwit_ns" -n "$GODWIT" migrate "${g_from:-agent://crm}" --no-convert -q "$@" > log 2> err) &
    job=$!
}
wait_for() {
    for _ in $(seq 1500); do
        kill -0 "$3" 2> /dev/null || return 1
        [ "$(g status "$2" --json 2> /dev/null | jq -r .live.state)" != "$1" ] || return 0
        sleep 0.2
    done
    return 1
}
wire() { on_godwit ip -s -j link show dev eth1 | jq '.[0].stats64 | .rx.bytes + .tx.bytes'; }
load_begin() { # FILE RATE KIND
    (exec nsenter -t "$server_ns" -m -n python3 "$bench/dirty" "$@" > load) &
    load_pid=$!
}
load_mark() { [ -z "$load_pid" ] || kill -USR1 "$load_pid"; }
load_end() {
    [ -n "$load_pid" ] || { echo '{}' > load; return; }
    kill "$load_pid"
    wait "$load_pid"
    load_pid=
}
