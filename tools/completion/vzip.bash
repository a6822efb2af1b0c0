# bash completion for vzip; tests/cli_docs.sh compares it with vzip --help.
_vzip()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local common='-q -v --version --help' words=
    local code='-o -c --stdout -k --keep --rm -f -r --recursive -N --name -n --no-name -T --threads -M --memory --device'
    COMPREPLY=()
    case $prev in
    --level | -T | --threads | -M | --memory | --block-size | --max-output | --levels | --name | --id | --time) return ;;
    --device)
        COMPREPLY=($(compgen -W 'auto cpu cuda' -- "$cur"))
        return
        ;;
    --size)
        COMPREPLY=($(compgen -W 'dict t0 t1 t2' -- "$cur"))
        return
        ;;
    --peers)
        COMPREPLY=($(compgen -W 'all none zstd xz brotli bzip3 zpaq lrzip flac cwebp cjxl' -- "$cur"))
        return
        ;;
    esac
    local pack='--level --ultra --block-size --long --verify --no-neural --no-prime --model'
    local unpack='--max-output --keep-broken --recover --model'
    case ${COMP_WORDS[1]} in
    c) words="$code $pack $common" ;;
    d) words="$code $unpack $common" ;;
    t) words="-r --recursive -T --threads -M --memory --device --max-output --model $common" ;;
    l) words="-r --recursive --model --json $common" ;;
    models) words="--json $common" ;;
    train) words="-o --size --time --resume --texts --network --name --id -f --threads --json $common" ;;
    bench) words="--levels --peers -T --threads --each -o --csv -f --json $common" ;;
    *)
        words="-d --decompress -t --test -l --list $code $pack $unpack --json $common"
        [[ $COMP_CWORD == 1 ]] && words="c d t l models train bench $words"
        ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        return
    fi
    [[ $COMP_CWORD == 1 ]] && COMPREPLY=($(compgen -W "$words" -- "$cur"))
    COMPREPLY+=($(compgen -f -- "$cur"))
    compopt -o filenames 2> /dev/null
}
complete -F _vzip vzip vunzip vzcat
