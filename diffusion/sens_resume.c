/* sens_resume.c - checkpoints of a calibration: large models take hours.
 *
 * Little endian, written atomically:
 *     "FVCALIB" 1 | identity, 32 bytes | u32 draws of the Gram pass that are complete | u32 draws
 *     whose weights are, u32 steps of the next one | u32 0 | the sums, f64 | u32 CRC32C
 * The identity is a SHA-256 over model, sampler, options, batches and kind of processor: sums of
 * another calibration are refused, and the sums with the units of work that they contain are all
 * that going on needs, so a table is the same bytes however often its making was interrupted. */
#include "sens_calibrate.h"

#include <stdio.h>
#include <string.h>

#define MAGIC "FVCALIB\1"
#define MAGIC_BYTES 8
#define SUMS_AT (MAGIC_BYTES + 32 + 16)
#define SAVE_SECONDS 10.0

static void put_number(uint8_t *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_number(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

typedef union word {
    double d;
    uint64_t u;
} word;

static size_t file_size(const fvi_calibration *c)
{
    return SUMS_AT + c->sums.count * 8 + 4;
}

fv_status fvi_cal_save(fvi_calibration *c)
{
    const size_t size = file_size(c);
    uint8_t *p = fv_calloc(c->ctx, 1, size);
    if (!p) return FV_ERR_OOM;
    memcpy(p, MAGIC, MAGIC_BYTES);
    memcpy(p + MAGIC_BYTES, c->identity, 32);
    put_number(p + MAGIC_BYTES + 32, (uint64_t)c->gram_done, 4);
    put_number(p + MAGIC_BYTES + 36, (uint64_t)c->weight_draw, 4);
    put_number(p + MAGIC_BYTES + 40, (uint64_t)c->weight_step, 4);
    for (size_t i = 0; i < c->sums.count; i++) {
        const word w = { .d = c->sums.all[i] };
        put_number(p + SUMS_AT + 8 * i, w.u, 8);
    }
    put_number(p + size - 4, fv_crc32c(0, p, size - 4), 4);
    const fv_status s = fv_write_file(c->ctx, c->checkpoint, p, size, 1);
    fv_free(c->ctx, p);
    c->saved_at = fv_now();
    return s;
}

fv_status fvi_cal_save_sometimes(fvi_calibration *c)
{
    if (!c->checkpoint || fv_now() - c->saved_at < SAVE_SECONDS) return FV_OK;
    return fvi_cal_save(c);
}

void fvi_cal_forget(const fvi_calibration *c)
{
    if (c->checkpoint) (void)remove(c->checkpoint); /* often there is none */
}

/* ---- Taking up ------------------------------------------------------------------------------ */

/* Counters that no run could have left are those of a damaged file. */
static bool take_counters(fvi_calibration *c, const uint8_t *p)
{
    const uint64_t gram = get_number(p, 4), draw = get_number(p + 4, 4),
                   step = get_number(p + 8, 4);
    const uint64_t draws = (uint64_t)c->sens->draws;
    if (gram > draws || gram % (uint64_t)c->gram_batch != 0) return false;
    if (draw > (uint64_t)c->weight_draws || draw % (uint64_t)c->weight_batch != 0) return false;
    if (step > (uint64_t)c->sens->evals || (step && draw == (uint64_t)c->weight_draws))
        return false;
    if (gram < draws && (draw || step)) return false;
    c->gram_done = (int)gram;
    c->weight_draw = (int)draw;
    c->weight_step = (int)step;
    return true;
}

static fv_status take_up(fvi_calibration *c, const uint8_t *p, size_t size)
{
    const char *path = c->checkpoint;
    if (size < MAGIC_BYTES || memcmp(p, MAGIC, MAGIC_BYTES) != 0)
        return fv_fail(c->ctx, FV_ERR_FORMAT,
                       "%s: not the checkpoint of a calibration: choose another name", path);
    if (size < SUMS_AT || fv_crc32c(0, p, size - 4) != (uint32_t)get_number(p + size - 4, 4))
        return fv_fail(c->ctx, FV_ERR_CHECKSUM,
                       "%s: damaged or incomplete: remove it to begin anew", path);
    if (memcmp(p + MAGIC_BYTES, c->identity, 32) != 0 || size != file_size(c) ||
        !take_counters(c, p + MAGIC_BYTES + 32))
        return fv_fail(c->ctx, FV_ERR_MODEL,
                       "%s: of an unfinished calibration with another model or other options: "
                       "repeat that one, or remove the file to begin anew",
                       path);
    for (size_t i = 0; i < c->sums.count; i++) {
        const word w = { .u = get_number(p + SUMS_AT + 8 * i, 8) };
        c->sums.all[i] = w.d;
    }
    return FV_OK;
}

static fv_status identify(fvi_calibration *c)
{
    const fv_sens *s = c->sens;
    char hash[65];
    fv_sha256 sha;
    fv_text t;
    fv_hex(s->hash, sizeof s->hash, hash);
    fv_text_init(&t, c->ctx);
    fv_text_printf(&t, "%s %s %d %d %d %.9g %d %.9g %d %llu %d %d %d %d %d %d %d %zu %lx",
                   FV_VERSION_STRING, hash, (int)s->sampler, s->steps, s->evals, (double)s->eta,
                   s->cfg_channels, (double)s->cfg, s->draws, (unsigned long long)s->seed,
                   (int)s->precision, s->window, s->depth, c->weight_draws, c->weight_every,
                   c->gram_batch, c->weight_batch, c->ring_bytes,
                   (unsigned long)fv_ctx_cpu(c->ctx));
    for (int e = 0; e < s->evals; e++)
        fv_text_printf(&t, " %.17g %d", s->net_time[e], s->guided[e]);
    if (t.status == FV_OK) {
        fv_sha256_init(&sha);
        fv_sha256_update(&sha, t.data, t.size);
        fv_sha256_final(&sha, c->identity);
    }
    const fv_status st = t.status;
    fv_text_free(&t);
    return st;
}

fv_status fvi_cal_resume(fvi_calibration *c)
{
    uint8_t *bytes;
    size_t size;
    if (!c->checkpoint) return FV_OK;
    c->saved_at = fv_now();
    FV_TRY(identify(c));
    fv_status s = fv_read_file(c->ctx, c->checkpoint, file_size(c), &bytes, &size);
    if (s == FV_ERR_NOT_FOUND) return FV_OK;
    if (s == FV_ERR_LIMIT) /* no checkpoint of these options is that long */
        return fv_fail(c->ctx, FV_ERR_MODEL,
                       "%s: not a checkpoint of this calibration: remove it to begin anew",
                       c->checkpoint);
    FV_TRY(s);
    s = take_up(c, bytes, size);
    fv_free(c->ctx, bytes);
    return s;
}
