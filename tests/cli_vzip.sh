#!/bin/sh
# cli_vzip.sh - vzip as people use it: names, pipes, tar, damage, full disks, signals, exit codes.
#
# VZIP names the program. Inputs are small: how well it compresses is tested elsewhere.
set -u
: "${VZIP:?path of vzip}"
. "$(dirname "$0")/shell_checks.sh"
unset FOVEA_CORPORA
# Changes one byte of a file.
damage() { # file, offset
    printf '\252' | dd of="$1" bs=1 seek="$2" conv=notrunc 2> /dev/null
}
size() { wc -c < "$1" | tr -d ' '; }
noise() { # bytes that nothing compresses: the output of a cipher would do as well
    awk -v n="$1" 'BEGIN { srand(7); for (i = 0; i < n; i++) printf "%c", 33 + int(rand() * 90) }'
}
awk 'BEGIN { for (i = 0; i < 900; i++) print "line " i " of a text, " i * i % 97 }' > text
noise 20000 > dense
: > empty

# ---- Round trips ---------------------------------------------------------------------------------
expect compress 0 "$VZIP" text
[ -f text ] && [ "$(size text.vz)" -lt "$(size text)" ]; ok $? compress_keeps_the_input
[ ! -s out ] && [ ! -s err ]; ok $? compress_is_silent_without_a_terminal
refuse output_exists 1 "-f overwrites" "$VZIP" text
expect overwrite 0 "$VZIP" -f text
mv text text0
expect decompress 0 "$VZIP" -d text.vz
cmp -s text text0; ok $? decompress_gives_the_file
expect verbs 0 "$VZIP" c -o verb.vz text
expect verb_d 0 "$VZIP" d verb.vz -o verb.out
cmp -s verb.out text; ok $? verbs_round_trip
expect verb_t 0 "$VZIP" t verb.vz
[ "$(ls verb*)" = "$(printf 'verb.out\nverb.vz')" ]; ok $? test_writes_nothing
for level in 1 2 3 4 5 6 7 8 9; do
    "$VZIP" -$level < text > l.vz 2> err && "$VZIP" -d < l.vz 2>> err | cmp -s - text
    ok $? "level_$level"
done
"$VZIP" --ultra < text > l.vz 2> err && "$VZIP" -d < l.vz 2>> err | cmp -s - text
ok $? ultra
"$VZIP" --level 10 < text > ten.vz 2> err && cmp -s l.vz ten.vz; ok $? level_10_is_ultra
for file in empty text dense; do
    "$VZIP" -c $file 2> err | "$VZIP" -dc 2>> err | cmp -s - $file; ok $? "pipe $file"
    "$VZIP" -1c $file > one.vz 2> err; "$VZIP" -1c < $file > two.vz 2>> err
    cmp -s one.vz two.vz; ok $? "same_bytes_from_pipe_and_file $file"
done
[ "$(size one.vz)" -le $(($(size dense) + 64)) ]; ok $? dense_data_is_not_larger
for threads in 0 1 2 3; do
    "$VZIP" -1 -T$threads --block-size 4K -c text dense > t$threads.vz 2> err; ok $? "threads_$threads"
done
cmp -s t1.vz t2.vz && cmp -s t1.vz t3.vz && cmp -s t1.vz t0.vz; ok $? same_bytes_for_every_thread_count
cat text dense > both
"$VZIP" -dc t1.vz 2> err | cmp -s - both; ok $? concatenated_archives
"$VZIP" -c4k5qT1 text 2> err | "$VZIP" -dcT 2 2>> err | cmp -s - text; ok $? bundled_letters_and_digits
"$VZIP" --level=1 --block-size 4K --verify -c text 2> err | "$VZIP" -t 2>> err; ok $? verify_and_test_of_a_pipe
(cat text; sleep 1; cat dense) | "$VZIP" -1 2> err | "$VZIP" -d 2>> err | cmp -s - both; ok $? slow_pipe
"$VZIP" -1 --long -c text 2> err | "$VZIP" -d 2>> err | cmp -s - text; ok $? long
printf '#include <stdio.h>\nint main(void)\n{\n    return 0;\n}\n' > small.c
"$VZIP" -c small.c > primed.vz 2> err; "$VZIP" --no-prime -c small.c > plain.vz 2>> err
[ "$(size primed.vz)" -lt "$(size plain.vz)" ]; ok $? priming_makes_a_small_file_smaller
"$VZIP" -dc primed.vz 2> err | cmp -s - small.c; ok $? primed_file_comes_back
"$VZIP" -dc plain.vz 2> err | cmp -s - small.c; ok $? file_without_priming_comes_back
"$VZIP" -l -v primed.vz 2> err | grep -q 'model 00000002-'; ok $? list_names_the_model
"$VZIP" -l -v plain.vz 2> err | grep -q 'model 0'; [ $? = 1 ]; ok $? list_names_no_model

# ---- Names ---------------------------------------------------------------------------------------
expect skips_archives 0 "$VZIP" text.vz
grep -q "already ends" err && [ ! -e text.vz.vz ]; ok $? archive_is_left_alone_with_a_note
refuse unknown_suffix 1 "does not end in" "$VZIP" -d text
cp text.vz odd.name
expect unknown_suffix_with_o 0 "$VZIP" -d odd.name -o odd
cmp -s odd text; ok $? unknown_suffix_with_o_decodes
expect tvz_becomes_tar 0 sh -c 'cp text.vz a.tvz; "$1" -d a.tvz; cmp -s a.tar text' sh "$VZIP"
strange=$(printf 'sp ace\nline "\377')
cp text "$strange"; cp text ./-dash
expect strange_names 0 "$VZIP" "$strange" ./-dash
expect dash_after_dashes 0 "$VZIP" -f -- -dash
rm "$strange" ./-dash
expect strange_names_back 0 "$VZIP" -d "$strange.vz" ./-dash.vz
cmp -s "$strange" text && cmp -s ./-dash text; ok $? strange_names_hold_the_data
rm -f ./-dash* "$strange"*
touch -d '2001-02-03 04:05:06' text
chmod 640 text
expect keep_name 0 "$VZIP" -N -f text -o kept.vz
touch kept.vz && chmod 644 kept.vz
mv text text0
expect restore_name 0 "$VZIP" -dN kept.vz
[ -f text ] && [ "$(ls -l text | cut -c1-10)" = -rw-r----- ]; ok $? name_and_mode_come_back
[ -z "$(find text -newer text0)" ] && [ -z "$(find text0 -newer text)" ]; ok $? time_comes_back
expect compress_copies_time 0 "$VZIP" -f text
[ -z "$(find text.vz -newer text)" ] && [ "$(ls -l text.vz | cut -c1-10)" = -rw-r----- ]
ok $? archive_has_time_and_mode_of_the_input
cp text gone
expect rm_deletes_the_input 0 "$VZIP" --rm gone
[ ! -e gone ] && [ -f gone.vz ]; ok $? rm_deleted_the_input
expect rm_deletes_the_archive 0 "$VZIP" -d --rm gone.vz
[ -f gone ] && [ ! -e gone.vz ]; ok $? rm_deleted_the_archive
ln gone twin
expect rm_with_hard_links 0 "$VZIP" --rm gone
[ -f gone ] && grep -q "names" err; ok $? hard_links_are_kept
ln -s text link
refuse symbolic_link 1 "symbolic link" "$VZIP" link
expect symbolic_link_with_f 0 "$VZIP" -f link
mkfifo fifo
refuse pipe_by_name 1 "not a regular" "$VZIP" fifo
refuse folder 1 "folder" "$VZIP" .
ln -s "$VZIP" vunzip; ln -s "$VZIP" vzcat
./vzcat text.vz 2> err | cmp -s - text; ok $? vzcat
cp text.vz u.vz
expect vunzip 0 ./vunzip u.vz
cmp -s u text; ok $? vunzip_decompresses
mkdir -p tree/sub; cp text tree/a; cp dense tree/sub/b; cp text.vz tree/old.vz
ln -s ../text tree/link
expect recursive 0 "$VZIP" -r --rm tree
[ "$(cd tree && find . -type f | sort | tr '\n' ' ')" = "./a.vz ./old.vz ./sub/b.vz " ]; ok $? recursive_takes_files_only
expect recursive_back 0 "$VZIP" -dr tree
cmp -s tree/sub/b dense && cmp -s tree/old text; ok $? recursive_back_gives_the_files
if command -v tar > /dev/null && tar --version 2> /dev/null | grep -q GNU; then
    tar -I "$VZIP" -cf tree.tar.vz tree 2> err && mkdir away && tar -I "$VZIP" -C away -xf tree.tar.vz 2>> err
    ok $? tar
    cmp -s away/tree/sub/b dense; ok $? tar_gives_the_files
else
    skip tar "no GNU tar"
fi

# ---- List ----------------------------------------------------------------------------------------
expect list 0 "$VZIP" -l text.vz t1.vz
grep -q "text.vz" out && grep -q "2 files" out; ok $? list_has_rows_and_a_sum
expect list_verbose 0 "$VZIP" l -v kept.vz
grep -q "2001-02-03" out && grep -q ", text" out; ok $? list_shows_name_and_time
expect list_json 0 "$VZIP" l --json text.vz t1.vz
if command -v python3 > /dev/null; then
    python3 -c 'import json
f = json.load(open("out"))["files"]
assert f[1]["frames"] == 2 and f[1]["original_bytes"] == '"$(size both)"' and f[0]["level"] == 3' 2> err
    ok $? list_json_is_json
else
    skip list_json_is_json "no python3"
fi
refuse list_of_text 3 "not a .vz" "$VZIP" l text

# ---- Usage ---------------------------------------------------------------------------------------
refuse unknown_option 2 "did you mean --verify" "$VZIP" --verfy text
refuse unknown_letter 2 "-z" "$VZIP" -z text
refuse level_0 2 "-0" "$VZIP" -0 text
refuse level_11 2 "1 to 10" "$VZIP" --level 11 text
refuse ultra_and_level 2 "exclude" "$VZIP" --ultra -9 text
refuse ultra_of_d 2 "--ultra" "$VZIP" d --ultra text.vz
refuse level_of_d 2 "level" "$VZIP" d -3 text.vz
refuse two_modes 2 "exclude" "$VZIP" -dt text.vz
refuse o_and_c 2 "exclude" "$VZIP" -c -o x text
refuse o_of_two 2 "one file" "$VZIP" -o x text dense
refuse bad_size 2 "size" "$VZIP" --block-size 8Q text
refuse small_block 2 "4K" "$VZIP" --block-size 1K text
refuse large_block 2 "256M" "$VZIP" --block-size 1G text
refuse json_of_c 2 "-l" "$VZIP" --json text
refuse keep_and_rm 2 "exclude" "$VZIP" -k --rm text
refuse list_of_nothing 2 "which" "$VZIP" -l
refuse missing_file 1 "none" "$VZIP" none
refuse missing_folder 1 "nowhere" "$VZIP" text -o nowhere/x.vz
refuse input_is_output 1 "input as well" "$VZIP" -f text -o ./text
expect goes_on_after_an_error 1 "$VZIP" -f none text
[ -f text.vz ] && [ "$(wc -l < err)" = 1 ]; ok $? later_files_are_done

# ---- Limits --------------------------------------------------------------------------------------
refuse max_output 3 "limit" "$VZIP" -d --max-output 1K text.vz -o x
refuse memory_of_d 1 "bytes of memory" "$VZIP" -d -M 64K text.vz -o x
refuse memory_of_c 1 "at least" "$VZIP" -M 1M text -o x
expect memory_that_suffices 0 "$VZIP" -1 -T 2 -M 200M text -o fits.vz

# ---- Damage --------------------------------------------------------------------------------------
refuse text_is_no_archive 3 "not a .vz" "$VZIP" -d text -o x
refuse empty_is_no_archive 3 "empty" "$VZIP" -d empty -o x
head -c 100 text.vz > cut.vz
refuse truncated 3 "ends at byte 100" "$VZIP" -d cut.vz
refuse truncated_test 3 "cut.vz" "$VZIP" -t cut.vz
(cat text.vz; echo more) > longer.vz
refuse bytes_behind 3 "after the end" "$VZIP" -d longer.vz
expect keep_broken 3 "$VZIP" -d --keep-broken longer.vz
cmp -s longer text; ok $? keep_broken_keeps_the_beginning
"$VZIP" -1c --block-size 4K dense > blocks.vz 2> err
damage blocks.vz 9000
refuse damaged 3 "block 2" "$VZIP" -d blocks.vz
expect keep_broken_blocks 3 "$VZIP" -d --keep-broken blocks.vz
head -c 8192 dense | cmp -s - blocks; ok $? keep_broken_keeps_whole_blocks
rm blocks
expect recover 3 "$VZIP" -d --recover blocks.vz
grep -q "bytes 8192 to 12287" err; ok $? recover_lists_the_range
(head -c 8192 dense; head -c 4096 /dev/zero; tail -c +12289 dense) | cmp -s - blocks; ok $? recover_writes_zeros
rm blocks
expect recover_of_a_good_archive 0 "$VZIP" -d --recover text.vz -o good
cmp -s good text; ok $? recover_of_a_good_archive_is_exact
cat text.vz | "$VZIP" -d --recover -o x > out 2> err
[ $? = 1 ] && grep -q "needs a file" err; ok $? recover_needs_a_file

# ---- Places that fail ----------------------------------------------------------------------------
if [ -c /dev/full ]; then
    refuse full_device 1 "space" "$VZIP" -f text -o /dev/full
    "$VZIP" -c dense > /dev/full 2> err
    [ $? = 1 ] && grep -q "space" err; ok $? full_stdout
    "$VZIP" -dc text.vz > /dev/full 2> err
    [ $? = 1 ] && grep -q "space" err; ok $? full_stdout_of_d
else
    skip full_device "no /dev/full"
fi
(ulimit -f 8 && trap '' XFSZ && "$VZIP" -1 dense -o capped.vz) > out 2> err
[ $? = 1 ] && grep -q "cannot write" err && [ -z "$(ls capped* 2> /dev/null)" ]; ok $? full_disk_leaves_nothing
if [ -r /proc/self/mem ]; then
    refuse read_error 1 "cannot read" "$VZIP" -f /proc/self/mem -o x
else
    skip read_error "no /proc/self/mem"
fi
noise 200000 > wide # more than a pipe holds when coded
("$VZIP" -1c wide 2> err; echo $? > code) | head -c 10 > out
[ "$(cat code)" = 1 ] && [ ! -s err ]; ok $? closed_pipe_is_quiet
if [ "$(id -u)" != 0 ]; then
    mkdir locked && chmod 555 locked
    refuse unwritable_folder 1 "locked" "$VZIP" text -o locked/x
    chmod 000 dense
    refuse unreadable_file 1 "denied" "$VZIP" dense
    chmod 644 dense
fi
if command -v script > /dev/null && script -qec true /dev/null > /dev/null 2>&1; then
    script -qec "'$VZIP' -c text; echo code \$?" /dev/null > out 2> err < /dev/null
    grep -q "code 1" out && grep -q terminal out; ok $? no_archive_on_a_terminal
    script -qec "'$VZIP' -cf text | '$VZIP' -d | cmp - text; echo code \$?" /dev/null > out 2> err < /dev/null
    grep -q "code 0" out; ok $? pipe_below_a_terminal
else
    skip no_archive_on_a_terminal "no script(1)"
fi

# ---- Signals -------------------------------------------------------------------------------------
# A pipe that stays open keeps the program waiting in the middle of its work.
for signal in TERM KILL; do
    mkfifo held
    (cat dense; sleep 30) > held &
    feeder=$!
    "$VZIP" -1 -f held -o late.vz > out 2> err &
    pid=$!
    tries=0
    while [ -z "$(ls late.vz.tmp.* 2> /dev/null)" ] && [ $tries -lt 200 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -$signal $pid
    wait $pid
    got=$?
    kill $feeder 2> /dev/null
    wait $feeder 2> /dev/null
    if [ $signal = TERM ]; then
        [ "$got" = 130 ] && [ -z "$(ls late* 2> /dev/null)" ]; ok $? sigterm_leaves_nothing
    else
        [ ! -e late.vz ] && [ -n "$(ls late.vz.tmp.*)" ]; ok $? kill_leaves_no_half_archive
    fi
    rm -f held
done
# What the killed one left goes with the next writer of the same output; what a living one writes,
# and files that only look like it, stay.
mkfifo held
(cat dense; sleep 30) > held &
feeder=$!
cp text late.vz.tmp.1x; cp text late.vzz.tmp.1; ln -s text late.vz.tmp.2; : > late.vz.tmp.3.4
stale=$(ls late.vz.tmp.* | grep '[.]tmp[.][0-9]*$' | grep -v '[.]2$')
"$VZIP" -1 -f held -o late.vz > out 2> err &
pid=$!
tries=0
while [ ! -e late.vz.tmp.$pid ] && [ $tries -lt 200 ]; do sleep 0.1; tries=$((tries + 1)); done
[ -n "$stale" ] && [ ! -e "$stale" ] && [ ! -e late.vz.tmp.3.4 ]; ok $? stale_temporary_file_is_removed
expect second_writer 0 "$VZIP" -1 text -o late.vz
[ -e late.vz.tmp.$pid ]; ok $? temporary_file_of_the_living_stays
[ -e late.vz.tmp.1x ] && [ -e late.vzz.tmp.1 ] && [ -L late.vz.tmp.2 ] && [ -e text ]; ok $? other_files_stay
kill -KILL $pid $feeder 2> /dev/null
wait $pid $feeder 2> /dev/null
expect writer_after_a_kill 0 "$VZIP" -1 -f text -o late.vz
[ ! -e late.vz.tmp.$pid ] && "$VZIP" -dc late.vz | cmp -s - text; ok $? killed_writers_file_is_removed
rm -f held late.vz*

expect version 0 "$VZIP" --version
grep -q '^vzip [0-9]' out; ok $? version_is_printed
[ -z "$(ls -A | grep '\.tmp\.')" ]; ok $? no_partial_files_are_left
finish
