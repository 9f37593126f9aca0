#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# symbols FOLDER PROGRAM…: this exercises: no global name of ours (FOLDER has our libraries) is one of the libraries that PROGRAMs
# are linked with. The linker says nothing then, and the library calls our function (once it was zlib, calling our crc32).
folder=$1
shift
mapfile -t programs < <(readlink -f "$@")
. "$(dirname "$0")/../lib.sh"
requires nm ldd
find "$folder" -name '*.a' -exec nm -g --defined-only {} + 2> /dev/null | awk 'NF == 3 { print $3 }' | sort -u > ours
[ "$(wc -l < ours)" -gt 300 ] && grep -qx disk_read ours
ok "our names are found"
ldd "${programs[@]}" | awk '$2 == "=>" { print $3 }' | grep -vE 'lib(a|ub)san' | sort -u > libraries
xargs nm -D -g --defined-only < libraries 2> /dev/null | awk 'NF == 3 { sub("@.*", "", $3); print $3 }' | sort -u > theirs
grep -qx SSL_read theirs && grep -qx crc32 theirs
ok "the libraries' names are found" libraries
comm -12 ours theirs > both
[ ! -s both ]
ok "no name is in both" both
done_testing
