#!/bin/sh
# claims.sh - the paper's claims at small scale (arXiv 2605.19729): students of 3 % of the shipped F32, by
# loss and seed, and what came out; about an hour of one core. Stopped, it goes on where it was.
#     sh distill/recipes/claims.sh DATA OUT      from the top of the tree; FOVEA names the program
#     sh distill/recipes/claims.sh DATA OUT pruning     instead: four of F32's eight blocks stay, which ones
#                                                       three ways say (TinyFusion's question); half an hour
#     sh distill/recipes/claims.sh DATA OUT controls    instead: is it the method, or how much its loss weighs?
#                                                       OutKD weighed 0.5 to 4, PLACE with w = 0 and 1, with
#                                                       squares in its coarse part; half an hour
# OUT/claims.csv (pruning.csv, controls.csv) has a line for each student, the table is printed; SEEDS, STEPS (of students)
# and SAMPLES (drawn by each; 0: none are judged) may be set. The table of what is done so far:
#     awk -f distill/recipes/claims_table.awk OUT/claims.csv
set -eu
export LC_ALL=C
data=$1
out=$2
here=distill/recipes
fovea=${FOVEA:-build/release/bin/fovea}
seeds=${SEEDS:-1 2 3}
samples=${SAMPLES:-400}
what=${3:-claims}
csv=$out/$what.csv
case "$what" in
    claims | controls) ;;
    pruning) STEPS=${STEPS:-300} ;;
    *) echo "claims.sh: $what: nothing, pruning or controls expected" >&2; exit 2 ;;
esac

# unless_done FILE DIR VERB ...: nothing if FILE is there, else from the newest checkpoint in DIR.
unless_done() {
    file=$1
    dir=$2
    shift 2
    [ ! -f "$file" ] || return 0
    if [ -n "$(find "$dir" -name 'ckpt-*.safetensors' 2> /dev/null)" ]; then set -- "$@" --resume; fi
    "$fovea" "$@" --threads 1 --data-dir "$data"
}

# train NAME RECIPE [--set ...]: OUT/NAME/model.safetensors.
train() {
    name=$1
    recipe=$2
    shift 2
    unless_done "$out/$name/model.safetensors" "$out/$name" train "diffusion/recipes/$recipe" -o "$out/$name" "$@"
}

# judge MODEL NAME: samples of MODEL against real pictures, OUT/NAME.json. Without guidance, which is a
# setting that would have to be chosen for each student.
judge() {
    if [ -f "$out/$2.json" ] || [ "$samples" = 0 ]; then return 0; fi
    "$fovea" bench quality "$1" --classifier "$out/judge/model.safetensors" \
        --recipe diffusion/recipes/classifier32.recipe --data-dir "$data" --samples "$samples" --steps 20 \
        --cfg 1 --batch 16 --speedup 1 --precision f32 --threads 1 -q --json > "$out/part.json"
    mv "$out/part.json" "$out/$2.json"
}

# meta FILE KEY: a text of a model file's header, which is JSON, if it has one. value FILE KEY: a number of
# a report, the first of this name.
meta() { head -c 65536 "$1" | grep -a -o "\"fovea.$2\":\"[^\"]*\"" | cut -d '"' -f 4; }
value() { grep -o "\"$2\": [^,]*" "$1" 2> /dev/null | head -n 1 | cut -d ' ' -f 2; }

# student NAME TEACHER SEED LOSS [--set ...]
student() {
    run=$1
    teacher=$2
    seed=$3
    loss=$4
    model=$out/$run-$seed.safetensors
    shift 4
    unless_done "$model" "$out/$run-$seed-run" distill "$here/claims.recipe" --teacher "$teacher" \
        --loss "$loss" --set "seed=$seed" ${STEPS:+--set "steps=$STEPS" --set "eval_every=$STEPS"} \
        -o "$model" "$@"
    judge "$model" "$run-$seed"
    blocks=$(meta "$model" prune.blocks | tr ',' '-')
    echo "$run,$seed,$(meta "$model" distill.heldout),$(meta "$model" distill.distance)," \
        "$(value "$out/$run-$seed.json" frechet_to_real),$(value "$out/$run-$seed.json" accuracy)," \
        "$(meta "$model" distill.heldout_teacher)${blocks:+,$blocks}" | tr -d ' ' >> "$csv"
}

# pruned METHOD SEED: a student of four of the teacher's blocks, with TinyFusion's loss. Weights that are
# learned already take half of the rate that random ones do.
pruned() {
    student "$1" "$strong" "$2" feat --student-blocks 4 --set "prune_method=$1" --set student_width=0 \
        --set student_depth=0 --set lr=1e-3
}

strong=diffusion/models/f32.safetensors
middle=$out/middle/model.safetensors
weak=$out/weak/model.safetensors

mkdir -p "$out"
header=run,seed,heldout,distance,frechet,recognised,heldout_teacher
[ "$samples" = 0 ] || train judge classifier32.recipe
if [ "$what" = pruning ]; then
    echo "$header,blocks" > "$csv"
    for s in $seeds; do
        for method in uniform shortgpt learned; do pruned "$method" "$s"; done
    done
    awk -f "$here/claims_table.awk" "$csv"
    exit
fi
echo "$header" > "$csv"
if [ "$what" = controls ]; then
    for s in $seeds; do
        student out "$strong" "$s" out
        student place "$strong" "$s" place
        for l in 0.5 2 4; do student "out-l$l" "$strong" "$s" out --set "l_kd=$l"; done
        for w in 0 1; do
            student "place-w$w" "$strong" "$s" place --set weight=const --set "weight_const=$w"
        done
        student place-l2 "$strong" "$s" place --set coarse=l2
    done
    awk -f "$here/claims_table.awk" "$csv"
    exit
fi
train middle f32_weak.recipe
train weak f32_weak.recipe --set width=64 --set depth=4 --set heads=1 --set steps=300 \
    --set eval_every=300
for s in $seeds; do # the losses
    student none "$strong" "$s" none
    student out "$strong" "$s" out
    student feat "$strong" "$s" feat
    student lift "$strong" "$s" lift
    student place "$strong" "$s" place
done
for s in $seeds; do # the weight of the fine part
    student linear "$strong" "$s" place --set weight=linear
    student cosine "$strong" "$s" place --set weight=cosine
done
for s in $seeds; do # weaker teachers
    student feat-middle "$middle" "$s" feat
    student place-middle "$middle" "$s" place
    student feat-weak "$weak" "$s" feat
    student place-weak "$weak" "$s" place
done
for s in $seeds; do # sizes of the groups, and PLACE without FeatKD
    student k8 "$strong" "$s" place --set group=8
    student k64 "$strong" "$s" place --set group=64
    student alone "$strong" "$s" place --set l_feat=0
done
awk -f "$here/claims_table.awk" "$csv"
