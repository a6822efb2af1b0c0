#!/bin/sh
# rdvq_ablation.sh - what the soft relaxation and the codebook bring, at one small budget: a tokenizer
# of 1,500 steps and an entropy model of 600, then 900 more steps in one of three ways.
#     relax   jointly, the rate reaching the encoder through the soft relaxation
#     none    the same without it: the rate trains the entropy model alone
#     kmeans  500 steps with a codebook of 96 codes made by k-means, whose rate is as low without any
#             training for rate, and 400 for its entropy model
#     sh codec/recipes/rdvq_ablation.sh DATA OUT       from the top of the tree, about an hour of a core
#     vpic bench PHOTOS --apart --peers none --model OUT/relax.safetensors --model ...
# Results: codec/models/rdvq_xs.md.
set -eu
data=$1
out=$2
here=codec/recipes
fovea=${FOVEA:-build/release/bin/fovea}

# stage NAME RECIPE FROM [--set ...]
stage() {
    name=$1 recipe=$here/$2 from=$3
    shift 3
    [ ! -f "$out/$name/model.safetensors" ] || return 0
    if [ -n "$(find "$out/$name" -name 'ckpt-*.safetensors' 2> /dev/null)" ]; then
        set -- --resume "$@"
    elif [ "$from" != - ]; then
        set -- --init "$out/$from/model.safetensors" "$@"
    fi
    "$fovea" train "$recipe" --data-dir "$data" --threads 1 -o "$out/$name" --set sample_every=0 "$@"
}

mkdir -p "$out"
stage t rdvq_xs.recipe - --set steps=1500 --set warmup=100 --set kmeans_at=300
stage e rdvq_xs_entropy.recipe t --set steps=600
stage relax rdvq_xs_joint.recipe e --set steps=900
stage none rdvq_xs_joint.recipe e --set steps=900 --set relaxation=no
stage k rdvq_xs.recipe t --set codes=96 --set steps=500 --set kmeans_at=50 --set warmup=50 \
    --set lr=7e-4 --set eval_every=250
stage kmeans rdvq_xs_entropy.recipe k --set codes=96 --set steps=400 --set eval_every=400
for name in relax none kmeans; do
    "$fovea" convert "$out/$name/model.safetensors" --type int8 -f -o "$out/$name.safetensors"
done
