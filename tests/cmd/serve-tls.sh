#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# serve-tls: this exercises STARTTLS of our NBD server with stock clients (nbdinfo, nbdcopy, qemu-img): who has a certificate of the
# authority gets in, nobody else, and nothing is told before.
. "$(dirname "$0")/../lib.sh"
requires jq nbdinfo nbdcopy qemu-img openssl
server=${NBD_SERVE:-$top/build/tests/cmd/nbd-serve}

authority() { # FOLDER
    mkdir -p "$1"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1/ca.key" -out "$1/ca-cert.pem" -days 2 \
        -subj "/CN=authority" -addext keyUsage=critical,keyCertSign 2> /dev/null
}
certificate() { # FOLDER OF-THE-AUTHORITY FILES' NAME COMMON-NAME
    mkdir -p "$1"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1/$3-key.pem" -out req.pem -subj "/CN=$4" 2> /dev/null
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' > ext
    openssl x509 -req -in req.pem -CA "$2/ca-cert.pem" -CAkey "$2/ca.key" -CAcreateserial -days 2 -extfile ext \
        -out "$1/$3-cert.pem" 2> /dev/null
    [ "$1" = "$2" ] || cp "$2/ca-cert.pem" "$1/"
}
serve() {
    rm -f address
    "$server" --key ours/server-key.pem --cert ours/server-cert.pem --ca ours/ca-cert.pem "$@" tcp:0 disk=disk.raw > address 2> log &
    pid=$!
    for _ in $(seq 200); do [ -s address ] && break; sleep 0.05; done
    port=$(sed -n 's/^tcp://p' address)
    uri=nbds://127.0.0.1:$port/disk
}
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
image() { echo "driver=nbd,host=127.0.0.1,port=$port,export=disk,tls-creds=t"; }

authority ours
certificate ours ours server agent
certificate friend ours client godwit
certificate stranger ours client somebody
authority theirs
certificate foreign theirs client godwit
cp ours/ca-cert.pem foreign/
mkdir nobody
cp ours/ca-cert.pem nobody/
dd if=/dev/urandom of=disk.raw bs=64K count=96 status=none
truncate -s 24M disk.raw

serve --only godwit
is 0 "nbdinfo with a certificate" nbdinfo --json "$uri?tls-certificates=$PWD/friend"
jq -e '.TLS and .structured and .exports[0]["export-size"] == 25165824' out > /dev/null
ok "... is inside of TLS, with all there is"
is 0 "the list of exports" nbdinfo --list --json "nbds://127.0.0.1:$port/?tls-certificates=$PWD/friend"
is 0 "nbdcopy" nbdcopy "$uri?tls-certificates=$PWD/friend" copied.raw
cmp disk.raw copied.raw
ok "... is exact"
is 0 "nbdcopy on four connections" nbdcopy --connections=4 "$uri?tls-certificates=$PWD/friend" four.raw
cmp disk.raw four.raw
ok "... is exact"
is 0 "qemu-img convert" qemu-img convert --object "tls-creds-x509,id=t,dir=$PWD/friend,endpoint=client" --image-opts "$(image)" -O raw q.raw
cmp disk.raw q.raw
ok "... is exact"

is 1 "no TLS" nbdinfo "nbd://127.0.0.1:$port/disk"
is 1 "no TLS for a list either" nbdinfo --list "nbd://127.0.0.1:$port/"
is 1 "no TLS, by qemu-img" qemu-img info "nbd://127.0.0.1:$port/disk"
is 1 "no certificate" nbdinfo "$uri?tls-certificates=$PWD/nobody"
is 1 "a certificate of another authority" nbdinfo "$uri?tls-certificates=$PWD/foreign"
is 1 "somebody else's certificate" nbdinfo "$uri?tls-certificates=$PWD/stranger"
has '"somebody", not "godwit"' log "... which is said"
is 0 "after all that it serves on" nbdinfo --size "$uri?tls-certificates=$PWD/friend"
exec 9<> "/dev/tcp/127.0.0.1/$port"
end
ok "it ends when asked, although a client is silent"
exec 9>&-
serve
is 0 "anybody of the authority, when nobody is named" nbdinfo --size "$uri?tls-certificates=$PWD/stranger"
end
done_testing
