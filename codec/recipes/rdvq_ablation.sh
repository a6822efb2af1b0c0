#!/bin/sh
# rdvq_ablation.sh - what the soft relaxation and the codebook bring, at one small budget: a tokenizer
# of 1,500 steps and an entropy model of 600, then 900 more steps in one of three ways.
#     relax   jointly, the rate reaching the encoder through the soft relaxation; relax_low and
#             relax_high at the rates of the other two
#     none    the same without it: the rate trains the entropy model alone
#     kmeans  500 steps with a codebook of 96 codes made by k-means, whose rate is as low without any
#             training for rate, and 400 for its entropy model
#     sh codec/recipes/rdvq_ablation.sh DATA OUT       from the top of the tree, about two hours of a core
#     vpic bench PHOTOS --apart --peers none --model OUT/relax.safetensors --model ...
# Results: codec/models/rdvq_xs.md.
set -eu
data=$1
out=$2
. codec/recipes/rdvq_stages.sh

stage t rdvq_xs.recipe - --set steps=1500 --set warmup=100 --set kmeans_at=300
stage e rdvq_xs_entropy.recipe t --set steps=600
stage relax rdvq_xs_joint.recipe e --set steps=900
stage relax_low rdvq_xs_joint.recipe e --set steps=900 --set lambda=0.6
stage relax_high rdvq_xs_joint.recipe e --set steps=900 --set lambda=0.12
stage none rdvq_xs_joint.recipe e --set steps=900 --set relaxation=no
stage k rdvq_xs.recipe t --set codes=96 --set steps=500 --set kmeans_at=50 --set warmup=50 \
    --set lr=7e-4 --set eval_every=250
stage kmeans rdvq_xs_entropy.recipe k --set codes=96 --set steps=400 --set eval_every=400
for name in relax relax_low relax_high none kmeans; do
    shipped "$name" "$out/$name.safetensors"
done
