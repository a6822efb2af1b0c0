#!/bin/sh
# recipe_claims.sh - distill/recipes/claims.sh trains every student once, as the trainer takes it, goes on
# where it was stopped, and its table has the right means. A script stands for the programs.
set -u
tests=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$tests/.." || exit 1
export LC_ALL=C
count=0 failed=0
ok() { # status, name
    count=$((count + 1))
    if [ "$1" = 0 ]; then echo "ok $count - $2"; return; fi
    failed=$((failed + 1))
    sed 's/^/# /' "$work/calls" "$work/log"
    echo "not ok $count - $2"
}
# Keeps its words; the run that is named in `stop` leaves a checkpoint only. A student's held-out error is
# a tenth of its seed, its distance 1; OutKD's are recognised.
cat > "$work/fovea" << 'FAKE'
#!/bin/sh
echo "$*" >> "$WORK/calls"
verb=$1 seed=0 loss=
if [ "$verb" = bench ]; then
    case "$3" in *out-*) right=0.5 ;; *) right=0.25 ;; esac
    ls "$3" > /dev/null || exit 1
    echo "{ \"real_heldout_accuracy\": 0.9,"
    echo "  \"settings\": [ { \"accuracy\": $right, \"accuracy_ratio\": 9, \"frechet_to_real\": 2.5,"
    echo "  \"frechet_to_exact\": 7 } ] }"
    exit 0
fi
[ -f "$2" ] || exit 2
while [ $# -gt 0 ]; do
    case "$1" in
        -o) out=$2 ;;
        --teacher) [ -f "$2" ] || exit 1 ;;
        --loss) loss=$2 ;;
        --resume) resume=yes ;;
        seed=*) seed=${1#seed=} ;;
        prune_method=uniform) pruned='"fovea.prune.blocks":"0,2,5,7",' ;;
        prune_method=*) pruned='"fovea.prune.blocks":"1,2,3,7",' ;;
    esac
    shift
done
run=$out
if [ "$verb" = distill ]; then run=${out%.safetensors}-run; fi
if [ "${resume:-}" ] && [ ! -f "$run/ckpt-00000001.safetensors" ]; then exit 1; fi
mkdir -p "$run"
if [ "$(cat "$WORK/stop")" = "${out##*/}" ]; then
    : > "$run/ckpt-00000001.safetensors"
    : > "$WORK/stop"
    exit 130
fi
[ "$verb" = distill ] || out=$out/model.safetensors
printf '\377\000\000{"__metadata__":{"fovea.train.recipe":"a = 1\\n","fovea.distill.loss":"%s",%s}}\000' \
    "$loss" "${pruned:-}\"fovea.distill.heldout\":\"0.$seed\",\"fovea.distill.heldout_teacher\":\"0.05\",\
\"fovea.distill.distance\":\"1\"" > "$out"
FAKE
chmod +x "$work/fovea"
export WORK="$work" FOVEA="$work/fovea"
mkdir "$work/data"
go() { : > "$work/calls"; sh distill/recipes/claims.sh "$work/data" "$work/out" "$@" > "$work/log" 2>&1; }
has() { grep -q -- "$1" "$work/calls"; }

echo lift-2.safetensors > "$work/stop"
go
[ $? = 130 ] && [ "$(grep -c ^distill "$work/calls")" = 9 ]; ok $? stops_where_a_student_does
[ "$(wc -l < "$work/out/claims.csv")" = 9 ]; ok $? keeps_the_lines_of_what_is_done
awk -f distill/recipes/claims_table.awk "$work/out/claims.csv" > "$work/part"
grep -q '^| LIFT + FeatKD | 1 | 0.1000 | 1.0000 | 2.500 | 0.250 |$' "$work/part" &&
    grep -q '^| OutKD | 2 | 0.1500 ± 0.0707 |' "$work/part" && ! grep -q 'K = 8' "$work/part"
ok $? table_of_what_is_done
go
ok $? goes_on_to_the_end
[ "$(grep -c -- --resume "$work/calls")" = 1 ] && grep -- --resume "$work/calls" | grep -q 'lift-2'
ok $? only_what_was_stopped_is_resumed
[ "$(grep -c ^distill "$work/calls")" = 34 ] && [ "$(wc -l < "$work/out/claims.csv")" = 43 ]
ok $? every_student_once
has '--loss place --set seed=3 .*linear-3.safetensors --set weight=linear ' &&
    has "--teacher $work/out/weak/model.safetensors --loss feat --set seed=2 " &&
    has 'k64-1.safetensors --set group=64 '
ok $? settings_are_passed_on
grep -q '^| OutKD | 3 | 0.2000 ± 0.1000 | 1.0000 ± 0.0000 | 2.500 ± 0.000 | 0.500 ± 0.000 |$' "$work/log"
ok $? means_and_deviations
[ "$(grep -c '^| K = ' "$work/log")" = 3 ]; ok $? table_has_the_sizes_of_groups
go
[ $? = 0 ] && [ ! -s "$work/calls" ] && [ "$(wc -l < "$work/out/claims.csv")" = 43 ]
ok $? what_is_done_is_not_done_again
SEEDS=4 STEPS=7 go
[ $? = 0 ] && has '--set seed=4 --set steps=7 --set eval_every=7 ' && ! has 'seed=1 '
ok $? seeds_and_steps_may_be_set
SAMPLES=0 go pruning
[ $? = 0 ] && [ "$(grep -c ^distill "$work/calls")" = 9 ] && ! grep -qv ^distill "$work/calls"
ok $? pruning_trains_a_student_for_each_way_and_seed
has '--loss feat --set seed=3 --set steps=300 --set eval_every=300 .*--set prune_method=learned ' &&
    ! grep -v -- '--student-blocks 4 ' "$work/calls"
ok $? students_differ_by_the_way_alone
grep -q '^shortgpt,2,0.2,1,,,0.05,1-2-3-7$' "$work/out/pruning.csv" &&
    [ "$(wc -l < "$work/out/claims.csv")" = 15 ]
ok $? the_table_of_losses_stays
grep -q '^| uniform (0-2-5-7) | 3 | 0.2000 ± 0.1000 | 1.0000 ± 0.0000 | - | - |$' "$work/log" &&
    [ "$(grep -c '^| [^s-]' "$work/log")" = 4 ]
ok $? what_was_not_judged_is_left_out
SEEDS="1 2" SAMPLES=0 go controls
[ $? = 0 ] && [ "$(grep -c ^distill "$work/calls")" = 12 ] && [ "$(wc -l < "$work/out/controls.csv")" = 17 ]
ok $? controls_train_each_once
has '--loss out --set seed=2 .*out-l0.5-2.safetensors --set l_kd=0.5 ' &&
    has '--loss place --set seed=1 .*place-w0-1.safetensors --set weight=const --set weight_const=0 '
ok $? controls_differ_by_one_setting
[ "$(grep -c '^| [OL][^|]* | 2 | 0.1500 ' "$work/log")" = 8 ]; ok $? table_has_the_controls
go purning
[ $? = 2 ] && [ ! -s "$work/calls" ]; ok $? another_word_is_refused
echo "1..$count"
[ "$failed" = 0 ]
