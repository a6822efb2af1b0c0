#!/bin/sh
# cli_docs.sh - --help, man page and completion list the same options, verb by verb.
#
# GEN and FOVEA name the programs. The completion is asked through bash, as a shell would.
set -u
: "${GEN:?path of gen}" "${FOVEA:?path of fovea}"
tools=$(cd "$(dirname "$0")/../tools" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
export LC_ALL=C
count=0 failed=0 skipped=0
ok() { # status, name
    count=$((count + 1))
    if [ "$1" = 0 ]; then echo "ok $count - $2"; return; fi
    failed=$((failed + 1))
    echo "not ok $count - $2"
}
skip() { count=$((count + 1)) skipped=$((skipped + 1)); echo "ok $count - $1 # SKIP $2"; }
same() { # files, name
    diff "$1" "$2" > difference
    code=$?
    sed -n 's/^[<>]/# &/p' difference
    ok $code "$3"
}

# Lines of two spaces and an option; "-o, --out FILE" counts twice.
of_help() {
    "$@" --help | sed -n 's/^  \(-[-a-zA-Z].*\)/\1/p' | cut -c1-30 | grep -o -- '--*[a-z][a-z-]*' |
        grep '^-' | sort -u
}
# Items "Fl x" and "Fl -long" below the subsection of the verb.
of_man() { # page, verb
    awk -v verb="$2" '
        /^\.S[sh] / { here = substr($0, 5) == verb; next }
        here && /^\.It / { for (i = 2; i < NF; i++) if ($i == "Fl") print "-" $(i + 1) }' "$1" | sort -u
}
of_completion() { # program, verb words
    program=$1
    shift
    bash -c '
        . "$1"
        shift
        COMP_WORDS=("$@" -)
        COMP_CWORD=$#
        "_$1"
        printf "%s\n" "${COMPREPLY[@]}"' bash "$tools/completion/$program.bash" "$@" | grep '^-' | sort -u
}

check() { # program, its path, verb words
    program=$1 path=$2
    shift 2
    name="$program${1:+ $*}"
    of_help "$path" "$@" > help
    [ -s help ]; ok $? "help_lists_options $name"
    of_man "$tools/man/$program.1" "$name" > man
    same help man "man_page_equals_help $name"
    if command -v bash > /dev/null; then
        of_completion "$program" "$program" "$@" > completion
        same help completion "completion_equals_help $name"
    else
        skip "completion_equals_help $name" "no bash"
    fi
}
check gen "$GEN"
check gen "$GEN" info
check gen "$GEN" calibrate
check gen "$GEN" explain
check fovea "$FOVEA"
check fovea "$FOVEA" train
check fovea "$FOVEA" convert
check fovea "$FOVEA" new
check fovea "$FOVEA" bench
check fovea "$FOVEA" bench quality
check fovea "$FOVEA" bench speedup

if command -v mandoc > /dev/null; then
    for page in "$tools"/man/*.1; do
        # Whether the other page is found depends on what is installed.
        mandoc -T lint "$page" 2>&1 | grep -v 'referenced manual not found' > lint
        sed 's/^/# /' lint
        [ ! -s lint ]; ok $? "mandoc_lint $(basename "$page")"
    done
else
    skip mandoc_lint "no mandoc"
fi
echo "1..$count"
echo "# $((count - failed - skipped)) passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
