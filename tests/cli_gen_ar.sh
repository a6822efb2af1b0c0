#!/bin/sh
# cli_gen_ar.sh - gen with an autoregressive model: the same pictures in every lossless way, what it
# says and refuses, files complete or absent.
#
# GEN and FOVEA name the programs. The models are small and have random weights, so guesses are
# hardly ever right; how fast decoding is, is measured elsewhere.
set -u
: "${GEN:?path of gen}" "${FOVEA:?path of fovea}"
. "$(dirname "$0")/shell_checks.sh"
export XDG_CACHE_HOME="$work/cache"

run "$FOVEA" new ar-nano --classes 4 --seed 3 -o m.safetensors
ok $? a_model
gen="$GEN --model m.safetensors --precision f32"
one="--threads 1 -q -f"

# ---- What it is ----------------------------------------------------------------------------------
expect info 0 "$GEN" info m.safetensors
grep -q "ar-nano, autoregressive" out && grep -q "^draft head *[0-9]" out &&
    grep -q "^classes *4" out && grep -q "bench ar" out; ok $? info_says_what_it_is
expect info_json 0 "$GEN" info --json m.safetensors
json_ok out name family codes grid layers draft_parameters tokenizer points classes sha256
ok $? info_json_has_its_keys

# ---- Lossless ways make the same picture ---------------------------------------------------------
# A PPM file is the pixels alone.
expect plain 0 $gen $one --mode ar --seed 5 --class 2 -o ar.ppm
for mode in sd sd:adaptive=1 sd:draft=chain,depth=3 sd:draft=eagle2,nodes=9 jacobi \
    jacobi:window=5,first=above vvs:post=strict; do
    run $gen $one --mode "$mode" --seed 5 --class 2 -o other.ppm && cmp -s ar.ppm other.ppm
    ok $? "same_picture $mode"
done
run $gen $one --seed 5 --class 2 -o other.ppm && cmp -s ar.ppm other.ppm
ok $? same_picture_without_mode
run $gen -q -f --threads 2 --seed 5 --class 2 -o other.ppm && cmp -s ar.ppm other.ppm
ok $? same_picture_for_2_threads
run $gen $one --seed 6 --class 2 -o other.ppm && ! cmp -s ar.ppm other.ppm
ok $? another_seed_is_another_picture
for change in "--class 1" "--cfg 1" "--temperature 0" "--top-k 2" "--top-p 0.1" \
    "--mode vvs:rule=lantern,delta=1,neighbours=900,warm_up=0"; do
    # shellcheck disable=SC2086
    run $gen $one --seed 5 --class 2 $change -o other.ppm && ! cmp -s ar.ppm other.ppm
    ok $? "another_picture $change"
done
for kind in bf16 int8; do
    expect "precision $kind" 0 "$GEN" --model m.safetensors $one --precision $kind -o other.ppm
    expect "kv $kind" 0 $gen $one --kv $kind -o other.ppm
done

# ---- Files ---------------------------------------------------------------------------------------
expect one_file_each 0 $gen $one -n 3 --class 2 --seed 4 --grid -o pics/
[ "$(ls pics | tr '\n' ' ')" = "2-4.png 2-5.png 2-6.png grid.png " ]; ok $? files_are_named_class_seed
is_png pics/grid.png; ok $? grid_is_a_png
expect all_classes 0 $gen $one --class all -n 2 -o all/
[ "$(ls all | wc -l)" = 8 ]; ok $? all_makes_k_of_each
run $gen $one --mode sd -n 2 --class 2 --seed 4 -o two.ppm
run $gen $one --mode ar --class 2 --seed 5 -o a.png
for key in Software parameters fovea.model_sha256 fovea.seed fovea.class fovea.mode fovea.cfg \
    fovea.temperature fovea.top_k fovea.top_p fovea.tokens_per_pass fovea.lossless fovea.precision; do
    grep -qa "$key" a.png || echo "# $key is missing" >> missing
done
[ ! -s missing ]; ok $? settings_are_in_the_picture
run $gen $one --class 2 --seed 5 -o b.png && run $gen -q -f --threads 2 --class 2 --seed 5 -o c.png &&
    cmp -s b.png c.png; ok $? same_bytes_for_1_and_2_threads
$gen $one --class 2 --seed 5 -o - > stdout.png 2> err
cmp -s stdout.png b.png; ok $? dash_is_png_on_stdout
[ ! -s err ]; ok $? quiet_is_silent

# ---- Report --------------------------------------------------------------------------------------
expect json 0 $gen $one --mode sd --json -o a.png
json_ok out speedup_requested speedup_measured psnr_db ssim seconds files mode lossless tokens prefills \
    verifies skips draft_passes rows_per_pass accepted substitutions chain_tokens tokens_per_pass \
    draft_seconds verify_seconds prefill_seconds select_seconds decode_seconds cache_bytes
ok $? json_has_its_keys
grep -q '"mode": "sd"' out && grep -q '"lossless": true' out && grep -q '"tokens": 64,*$' out
ok $? json_values
# Rates of guesses: all steps count, and what was accepted of the first depth are the steps that accepted.
guesses='import json
o = json.load(open("out"))
tried, hit, accepted = o["tried"], o["hit"], o["accepted"]
assert len(tried) == len(hit) <= 4 and {len(r) for r in tried} == {len(r) for r in hit} <= {1, 2, 3, 4}
assert all(0 <= h <= t for a, b in zip(hit, tried) for h, t in zip(a, b))
for depth, row in enumerate(hit):
    assert sum(row) == sum(accepted[depth + 1:]), (depth, row, accepted)
assert tried[0][0] == o["verifies"] - o["plain_steps"] > 20, tried
assert sum(map(sum, hit)) == o["tokens"] - 1 - sum(accepted)'
if command -v python3 > /dev/null; then
    python3 -c "$guesses" 2>> err; ok $? json_counts_guesses
    run $gen $one --mode ar --json -o a.png
    python3 -c 'import json
o = json.load(open("out"))
assert o["tried"] == o["hit"] == [] and o["accepted"][0] == o["verifies"] == o["plain_steps"]' 2>> err
    ok $? json_of_plain_decoding_has_no_guesses
else
    skip json_counts_guesses "no python3"
fi
run $gen -f -v --mode sd -o a.png
grep -q 'tokens a pass' err && grep -q 'draft passes' err && grep -q 'by depth and place: [0-9]*/[0-9]' err
ok $? verbose_says_the_counters
expect compare 0 $gen -f --mode sd --compare --side-by-side s.png -o a.png
grep -q 'identical pictures' out && grep -q '100 % of them equal' out; ok $? compare_of_a_lossless_way
is_png s.png; ok $? side_by_side_is_a_picture
expect compare_json 0 $gen -f --mode vvs:rule=lantern,delta=1,neighbours=900,warm_up=0 --compare --json -o a.png
json_ok out seconds_exact equal_tokens tokens_per_pass_exact speedup_tokens
ok $? compare_json_has_its_keys
grep -q '"lossless": false' out && grep -q '"identical": false' out && grep -q '"psnr_db": [0-9]' out
ok $? compare_of_a_lossy_way

# ---- Wrong usage ---------------------------------------------------------------------------------
for option in "--steps 3" "--sampler euler" "--accel fora" "--guard 2" "--plan-in p" "--plan-out p" \
    "--table t" "--polish 2" "--cache-mem 1M" "--decoder d"; do
    # shellcheck disable=SC2086
    refuse "no_dit_option $option" 2 "autoregressive model has no" $gen $option -o x.png
done
run "$FOVEA" new F32 --classes 4 -o dit.safetensors
for option in "--mode sd" "--temperature 1" "--top-k 3" "--top-p 1" "--kv f32" "--tokenizer t" "--caption c"; do
    # shellcheck disable=SC2086
    refuse "no_ar_option $option" 2 "diffusion transformer" "$GEN" --model dit.safetensors $option -o x.png
done
refuse no_int8_transformer 2 "int8" "$GEN" --model dit.safetensors --precision int8 -o x.png
refuse mode_unknown 2 "jacobi" $gen --mode jacoby -o x.png
refuse mode_key_unknown 2 "depth" $gen --mode sd:dept=3 -o x.png
refuse mode_value_out_of_range 2 "depth" $gen --mode sd:depth=1000 -o x.png
refuse mode_word_unknown 2 "gumbel" $gen --mode sd:draft=tree -o x.png
refuse mode_value_that_does_not_fit 2 "delta" $gen --mode sd:rule=lantern,delta=2 -o x.png
refuse mode_excludes_speedup 2 "exclude" $gen --mode sd --speedup 2 -o x.png
refuse plain_compared_with_itself 2 "token by token" $gen --mode ar --compare -o x.png
refuse class_out_of_range 2 "0 to 3" $gen --class 4 -o x.png
refuse caption_for_classes 2 "classes" $gen --caption m.safetensors -o x.png
for bad in "--temperature -1" "--top-k -1" "--top-p 0" "--top-p 2" "--kv f16" "--precision f16"; do
    # shellcheck disable=SC2086
    refuse "bad_value $bad" 2 "needed" $gen -f $bad
done
refuse existing_file 1 "-f" $gen -o a.png
refuse unknown_suffix 2 "suffix" $gen -o x.tiff
refuse calibrate 3 "bench ar" "$GEN" calibrate m.safetensors
refuse explain 3 "bench ar" "$GEN" explain --model m.safetensors --speedup 2

# ---- Speed-up ------------------------------------------------------------------------------------
# Random guesses bring nothing, and the model was not measured.
refuse speedup_out_of_reach 1 "bench ar" $gen --threads 1 --speedup 3 -o x.png
refuse speedup_out_of_reach_of_many 1 "bench ar" $gen --threads 1 -n 20 --speedup 3 -o x.png
expect speedup_of_1 0 $gen $one --speedup 1 -o other.ppm

# Rewrites a model: points, without tensors of a prefix; with "none" only those, as in the checkpoint
# of somebody else.
if command -v python3 > /dev/null; then
    cat > rewrite.py << 'END'
import json, struct, sys
source, to, drop, meta = sys.argv[1:5]
data = open(source, "rb").read()
size = struct.unpack("<Q", data[:8])[0]
head, body = json.loads(data[8:8 + size]), data[8 + size:]
out, blob = {"__metadata__": head["__metadata__"]}, b""
for name, t in head.items():
    if name == "__metadata__" or drop and name.startswith(drop) == (meta != "none"): continue
    a, b = t["data_offsets"]
    out[name[len(drop):] if meta == "none" else name] = dict(t, data_offsets=[len(blob), len(blob) + b - a])
    blob += body[a:b]
for key in list(out["__metadata__"]):
    if drop and key.startswith("fovea." + drop): del out["__metadata__"][key]
if meta == "none": del out["__metadata__"]
elif meta: out["__metadata__"]["fovea.ar.points"] = meta
text = json.dumps(out).encode()
text += b" " * (-len(text) % 8)
open(to, "wb").write(struct.pack("<Q", len(text)) + text + blob)
END
    python3 rewrite.py m.safetensors p.safetensors "" 'ar@f32 1 1 0.6 10 1
sd@f32 1.5 1.9 0.6 10 1
vvs:interval=3,rule=lantern@f32 2.1 2.8 0.58 10.5 0
ar@int8 2.5 1 0.55 12 0
'
    points="$GEN --model p.safetensors --precision f32 --threads 1 -f"
    run "$GEN" info p.safetensors
    grep -q "1.50x .* sd in f32, lossless" out; ok $? info_lists_the_measured_ways
    run "$GEN" info --json p.safetensors && json_ok out points && grep -q '"method": "vvs:in' out
    ok $? info_json_lists_them
    expect speedup_lossless 0 $points --speedup 1.4 --seed 5 --class 2 -o other.ppm --json
    grep -q "sd in f32, lossless, measured 1.50x" err && grep -q '"mode": "sd"' out && cmp -s ar.ppm other.ppm
    ok $? speedup_takes_a_lossless_way_where_one_is_fast_enough
    expect speedup_lossy 0 $points --speedup 2x -o a.png --json
    grep -q "accuracy 58.0 % instead of 60.0 %, distance 10.5 instead of 10" err &&
        grep -q '"mode": "vvs:' out && grep -q '"speedup_stored": 2.0' out
    ok $? speedup_says_what_it_costs
    refuse speedup_beyond_all 1 "maximum .* 2.10x" $points --speedup 3 -o x.png
    any="$GEN --model p.safetensors --threads 1 -f"
    expect speedup_by_other_weights 0 $any --speedup 2.4 --seed 5 --class 2 -o other.ppm --json
    grep -q "ar in int8, measured 2.50x" err && grep -q '"mode": "ar"' out
    ok $? speedup_may_change_the_weights
    expect same_weights_by_name 0 $any --precision int8 --mode ar --seed 5 --class 2 -o a.ppm
    cmp -s a.ppm other.ppm; ok $? they_are_those_of_precision_int8
    if grep -q avx512f /proc/cpuinfo && [ -z "${ONEDNN_MAX_CPU_ISA:-}" ]; then
        refuse nothing_measured_with_these 1 "nothing was measured with --precision bf16" $any \
            --precision bf16 --speedup 2 -o x.png
    else # bf16 is f32 here, which was measured
        expect bf16_becomes_f32 0 $any --precision bf16 --speedup 2 -o a.png
        grep -q "using f32" err; ok $? bf16_becomes_f32_and_says_so
    fi
    expect measured_default 0 $points --seed 5 --class 2 -o other.ppm --json
    grep -q '"mode": "sd"' out && cmp -s ar.ppm other.ppm; ok $? default_is_the_fastest_lossless_way
    python3 rewrite.py m.safetensors damaged.safetensors "" 'ar@f32 1 1 0.6 10 1
sd@f32 1.5 fast'
    refuse damaged_points 3 "line 2" "$GEN" --model damaged.safetensors -o x.png

    python3 rewrite.py m.safetensors nodraft.safetensors draft. ""
    nodraft="$GEN --model nodraft.safetensors --precision f32 --threads 1 -f"
    expect no_draft_head 0 $nodraft --seed 5 --class 2 -o other.ppm --json
    grep -q '"mode": "ar"' out && cmp -s ar.ppm other.ppm; ok $? no_draft_head_is_token_by_token
    refuse no_draft_head_for_sd 3 "draft head" $nodraft --mode sd -o x.png
    refuse no_draft_head_for_speedup 1 "bench ar" $nodraft --speedup 2 -o x.png

    cat > captions.py << 'END'
import json, random, struct, sys
random.seed(5)
def numbers(*shape):
    n = 1
    for d in shape: n *= d
    return list(shape), struct.pack("<%df" % n, *[random.gauss(0, 0.3) for _ in range(n)])
def write(to, meta, tensors, head=None, body=b""):
    out = {"__metadata__": meta, **(head or {})}
    for name, (shape, values) in tensors.items():
        out[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(values)]}
        body += values
    text = json.dumps(out).encode()
    text += b" " * (-len(text) % 8)
    open(to, "wb").write(struct.pack("<Q", len(text)) + text + body)
data = open("m.safetensors", "rb").read()
size = struct.unpack("<Q", data[:8])[0]
head, body = json.loads(data[8:8 + size]), data[8 + size:]
meta = head.pop("__metadata__")
meta = {k: v for k, v in meta.items() if "class" not in k}
meta.update({"fovea.gpt.class_count": "0", "fovea.gpt.cond_tokens": "3", "fovea.gpt.caption_width": "8"})
table = head.pop("gpt.cls_embedding.embedding_table.weight")["shape"][1]
write("captions.safetensors", meta, {
    "gpt.cls_embedding.cap_proj.fc1.weight": numbers(table, 8),
    "gpt.cls_embedding.cap_proj.fc2.weight": numbers(table, table),
    "gpt.cls_embedding.uncond_embedding": numbers(3, 8)}, head, body)
write("one.safetensors", {}, {"features": numbers(2, 8)})
write("named.safetensors", {}, {"other": numbers(1), "caption": numbers(3, 8)})
write("long.safetensors", {}, {"caption": numbers(4, 8)})
write("nan.safetensors", {}, {"caption": ([1, 8], struct.pack("<8f", *[float("nan")] * 8))})
END
    python3 captions.py
    captions="$GEN --model captions.safetensors --precision f32 --threads 1 -f"
    expect caption 0 $captions --caption one.safetensors --seed 5 -n 2 -o caps/
    [ "$(ls caps | tr '\n' ' ')" = "any-5.png any-6.png " ]; ok $? caption_files_have_no_class
    run $captions --caption one.safetensors --mode ar --seed 5 -o one.ppm &&
        run $captions --caption one.safetensors --mode sd --seed 5 -o other.ppm && cmp -s one.ppm other.ppm
    ok $? caption_same_picture_in_a_lossless_way
    run $captions --caption named.safetensors --mode ar --seed 5 -o other.ppm && ! cmp -s one.ppm other.ppm
    ok $? another_caption_is_another_picture
    run "$GEN" info captions.safetensors && grep -q "^captions .* 3 features of width 8" out
    ok $? info_of_a_model_of_captions
    refuse caption_missing 2 "--caption" $captions -o x.png
    refuse caption_and_class 2 "captions" $captions --caption one.safetensors --class 1 -o x.png
    refuse caption_and_all_classes 2 "captions" $captions --caption one.safetensors --class all -o x.png
    refuse caption_of_another_width 3 "n from 1 to 3" $captions --caption long.safetensors -o x.png
    refuse caption_that_is_not_finite 3 "finite" $captions --caption nan.safetensors -o x.png
    refuse caption_among_others 3 "caption" $captions --caption m.safetensors -o x.png
    refuse caption_file_missing 1 "none" $captions --caption none.safetensors -o x.png

    python3 rewrite.py m.safetensors notok.safetensors vq. ""
    refuse no_tokenizer 3 "--tokenizer" "$GEN" --model notok.safetensors -o x.png
    python3 rewrite.py m.safetensors official.safetensors gpt. none
    refuse official_checkpoint 3 "fovea convert" "$GEN" --model official.safetensors -o x.png
else
    skip speedup_of_a_measured_model "no python3"
fi

# ---- Wrong input ---------------------------------------------------------------------------------
head -c 2000000 m.safetensors > cut.safetensors
refuse truncated_model 3 "cut.safetensors" "$GEN" --model cut.safetensors -o x.png
run "$FOVEA" new vq-s8 --seed 9 -o vq.safetensors
refuse tokenizer_alone 3 "tokenizer" "$GEN" --model vq.safetensors -o x.png
refuse wrong_tokenizer 3 "tokenizer" $gen --tokenizer vq.safetensors -o x.png
refuse model_as_tokenizer 3 "token" $gen --tokenizer dit.safetensors -o x.png
refuse missing_tokenizer 1 "none" $gen --tokenizer none.safetensors -o x.png
if [ -c /dev/full ]; then
    refuse full_disk 1 "space" $gen -q -o /dev/full
else
    skip full_disk "no /dev/full"
fi
interrupt sigterm_leaves_nothing TERM late.png $gen -n 5000 -o late.png

finish
