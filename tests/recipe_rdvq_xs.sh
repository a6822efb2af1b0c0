#!/bin/sh
# recipe_rdvq_xs.sh - codec/recipes/rdvq_xs.sh calls the trainer as it takes it, begun anew and gone
# on, and leaves out what the tests code. A script stands for the trainer.
set -u
tests=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$tests/.." || exit 1
export LC_ALL=C
out_of_tests=$work
count=0 failed=0
ok() { # status, name
    count=$((count + 1))
    if [ "$1" = 0 ]; then echo "ok $count - $2"; return; fi
    failed=$((failed + 1))
    sed 's/^/# /' "$work/calls"
    echo "not ok $count - $2"
}
# Keeps its words; the run whose folder is named in `stop` leaves a checkpoint only.
cat > "$work/fovea" << 'FAKE'
#!/bin/sh
echo "$*" >> "$WORK/calls"
[ "$1" = train ] || exit 0
case "$*" in *--init*--resume* | *--resume*--init*) exit 2 ;; esac
while [ "$1" != -o ]; do
    if [ "$1" = --data-dir ]; then ls "$2/classes/clothing_128.tar" "$2/photos/photos1024.tar" > /dev/null || exit 1; fi
    shift
done
dir=$2
shift 2
while [ $# -gt 0 ]; do
    if [ "$1" = --init ] && [ ! -f "$2" ]; then exit 1; fi
    if [ "$1" = --resume ] && [ ! -f "$dir/ckpt-00000001.safetensors" ]; then exit 1; fi
    shift
done
mkdir -p "$dir"
if [ "$(cat "$WORK/stop")" = "${dir##*/}" ]; then : > "$dir/ckpt-00000001.safetensors"; : > "$WORK/stop"; exit 130; fi
: > "$dir/model.safetensors"
FAKE
chmod +x "$work/fovea"
export WORK="$out_of_tests" FOVEA="$work/fovea"
mkdir -p "$work/data/photos" "$work/data/classes" "$work/in"
: > "$work/data/classes/clothing_128.tar"
for name in budgie_000_a budgie_001_b budgie_004_c budgie_005_d budgie_009_e "kde_000_f g"; do
    echo "$name" > "$work/in/$name.webp"
done
(cd "$work/in" && tar -cf ../data/photos/photos1024.tar ./*.webp --transform='s|^\./||')
go() { : > "$work/calls"; sh codec/recipes/rdvq_xs.sh "$work/data" "$work/out" > "$work/log" 2>&1; }

echo j08 > "$work/stop"
go
[ $? = 130 ] && [ "$(wc -l < "$work/calls")" = 3 ]; ok $? stops_where_a_stage_does
grep -q "out/s2 --init $work/out/s1/model.safetensors" "$work/calls" &&
    ! grep -q -- --resume "$work/calls"; ok $? a_stage_begins_with_the_model_before_it
[ "$(tar -tf "$work/out/data/photos/photos1024.tar" | tr '\n' ,)" = "budgie_001_b.webp,kde_000_f g.webp," ]
ok $? photos_of_the_tests_are_left_out
go
ok $? goes_on_to_the_end
head -n 1 "$work/calls" | grep -q 'out/j08 --resume' && [ "$(grep -c -- --resume "$work/calls")" = 1 ]
ok $? only_what_was_stopped_is_resumed
[ "$(grep -c ^train "$work/calls")" = 7 ] && [ "$(grep -c ^convert "$work/calls")" = 4 ]
ok $? every_stage_runs
grep -q 'out/j04 --init .*out/j08/model.safetensors --set lambda=1 ' "$work/calls"
ok $? settings_are_passed_on
go
[ $? = 0 ] && ! grep -q ^train "$work/calls"; ok $? what_is_done_is_not_done_again
echo "1..$count"
[ "$failed" = 0 ]
