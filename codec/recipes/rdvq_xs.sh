#!/bin/sh
# rdvq_xs.sh - the shipped models codec/models/rdvq_xs_*.safetensors, about two hours of one core.
#     sh codec/recipes/rdvq_xs.sh DATA OUT       from the top of the tree; FOVEA names the program
set -eu
data=$1
out=$2
. codec/recipes/rdvq_stages.sh

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
    shipped "j$name" "codec/models/rdvq_xs_$name.safetensors"
done
