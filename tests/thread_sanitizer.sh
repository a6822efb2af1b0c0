#!/bin/sh
# thread_sanitizer.sh FOLDER - the parts that use POSIX threads, under the thread sanitizer.
#
# libgomp is not instrumented and would give false reports, so this builds the data set and what it
# stands on without OpenMP and oneDNN; their hooks are replaced below, and what no picture needs of
# these files (trainers, losses) is left out by the linker.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
work=${1:?usage: thread_sanitizer.sh FOLDER}
mkdir -p "$work"
cat > "$work/hooks.c" << 'EOF'
#include "internal.h"
#include <omp.h>
fv_status fvi_backend_open(fv_ctx *ctx, fv_device device)
{
    (void)ctx;
    return device == FV_DEVICE_CUDA ? FV_ERR_DEVICE : FV_OK;
}
void fvi_backend_close(fv_ctx *ctx) { (void)ctx; }
int omp_get_num_procs(void) { return 2; }
EOF
cd "$top/kernels"
# shellcheck disable=SC2046
${CC:-cc} -std=c11 -O1 -g -fsanitize=thread -fno-omit-frame-pointer -Wno-unknown-pragmas \
    -ffunction-sections -fdata-sections -Wl,--gc-sections -D_POSIX_C_SOURCE=200809L \
    -D_FILE_OFFSET_BITS=64 -DFV_TEST_DIR="\"$top/tests\"" -I. -I../tests ../tests/test_dataset.c \
    "$work/hooks.c" dataset.c archive.c context.c convert.c file_atomic.c file_temp.c hash.c \
    image*.c json.c random.c recipe.c resize_windows.c train_recipe.c -o "$work/test_dataset" \
    $(pkg-config --cflags --libs libpng libjpeg libwebp zlib liblzma) -lm -lpthread
TSAN_OPTIONS=halt_on_error=1 "$work/test_dataset"
