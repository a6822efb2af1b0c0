#!/bin/sh
# quickstart.sh - from a fresh clone to pictures in out/: build, generate, accelerate, train.
#
# Needs a Debian-like system (other systems: see tools/deps.sh) and network for apt-get only.
# Runs again in seconds: what is built stays in build/release.
set -eu
cd "$(dirname "$0")/.."
build=build/release
gen=$build/bin/gen
fovea=$build/bin/fovea
vzip=$build/bin/vzip
vpic=$build/bin/vpic
out=out

say() { printf '\n== %s\n' "$*"; }
# The command is shown, so that it can be typed again.
run() { printf '$ %s\n' "$*" >&2; "$@"; }

say "1. What it is built from"
sh tools/deps.sh

say "2. Building into $build"
mkdir -p "$build"
generator='Unix Makefiles'
if command -v ninja > /dev/null; then generator=Ninja; fi
if ! [ -f "$build/build.ninja" ] && ! [ -f "$build/Makefile" ]; then
    rm -rf "$build/CMakeCache.txt" "$build/CMakeFiles" # of an attempt that failed
    cmake -S . -B "$build" -G "$generator" > "$build.log" 2>&1 || { cat "$build.log"; exit 1; }
fi
cmake --build "$build" -j "$(nproc)" > "$build.log" 2>&1 || { tail -n 40 "$build.log"; exit 1; }
echo "built: $("$gen" --version)"
mkdir -p "$out"

if ! [ -f diffusion/models/f64c.safetensors ]; then
    echo "quickstart: diffusion/models/f64c.safetensors is not in this tree, so there is nothing to" >&2
    echo "generate with. The programs are built: gen --model FILE takes any DiT checkpoint." >&2
    exit 1
fi

say "3. Pictures of every class, every step in full"
run "$gen" --class all -n 4 --seed 1 -f -o "$out/exact.png"

say "4. One of each at twice the speed, compared with the exact pictures"
run "$gen" --class all --seed 1 --speedup 2x --compare --json -f \
    --side-by-side "$out/side_by_side.png" -o "$out/fast.png" > "$out/fast.json"
value() { sed -n "s/.*\"$1\": *\([^,}]*\).*/\1/p" "$out/fast.json" | head -n 1; }
echo "asked 2, measured $(value speedup_measured); PSNR $(value psnr_db) dB, SSIM $(value ssim)"

say "5. What is computed and what is reused at which step"
run "$gen" explain --speedup 2x --png "$out/plan.png" -f

say "6. A PyTorch checkpoint becomes a model"
run "$fovea" convert tests/parity/dit_tiny.pt -o "$out/converted.safetensors" -f
run "$gen" info "$out/converted.safetensors"

say "7. Training on 24 real photos, only the first steps"
rm -rf "$out/train"
run "$fovea" train tests/data/clothing.recipe --data-dir tests/data -o "$out/train"

say "8. Packing files without loss, beside what is installed here"
run "$vzip" -k -f -o "$out/FORMAT-vz.md.vz" codec/FORMAT-vz.md
run "$vzip" d -k -f -o "$out/FORMAT-vz.md" "$out/FORMAT-vz.md.vz"
cmp codec/FORMAT-vz.md "$out/FORMAT-vz.md" && echo "the same file came back"
run "$vzip" bench --levels 1,3 codec/fovea_codec.h codec/FORMAT-vz.md "$out/exact.png"

say "9. A photo in few bytes, and what comes back"
photo=tests/data/photos/015_lake-sherburne.webp
run "$vpic" c --quality 60 -f -o "$out/photo.rdvq" "$photo"
run "$vpic" d -f -o "$out/photo.png" "$out/photo.rdvq"
run "$vpic" info "$out/photo.rdvq"
run "$vpic" compare "$photo" "$out/photo.png"

say "10. A photo at four times its size, beside plain enlargement"
run "$gen" sr --compare "$out/large_sheet.png" -f tests/data/photos/lake-sherburne_256.png "$out/large.png"

say "Done"
echo "Pictures:  $out/exact.png  $out/fast.png  $out/side_by_side.png (exact | fast | difference)"
echo "Plan:      $out/plan.png   Numbers: $out/fast.json"
echo "Speed-up:  asked 2, measured $(value speedup_measured) on this machine"
echo "Training:  $out/train/loss.png and its samples"
echo "Archive:   $out/FORMAT-vz.md.vz"
echo "Photo:     $out/photo.rdvq ($(wc -c < "$out/photo.rdvq") bytes) and $out/photo.png"
echo "Larger:    $out/large.png, and $out/large_sheet.png (nearest, Lanczos, bicubic, ours)"
echo "Next:      $gen --help, $fovea --help, $vzip --help, $vpic --help, README.md"
