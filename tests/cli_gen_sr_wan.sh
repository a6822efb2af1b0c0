#!/bin/sh
# cli_gen_sr_wan.sh - gen sr with PS-SR on Wan2.1: videos, folders, pictures, and what is left when one
# breaks. That frames are the library's: test_gen_wan.c.
#
# GEN and FOVEA name the programs. The model has random weights.
set -u
: "${GEN:?path of gen}" "${FOVEA:?path of fovea}"
. "$(dirname "$0")/shell_checks.sh"

run "$FOVEA" new wan-nano --seed 2 -o m.safetensors
ok $? a_model
sr="$GEN sr --model m.safetensors --precision f32 --scale 2 --window 5:2 -q"

y4m() { # columns, rows, frames
    awk -v w="$1" -v h="$2" -v n="$3" 'BEGIN {
        printf "YUV4MPEG2 W%d H%d F25:1 Ip A1:1 C444\n", w, h
        for (k = 0; k < n; k++) {
            printf "FRAME\n"
            for (i = 0; i < w * h; i++) printf "%c", 40 + (i + 3 * k) % 80
            for (i = 0; i < 2 * w * h; i++) printf "%c", 120 + i % 7
        }
    }'
}
size() { wc -c < "$1"; }
bytes=$((32 * 24 * 3 + 6)) # of a frame twice as large as 16 x 12
head_bytes() { head -n 1 "$1" | wc -c; }
has_frames() { [ "$(size "$1")" -eq $(($(head_bytes "$1") + $2 * bytes)) ]; } # name, frames
no_trace() { [ -z "$(find . -name "$1*")" ]; }

# ---- What the file is ----------------------------------------------------------------------------
expect info 0 "$GEN" info m.safetensors
grep -q '^model  *wan-nano, super-resolution of clips on Wan2.1: gen sr$' out &&
    grep -q '^prompt  *5 rows$' out
ok $? info_says_what_it_is
expect info_as_json 0 "$GEN" info --json m.safetensors
json_ok out kind name steps detail update base_parameters autoencoder_parameters sha256 &&
    [ "$(value kind)" = '"pssr-wan"' ]
ok $? its_keys
refuse the_bench_is_for_others 3 "gen sr takes it" "$FOVEA" bench sr --model m.safetensors "$tests/data/photos"

# ---- Whole videos --------------------------------------------------------------------------------
y4m 16 12 7 > in.y4m
expect a_file 0 $sr in.y4m out.y4m # the names say that it is Y4M
head -n 1 out.y4m | grep -q '^YUV4MPEG2 W32 H24 F25:1 Ip A1:1 C444' && has_frames out.y4m 7
ok $? every_frame_comes_out
$sr --y4m - - < in.y4m > pipe.y4m 2> err && cmp -s pipe.y4m out.y4m
ok $? pipes_give_the_same_bytes
$sr --threads 1 in.y4m one.y4m 2> err && cmp -s one.y4m out.y4m
ok $? so_does_one_thread
expect numbers 0 $sr --json in.y4m json.y4m
json_ok out files frames repeated width height seconds frames_per_second peak_resident_bytes &&
    [ "$(value frames)" = 7 ]
ok $? keys_as_of_other_videos
refuse an_output_that_exists 1 exists $sr in.y4m out.y4m

# ---- Options -------------------------------------------------------------------------------------
refuse no_exact_tiles 2 "--tile-exact" $sr --tile-exact in.y4m x.y4m
refuse no_update_in_between 2 "paper" $sr --fdu paper in.y4m x.y4m
refuse a_window_that_is_not_1_4k 2 "--window 6" $sr --window 6 in.y4m x.y4m
refuse a_window_that_is_all_shared 2 "--window 5:5" $sr --window 5:5 in.y4m x.y4m
refuse a_window_that_is_no_number 2 "--window 5:x" $sr --window 5:x in.y4m x.y4m
refuse more_steps_than_there_are 2 "the model has 4" $sr --steps 5 in.y4m x.y4m
refuse tiles_that_are_all_shared 2 "--tile 32x32" $sr --tile 32x32 --overlap 32 in.y4m x.y4m
refuse too_large 2 "at most" "$GEN" sr --model m.safetensors --out-size 200x150 in.y4m x.y4m
refuse no_measures_of_videos 2 "single pictures" $sr --speedup 2x in.y4m x.y4m
"$FOVEA" new pssr-nano -o s.safetensors > out 2> err
refuse windows_are_for_wan 2 "--window" "$GEN" sr --model s.safetensors --window 5 in.y4m x.y4m
expect without_detail 0 $sr --detail 0 --fdu lerp in.y4m base.y4m
expect one_step 0 $sr --steps 1 in.y4m first.y4m
cmp -s base.y4m first.y4m && ! cmp -s base.y4m out.y4m; ok $? no_detail_is_the_base

# ---- Files that are broken -----------------------------------------------------------------------
head -c 100000 m.safetensors > half.safetensors
refuse a_cut_model 3 "half.safetensors" "$GEN" sr --model half.safetensors in.y4m x.y4m
refuse no_such_model 1 "absent" "$GEN" sr --model absent in.y4m x.y4m
head -c $(($(size in.y4m) - 20)) in.y4m > cut.y4m
expect a_cut_video 3 $sr cut.y4m six.y4m
grep -q '^gen: cut.y4m: .*within frame 7' err && has_frames six.y4m 6
ok $? its_whole_frames_are_restored
y4m 16 12 6 > short.y4m
$sr short.y4m shorter.y4m 2> err && cmp -s six.y4m shorter.y4m
ok $? as_a_shorter_clip
{ cat short.y4m; y4m 8 8 1; } > change.y4m
"$GEN" sr --model m.safetensors --precision f32 --scale 2 --window 5:2 change.y4m talk.y4m > out 2> err
[ $? = 3 ] && grep -q '^gen: change.y4m: .*frame 7 has 8 x 8' err &&
    grep -q '^gen: 6 frames before that are complete' err && cmp -s talk.y4m shorter.y4m
ok $? a_change_of_size_keeps_the_frames_before
{ head -n 1 in.y4m; y4m 8 8 1; } > none.y4m
refuse nothing_is_left_without_a_frame 3 "8 x 8" $sr none.y4m nothing.y4m
refuse what_is_no_video 3 "m.safetensors" $sr --y4m m.safetensors x.y4m
refuse an_empty_stream 3 empty $sr --y4m - x.y4m

# ---- Output that breaks off ----------------------------------------------------------------------
if (ulimit -f 8) 2> limit; then
    (
        ulimit -f 8 # 4 or 8 KiB: one frame or three
        exec $sr in.y4m full.y4m
    ) > out 2> err
    [ $? = 1 ] && grep -q '^gen: full.y4m: .*too large' err &&
        { has_frames full.y4m 1 || has_frames full.y4m 3; } &&
        head -c "$(size full.y4m)" out.y4m | cmp -s - full.y4m
    ok $? a_full_disk_keeps_complete_frames
else
    skip a_full_disk_keeps_complete_frames "no limit of files"
fi
if [ -w /dev/full ]; then
    expect a_full_device 1 $sr --y4m in.y4m /dev/full
    grep -q '^gen: /dev/full: ' err; ok $? the_output_is_blamed
else
    skip a_full_device "no /dev/full"
fi

# ---- Interruptions -------------------------------------------------------------------------------
# Seven frames and then nothing. Frames 6 and 7 make the first two final.
mkfifo feed.y4m
{ cat in.y4m; exec sleep 30; } > feed.y4m &
feeder=$!
$sr feed.y4m stopped.y4m > out 2> err &
pid=$!
wait_for_handler $pid
tries=0
until [ "$(cat stopped.y4m.tmp* 2> /dev/null | wc -c)" -gt $((2 * bytes)) ] || [ $tries -gt 200 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
kill -TERM $pid
wait $pid
[ $? = 130 ] && grep -q interrupted err && has_frames stopped.y4m 2 &&
    head -c "$(size stopped.y4m)" out.y4m | cmp -s - stopped.y4m
ok $? an_interruption_keeps_frames_that_are_final
kill $feeder 2> /dev/null; wait $feeder 2> /dev/null

# ---- Memory --------------------------------------------------------------------------------------
refuse too_little_memory 1 "at least [0-9]*M" $sr --mem 12M in.y4m least.y4m
least=$(sed -n 's/.*at least \([0-9]*M\)$/\1/p' err)
expect the_least_that_is_told_is_enough 0 $sr --json --mem "${least:-none}" in.y4m least.y4m
memory_within $((${least%M} * 1048576)) memory_stays_below_it
cmp -s least.y4m out.y4m; ok $? small_frames_need_no_tiles
expect tiles 0 $sr --tile 16x16 --overlap 4 in.y4m tiles.y4m
has_frames tiles.y4m 7 && ! cmp -s tiles.y4m out.y4m; ok $? they_change_pixels_a_little

# ---- Raw frames, folders, pictures ---------------------------------------------------------------
head -c 1728 /dev/zero > in.rgb # three of 16 x 12
$sr --raw rgb24 --size 16x12 - - < in.rgb > out.rgb 2> err && [ "$(size out.rgb)" -eq 6912 ]
ok $? raw_frames
mkdir frames
for i in 7 8 9 10 11 12 13; do
    grey "frames/f_$(printf %03d $i).ppm" 6 5 "x * 20 + y * 10 + $i"
done
expect a_folder_of_frames 0 $sr --frames frames plain
[ "$(ls plain | tr '\n' ' ')" = "f_007.png f_008.png f_009.png f_010.png f_011.png f_012.png f_013.png " ]
ok $? files_keep_their_names_through_windows
rm frames/f_009.ppm
expect a_missing_frame 3 $sr --frames frames/f_%03d.ppm p/g_%04d.png
grep -q 'f_009.ppm is missing' err && [ "$(ls p | tr '\n' ' ')" = "g_0007.png g_0008.png " ]
ok $? those_before_it_are_kept
"$GEN" sr --model m.safetensors --precision f32 --scale 2 --window 5:2 --keep-going \
    --frames frames/f_%03d.ppm k/g_%04d.png > out 2> err
[ $? = 0 ] && [ "$(ls k | wc -l)" = 7 ] && grep -q "frame 3: .*f_009" err && [ -e k/g_0009.png ]
ok $? with_keep_going_the_frame_before_is_repeated
expect a_picture 0 $sr --json frames/f_007.ppm one.png
is_png one.png && json_ok out files model width height steps tiles seconds network_seconds \
    update_seconds gflop speedup_requested speedup_measured psnr_db peak_bytes peak_resident_bytes &&
    [ "$(value width)" = 12 ] && [ "$(value steps)" = 4 ] && [ "$(value model)" = '"wan-nano"' ]
ok $? keys_as_of_other_pictures
mkdir single
cp frames/f_007.ppm single
expect a_folder_of_one 0 $sr --frames single of_one
cmp -s one.png of_one/f_007.png || { # alike but for the channels
    expect against_the_picture 0 $sr --json --scale 1 --steps 1 --reference of_one/f_007.png one.png y.png
    [ "$(value width)" = 12 ]
}
ok $? a_picture_has_the_size_of_a_frame
expect a_speedup 0 $sr --json --speedup 1x frames/f_007.ppm fast.png
[ "$(value speedup_measured)" = 1 ]; ok $? all_steps_are_once_as_fast
finish
