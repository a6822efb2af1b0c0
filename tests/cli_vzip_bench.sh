#!/bin/sh
# cli_vzip_bench.sh - vzip bench: tables, files, peers that are missing, fail or lie, interrupts.
#
# VZIP names the program, FOVEA the one that has it as a verb. Inputs are tiny and level 1 is used.
set -u
: "${VZIP:?path of vzip}"
. "$(dirname "$0")/shell_checks.sh"
mkdir temp bin
export TMPDIR="$work/temp"
no_temporary_files() { [ -z "$(ls -A temp)" ]; ok $? "no_temporary_files_of_$1"; }
bench="$VZIP bench"
awk 'BEGIN { for (i = 0; i < 300; i++) print "line " i " of a text, " i * i % 97 }' > text
printf 'P5\n8 8\n255\n0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqr' > tiny.pgm

# ---- Tables --------------------------------------------------------------------------------------
expect alone 0 $bench --levels 1 --peers none text
grep -q '^vzip -1  *[0-9]' out && grep -q 'vzip -1 = 1; 1 thread$' out && [ ! -s err ]; ok $? alone_is_the_reference
expect two_files 0 $bench --levels 1,2 --peers none --each text tiny.pgm
[ "$(grep -c '^vzip -2' out)" = 3 ] && grep -q '^2 files: ' out; ok $? each_has_a_table_and_the_sum
expect json 0 $bench --levels 1 --peers flac --json text tiny.pgm
if command -v python3 > /dev/null; then
    python3 -c 'import json
b = json.load(open("out"))
assert b["threads"] == 1 and b["reference"] == "vzip -1"
assert b["total"][0]["files"] == 2 and b["total"][1]["files"] == 0
assert [r["state"] for r in b["results"]][::2] == ["ok", "ok"]' 2> err
    ok $? json_is_json
else
    skip json_is_json "no python3"
fi
expect csv_and_plot 0 $bench --levels 1,2 --peers none --csv t.csv -o p.png text
[ "$(wc -l < t.csv)" = 3 ] && head -c 4 p.png | grep -q PNG; ok $? csv_and_plot_are_files
refuse output_exists 1 "-f" $bench --levels 1 --peers none -o p.png text
expect overwrite 0 $bench --levels 1 --peers none -f -o p.png text
if [ -n "${FOVEA:-}" ]; then
    expect verb_of_fovea 0 "$FOVEA" bench vzip --levels 1 --peers none text
    grep -q '^vzip -1' out; ok $? verb_of_fovea_has_the_table
else
    skip verb_of_fovea "no fovea"
fi
no_temporary_files tables

# ---- Usage ---------------------------------------------------------------------------------------
refuse no_file 2 "missing" $bench
refuse bad_level 2 "1 to 9" $bench --levels 0 text
refuse level_twice 2 "twice" $bench --levels 1,1 text
refuse ultra_twice 2 "twice" $bench --levels ultra,10 text
refuse bad_peer 2 "there are" $bench --peers gzip text
refuse no_such_file 1 "none" $bench --levels 1 --peers none none
refuse folder 1 "regular" $bench --levels 1 --peers none bin
no_temporary_files refusals

# ---- Peers ---------------------------------------------------------------------------------------
if command -v xz > /dev/null; then
    expect xz 0 $bench --levels 1 --peers xz text
    grep -q '^xz -9e .* 1.00  *1.00' out; ok $? xz_is_the_reference
else
    skip xz "not installed"
fi
fake() { # name, script
    printf '#!/bin/sh\n%s\n' "$2" > "bin/$1"
    chmod +x "bin/$1"
}
PATH="$work/bin:/usr/bin:/bin"
fake zstd 'echo cannot >&2; exit 3'
fake brotli 'case $1 in -q) cat text 2> /dev/null; echo x;; *) echo other;; esac'
expect failing_peers 0 $bench -v --levels 1 --peers zstd,brotli text
grep -q '^zstd .*cannot$' out && grep -q '^brotli .*different$' out; ok $? failures_are_in_the_table
grep -q 'zstd -19 --long=27: cannot' err; ok $? verbose_says_why
rm bin/zstd
PATH="$work/bin"
expect missing_peer 0 $bench --levels 1 --peers zstd text
PATH=/usr/bin:/bin
grep -q '^zstd .*not installed$' out; ok $? missing_peer_is_in_the_table
no_temporary_files peers

# ---- Interrupts ----------------------------------------------------------------------------------
fake xz 'exec sleep 20'
PATH="$work/bin:/usr/bin:/bin"
$bench --levels 1 --peers xz text > out 2> err &
pid=$!
tries=0
while [ -z "$(find temp -name packed -size 0 2> /dev/null)" ] && [ $tries -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
sleep 0.2
kill -TERM $pid
wait $pid
[ $? = 130 ] && [ -z "$(ls -A temp)" ] && [ ! -s out ]; ok $? interrupt_leaves_nothing
finish
