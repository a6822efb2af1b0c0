#!/bin/sh
# cli_vzip_models.sh - model files of vzip as people use them: made, listed, given, found, missing,
# damaged.
#
# VZIP names the program. --full: a network is trained as well, which takes a minute.
set -u
: "${VZIP:?path of vzip}"
. "$(dirname "$0")/shell_checks.sh"
unset FOVEA_CORPORA VZIP_MODEL_PATH
contains() { grep -q -- "$1" out; ok $? "$2"; }
same() { cmp -s "$1" "$2"; ok $? "$3"; }

# ---- A model with the texts of vzip's own, but another name
own=$tests/../codec/models/default.vzm
expect make_from_texts 0 "$VZIP" train --texts "$own" -o other.vzm
refuse made_file_is_kept 1 other.vzm "$VZIP" train --texts "$own" -o other.vzm
expect made_anew_is_equal 0 "$VZIP" train --texts "$own" -o again.vzm --name other
same other.vzm again.vzm same_input_same_model
refuse train_needs_output 2 '-o' "$VZIP" train --texts "$own"
refuse train_needs_input 2 'which files' "$VZIP" train -o x.vzm
refuse train_texts_missing 1 nothing.vzm "$VZIP" train --texts nothing.vzm -o x.vzm
refuse train_network_is_none 3 other.vzm "$VZIP" train --texts "$own" --network other.vzm -o x.vzm

# ---- Archives that need it
seq 400 | sed 's/.*/The options are read from the command line & of them: all./' | head -c 900 > text
"$VZIP" -c text > own.vz
expect compress_with_model 0 "$VZIP" --model other.vzm -o text.vz text
expect decompress_with_model 0 "$VZIP" d --model other.vzm -o back text.vz
same text back comes_back
refuse decompress_without 3 '[0-9a-f]\{8\}-[0-9a-f]\{16\}\.vzm' "$VZIP" d -o back2 text.vz
[ ! -e back2 ]
ok $? nothing_is_left
expect test_with_model 0 "$VZIP" t --model other.vzm text.vz
refuse test_without 3 '\.vzm' "$VZIP" t text.vz
expect own_still_works 0 "$VZIP" t --model other.vzm own.vz
refuse model_and_no_prime 2 exclude "$VZIP" --model other.vzm --no-prime -o x.vz text
refuse model_missing 1 none.vzm "$VZIP" --model none.vzm -o x.vz text

# ---- Found by hash, whatever its name
mkdir -p shelf empty
mv other.vzm shelf/some-name.vzm
printf 'no model' > shelf/a.vzm
export VZIP_MODEL_PATH="$work/empty:nowhere::$work/shelf"
expect found_by_hash 0 "$VZIP" d -o back3 text.vz
same text back3 found_comes_back
expect found_in_a_pipe 0 sh -c '"$0" -dc < text.vz > back4' "$VZIP"
same text back4 pipe_comes_back
expect recover_finds_it 0 "$VZIP" d --recover -o back5 text.vz
same text back5 recovered
expect model_by_name 0 "$VZIP" --model some-name -o named.vz text
same named.vz text.vz named_is_the_same
expect list_knows_it 0 "$VZIP" l text.vz own.vz
contains ' other ' list_names_it
expect list_json 0 "$VZIP" l --json text.vz
contains '"model_name": "other"' json_names_it
contains '"model_missing": false' json_says_at_hand
unset VZIP_MODEL_PATH
expect list_without 0 "$VZIP" l text.vz
contains ' missing ' list_says_missing
expect list_with_model 0 "$VZIP" l --model shelf/some-name.vzm text.vz
contains ' other ' list_with_model_names_it
export VZIP_MODEL_PATH="$work/shelf"

# ---- vzip models
expect models_tells_damage 3 "$VZIP" models
[ "$(wc -l < err)" -eq 1 ] && grep -q 'a\.vzm' err
ok $? models_names_the_damaged
contains ' vzip$' models_lists_own
contains 'some-name.vzm$' models_lists_path
rm shelf/a.vzm
expect models_json 0 "$VZIP" models --json
contains '"name": "other"' models_json_names
unset VZIP_MODEL_PATH
expect models_of_folder 0 "$VZIP" models shelf
contains 'shelf/some-name.vzm' models_lists_folder
expect models_missing 1 "$VZIP" models nothing
[ "$(wc -l < err)" -eq 1 ] && grep -q nothing err
ok $? models_names_the_missing

# ---- Damage
head -c 300000 shelf/some-name.vzm > cut.vzm
refuse cut_model 3 cut.vzm "$VZIP" --model cut.vzm -o x.vz text
(head -c 200000 shelf/some-name.vzm; printf X; tail -c +200002 shelf/some-name.vzm) > bad.vzm
refuse damaged_model 3 checksum "$VZIP" --model bad.vzm -o x.vz text
mkdir damaged
cp bad.vzm damaged/
VZIP_MODEL_PATH=damaged "$VZIP" t text.vz > out 2> err
[ $? = 3 ] && grep -q 'not used' err
ok $? damaged_model_is_not_used

# ---- vzip train: texts of some files
mkdir data
i=0
while [ $i -lt 24 ]; do
    seq $((i * 37)) $((i * 41 + 90)) |
        sed "s/.*/sensor-& reports $i blorfs of 17; state: nominal, & snarks left./" > data/log$i.txt
    seq $((i * 5)) $((i * 5 + 60)) | sed 's/.*/<grault id="&"><waldo\/><!-- & --><\/grault>/' > data/$i.xml
    i=$((i + 1))
done
expect train_dict 0 "$VZIP" train data -o mine.vzm
grep -q '9 files held out' err
ok $? train_measures
sed -n 's/.*: \([0-9]*\) with vzip.s own model, \([0-9]*\) with.*/\1 \2/p' err > sizes
read -r before after < sizes && [ "$after" -lt "$before" ]
ok $? model_is_worth_it
expect train_again 0 "$VZIP" train data -o mine2.vzm --name mine --json
same mine.vzm mine2.vzm training_is_reproducible
contains '"held_files": 9' train_json
seq 900 950 | sed 's/.*/sensor-& reports 3 blorfs of 17; state: nominal, & snarks left./' > new.txt
expect compress_trained 0 "$VZIP" --model mine.vzm -o new.vz new.txt
expect decompress_trained 0 "$VZIP" d --model mine.vzm -o new.back new.vz
same new.txt new.back trained_comes_back
(cd data && tar cf ../data.tar .)
expect train_on_tar 0 "$VZIP" train data.tar -o tar.vzm -q
mkdir samples
for name in prose c script web data binary x86; do
    cat data/log1.txt data/2.xml > samples/$name.bin
    wc -c < data/log1.txt | tr -d ' ' > samples/$name.sizes
    wc -c < data/2.xml | tr -d ' ' >> samples/$name.sizes
done
expect train_on_samples 0 "$VZIP" train --texts samples -o samples.vzm
grep -q ' 7 texts' err
ok $? samples_are_texts
echo 5 >> samples/c.sizes
refuse samples_that_do_not_fit 3 c.sizes "$VZIP" train --texts samples -o x.vzm
mkdir nothing
refuse too_little_data 3 'too few' "$VZIP" train nothing -o x.vzm
refuse too_little_for_network 3 'use size dict' "$VZIP" train data --size t0 -o x.vzm
refuse network_needs_files 2 'needs files' "$VZIP" train --texts "$own" --size t0 -o x.vzm
refuse unknown_size 2 'dict|t0|t1|t2' "$VZIP" train data --size t9 -o x.vzm
refuse bad_time 2 '10m' "$VZIP" train data --time soon -o x.vzm
refuse bad_input 1 nowhere "$VZIP" train nowhere -o x.vzm
[ ! -e x.vzm ]
ok $? nothing_is_made

# ---- A network
if [ "${1:-}" = --full ]; then
    i=0
    while [ $i -lt 40 ]; do
        awk -v s=$i 'BEGIN {
            srand(1)
            for (k = 0; k < 3000; k++)
                for (n = 1 + rand() * 5; n > 0; n--)
                    w[k] = w[k] substr("babecidodufagehikolumeniroposatevivu", 1 + 2 * int(rand() * 18), 2)
            srand(s)
            for (n = 0; n < 6000; n++)
                printf "%s%s", w[int(3000 * rand() * rand() * rand())], rand() < 0.1 ? ".\n" : " "
        }' > data/t$i.txt
        i=$((i + 1))
    done
    timeout --preserve-status -s INT 7 "$VZIP" train data --size t0 --time 9s -o net.vzm > out 2> err
    [ $? = 130 ] && [ ! -e net.vzm ] && [ -d net.vzm.train ]
    ok $? training_is_interrupted
    expect training_goes_on 0 "$VZIP" train data --size t0 --time 9s --resume -o net.vzm
    grep -q 'bits per byte' err
    ok $? network_is_measured
    refuse training_is_not_repeated 1 resume "$VZIP" train data --size t0 --time 9s -o net.vzm -f
    expect compress_with_network 0 "$VZIP" --model net.vzm -o net.vz data/t4.txt
    expect decompress_with_network 0 "$VZIP" d --model net.vzm -o net.back net.vz
    same data/t4.txt net.back network_comes_back
else
    skip training_a_network "only with --full"
fi
finish
