/* fuzz_vz_whole.c - where the encoder cuts blocks: files in the input whose lengths lie.
 *
 * Byte 0: bit 0 level 6 (which looks at zip members), bit 1 references, bit 2 a memory limit, bit 3
 * the size is announced, bit 4 verify. Byte 1: bytes of a read, squared. Byte 2: bytes of a
 * block, in units of 64 above 8192. The rest is the script of the input (fuzz_vz_script.h).
 * What is written must come back. Of most inputs the first 32 KiB are coded, at level 1. */
#include "fuzz_ctx.h"
#include "fuzz_vz_script.h"
#include "vz_whole.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ROOM 49152
static uint8_t file[ROOM], archive[ROOM + 65536];

typedef struct pipe_io {
    script_pipe in; /* first: script_read gets this */
    size_t written;
} pipe_io;

static int write_pipe(void *user, const void *from, size_t n)
{
    pipe_io *p = user;
    if (n > sizeof archive - p->written) abort(); /* larger than the input by far */
    memcpy(archive + p->written, from, n);
    p->written += n;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    script s = {data + 3, data + size, file, 0, ROOM};
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    fv_vzip_stats st;
    uint8_t *back;
    size_t n;
    if (size < 4) return 0;
    fv_ctx *ctx = fuzz_ctx((uint64_t)256 << 20);
    const bool is_small = fuzz_share(data, size, 16) != 0;
    script_run(&s);
    if (is_small && s.at > 32768) s.at = 32768;
    pipe_io p = {{file, 0, s.at, 1 + (size_t)data[1] * data[1]}, 0};
    const fv_vzip_io io = {script_read, write_pipe, &p};
    o.level = data[0] & 1 && !is_small ? 6 : 1;
    o.long_range = data[0] & 2 ? 1 : -1;
    o.memory_bytes = data[0] & 4 ? (uint64_t)24 << 20 : 0;
    o.size = data[0] & 8 ? s.at : 0;
    o.verify = data[0] & 16 ? 1 : -1;
    o.no_prime = 1;
    o.block_bytes = 8192 + (uint64_t)data[2] * 64; /* every block clears its tables */
    const fv_status c = fv_vzip_compress_stream(ctx, &io, &o, &st);
    if (c == FV_ERR_OOM && o.memory_bytes) return 0;
    if (c != FV_OK || st.failed_checks || st.input_bytes != s.at) abort();
    if (fv_vzip_decompress(ctx, archive, p.written, ROOM, NULL, &back, &n) != FV_OK || n != s.at ||
        memcmp(back, file, n) != 0)
        abort();
    fv_free(ctx, back);
    fuzz_check_leaks(ctx);
    return 0;
}
