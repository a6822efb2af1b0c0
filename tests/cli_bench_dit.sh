#!/bin/sh
# cli_bench_dit.sh - fovea bench dit, speedup, accel, quality: tables, plots, exit codes.
#
# GEN and FOVEA name the programs. Everything runs on a small model with random weights.
set -u
: "${GEN:?path of gen}" "${FOVEA:?path of fovea}"
. "$(dirname "$0")/shell_checks.sh"
export XDG_CACHE_HOME="$work/cache"

expect new_makes_a_model 0 "$FOVEA" new F32 -o m.safetensors --seed 3 --classes 4 --threads 1
run "$FOVEA" new F32 -o m2.safetensors --seed 4 --classes 4
expect calibrate 0 "$GEN" calibrate m.safetensors --steps 8 --draws 2 --quick --threads 1
echo "not a model" > text.safetensors

expect bench_dit 0 "$FOVEA" bench dit m.safetensors --seconds 0.1 --threads 1 --json
json_ok out bench cases ratio_to_gemm peak_bytes; ok $? bench_json_has_its_keys
refuse bench_unknown 2 "gemm" "$FOVEA" bench gem
speedup="$FOVEA bench speedup m.safetensors --steps 8 --samples 2 --runs 1 --batch 2 --threads 1"
expect bench_speedup 0 $speedup --speedup 1.25,1.5x --json --csv speed.csv --plot speed.png
json_ok out settings within_5_percent above_fixed_interval above_fewer_steps; ok $? bench_speedup_json
[ "$(wc -l < speed.csv)" = 9 ] && grep -q '^dpx,1.25,[0-9]' speed.csv &&
    grep -q '^fixed interval,1.5,[0-9]' speed.csv; ok $? bench_speedup_csv_has_four_methods_a_ratio
is_png speed.png; ok $? bench_speedup_plot_is_a_picture
refuse bench_speedup_keeps_existing_files 1 "-f" $speedup --csv speed.csv
refuse bench_speedup_missing_folder 1 "nowhere" $speedup --plot nowhere/x.png
refuse bench_speedup_needs_a_ratio 2 "above 1" $speedup --speedup 1
refuse bench_speedup_bad_ratio 2 "ratios" $speedup --speedup 2,y
refuse bench_speedup_unknown_sampler 2 "euler" $speedup --sampler eular
refuse bench_speedup_table_of_another_model 3 "m.fvsens" "$FOVEA" bench speedup m2.safetensors \
    --steps 8 --table m.fvsens --samples 2
refuse bench_speedup_garbage 3 "text" "$FOVEA" bench speedup text.safetensors
expect bench_speedup_beyond_reach 0 $speedup --speedup 90
grep -q 'out of reach' out && grep -q 'maximum' err; ok $? bench_speedup_says_the_maximum
accel="$FOVEA bench accel m.safetensors --steps 6 --samples 2 --runs 1 --batch 2 --threads 1"
expect bench_accel 0 $accel --speedup 1.5,2 --methods fixed,fora,taylorseer:order=2,lite=1,teacache,fewer \
    --json --csv accel.csv --plot accel.png --schedule schedule.png --sheet sheet.png
json_ok out settings classifier runs; ok $? bench_accel_json
[ "$(grep -c '^"' accel.csv)" = 10 ] && grep -q '^"taylorseer:order=2,lite=1","anchors' accel.csv
ok $? bench_accel_csv_has_a_line_for_each_method_and_ratio
is_png accel.png && is_png schedule.png && is_png sheet.png; ok $? bench_accel_draws_pictures
expect bench_accel_by_processor_time 0 $accel --speedup 2 --methods fora --clock cpu --json
grep -q '"clock": "cpu"' out; ok $? bench_accel_says_its_clock
expect bench_accel_lists_methods 0 "$FOVEA" bench accel --methods list
grep -q '^toca *N=3' out; ok $? bench_accel_list_has_options
refuse bench_accel_unknown_method 2 "tocca" $accel --methods fora,tocca
refuse bench_accel_keeps_existing_files 1 "-f" $accel --csv accel.csv
refuse bench_accel_unknown_suffix 2 "png" $accel --plot x.tiff
refuse bench_accel_garbage 3 "text" "$FOVEA" bench accel text.safetensors
refuse bench_quality_needs_a_classifier 2 "--classifier" "$FOVEA" bench quality m.safetensors
refuse bench_quality_bad_ratio 2 "ratios" "$FOVEA" bench quality m.safetensors --classifier c \
    --recipe r --speedup 0.5
refuse bench_quality_plan_and_ratio 2 "excludes" "$FOVEA" bench quality m.safetensors --classifier c \
    --recipe r --plan-in p.fvplan --speedup 2
refuse bench_quality_missing_classifier 1 "none" "$FOVEA" bench quality m.safetensors \
    --classifier none.safetensors --recipe r

finish
