# bash completion for gen; tests/cli_docs.sh compares it with gen --help.
_gen()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local common='--version --help -q -v' words=
    COMPREPLY=()
    case $prev in
    --device) words='auto cpu cuda' ;;
    --precision) words='f32 bf16 fp8 int8' ;;
    --kv) words='f32 bf16 int8' ;;
    --mode) words='ar sd vvs jacobi' ;;
    --sampler) words='ddpm ddim dpmpp2m euler heun' ;;
    --class) words='all' ;;
    --fdu) words='lerp gain lock ref paper off' ;;
    --raw) words='rgb24 rgb48le gbrp' ;;
    --depth) words='8 16 same' ;;
    --alpha-filter) words='bicubic nearest' ;;
    --accel) words='dpx soda soda-paper dcs fixed fora toca duca taylorseer teacache rfc speca clusca cem' ;;
    -n | --seed | --steps | --cfg | --speedup | --guard | --threads | --draws) return ;;
    --scale | --out-size | --detail | --tile | --overlap | --window | --mem | --quality | --size) return ;;
    --fps | --scene-cut) return ;;
    --polish | --cache-mem | --temperature | --top-k | --top-p) return ;;
    -o | --model | --decoder | --tokenizer | --caption | --table | --plan-in | --plan-out | --side-by-side | --png | --reference | --lpips | --dists)
        COMPREPLY=($(compgen -f -- "$cur"))
        compopt -o filenames 2> /dev/null
        return
        ;;
    esac
    if [[ -n $words ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        return
    fi
    local sampling='--steps --sampler --cfg' machine='--threads --device --precision'
    case ${COMP_WORDS[1]} in
    sr)
        words="--model -o --scale --out-size --steps --speedup --detail --fdu --tile --overlap
            --tile-exact --window --mem --depth --alpha-filter --quality --compare --reference
            --lpips --dists --frames --y4m --raw --size --fps --scene-cut --keep-going -f $machine
            --json $common"
        ;;
    info) words="--devices --precision --json $common" ;;
    calibrate) words="-o $sampling --draws --quick --seed -f $machine $common" ;;
    explain) words="--model --speedup -n $sampling --table --png -f --json $machine $common" ;;
    *)
        words="--model --class -n --seed $sampling --speedup --compare --side-by-side --table
            --accel --polish --cache-mem --guard --plan-out --plan-in --decoder --mode
            --temperature --top-k --top-p --kv --tokenizer --caption -o --grid -f $machine
            --json $common"
        [[ $COMP_CWORD == 1 ]] && words="info calibrate explain sr $words"
        ;;
    esac
    if [[ $cur == -* || $COMP_CWORD == 1 ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
        compopt -o filenames 2> /dev/null
    fi
}
complete -F _gen gen
