#!/bin/sh
# kill_resume.sh FOVEA FOLDER ROUNDS [distill] - a training run, or one of distillation, killed at
# random moments ends with the same model, to the byte, as one that was left alone.
set -eu
fovea=${1:?usage: kill_resume.sh FOVEA FOLDER ROUNDS}
work=${2:?}
rounds=${3:?}
what=${4:-train}
data=$(cd "$(dirname "$0")/data" && pwd)
rm -rf "$work"
mkdir -p "$work"
if [ "$what" = distill ]; then
    "$fovea" new F32 --classes 4 -o "$work/teacher.safetensors" -q
fi
train() { # folder, more options; becomes the program, so that a kill hits it and not a shell
    dir=$1
    shift
    [ "$what" = distill ] &&
        exec "$fovea" distill --teacher "$work/teacher.safetensors" --student-blocks 2 --data clothing \
            --set steps=60 --set batch=4 --set split=0 --set eval_batches=0 --set save_every=7 \
            --data-dir "$data" --threads 2 -q -o "$dir/model.safetensors" --run "$dir" "$@"
    exec "$fovea" train "$data/clothing.recipe" --set steps=120 --data-dir "$data" --threads 2 -q -o "$dir" "$@"
}
mkdir -p "$work/whole" "$work/torn"
(train "$work/whole")
killed=0 round=0
while [ "$round" -lt "$rounds" ]; do
    resume=
    [ -f "$work/torn/latest" ] && resume=--resume
    # shellcheck disable=SC2086
    train "$work/torn" $resume & pid=$!
    # From 0.1 to 1.6 s: in the middle of steps, saves and starts.
    sleep "$(awk -v r="$round" 'BEGIN { srand(r); printf "%.2f", 0.1 + 1.5 * rand() }')"
    if kill -KILL "$pid" 2> /dev/null; then killed=$((killed + 1)); fi
    wait "$pid" 2> /dev/null || true
    round=$((round + 1))
done
resume=
[ -f "$work/torn/latest" ] && resume=--resume
# shellcheck disable=SC2086
(train "$work/torn" $resume)
cmp "$work/whole/model.safetensors" "$work/torn/model.safetensors"
echo "killed $killed times in $rounds rounds; the models are equal"
[ "$killed" -gt 0 ]
