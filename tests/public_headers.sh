#!/bin/sh
# public_headers.sh CC [CXX] - each public header compiles alone, as C11 and as C++17.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
cc=${1:?usage: public_headers.sh CC [CXX]}
cxx=${2:-}
case $cxx in *NOTFOUND) cxx= ;; esac
passed=0 failed=0 skipped=0 count=0
result() { # name status
    count=$((count + 1))
    if [ "$2" = 0 ]; then passed=$((passed + 1)); echo "ok $count - $1"
    else failed=$((failed + 1)); echo "not ok $count - $1"; fi
}
for header in "$top"/kernels/fovea.h "$top"/diffusion/fovea_*.h "$top"/ar/fovea_*.h \
              "$top"/codec/fovea_*.h "$top"/distill/fovea_*.h; do
    [ -f "$header" ] || continue
    name=$(basename "$header")
    status=0
    # Twice: the include guard works.
    printf '#include "%s"\n#include "%s"\nint main(void) { return 0; }\n' "$name" "$name" |
        "$cc" -std=c11 -Wall -Wextra -pedantic -Werror -fsyntax-only -I"$top/kernels" -I"$top/diffusion" \
              -I"$(dirname "$header")" -x c - || status=$?
    result "${name}_alone_as_c11" "$status"
    if [ -n "$cxx" ]; then
        status=0
        printf '#include "%s"\n#include "%s"\nint main() { return 0; }\n' "$name" "$name" |
            "$cxx" -std=c++17 -Wall -Wextra -pedantic -Werror -fsyntax-only -I"$top/kernels" -I"$top/diffusion" \
                   -I"$(dirname "$header")" -x c++ - || status=$?
        result "${name}_alone_as_cxx17" "$status"
    else
        count=$((count + 1)) skipped=$((skipped + 1))
        echo "ok $count - ${name}_alone_as_cxx17 # skip no C++ compiler"
    fi
done
echo "# $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
