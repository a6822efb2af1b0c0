#!/bin/sh
# cli_gpu.sh - tools/gpu.sh and fovea bench gpu: what they do without a device, and on the emulator of
# the tests in place of one, at tiny sizes.
#
# FOVEA names the program.
set -u
: "${FOVEA:?path of fovea}"
. "$(dirname "$0")/shell_checks.sh"
export OMP_WAIT_POLICY=passive
script=$tests/../tools/gpu.sh
emulated=$(dirname "$FOVEA")/../tests/emulated

# ---- Without ---------------------------------------------------------------------------------------

may_have_device() {
    for file in /dev/nvidia* /proc/driver/nvidia/version /usr/local/nvidia/lib64 /dev/dxg; do
        if [ -e "$file" ]; then return 0; fi
    done
    ldconfig -p 2> /dev/null | grep -q 'libcuda\.so'
}
# The script's own words are its messages.
says() { # name, code, pattern, arguments
    name=$1 want=$2 pattern=$3
    shift 3
    run env -u LD_LIBRARY_PATH sh "$script" "$@"
    [ $? = "$want" ] && cat out err | grep -q -e "$pattern"
    ok $? "$name"
}
if may_have_device; then
    skip the_script_without_a_device "there may be one"
    skip the_bench_without_a_device "there may be one"
else
    says the_script_without_a_device 0 '^no CUDA device: nothing was run$'
    says the_script_without_a_device_in_json 0 '"device": null' --json
    refuse the_bench_without_a_device 1 'no CUDA device' env -u LD_LIBRARY_PATH "$FOVEA" bench gpu
fi
says the_script_has_help 0 'gpu.sh pack FOLDER' --help
says unknown_options 2 'unknown' --fast
says unknown_parts 2 'there are tests' --only speed
says a_pack_needs_a_folder 2 'folder is missing' pack
mkdir mine && echo mine > mine/file
says a_folder_of_others_is_not_packed 1 'not a pack' pack mine
refuse unknown_parts_of_the_bench 2 'there are ops' "$FOVEA" bench gpu --only speed

# ---- On the emulator -------------------------------------------------------------------------------

# Beside the program lies the real module, which would be found first.
mkdir -p emulated/bin && cp "$FOVEA" emulated/bin/
on_emulator() { env LD_LIBRARY_PATH="$emulated" emulated/bin/fovea bench gpu --small --seconds 0.01 "$@"; }
if ! [ -f "$emulated/libfovea_cuda.so" ]; then
    skip on_the_emulator "built without it"
else
    expect ops_run 0 on_emulator --only ops --json
    json_ok out device cases bf16_flop_per_second; ok $? ops_are_json
    for op in copy product 'linear qkv' attention norm_mod gate_res 'conv 3x3' \
        'adamw, norm and average' 'integer product'; do
        grep -q "^{\"name\": \"$op\"" out; ok $? "op_$(echo "$op" | tr ' ,' '__')_has_a_line"
    done
    awk '/^{"name"/ && !/"seconds": [0-9.e-]*[1-9]/ { bad = 1 } END { exit bad }' out
    ok $? every_op_took_time
    expect engines_run 0 on_emulator --only ar --only vzip
    grep -q '^ar-nano decoding .*tokens/s' out; ok $? decoding_is_told
    grep -q '^unvzip -3, device .*MB/s' out; ok $? text_comes_back
fi
finish
