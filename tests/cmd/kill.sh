#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kill: this exercises kill -9 of `godwit copy` and `godwit migrate` at random moments (N of each, default 5; SEED names them)
# and after every phase: the same line again gives the same disk, and at most 64 MiB or 5 s of work are sent again.
. "$(dirname "$0")/../lib.sh"
requires jq qemu-img bash
n=${N:-5}
RANDOM=${SEED:-20260101}
mib=160

dd if=/dev/urandom of=disk.raw bs=1M count=$mib status=none
truncate -s 192M disk.raw
qemu-img convert -O qcow2 disk.raw disk.qcow2

resent_max=0 resent_sum=0 wrong=0 unfinished=0
one() { # WHAT TARGET COMMAND…: killed once at a random moment, then run to its end
    local what=$1 target=$2 had=0
    shift 2
    "$@" --rate 96M --quiet > /dev/null 2>&1 &
    local pid=$!
    sleep "$(printf '0.%03d' $((RANDOM % 1000)))"
    sleep $((RANDOM % 2))
    kill -9 $pid 2> /dev/null || unfinished=$((unfinished + 1))
    wait $pid 2> /dev/null
    # A job that was past its copy sends nothing again; its report still has the first run's figures.
    local past=false
    [ "$2" = migrate ] && past=$("$godwit" jobs --json |
        jq -r '.[-1] | (.phase == "copy" and .phase_done) or ([.phase] | inside(["verify", "convert", "flatten", "import", "launch"]))')
    [ "$past" = true ] || [ ! -e "$target" ] || had=$(($(stat -c %b "$target") * 512))
    if ! "$@" --quiet --json > out 2> err; then
        echo "# $what: $(cat err)"
        wrong=1
        return
    fi
    qemu-img compare -q disk.raw "$target" || { echo "# $what: the bytes differ"; wrong=1; }
    local resumed
    resumed=$(jq '.resumed // .report.disks[0].resumed // 0' out)
    local resent=$((had > resumed ? had - resumed : 0))
    resent_sum=$((resent_sum + resent))
    [ $resent -le $resent_max ] || resent_max=$resent
}
summary() {
    echo "# $n kills of $1: sent again $((resent_sum / n / 1024)) KiB on average, $((resent_max / 1024)) KiB at most;" \
        "$unfinished ended before the kill"
    [ $resent_max -le $((65 * 1024 * 1024)) ]
    ok "$1: at most 64 MiB are sent again"
    resent_max=0 resent_sum=0 wrong=0 unfinished=0
}

for i in $(seq "$n"); do
    rm -f copy.img copy.img.map
    one "copy $i" copy.img "$godwit" copy disk.qcow2 copy.img
done
[ $wrong = 0 ]
ok "copy killed $n times: the same line again gives the same bytes"
summary copy

for i in $(seq "$n"); do
    rm -f copy.qcow2 copy.qcow2.map
    one "copy to qcow2 $i" copy.qcow2 "$godwit" copy disk.raw copy.qcow2
    qemu-img check -q copy.qcow2 > /dev/null 2>&1 || { echo "# $i: qemu-img check"; wrong=1; }
done
[ $wrong = 0 ]
ok "copy to qcow2 killed $n times: the same line again gives the same bytes, no cluster is lost"
summary "copy to qcow2"

for i in $(seq "$n"); do
    one "migrate $i" "dir$i/k-vda.raw" "$godwit" migrate disk.qcow2 "dir:dir$i" --name k --no-convert
    "$godwit" discard "$("$godwit" jobs --json | jq '.[-1].id')" > /dev/null || wrong=1
    [ ! -e "dir$i" ] || { echo "# discard left $(ls -A "dir$i")"; wrong=1; }
done
[ $wrong = 0 ]
ok "migrate killed $n times: the same line again gives the same bytes, discard leaves nothing"
summary migrate

truncate -s 16M disk.raw
qemu-img convert -O qcow2 disk.raw disk.qcow2
want=$(sha256sum < disk.raw)
for phase in inspect plan copy verify convert flatten import launch; do
    for format in "" raw qcow2; do
        rm -rf phase
        line="migrate disk.qcow2 dir:phase --name p$phase$format --no-convert --quiet ${format:+--format $format}"
        # shellcheck disable=SC2086
        GODWIT_STOP_AFTER=$phase "$godwit" $line > /dev/null 2>&1
        status=$?
        # shellcheck disable=SC2086
        "$godwit" $line --json > out 2> err && [ $status = 137 ] && [ "$(jq -r .state out)" = done ] &&
            [ "$(qemu-img convert -O raw "$(jq -r '.report.disks[0].final' out)" flat && sha256sum < flat)" = "$want" ] &&
            [ -f "phase/p$phase$format.xml" ]
        ok "killed after $phase${format:+, --format $format}: the same line again finishes it"
    done
done
done_testing
