#!/bin/sh
# cli_vpic_bench.sh - vpic bench: curves, files, peers that are missing, fail or hang, interrupts.
#
# VPIC names the program, FOVEA the one that has it as a verb. Peers are scripts that copy, so that
# most of it needs none of the real ones; parts with real ones are skipped where they are missing.
set -u
: "${VPIC:?path of vpic}"
. "$(dirname "$0")/shell_checks.sh"
mkdir temp bin photos
export TMPDIR=temp # relative: children work elsewhere
cp "$tests/data/photos/000_extreme-desert-hike.webp" photos/b.webp
grey photos/a.pgm 200 180 "(x * y + x) % 256"
clean() { # name: the command before left nothing in the temporary folder
    [ -z "$(ls -A temp)" ]; ok $? "$1"
}
fake() { # name, script
    printf '#!/bin/sh\n%s\n' "$2" > "bin/$1"
    chmod +x "bin/$1"
}
real=$PATH
# cjpeg ... -outfile PACKED IN; djpeg -pnm -outfile OUT PACKED. The quality decides the size.
fake cjpeg 'head -c "${2}000" /dev/zero > pad; cat "$9" pad > "$8"'
fake djpeg 'cp "$4" "$3"'
copies="$work/bin:/usr/bin:/bin"

# ---- Curves --------------------------------------------------------------------------------------
PATH=$copies
expect copies 0 "$VPIC" bench --others-only --peers jpeg,half-jpeg --csv t.csv -o p.png --sheet s.png photos
clean copies_leave_nothing
grep -q '^2 pictures, 0.21 million' out && [ "$(grep -c '^JPEG ' out)" = 5 ]; ok $? table_for_each_measure
[ ! -s err ]; ok $? silent_without_a_terminal
is_png p.png && is_png s.png; ok $? plot_and_sheet_are_png
# A header and two pictures by two coders by nine settings; copies are equal.
[ "$(wc -l < t.csv)" = 37 ] && [ "$(grep -c ',"JPEG",.*,inf,1,0,0,' t.csv)" = 18 ]; ok $? csv_has_all
awk -F, 'NR > 1 && $7 != sprintf("%.6g", 8 * $6 / ($4 * $5)) { print "# " $0; bad = 1 }
    END { exit bad }' t.csv; ok $? bits_per_pixel_are_of_whole_files
expect json 0 "$VPIC" bench --json --others-only --peers jpeg,half-jpeg --pictures 1 photos
if command -v python3 > /dev/null; then
    python3 -c 'import json
b = json.load(open("out"))
assert b["pictures"] == 1 and b["time_reference"] == "JPEG"
full, half = b["coders"]
assert [p["setting"] for p in full["points"]] == "1 3 5 8 11 15 20 27 36".split()
rates = [p["bpp"] for p in full["points"]]
assert rates == sorted(rates) and rates[0] > 24
assert all(p["psnr_db"] == 100 and p["wd"] == 0 for p in full["points"])
assert all(6 < p["bpp"] < 60 and 0.1 < p["ms_ssim"] < 1 for p in half["points"])
assert all(a["gmsd"] is None for a in full["at"])' 2> err
    ok $? json_is_json
else
    skip json_is_json "no python3"
fi
refuse output_exists 1 "-f" "$VPIC" bench --others-only --peers jpeg -o p.png photos
expect overwrite 0 "$VPIC" bench --others-only --peers jpeg -f -o p.png photos/b.webp
if [ -n "${FOVEA:-}" ]; then
    expect verb_of_fovea 0 "$FOVEA" bench pic --others-only --peers jpeg photos/b.webp
    grep -q '^JPEG' out; ok $? verb_of_fovea_has_the_table
else
    skip verb_of_fovea "no fovea"
fi

# ---- Peers ---------------------------------------------------------------------------------------
fake cjpeg 'case $2 in 5) echo cannot >&2; exit 3;; esac; cp "$9" "$8"'
expect failing_setting 0 "$VPIC" bench --others-only --peers jpeg photos/b.webp
grep -q '^JPEG: 1 failure, .*cannot$' out; ok $? failures_are_told
fake djpeg 'head -c 99 "$4" > "$3"'
expect broken_decoder 0 "$VPIC" bench -v --others-only --peers jpeg photos/b.webp
grep -q '^JPEG: 9 failures' out && grep -q 'b.webp: JPEG 36: ' err; ok $? broken_pictures_are_failures
fake djpeg 'cp "$4" "$3"'
for tool in ls cat head cp; do fake $tool "exec $(command -v $tool) \"\$@\""; done
PATH="$work/bin"
expect missing_peer 0 "$VPIC" bench --others-only --peers jpeg,avif photos/b.webp
PATH=$copies
rm bin/ls bin/cat bin/head bin/cp
grep -q '^AVIF .*avifenc is not installed$' out; ok $? missing_peer_is_in_the_table
# Names that a shell would take apart.
strange='a b; touch oops $(touch oops) "'\''.webp'
cp photos/b.webp "$strange"
expect strange_name 0 "$VPIC" bench --others-only --peers jpeg "$strange"
[ ! -e oops ]; ok $? names_are_not_run
PATH=$real
if command -v cjpeg > /dev/null && command -v djpeg > /dev/null; then
    expect jpeg 0 "$VPIC" bench --json --threads 1 --others-only --peers jpeg,half-jpeg photos/b.webp
    if command -v python3 > /dev/null; then
        python3 -c 'import json
full, half = json.load(open("out"))["coders"]
for c in full, half:
    p = c["points"]
    assert len(p) == 9, len(p)
    assert all(x["bpp"] < y["bpp"] and x["wd"] > y["wd"] for x, y in zip(p, p[1:]))
at = lambda c: c["at"][1]["ms_ssim"]
assert 0.5 < at(full) < at(half) < 1' 2> err
        ok $? curves_rise_and_half_size_is_better_at_a_low_rate
    else
        skip curves "no python3"
    fi
else
    skip jpeg "cjpeg or djpeg is not installed"
fi
for program in cwebp cjxl avifenc; do
    name=$(echo "$program" | sed 's/^c//; s/enc$//')
    if ! command -v $program > /dev/null; then
        skip "$name" "$program is not installed"
        continue
    fi
    expect "$name" 0 "$VPIC" bench --others-only --peers "$name" photos/a.pgm
    ! grep -q failures out; ok $? "${name}_does_all_settings"
done

# ---- Usage ---------------------------------------------------------------------------------------
refuse no_folder 2 "missing" "$VPIC" bench
refuse bad_peer 2 "there are" "$VPIC" bench --others-only --peers gif photos
refuse no_coder 2 "no coder" "$VPIC" bench --others-only --peers none photos
refuse no_such_file 1 "No such file" "$VPIC" bench --others-only --peers jpeg none.png
mkfifo pipe.png
refuse pipe_as_picture 1 "neither a file" "$VPIC" bench --others-only --peers jpeg pipe.png
mkdir empty
mkfifo empty/pipe.png
refuse empty_folder 3 "no pictures" "$VPIC" bench --others-only --peers jpeg empty
echo text > text.png
PATH=$copies
expect bad_picture 0 "$VPIC" bench --others-only --peers jpeg text.png photos/b.webp
grep -q 'text.png: left out' err && grep -q '^1 picture,' out; ok $? bad_picture_is_left_out
printf 'P5\n8 8\n255\n0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqr' > tiny.pgm
expect nothing_left 3 "$VPIC" bench --others-only --peers jpeg tiny.pgm
grep -q 'tiny.pgm: left out: 8 x 8' err && [ ! -s out ]; ok $? small_picture_is_left_out

# ---- Our own codec -------------------------------------------------------------------------------
if [ -n "${FOVEA:-}" ]; then
    PATH=$real
    make_rdvq_model
    ok $? a_model_is_made
    PATH=$copies
    fake cjpeg 'cp "$9" "$8"'
    expect own 0 "$VPIC" bench --json --model model.safetensors --peers jpeg photos/a.pgm
    if command -v python3 > /dev/null; then
        python3 -c 'import json
b = json.load(open("out"))
own = b["coders"][0]
assert own["coder"] == "vpic" and own["failures"] == 0 and len(own["points"]) == 6, own
assert all(0 < p["bpp"] < 0.3 and p["encode_cpu_s_per_megapixel"] > 0 for p in own["points"])
gates = {g["gate"]: g for g in b["gates"]}
assert gates["A"]["verdict"] == "not passed" or gates["A"]["verdict"] == "open"
assert gates["C"]["verdict"] == "open" and len(gates["B"]["lines"]) == 8' 2> err
        ok $? own_codec_has_points_and_verdicts
    else
        skip own_codec_has_points_and_verdicts "no python3"
    fi
    expect apart 0 "$VPIC" bench --apart --model model.safetensors --sheet own.png --peers none photos/a.pgm
    is_png own.png && grep -q 'gate C, an aim: open' out; ok $? models_apart
    if command -v python3 > /dev/null; then
        "$VPIC" bench --json --model model.safetensors --peers jpeg photos/a.pgm > out 2> err
        # Copies are larger than all that ours reaches, and equal to the picture. How far ours
        # reaches depends on the training; the rule itself is in test_vpic_judge.
        python3 -c 'import json
lines = json.load(open("out"))["gates"][0]["lines"]
lines = [x for x in lines if x["peer"] == "jpeg"]
assert lines
for x in lines:
    assert x["ours_bpp"] <= x["bpp"] < x["theirs_bpp"] and x["ours"] > 0, x
    assert x["state"] == ("no" if x["ours_bpp"] < x["bpp"] else "no such file"), x' 2> err
        ok $? our_largest_file_stands_for_larger_ones
    else
        skip our_largest_file "no python3"
    fi
    many() { # count, then the command: with so many models
        n=$1
        shift
        while [ "$n" -gt 0 ]; do set -- "$@" --model model.safetensors && n=$((n - 1)); done
        "$@"
    }
    refuse many_apart 2 "19 models are too many" many 19 "$VPIC" bench --apart photos
    refuse many_together 2 "23 models are too many" many 23 "$VPIC" bench photos
    refuse bad_model 3 "text.png" "$VPIC" bench --model text.png --peers jpeg photos/b.webp
    refuse missing_model 1 "No such file" "$VPIC" bench --model none --peers jpeg photos/b.webp
else
    skip own "no fovea to make a model with"
fi

# ---- Interrupts ----------------------------------------------------------------------------------
fake cjpeg 'echo > "$8"; exec sleep 20'
"$VPIC" bench --others-only --peers jpeg photos/b.webp > out 2> err &
pid=$!
tries=0
while [ -z "$(find temp -name packed.jpg 2> /dev/null)" ] && [ $tries -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
kill -TERM $pid
wait $pid
[ $? = 130 ] && [ -z "$(ls -A temp)" ] && [ ! -s out ]; ok $? interrupt_leaves_nothing
finish
