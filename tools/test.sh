#!/bin/sh
# test.sh [--full] - build and test everything; the last line is "N passed, N failed, N skipped".
#
# Quick layer: optimised build with all tests, the same under the address and undefined sanitizers
# (but for those labelled "arithmetic") with a short fuzzing run, installation with the example,
# documents and scripts. --full adds these tests, clang, -O0 and -O3, long fuzzing, the thread
# sanitizer, and training killed again and again.
# Everything is written to build/test; logs and times of every step to build/test/logs.
# FUZZ_SECONDS: time for each fuzz target (5; --full 300). JOBS: processes (all cores).
set -u
cd "$(dirname "$0")/.." || exit 1
full=
case ${1:-} in
--full) full=1 ;;
'') ;;
*) echo "usage: test.sh [--full]" >&2; exit 2 ;;
esac
top=$(pwd)
out=$top/build/test
logs=$out/logs
jobs=${JOBS:-$(nproc 2> /dev/null || echo 2)}
fuzz_seconds=${FUZZ_SECONDS:-${full:+300}}
fuzz_seconds=${fuzz_seconds:-5}
rm -rf "$logs" "$out/scratch"
mkdir -p "$logs" "$out/scratch" || exit 1
passed=0 failed=0 skipped=0
begin=$(date +%s)

# ---- Counting --------------------------------------------------------------------------------------

note() { printf '%s\n' "$*" | tee -a "$logs/summary.txt"; }
skip() { # name, why
    skipped=$((skipped + 1))
    note "skip    $1: $2"
}
# step NAME COMMAND...: one test; its output goes to a log, whose end is shown when it fails.
step() {
    name=$1
    shift
    start=$(date +%s)
    if "$@" > "$logs/$name.log" 2>&1; then
        passed=$((passed + 1))
        note "ok      $name ($(($(date +%s) - start)) s)"
        return 0
    fi
    failed=$((failed + 1))
    note "FAILED  $name ($(($(date +%s) - start)) s): $logs/$name.log ends with"
    tail -n 40 "$logs/$name.log" | sed 's/^/    /'
    return 1
}
# suite NAME FOLDER [CTEST OPTIONS]: the ctests of a build folder. Programs that print "# N passed,
# N failed, N skipped" count with these numbers, others as one; a crash counts although its line is
# missing.
suite() {
    name=$1
    tested=$2
    start=$(date +%s)
    shift 2
    (cd "$tested" && ctest -V -j "$jobs" --timeout 900 "$@") > "$logs/$name.log" 2>&1
    status=$?
    counts=$(awk '
        /^ *[0-9]+: # [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped/ {
            t = $1 + 0; p[t] = $3 + 0; f[t] = $5 + 0; s[t] = $7 + 0; told[t] = 1
        }
        /^ *[0-9]+\/[0-9]+ Test +#[0-9]+:/ {
            match($0, /#[0-9]+/); t = substr($0, RSTART + 1, RLENGTH - 1) + 0
            if ($0 ~ /Passed/) { if (!told[t]) p[t] = 1 }
            else if ($0 ~ /Skipped/) { if (!told[t]) s[t] = 1 }
            else { if (!f[t]) f[t] = 1 }
            seen[t] = 1
        }
        END { for (t in seen) { P += p[t]; F += f[t]; S += s[t] } print P + 0, F + 0, S + 0 }
    ' "$logs/$name.log")
    set -- $counts
    if [ "$status" != 0 ] && [ "$2" = 0 ]; then set -- "$1" 1 "$3"; fi
    if [ "$1$2$3" = 000 ]; then set -- 0 1 0; fi # no test ran
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
    word='ok     '
    if [ "$2" != 0 ]; then word='FAILED '; fi
    note "$word $name ($(($(date +%s) - start)) s): $1 passed, $2 failed, $3 skipped"
    grep -E ' Test +#[0-9]+:' "$logs/$name.log" | sed 's/^.*: //' > "$logs/$name.times"
    if [ "$2" != 0 ]; then
        grep -E '^ *[0-9]+: (not ok|# .*failed:|.*(ERROR|runtime error|SUMMARY):)' "$logs/$name.log" |
            grep -v ', 0 failed,' | head -n 40 | sed 's/^/    /'
        grep -E '\*\*\*' "$logs/$name.log" | sort -u | head -n 20 | sed 's/^/    /'
    fi
}

# ---- Steps -----------------------------------------------------------------------------------------

# build NAME [CMAKE OPTIONS]: configure and compile into build/test/NAME.
build() {
    folder=$1 # functions share variables: step has a name of its own
    shift
    # A folder left by an attempt that had no Ninja.
    grep -q "^CMAKE_GENERATOR:INTERNAL=$generator\$" "$out/$folder/CMakeCache.txt" 2> /dev/null ||
        rm -rf "$out/$folder/CMakeCache.txt" "$out/$folder/CMakeFiles"
    step "configure_$folder" cmake -S "$top" -B "$out/$folder" -G "$generator" -DFOVEA_TESTS=ON \
        "$@" && step "compile_$folder" cmake --build "$out/$folder" -j "$jobs"
}
no_warnings() {
    if grep -h 'warning:' "$@"; then return 1; fi
}
fuzz() { # build folder, target: mutations, or libFuzzer where it was linked
    mkdir -p "$out/scratch/$2"
    (cd "$out/scratch/$2" && "$1/tests/$2" -max_total_time="$fuzz_seconds" -timeout=20 \
        -rss_limit_mb=4096 "$out/scratch/$2" "$top/tests/fuzz/corpus/$2")
}
fuzz_ended() { # target: what it said and how it ended
    cat "$out/scratch/$1.log"
    return "$(cat "$out/scratch/$1.status")"
}
# All targets take as long and run on one core each: as many at a time as there are cores.
fuzz_all() { # build name
    running=0
    for source in tests/fuzz/fuzz_*.c; do
        target=$(basename "$source" .c)
        (
            fuzz "$out/$1" "$target" > "$out/scratch/$target.log" 2>&1
            echo $? > "$out/scratch/$target.status"
        ) &
        running=$(((running + 1) % jobs))
        if [ "$running" = 0 ]; then wait; fi
    done
    wait
    for source in tests/fuzz/fuzz_*.c; do
        target=$(basename "$source" .c)
        step "${target}_$1" fuzz_ended "$target"
    done
}
lint_pages() {
    bad=$(find tools/man -name '*.[13]' -exec mandoc -T lint -W warning {} +)
    printf '%s\n' "$bad"
    [ -z "$bad" ]
}
pkg_config_program() {
    pc=$(dirname "$(find "$prefix" -name fovea.pc)")
    lib=$(dirname "$pc")
    printf '#include <fovea.h>\nint main(void) { return fv_version() != FV_VERSION_NUMBER; }\n' \
        > "$out/scratch/version.c"
    # shellcheck disable=SC2046
    ${CC:-cc} -std=c11 "$out/scratch/version.c" -o "$out/scratch/version" \
        $(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs fovea) &&
        LD_LIBRARY_PATH=$lib "$out/scratch/version"
}
# The program in README.md compiles as printed, and makes its picture when there is a model.
readme_program() {
    pc=$(dirname "$(find "$prefix" -name fovea.pc)")
    mkdir -p "$out/scratch/readme"
    sed -n '/^```c$/,/^```$/p' README.md | sed '/^```/d' > "$out/scratch/readme/picture.c"
    cd "$out/scratch/readme" || return
    status=0
    # shellcheck disable=SC2046
    ${CC:-cc} -std=c11 -Wall -Wextra -Werror picture.c -o picture \
        $(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs fovea) || status=1
    if [ -f "$top/diffusion/models/f64c.safetensors" ]; then
        LD_LIBRARY_PATH=$(dirname "$pc") ./picture && [ -s picture.png ] || status=1
    fi
    cd "$top" || return
    return "$status"
}
examples_build() {
    rm -rf "$out/examples"
    cmake -S tools/examples -B "$out/examples" -G "$generator" -DCMAKE_PREFIX_PATH="$prefix" &&
        cmake --build "$out/examples" -j "$jobs"
}
# Both libraries, three threads each: the pictures are the same bytes.
examples_run() {
    for library in fovea fovea_static; do
        mkdir -p "$out/scratch/$library" &&
            "$out/examples/generate_threads_$library" "$out/scratch/$library" || return
    done
    for picture in thread-0.png thread-1.png thread-2.png; do
        cmp "$out/scratch/fovea/$picture" "$out/scratch/fovea_static/$picture" || return
    done
}
installed_parts() {
    status=0
    for header in */fovea*.h; do
        case $header in tools/*) continue ;; esac # not for programs of others
        part=include/$(basename "$header")
        if ! [ -f "$prefix/$part" ]; then echo "not installed: $part"; status=1; fi
    done
    for page in tools/man/*.1; do
        program=$(basename "$page" .1) # not "name": step has one, and functions share variables
        for part in "share/man/man1/$program.1" "share/bash-completion/completions/$program"; do
            if ! [ -f "$prefix/$part" ]; then echo "not installed: $part"; status=1; fi
        done
        "$prefix/bin/$program" --version || status=1
    done
    return "$status"
}

# ---- Quick layer -----------------------------------------------------------------------------------

generator=Ninja
command -v ninja > /dev/null || generator='Unix Makefiles'
if [ -n "$full" ]; then layer=--full; else layer=--test; fi
sh tools/deps.sh "$layer" || note "tools/deps.sh failed; going on with what is installed"
note "$(uname -sm), $(${CC:-cc} --version | head -n 1), $jobs jobs, $(date -u '+%Y-%m-%d %H:%M') UTC"

if command -v mandoc > /dev/null; then step manual_pages lint_pages
else skip manual_pages "mandoc is not installed"; fi

# CUDA kernels: one architecture, in this build alone; nvcc takes its time.
cuda=-DCMAKE_CUDA_ARCHITECTURES=90a-real
if [ -n "$full" ]; then cuda='-DCMAKE_CUDA_ARCHITECTURES=80-real;90a-real;90-virtual'; fi
if build release -DFOVEA_FUZZ=ON "$cuda"; then
    case $(${CC:-cc} --version | head -n 1) in
    *'(Debian 12'* | *clang*14.*) step no_warnings no_warnings "$logs/compile_release.log" ;;
    *) skip no_warnings "another compiler than gcc 12 or clang 14" ;;
    esac
    suite release "$out/release"
    prefix=$out/prefix
    rm -rf "$prefix"
    if step install cmake --install "$out/release" --prefix "$prefix"; then
        step installed_parts installed_parts
        step pkg_config_program pkg_config_program
        step readme_program readme_program
        if step examples_build examples_build; then
            if [ -f diffusion/models/f64c.safetensors ]; then step examples_run examples_run
            else skip examples_run "the default model is not in this tree"; fi
        fi
    fi
fi
if build sanitized -DFOVEA_FUZZ=ON -DFOVEA_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_C_FLAGS_DEBUG='-O1 -g'; then
    if [ -n "$full" ]; then suite sanitized "$out/sanitized"
    else
        suite sanitized "$out/sanitized" -LE '^arithmetic$'
        fuzz_all sanitized
    fi
fi

# ---- Full layer ------------------------------------------------------------------------------------

if [ -n "$full" ]; then
    for level in 0 3; do # what is compiled; the programs' behaviour has the other builds
        build "O$level" -DFOVEA_CUDA=OFF -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG="-O$level -g" &&
            suite "O$level" "$out/O$level" -E '^cli_'
    done
    if command -v clang > /dev/null; then
        if build clang -DFOVEA_CUDA=OFF -DCMAKE_C_COMPILER=clang; then
            step no_warnings_clang no_warnings "$logs/compile_clang.log"
            suite clang "$out/clang"
        fi
        # libFuzzer with its own coverage; the driver of the sanitized build where it is missing.
        if build libfuzzer -DCMAKE_C_COMPILER=clang -DFOVEA_FUZZ=ON -DFOVEA_TOOLS=OFF \
            -DFOVEA_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug \
            -DCMAKE_C_FLAGS_DEBUG='-O1 -g'; then
            fuzz_all libfuzzer
        else
            fuzz_all sanitized
        fi
    else
        skip clang "clang is not installed"
        fuzz_all sanitized
    fi
    for target in test_vz_container test_vz_solid test_vz_golden test_accel_runs \
        test_plan_quality test_ar_lossless test_ar_decode; do
        [ -x "$out/release/tests/$target" ] &&
            step "${target}_full" "$out/release/tests/$target" --full
    done
    [ -x "$out/release/bin/vzip" ] &&
        step vzip_train_full env VZIP="$out/release/bin/vzip" sh tests/cli_vzip_models.sh --full
    step thread_sanitizer sh tests/thread_sanitizer.sh "$out/scratch/tsan"
    if [ -x "$out/release/bin/fovea" ]; then
        step kill_and_resume sh tests/kill_resume.sh "$out/release/bin/fovea" "$out/scratch/kill" 20
        step kill_and_resume_distill sh tests/kill_resume.sh "$out/release/bin/fovea" \
            "$out/scratch/kill-distill" 20 distill
    fi
fi

note "logs: build/test/logs, $(($(date +%s) - begin)) s in all"
note "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
