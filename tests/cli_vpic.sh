#!/bin/sh
# cli_vpic.sh - vpic as people use it: coding and comparing pictures; names, pipes, parts, sizes,
# damage, messages, exit codes.
#
# VPIC names the program. Pictures are tiny or those of tests/data. What is coded needs a model:
# FOVEA names the program that makes one, by a training of two steps, whose pictures are fog.
set -u
: "${VPIC:?path of vpic}"
. "$(dirname "$0")/shell_checks.sh"
photo=$tests/data/photos/000_extreme-desert-hike.webp
grey ramp.pgm 200 190 "(x + y) % 256"
grey brighter.pgm 200 190 "(x + y) % 256 + ((x + y) % 256 < 254 ? 2 : 0)"
grey small.pgm 5 3 "40 * x + y"
grey other.pgm 3 5 "40 * x + y"

# ---- vpic ----------------------------------------------------------------------------------------
expect version 0 "$VPIC" --version
grep -q '^vpic [0-9]' out; ok $? version_has_a_number
refuse no_verb 2 "verb is missing" "$VPIC"
refuse unknown_verb 2 "did you mean compare" "$VPIC" compere
refuse unknown_option 2 "unknown option" "$VPIC" --frob

# ---- compare -------------------------------------------------------------------------------------
expect compare_equal 0 "$VPIC" compare --json "$photo" "$photo"
json_ok out a b width height a_bytes b_bytes a_bpp b_bpp equal psnr_db ms_ssim gmsd wd alpha_psnr_db
ok $? compare_json_has_its_keys
[ "$(value equal)" = true ] && [ "$(value psnr_db)" = null ] && [ "$(value gmsd)" = 0 ] &&
    [ "$(value wd)" = 0 ] && [ "$(value ms_ssim)" = 1 ] && [ "$(value width)" = 512 ]
ok $? compare_equal_pictures_are_equal
expect compare_ramp 0 "$VPIC" compare --json ramp.pgm brighter.pgm
# A difference of 2 in nearly all pixels: 10 log10(255^2 / 4) = 42.11 dB.
near "$(value psnr_db)" 42.1 42.3 && [ "$(value equal)" = false ]; ok $? compare_psnr_is_as_computed
near "$(value ms_ssim)" 0.99 0.999999 && near "$(value wd)" 1e-7 0.1; ok $? compare_has_all_measures
expect compare_text 0 "$VPIC" compare ramp.pgm brighter.pgm
[ "$(cut -d' ' -f1 out | tr '\n' ' ')" = "PSNR MS-SSIM GMSD WD " ]; ok $? compare_text_has_a_line_each
expect compare_small 0 "$VPIC" compare small.pgm small.pgm
grep -q '^MS-SSIM .*needs sides of 176' out && grep -q '^PSNR .*equal' out; ok $? compare_says_what_is_too_small
expect compare_threads 0 "$VPIC" compare --json --threads 1 ramp.pgm brighter.pgm
mv out one
expect compare_threads_3 0 "$VPIC" compare --json --threads 3 ramp.pgm brighter.pgm
cmp -s one out; ok $? compare_is_the_same_for_every_thread_count
expect compare_stdin 0 sh -c '"$1" compare - "$2" < "$2"' sh "$VPIC" "$photo"
refuse compare_sizes 3 "200 x 190 pixels.*5 x 3" "$VPIC" compare ramp.pgm small.pgm
refuse compare_one_file 2 "argument is missing" "$VPIC" compare ramp.pgm
refuse compare_three_files 2 "unexpected argument" "$VPIC" compare ramp.pgm ramp.pgm ramp.pgm
refuse compare_missing 1 "No such file" "$VPIC" compare ramp.pgm none.png
refuse compare_folder 1 "is a directory" "$VPIC" compare ramp.pgm .
echo text > text
if [ -c /dev/zero ]; then refuse compare_device 1 "no regular file" "$VPIC" compare ramp.pgm /dev/zero; fi
refuse compare_no_picture 3 "text: " "$VPIC" compare text ramp.pgm
head -c 900 "$photo" > cut.webp
refuse compare_cut 3 "cut.webp" "$VPIC" compare "$photo" cut.webp

# PNG files with transparency, and with each orientation in their EXIF data.
if command -v python3 > /dev/null; then
    python3 - << 'PYTHON'
import struct, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
def png(name, alphas, exif=None, rows=1):
    header = struct.pack(">IIBBBBB", len(alphas), rows, 8, 4, 0, 0, 0)
    data = b"".join(b"\0" + b"".join(bytes([255 - 9 * x - 40 * y, a]) for x, a in enumerate(alphas))
                    for y in range(rows))
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    if exif: out += chunk(b"eXIf", exif)
    out += chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    open(name, "wb").write(out)
png("clear.png", [255, 128, 0, 255])
png("solid.png", [255] * 4)
def turned(way, order="<"):
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x112, 3, 1, way, 0, 0)
for way in range(1, 9):
    png("way%d.png" % way, [255] * 4, turned(way, "<" if way % 2 else ">"), 2)
png("way0.png", [255] * 4, turned(6)[:17], 2)
PYTHON
    expect compare_alpha 0 "$VPIC" compare --json clear.png solid.png
    near "$(value alpha_psnr_db)" 4 6 && [ "$(value equal)" = false ]; ok $? compare_alpha_has_a_psnr
    expect compare_alpha_equal 0 "$VPIC" compare clear.png clear.png
    grep -q '^alpha .*equal' out; ok $? compare_alpha_planes_are_equal
    # The pixels 255 - 9 x - 40 y of 4 x 2, as each orientation shows them; 0: data that are cut.
    grey up1 4 2 "255 - 9 * x - 40 * y"; grey up2 4 2 "228 + 9 * x - 40 * y"
    grey up3 4 2 "188 + 9 * x + 40 * y"; grey up4 4 2 "215 - 9 * x + 40 * y"
    grey up5 2 4 "255 - 9 * y - 40 * x"; grey up6 2 4 "215 - 9 * y + 40 * x"
    grey up7 2 4 "188 + 9 * y + 40 * x"; grey up8 2 4 "228 + 9 * y - 40 * x"; cp up1 up0
    for way in 0 1 2 3 4 5 6 7 8; do
        "$VPIC" compare --json "way$way.png" "up$way" > out 2> err
        [ "$(value equal)" = true ]; ok $? "compare_turns_as_exif_says $way"
    done
else
    skip transparency_and_orientation "no python3"
fi
# ---- A model -------------------------------------------------------------------------------------
if [ -z "${FOVEA:-}" ]; then
    skip coding "no fovea to make a model with"
    finish
    exit
fi
make_rdvq_model; ok $? a_model_is_made
expect info_of_a_model 0 "$VPIC" info --json model.safetensors
json_ok out files; ok $? info_of_a_model_is_json
grep -q '"codes": 32' out && grep -q '"kind": "model"' out; ok $? info_tells_the_codes
expect info_of_own_models 0 "$VPIC" info

# ---- c and d -------------------------------------------------------------------------------------
m="--model model.safetensors"
cp "$photo" photo.webp
# shellcheck disable=SC2086
{
expect encode 0 "$VPIC" c $m photo.webp
[ -s photo.rdvq ] && [ ! -s out ] && [ ! -s err ]; ok $? encode_is_silent_and_names_its_output
refuse encode_output_exists 1 "-f overwrites" "$VPIC" c $m photo.webp
expect encode_overwrites 0 "$VPIC" c $m -f photo.webp
expect decode 0 "$VPIC" d $m photo.rdvq
is_png photo.png; ok $? decode_writes_a_png
expect sides_come_back 0 "$VPIC" compare photo.webp photo.png
refuse decode_output_exists 1 "-f overwrites" "$VPIC" d $m photo.rdvq
expect decode_webp 0 "$VPIC" d $m -o same.webp photo.rdvq
"$VPIC" compare --json photo.png same.webp > out 2> err; [ "$(value equal)" = true ]; ok $? webp_is_lossless
for threads in 1 3; do
    "$VPIC" c $m --threads $threads -o t$threads.rdvq photo.webp 2> err &&
        "$VPIC" d $m --threads $threads -o t$threads.ppm t$threads.rdvq 2>> err
    ok $? "threads_$threads"
done
cmp -s t1.rdvq t3.rdvq && cmp -s t1.rdvq photo.rdvq && cmp -s t1.ppm t3.ppm
ok $? same_bytes_for_every_thread_count
"$VPIC" c $m - < photo.webp 2> err > pipe.rdvq && cmp -s pipe.rdvq photo.rdvq; ok $? pipe_in_and_out
"$VPIC" d $m - < pipe.rdvq 2> err > pipe.png && cmp -s pipe.png photo.png; ok $? pipe_back
expect encode_json 0 "$VPIC" c $m --json -f -o j.rdvq photo.webp
sed -n '2s/.*{/{/p; 3,$p' out | sed '$d' | sed 's/]$//' > object
json_ok out files; ok $? encode_json_is_an_object
grep -q "\"bytes\": $(wc -c < j.rdvq | tr -d ' ')," out; ok $? encode_json_has_the_size
expect decode_json 0 "$VPIC" d $m --json -f -o j.png j.rdvq
json_ok out files && grep -q '"truncated": false' out; ok $? decode_json_is_an_object
refuse json_and_pipe 2 "exclude" "$VPIC" c $m --json -o - photo.webp
expect two_files 0 sh -c 'cp photo.webp one.webp; cp photo.webp two.webp; shift; "$@"' sh x \
    "$VPIC" c $m one.webp two.webp
cmp -s one.rdvq photo.rdvq && cmp -s two.rdvq photo.rdvq; ok $? two_files_become_two
refuse two_files_and_o 2 "-o takes" "$VPIC" c $m -o x.rdvq one.webp two.webp
expect region 0 "$VPIC" d $m --region 100,50,64,32 -o part.ppm photo.rdvq
[ "$(sed -n 2p part.ppm)" = "64 32" ]; ok $? region_has_its_sides
# Rows of 512 pixels of three bytes each behind a header of 15.
[ "$(head -c 15 t1.ppm | tr '\n' ' ')" = "P6 512 342 255 " ]; ok $? whole_picture_has_its_sides
row=50
while [ $row -lt 82 ]; do
    tail -c +$((16 + 3 * (512 * row + 100))) t1.ppm | head -c 192
    row=$((row + 1))
done > cut_out
tail -c $((64 * 32 * 3)) part.ppm | cmp -s - cut_out; ok $? region_has_its_pixels
expect prefix 0 "$VPIC" d $m --slices 3 -o prefix.png photo.rdvq
"$VPIC" compare --json photo.png prefix.png > out 2> err
[ "$(value equal)" = false ] && near "$(value psnr_db)" 15 99; ok $? prefix_is_like_it
expect prefix_of_all 0 "$VPIC" d $m --slices 255 -f -o prefix.png photo.rdvq
"$VPIC" compare --json photo.png prefix.png > out 2> err
[ "$(value equal)" = true ]; ok $? all_slices_are_the_picture
expect fewer_slices 0 "$VPIC" c $m --slices 3 -o slices.rdvq photo.webp
[ "$(wc -c < slices.rdvq)" -lt "$(wc -c < photo.rdvq)" ]; ok $? fewer_slices_are_smaller
expect sampled 0 "$VPIC" c $m --slices 3 --sampled --seed 7 -o sampled.rdvq photo.webp
expect sampled_back 0 "$VPIC" d $m -o sampled.png sampled.rdvq
expect tiles 0 "$VPIC" c $m --tile 256 -o tiles.rdvq photo.webp
"$VPIC" info --json tiles.rdvq > out 2> err
grep -q '"tile": 256' out && grep -q '"tiles_x": 2' out; ok $? info_tells_the_tiles
expect info 0 "$VPIC" info photo.rdvq
grep -q '512 x 342 pixels' out; ok $? info_tells_the_sides
"$VPIC" c $m --quality 1 -o low.rdvq photo.webp 2> err && "$VPIC" c $m --quality 100 -o high.rdvq photo.webp 2>> err
[ "$(wc -c < low.rdvq)" -le "$(wc -c < high.rdvq)" ]; ok $? higher_quality_is_not_smaller
expect bpp 0 "$VPIC" c $m --bpp 0.02 -o bpp.rdvq photo.webp
near "$(wc -c < bpp.rdvq)" 200 480; ok $? bits_per_pixel_are_met # 438 bytes
expect size 0 "$VPIC" c $m --size 1K -o size.rdvq photo.webp
near "$(wc -c < size.rdvq)" 1 1044; ok $? size_is_not_exceeded
expect unreachable_size 0 "$VPIC" c $m --size 9M -o big.rdvq photo.webp
grep -q 'less than asked for' err; ok $? unreachable_size_is_told
if [ -s way6.png ]; then
    expect keep_metadata 0 "$VPIC" c $m -o kept.rdvq way6.png
    expect drop_metadata 0 "$VPIC" c $m --drop-metadata -o dropped.rdvq way6.png
    "$VPIC" info kept.rdvq > out 2> err; grep -q '(ICC 0, EXIF [1-9]' out; ok $? metadata_are_kept
    "$VPIC" info dropped.rdvq > out 2> err; grep -q '(ICC 0, EXIF 0,' out; ok $? metadata_are_dropped
fi
expect special_output 0 "$VPIC" d $m -o /dev/null photo.rdvq
if [ -s way6.png ]; then
    expect turned 0 "$VPIC" c $m -o way6.rdvq way6.png
    "$VPIC" info way6.rdvq > out 2> err; grep -q ' 2 x 4 pixels' out; ok $? pictures_are_coded_upright
    expect alpha 0 "$VPIC" c $m -o clear.rdvq clear.png
    expect alpha_back 0 "$VPIC" d $m -o clear_back.png clear.rdvq
    "$VPIC" compare clear.png clear_back.png > out 2> err; grep -q '^alpha .*equal' out; ok $? alpha_is_kept
fi

# ---- Damage and usage ----------------------------------------------------------------------------
head -c 300 photo.rdvq > cut.rdvq
refuse cut_file 3 "cut.rdvq" "$VPIC" d $m cut.rdvq
expect cut_file_lenient 0 "$VPIC" d $m --lenient -o cut.png cut.rdvq
grep -q 'is cut' err; ok $? cut_file_is_told
refuse no_rdvq_file 3 "text" "$VPIC" d $m -o x.png text
refuse no_picture 3 "text" "$VPIC" c $m text
refuse no_model_file 3 "text" "$VPIC" c --model text photo.webp -o x.rdvq
refuse missing_model 1 "No such file" "$VPIC" c --model none.safetensors photo.webp -o x.rdvq
refuse float_model 3 "run/model.safetensors" "$VPIC" c --model run/model.safetensors photo.webp -o x.rdvq
refuse model_not_at_hand 3 "model" "$VPIC" d -o x.png photo.rdvq
refuse too_many_pixels 3 "pixel" "$VPIC" d $m --max-pixels 1000 -o x.png photo.rdvq
refuse two_rates 2 "exclude" "$VPIC" c $m --bpp 0.1 --size 1K photo.webp
refuse bad_size 2 "64K" "$VPIC" c $m --size much photo.webp
refuse bad_quality 2 "from 0.1 to 100" "$VPIC" c $m --quality 101 photo.webp
refuse bad_region 2 "X,Y,WIDTH,HEIGHT" "$VPIC" d $m --region 1,2,3 photo.rdvq
refuse region_outside 2 "" "$VPIC" d $m --region 500,0,64,64 -o x.png photo.rdvq
refuse jpeg_output 2 "JPEG would lose" "$VPIC" d $m -o x.jpg photo.rdvq
refuse odd_output 2 "needed" "$VPIC" d $m -o x.txt photo.rdvq
refuse input_is_output 1 "is the input" "$VPIC" c $m -f -o photo.webp photo.webp
refuse no_file 2 "argument is missing" "$VPIC" c $m
ln photo.webp linked.webp
refuse input_is_output_by_another_name 1 "is the input" "$VPIC" c $m -f -o linked.webp photo.webp
refuse input_is_output_through_a_folder 1 "is the input" "$VPIC" c $m -f -o ./photo.webp photo.webp
mkdir sub
cp photo.webp sub/photo.webp
cp photo.webp photo.webp.webp
refuse two_become_one 2 "both become" "$VPIC" c $m -f photo.webp ./photo.png
refuse two_become_one_by_a_folder 2 "both become" "$VPIC" c $m -f photo.webp sub/../photo.webp
expect same_names_in_two_folders 0 "$VPIC" c $m -f photo.webp sub/photo.webp
cmp -s photo.rdvq sub/photo.rdvq; ok $? both_are_there
refuse stdin_twice 2 "read once" "$VPIC" c $m - -
mkfifo slow silent
refuse pipe_as_picture 1 "no regular file" "$VPIC" c $m -o i.rdvq silent
refuse folder_as_picture 1 "is a directory" "$VPIC" c $m -o i.rdvq sub
sleep 20 > slow &
writer=$!
# shellcheck disable=SC2016
interrupt interrupted_reading TERM i.rdvq sh -c 'exec "$@" < slow' sh "$VPIC" c $m -o i.rdvq -
kill $writer 2> /dev/null
i=0
while [ $i -lt 12 ]; do i=$((i + 1)) && set -- "$@" photo.rdvq photo.rdvq photo.rdvq photo.rdvq; done
while [ $# -lt 3000 ]; do set -- "$@" "$@"; done
"$VPIC" info "$@" > out 2> err &
pid=$!
wait_for_handler $pid
kill -TERM $pid
wait $pid
[ $? = 130 ] && [ "$(wc -l < err)" = 1 ]; ok $? interrupted_info
}
finish
