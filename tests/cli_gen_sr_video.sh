#!/bin/sh
# cli_gen_sr_video.sh - gen sr on video: pipes, files, folders, and what is left when one breaks.
#
# GEN and FOVEA name the programs. The model has random weights.
set -u
: "${GEN:?path of gen}" "${FOVEA:?path of fovea}"
. "$(dirname "$0")/shell_checks.sh"

run "$FOVEA" new pssr-nano --seed 2 -o m.safetensors
ok $? a_model
sr="$GEN sr --model m.safetensors --precision f32 -q"

# A Y4M of 4:2:0 with slow ramps, as many frames as asked.
y4m() { # columns, rows, frames
    awk -v w="$1" -v h="$2" -v n="$3" 'BEGIN {
        printf "YUV4MPEG2 W%d H%d F30000:1001 Ip A1:1 C420mpeg2\n", w, h
        for (k = 0; k < n; k++) {
            printf "FRAME\n"
            for (y = 0; y < h; y++) for (x = 0; x < w; x++) printf "%c", 40 + (x + y + k) % 80
            for (i = 0; i < w * h / 2; i++) printf "%c", 120 + i % 7
        }
    }'
}
size() { wc -c < "$1"; }
# The file is the first frames of another one, nothing behind them.
is_beginning() { # name, whole, bytes of a frame, frames
    head -n 1 "$2" > head
    [ "$(size "$1")" -eq $(($(size head) + $4 * $3)) ] &&
        head -c "$(size "$1")" "$2" | cmp -s - "$1"
}
no_trace() { [ -z "$(find . -name "$1*")" ]; }

# ---- Whole videos --------------------------------------------------------------------------------
y4m 16 8 3 > in.y4m
bytes=$((64 * 32 * 3 / 2 + 6)) # of a frame four times as large
expect a_file 0 $sr --y4m in.y4m out.y4m
head -n 1 out.y4m | grep -q '^YUV4MPEG2 W64 H32 F30000:1001 Ip A1:1 C420mpeg2 '
ok $? size_rate_and_site_are_kept
is_beginning out.y4m out.y4m $bytes 3
ok $? every_frame_comes_out
$sr --y4m - - < in.y4m > pipe.y4m 2> err && cmp -s pipe.y4m out.y4m
ok $? pipes_give_the_same_bytes
refuse an_output_that_exists 1 exists $sr --y4m in.y4m out.y4m

grey_y4m() { # least code, largest
    echo "YUV4MPEG2 W16 H8 F25:1 Cmono"
    echo FRAME
    awk -v a="$1" -v b="$2" 'BEGIN { for (i = 0; i < 128; i++) printf "%c", i % 3 ? b : a }'
}
grey_y4m 1 127 > beyond.y4m; grey_y4m 16 127 > within.y4m
expect codes_beyond_black 0 $sr --steps 1 --scale 2 --y4m beyond.y4m black.y4m
run $sr --steps 1 --scale 2 --y4m within.y4m nearly.y4m; cmp -s black.y4m nearly.y4m; ok $? are_black

# ---- Input that breaks off -----------------------------------------------------------------------
head -c $(($(size in.y4m) - 20)) in.y4m > cut.y4m
expect a_cut_video 3 $sr --y4m cut.y4m two.y4m
grep -q '^gen: cut.y4m: .*within frame 3' err && is_beginning two.y4m out.y4m $bytes 2
ok $? a_cut_video_keeps_its_complete_frames
{ cat in.y4m; y4m 8 8 1; } > change.y4m
expect a_change_of_size 3 $sr --y4m change.y4m three.y4m
grep -q '^gen: change.y4m: .*frame 4 has 8 x 8' err && cmp -s three.y4m out.y4m
ok $? a_change_of_size_keeps_the_frames_before
"$GEN" sr --model m.safetensors --precision f32 --y4m change.y4m talk.y4m > out 2> err
grep -q '^gen: 3 frames before that are complete' err
ok $? what_is_kept_is_told
{ head -n 1 in.y4m; y4m 8 8 1; } > none.y4m
refuse nothing_is_left_without_a_frame 3 "8 x 8" $sr --y4m none.y4m nothing.y4m
refuse what_is_no_video 3 "m.safetensors" $sr --y4m m.safetensors x.y4m
refuse an_empty_stream 3 empty $sr --y4m - x.y4m
refuse no_such_video 1 "absent.y4m" $sr --y4m absent.y4m x.y4m

# ---- Output that breaks off ----------------------------------------------------------------------
y4m 64 48 4 > large.y4m
bytes=$((256 * 192 * 3 / 2 + 6))
expect a_larger_one 0 $sr --steps 1 --y4m large.y4m whole.y4m
(ulimit -f 200) 2> err && (
    ulimit -f 200 # 100 or 200 KiB: one or two frames
    exec $sr --steps 1 --y4m large.y4m full.y4m
) > out 2> err
code=$?
if (ulimit -f 200) 2> limit; then
    [ $code = 1 ] && grep -q '^gen: full.y4m: .*too large' err &&
        { is_beginning full.y4m whole.y4m $bytes 1 || is_beginning full.y4m whole.y4m $bytes 2; }
    ok $? a_full_disk_keeps_complete_frames
    (
        ulimit -f 20
        exec $sr --steps 1 --y4m large.y4m nothing.y4m
    ) > out 2> err
    [ $? = 1 ] && no_trace nothing.y4m
    ok $? a_disk_too_full_for_a_frame_keeps_nothing
else
    skip a_full_disk_keeps_complete_frames "no limit of files"
    skip a_disk_too_full_for_a_frame_keeps_nothing "no limit of files"
fi
if [ -w /dev/full ]; then
    expect a_full_device 1 $sr --y4m in.y4m /dev/full
    grep -q '^gen: /dev/full: ' err; ok $? the_output_is_blamed
else
    skip a_full_device "no /dev/full"
fi
mkdir held
expect reading_a_folder_as_a_file 1 $sr --y4m held x.y4m
grep -q '^gen: held: ' err && no_trace x.y4m
ok $? the_input_is_blamed

# ---- Interruptions -------------------------------------------------------------------------------
# A pipe that gives frames and then nothing; its writer's number in $feeder.
feed() { # file
    rm -f feed.y4m
    mkfifo feed.y4m
    { cat "$1"; exec sleep 20; } > feed.y4m &
    feeder=$!
}
feed in.y4m
$sr --y4m feed.y4m stopped.y4m > out 2> err &
pid=$!
wait_for_handler $pid
sleep 1 # it waits for the next frame
began=$(date +%s)
kill -TERM $pid
wait $pid
[ $? = 130 ] && [ $(($(date +%s) - began)) -lt 10 ] && grep -q interrupted err && no_trace stopped.y4m
ok $? a_read_that_waits_is_interrupted
kill $feeder 2> /dev/null; wait $feeder 2> /dev/null
feed in.y4m
$sr --y4m feed.y4m stopped.y4m > out 2> err &
pid=$!
wait_for_handler $pid
sleep 1
kill -TERM $pid $feeder # as a terminal does
wait $pid
[ $? = 130 ] && no_trace stopped.y4m
ok $? a_feeder_that_ends_by_the_signal_is_no_end
wait $feeder 2> /dev/null
mkfifo slow
sleep 20 < slow &
drain=$!
$sr --steps 1 --scale 8 --y4m large.y4m slow > out 2> err &
pid=$!
wait_for_handler $pid
sleep 2 # a frame is larger than the pipe
began=$(date +%s)
kill -TERM $pid
wait $pid
[ $? = 130 ] && [ $(($(date +%s) - began)) -lt 10 ]
ok $? a_write_that_waits_is_interrupted
kill $drain 2> /dev/null; wait $drain 2> /dev/null
rm -f slow feed.y4m

# ---- Memory --------------------------------------------------------------------------------------
y4m 64 48 1 > wide.y4m
refuse too_little_memory 1 "at least [0-9]*M" $sr --mem 20M --y4m wide.y4m least.y4m
least=$(sed -n 's/.*at least \([0-9]*M\)$/\1/p' err)
expect the_least_that_is_told_is_enough 0 $sr --json --mem "${least:-none}" --y4m wide.y4m least.y4m
memory_within $((${least%M} * 1048576)) memory_stays_below_it

# ---- Raw frames ----------------------------------------------------------------------------------
head -c 1152 /dev/zero > in.rgb # two of 16 x 12
$sr --raw rgb24 --size 16x12 --scale 2 - - < in.rgb > out.rgb 2> err && [ "$(size out.rgb)" -eq 4608 ]
ok $? raw_frames_are_enlarged
head -c 600 in.rgb > cut.rgb
expect a_cut_raw_video 3 $sr --raw rgb24 --size 16x12 --scale 2 cut.rgb one.rgb
[ "$(size one.rgb)" -eq 2304 ]; ok $? its_complete_frame_is_kept

# ---- Models that were trained on clips -----------------------------------------------------------
expect a_model_of_clips 0 "$FOVEA" new pssr-nano-video --seed 2 -o clips.safetensors
expect its_info 0 "$GEN" info clips.safetensors
grep -q '^video ' out; ok $? info_says_so
run "$GEN" info --json clips.safetensors; grep -q '"video": true' out
ok $? info_says_so_in_json
clips="$GEN sr --model clips.safetensors --precision f32 -q --steps 1 -f"
y4m 64 48 3 > film.y4m
bytes=$((256 * 192 * 3 / 2 + 6))
expect frames_in_a_row 0 $clips --json --y4m film.y4m row.y4m
[ "$(value scene_cuts)" = 0 ]; ok $? no_cut_is_seen
{ head -n 1 film.y4m; tail -c $((2 * (64 * 48 * 3 / 2 + 6))) film.y4m; } > late.y4m
expect the_second_frame_first 0 $clips --y4m late.y4m alone.y4m
frame() { tail -c $((($2) * bytes)) "$1" | head -c $bytes; } # file, how many from the end
frame row.y4m 2 > seen; frame alone.y4m 2 > first
[ "$(size seen)" = "$(size first)" ] && ! cmp -s seen first; ok $? a_frame_sees_the_one_before
awk 'BEGIN { printf "YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420mpeg2\n"
    for (k = 0; k < 4; k++) { printf "FRAME\n"
        for (i = 0; i < 4608; i++) printf "%c", i < 3072 ? (k < 2 ? 40 : 120) + i % 5 : 125 } }' > cuts.y4m
{ head -n 1 cuts.y4m; tail -c $((2 * 4614)) cuts.y4m; } > scene.y4m
expect a_cut 0 $clips --json --y4m cuts.y4m cut.y4m
[ "$(value scene_cuts)" = 1 ]; ok $? a_cut_is_seen
run $clips --y4m scene.y4m alone.y4m
frame cut.y4m 2 > seen; frame alone.y4m 2 > first; cmp -s seen first; ok $? a_scene_begins_anew
expect cuts_not_looked_for 0 $clips --json --scene-cut 0 --y4m cuts.y4m cut.y4m
frame cut.y4m 2 > seen
[ "$(value scene_cuts)" = 0 ] && ! cmp -s seen first; ok $? without_cuts_it_sees_the_old_scene
refuse cuts_without_clips 2 "clips" $sr --scene-cut 0.2 --y4m film.y4m q.y4m
refuse cuts_of_a_picture 2 "for video" $clips --scene-cut 0.2 other.pgm q.png

# ---- Y4M made of raw frames and folders ----------------------------------------------------------
rates() { head -n 1 "$1" | grep -q "^YUV4MPEG2 W32 H24 F$2 Ip A1:1 C444 "; }
expect raw_to_y4m 0 $sr --raw rgb24 --size 16x12 --scale 2 in.rgb made.y4m
rates made.y4m 25:1; ok $? the_rate_is_25
is_beginning made.y4m made.y4m $((6 + 32 * 24 * 3)) 2; ok $? its_frames_are_all_there
expect a_rate 0 $sr -f --raw rgb24 --size 16x12 --scale 2 --fps 30000/1001 in.rgb made.y4m
rates made.y4m 30000:1001; ok $? the_rate_is_as_asked_for
$sr --raw rgb24 --size 16x12 --scale 2 --fps 24 - - < in.rgb > piped.y4m 2> err && rates piped.y4m 24:1
ok $? a_rate_makes_y4m_in_pipes
mkdir stills
for i in 1 2 3; do awk -v i=$i 'BEGIN { print "P3 16 12 255"
    for (k = 0; k < 192; k++) print k, 255 - k, 60 * i }' > stills/s$i.ppm; done
expect folder_to_y4m 0 $sr --frames --scale 2 --depth 16 stills stills.y4m
head -n 1 stills.y4m | grep -q "^YUV4MPEG2 W32 H24 F25:1 Ip A1:1 C444p16 "; ok $? it_has_the_depth_asked_for
$sr --frames --scale 2 stills - > piped.y4m 2> err && rates piped.y4m 25:1
ok $? a_folder_into_a_pipe_is_y4m
expect back 0 $sr --steps 1 --y4m --scale 1 piped.y4m again.y4m
[ "$(size piped.y4m)" = "$(size again.y4m)" ]; ok $? it_is_read_again
head -c $(($(size in.rgb) - 100)) in.rgb > less.rgb
expect raw_that_is_cut 3 $sr -f --raw rgb24 --size 16x12 --scale 2 less.rgb less.y4m
is_beginning less.y4m less.y4m $((6 + 32 * 24 * 3)) 1; ok $? the_frame_before_is_kept
for rate in 0 -1 25/0 x 24. 24/1/1 9999999999 1/-1; do
    refuse "no rate $rate" 2 "N/D" $sr --raw rgb24 --size 16x12 --fps "$rate" in.rgb q.y4m
done
refuse a_rate_for_raw 2 "y4m" $sr --raw rgb24 --size 16x12 --fps 24 in.rgb q.rgb
refuse a_rate_for_a_folder 2 "y4m" $sr --frames --fps 24 stills q
refuse a_rate_for_y4m 2 "itself" $sr --y4m --fps 24 in.y4m q.y4m
refuse a_rate_for_a_picture 2 "for video" $sr --fps 24 stills/s1.ppm q.png

# ---- Folders -------------------------------------------------------------------------------------
mkdir frames other
for i in 7 8 10; do grey "frames/f_00$i.ppm" 6 5 "x * 20 + y * 10 + $i"; done
expect a_folder_of_frames 0 $sr --frames frames plain
[ "$(ls plain | tr '\n' ' ')" = "f_0010.png f_007.png f_008.png " ] && is_png plain/f_007.png
ok $? files_keep_their_names
for suffix in pgm pnm ppm; do cp frames/f_007.ppm other/a.$suffix; done
expect names_that_differ_in_their_suffix 0 $sr -f --frames other both
[ "$(ls both | tr '\n' ' ')" = "a.png a.pnm.png a.ppm.png " ]; ok $? no_frame_is_lost
for i in a.png.ppm a.b.ppm; do cp frames/f_007.ppm other/$i; done # sorted between those of one stem
expect names_that_are_not_neighbours 0 $sr -f --frames other many
[ "$(ls many | wc -l)" = 5 ]; ok $? no_frame_is_lost_among_others
mv frames/f_0010.ppm frames/f_010.ppm
expect a_missing_frame 3 $sr --frames frames/f_%03d.ppm p/g_%04d.png
grep -q 'f_009.ppm is missing' err && [ "$(ls p | tr '\n' ' ')" = "g_0007.png g_0008.png " ]
ok $? numbers_go_on_from_the_first
"$GEN" sr --model m.safetensors --precision f32 --keep-going --frames frames/f_%03d.ppm \
    k/g_%04d.png > out 2> err
[ $? = 0 ] && cmp -s k/g_0008.png k/g_0009.png && [ -e k/g_0010.png ] && grep -q "frame 3: .*f_009" err
ok $? with_keep_going_the_frame_before_is_repeated
expect to_a_folder_by_number 0 $sr --keep-going --frames frames/f_%03d.ppm n
[ "$(ls n | head -n 1)" = 000007.png ]; ok $? numbers_are_kept_there
grey frames/f_010.ppm 6 4 x
expect a_frame_of_another_size 3 $sr --frames frames s
[ "$(ls s | wc -l)" = 2 ]; ok $? frames_before_it_are_kept
mv frames/f_010.ppm frames/f_90000.ppm
expect a_gap_without_bound 3 $sr --keep-going --frames frames/f_%03d.ppm g/g_%d.png
grep -q '89991 frames are missing from f_009.ppm' err && [ "$(ls g | wc -l)" = 2 ]
ok $? it_is_not_filled
finish
