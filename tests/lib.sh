# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For shell tests. Every test runs alone (`sh tests/cmd/copy.sh`), in a fresh folder that goes when it ends, also when it is
# killed by a signal, and speaks TAP. After sourcing: $godwit is the program, $top the project, the folder is the test's own.
#
#   ok NAME [FILE…]      the status of the last command is the verdict; files are shown when it is bad
#   is CODE NAME cmd…    runs cmd, output to ./out and ./err; passes if it ends with CODE
#   has TEXT FILE NAME   passes if FILE contains TEXT
#   skip NAME WHY        counted as skipped
#   requires PROGRAM…    skips the whole test unless all are there
#   foreign_guest KIND   makes it, see tests/guests/make: $disk and the facts about it; skips the test where none can be made
#   cleanup COMMAND      run at the end, the last one first
#   done_testing         the last line
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
godwit=${GODWIT:-$top/build/src/cmd/godwit}
[ -x "$godwit" ] || { echo "Bail out! $godwit is not built"; exit 1; }
case $godwit in /*) ;; *) godwit=$PWD/$godwit ;; esac
tap_n=0 tap_bad=0 cleanups=:

cleanup() { cleanups="$1; $cleanups"; }
at_end() {
    status=$?
    [ $BASHPID = $$ ] || exit $status # a part in the background that failed
    cd /
    eval "$cleanups"
    rm -rf "$work"
    exit $status
}
work=$(mktemp -d "${TMPDIR:-/var/tmp}/godwit-test-XXXXXX") || exit 1
trap at_end EXIT
trap 'exit 130' INT TERM HUP
cd "$work" || exit 1
export GODWIT_STATE="$work/state" GODWIT_ACCEL=tcg TMPDIR="$work"
export ASAN_OPTIONS="${ASAN_OPTIONS:-abort_on_error=0}"

ok() {
    if [ $? = 0 ]; then
        tap_n=$((tap_n + 1))
        echo "ok $tap_n - $1"
    else
        tap_n=$((tap_n + 1)) tap_bad=1
        echo "not ok $tap_n - $1"
        shift
        [ $# = 0 ] || tail -n 20 -v -- "$@" | sed 's/^/#   /'
    fi
}
is() {
    want=$1 name=$2
    shift 2
    "$@" > out 2> err
    got=$?
    [ "$got" = "$want" ]
    ok "$name"
    if [ "$got" != "$want" ]; then
        echo "#   $* ended with $got instead of $want"
        sed 's/^/#   out: /' out | head -20
        sed 's/^/#   err: /' err | head -20
    fi
}
has() {
    grep -qF -- "$1" "$2"
    ok "$3"
    if ! grep -qF -- "$1" "$2"; then
        echo "#   \"$1\" is not in:"
        sed 's/^/#   /' "$2" | head -20
    fi
}
skip() { tap_n=$((tap_n + 1)); echo "ok $tap_n - $1 # SKIP $2"; }
requires() {
    for program; do
        command -v "$program" > /dev/null || { echo "1..0 # SKIP $program is not installed"; exit 0; }
    done
}
foreign_guest() {
    requires qemu-system-x86_64 qemu-img mmdebstrap sfdisk
    [ "$(id -u)" = 0 ] || { echo "1..0 # SKIP making a foreign guest needs root"; exit 0; }
    [ -e /dev/loop-control ] || { echo "1..0 # SKIP making a foreign guest needs loop devices"; exit 0; }
    disk=$("$top/tests/guests/make" "$1") || { echo "1..1"; echo "not ok 1 - the guest $1 is made"; exit 1; }
    # shellcheck disable=SC1090,SC1091
    . "${disk%/*}/facts"
}
done_testing() { echo "1..$tap_n"; exit $tap_bad; }
