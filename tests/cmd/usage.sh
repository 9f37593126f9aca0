#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: this exercises what every command has in common: help, wrong command lines, exit codes, errors as JSON.
. "$(dirname "$0")/../lib.sh"
requires jq

is 0 "--help" "$godwit" --help
[ -s out ] && [ ! -s err ]
ok "--help goes to stdout, nothing to stderr"
commands=$(sed -n '/^commands/,/^$/s/^  \([a-z]*\) .*/\1/p' out)
[ "$(echo "$commands" | wc -l)" = 18 ]
ok "the overview lists eighteen commands"
is 0 "--version" "$godwit" --version
has godwit out "--version names the program"
is 2 "no command" "$godwit"
has "godwit: no command given" err "... and one line says so"
is 2 "an unknown command" "$godwit" nonsense
is 2 "an unknown global option" "$godwit" --nonsense
is 2 "a job that is not a number" "$godwit" status seven
is 2 "an accelerator that is not known" "$godwit" jobs --accel hvf
is 0 "global options before the command" "$godwit" --state "$work/elsewhere" jobs
[ -f "$work/elsewhere/godwit.db" ]
ok "--state DIR is used"
[ "$(stat -c %a "$work/elsewhere" "$work/elsewhere/godwit.db" | tr '\n' ' ')" = "700 600 " ]
ok "the state folder and the store are for their owner only"

wide=
for c in "" $commands; do
    # shellcheck disable=SC2086
    "$godwit" $c --help > out 2> err || { false; ok "$c --help ends with 0"; }
    [ "$(wc -m < err)" = 0 ] || wide="$wide $c(stderr)"
    [ "$(wc -L < out)" -le 80 ] || wide="$wide $c"
done
[ -z "$wide" ]
ok "every --help is on stdout and at most 80 columns wide:$wide"
for c in $commands; do
    is 2 "$c --nonsense" "$godwit" "$c" --nonsense
    grep -q '^godwit: unknown option --nonsense$' err && [ "$(wc -l < err)" = 1 ] || { false; ok "$c: one line names the option"; }
done

for line in "migrate a" "copy a" "copy a b c" "info" "convert" "rehearse" "status" "resume" "finish" "discard" "verify" \
    "jobs a" "convert a" "help nonsense" "migrate a b --rate fast" "copy a b --verify much" "migrate a b --format vdi" \
    "migrate a nowhere:b" "rehearse a --port 22" "migrate a b --rate"; do
    touch a
    # shellcheck disable=SC2086
    is 2 "godwit $line" "$godwit" $line
done
"$godwit" status 99 --json > out 2> err
[ $? = 2 ] && jq -e '.code == 2 and (.error | test("no job 99"))' out > /dev/null && [ "$(wc -l < err)" = 1 ]
ok "with --json an error is JSON on stdout and a line on stderr"
"$godwit" --json nonsense > out 2> /dev/null
jq -e '.code == 2' out > /dev/null
ok "... also when the command line is wrong"
is 0 "jobs --json with no job" "$godwit" jobs --json
jq -e '. == []' out > /dev/null
ok "... is an empty list"
done_testing
