#!/bin/sh
# cli_perceptual.sh - LPIPS and DISTS in the programs: fovea convert --weights, vpic compare, gen sr
# and fovea bench sr with what it made; what they refuse.
#
# FOVEA, VPIC and GEN name the programs. Networks are narrow and have random weights: that values are
# those of the definitions is tested in test_perceptual.
# shellcheck disable=SC2086 # options in variables are several words
set -u
: "${FOVEA:?path of fovea}" "${VPIC:?path of vpic}" "${GEN:?path of gen}"
. "$(dirname "$0")/shell_checks.sh"

# ---- Files as others publish them ----------------------------------------------------------------
# A safetensors file of random numbers from 1/8 to 1/2, with signs in layers of the network. The
# shell's printf makes bytes of the octal numbers.
weights() { # file; lines "name dimension ..." on standard input
    # shellcheck disable=SC2059
    printf "$(awk '
        function octal(byte) { return sprintf("\\%03o", byte) }
        function random(n) { seed = seed * 16807 % 2147483647; return int(seed / 65536) % n }
        BEGIN { seed = 7 }
        {
            n = 1
            shape = $2
            for (i = 2; i <= NF; i++) n *= $i
            for (i = 3; i <= NF; i++) shape = shape "," $i
            header = header (NR > 1 ? "," : "{") sprintf("\"%s\":{\"dtype\":\"F32\",\"shape\":[%s]," \
                     "\"data_offsets\":[%d,%d]}", $1, shape, at, at + 4 * n)
            at += 4 * n
            signs = $1 ~ /^features/ ? 2 : 1
            while (n-- > 0)
                data[NR] = data[NR] "\\000\\000" octal(random(256)) octal(62 + 128 * random(signs))
        }
        END {
            header = header "}"
            n = length(header)
            for (i = 0; i < 8; i++) {
                printf "%s", octal(n % 256)
                n = int(n / 256)
            }
            printf "%s", header
            for (i = 1; i <= NR; i++) printf "%s", data[i]
        }')" > "$1"
}
layers() { # lines "number, channels out and in, side" of convolutions
    while read -r number out in side; do
        echo "features.$number.weight $out $in $side $side"
        echo "features.$number.bias $out"
    done
}
weights alexnet << LINES
$(printf '%s\n' '0 4 3 11' '3 5 4 5' '6 6 5 3' '8 7 6 3' '10 8 7 3' | layers)
classifier.6.bias 10
LINES
weights vgg16 << LINES
$(printf '%s\n' '0 4 3 3' '2 4 4 3' '5 5 4 3' '7 5 5 3' '10 6 5 3' '12 6 6 3' '14 6 6 3' '17 7 6 3' \
    '19 7 7 3' '21 7 7 3' '24 8 7 3' '26 8 8 3' '28 8 8 3' | layers)
LINES
for k in 0 1 2 3 4; do echo "lin$k.model.1.weight 1 $((k + 4)) 1 1"; done | weights lins
for k in 0 1 2 3 4; do echo "lin$k.model.1.weight 1 $((k + 5)) 1 1"; done | weights wide_lins
printf '%s\n' 'alpha 1 33 1 1' 'beta 1 33 1 1' | weights shares
echo text > text
grey a.pgm 64 48 "128 + 100 * sin(x / 5) * cos(y / 7)"
grey b.pgm 64 48 "128 + 100 * sin(x / 5) * cos(y / 7) + (x * 7 + y * 13) % 5"
grey c.pgm 64 48 "(x * x * 3 + y * 31) % 256"
grey small.pgm 30 40 "x + y"

# ---- fovea convert -------------------------------------------------------------------------------
expect convert_lpips 0 "$FOVEA" convert alexnet --weights lins -o lpips.safetensors
grep -q 'written as f32' err; ok $? values_stay_as_they_are
expect convert_lpips_of_vgg 0 "$FOVEA" convert vgg16 --weights lins -o lpips_vgg.safetensors
expect convert_dists 0 "$FOVEA" convert vgg16 --weights shares -o dists.safetensors
expect convert_bf16 0 "$FOVEA" convert vgg16 --weights shares --type bf16 -o bf16.safetensors
[ "$(wc -c < bf16.safetensors)" -lt "$(wc -c < dists.safetensors)" ]; ok $? bf16_is_smaller
refuse convert_keeps_files 1 "-f overwrites" "$FOVEA" convert alexnet --weights lins -o lpips.safetensors
refuse weights_needed 3 "alexnet: .*--weights" "$FOVEA" convert alexnet -o x.safetensors
refuse weights_missing 1 "none.*No such file" "$FOVEA" convert alexnet --weights none -o x.safetensors
refuse weights_are_none 3 "text" "$FOVEA" convert alexnet --weights text -o x.safetensors
refuse weights_of_no_network 2 "lins holds no features" "$FOVEA" convert lins --weights lins -o x.safetensors
refuse weights_of_another_width 3 "lin0.model.1.weight is 1x5x1x1, expected 1x4x1x1" \
    "$FOVEA" convert alexnet --weights wide_lins -o x.safetensors
refuse dists_of_alexnet 3 "DISTS needs the features of VGG-16" \
    "$FOVEA" convert alexnet --weights shares -o x.safetensors
refuse features_with_an_autoencoder 2 "alexnet holds features" \
    "$FOVEA" convert alexnet --weights lins --vae lins -o x.safetensors

# ---- vpic compare --------------------------------------------------------------------------------
for model in lpips lpips_vgg dists; do
    metric=${model%_vgg}
    with="--$metric $model.safetensors"
    expect "${model}_of_equal_pictures" 0 "$VPIC" compare --json $with a.pgm a.pgm
    near "$(value "$metric")" -0.000001 0.000001; ok $? "${model}_of_equal_pictures_is_0"
    expect "${model}_of_near_ones" 0 "$VPIC" compare --json $with a.pgm b.pgm
    little=$(value "$metric")
    near "$little" 0.00001 1; ok $? "${model}_of_near_ones_is_above_0"
    expect "${model}_of_others" 0 "$VPIC" compare --json $with a.pgm c.pgm
    near "$(value "$metric")" "$(awk -v v="$little" 'BEGIN { print 2 * v }')" 10
    ok $? "${model}_of_others_is_larger"
done
both="--lpips lpips.safetensors --dists dists.safetensors"
expect both_json 0 "$VPIC" compare --json $both a.pgm c.pgm
json_ok out lpips dists psnr_db wd; ok $? json_has_both
dists=$(value dists)
expect both_text 0 "$VPIC" compare $both a.pgm c.pgm
[ "$(cut -d' ' -f1 out | tr '\n' ' ')" = "PSNR MS-SSIM GMSD WD LPIPS DISTS " ]; ok $? text_has_a_line_each
grep -q "^DISTS  *$(printf %.5f "$dists")\$" out; ok $? text_and_json_agree
for threads in 1 3; do "$VPIC" compare --threads $threads $both a.pgm c.pgm > t$threads 2> err; done
[ -s t1 ] && cmp -s t1 t3; ok $? the_same_for_every_thread_count
"$VPIC" compare $both c.pgm a.pgm 2> err | grep '^[LD]' > turned
grep '^[LD]' t1 | cmp -s - turned; ok $? both_are_symmetric
expect without_weights 0 "$VPIC" compare --json a.pgm c.pgm
! grep -q '"lpips"\|"dists"' out; ok $? neither_without_weights
expect bf16_weights 0 "$VPIC" compare --json --dists bf16.safetensors a.pgm c.pgm
awk -v a="$(value dists)" -v b="$dists" 'BEGIN { exit !(a > 0.95 * b && a < 1.05 * b) }'
ok $? bf16_weights_are_near
refuse dists_as_lpips 3 "weights of DISTS, not of LPIPS" "$VPIC" compare --lpips dists.safetensors a.pgm b.pgm
refuse lpips_as_dists 3 "weights of LPIPS, not of DISTS" "$VPIC" compare --dists lpips.safetensors a.pgm b.pgm
refuse missing_model 1 "none.*No such file" "$VPIC" compare --lpips none a.pgm b.pgm
refuse no_model 3 "text" "$VPIC" compare --dists text a.pgm b.pgm
refuse model_before_convert 3 "fovea convert" "$VPIC" compare --lpips alexnet a.pgm b.pgm
refuse too_small 2 "sides of 31 to" "$VPIC" compare --lpips lpips.safetensors small.pgm small.pgm

# ---- gen sr --------------------------------------------------------------------------------------
expect a_model 0 "$FOVEA" new pssr-nano --seed 2 -o sr.safetensors
sr="$GEN sr --model sr.safetensors --precision f32 -f --scale 1 --reference c.pgm"
expect sr_json 0 $sr --json $both a.pgm large.pgm
json_ok out psnr_db lpips bicubic_lpips dists bicubic_dists; ok $? sr_json_has_both
lpips=$(value lpips) bicubic=$(value bicubic_lpips) dists=$(value dists)
# --scale 1: the bicubic enlargement is the picture itself
for pair in "large.pgm $lpips $dists" "a.pgm $bicubic $(value bicubic_dists)"; do
    # shellcheck disable=SC2086
    set -- $pair
    run "$VPIC" compare --json $both c.pgm "$1"
    near "$2" "$(awk -v v="$(value lpips)" 'BEGIN { print v - 1e-5 }')" \
        "$(awk -v v="$(value lpips)" 'BEGIN { print v + 1e-5 }')" &&
        near "$3" "$(awk -v v="$(value dists)" 'BEGIN { print v - 1e-5 }')" \
            "$(awk -v v="$(value dists)" 'BEGIN { print v + 1e-5 }')"
    ok $? "sr_measures_as_vpic_compare_does $1"
done
expect sr_text 0 $sr $both a.pgm large.pgm
grep -q "^gen: LPIPS $(printf %.4f "$lpips") (bicubic $(printf %.4f "$bicubic"))\$" err &&
    grep -q "^gen: DISTS $(printf %.4f "$dists") " err
ok $? sr_text_and_json_agree
expect sr_without_weights 0 $sr --json a.pgm large.pgm
! grep -q 'lpips\|dists' out; ok $? sr_neither_without_weights
expect sr_one_of_them 0 $sr --json --dists dists.safetensors a.pgm large.pgm
grep -q '"dists"' out && ! grep -q 'lpips' out; ok $? sr_only_the_one_asked_for
refuse sr_weights_without_a_reference 2 "--reference" \
    "$GEN" sr --model sr.safetensors -q --lpips lpips.safetensors a.pgm q.pgm
refuse sr_dists_as_lpips 3 "weights of DISTS, not of LPIPS" $sr -q --lpips dists.safetensors a.pgm q.pgm
refuse sr_missing_weights 1 "none.*No such file" $sr -q --dists none a.pgm q.pgm
refuse sr_too_small 3 "sides of 31" "$GEN" sr --model sr.safetensors -q --scale 1 \
    --reference small.pgm --lpips lpips.safetensors small.pgm q.pgm

# ---- fovea bench sr ------------------------------------------------------------------------------
mkdir photos
cp "$tests/data/photos/000_extreme-desert-hike.webp" photos
bench="$FOVEA bench sr --model sr.safetensors photos --side 64 --clips 0 --rounds 1"
expect bench_text 0 $bench $both
grep -q '^way .*LPIPS *DISTS' out; ok $? bench_has_a_column_each
expect bench_json 0 $bench --json --lpips lpips.safetensors
grep -q '"lpips": [0-9.]*' out && grep -q '"dists": null' out; ok $? bench_json_has_the_one_asked_for
refuse bench_dists_as_lpips 3 "weights of DISTS, not of LPIPS" $bench --lpips dists.safetensors
finish
