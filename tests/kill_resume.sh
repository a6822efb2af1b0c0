#!/bin/sh
# kill_resume.sh FOVEA FOLDER KILLS [distill] - a training run, or one of distillation, killed at
# random moments ends with the same model, to the byte, as one that was left alone.
set -eu
fovea=${1:?usage: kill_resume.sh FOVEA FOLDER KILLS}
work=${2:?}
kills=${3:?}
what=${4:-train}
data=$(cd "$(dirname "$0")/data" && pwd)
if [ -e "$work" ] && [ ! -d "$work/torn" ]; then # it will be emptied
    echo "kill_resume.sh: $work exists and is not of an earlier run: name another folder" >&2
    exit 2
fi
rm -rf "$work"
mkdir -p "$work/whole" "$work/torn"
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
(train "$work/whole")
# A run that ends before its kill is compared, and another begins, until there were so many kills.
killed=0 round=0 ended=0
while [ "$killed" -lt "$kills" ] && [ "$round" -lt $((20 * kills)) ]; do
    resume=
    [ -f "$work/torn/latest" ] && resume=--resume
    # shellcheck disable=SC2086
    train "$work/torn" $resume & pid=$!
    # From 0.1 to 1.6 s: in the middle of steps, saves and starts.
    sleep "$(awk -v r="$round" 'BEGIN { srand(r); printf "%.2f", 0.1 + 1.5 * rand() }')"
    kill -KILL "$pid" 2> /dev/null || true
    status=0
    wait "$pid" 2> /dev/null || status=$?
    round=$((round + 1))
    if [ "$status" = 137 ]; then
        killed=$((killed + 1))
    elif [ "$status" = 0 ]; then
        cmp "$work/whole/model.safetensors" "$work/torn/model.safetensors"
        ended=$((ended + 1))
        rm -rf "$work/torn"
        mkdir "$work/torn"
    else
        echo "the run ended with $status" >&2
        exit 1
    fi
done
resume=
[ -f "$work/torn/latest" ] && resume=--resume
# shellcheck disable=SC2086
(train "$work/torn" $resume)
cmp "$work/whole/model.safetensors" "$work/torn/model.safetensors"
echo "killed $killed times in $((ended + 1)) runs; the models are equal"
[ "$killed" = "$kills" ]
