# bash completion for vpic; tests/cli_docs.sh compares it with vpic --help.
_vpic()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local common='-q -v --version --help' words=
    COMPREPLY=()
    case $prev in
    --device)
        COMPREPLY=($(compgen -W 'auto cpu cuda' -- "$cur"))
        return
        ;;
    --threads | --pictures | --sheet-bpp | --quality | --bpp | --size | --slices | --seed | \
        --memory | --region | --max-pixels) return ;;
    --tile)
        COMPREPLY=($(compgen -W '256 512 1024 2048 4096' -- "$cur"))
        return
        ;;
    --peers)
        COMPREPLY=($(compgen -W 'all none jpeg webp avif jxl half-jpeg half-webp' -- "$cur"))
        return
        ;;
    esac
    case ${COMP_WORDS[1]} in
    c)
        words="-o --quality --bpp --size --model --slices --sampled --seed --tile --drop-metadata
            --memory --threads --device -f --json $common"
        ;;
    d)
        words="-o --model --region --slices --lenient --max-pixels --memory --threads --device -f --json
            $common"
        ;;
    info) words="--json $common" ;;
    compare) words="--lpips --dists --threads --json $common" ;;
    bench) words="--model --apart --others-only --peers --pictures -o --sheet --sheet-bpp --csv --threads -f --json $common" ;;
    *)
        words='--version --help'
        [[ $COMP_CWORD == 1 ]] && words="c d info compare bench $words"
        ;;
    esac
    if [[ $cur == -* || $COMP_CWORD == 1 ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
        compopt -o filenames 2> /dev/null
    fi
}
complete -F _vpic vpic
