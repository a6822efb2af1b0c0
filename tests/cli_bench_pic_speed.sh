#!/bin/sh
# cli_bench_pic_speed.sh - fovea bench pic-speed: table, JSON, what it refuses. Times are not judged.
set -u
: "${FOVEA:?path of fovea}"
. "$(dirname "$0")/shell_checks.sh"
export OMP_WAIT_POLICY=passive
photo=$(ls "$tests"/data/photos/* | head -n 1)

expect table 0 "$FOVEA" bench pic-speed "$photo" --rounds 1 --threads 1
for model in 04 08 10 18; do
    grep -q "^rdvq.*$model .*%" out; ok $? "table_has_rdvq_xs_$model"
done
own="$tests/../codec/models/rdvq_xs_08.safetensors"
expect json 0 "$FOVEA" bench pic-speed "$photo" --model "$own" --rounds 2 --json
json_ok out bench pixels threads models; ok $? json_is_an_object
[ "$(grep -o '"floor_share": [0-9.]*' out | wc -l)" = 2 ]; ok $? json_has_both_ways_of_one_model
grep -q '"bytes": [1-9]' out; ok $? json_has_the_size
refuse needs_a_picture 2 "missing" "$FOVEA" bench pic-speed
refuse missing_picture 1 "none.png" "$FOVEA" bench pic-speed none.png
echo text > text.png
refuse garbage 3 "text.png" "$FOVEA" bench pic-speed text.png
refuse garbage_model 3 "text.png" "$FOVEA" bench pic-speed "$photo" --model text.png
finish
