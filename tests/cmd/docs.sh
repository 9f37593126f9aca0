#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# docs: this exercises that man pages and completion say what --help says: every command has a page, every option stands in
# it, none stands there that --help does not know, and the completion offers them.
. "$(dirname "$0")/../lib.sh"
requires scdoc bash

"$godwit" help --scdoc > page.scd && scdoc < page.scd > page.1
ok "godwit(1) is made"
commands=$("$godwit" --help | sed -n '/^commands/,/^$/s/^  \([a-z]*\) .*/\1/p')
for c in $commands; do
    "$godwit" help --scdoc "$c" > page.scd && scdoc < page.scd > "$c.1" 2> err
    ok "godwit-$c(1) is made"
    "$godwit" "$c" --help | grep -o -- '^ .*--[a-z][a-z-]*' | grep -o -- '--[a-z][a-z-]*' | sort -u > in-help
    grep -o -- '^\*.*' page.scd | grep -o -- '--[a-z][a-z-]*' | sort -u > in-page
    cmp -s in-help in-page
    ok "its options are those of --help"
    cmp -s in-help in-page || diff in-help in-page | sed 's/^/#   /'
    grep -q "godwit-$c" "$top/man/meson.build" || grep -q "'$c'" "$top/man/meson.build"
    ok "it is installed"
done

cat > complete.bash << 'EOF'
source ./godwit.bash
try() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    _godwit
    echo "${COMPREPLY[*]}"
}
compopt() { :; }
"$@"
EOF
"$godwit" help --completion > godwit.bash
bash -n godwit.bash
ok "the completion is a bash script"
bash complete.bash try godwit mig > out
[ "$(cat out)" = migrate ]
ok "a command is completed"
bash complete.bash try godwit migrate --ver > out
has "--verify=" out "an option is completed"
bash complete.bash try godwit migrate --verify fu > out
[ "$(cat out)" = full ]
ok "a choice is completed"
bash complete.bash try godwit migrate --verify=s > out
[ "$(cat out)" = sample ]
ok "... after = too"
touch disk.vmdk
bash complete.bash try godwit info disk > out
[ "$(cat out)" = disk.vmdk ]
ok "a file is completed"
done_testing
