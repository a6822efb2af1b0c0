#!/bin/sh
# cli_bench_ar.sh - fovea bench ar and ar-speed: tables, files, stored methods, what they refuse.
#
# FOVEA names the program. Everything runs on a small model with random weights.
set -u
: "${FOVEA:?path of fovea}"
. "$(dirname "$0")/shell_checks.sh"
models=$tests/../diffusion/models
export OMP_WAIT_POLICY=passive
value() { # column of the csv, method
    awk -F '","|",|,' -v column="$1" -v method="$2" '
        NR == 1 { n = split($0, name, ","); for (i = 1; i <= n; i++) at[name[i]] = i; next }
        { line = $0; sub(/^"[^"]*",/, "", line); split(line, v, ",")
          m = $0; sub(/^"/, "", m); sub(/".*/, "", m)
          if (m == method) { print v[at[column] - 1]; exit } }' t.csv
}

expect a_model 0 "$FOVEA" new ar-nano -o m.safetensors --classes 4 --seed 2 --threads 1
bench="$FOVEA bench ar m.safetensors --samples 6 --runs 1 --pictures 1 --batch 3 --threads 1"

# ---- Tables and files ----------------------------------------------------------------------------
methods='sd; sd:draft=eagle2 ;jacobi:window=4;sd:draft=pq;vvs:interval=3,post=strict'
expect table 0 $bench --methods "$methods" --csv t.csv --plot p.png --sheet s.png --clock cpu
grep -q '^=\*ar ' out && grep -q '^=.sd ' out && grep -q '^~.sd:draft=pq ' out; ok $? marks
[ "$(wc -l < t.csv)" = 7 ]; ok $? csv_has_a_line_for_each_method
[ "$(value tokens_per_pass ar)" = 1 ] && [ "$(value speedup ar)" = 1 ]; ok $? plain_is_the_reference
for m in sd sd:draft=eagle2 jacobi:window=4 vvs:interval=3,post=strict; do
    [ "$(value equal_tokens "$m")" = 1 ] && [ "$(value psnr_db "$m")" = 100 ] &&
        [ "$(value lossless "$m")" = 1 ]
    ok $? "same_tokens_as_plain $m"
done
[ "$(value lossless sd:draft=pq)" = 0 ]; ok $? other_draws_are_not_the_same_tokens
is_png p.png && is_png s.png; ok $? pictures
expect lists 0 "$FOVEA" bench ar --methods list
grep -q '^ablation' out && grep -q '  sd:draft=pq$' out; ok $? lists_name_methods
expect verbose 0 $bench --methods sd -v
grep -q 'draft passes' err && grep -q 'accepted 0, 1' err; ok $? verbose_has_counters

# ---- Judged, as JSON, stored ---------------------------------------------------------------------
# The presets have the shape of pictures that the classifier takes, but no names of classes.
judge="--classifier $models/classifier64.safetensors"
if [ -f "$models/classifier64.safetensors" ]; then
    expect judged 0 $bench --methods 'sd;vvs:rule=lantern,delta=0.4' $judge --json --store o.safetensors
    if command -v python3 > /dev/null; then
        python3 -c 'import json
b = json.load(open("out"))
m = b["methods"]
assert [x["method"] for x in m] == ["ar", "sd", "vvs:rule=lantern,delta=0.4"]
for x in m:
    assert x["frechet"] >= 0 and x["tokens"] == 6 * 64 and x["accuracy"] is None
    assert abs(x["tokens_per_pass"] - x["tokens"] / (x["prefills"] + x["verifies"])) < 1e-6
    assert sum(x["accepted"]) <= x["verifies"]
    for depth, row in enumerate(x["hit"]):
        assert sum(row) == sum(x["accepted"][depth + 1:]) and sum(row) <= sum(x["tried"][depth])
assert m[0]["tried"] == [] and m[1]["tried"][0][0] == m[1]["verifies"] - m[1]["plain_steps"]
assert m[0]["distance"] == 0 and m[1]["distance"] == 0 and b["noise_floor"] > 0
assert m[0]["is_best"] == 1 and m[2]["is_best"] == 0  # lossy, and nobody knows what it loses
assert m[0]["codes"] == m[1]["codes"] > 1 and m[0]["bigram_bits"] > 0' 2>> err
        ok $? json_is_json
    else
        skip json_is_json "no python3"
    fi
    expect stored_model_works 0 "$FOVEA" bench ar o.safetensors --samples 2 --runs 1 --pictures 1 \
        --methods sd --threads 1
    grep -q 'fovea.ar.points' o.safetensors && ! grep -q 'fovea.ar.points' m.safetensors
    ok $? points_are_in_the_copy
    expect other_weights 0 $bench --methods "ar@int8;sd@bf16" --precision f32 --csv w.csv
    grep -q '"ar@int8"' w.csv && grep -q '"sd@bf16"' w.csv && ! grep -q '"ar@int8",1' w.csv
    ok $? other_weights_are_not_lossless
    refuse unknown_weights 2 "f32, bf16 or int8" $bench --methods "ar@f16"
    refuse store_keeps_existing_files 1 "-f" $bench --methods sd --store o.safetensors
    mkdir -p real/a real/b
    for i in 1 2 3 4 5 6; do cp p.png "real/a/$i.png"; cp s.png "real/b/$i.png"; done
    expect real_pictures 0 $bench --methods sd $judge --real real --json
    grep -q '"real_pictures": 6' out; ok $? real_pictures_of_both_classes
    refuse missing_real_pictures 1 "nothing" $bench --methods sd $judge --real nothing
else
    skip judged "no classifier"
fi

# ---- Refused -------------------------------------------------------------------------------------
refuse no_model 2 "model" "$FOVEA" bench ar --methods sd
refuse missing_model 1 "none" "$FOVEA" bench ar none.safetensors
printf 'no model, but text that is longer than a header' > text.safetensors
refuse garbage 3 "text" "$FOVEA" bench ar text.safetensors
refuse unknown_mode 2 "vvz" $bench --methods vvz
refuse unknown_key 2 "intervall" $bench --methods vvs:intervall=3
refuse nothing_to_compare 2 "nothing" $bench --methods ar
refuse real_needs_a_classifier 2 "--classifier" "$FOVEA" bench ar m.safetensors --real x
refuse data_dir_needs_real 2 "--real" $bench --data-dir .
refuse keeps_existing_files 1 "-f" $bench --methods sd --csv t.csv
refuse unknown_suffix 2 "png" $bench --methods sd --plot x.tiff
refuse missing_classifier 1 "none" $bench --methods sd --classifier none
expect tokenizer_alone 0 "$FOVEA" new vq-s8 -o vq.safetensors --threads 1
refuse a_tokenizer_is_no_generator 3 "vq" "$FOVEA" bench ar vq.safetensors

# ---- bench ar-speed ------------------------------------------------------------------------------
speed="$FOVEA bench ar-speed m.safetensors --tokens 8 --rounds 1 --threads 1"
expect speed 0 $speed --precision int8 --kv bf16 --clock cpu --json
for key in tokens_per_second roofline passes draft_feed_seconds; do
    grep -q "\"$key\": [[0-9]" out; ok $? "speed_has_$key"
done
expect speed_as_text 0 $speed --cfg 1
grep -q '^plain decoding, 1 rows' out && grep -q '^a pass of 32' out; ok $? speed_says_its_rows
echo text > text.safetensors
refuse speed_needs_a_model 2 "missing" "$FOVEA" bench ar-speed
refuse speed_processor_time_of_one_thread 2 "threads 1" "$FOVEA" bench ar-speed m.safetensors \
    --threads 2 --clock cpu
refuse speed_garbage 3 "text" "$FOVEA" bench ar-speed text.safetensors

$bench --samples 5000 --methods sd --csv i.csv > out 2> err &
pid=$!
sleep 1
kill -TERM $pid
wait $pid
[ $? = 130 ] && [ ! -s out ] && [ ! -f i.csv ] && grep -q interrupted err; ok $? interrupted
finish
