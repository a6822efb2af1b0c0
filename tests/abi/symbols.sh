#!/bin/sh
# symbols.sh - the exported names of the shared library are a promise: they equal symbols.txt.
#
#     sh tests/abi/symbols.sh LIBFOVEA.SO             compare (the test)
#     sh tests/abi/symbols.sh --update LIBFOVEA.SO    write symbols.txt after a wanted change
#
# A second comparison is with the public headers: what is declared is there, and nothing else is.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
update=
if [ "${1:-}" = --update ]; then update=1; shift; fi
lib=${1:?usage: symbols.sh [--update] LIBFOVEA.SO}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export LC_ALL=C
# clang makes the locks of OpenMP's critical sections public, as ".gomp_critical_...".
nm -D --defined-only "$lib" | awk '$NF !~ /^\./ { print $NF }' | sed 's/@.*//' |
    sort -u > "$work/exported"
find "$top/kernels" "$top/diffusion" "$top/ar" "$top/codec" "$top/distill" -name "fovea*.h" \
    -exec cat {} + 2> /dev/null | sed -n '/^FV_API/,/;/p' | tr '\n' ' ' | sed 's/FV_API/\
/g' | sed 's/FV_NODISCARD//; s/(.*//' | grep -o 'fv_[a-z0-9_]*$' | sort -u > "$work/declared"

if [ -n "$update" ]; then
    cp "$work/exported" "$here/symbols.txt"
    echo "symbols.txt: $(wc -l < "$here/symbols.txt") names"
fi
failed=0
if diff "$here/symbols.txt" "$work/exported" > "$work/diff"; then
    echo "ok 1 - exported_names_equal_symbols_txt"
else
    sed 's/^/# /' "$work/diff"
    echo "# < is missing in the library, > is new; after a wanted change: symbols.sh --update"
    echo "not ok 1 - exported_names_equal_symbols_txt"
    failed=$((failed + 1))
fi
if diff "$work/declared" "$work/exported" > "$work/diff"; then
    echo "ok 2 - exported_names_equal_public_headers"
else
    sed 's/^/# /' "$work/diff"
    echo "# < is declared but not exported, > is exported but not declared"
    echo "not ok 2 - exported_names_equal_public_headers"
    failed=$((failed + 1))
fi
echo "# $((2 - failed)) passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
