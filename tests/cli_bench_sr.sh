#!/bin/sh
# cli_bench_sr.sh - fovea bench sr: table, JSON, CSV, sheet, what it refuses. Times and quality are not
# judged: the model has random weights.
set -u
: "${FOVEA:?path of fovea}"
. "$(dirname "$0")/shell_checks.sh"
export OMP_WAIT_POLICY=passive
"$FOVEA" new pssr-nano -o sr.safetensors > /dev/null 2>&1; ok $? a_model_with_random_weights
mkdir photos
n=0
for photo in "$tests"/data/photos/*; do
    n=$((n + 1))
    [ "$n" -gt 2 ] || cp "$photo" photos/
done

expect table 0 "$FOVEA" bench sr --model sr.safetensors photos --side 128 --clips 1 --rounds 1 --threads 1 \
    --csv all.csv --sheet sheet.png
for way in nearest bicubic lanczos "T = 1" "T = 4" "T = 4, no update" original; do
    grep -q "^$way  *.*[0-9]" out; ok $? "table_has_$(echo "$way" | tr -d ' =,')"
done
[ "$(grep -c '^T = [1-4] .*[0-9]\.[0-9][0-9] ' out)" -ge 4 ]; ok $? table_has_times_of_every_number_of_steps
is_png sheet.png; ok $? sheet_is_a_picture
[ "$(wc -l < all.csv)" = 17 ]; ok $? csv_has_every_picture_and_way
head -n 1 all.csv | grep -q '^picture,way,psnr_y_db,'; ok $? csv_has_titles
expect json 0 "$FOVEA" bench sr --model sr.safetensors photos --pictures 1 --side 64 --clips 0 --rounds 1 \
    --degraded --json
json_ok out bench model pictures ways speed products_per_second; ok $? json_is_an_object
grep -q '"degraded": true' out && grep -q '"pictures": 1,' out; ok $? json_says_what_was_done
"$FOVEA" new pssr-nano-video -o video.safetensors > /dev/null 2>&1
expect clips_of_a_model_of_video 0 "$FOVEA" bench sr --model video.safetensors photos --pictures 1 --side 64 \
    --clips 1 --rounds 1 --json
grep -q '"clips": 1,' out; ok $? a_stream_of_frames_is_measured
refuse needs_pictures 2 "" "$FOVEA" bench sr --model sr.safetensors
refuse missing_pictures 1 "none" "$FOVEA" bench sr --model sr.safetensors none
echo text > text.safetensors
refuse garbage_model 3 "text" "$FOVEA" bench sr --model text.safetensors photos
mkdir bad
echo text > bad/a.png
run "$FOVEA" bench sr --model sr.safetensors bad
[ $? = 3 ] && grep -q "a.png" err; ok $? pictures_that_cannot_be_used_are_named
finish
