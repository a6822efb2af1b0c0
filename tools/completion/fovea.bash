# bash completion for fovea; tests/cli_docs.sh compares it with fovea --help.
_fovea()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local common='--version --help -q -v' words=
    COMPREPLY=()
    case $prev in
    --device) words='auto cpu cuda' ;;
    --precision)
        words='f32 bf16'
        [[ ${COMP_WORDS[2]} == ar* ]] && words='f32 bf16 int8'
        ;;
    --clock) words='wall cpu' ;;
    --type | --kv) words='f32 bf16 int8' ;;
    --method) words='uniform shortgpt learned' ;;
    --importance) words='magnitude diff' ;;
    --loss) words='none out feat lift place' ;;
    --only) words='ops dit sample ar vpic vzip' ;;
    --sampler) words='ddpm ddim dpmpp2m euler heun' ;;
    --preset | new) words='F32 F64c F64 F128 F128L DiT-S/2 DiT-B/2 DiT-L/2 DiT-XL/2' ;;
    bench) words='gemm dit train distill quality speedup accel ar ar-speed vzip pic pic-speed sr gpu ranks' ;;
    --set | --blocks | --keep | --width | --student-blocks | --data | --seed | --classes | --rows | --batch | --steps | --seconds | --threads | --cfg | \
        --samples | --speedup | --runs | --methods | --pictures | --sheet-bpp | --max-loss | --start-step | --slices | --ranks | --levels | --peers | --vzip-mib | -T) return ;;
    -o | --teacher | --student | --run | --vae | --init | --classifier | --recipe | --table | --data-dir | --plot | --csv | \
        --schedule | --sheet | --real | --store | --dit | --vpic)
        COMPREPLY=($(compgen -f -- "$cur"))
        compopt -o filenames 2> /dev/null
        return
        ;;
    esac
    if [[ -n $words && $cur != -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        return
    fi
    local machine='--threads --device --precision'
    case ${COMP_WORDS[1]} in
    train) words="-o --resume --set --data-dir --init --start-step --slices --threads --device --json $common" ;;
    convert) words="-o --vae --tokenizer --draft --base --context --prune --grid --weights --type -f $common" ;;
    new) words="-o --seed --classes -f --threads $common" ;;
    prune) words="-o --blocks --method --keep --width --importance --samples --steps --seed --type -f --threads --json $common" ;;
    distill) words="-o --teacher --student-blocks --prune --student --vae --loss --data --data-dir --run --resume
            --set --slices -f --threads --device --json $common" ;;
    bench)
        words="--preset --rows --with-conditioning --batch --steps --seconds $machine --json $common"
        [[ ${COMP_WORDS[2]} == quality ]] && words="--classifier --recipe --data-dir --samples
            --batch --speedup --plan-in --table --steps --sampler --cfg --seed $machine --json $common"
        [[ ${COMP_WORDS[2]} == speedup ]] && words="--speedup --samples --runs --batch --table
            --plot --csv --steps --sampler --cfg --seed -f $machine --json $common"
        [[ ${COMP_WORDS[2]} == accel ]] && words="--speedup --methods --samples --runs --batch
            --clock --table --classifier --plot --schedule --sheet --csv --steps --sampler --cfg --seed -f $machine
            --json $common"
        [[ ${COMP_WORDS[2]} == ar ]] && words="--methods --samples --seed --cfg --batch --runs
            --pictures --clock --classifier --real --data-dir --plot --sheet --csv --store --max-loss
            --kv -f $machine --json $common"
        [[ ${COMP_WORDS[2]} == ar-speed ]] &&
            words="--tokens --rounds --cfg --kv --clock $machine --json $common"
        [[ ${COMP_WORDS[2]} == pic-speed ]] &&
            words="--model --rounds --quality --threads --device --json $common"
        [[ ${COMP_WORDS[2]} == sr ]] && words="--model --degraded --pictures --side --clips --rounds
            --lpips --dists --csv --sheet -f $machine --json $common"
        [[ ${COMP_WORDS[2]} == distill ]] &&
            words="--student-blocks --set --batch --steps --rounds $machine --json $common"
        [[ ${COMP_WORDS[2]} == gpu ]] &&
            words="--only --dit --vpic --seconds --vzip-mib --quick --small --threads --json $common"
        [[ ${COMP_WORDS[2]} == ranks ]] &&
            words="--ranks --steps --rounds --set --data-dir --threads --json $common"
        [[ ${COMP_WORDS[2]} == vzip ]] &&
            words="--levels --peers -T --threads --each -o --csv -f --json $common"
        [[ ${COMP_WORDS[2]} == pic ]] && words="--model --apart --others-only --peers --pictures -o --sheet --sheet-bpp --csv
            --threads -f --json $common"
        ;;
    *)
        words='--version --help'
        [[ $COMP_CWORD == 1 ]] && words="train convert new prune distill bench $words"
        ;;
    esac
    if [[ $cur == -* || $COMP_CWORD == 1 ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
        compopt -o filenames 2> /dev/null
    fi
}
complete -F _fovea fovea
