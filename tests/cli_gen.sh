#!/bin/sh
# cli_gen.sh - what the programs promise: exit codes, one-line messages, files complete or absent.
#
# GEN and FOVEA name the programs. Everything runs on a small model with random weights.
set -u
: "${GEN:?path of gen}" "${FOVEA:?path of fovea}"
. "$(dirname "$0")/shell_checks.sh"
data=$tests/data
export XDG_CACHE_HOME="$work/cache"
small="--steps 3 --threads 1"

# ---- A model -------------------------------------------------------------------------------------
expect new_makes_a_model 0 "$FOVEA" new F32 -o m.safetensors --seed 3 --classes 4 --threads 1
run "$FOVEA" new F32 -o m2.safetensors --seed 3 --classes 4 --threads 2
cmp -s m.safetensors m2.safetensors; ok $? new_same_bytes_for_1_and_2_threads
refuse new_keeps_existing_files 1 exists "$FOVEA" new F32 -o m.safetensors
expect new_overwrites_with_f 0 "$FOVEA" new F32 -o m2.safetensors -f --seed 4 --classes 4
refuse new_names_presets 2 "F64c" "$FOVEA" new F65 -o x.safetensors
refuse new_needs_an_output 2 "-o" "$FOVEA" new F32
expect info_of_a_model 0 "$GEN" info m.safetensors
grep -q "F32" out && grep -q "classes *4" out; ok $? info_says_what_it_is
expect info_json_is_json 0 "$GEN" info --json m.safetensors
json_ok out name family parameters classes sha256 table; ok $? info_json_has_its_keys
expect info_devices 0 "$GEN" info --devices
grep -q "^cpu  *." out && grep -Eq "^cuda  (none: cuda: .|0: )" out; ok $? each_device_or_why_not
expect info_devices_json 0 "$GEN" info --devices --json
json_ok out device name threads features precision cuda cuda_none; ok $? devices_json_has_its_keys

# ---- Pictures ------------------------------------------------------------------------------------
gen="$GEN --model m.safetensors"
expect gen_writes_a_picture 0 $gen $small -o a.png
is_png a.png; ok $? gen_picture_is_a_png
[ ! -s out ]; ok $? gen_stdout_is_silent
refuse gen_keeps_existing_files 1 "-f" $gen $small -o a.png
expect gen_overwrites_with_f 0 $gen $small -o a.png -f
$gen --steps 3 --threads 2 -q -o a2.png > out 2> err
cmp -s a.png a2.png; ok $? gen_same_bytes_for_1_and_2_threads
[ ! -s err ]; ok $? gen_quiet_is_silent
expect gen_default_output 0 $gen $small
is_png gen.png; ok $? gen_default_output_is_gen_png
expect gen_bundled_letters_and_equal_sign 0 $gen -qfn2 --steps=3 -o a2.png
expect gen_writes_webp 0 $gen $small -o a.webp
expect gen_writes_jpeg 0 $gen $small -o a.jpg
expect gen_one_file_each 0 $gen $small -n 3 --class 2 --seed 7 -o pics/
[ "$(ls pics | tr '\n' ' ')" = "2-7.png 2-8.png 2-9.png " ]; ok $? gen_files_are_named_class_seed
expect gen_all_classes_with_grid 0 $gen $small --class all -n 2 --grid -o all/
[ "$(ls all | wc -l)" = 9 ]; ok $? gen_all_makes_k_of_each_and_the_grid
$gen $small -q --seed 8 --class 2 -f -o one.png > out 2> err
cmp -s one.png pics/2-8.png; ok $? gen_picture_i_is_seed_plus_i
$gen $small -o - > stdout.png 2> err
cmp -s stdout.png a.png; ok $? gen_dash_is_png_on_stdout
for key in Software parameters fovea.model_sha256 fovea.seed fovea.steps fovea.sampler fovea.cfg \
    fovea.class fovea.speedup fovea.precision fovea.version; do
    grep -qa "$key" a.png || echo "# $key is missing" >> missing
done
[ ! -s missing ]; ok $? gen_settings_are_in_the_picture
expect gen_json 0 $gen $small -f -o a.png --json
cp out j.json
json_ok j.json speedup_requested speedup_measured psnr_db ssim seconds files peak_bytes \
    weight_bytes flop anchors mode model_sha256; ok $? gen_json_has_its_keys
grep -q '"files": \["a.png"\]' j.json && grep -q '"psnr_db": null' j.json; ok $? gen_json_values

odd=$(printf 'odd\377"\\')
expect gen_into_a_folder_of_odd_bytes 0 $gen $small -o "$odd/" --json
cp out odd.json
json_ok odd.json files && grep -q 'odd\\ufffd' odd.json; ok $? json_of_a_name_that_is_not_utf8
rm -r "$odd"

# ---- Wrong usage ---------------------------------------------------------------------------------
refuse unknown_option_has_a_suggestion 2 "did you mean --steps" $gen --step 3
refuse unknown_letter 2 "-z" $gen -z
refuse missing_value 2 "value is missing" $gen --steps
refuse flag_with_value 2 "no value" $gen --json=1
refuse unexpected_argument 2 "unexpected" $gen picture
for bad in "--steps 0" "--steps 3.5" "--steps abc" "--steps 99999999999" "-n 0" "-n -1" "--cfg nan" \
    "--cfg 0x10" "--cfg 1e999" "--seed -1" "--seed 18446744073709551616" "--speedup 0.5" \
    "--speedup 2y" "--threads 0" "--device gpu" "--precision f16"; do
    # shellcheck disable=SC2086
    refuse "bad_value $bad" 2 "needed" $gen -f $bad
done
refuse unknown_class 2 "class" $gen --class quince -o x.png
refuse class_out_of_range 2 "0 to 3" $gen --class 4 -o x.png
refuse unknown_sampler 2 "did you mean euler" $gen --sampler eular
refuse sampler_of_another_family 2 "ddim" $gen --sampler ddim -o x.png
refuse unknown_suffix 2 "suffix" $gen -o x.tiff
refuse json_and_dash 2 "standard output" $gen --json -o -
refuse compare_needs_a_plan 2 "--speedup" $gen --compare
refuse side_by_side_needs_compare 2 "--compare" $gen --side-by-side x.png --speedup 2
refuse plan_in_excludes_speedup 2 "exclude" $gen --speedup 2 --plan-in p
refuse one_name_for_two_results 2 "names of their own" $gen --speedup 2 --compare \
    --side-by-side x.png -f -o x.png
refuse calibrate_checks_the_place_first 1 "cannot write" "$GEN" calibrate m.safetensors -o none/t.fvsens
refuse convert_checks_the_place_first 1 "cannot write" "$FOVEA" convert m.safetensors -o none/m.safetensors
refuse explain_checks_the_place_first 1 "cannot write" "$GEN" explain --model m.safetensors \
    --speedup 2 --png none/map.png
refuse explain_unknown_suffix 2 "png" "$GEN" explain --model m.safetensors --speedup 2 --png map.tiff
refuse accel_excludes_plan_in 2 "exclude" $gen --accel fora --plan-in p -o x.png
refuse accel_mode_needs_speedup 2 "speedup" $gen --accel soda -o x.png
refuse accel_method_excludes_speedup 2 "soda" $gen --accel fora --speedup 2 -o x.png
refuse accel_unknown 2 "taylorseer" $gen --steps 3 --accel taylorser -o x.png
refuse accel_unknown_option 2 "order" $gen --steps 3 --accel taylorseer:ordr=2 -o x.png
refuse accel_bad_value 2 "1 to 3" $gen --steps 3 --accel fora:N=4 -o x.png
refuse accel_run_time_has_no_plan 2 "teacache" $gen --accel teacache --plan-out p -o x.png
refuse table_needs_speedup 2 "--speedup" $gen --table t
"$GEN" info --devices > out 2> err
if grep -q "^cuda  none" out; then
    refuse no_such_device 1 "device cuda: cuda: .*; use --device cpu" $gen --device cuda
else
    skip no_such_device "this machine has one"
fi

# ---- Wrong input ---------------------------------------------------------------------------------
refuse missing_model 1 "none.safetensors" "$GEN" --model none.safetensors -o x.png
echo "not a model" > text.safetensors
refuse text_as_model 3 "text.safetensors" "$GEN" --model text.safetensors -o x.png
: > empty.safetensors
refuse empty_model 3 "empty.safetensors" "$GEN" --model empty.safetensors -o x.png
head -c 100000 m.safetensors > cut.safetensors
refuse truncated_model 3 "cut.safetensors" "$GEN" --model cut.safetensors -o x.png
head -c 300 m.safetensors > head.safetensors
refuse model_cut_in_its_header 3 "head.safetensors" "$GEN" --model head.safetensors -o x.png
refuse picture_as_model 3 "a.png" "$GEN" --model a.png -o x.png
refuse info_of_garbage 3 "text.safetensors" "$GEN" info text.safetensors
refuse missing_decoder 1 "none" $gen --decoder none.safetensors -o x.png
if mkfifo pipe 2> /dev/null; then
    # Nobody writes into it: waiting would be for ever.
    refuse pipe_as_model 1 "pipe" timeout -k 1 60 "$GEN" --model pipe -o x.png
    refuse info_of_a_pipe 1 "pipe" timeout -k 1 60 "$GEN" info pipe
else
    skip pipe_as_model "no mkfifo"
fi
refuse garbage_as_plan 3 "text" $gen --plan-in text.safetensors -o x.png
refuse garbage_as_table 3 "text" $gen --speedup 2 --table text.safetensors -o x.png

# ---- Wrong places --------------------------------------------------------------------------------
refuse missing_folder 1 "nowhere" $gen $small -o nowhere/x.png
refuse file_as_folder 1 "m.safetensors" $gen $small -o m.safetensors/x.png
if [ "$(id -u)" = 0 ]; then
    refuse unwritable_folder 1 "/proc" $gen $small -o /proc/x.png
else
    mkdir locked && chmod 555 locked
    refuse unwritable_folder 1 "locked" $gen $small -o locked/x.png
fi
if [ -c /dev/full ]; then
    refuse full_disk 1 "space" $gen $small -q -o /dev/full
    $gen $small -q -o - > /dev/full 2> err
    [ $? = 1 ] && grep -q "standard output" err; ok $? full_stdout
    "$GEN" --help > /dev/full 2> err
    [ $? = 1 ]; ok $? full_stdout_of_help
else
    skip full_disk "no /dev/full"
fi

# A file must not be opened as the stream that messages go to.
$gen $small -f -o closed.png 2>&- > out
cmp -s closed.png a.png; ok $? closed_stderr_does_not_reach_the_picture
$gen $small -f -o closed.png --json >&- 2> err
[ $? = 1 ] && cmp -s closed.png a.png; ok $? closed_stdout_is_reported

# ---- Signals -------------------------------------------------------------------------------------
interrupt sigterm_leaves_nothing TERM late.png $gen --steps 1000 -n 500 -o late.png
if env --default-signal=INT true 2> /dev/null; then
    interrupt ctrl_c_leaves_nothing INT late.png env --default-signal=INT $gen --steps 1000 -n 500 -o late.png
    interrupt ctrl_c_before_the_folder INT late env --default-signal=INT $gen --steps 1000 -n 500 -o late/
else
    skip ctrl_c_leaves_nothing "env has no --default-signal"
fi

# ---- Speed-up ------------------------------------------------------------------------------------
fast="--steps 8 --threads 1"
expect speedup_without_table 0 $gen $fast --speedup 1.5x -o fast.png --plan-out p.fvplan
grep -q "general prior" err && grep -q "gen calibrate" err; ok $? speedup_says_that_the_table_is_missing
[ "$(ls cache/fovea | grep -c '^timing-')" = 1 ]; ok $? speedup_keeps_its_timings
for poison in 's/"ends":\[[^]]*\]/"ends":[900000,900000]/' 's/"model":"[0-9a-f]*"/"model":"'"$(
    printf %064d 0)"'"/' 's/^./x/'; do
    rm -f cache/fovea/plan-*
    sed -i "$poison" cache/fovea/timing-*
    expect "speedup_measures_again_when_kept_times_mislead $poison" 0 \
        $gen $fast -f --speedup 1.5x -o fast.png
done
rm -f cache/fovea/plan-*
touch -d '100 days ago' cache/fovea/timing-* && run $gen $fast -v -f --speedup 1.5x -o fast.png &&
    grep -q "measuring module times" err; ok $? speedup_does_not_trust_old_times
run $gen $fast -f --speedup 1.5x -o fast.png --plan-out p.fvplan -q
expect plan_in 0 $gen $fast --plan-in p.fvplan -o plan.png
python=$(command -v python3)
if [ -n "$python" ]; then
    cat > pixels.py << 'END'
import sys, zlib, struct
def pixels(path):
    d = open(path, "rb").read()
    i, out = 8, b""
    while i < len(d):
        n = struct.unpack(">I", d[i:i + 4])[0]
        if d[i + 4:i + 8] == b"IDAT": out += d[i + 8:i + 8 + n]
        i += 12 + n
    return zlib.decompress(out)
sys.exit(pixels(sys.argv[1]) != pixels(sys.argv[2]))
END
    "$python" pixels.py fast.png plan.png; ok $? plan_in_repeats_the_picture
else
    skip plan_in_repeats_the_picture "no python3"
fi
expect compare 0 $gen $fast --speedup 1.5 --compare --side-by-side s.png -f -o fast.png --json
cp out c.json
json_ok c.json speedup_requested speedup_measured psnr_db ssim seconds_exact; ok $? compare_json
! grep -q '"speedup_measured": null' c.json && grep -q '"ssim": [0-9-]' c.json; ok $? compare_measures
is_png s.png; ok $? side_by_side_is_a_picture
refuse polish_needs_speedup 2 "speedup" $gen --polish 3 -o x.png
expect polish 0 $gen $fast --speedup 1.5 --polish 2 -f -o fast.png
grep -q 'polished: .* dB' err; ok $? polish_says_what_it_brought
run $gen $fast --speedup 1.5 -f -o fast.png --json
most=$(sed -n 's/.*"cache_bytes": \([0-9]*\).*/\1/p' out)
refuse cache_mem_needs_speedup 2 "speedup" $gen --cache-mem 64M -o x.png
refuse cache_mem_is_a_size 2 "size such as" $gen --speedup 2 --cache-mem 64Q -o x.png
refuse cache_mem_too_small 1 "are the minimum" $gen $fast -q --speedup 1.5 --cache-mem 1K -o x.png
least=$(sed -n 's/.*batch: \([0-9]*\) bytes.*/\1/p' err)
# As much where the machine's times made a plan that keeps nothing but modulations.
[ "${least:-0}" -gt 1024 ] && [ "$least" -le "$most" ]; ok $? cache_mem_minimum_is_at_most_what_is_usual
expect cache_mem 0 $gen $fast --speedup 1.5 --cache-mem "$least" -f -o fast.png --json
[ "$(sed -n 's/.*"cache_bytes": \([0-9]*\).*/\1/p' out)" -le "$least" ]; ok $? cache_mem_is_kept
expect accel_with_speedup 0 $gen $fast --speedup 1.5 --accel soda -f -o fast.png --json
grep -q '"mode": "soda' out; ok $? accel_chooses_the_plan
expect accel_method 0 $gen $fast --accel taylorseer:N=3,order=1 --plan-out t.fvplan -f -o t.png --json
grep -q '"mode": "taylorseer:N=3,order=1"' out; ok $? accel_method_is_reported
expect accel_method_as_plan 0 $gen $fast --plan-in t.fvplan -f -o t2.png
if [ -n "$python" ]; then "$python" pixels.py t.png t2.png; ok $? accel_method_as_plan_repeats_the_picture
else skip accel_method_as_plan_repeats_the_picture "no python3"; fi
refuse guard_needs_a_plan 2 "plan" $gen --guard 1.2 -o x.png
refuse guard_needs_a_plan_known_before 2 "teacache" $gen --steps 3 --accel teacache --guard 2 -o x.png
expect guard 0 $gen $fast --plan-in t.fvplan --guard 0.001 -f -o g.png --json
grep -q '"guard_fired": [1-9]' out; ok $? guard_fires
expect guard_at_rest 0 $gen $fast --plan-in t.fvplan --guard 1000 -f -o g.png --json
grep -q '"guard_fired": 0' out; ok $? guard_rests
grep -qa "fovea.guard.*1000" g.png; ok $? guard_is_in_the_picture
! grep -qa "fovea.guard" t.png; ok $? no_guard_is_in_no_picture
if [ -n "$python" ]; then "$python" pixels.py t.png g.png; ok $? guard_at_rest_repeats_the_picture
else skip guard_at_rest_repeats_the_picture "no python3"; fi
expect accel_teacache 0 $gen $fast --accel teacache:threshold=0.3 --compare -f -o t.png
refuse speedup_beyond_the_maximum 1 "maximum" $gen $fast -q --speedup 900 -o x.png
expect speedup_1_is_exact 0 $gen $fast --speedup 1 --json -o exact.png
grep -q '"mode": "exact"' out; ok $? speedup_1_says_exact
expect calibrate 0 "$GEN" calibrate m.safetensors --steps 8 --draws 2 --quick --threads 1
[ -s m.fvsens ]; ok $? calibrate_writes_beside_the_model
grep -q "exact pictures" err && [ ! -e m.fvsens.part ]; ok $? calibrate_says_how_long_it_takes
echo else > q.fvsens.part
refuse calibrate_keeps_a_foreign_part 3 "q.fvsens.part" "$GEN" calibrate m.safetensors -q \
    -o q.fvsens --steps 8 --draws 2
[ -s q.fvsens.part ] && [ ! -e q.fvsens ]; ok $? calibrate_leaves_the_foreign_part
rm q.fvsens.part
refuse calibrate_keeps_existing_files 1 exists "$GEN" calibrate m.safetensors --steps 8
expect info_of_a_table 0 "$GEN" info m.fvsens
grep -q "steps" out && grep -q "^runs:" out; ok $? info_of_a_table_says_steps_and_runs
expect speedup_with_table 0 $gen $fast --speedup 1.5 -f -o fast.png
! grep -q "prior" err; ok $? speedup_uses_the_table
refuse table_of_another_model 3 "m.fvsens" "$GEN" --model m2.safetensors $fast --speedup 1.5 \
    --table m.fvsens -o x.png
expect explain_speedup 0 "$GEN" explain --model m.safetensors $fast --speedup 1.5 --png map.png
grep -q '^    0 A  FF' out && grep -q 'in full  *0' out && is_png map.png; ok $? explain_draws_a_map
expect explain_plan 0 "$GEN" explain --model m.safetensors p.fvplan
expect explain_plan_without_its_model 0 "$GEN" explain p.fvplan
refuse explain_plan_of_another_model 3 "another model" "$GEN" explain --model m2.safetensors p.fvplan
expect explain_json 0 "$GEN" explain --json p.fvplan
json_ok out mode sampler evaluations anchors gaps map full reused speedup_predicted; ok $? explain_json_has_its_keys
if [ -n "$python" ]; then
    # A plan with every action, for this model.
    cat > forecasts.py << 'END'
import json, sys
def crc32c(b):
    c = 0xffffffff
    for x in b:
        c ^= x
        for _ in range(8): c = c >> 1 ^ (0x82f63b78 if c & 1 else 0)
    return c ^ 0xffffffff
model = json.load(open(sys.argv[1]))
n = 2 * model["depth"]
full, rest = "F" * n, "." * (n - 2)
lines = ["fvplan 2", "model " + model["sha256"], "sampler euler", "steps 8", "evaluations 8",
    "blocks %d" % (n / 2), "cfg 2", "mode by hand", "speedup 1.5", "flop_ratio 1.6", "skip hidden",
    "score stale", "0 " + full, "1 " + full, "2 " + full, "3 L2" + rest, "w 3 0 1 2 -1",
    "4 " + "s" * n, "v 4 2 -1", "5 " + full, "6 " + rest + "L1", "w 6 %d %d 1.5 -0.5" % (n - 2, n - 1),
    "7 " + full]
text = ("\n".join(lines) + "\n").encode()
open(sys.argv[2], "wb").write(text + b"end %08x\n" % crc32c(text))
END
    "$GEN" info --json m.safetensors > out 2> err && "$python" forecasts.py out all.fvplan 2> err
    expect explain_every_action 0 "$GEN" explain --png all.png all.fvplan
    grep -q '^    3    L2 ' out && grep -q '^    4    ss ' out && grep -q 'skipped' out &&
        grep -q 'hidden' out && is_png all.png; ok $? explain_shows_every_action
    expect plan_in_with_every_action 0 $gen $fast --plan-in all.fvplan -o all1.png
    $gen --steps 8 --threads 2 -q --plan-in all.fvplan -o all2.png > out 2> err &&
        "$python" pixels.py all1.png all2.png; ok $? plan_in_same_picture_for_1_and_2_threads
    refuse plan_in_of_another_length 3 "evaluations" $gen --steps 7 --plan-in all.fvplan -o x.png
else
    skip explain_every_action "no python3"
fi
sed 's/^cfg/cfg /' p.fvplan > bad.fvplan
refuse explain_damaged_plan 3 "bad.fvplan" "$GEN" explain bad.fvplan
refuse explain_keeps_existing_files 1 "-f" "$GEN" explain p.fvplan --png map.png
refuse explain_needs_one 2 "plan" "$GEN" explain --model m.safetensors

# ---- fovea ---------------------------------------------------------------------------------------
refuse unknown_verb 2 "did you mean train" "$FOVEA" tran
refuse no_verb 2 "verb" "$FOVEA"
expect convert_to_f32 0 "$FOVEA" convert m.safetensors -o f32.safetensors --type f32
expect convert_to_int8 0 "$FOVEA" convert m.safetensors -o int8.safetensors --type int8
expect converted_model_works 0 "$GEN" --model int8.safetensors $small -f -o a.png
refuse convert_garbage 3 "text" "$FOVEA" convert text.safetensors -o x.safetensors
refuse convert_missing 1 "none" "$FOVEA" convert none.pt -o x.safetensors
refuse convert_unknown_type 2 "int8" "$FOVEA" convert m.safetensors -o x.safetensors --type int4
refuse train_missing_recipe 1 "none" "$FOVEA" train none.recipe
printf 'engine = dit\nfruit = apple\n' > bad.recipe
refuse train_unknown_engine 3 "engine" "$FOVEA" train bad.recipe --set engine=steam
recipe="$data/clothing.recipe"
# The small model that ships, with its table: twice as fast is near to the exact pictures.
f32=$(dirname "$data")/../diffusion/models/f32.safetensors
if [ -f "$f32" ]; then
    expect shipped_f32 0 "$GEN" --model "$f32" --class tomato-heart -n 2 --seed 5 --threads 1 \
        --speedup 2x --compare --json -o f32.png
    ! grep -q prior err && grep -q '"mode": "dpx"' out && is_png f32.png; ok $? shipped_f32_has_its_table
    awk -F'[:,]' '/"psnr_db"/ { found = $2 + 0 > 36 } END { exit !found }' out; ok $? shipped_f32_is_near_exact
    run "$GEN" info --json "$f32" && grep -q "apple-golden.*tomato-heart" out
    ok $? shipped_f32_names_its_classes
else
    skip shipped_f32 "not in this tree"
fi
train="$FOVEA train $recipe --data-dir $data --threads 1 --set batch=4 --set sample_every=0 --set eval_batches=0 --set split=0"
if [ -f "$recipe" ]; then
    expect train 0 $train --set steps=3 -o t
    [ -f t/model.safetensors ] && [ -f t/metrics.csv ]; ok $? train_writes_model_and_metrics
    expect train_resumes_with_more_steps 0 $train --set steps=4 --resume -o t --json
    json_ok out step loss seconds files; ok $? train_json_has_its_keys
    refuse train_keeps_existing_runs 1 "resume" $train --set steps=4 -o t
    refuse train_unknown_key 3 "fruit" $train --set fruit=1 -o u
    refuse train_bad_value 3 "batch" $train --set batch=many -o u
    expect trained_model_works 0 "$GEN" --model t/model.safetensors $small -f -o a.png
    $train --set steps=100000 -o v > out 2> err &
    pid=$!
    tries=0
    while [ ! -f v/metrics.csv ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
    sleep 1
    kill -TERM $pid
    wait $pid
    got=$?
    [ "$got" = 130 ] && ls v/ckpt-*.safetensors > out 2>> err && grep -q "resume" err
    ok $? train_saves_when_interrupted
else
    skip train "no training data"
fi

run "$GEN" --version; grep -q '^gen [0-9]' out; ok $? gen_version
run "$FOVEA" --version; grep -q '^fovea [0-9]' out; ok $? fovea_version

finish
