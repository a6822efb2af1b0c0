#!/bin/sh
# cli_vpic.sh - vpic as people use it: comparing pictures; files, damage, messages, exit codes.
#
# VPIC names the program. Pictures are tiny or those of tests/data.
set -u
: "${VPIC:?path of vpic}"
tests=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
export LC_ALL=C
. "$tests/shell_checks.sh"
photo=$tests/data/photos/000_extreme-desert-hike.webp
# value of a key in the JSON of the last command
value() { sed -n "s/^  \"$1\": \([^,]*\),*\$/\1/p" out; }
near() { # value, from, to
    awk -v v="$1" -v lo="$2" -v hi="$3" 'BEGIN { exit !(v >= lo && v <= hi) }'
}
grey() { # name, columns, rows, awk expression of x and y
    awk -v w="$2" -v h="$3" "BEGIN { print \"P2\"; print w, h; print 255
        for (y = 0; y < h; y++) for (x = 0; x < w; x++) print int($4) }" > "$1"
}
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
finish
