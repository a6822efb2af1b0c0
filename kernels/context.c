/* context.c - versions, status names, contexts, error text, counted memory, progress.
 *
 * Memory: each block has a 64-byte header in front that keeps its size, so that the counters and
 * the cap work with any host allocator:
 *
 *     [ size: 8 | pad: 56 ][ user bytes, 64-byte aligned ]
 *
 * 64 bytes is what AVX-512 loads and oneDNN want. */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <omp.h>

#define HEADER_BYTES 64

int fv_version(void) { return FV_VERSION_NUMBER; }
const char *fv_version_string(void) { return FV_VERSION_STRING; }

const char *fv_status_name(fv_status s)
{
    switch (s) {
#define NAME(x) case x: return #x
    NAME(FV_OK);
    NAME(FV_ERR_ARG); NAME(FV_ERR_SHAPE); NAME(FV_ERR_DTYPE); NAME(FV_ERR_CAPACITY);
    NAME(FV_ERR_UNSUPPORTED); NAME(FV_ERR_INPLACE); NAME(FV_ERR_STATE); NAME(FV_ERR_EXISTS);
    NAME(FV_ERR_UNKNOWN);
    NAME(FV_ERR_FORMAT); NAME(FV_ERR_TRUNCATED); NAME(FV_ERR_VERSION); NAME(FV_ERR_LIMIT);
    NAME(FV_ERR_MODEL); NAME(FV_ERR_CHECKSUM);
    NAME(FV_ERR_OOM); NAME(FV_ERR_DEVICE); NAME(FV_ERR_IO); NAME(FV_ERR_CANCELLED);
    NAME(FV_ERR_COMM); NAME(FV_ERR_NOT_FOUND);
    NAME(FV_ERR_INTERNAL); NAME(FV_ERR_NUMERIC);
#undef NAME
    }
    return "FV_ERR_?";
}

/* ---- CPU features ---------------------------------------------------------------------------- */

uint32_t fv_cpu_features(void)
{
    uint32_t f = 0;
#if defined(__x86_64__)
    unsigned a, b, c, d, xcr = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const bool fma = c & (1u << 12), osxsave = c & (1u << 27), f16c = c & (1u << 29);
    if (osxsave) {
        unsigned hi;
        __asm__ volatile("xgetbv" : "=a"(xcr), "=d"(hi) : "c"(0));
    }
    const bool ymm = (xcr & 6) == 6, zmm = (xcr & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (ymm && fma && f16c && (b & (1u << 5))) f |= FV_CPU_AVX2;
    /* F, DQ, BW, VL */
    const unsigned need = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
    if (zmm && (f & FV_CPU_AVX2) && (b & need) == need) {
        f |= FV_CPU_AVX512;
        if (c & (1u << 11)) f |= FV_CPU_AVX512VNNI;
        if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5))) f |= FV_CPU_AVX512BF16;
    }
#endif
    return f;
}

/* ---- Options --------------------------------------------------------------------------------- */

fv_status fv_take_options(fv_ctx *ctx, void *o, size_t size, const void *opts, const char *what)
{
    /* Beyond this it is not a size but uninitialised memory. */
    const size_t most = 65536;
    if (!opts) return FV_OK;
    size_t given;
    memcpy(&given, opts, sizeof given);
    if (given < sizeof given || given > most)
        return fv_fail(ctx, FV_ERR_ARG,
                       "%s: struct_size of the options is %zu; use the _INIT macro", what, given);
    memcpy(o, opts, given < size ? given : size);
    memcpy(o, &size, sizeof size);
    return FV_OK;
}

/* ---- Context --------------------------------------------------------------------------------- */

static void *libc_alloc(void *user, size_t bytes, size_t align)
{
    (void)user;
    void *p = NULL;
    return posix_memalign(&p, align, bytes) == 0 ? p : NULL;
}

static void libc_free(void *user, void *ptr)
{
    (void)user;
    free(ptr);
}

fv_status fv_ctx_create(fv_ctx **out, const fv_ctx_options *opts)
{
    if (!out) return FV_ERR_ARG;
    *out = NULL;
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(NULL, &o, opts, "context"));
    if (o.threads < 0 || o.threads > FVI_MAX_THREADS) return FV_ERR_ARG;
    const fv_allocator libc = { libc_alloc, libc_free, NULL };
    const fv_allocator *al = o.alloc ? o.alloc : &libc;
    if (!al->alloc || !al->free) return FV_ERR_ARG;
    fv_ctx *c = al->alloc(al->user, sizeof *c, 64);
    if (!c) return FV_ERR_OOM;
    memset(c, 0, sizeof *c);
    c->alloc = *al;
    c->progress = o.progress;
    c->user = o.user;
    c->threads = o.threads ? o.threads : omp_get_num_procs();
    if (c->threads > FVI_MAX_THREADS) c->threads = FVI_MAX_THREADS;
    c->cpu = fv_cpu_features() & ~o.cpu_disable;
    if (!(c->cpu & FV_CPU_AVX2)) c->cpu = 0;
    if (!(c->cpu & FV_CPU_AVX512)) c->cpu &= FV_CPU_AVX2;
    c->cuda_disable = o.cuda_disable;
    c->cuda_tries = o.cuda_tries;
    c->cuda_device = o.cuda_device;
    c->cuda_tf32 = o.cuda_tf32;
    c->memory_cap = o.memory_cap_bytes;
    const fv_status s = fvi_backend_open(c, o.device);
    if (s != FV_OK) {
        al->free(al->user, c);
        return s;
    }
    *out = c;
    return FV_OK;
}

void fv_ctx_set_reduce(fv_ctx *ctx, fv_reduce_fn fn, void *user)
{
    ctx->reduce = fn;
    ctx->reduce_user = user;
}

void fv_ctx_destroy(fv_ctx **ctx)
{
    if (!ctx || !*ctx) return;
    fv_ctx *c = *ctx;
    *ctx = NULL;
    fvi_backend_close(c);
    c->alloc.free(c->alloc.user, c);
}

const char *fv_ctx_error(const fv_ctx *ctx) { return ctx ? ctx->error : "no context"; }
void fv_ctx_cancel(fv_ctx *ctx) { if (ctx) atomic_store(&ctx->cancel, 1); }
void fv_ctx_uncancel(fv_ctx *ctx) { if (ctx) atomic_store(&ctx->cancel, 0); }
bool fv_ctx_cancelled(const fv_ctx *ctx)
{
    return ctx && atomic_load(&ctx->cancel) != 0 && atomic_load(&ctx->hold) == 0;
}
int fv_ctx_threads(const fv_ctx *ctx) { return ctx->threads; }
fv_device fv_ctx_device(const fv_ctx *ctx) { return ctx->device; }
uint32_t fv_ctx_cpu(const fv_ctx *ctx) { return ctx->cpu; }

void fv_ctx_memory(const fv_ctx *ctx, fv_memory_stats *out)
{
    out->current_bytes = atomic_load(&ctx->mem_current);
    out->peak_bytes = atomic_load(&ctx->mem_peak);
    out->allocations = atomic_load(&ctx->mem_calls);
}

void fv_ctx_memory_reset_peak(fv_ctx *ctx)
{
    atomic_store(&ctx->mem_peak, atomic_load(&ctx->mem_current));
}

fv_status fv_report(fv_ctx *ctx, const char *stage, uint64_t done, uint64_t total,
                    const char *detail)
{
    if (fv_ctx_cancelled(ctx)) return fv_fail(ctx, FV_ERR_CANCELLED, "%s: cancelled", stage);
    if (!ctx->progress) return FV_OK;
    const fv_progress p = { stage, done, total, detail };
    if (ctx->progress(ctx->user, &p)) return fv_fail(ctx, FV_ERR_CANCELLED, "%s: cancelled", stage);
    return FV_OK;
}

/* ---- Errors ---------------------------------------------------------------------------------- */

fv_status fv_failv(fv_ctx *ctx, fv_status status, const char *fmt, va_list ap)
{
    if (ctx) {
        char text[FVI_ERROR_BYTES]; /* arguments may point into the old message */
        vsnprintf(text, sizeof text, fmt, ap);
        memcpy(ctx->error, text, sizeof text);
    }
    return status;
}

fv_status fv_fail(fv_ctx *ctx, fv_status status, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fv_failv(ctx, status, fmt, ap);
    va_end(ap);
    return status;
}

fv_status fv_fail_in(fv_ctx *ctx, fv_status status, const char *fmt, ...)
{
    if (!ctx) return status;
    char text[FVI_ERROR_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0) n = 0;
    if (n > FVI_ERROR_BYTES - 3) n = FVI_ERROR_BYTES - 3;
    snprintf(text + n, sizeof text - (size_t)n, ": %.*s", FVI_ERROR_BYTES - 3 - n, ctx->error);
    memcpy(ctx->error, text, sizeof text);
    return status;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

void *fvi_alloc_for(fv_ctx *ctx, fv_ctx *reader, size_t bytes)
{
    size_t total;
    if (!fv_add_size(bytes, HEADER_BYTES, &total)) {
        fv_fail(reader, FV_ERR_OOM, "out of memory: %zu bytes asked", bytes);
        return NULL;
    }
    const uint64_t now = atomic_fetch_add(&ctx->mem_current, bytes) + bytes;
    if (ctx->memory_cap && now > ctx->memory_cap) {
        atomic_fetch_sub(&ctx->mem_current, bytes);
        fv_fail(reader, FV_ERR_OOM, "memory cap of %llu bytes reached: at least %llu are needed",
                (unsigned long long)ctx->memory_cap, (unsigned long long)now);
        return NULL;
    }
    uint8_t *p = ctx->alloc.alloc(ctx->alloc.user, total, HEADER_BYTES);
    if (!p) {
        atomic_fetch_sub(&ctx->mem_current, bytes);
        fv_fail(reader, FV_ERR_OOM, "out of memory: %zu bytes asked", bytes);
        return NULL;
    }
    const uint64_t size = bytes;
    memcpy(p, &size, sizeof size);
    atomic_fetch_add(&ctx->mem_calls, 1);
    uint64_t peak = atomic_load(&ctx->mem_peak);
    while (now > peak && !atomic_compare_exchange_weak(&ctx->mem_peak, &peak, now)) { }
    return p + HEADER_BYTES;
}

void *fv_alloc(fv_ctx *ctx, size_t bytes) { return fvi_alloc_for(ctx, ctx, bytes); }

void fv_free(fv_ctx *ctx, void *ptr)
{
    if (!ptr) return;
    uint8_t *p = (uint8_t *)ptr - HEADER_BYTES;
    uint64_t size;
    memcpy(&size, p, sizeof size);
    atomic_fetch_sub(&ctx->mem_current, size);
    ctx->alloc.free(ctx->alloc.user, p);
}

void *fv_calloc(fv_ctx *ctx, size_t count, size_t size)
{
    size_t bytes;
    if (!fv_mul_size(count, size, &bytes)) {
        fv_fail(ctx, FV_ERR_OOM, "out of memory: %zu x %zu bytes asked", count, size);
        return NULL;
    }
    void *p = fv_alloc(ctx, bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

void *fv_realloc(fv_ctx *ctx, void *ptr, size_t old_bytes, size_t new_bytes)
{
    void *p = fv_alloc(ctx, new_bytes);
    if (!p) return NULL;
    if (ptr) memcpy(p, ptr, old_bytes < new_bytes ? old_bytes : new_bytes);
    fv_free(ctx, ptr);
    return p;
}

char *fv_strdup(fv_ctx *ctx, const char *s)
{
    const size_t n = strlen(s) + 1;
    char *p = fv_alloc(ctx, n);
    if (p) memcpy(p, s, n);
    return p;
}

char *fv_format(fv_ctx *ctx, const char *fmt, ...)
{
    va_list ap, ap2;
    va_start(ap, fmt);
    va_copy(ap2, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : fv_alloc(ctx, (size_t)n + 1);
    if (p) vsnprintf(p, (size_t)n + 1, fmt, ap2);
    va_end(ap2);
    return p;
}

double fv_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
