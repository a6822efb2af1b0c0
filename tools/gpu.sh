#!/bin/sh
# gpu.sh - everything that a GPU is to show, by one command: tests, compute-sanitizer, benchmarks.
#
#     sh tools/gpu.sh [run] [options]      build, run, and print a table
#     sh tools/gpu.sh pack FOLDER          all of it for a machine that cannot build: copy FOLDER there
#     sh FOLDER/gpu.sh [run] [options]
#
#     --only PARTS    of tests, sanitizer, bench, peer; separated by commas (default: all)
#     --quick         tests, and short benchmarks
#     --out FOLDER    logs and results (default: build/gpu/results, or FOLDER/results)
#     --build FOLDER  of the build that is made or used (default: build/gpu)
#     --json          the table as one JSON object
#     --help
#
# Without a device nothing is built or run, and the exit code is 0. Otherwise it is 1 when a test fails,
# a sanitizer finds something, or a benchmark cannot run. peer is PyTorch (tests/parity/gpu_peer.py), which
# is left out where it is not installed. Programs that were packed need glibc 2.36, the driver, and
# cuBLASLt of the toolkit that they were built with: from the system, /usr/local/cuda*, or python's
# packages of the names nvidia-*.
set -u
here=$(cd "$(dirname "$0")" && pwd) || exit 1
if [ -f "$here/packed" ]; then packed=1 top=$here; else packed='' top=$(dirname "$here"); fi
jobs=$(nproc 2> /dev/null || echo 2)
checks=''
for file in "$top"/tests/check_cuda*; do
    name=$(basename "$file" .c)
    if [ "$name" != 'check_cuda*' ]; then checks="$checks $name"; fi
done
none='no CUDA device: nothing was run'

usage() {
    sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0" | sed '$!b; /^set/d'
    exit "$1"
}
fail() {
    echo "gpu.sh: $*" >&2
    exit 1
}
verb=run only=tests,sanitizer,bench,peer quick='' json='' out='' build=$top/build/gpu to=''
case ${1:-} in
run) shift ;;
pack)
    verb=pack to=${2:-}
    case $to in ''|-*) echo 'gpu.sh: pack: a folder is missing' >&2; exit 2 ;; esac
    shift 2
    ;;
esac
while [ $# -gt 0 ]; do
    case $1 in
    --help) usage 0 ;;
    --quick) quick=1 ;;
    --json) json=1 ;;
    --only | --out | --build)
        [ $# -gt 1 ] || { echo "gpu.sh: $1 needs a value" >&2; exit 2; }
        case $1 in --only) only=$2 ;; --out) out=$2 ;; *) build=$2 ;; esac
        shift
        ;;
    *) echo "gpu.sh: $1: unknown; see --help" >&2; exit 2 ;;
    esac
    shift
done
for part in $(echo "$only" | tr , ' '); do
    case $part in
    tests | sanitizer | bench | peer) ;;
    *) echo "gpu.sh: --only $part: there are tests, sanitizer, bench and peer" >&2; exit 2 ;;
    esac
done
wanted() { case ,$only, in *",$1,"*) return 0 ;; esac; return 1; }
say() { if [ -n "$json" ]; then echo "$@" >&2; else echo "$@"; fi; }

# ---- Building, packing -----------------------------------------------------------------------------

# Without the models in the programs: with them, each test has its own 12 MB.
make_programs() { # log
    generator=Ninja
    command -v ninja > /dev/null || generator='Unix Makefiles'
    [ -f "$build/CMakeCache.txt" ] || # a folder that was given keeps its settings
        cmake -S "$top" -B "$build" -G "$generator" -DFOVEA_TESTS=ON -DFOVEA_EMBED=OFF \
            -DFOVEA_CUDA=ON > "$1" 2>&1 || { tail -n 5 "$1" >&2; return 1; }
    # shellcheck disable=SC2086
    cmake --build "$build" -j "$jobs" --target fovea_cuda program_fovea program_gen test_cuda_ops \
        $checks >> "$1" 2>&1 || { tail -n 20 "$1" >&2; return 1; }
}

# Libraries of all programs but glibc's and CUDA's, which belong to the system and to the driver.
libraries_of() {
    ldd "$@" 2> /dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
        grep -v -E '/(ld-linux|libc\.|libm\.|libmvec\.|libdl\.|libpthread\.|librt\.|libresolv\.|libcu|libnv|libnccl)'
}

pack() {
    if [ -e "$to" ] && ! [ -f "$to/packed" ]; then
        if ! [ -d "$to" ] || [ -n "$(ls -A "$to")" ]; then fail "pack: $to is there and not a pack"; fi
    fi
    rm -rf "${to:?}/bin" "$to/tests" "${to:?}/lib" "$to/models" "$to/data"
    mkdir -p "$to/bin" "$to/tests" "$to/lib" "$to/models" "$to/data/tests/parity" \
        "$to/data/codec" "$to/data/kernels" || exit 1
    say "gpu.sh: building in $build"
    make_programs "$to/build.log" || fail "pack: the build failed, $to/build.log says how"
    rm -f "$to/build.log"
    cp "$build/bin/fovea" "$build/bin/gen" "$to/bin/" || exit 1
    cp "$build/libfovea_cuda.so" "$to/lib/" || exit 1
    for name in test_cuda_ops $checks; do cp "$build/tests/$name" "$to/tests/" || exit 1; done
    for library in $(libraries_of "$to"/bin/* "$to"/tests/*); do
        cp -L "$library" "$to/lib/" || exit 1
    done
    strip "$to"/bin/* "$to"/tests/* "$to"/lib/*.so* 2> /dev/null
    gzip -f "$to"/lib/*.so* || exit 1 # oneDNN alone has 38 MiB
    cp "$top/diffusion/models/f64c.safetensors" "$top/codec/models/rdvq_xs_08.safetensors" \
        "$to/models/" || exit 1
    cp "$top"/tests/parity/vae_small.safetensors "$top"/tests/parity/taesd_*coder_small.safetensors \
        "$to/data/tests/parity/" || exit 1
    for text in codec/fovea_codec.h codec/FORMAT-vz.md codec/README.md kernels/fovea.h; do
        cp "$top/$text" "$to/data/$text" || exit 1
    done
    cp "$here/gpu.sh" "$to/" || exit 1
    for script in gpu_peer bench_torch ar_torch torch_common; do
        if [ -f "$top/tests/parity/$script.py" ]; then
            cp "$top/tests/parity/$script.py" "$to/data/tests/parity/" || exit 1
        fi
    done
    "$build/bin/fovea" --version > "$to/packed" || exit 1
    bytes=$(find "$to" -type f -exec wc -c {} + | awk '$2 != "total" { n += $1 } END { print n }')
    echo "$to: $(awk -v n="$bytes" 'BEGIN { printf "%.1f", n / 1048576 }') MiB; there: sh gpu.sh run"
}
if [ "$verb" = pack ]; then
    [ -z "$packed" ] || fail 'pack: this is one'
    pack
    exit 0
fi

# ---- Is there a device? Asked before anything is built ---------------------------------------------

each_folder() { echo "${LD_LIBRARY_PATH:-}" | tr : '\n' | grep .; }
may_have_device() {
    for file in /dev/nvidia[0-9]* /dev/nvidiactl /dev/dxg /proc/driver/nvidia/version \
        /usr/local/nvidia/lib64/libcuda.so.1; do
        if [ -e "$file" ]; then return 0; fi
    done
    if nvidia-smi -L > /dev/null 2>&1; then return 0; fi
    if ldconfig -p 2> /dev/null | grep -q 'libcuda\.so\.1'; then return 0; fi
    for folder in $(each_folder); do # the last: a device of the tests
        if [ -e "$folder/libcuda.so.1" ] || [ -e "$folder/libfovea_cuda.so" ]; then return 0; fi
    done
    return 1
}
if ! may_have_device; then
    if [ -n "$json" ]; then echo '{"device": null, "outcome": "'"$none"'"}'; else echo "$none"; fi
    exit 0
fi
if [ -z "$out" ]; then
    if [ -n "$packed" ]; then out=$here/results; else out=$build/results; fi
    mkdir -p "$out" 2> /dev/null || out=$(mktemp -d) || exit 1
fi
rm -rf "$out/logs" "$out/table.tsv" "$out/bench.json" "$out/peer.json"
mkdir -p "$out/logs" || exit 1
out=$(cd "$out" && pwd)
if [ -n "$packed" ]; then
    bin=$here/bin programs=$here/tests data=$here/data/tests module=$out/lib/libfovea_cuda.so
    dit=$here/models/f64c.safetensors vpic=$here/models/rdvq_xs_08.safetensors
else
    say "gpu.sh: building in $build (log: $out/logs/build.log)"
    make_programs "$out/logs/build.log" || fail "the build failed: $out/logs/build.log"
    bin=$build/bin programs=$build/tests data=$top/tests module=$build/libfovea_cuda.so
    dit=$top/diffusion/models/f64c.safetensors vpic=$top/codec/models/rdvq_xs_08.safetensors
fi

# ---- Libraries -------------------------------------------------------------------------------------

# Folders where CUDA's libraries may lie, in the order in which they are looked through.
cuda_folders() {
    each_folder
    ls -d /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib /opt/cuda/lib64 \
        /usr/lib/x86_64-linux-gnu 2> /dev/null
    for python in python3 python; do
        for folder in $("$python" -c 'import sys; print("\n".join(sys.path))' 2> /dev/null); do
            ls -d "$folder"/nvidia/*/lib 2> /dev/null
        done
    done
}
library_path() {
    path=$out/lib:${LD_LIBRARY_PATH:-}
    [ -n "$packed" ] || path=${LD_LIBRARY_PATH:-}
    if ! ldconfig -p 2> /dev/null | grep -q 'libcuda\.so\.1' &&
        [ -e /usr/local/nvidia/lib64/libcuda.so.1 ]; then path=$path:/usr/local/nvidia/lib64; fi
    needed=$(grep -a -o -E 'lib(cublasLt|cublas|cudnn_graph|cufft|nccl)\.so\.[0-9]+' "$module" | sort -u)
    for name in $needed; do
        if ldconfig -p 2> /dev/null | grep -q -F "$name"; then continue; fi
        for folder in $(cuda_folders); do
            if [ -e "$folder/$name" ]; then
                path=$path:$folder
                break
            fi
        done
    done
    echo "$path" | sed 's/::*/:/g; s/^://; s/:$//'
}
mkdir -p "$out/lib"
for file in "$top"/lib/*.gz; do
    if ! [ -e "$file" ]; then continue; fi
    gzip -dc "$file" > "$out/lib/$(basename "$file" .gz)" || fail "$file: cannot be unpacked"
done
library=$(library_path)
ours() { env ${library:+LD_LIBRARY_PATH="$library"} OMP_WAIT_POLICY=passive "$@"; }

ours "$bin/gen" info --devices > "$out/logs/devices.log" 2>&1
say "$(cat "$out/logs/devices.log")"
if ! grep -q '^cuda  *[0-9]' "$out/logs/devices.log"; then
    if nvidia-smi -L 2> /dev/null | grep -q '^GPU'; then
        fail "nvidia-smi sees a GPU, fovea does not: $(sed -n 's/^cuda *//p' "$out/logs/devices.log")"
    fi
    if [ -n "$json" ]; then echo '{"device": null, "outcome": "'"$none"'"}'; else echo "$none"; fi
    exit 0
fi
device=$(sed -n 's/^cuda  *[0-9]*: \([^,]*\),.*/\1/p' "$out/logs/devices.log" | head -n 1)

# ---- Steps: each a process of its own, so that a failure of the device ends one of them ------------

table=$out/table.tsv
: > "$table"
bad=0
limited() { # seconds, command
    seconds=$1
    shift
    if command -v timeout > /dev/null; then timeout -k 5 "$seconds" "$@"; else "$@"; fi
}
now() { date +%s.%N | cut -c 1-14; }
note() { # check, outcome, seconds, detail
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >> "$table"
    say "$(printf '%-34s %-8s %7s  %s' "$1" "$2" "$3" "$4")"
    case $2 in failed) bad=1 ;; esac
}
# step NAME SECONDS COMMAND...: what TAP and exit code say. 124: time was up.
step() {
    name=$1 room=$2
    shift 2
    log=$out/logs/$(echo "$name" | tr ' /' '__').log
    begin=$(now)
    ours_limited "$room" "$@" > "$log" 2>&1
    status=$?
    took=$(echo "$begin $(now)" | awk '{ printf "%.1f", $2 - $1 }')
    counts=$(sed -n 's/^# \([0-9]* passed, [0-9]* failed, [0-9]* skipped\)$/\1/p' "$log" | tail -n 1)
    case $status in
    0) outcome=passed ;;
    124 | 137) outcome='time up' counts="after $room s; $counts" ;;
    *) outcome=failed counts="$counts exit $status; $(grep -m 1 -E '^# .*failed:|^not ok|error' "$log" | cut -c 1-90)" ;;
    esac
    # Wrong results stand in the log of a program that was cut off, too.
    if [ "$outcome" = 'time up' ] && grep -q '^not ok\|ERROR SUMMARY: [1-9]' "$log"; then outcome=failed; fi
}
ours_limited() {
    seconds=$1
    shift
    limited "$seconds" env ${library:+LD_LIBRARY_PATH="$library"} OMP_WAIT_POLICY=passive "$@"
}

tests() {
    step test_cuda_ops 240 "$programs/test_cuda_ops"
    note "$name" "$outcome" "$took" "$counts"
    for check in $checks; do
        step "$check" 240 "$programs/$check" --device cuda --data "$data"
        if [ "$outcome" = 'time up' ]; then outcome=failed; fi
        note "$check" "$outcome" "$took" "$counts"
    done
}

find_sanitizer() {
    command -v compute-sanitizer 2> /dev/null && return
    for file in /usr/local/cuda*/bin/compute-sanitizer \
        /usr/local/cuda*/compute-sanitizer/compute-sanitizer /opt/nvidia/*/compute-sanitizer; do
        if [ -x "$file" ]; then
            echo "$file"
            return
        fi
    done
}
# All tools are slow by a factor of 10 and more: the parts of the checks that launch every kernel, and
# three minutes for all of it. Our kernels are told from cuBLASLt's by the types of their arguments.
sanitize() { # tool, check, tests
    left=$((sanitizer_end - $(date +%s)))
    if [ "$left" -lt 5 ]; then
        note "$1 $2" skipped 0.0 'time for sanitizers is up'
        return
    fi
    filter='--kernel-name kns=fvk_'
    if [ "$1" = memcheck ]; then filter='--report-api-errors no'; fi # some tests provoke errors
    if [ "$left" -gt 50 ]; then left=50; fi
    # shellcheck disable=SC2086
    step "$1 $2" "$left" "$sanitizer" --tool "$1" $filter --error-exitcode 9 "$programs/$2" \
        --device cuda --data "$data" --only "$3"
    counts="$(sed -n 's/^=*  *\(ERROR SUMMARY.*\|RACECHECK SUMMARY.*\)/\1/p' "$log" | tail -n 1) $counts"
    if grep -q 'Device not supported' "$log"; then outcome=skipped counts='the tool refuses this device'; fi
    note "$1 $2" "$outcome" "$took" "$counts"
}
sanitizers() {
    sanitizer=$(find_sanitizer)
    if [ -z "$sanitizer" ]; then
        note sanitizer skipped 0.0 'compute-sanitizer is not installed'
        return
    fi
    sanitizer_end=$(($(date +%s) + 170))
    sanitize memcheck check_cuda ops_and_gradients
    sanitize racecheck check_cuda ops_and_gradients
    sanitize memcheck check_cuda_ar passes_in_f32
    sanitize racecheck check_cuda_ar passes_in_f32
    sanitize memcheck check_cuda_tokens any_integers
    sanitize racecheck check_cuda_vzip walks_are_long
    sanitize memcheck check_cuda_vzip walks_are_long
    sanitize synccheck check_cuda ops_and_gradients
    sanitize initcheck check_cuda_dit in_f32
}

bench() {
    begin=$(now)
    ours_limited 400 "$bin/fovea" bench gpu --json ${quick:+--quick} --dit "$dit" --vpic "$vpic" \
        > "$out/bench.json" 2> "$out/logs/bench.log"
    status=$?
    took=$(echo "$begin $(now)" | awk '{ printf "%.1f", $2 - $1 }')
    if [ "$status" = 0 ]; then note 'fovea bench gpu' passed "$took" "$out/bench.json"
    else note 'fovea bench gpu' failed "$took" "exit $status; $(tail -n 1 "$out/logs/bench.log")"; fi
}
# step of a bench with its object in a file; what is told of it: values of keys, in awk's words.
bench_step() { # name, file, awk program for "key": value, command
    name=$1 file=$2 words=$3
    shift 3
    begin=$(now)
    ours_limited 200 "$@" > "$out/$file.json" 2> "$out/logs/$file.log"
    status=$?
    took=$(echo "$begin $(now)" | awk '{ printf "%.1f", $2 - $1 }')
    if [ "$status" = 0 ]; then
        note "$name" passed "$took" "$(tr -d '",' < "$out/$file.json" | awk -F ': ' "$words")"
    elif grep -q 'on CUDA yet' "$out/logs/$file.log"; then
        note "$name" skipped "$took" "$(tail -n 1 "$out/logs/$file.log")"
    else note "$name" failed "$took" "exit $status; $(tail -n 1 "$out/logs/$file.log")"; fi
}
# shellcheck disable=SC2016
contracts() {
    bench_step 'PLACE in an iteration' distill '/^ *place_percent:/ { print $2, "% of it" }' \
        "$bin/fovea" bench distill "$dit" --device cuda --rounds 3 --json
    bench_step 'speed-up of 2 asked' speedup '/^ *method:/ { m = $2 }
        /speedup_measured/ { printf "%s %.3f; ", m, $2 }' \
        "$bin/fovea" bench speedup "$dit" --device cuda --speedup 2 --samples 16 --batch 16 --runs 3 \
        --json
}
peer() {
    for python in python3 python ''; do
        if [ -n "$python" ] && "$python" -c 'import torch' > /dev/null 2>&1; then break; fi
    done
    if [ -z "$python" ] || ! [ -f "$data/parity/gpu_peer.py" ]; then
        note 'PyTorch' skipped 0.0 'no python that has torch'
        return
    fi
    begin=$(now)
    # Its own libraries, not those that our programs found.
    limited 400 "$python" "$data/parity/gpu_peer.py" --json ${quick:+--quick} > "$out/peer.json" \
        2> "$out/logs/peer.log"
    status=$?
    took=$(echo "$begin $(now)" | awk '{ printf "%.1f", $2 - $1 }')
    if [ "$status" = 0 ]; then note 'PyTorch' passed "$took" "$out/peer.json"
    elif [ "$status" = 77 ]; then note 'PyTorch' skipped "$took" "$(tail -n 1 "$out/logs/peer.log")"
    else note 'PyTorch' failed "$took" "exit $status; $(tail -n 1 "$out/logs/peer.log")"; fi
}

# Cases stand one on a line in both files: {"name": ..., "seconds": ...}.
beside() {
    cat "$out/peer.json" "$out/bench.json" 2> /dev/null | awk '
        function text(key) {
            if (!match($0, "\"" key "\": \"[^\"]*\"")) return "-"
            return substr($0, RSTART + length(key) + 5, RLENGTH - length(key) - 6)
        }
        function number(key) {
            if (!match($0, "\"" key "\": [-+0-9.e]+")) return ""
            return substr($0, RSTART + length(key) + 4, RLENGTH - length(key) - 4)
        }
        /"name": / && number("peer_seconds") != "" { peer[text("name")] = number("peer_seconds") }
        /"name": / && number("seconds") != "" {
            if (!n++) printf "\n%-26s %-26s %-5s %10s %9s %9s %7s %8s\n", "case", "shape", "type",
                "ms", "TFLOP/s", "GB/s", "roof", "PyTorch"
            s = number("seconds"); f = number("flop"); b = number("bytes"); r = number("roofline")
            p = peer[text("name")]; v = number("rate")
            printf "%-26s %-26s %-5s %10.3f %9s %9s %7s %8s  %s\n", text("name"), text("shape"),
                text("type"), 1e3 * s, (f > 0) ? sprintf("%.1f", f / s / 1e12) : "-",
                (b > 0) ? sprintf("%.0f", b / s / 1e9) : "-",
                (r > 0) ? sprintf("%.1f %%", 100 * r) : "-", (p > 0) ? sprintf("x %.2f", p / s) : "-",
                (v > 0) ? sprintf("%.4g %s", v, text("unit")) : ""
        }'
}
as_json() {
    awk -F '\t' -v device="$device" -v out="$out" '
        function q(s) { gsub(/[\\"]/, "\\\\&", s); gsub(/[[:cntrl:]]/, " ", s); return "\"" s "\"" }
        BEGIN { printf "{\"device\": %s, \"results\": %s, \"steps\": [", q(device), q(out) }
        { printf "%s{\"check\": %s, \"outcome\": %s, \"seconds\": %s, \"detail\": %s}",
              (NR > 1) ? ", " : "", q($1), q($2), $3, q($4) }
        END { printf "]" }' "$table"
    for part in bench peer; do
        if [ -s "$out/$part.json" ]; then printf ', "%s": ' "$part"; cat "$out/$part.json"; fi
    done
    echo '}'
}

say "$(printf '%-34s %-8s %7s' check outcome seconds)"
if wanted tests; then tests; fi
if wanted sanitizer && [ -z "$quick" ]; then sanitizers; fi
if wanted peer; then peer; fi
if wanted bench; then bench; fi
if wanted bench && [ -z "$quick" ]; then contracts; fi
if [ -n "$json" ]; then as_json; else beside; fi
say "$device; logs and results: $out"
exit "$bad"
