#!/bin/sh
# source_tree.sh - rules of the tree that a compiler does not check.
#
# kernels/ includes nothing of the engines; engines include kernels/ and themselves (distill/ also
# diffusion/); tools/ and the examples include public headers only; a file name occurs once.
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C
count=0 failed=0
result() { # name, offending lines
    count=$((count + 1))
    if [ -z "$2" ]; then echo "ok $count - $1"; return; fi
    failed=$((failed + 1))
    printf '%s\n' "$2" | sed 's/^/# /'
    echo "not ok $count - $1"
}

# "file: header" for each local include of a folder.
includes() {
    find "$1" -type f \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) |
        sort | xargs grep -H '^ *# *include *"' /dev/null |
        sed 's/^\([^:]*\):.*"\([^"]*\)".*/\1: \2/'
}
# Includes of folder $1 that are not files of the folders that follow.
foreign() {
    folder=$1
    shift
    includes "$folder" | while IFS= read -r line; do
        header=${line##*: } found=
        for from in "$@"; do
            if [ -f "$from/$header" ]; then found=1; fi
        done
        if [ -z "$found" ]; then echo "$line"; fi
    done
}

for engine in diffusion ar codec; do
    [ -d "$engine" ] && result "${engine}_includes_kernels_and_itself" \
        "$(foreign "$engine" kernels "$engine")"
done
[ -d distill ] && result distill_includes_kernels_diffusion_and_itself \
    "$(foreign distill kernels diffusion distill)"
result kernels_includes_itself "$(foreign kernels kernels)"
own=$(find tools -type f -name '*.h' -exec basename {} \; | tr '\n' ' ')
result tools_include_public_headers "$(includes tools | while IFS= read -r line; do
    header=${line##*: }
    case " $own fovea.h fovea_diffusion.h fovea_ar.h fovea_codec.h fovea_distill.h " in
    *" $header "*) ;;
    *) echo "$line" ;;
    esac
done)"

# Fuzz inputs are named by their content and may repeat between targets.
if git rev-parse --is-inside-work-tree > /dev/null 2>&1; then
    files=$(git ls-files --cached --others --exclude-standard)
else
    # No git: what .gitignore names is left out by hand.
    files=$(find . \( -path ./.git -o -path './build*' -o -path ./out \) -prune -o -type f -print |
        sed 's#^\./##')
fi
result file_names_are_unique "$(printf '%s\n' "$files" | grep -v '^tests/fuzz/corpus/' |
    grep -v '^tests/data/' | awk -F/ '
        $NF == "README.md" || $NF == "internal.h" || $NF == "CMakeLists.txt" || $NF ~ /^\./ { next }
        { if ($NF in first) print first[$NF] " and " $0; else first[$NF] = $0 }')"
result no_file_is_over_12_mib "$(printf '%s\n' "$files" | while IFS= read -r f; do
    if [ -f "$f" ] && [ "$(wc -c < "$f")" -gt 12582912 ]; then echo "$f"; fi
done)"
result shell_scripts_parse "$(printf '%s\n' "$files" | grep -E '\.sh$' | while IFS= read -r f; do
    if ! sh -n "$f" 2>&1; then echo "$f"; fi
done; bash -n .ci/run 2>&1 || echo .ci/run)"
result public_text_names_no_private_folder "$(printf '%s\n' "$files" |
    grep -E '\.(c|h|S|md|sh|txt|py|recipe|1|3)$' | grep -v '^tests/source_tree.sh$' |
    xargs grep -nE '(^|[ "(=])/(work|root)/' /dev/null)"
echo "# $((count - failed)) passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
