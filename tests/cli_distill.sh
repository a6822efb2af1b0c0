#!/bin/sh
# cli_distill.sh - fovea prune and fovea distill: from a tiny random teacher to students that gen runs,
# what is said about them, resuming, and what is refused.
set -u
: "${FOVEA:?path of fovea}" "${GEN:?path of gen}"
. "$(dirname "$0")/shell_checks.sh"
export OMP_WAIT_POLICY=passive
data=$tests/data

"$FOVEA" new F32 --classes 2 -o teacher.safetensors > /dev/null 2>&1; ok $? a_teacher_with_random_weights

# ---- prune ----
expect prune_by_number 0 "$FOVEA" prune teacher.safetensors --blocks 2 -o two.safetensors
grep -q "blocks 0 7 of 8" err; ok $? prune_says_what_stays
expect prune_student_draws 0 "$GEN" --model two.safetensors --steps 2 --class 1 -o two.png
is_png two.png; ok $? prune_student_draws_a_picture
expect prune_by_list_and_width 0 "$FOVEA" prune teacher.safetensors --keep 1,4 --width 0.34 \
    --importance diff --samples 2 --threads 1 --json -o thin.safetensors
json_ok out depth blocks heads hidden parameters teacher_parameters files; ok $? prune_json_is_an_object
grep -q '"blocks": \[1, 4\]' out && grep -q '"heads": 1,' out; ok $? prune_json_says_what_stays
expect prune_thin_student_draws 0 "$GEN" --model thin.safetensors --steps 2 -o thin.png
expect prune_by_influence 0 "$FOVEA" prune teacher.safetensors --blocks 7 --method shortgpt \
    --samples 2 --threads 1 --json -o seven.safetensors
json_ok out influence; ok $? prune_json_has_influences
expect prune_by_learning 0 "$FOVEA" prune teacher.safetensors --blocks 3 --method learned --samples 2 \
    --steps 2 --threads 1 --json -o three.safetensors
json_ok out influence && grep -q '"depth": 8' out; ok $? prune_json_has_chances
expect prune_learned_student_draws 0 "$GEN" --model three.safetensors --steps 2 -o three.png
refuse prune_does_not_overwrite 1 "two.safetensors" "$FOVEA" prune teacher.safetensors --blocks 2 \
    -o two.safetensors
refuse prune_needs_something_to_cut 2 "--blocks" "$FOVEA" prune teacher.safetensors -o x.safetensors
refuse prune_refuses_to_keep_everything 2 "nothing is to go" "$FOVEA" prune teacher.safetensors \
    --blocks 8 -o x.safetensors
refuse prune_refuses_two_lists 2 "exclude" "$FOVEA" prune teacher.safetensors --blocks 2 --keep 1 \
    -o x.safetensors
refuse prune_refuses_a_bad_list 2 "1,x" "$FOVEA" prune teacher.safetensors --keep 1,x -o x.safetensors
refuse prune_refuses_a_block_beyond 2 "block 8" "$FOVEA" prune teacher.safetensors --keep 8 \
    -o x.safetensors
echo text > text.safetensors
refuse prune_refuses_garbage 3 "text.safetensors" "$FOVEA" prune text.safetensors --blocks 1 \
    -o x.safetensors

# ---- distill: two steps on the committed photos ----
distill() { # student, more options
    out=$1
    shift
    # shellcheck disable=SC2086 # words of their own
    ${within:-} "$FOVEA" distill --teacher teacher.safetensors --data clothing --data-dir "$data" -o "$out" \
        --set steps=2 --set batch=2 --set split=0 --set eval_batches=0 --set flip=0 \
        --set workers=-1 --set precision=f32 --set log_every=1 --set save_every=1 \
        --set sample_every=2 --set sample_columns=1 --set "$classes" --threads 1 "$@"
}
# Two of the folders, under the names of the teacher's classes: it has none, so order counts.
set -- "$data"/clothing/*/
classes="classes=$(basename "$1"):0,$(basename "$2"):1"
expect distill_one_command 0 distill student.safetensors --student-blocks 2 --loss place --json
json_ok out step loss metric seconds files; ok $? distill_json_is_an_object
expect distill_student_draws 0 "$GEN" --model student.safetensors --steps 2 -o student.png
is_png student.png; ok $? distill_student_draws_a_picture
head -n 1 student-run/metrics.csv | grep -q 'seconds,diff,kd,feat,coarse,fine,w,m$'
ok $? distill_logs_the_terms
is_png student-run/sample-00000002.png; ok $? distill_makes_samples
expect distill_other_size 0 distill small.safetensors --loss feat --set student_width=64 \
    --set student_depth=1 -q
expect distill_pruned_by_words 0 distill slim.safetensors --prune 'keep=0,5 width=0.5' --loss out -q
expect distill_from_a_model 0 distill again.safetensors --student two.safetensors --loss lift -q
meta() { head -c 20000 "$1" | grep -a -o '"fovea\.prune\.[^,]*:"[^"]*"'; }
meta two.safetensors > was && meta again.safetensors > now
grep -q 'blocks":"0,7"' was && cmp was now; ok $? what_was_pruned_is_still_said

# A run of one step that goes on ends as one of two.
expect distill_first_half 0 distill part.safetensors --student-blocks 2 --set steps=1 \
    --set schedule=constant --set warmup=0 -q
expect distill_second_half 0 distill part.safetensors --student-blocks 2 \
    --set schedule=constant --set warmup=0 --resume -q
expect distill_at_once 0 distill whole.safetensors --student-blocks 2 \
    --set schedule=constant --set warmup=0 -q
cmp part.safetensors whole.safetensors; ok $? distill_resumes_exactly

refuse distill_needs_a_teacher 2 "--teacher" "$FOVEA" distill -o x.safetensors
refuse distill_needs_a_student 2 "none is given" distill x.safetensors
refuse distill_refuses_two_students 2 "exclude" distill x.safetensors --student-blocks 1 \
    --student two.safetensors
refuse distill_does_not_overwrite 1 "two.safetensors" distill two.safetensors --student-blocks 1
refuse distill_refuses_unknown_keys 3 "prune_widht" distill x.safetensors \
    --prune "blocks=2 widht=0.5"
# Before blocks are learned, which would take days here.
slow="blocks=2 method=learned steps=1000000 samples=100000"
within="timeout 100"
refuse distill_knows_its_keys_before_slow_work 3 "unknown key shcedule" distill x.safetensors \
    --prune "$slow" --set shcedule=cosine
refuse distill_knows_an_optimiser_key_before_slow_work 3 "did you mean beta1" distill x.safetensors \
    --prune "$slow" --set btea1=0.9
refuse distill_knows_its_values_before_slow_work 2 "weight_decay = much" distill x.safetensors \
    --prune "$slow" --set weight_decay=much
refuse distill_knows_its_rates_before_slow_work 2 "lr must be" distill x.safetensors --prune "$slow" \
    --set lr=0
refuse distill_knows_its_averages_before_slow_work 2 "ema_decay" distill x.safetensors \
    --prune "$slow" --set ema=1
refuse distill_knows_its_data_before_slow_work 1 "nothing.tar" distill x.safetensors \
    --prune "$slow" --data nothing.tar
within=

# ---- models that a recipe names: in its folder, else in the working directory ----
mkdir there
cp teacher.safetensors there/own.safetensors
cp two.safetensors there/start.safetensors
cp text.safetensors own.safetensors # not this one
named() { # teacher, student, output, more options
    printf 'teacher = %s\nstudent = %s\n' "$1" "$2" > there/named.recipe
    out=$3
    shift 3
    "$FOVEA" distill there/named.recipe --data clothing --data-dir "$data" -o "$out" --set steps=1 \
        --set batch=1 --set split=0 --set eval_batches=0 --set workers=-1 --set precision=f32 \
        --set sample_every=0 --set "$classes" --threads 1 -q "$@"
}
expect recipe_names_models_in_its_folder 0 named own.safetensors start.safetensors n1.safetensors
expect recipe_names_models_in_the_working_directory 0 named teacher.safetensors two.safetensors \
    n2.safetensors
cmp n1.safetensors n2.safetensors; ok $? they_are_the_same_models
expect recipe_names_whole_paths 0 named "$work/teacher.safetensors" "$work/there/start.safetensors" \
    n3.safetensors
refuse options_name_models_in_the_working_directory 3 "own.safetensors" named own.safetensors \
    start.safetensors x.safetensors --teacher own.safetensors
refuse so_does_set 3 "own.safetensors" named own.safetensors start.safetensors x.safetensors \
    --set teacher=own.safetensors
expect an_option_replaces_what_the_recipe_names 0 named text.safetensors two.safetensors \
    n4.safetensors --teacher teacher.safetensors

# ---- an official DiT, on latents ----
"$FOVEA" new DiT-S/8 --classes 3 -o noise.safetensors > /dev/null 2>&1
expect official_with_a_decoder 0 "$FOVEA" convert noise.safetensors -o official.safetensors \
    --vae "$tests/parity/taesd_decoder_small.safetensors"
latent() { # student, more options
    out=$1
    shift
    distill "$out" --teacher official.safetensors --set sample_every=0 -q "$@"
}
encoder=$tests/parity/taesd_encoder_small.safetensors
was=$classes
classes="classes=$(basename "$1"):2,$(basename "$2"):0"
expect official_is_pruned 0 "$FOVEA" prune official.safetensors --blocks 2 -o cut.safetensors
expect official_student_of_a_file 0 latent l1.safetensors --student cut.safetensors --vae "$encoder"
expect official_student 0 latent l2.safetensors --student-blocks 2 --vae "$encoder"
expect official_student_draws 0 "$GEN" --model l2.safetensors --steps 2 -o l2.png
is_png l2.png; ok $? official_student_draws_a_picture
head -n 1 l2-run/metrics.csv | grep -q 'm,vb,vb_kd$'; ok $? official_logs_the_bounds
refuse official_needs_an_encoder 3 "no encoder" latent x.safetensors --student-blocks 2
refuse official_refuses_other_files_as_encoder 3 "AutoencoderKL" latent x.safetensors \
    --student-blocks 2 --vae two.safetensors
refuse only_official_takes_a_vae 2 "takes no vae" distill x.safetensors --student-blocks 2 \
    --vae "$encoder"
classes=$was

# ---- what the losses cost ----
mkdir scratch
costs() { env TMPDIR="$PWD/scratch" "$FOVEA" bench distill "$@" --batch 2 --steps 3 --rounds 1 --threads 1; }
expect bench_distill_json 0 costs teacher.safetensors --student-blocks 2 --json -q
json_ok out teacher iteration_seconds squared_error_seconds lift_percent place_percent place_seconds
ok $? bench_distill_json_is_an_object
[ -z "$(ls scratch)" ]; ok $? bench_distill_leaves_nothing
refuse bench_distill_needs_a_student 2 "none is given" costs teacher.safetensors
refuse bench_distill_needs_a_teacher 1 "missing.safetensors" costs missing.safetensors

refuse train_names_the_verb_of_such_recipes 3 "use fovea distill" "$FOVEA" train \
    "$tests"/../distill/recipes/f64c_tiny.recipe -o x-run
refuse distill_needs_data 2 "give data" "$FOVEA" distill --teacher teacher.safetensors \
    --student-blocks 1 -o x.safetensors
for recipe in "$tests"/../distill/recipes/*.recipe; do
    run "$FOVEA" distill "$recipe" --teacher teacher.safetensors --data nothing.tar -o x.safetensors \
        --set prune_blocks=2 --set student_width=0 --set student_depth=0 --set prune_width=0
    grep -q "nothing.tar" err; ok $? "recipe_reads_until_its_data $(basename "$recipe")"
done
finish
