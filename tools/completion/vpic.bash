# bash completion for vpic; tests/cli_docs.sh compares it with vpic --help.
_vpic()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local common='-q -v --version --help' words=
    COMPREPLY=()
    case $prev in
    --threads | --pictures | --sheet-bpp) return ;;
    --peers)
        COMPREPLY=($(compgen -W 'all none jpeg webp avif jxl half-jpeg half-webp' -- "$cur"))
        return
        ;;
    esac
    case ${COMP_WORDS[1]} in
    compare) words="--threads --json $common" ;;
    bench) words="--peers --pictures -o --sheet --sheet-bpp --csv --threads -f --json $common" ;;
    *)
        words='--version --help'
        [[ $COMP_CWORD == 1 ]] && words="compare bench $words"
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
