#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# orders: this exercises what is said to jobs from another terminal: which jobs take orders, what a wrong one is answered with,
# the limit of all jobs together, and watching.
. "$(dirname "$0")/../lib.sh"
requires jq

dd if=/dev/urandom of=disk.raw bs=1M count=4 status=none
is 0 "a job of a machine that is off" "$godwit" migrate disk.raw dir:target --no-convert --name off --quiet
for order in cutover pause; do
    is 3 "$order of it is refused" "$godwit" $order 1
    has "machine that is off" err "... saying why"
done
is 3 "rate of it is refused" "$godwit" rate 1 5M
is 3 "rollback of it is refused" "$godwit" rollback 1
has "nothing to roll back" err "... saying why"
is 2 "an order to a job that is not there" "$godwit" cutover 9
is 2 "a rate that is none" "$godwit" rate --all fast
is 2 "a rate without a job" "$godwit" rate 5M
is 0 "a limit for all jobs" "$godwit" rate --all 50M
has "50.0 MiB a second" out "... is told"
is 0 "and none" "$godwit" rate --all 0 --json
[ "$(jq .rate out)" = 0 ]
ok "... as JSON"
is 0 "a job that is over is watched to its end" "$godwit" status 1 --watch
has "downtime" out "... in a table"
is 2 "a server that is off has no downtime" "$godwit" migrate disk.raw dir:o2 --no-convert --max-downtime 5s
is 2 "and is not copied while it runs" "$godwit" migrate disk.raw dir:o2 --no-convert --method block
done_testing
