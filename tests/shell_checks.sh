# shell_checks.sh - what the scripts cli_*.sh share: an empty folder, results in TAP, exit codes,
# messages, files, JSON, small pictures and models.
#
# To be sourced first: $tests is then the folder of the scripts, and $work, the current one, an empty
# folder that is removed at the end. Commands leave their output in the files out and err.
# shellcheck shell=sh
tests=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work" || exit 1
export LC_ALL=C
count=0 failed=0 skipped=0

ok() { # status, name
    count=$((count + 1))
    if [ "$1" = 0 ]; then echo "ok $count - $2"; return; fi
    failed=$((failed + 1))
    sed 's/^/# /' err 2> /dev/null
    echo "not ok $count - $2"
}
skip() { count=$((count + 1)) skipped=$((skipped + 1)); echo "ok $count - $1 # SKIP $2"; }
run() { "$@" > out 2> err < /dev/null; }
# The command ends with this code.
expect() { # name, code, command
    name=$1 want=$2
    shift 2
    run "$@"
    got=$?
    if [ "$got" != "$want" ]; then echo "# exit code $got, not $want: $*"; ok 1 "$name"; else ok 0 "$name"; fi
}
# It fails with this code, one line on stderr that matches, nothing on stdout, and no new files.
refuse() { # name, code, pattern, command
    name=$1 want=$2 pattern=$3
    shift 3
    ls -A > before
    run "$@"
    got=$?
    ls -A > after
    bad=0
    [ "$got" = "$want" ] || { echo "# exit code $got, not $want: $*"; bad=1; }
    [ "$(wc -l < err)" -eq 1 ] || { echo "# not one line"; bad=1; }
    grep -q "^[a-z]*: " err || { echo "# does not begin with the program"; bad=1; }
    grep -qi -- "$pattern" err || { echo "# message lacks: $pattern"; bad=1; }
    [ ! -s out ] || { echo "# something on stdout"; bad=1; }
    cmp -s before after || { echo "# files changed"; diff before after | sed 's/^/# /'; bad=1; }
    ok "$bad" "$name"
}
: > out; : > err; : > before; : > after
is_png() { [ "$(head -c 8 "$1" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ]; }
json_ok() { # file, keys: is it one JSON object with them?
    file=$1
    shift
    if command -v python3 > /dev/null; then
        python3 -c 'import json, sys
o = json.load(open(sys.argv[1]))
missing = [k for k in sys.argv[2:] if k not in o]
assert not missing, missing' "$file" "$@" 2>> err
        return
    fi
    for key; do grep -q "\"$key\":" "$file" || return 1; done
}
# Value of a key in the JSON of the last command.
value() { sed -n "s/^  \"$1\": \([^,]*\),*\$/\1/p" out; }
# The last command's program stayed within this many bytes.
memory_within() { # bytes, name
    if [ -n "${SANITIZED:-}" ]; then skip "$2" "sanitizers need memory of their own"; return; fi
    peak=$(value peak_resident_bytes)
    [ "${peak:-0}" -gt 0 ] && [ "$peak" -le "$1" ]
    ok $? "$2"
}
near() { # value, from, to
    awk -v v="$1" -v lo="$2" -v hi="$3" 'BEGIN { exit !(v >= lo && v <= hi) }'
}
grey() { # name, columns, rows, awk expression of x and y
    awk -v w="$2" -v h="$3" "BEGIN { print \"P2\"; print w, h; print 255
        for (y = 0; y < h; y++) for (x = 0; x < w; x++) print int($4) }" > "$1"
}
# model.safetensors for vpic, by a training of two steps, so that its pictures are fog; what was
# trained stays in the folder run.
make_rdvq_model() {
    mkdir -p data
    cp "$tests/data/photos/000_extreme-desert-hike.webp" "$tests/data/photos/009_taipei-city.webp" data
    cat > tiny.recipe << 'RECIPE'
engine = rdvq
stage = tokenizer
preset = rdvq-xs
data = data
codes = 32
batch = 1
crop = 128
steps = 2
kmeans_at = 1
eval_pictures = 0
sample_every = 0
precision = f32
export = f32
RECIPE
    "$FOVEA" train tiny.recipe --data-dir . -o run > out 2> err &&
        "$FOVEA" convert run/model.safetensors -o model.safetensors >> out 2>> err
}
# The process has a handler for SIGTERM: it is past its beginning (Linux tells, else a second does).
wait_for_handler() { # process
    tries=0
    [ -r "/proc/$1/status" ] || sleep 1
    while [ -r "/proc/$1/status" ] && [ $tries -lt 100 ]; do
        caught=$(sed -n 's/^SigCgt:.*\([0-9a-f]\)[0-9a-f]\{3\}$/\1/p' "/proc/$1/status")
        case $caught in [4567cdef]) return ;; esac # SIGTERM is bit 14
        sleep 0.1
        tries=$((tries + 1))
    done
}
interrupt() { # name, signal, file, command: 130, and no trace of the file
    name=$1 signal=$2 file=$3
    shift 3
    "$@" > out 2> err &
    pid=$!
    wait_for_handler "$pid"
    sleep 0.3 # into its work
    kill "-$signal" "$pid" 2> /dev/null
    wait "$pid"
    got=$?
    left=$(find . -name "$file*")
    [ "$got" = 130 ] || echo "# exit code $got, not 130"
    [ "$got" = 130 ] && [ -z "$left" ] && [ "$(wc -l < err)" -eq 1 ]
    ok $? "$name"
}
finish() { # the last line of a script
    echo "1..$count"
    echo "# $((count - failed - skipped)) passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}
