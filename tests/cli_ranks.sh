#!/bin/sh
# cli_ranks.sh - fovea train and fovea distill under mpirun: two ranks make the model that one makes,
# what they send, what is refused, and the loss of a rank. Engines: dit, distill, vq and pssr.
set -u
: "${FOVEA:?path of fovea}"
. "$(dirname "$0")/shell_checks.sh"
export OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
data=$tests/data

# A network that takes milliseconds a step.
train() { # folder, more options
    out=$1
    shift
    "$FOVEA" train "$data/clothing.recipe" --data-dir "$data" -o "$out" --set steps=4 --set depth=1 \
        --set width=64 --set batch=4 --set precision=f32 --set schedule=constant --set warmup=0 \
        --set sample_every=0 --set log_every=1 --set workers=-1 --threads 1 "$@"
}

# Without the module nothing may start: each rank would train the whole batch.
mkdir alone_bin && cp "$FOVEA" alone_bin/fovea
refuse a_build_without_mpi_says_so 1 "FOVEA_MPI" env OMPI_COMM_WORLD_SIZE=2 \
    alone_bin/fovea train "$data/clothing.recipe" -o none
expect alone_under_a_launcher_needs_no_module 0 env OMPI_COMM_WORLD_SIZE=1 \
    alone_bin/fovea train "$data/clothing.recipe" --data-dir "$data" \
    -o alone --set steps=1 --set depth=1 --set width=64 --set batch=2 --set sample_every=0 \
    --slices 2 --threads 1 -q
refuse slices_are_a_power_of_two 3 "slices = 3" "$FOVEA" train "$data/clothing.recipe" \
    --data-dir "$data" -o none --slices 3

why=
[ -z "${SANITIZED:-}" ] || why='MPI has leaks of its own'
mpirun --version 2> /dev/null | grep -q 'Open MPI' || why='no mpirun of Open MPI'
[ -f "$(dirname "$FOVEA")/libfovea_mpi.so" ] || why='built without MPI'
if [ -n "$why" ]; then
    for name in two_ranks_train the_bits_are_those_of_one_rank a_lost_rank_ends_the_run; do
        skip "$name" "$why"
    done
    finish
    exit
fi

cat > two << 'END'
#!/bin/sh
exec mpirun -q -n "${RANKS:-2}" --oversubscribe --bind-to none "$@"
END
chmod +x two
FOVEA_ONE=$FOVEA
printf '#!/bin/sh\nexec "%s/two" "%s" "$@"\n' "$work" "$FOVEA" > fovea_two
chmod +x fovea_two
with_two() { FOVEA=$work/fovea_two; "$@"; code=$?; FOVEA=$FOVEA_ONE; return $code; }
# Columns of step and loss, the loss to five digits.
losses() { awk -F, 'NR > 1 { printf "%d %.4g\n", $1, $2 }' "$1"; }

# ---- train ----
run train one
expect two_ranks_train 0 with_two train both --json
json_ok out step loss ranks gradient_bytes sent_bytes least_bytes other_bytes message_seconds
ok $? json_says_what_was_sent
number() { sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p" out; }
[ -n "$(number sent_bytes)" ] && [ "$(number sent_bytes)" = "$(number least_bytes)" ]
ok $? ranks_send_the_least_possible
[ "$(losses one/metrics.csv)" = "$(losses both/metrics.csv)" ]
ok $? losses_are_those_of_one_rank_but_for_rounding
run train slices_one --slices 4
expect two_ranks_with_slices 0 with_two train slices_two --slices 4
grep -q '2 ranks' err && [ "$(grep -c 'step 4' err)" = 1 ]; ok $? one_rank_speaks
cmp slices_one/model.safetensors slices_two/model.safetensors && cmp slices_one/ckpt-00000004.safetensors slices_two/ckpt-00000004.safetensors
ok $? the_bits_are_those_of_one_rank
expect a_batch_that_does_not_divide 3 with_two train odd --set batch=3
grep -q 'batch = 3' err && grep -q 'such as 4' err && [ "$(grep -c 'batch' err)" = 1 ]
ok $? it_says_what_to_change

# ---- ranks of a device each (emulated: of another process each, so that sums go over the host) ----
emulated=$(dirname "$FOVEA")/../tests/emulated
if [ -f "$emulated/libfovea_cuda.so" ]; then
    mkdir -p near/bin # where no module of a real device is
    cp "$FOVEA" "$(dirname "$FOVEA")/libfovea_mpi.so" near/bin/
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s/two" "%s/near/bin/fovea" "$@"\n' \
        "$emulated" "$work" "$work" > fovea_two_near
    chmod +x fovea_two_near
    FOVEA=$work/fovea_two_near
    expect two_ranks_of_devices_train 0 train near_both --device cuda
    FOVEA=$FOVEA_ONE
    [ "$(losses one/metrics.csv)" = "$(losses near_both/metrics.csv)" ]
    ok $? losses_are_those_of_a_cpu_but_for_rounding
else
    skip two_ranks_of_devices_train 'no emulated module'
fi

# ---- a rank is killed ----
"$work/fovea_two" train "$data/clothing.recipe" --data-dir "$data" -o torn --set steps=100000 \
    --set depth=1 --set width=64 --set batch=4 --set precision=f32 --set schedule=constant \
    --set warmup=0 --set sample_every=0 --set log_every=1 --set workers=-1 --set save_every=2 \
    --threads 1 --slices 4 > out 2> err < /dev/null &
launcher=$!
waited=0
while [ ! -f torn/latest ] && [ "$waited" -lt 600 ]; do sleep 0.1; waited=$((waited + 1)); done
ranks=$(ps -eo pid=,ppid= | awk -v p="$launcher" '$2 == p { print $1 }')
kill -KILL "$(echo "$ranks" | tail -n 1)"
wait "$launcher"
code=$?
[ "$code" != 0 ]; ok $? a_lost_rank_ends_the_run
# The launcher gives the others a moment to save, then ends them.
waited=0 alive=1
while [ "$alive" = 1 ] && [ "$waited" -lt 100 ]; do
    alive=0
    for pid in $ranks; do
        case $(ps -o stat= -p "$pid") in '' | Z*) ;; *) alive=1 ;; esac
    done
    sleep 0.1
    waited=$((waited + 1))
done
ok "$alive" no_rank_stays_behind
done=$(sed 's/ckpt-0*\([0-9]*\).*/\1/' torn/latest)
run train whole --slices 4 --set "steps=$((done + 2))"
expect one_rank_goes_on 0 train torn --slices 4 --set "steps=$((done + 2))" --resume
cmp torn/model.safetensors whole/model.safetensors; ok $? the_model_is_that_of_an_unbroken_run

# ---- distill: the weight w of PLACE is that of the whole batch ----
"$FOVEA" new F32 --classes 2 -o teacher.safetensors > /dev/null 2>&1
distill() { # name, more options
    out=$1
    shift
    "$FOVEA" distill --teacher teacher.safetensors --data clothing --data-dir "$data" \
        -o "$out.safetensors" --student-blocks 1 --loss place --set steps=2 --set batch=2 \
        --set split=0 --set eval_batches=0 --set workers=-1 --set precision=f32 --set log_every=1 \
        --set sample_every=0 --set "$classes" --threads 1 "$@"
}
set -- "$data"/clothing/*/
classes="classes=$(basename "$1"):0,$(basename "$2"):1"
run distill d1
expect two_ranks_distill 0 with_two distill d2
awk -F, 'NR > 1 { for (i = 1; i <= NF; i++) if (i != 6 && i != 7) printf "%.4g ", $i; print "" }' \
    d1-run/metrics.csv > terms1
awk -F, 'NR > 1 { for (i = 1; i <= NF; i++) if (i != 6 && i != 7) printf "%.4g ", $i; print "" }' \
    d2-run/metrics.csv > terms2
cmp terms1 terms2; ok $? terms_and_w_are_those_of_one_rank
run distill e1 --slices 2
expect two_ranks_distill_slices 0 with_two distill e2 --slices 2
cmp e1.safetensors e2.safetensors; ok $? distilled_bits_are_those_of_one_rank

# ---- a tokenizer: unused codes, and a discriminator whose weight is of the whole batch ----
cat > vq.recipe << 'END'
engine = vq
preset = vq-s8
image_size = 32
channels = 8
latent = 8
codes = 24
data = clothing
batch = 2
accumulate = 2
steps = 4
lr = 3e-3
split = 0
flip = 0
workers = -1
precision = f32
eval_pictures = 0
sample_every = 0
log_every = 1
restart_every = 2
restart_batches = 2
gan = 0.5
gan_from = 0.4
gan_channels = 8
gan_layers = 1
END
tokenizer() { "$FOVEA" train vq.recipe --data-dir "$data" --threads 1 -q -o "$1"; }
run tokenizer vq1
expect two_ranks_train_a_tokenizer 0 with_two tokenizer vq2
[ "$(losses vq1/metrics.csv)" = "$(losses vq2/metrics.csv)" ]
ok $? codes_and_the_discriminator_are_those_of_one_rank

# ---- super-resolution: clips of two frames, and a discriminator of what a draft makes of them ----
cat > sr.recipe << 'END'
engine = pssr
preset = nano-video
frames = 2
video = clothing/Dress
video_share = 0.5
data = clothing
crop = 32
batch = 4
steps = 3
lr = 2e-3
ema = 0.9
clean = 0.3
schedule = constant
warmup = 0
workers = -1
precision = f32
export = f32
eval_pictures = 0
log_every = 1
END
larger() { "$FOVEA" train sr.recipe --data-dir "$data" --threads 1 -q -o "$@"; }
draft() {
    out=$1
    shift
    larger "$out" --init sr1/model.safetensors --set stage=draft --set gan=5 --set gan_from=0 \
        --set gan_channels=8 --set gan_layers=1 "$@"
}
# The first gradient, of both networks; later ones tell what rounding did to small values (Adam).
norm() { awk -F, 'NR == 2 { printf "%.4g\n", $4 }' "$1"; }
run larger sr1
expect two_ranks_train_on_clips 0 with_two larger sr2
[ "$(losses sr1/metrics.csv)" = "$(losses sr2/metrics.csv)" ] &&
    [ "$(norm sr1/metrics.csv)" = "$(norm sr2/metrics.csv)" ]
ok $? frames_are_those_of_one_rank
run draft judged1
expect two_ranks_train_a_judged_draft 0 with_two draft judged2
[ "$(losses judged1/metrics.csv)" = "$(losses judged2/metrics.csv)" ] &&
    [ "$(norm judged1/metrics.csv)" = "$(norm judged2/metrics.csv)" ]
ok $? the_draft_and_its_judge_are_those_of_one_rank
run draft unjudged --set gan_from=1
[ "$(losses judged1/metrics.csv)" != "$(losses unjudged/metrics.csv)" ]; ok $? the_judge_has_a_say
run draft tree1 --slices 2 --set accumulate=2
expect two_ranks_train_a_judged_draft_in_slices 0 with_two draft tree2 --slices 2 --set accumulate=2
cmp tree1/model.safetensors tree2/model.safetensors &&
    cmp tree1/ckpt-00000003.safetensors tree2/ckpt-00000003.safetensors
ok $? super_resolution_has_the_bits_of_one_rank

# ---- bench ranks ----
bench="$FOVEA bench ranks vq.recipe --data-dir $data --set accumulate=1 --rounds 1 --threads 2"
expect bench_ranks_json 0 $bench --steps 6 --json -q
json_ok out ranks threads steps rounds threads_samples_per_s ranks_samples_per_s ratio
ok $? bench_ranks_has_its_keys
near "$(value ratio)" 0.000001 1000000; ok $? both_have_a_rate # what it is depends on cores
refuse threads_are_divided 2 "divided among 2 ranks" $bench --threads 3
refuse no_such_recipe 1 "none.recipe" "$FOVEA" bench ranks none.recipe
refuse a_training_that_fails_says_why 1 "lr" $bench --set lr=much
refuse so_do_ranks 1 "ranks' training: .*batch = 3" $bench --set batch=3
refuse so_does_the_launcher 1 "ranks' training: [^-]*[a-z]" env OMPI_MCA_plm=none $bench --steps 3
mkdir bench_files
run env TMPDIR="$work/bench_files" $bench --steps 3 -q
[ -z "$(ls -d bench_files/fovea-ranks-* 2> /dev/null)" ]; ok $? bench_leaves_nothing

# ---- what carries a state from step to step ----
printf 'engine = omnizip\ndata = clothing\n' > oz.recipe
expect omnizip_runs_alone 1 with_two "$work/fovea_two" train oz.recipe --data-dir "$data" -o oz
grep -q 'start it alone' err; ok $? it_says_why
finish
