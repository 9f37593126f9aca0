#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# store: this exercises the store as processes share it: many at once, a newer schema, one worker a job, a killed worker.
. "$(dirname "$0")/../lib.sh"
requires jq sqlite3 qemu-img

dd if=/dev/urandom of=disk.raw bs=1M count=24 status=none
pids=
for i in 1 2 3 4 5 6 7 8; do
    "$godwit" migrate disk.raw "dir:many$i" --no-convert --name "m$i" --quiet > "log$i" 2>&1 &
    pids="$pids $!"
done
bad=
for pid in $pids; do wait "$pid" || bad=1; done
[ -z "$bad" ]
ok "eight processes make a job each in a new store at once"
[ -z "$bad" ] || sed 's/^/#   /' log?
[ "$("$godwit" jobs --json | jq '[.[] | select(.state == "done")] | length')" = 8 ]
ok "all eight are in it, done"
[ "$(sqlite3 state/godwit.db 'PRAGMA journal_mode; PRAGMA integrity_check' | tr '\n' ' ')" = "wal ok " ]
ok "the store is sound and in WAL mode"

# One process works on a job at a time.
"$godwit" migrate disk.raw dir:slow --no-convert --name slow --rate 2M --quiet > /dev/null 2>&1 &
worker=$!
i=0
until [ "$("$godwit" jobs --json | jq -r '.[] | select(.name == "slow") | .phase')" = copy ] || [ $i -gt 100 ]; do
    sleep 0.1
    i=$((i + 1))
done
is 3 "the same line again while it runs is refused" "$godwit" migrate disk.raw dir:slow --no-convert --name slow
has "is being worked on by process" err "... naming the holder"
is 3 "discard of a running job is refused" "$godwit" discard 9
is 3 "another source under the same name is refused" "$godwit" migrate "$work/many1/m1-vda.raw" dir:slow --no-convert --name slow
kill -9 $worker
wait $worker 2> /dev/null
[ "$("$godwit" jobs --json | jq -r '.[] | select(.name == "slow") | .state')" = stopped ]
ok "a job whose process was killed is shown as stopped"
is 0 "resume finishes it" "$godwit" resume 9 --quiet
cmp disk.raw slow/slow-vda.raw
ok "... with the right bytes"

# Ctrl-C.
"$godwit" migrate disk.raw dir:int --no-convert --name int --rate 2M --quiet > out 2> err &
worker=$!
sleep 1.5
kill -INT $worker
wait $worker
[ $? = 4 ]
ok "an interrupted migration ends with 4"
has "the same command line goes on" err "... and says how to go on"
is 0 "the same line goes on" "$godwit" migrate disk.raw dir:int --no-convert --name int --quiet
cmp disk.raw int/int-vda.raw
ok "... to the right bytes"

is 2 "a job that is not there" "$godwit" resume 77
sqlite3 state/godwit.db 'PRAGMA user_version = 99' > /dev/null
is 3 "a store with a newer schema is refused" "$godwit" jobs
has "schema 99" err "... naming the schema"
touch file
is 1 "a state folder that is a file" "$godwit" jobs --state file
done_testing
