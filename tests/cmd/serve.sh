#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# serve: this exercises our NBD server with stock clients (nbdinfo, nbdcopy, qemu-img) through nbd-serve: what they read, write and map,
# over Unix sockets and TCP, several at once, odd sizes, faults, clients that are killed, and its end.
. "$(dirname "$0")/../lib.sh"
requires jq nbdinfo nbdcopy qemu-img
server=${NBD_SERVE:-$top/build/tests/cmd/nbd-serve}

# serve ARGUMENTS…: in the background; $address as it prints it, $pid, $uri of export "disk" (and $base without it)
serve() {
    rm -f address sock
    "$server" "$@" > address 2> log &
    pid=$!
    for _ in $(seq 200); do [ -s address ] && break; sleep 0.05; done
    read -r address < address
    case $address in
    unix:*) base="nbd+unix:///" query="?socket=${address#unix:}" ;;
    tcp:*) base="nbd://127.0.0.1:${address#tcp:}/" query= ;;
    esac
    uri="${base}disk$query"
}
# end: asks it to end, and waits for that
end() {
    kill -TERM "$pid"
    wait "$pid"
    ended=$?
    pid=
    return $ended
}
pid=
# shellcheck disable=SC2016
cleanup '[ -z "$pid" ] || kill -9 "$pid"'

dd if=/dev/urandom of=disk.raw bs=64K count=96 status=none
truncate -s 24M disk.raw
dd if=/dev/urandom of=disk.raw bs=64K count=32 seek=320 conv=notrunc status=none
truncate -s 25165001 disk.raw
printf end | dd of=disk.raw bs=1 seek=25164998 conv=notrunc status=none

serve "unix:$PWD/sock" disk=disk.raw other=disk.raw
is 0 "nbdinfo" nbdinfo --json "$uri"
jq -e '.exports[0] | .["export-size"] == 25165001 and .is_read_only and .can_multi_conn and .can_df and .block_size_minimum == 1 and
    .block_size_preferred == 4096 and .block_size_maximum == 33554432' out > /dev/null
ok "... learns size, blocks and flags"
is 0 "nbdinfo --list" nbdinfo --list --json "$base$query"
jq -e '[.exports[]["export-name"]] == ["disk", "other"]' out > /dev/null
ok "... names both exports"
is 0 "nbdinfo --map" nbdinfo --map --json "$uri"
qemu-img map -f raw --output=json disk.raw > file.map
jq -e --slurpfile want file.map '[.[] | [.offset, .length, .type == 0]] == [$want[0][] | select(.start < 25165001) | [.start, .length, .data]] and
    (map(.type) | unique) == [0, 3]' out > /dev/null
ok "... maps what the file has"
is 0 "nbdinfo --map of the caller's context" nbdinfo --map=test:odd --json "$uri"
jq -e 'length == 384 and .[0].type == 0 and .[1].type == 1 and (map(.length) | add) == 25165001' out > /dev/null
ok "... in 64 KiB blocks"
is 0 "qemu-img map" qemu-img map -f raw --output=json "$uri"
jq -e --slurpfile want file.map '[.[] | [.start, .data]] == [$want[0][] | [.start, .data]]' out > /dev/null
ok "... maps the same"
is 0 "qemu-img convert" qemu-img convert -f raw -O raw "$uri" converted.raw
cmp -n 25165001 disk.raw converted.raw
ok "... is exact"
is 0 "qemu-img compare" qemu-img compare -f raw -F raw disk.raw "$uri"
is 0 "nbdcopy" nbdcopy "$uri" copied.raw
cmp disk.raw copied.raw
ok "... is exact"
is 0 "nbdcopy --synchronous" nbdcopy --synchronous "$uri" slow.raw
cmp disk.raw slow.raw
ok "... is exact"
is 1 "no such export" nbdinfo --size "${base}none$query"
for i in 1 2 3; do nbdcopy "$uri" "both$i.raw" & pids="${pids-} $!"; done
# shellcheck disable=SC2086
wait $pids && cmp disk.raw both1.raw && cmp disk.raw both2.raw && cmp disk.raw both3.raw
ok "three copies at once"

# Slow enough to be killed in the middle of many requests.
nbdcopy "$uri" null: & copy=$!
kill -9 $copy
wait $copy 2> /dev/null
for i in 1 2 3 4 5; do
    { timeout -s KILL 0.0$i nbdcopy --connections=2 "$uri" null:; } 2> /dev/null
done
nbdcopy "$uri" after.raw && cmp disk.raw after.raw
ok "clients that are killed do not hurt the next"
threads() { find "/proc/$pid/task" -mindepth 1 -maxdepth 1 | wc -l; }
for _ in $(seq 100); do [ "$(threads)" = 1 ] && break; sleep 0.05; done
[ "$(threads)" = 1 ]
ok "... and leave no thread behind"
nbdcopy --request-size=33554432 "$uri" large.raw && cmp disk.raw large.raw
ok "requests of 32 MiB"
end
ok "it ends when asked"

serve tcp:0 disk=disk.raw
nbdcopy "$uri" tcp.raw && cmp disk.raw tcp.raw
ok "over TCP"
end

serve --writable "unix:$PWD/sock" disk=copied.raw
nbdinfo --json "$uri" | jq -e '.exports[0] | (.is_read_only | not) and .can_trim and .can_zero and .can_fua and .can_flush' > /dev/null
ok "a writable one says so"
truncate -s 25165001 zeros.raw
is 0 "nbdcopy of zeros into it" nbdcopy --destination-is-zero zeros.raw "$uri"
is 0 "nbdcopy into it" nbdcopy slow.raw "$uri"
cmp disk.raw copied.raw
ok "... is exact"
end
ok "it ends when asked, too"

# QEMU writes whole sectors, so the disk has to have some.
truncate -s 24M whole.raw
dd if=/dev/urandom of=whole.raw bs=1M count=24 conv=notrunc status=none
truncate -s 24M new.raw
dd if=/dev/urandom of=new.raw bs=4K count=1000 seek=77 conv=notrunc status=none
serve --writable "unix:$PWD/sock" disk=whole.raw
is 0 "qemu-img convert onto what is not zeros" qemu-img convert -n -W -f raw -O raw new.raw "$uri"
cmp new.raw whole.raw
ok "... is exact"
[ "$(stat -c %b whole.raw)" -lt 9000 ]
ok "... and holes are holes"
end

for size in 1 513 65537 1000003; do
    dd if=/dev/urandom of=odd.raw bs=$size count=1 status=none
    serve "unix:$PWD/sock" disk=odd.raw
    nbdcopy "$uri" odd.copy && cmp odd.raw odd.copy && qemu-img convert -f raw -O raw "$uri" odd.copy && cmp -n $size odd.raw odd.copy
    ok "a disk of $size bytes"
    end
done

n=0
for fault in 1 2 3 5 8 13 21 34 55; do
    serve --fault $fault "unix:$PWD/sock" disk=disk.raw
    rm -f bad.raw
    nbdcopy --connections=1 --no-extents "$uri" bad.raw 2> err && n=$((n + 1))
    nbdinfo --size "$uri" > /dev/null && kill -0 "$pid" || n=100
    end
done
[ $n = 0 ]
ok "a copy that met an error says so, the server goes on"

serve --hash "unix:$PWD/sock" disk=disk.raw
nbdcopy "${base}disk.hash$query" hashes
[ "$(stat -c %s hashes)" = $((384 * 32)) ] &&
    [ "$(head -c 32 hashes | od -An -vtx1 | tr -d ' \n')" = "$(head -c 65536 disk.raw | b2sum -l 256 | cut -d' ' -f1)" ] &&
    tail -c +$((100 * 32 + 1)) hashes | head -c 32 | tr -d '\0' | wc -c | grep -qx 0
ok "hashes as a disk"
end
serve tcp:0 disk=disk.raw
exec 9<> "/dev/tcp/127.0.0.1/${address#tcp:}"
printf '\0\0\0\3IHAVE' >&9
end
ok "it ends although a client is silent"
exec 9>&-
done_testing
