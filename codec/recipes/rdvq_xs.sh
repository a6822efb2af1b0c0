#!/bin/sh
# rdvq_xs.sh - the shipped models codec/models/rdvq_xs_*.safetensors, about two hours of one core.
#     sh codec/recipes/rdvq_xs.sh DATA OUT       from the top of the tree; FOVEA names the program
# Stopped, it goes on where it was. GNU tar.
set -eu
data=$1
out=$2
here=codec/recipes
fovea=${FOVEA:-build/release/bin/fovea}

# Photos and clothing as the recipes name them, without the photos that the tests code.
select_data() {
    [ ! -f "$out/data/photos/photos1024.tar" ] || return 0
    rm -rf "$out/data"
    mkdir -p "$out/data/photos" "$out/data/all"
    ln -s "$(cd "$data/classes" && pwd)" "$out/data/classes"
    tar -xf "$data/photos/photos1024.tar" -C "$out/data/all" --exclude='budgie_000_*' \
        --exclude='budgie_004_*' --exclude='budgie_005_*' --exclude='budgie_009_*'
    (cd "$out/data/all" && find . -type f | sed 's|^\./||' | LC_ALL=C sort) |
        tar -cf "$out/data/part" -C "$out/data/all" --verbatim-files-from -T -
    rm -rf "$out/data/all"
    mv "$out/data/part" "$out/data/photos/photos1024.tar"
}

# stage NAME RECIPE FROM [--set ...]: from where it was stopped, else from the model of FROM.
stage() {
    name=$1
    recipe=$2
    from=$3
    shift 3
    [ ! -f "$out/$name/model.safetensors" ] || return 0
    if [ -n "$(find "$out/$name" -name 'ckpt-*.safetensors' 2> /dev/null)" ]; then
        set -- --resume "$@"
    elif [ "$from" != - ]; then
        set -- --init "$out/$from/model.safetensors" "$@"
    fi
    "$fovea" train "$here/$recipe" --data-dir "$out/data" --threads 1 -o "$out/$name" "$@"
}

mkdir -p "$out"
select_data
stage s1 rdvq_xs.recipe -
stage s2 rdvq_xs_entropy.recipe s1
stage j08 rdvq_xs_joint.recipe s2
stage j04 rdvq_xs_joint.recipe j08 --set lambda=1 --set steps=800 --set lambda_share=0 --set tau=0.02
stage j10 rdvq_xs_joint.recipe j08 --set lambda=0.2 --set texture=4 --set steps=1100 \
    --set lambda_share=0 --set tau=0.02 --set sample_every=0
# Two product codes at the finest scale.
stage g1 rdvq_xs.recipe s1 --set groups=2 --set steps=1000 --set kmeans_at=150 --set lr=7e-4 \
    --set warmup=50 --set sample_every=0
stage g2 rdvq_xs_entropy.recipe g1 --set groups=2 --set steps=600 --set warmup=50
stage g3 rdvq_xs_joint.recipe g2 --set groups=2 --set steps=700 --set lambda=0.1
stage j18 rdvq_xs_joint.recipe g3 --set groups=2 --set lambda=0.07 --set texture=4 \
    --set steps=750 --set lambda_share=0 --set tau=0.02 --set sample_every=0 --set lr=7e-4 \
    --set eval_every=750
for name in 04 08 10 18; do
    "$fovea" convert "$out/j$name/model.safetensors" --type int8 -f \
        -o "codec/models/rdvq_xs_$name.safetensors"
done
