#!/bin/sh
# cli_gen_sr.sh - gen sr: sizes, formats and options, the same pixels where they must be, what it
# refuses, files complete or absent.
#
# GEN and FOVEA name the programs. The model has random weights; quality is measured elsewhere.
set -u
: "${GEN:?path of gen}" "${FOVEA:?path of fovea}"
. "$(dirname "$0")/shell_checks.sh"

run "$FOVEA" new pssr-nano --seed 2 -o m.safetensors
ok $? a_model
sr="$GEN sr --model m.safetensors --precision f32 -q -f"
grey in.pgm 24 16 '128 + 100 * sin(x / 3) * cos(y / 2)'
pnm_size() { sed -n 2p "$1"; }

# ---- What it is ----------------------------------------------------------------------------------
expect info 0 "$GEN" info m.safetensors
grep -q "pssr-nano, super-resolution" out && grep -q "^work .*base 0.369, once 0.036" out
ok $? info_says_what_it_is
expect info_json 0 "$GEN" info --json m.safetensors
json_ok out kind name channels steps detail update base_parameters sha256; ok $? info_json_has_its_keys

# ---- Weights of another type ----------------------------------------------------------------------
expect convert_int8 0 "$FOVEA" convert m.safetensors --type int8 -o m8.safetensors
run $sr in.pgm a.pgm && run "$GEN" sr --model m8.safetensors -q -f in.pgm b.pgm &&
    [ -s a.pgm ] && [ -s b.pgm ] &&
    [ "$(wc -c < m8.safetensors)" -lt "$(wc -c < m.safetensors)" ] && ! cmp -s a.pgm b.pgm
ok $? int8_is_smaller_and_other_pixels
expect convert_f32 0 "$FOVEA" convert m.safetensors --type f32 -o m32.safetensors
run "$GEN" sr --model m32.safetensors --precision f32 -q -f in.pgm b.pgm && cmp -s a.pgm b.pgm
ok $? f32_has_the_same_pixels
"$GEN" info --json m8.safetensors > info8; "$GEN" info --json m.safetensors > info
grep -o '"name": "[^"]*"' info > name
[ -s name ] && grep -q "$(cat name)" info8; ok $? metadata_stay
refuse convert_takes_no_vae 2 "model of gen sr" "$FOVEA" convert m.safetensors --draft m.safetensors -o x
head -c 9000 m.safetensors > cut.safetensors
refuse convert_cut 3 "cut" "$FOVEA" convert cut.safetensors -o x
rm -f m8.safetensors m32.safetensors info8 info name a.pgm b.pgm

# ---- Sizes and formats ---------------------------------------------------------------------------
for case in ":96 64" "--scale 1:24 16" "--scale 1.5:36 24" "--scale 2:48 32" "--scale 8:192 128" \
    "--out-size 50x64:50 64"; do
    # shellcheck disable=SC2086
    run $sr ${case%%:*} in.pgm o.pgm && [ "$(pnm_size o.pgm)" = "${case#*:}" ]
    ok $? "size ${case%%:*}"
done
for to in o.png o.webp o.jpg o.ppm; do
    expect "write $to" 0 $sr in.pgm $to
    expect "read $to" 0 $sr --scale 1 $to again.png
done
is_png o.png; ok $? png_is_png
expect sixteen_bits 0 $sr --depth 16 in.pgm deep.pgm
[ "$(sed -n 3p deep.pgm)" = 65535 ]; ok $? depth_is_16
expect o_option 0 $sr in.pgm -o by_o.pgm
run $sr in.pgm o.pgm; cmp -s by_o.pgm o.pgm; ok $? o_is_the_second_file
$sr - pipe.pgm < in.pgm > out 2> err && cmp -s pipe.pgm o.pgm; ok $? reads_standard_input

# ---- Options change the picture, or must not -----------------------------------------------------
for same in "--threads 1" "--threads 2" "--steps 4" "--fdu lerp" "--scale 4" "--mem 400M"; do
    # shellcheck disable=SC2086
    run $sr $same in.pgm p.pgm && cmp -s o.pgm p.pgm; ok $? "same $same"
done
for change in "--steps 1" "--steps 3" "--detail 0.5" "--fdu lock" "--fdu ref" "--fdu paper" \
    "--fdu off"; do
    # shellcheck disable=SC2086
    run $sr $change in.pgm p.pgm && ! cmp -s o.pgm p.pgm; ok $? "other $change"
done
run $sr --steps 1 in.pgm base.pgm; run $sr --detail 0 in.pgm p.pgm; cmp -s base.pgm p.pgm
ok $? no_detail_is_one_step
run $sr --speedup 1 in.pgm p.pgm && cmp -s o.pgm p.pgm; ok $? speedup_1_is_all_steps
run "$GEN" sr --model m.safetensors --json -q -f --speedup 1.2 in.pgm p.pgm
json_ok out files width height steps tiles seconds network_seconds gflop speedup_requested \
    speedup_measured psnr_db peak_bytes peak_resident_bytes; ok $? json_has_its_keys
[ "$(value steps)" -lt 4 ] && near "$(value speedup_measured)" 1.2 20; ok $? speedup_takes_fewer_steps
refuse speedup_beyond 2 "the most is" $sr --speedup 90 in.pgm q.pgm

# ---- Tiles and memory ----------------------------------------------------------------------------
grey big.pgm 120 100 '128 + 100 * sin(x / 3) * cos(y / 2)'
run $sr big.pgm whole.pgm
run $sr --tile 96x96 --tile-exact --json big.pgm exact.pgm
[ "$(value tiles)" -gt 4 ]; ok $? tiles_are_many
[ -s whole.pgm ] && [ "$(wc -c < whole.pgm)" = "$(wc -c < exact.pgm)" ] &&
    cmp -l whole.pgm exact.pgm | awk '
        function octal(s) { return int(s / 100) * 64 + int(s % 100 / 10) * 8 + s % 10 }
        { d = octal($2) - octal($3); if (d * d > 1) bad++ } END { exit bad > 0 }'
ok $? exact_tiles_are_the_whole_picture
run $sr --mem 150M --json big.pgm p.pgm
memory_within 157286400 memory_stays_below_mem
for way in "--fdu gain" "--speedup 1x" "--speedup 1.1x"; do
    # shellcheck disable=SC2086
    run $sr $way --mem 150M --json big.pgm p.pgm
    memory_within 157286400 "memory_stays_below_mem $way"
done
refuse too_little_memory 1 "give --mem [0-9]*M.*at least [0-9]*M" $sr --mem 20M big.pgm q.pgm
loud="$GEN sr --model m.safetensors --precision f32 -f --steps 1 --overlap 32"
run $loud --mem 20M big.pgm q.pgm
ample=$(sed -n 's/.*give --mem \([0-9]*M\).*/\1/p' err) few=$(sed -n 's/.*at least \([0-9]*M\)$/\1/p' err)
few=${few%M}
told=1 # what is told is enough in each run, though their resident peaks differ
for i in 1 2 3 4 5 6 7 8; do run $loud --mem "${few}M" big.pgm p.pgm || told=0; done
[ $told = 1 ]; ok $? few_is_enough
for less in 6 5 4 3 2 1 0; do run $loud --mem "$((few - less))M" big.pgm p.pgm && break; done
grep -q "warning: tiles are small.*--mem [0-9]*M" err; ok $? small_tiles_are_warned_of
expect ample_memory 0 $loud --mem "${ample:-none}" big.pgm p.pgm
! grep -q warning err; ok $? in_ample_memory_they_are_not_small
awk 'BEGIN { print "P3"; print 420, 300; print 255
    for (i = 0; i < 126000; i++) print i % 420 % 256, i % 256, i % 7 * 36 }' > colours.ppm
for case in "8 120M large.ppm" "8 120M large.png" "6.5 120M large.webp"; do
    # shellcheck disable=SC2086
    set -- $case
    run $sr --steps 1 --overlap 32 --scale "$1" --mem "$2" --json colours.ppm "$3"
    memory_within $((${2%M} * 1048576)) "memory_stays_below_mem_beyond_4_times $3"
done
refuse too_little_for_the_result 1 "at least 1[0-9][0-9]M" $sr --scale 8 --mem 70M colours.ppm q.png
refuse too_little_beyond_4_times 1 "at least [0-9]*M" $sr --scale 8 --mem 20M big.pgm q.pgm
least=$(sed -n 's/.*at least \([0-9]*M\)$/\1/p' err)
expect what_is_told_is_enough 0 $sr --steps 1 --overlap 32 --scale 8 --mem "${least:-none}" --json \
    big.pgm large.pgm
memory_within $((${least%M} * 1048576)) memory_stays_below_what_is_told

# Without --mem a container's limit holds, where this test may make one.
group=/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)/fovea.$$
limit=memory.limit_in_bytes
[ -d /sys/fs/cgroup/memory ] || {
    group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/fovea.$$
    limit=memory.max
}
if [ -z "${SANITIZED:-}" ] && mkdir "$group" 2> /dev/null && echo 160M 2> /dev/null > "$group/$limit" &&
    sh -c 'echo $$ > "$1/cgroup.procs"' sh "$group" 2> /dev/null; then
    expect in_a_container 0 sh -c 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"' sh "$group" \
        $sr --steps 1 --scale 8 --json colours.ppm large.ppm
    memory_within 167772160 a_containers_limit_holds
else
    skip a_containers_limit_holds "no control group of memory can be made here"
fi
rmdir "$group" 2> /dev/null

# ---- Training ------------------------------------------------------------------------------------
grey a.pgm 96 96 '128 + 60 * sin(x / 3) + 50 * cos(y / 5 + x / 7)'
tar cf few.tar a.pgm
printf '%s\n' "engine = pssr" "preset = nano" "data = few.tar" "crop = 48" "batch = 1" "native_max = 1" \
    "eval_pictures = 0" "warmup = 1" "steps = 2" "workers = -1" > nano.recipe
train="$FOVEA train nano.recipe --threads 1 -q"
expect train_a_base 0 $train -o base
refuse a_draft_needs_its_base 3 "base: name it (--init)" $train --set stage=draft -o draft
expect train_a_draft 0 $train --set stage=draft --init base/model.safetensors -o draft
expect a_draft_resumes 0 $train --set stage=draft --set steps=3 --init base/model.safetensors -o draft \
    --resume
expect trained_models_work 0 "$GEN" sr --model draft/model.safetensors -q -f in.pgm p.pgm
expect train_a_draft_with_steps_of_its_own 0 $train --set stage=draft --set own_steps=3 \
    --init base/model.safetensors -o own
run "$GEN" info --json own/model.safetensors
[ "$(value steps) $(value own_steps)" = "4 3" ]; ok $? steps_of_its_own_are_shown
own="$GEN sr --model own/model.safetensors -q -f --json"
run $own in.pgm p.pgm; [ "$(value steps)" = 3 ]; ok $? steps_of_its_own_are_the_default
run $own --steps 4 in.pgm p.pgm; [ "$(value steps)" = 4 ]; ok $? more_steps_than_its_own
run $own --speedup 1 in.pgm p.pgm; [ "$(value steps)" = 3 ]; ok $? speedup_is_over_its_own_steps

# ---- Video ---------------------------------------------------------------------------------------
mkdir -p frames
for i in 9 10 11; do
    grey g.pgm 16 12 "100 + $i * 3 + 50 * sin(x / 3)"
    run "$GEN" sr --model m.safetensors -q -f --scale 1 --steps 1 g.pgm "frames/f$i.png"
done
expect frames 0 $sr --frames --scale 2 frames big_frames
[ "$(ls big_frames | wc -l)" = 3 ]; ok $? frames_are_as_many
is_png "big_frames/$(ls big_frames | head -n 1)"; ok $? frames_are_pngs
printf 'x' > frames/f10.png
expect broken_frame 3 $sr --frames --scale 2 frames two_frames
[ "$(ls two_frames | wc -l)" = 1 ]; ok $? frames_before_are_kept
expect keep_going 0 $sr --frames --keep-going --scale 2 frames three_frames
[ "$(ls three_frames | wc -l)" = 3 ]; ok $? a_broken_frame_is_repeated
{
    echo 'YUV4MPEG2 W16 H12 F25:1 Ip A1:1 C420jpeg'
    for i in 1 2 3; do
        echo FRAME
        awk -v i=$i 'BEGIN { for (k = 0; k < 288; k++) printf "%c", 64 + (k * i) % 32 }' | head -c 288
    done
} > v.y4m
expect y4m 0 $sr --y4m --scale 2 v.y4m w.y4m
head -n 1 w.y4m | grep -q "W32 H24 F25:1"; ok $? y4m_header_is_kept
[ "$(wc -c < w.y4m)" = $(($(head -n 1 w.y4m | wc -c) + 3 * (6 + 32 * 24 * 3 / 2))) ]
ok $? y4m_has_all_frames
$sr --y4m --scale 2 - - < v.y4m > pipe.y4m 2> err; cmp -s pipe.y4m w.y4m; ok $? y4m_through_pipes
head -c 700 v.y4m > cut.y4m
expect truncated_video 3 $sr --y4m --scale 2 cut.y4m kept.y4m
[ "$(wc -c < kept.y4m)" = $(($(head -n 1 w.y4m | wc -c) + 2 * (6 + 32 * 24 * 3 / 2))) ]
ok $? complete_frames_are_kept
head -c 1152 big.pgm > v.rgb
expect raw 0 $sr --raw rgb24 --size 16x12 --scale 3 v.rgb w.rgb
[ "$(wc -c < w.rgb)" = $((2 * 48 * 36 * 3)) ]; ok $? raw_has_all_frames
{ $sr --y4m --scale 8 v.y4m - 2> err; echo $? > code; } | head -c 10 > some
[ "$(cat code)" = 1 ] && grep -q "^gen: -: .*Broken pipe" err && [ "$(wc -l < err)" = 1 ] &&
    [ "$(cat some)" = "YUV4MPEG2 " ]
ok $? a_pipe_that_is_closed_early_ends_it
refuse two_kinds 2 "one of" $sr --y4m --frames v.y4m q.y4m
refuse raw_without_size 2 "size" $sr --raw rgb24 v.rgb q.rgb
refuse video_and_sheet 2 "single" $sr --y4m --compare q.png v.y4m q.y4m
refuse hostile_header 3 "v.rgb" $sr --y4m v.rgb q.y4m

# ---- Comparing -----------------------------------------------------------------------------------
expect sheet 0 $sr --compare sheet.png in.pgm p.pgm
is_png sheet.png; ok $? sheet_is_a_png
run $sr --json --reference o.pgm in.pgm p.pgm
json_ok out psnr_db bicubic_psnr_db && near "$(value bicubic_psnr_db)" 1 99; ok $? reference_is_measured
refuse reference_of_another_size 3 "pixels" $sr --reference in.pgm in.pgm p.pgm
refuse it_is_refused_before_the_work 3 "pixels" $sr --mem 20M --reference in.pgm in.pgm q.pgm

# ---- Refused -------------------------------------------------------------------------------------
# The default model is part of the program, unless it was built without.
run "$GEN" sr -q in.pgm default.png
case $? in 0) is_png default.png ;; 1) grep -q "no default model" err ;; *) false ;; esac
ok $? default_model
rm -f default.png
refuse no_output 2 "where to" $sr in.pgm
refuse two_outputs 2 "not both" $sr in.pgm q.png -o q.png
refuse scale_beyond 2 "scale" $sr --scale 9 in.pgm q.png
refuse scale_and_size 2 "not both" $sr --scale 2 --out-size 48x32 in.pgm q.png
refuse size_text 2 "out-size" $sr --out-size 48 in.pgm q.png
refuse size_below 2 "times" $sr --out-size 12x12 in.pgm q.png
refuse too_many_steps 2 "steps" $sr --steps 5 in.pgm q.png
refuse steps_and_speedup 2 "not both" $sr --steps 2 --speedup 2 in.pgm q.png
refuse suffix 2 "suffix" $sr in.pgm q.xyz
refuse missing_input 1 "none.png" $sr none.png q.png
printf 'P5 3 3 255\n\001' > cut.pgm
refuse truncated 3 "cut.pgm" $sr cut.pgm q.png
: > empty.png
refuse empty 3 "empty.png" $sr empty.png q.png
printf 'P6 999999 999999 255\n' > huge.ppm
refuse huge_header 3 "huge.ppm" $sr huge.ppm q.png
refuse not_a_model 3 "in.pgm" "$GEN" sr --model in.pgm -q in.pgm q.png
refuse existing_file 1 "exists" "$GEN" sr --model m.safetensors -q in.pgm o.pgm
if [ -w /dev/full ]; then
    ln -s /dev/full full.png
    refuse full_disk 1 "full.png" $sr in.pgm full.png
else
    skip full_disk "no /dev/full"
fi
grey wide.pgm 500 500 "x % 256"
interrupt interrupted TERM stopped.png $sr wide.pgm stopped.png

finish
