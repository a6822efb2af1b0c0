#!/bin/sh
# deps.sh [--test | --full] - install what fovea is built from (Debian and Ubuntu; root or sudo).
#
# Does nothing when all is there, so it works without network then. --test adds what some tests use
# (a C++ compiler, mandoc, Open MPI), --full also clang with OpenMP and libFuzzer; a failure to install these
# is only reported, since such tests are skipped.
set -eu

needed='gcc libc6-dev cmake ninja-build pkg-config libdnnl-dev libpng-dev libjpeg-dev libwebp-dev
        zlib1g-dev liblzma-dev libzstd-dev libxxhash-dev libkissfft-dev'
wanted=
case ${1:-} in
--test) wanted='g++ mandoc libopenmpi-dev openmpi-bin' ;;
--full) wanted='g++ mandoc libopenmpi-dev openmpi-bin clang libomp-dev libclang-rt-dev' ;;
'') ;;
*) echo "usage: deps.sh [--test | --full]" >&2; exit 2 ;;
esac

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
    cat << 'EOF'
deps: not a Debian system. Needed: a C11 compiler with OpenMP, CMake 3.18, Ninja or make, pkg-config,
and with headers: oneDNN 2 or 3, libpng, libjpeg, libwebp, zlib, liblzma, libzstd, libxxhash, kissfft (float). Going on with what is there.
EOF
    exit 0
fi

# Of the packages named, those that are not installed. pkgconf stands in for pkg-config.
missing() {
    for package; do
        case $package in
        pkg-config) command -v pkg-config > /dev/null && continue ;;
        esac
        status=$(dpkg-query -W -f '${Status}' "$package" 2> /dev/null || true)
        [ "$status" = 'install ok installed' ] || printf '%s ' "$package"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
    echo "deps: apt-get install $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

need=$(missing $needed)
want=$(missing $wanted)
if [ -z "$need$want" ]; then
    echo "deps: all packages are installed"
    exit 0
fi
if [ "$(id -u)" != 0 ] && ! command -v sudo > /dev/null; then
    echo "deps: missing: $need$want" >&2
    echo "deps: run as root: apt-get install $need$want" >&2
    [ -z "$need" ]
    exit
fi
echo "deps: apt-get update"
as_root apt-get update -q || echo "deps: the package lists could not be refreshed; trying the old ones"
if [ -n "$need" ]; then install_packages $need; fi
for package in $want; do
    install_packages "$package" || echo "deps: no $package: some tests will be skipped"
done
