# rdvq_stages.sh - what the scripts that train RDVQ share; sourced with `data` and `out` set, from the
# top of the tree. Stopped, they go on where they were. GNU tar.
here=codec/recipes
fovea=${FOVEA:-build/release/bin/fovea}

# Photos and clothing as the recipes name them, without the photos that the tests code.
select_data() {
    [ ! -f "$out/data/photos/photos1024.tar" ] || return 0
    rm -rf "$out/data"
    mkdir -p "$out/data/photos" "$out/data/all"
    ln -s "$(cd "$data/classes" && pwd)" "$out/data/classes"
    tar -xf "$data/photos/photos1024.tar" -C "$out/data/all" --exclude='budgie_000_*' \
        --exclude='budgie_004_*' --exclude='budgie_005_*' --exclude='budgie_009_*'
    (cd "$out/data/all" && find . -type f | sed 's|^\./||' | LC_ALL=C sort) |
        tar -cf "$out/data/part" -C "$out/data/all" --verbatim-files-from -T -
    rm -rf "$out/data/all"
    mv "$out/data/part" "$out/data/photos/photos1024.tar"
}

# stage NAME RECIPE FROM [--set ...]: from where it was stopped, else from the model of FROM.
stage() {
    name=$1
    recipe=$2
    from=$3
    shift 3
    [ ! -f "$out/$name/model.safetensors" ] || return 0
    if [ -n "$(find "$out/$name" -name 'ckpt-*.safetensors' 2> /dev/null)" ]; then
        set -- --resume "$@"
    elif [ "$from" != - ]; then
        set -- --init "$out/$from/model.safetensors" "$@"
    fi
    "$fovea" train "$here/$recipe" --data-dir "$out/data" --threads 1 -o "$out/$name" "$@"
}

# shipped NAME FILE: the model of a stage as int8.
shipped() {
    "$fovea" convert "$out/$1/model.safetensors" --type int8 -f -o "$2"
}

mkdir -p "$out"
select_data
