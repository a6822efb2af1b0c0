/* cuda_emulator.h - a device for the CUDA backend that is this CPU: the kernel bodies of kernels/cuda,
 * compiled by the C compiler, each block and each thread one after another.
 *
 * Device memory is a mapping that can be touched only while a kernel or a copy runs: host code that
 * reads or writes through a device pointer ends in a fault. Blocks lie between guard bytes, which are
 * looked at when they are freed. `reversed` runs blocks and threads from the last to the first: what
 * differs then depends on an order that a GPU does not keep. */
#ifndef CUDA_EMULATOR_H
#define CUDA_EMULATOR_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cuda/decoding.h"
#include "cuda/experts.h"
#include "cuda/flash.h"
#include "cuda/integer.h"
#include "cuda/maps.h"
#include "cuda/norm.h"
#include "cuda/pointwise.h"
#include "cuda/prior.h"
#include "cuda/rows.h"
#include "cuda/sampling.h"
#include "cuda/sequence.h"
#include "cuda/tensor.h"
#include "cuda/losses.h"
#include "cuda/pictures.h"
#include "cuda/texture.h"
#include "cuda/train.h"

#define EMULATED_BYTES ((size_t)1 << 30) /* of addresses; pages come when they are written */
#define EMULATED_PAGE ((size_t)2 << 20)  /* opened and closed as a whole: a huge page is one entry */
#define EMULATED_GUARD 256
#define EMULATED_BLOCKS 512

struct fvk_dev {
    uint8_t *mapped, *base; /* the first whole page of what is mapped */
    size_t used, start[EMULATED_BLOCKS], bytes[EMULATED_BLOCKS]; /* of blocks that live */
    int blocks;
    int32_t fault;
    char message[200];
    struct fvk_graph *recording; /* NULL: kernels run */
    uint32_t off;                /* FVK_OFF_* */
    bool tf32;                   /* asked for; products here are f32 all the same */
};

/* A launch, or a product (kernel FVK_KERNELS). */
typedef struct emulator_step {
    fvk_kernel kernel;
    int64_t blocks;
    size_t bytes;
    uint64_t args[512]; /* a kernel takes 4 KiB */
    fvk_product *product;
    fvk_operands operands;
    fvk_library *library;
    void *pointers[10];
} emulator_step;
struct fvk_graph { int n, room; emulator_step *step; };
static atomic_long emulator_replays;
static int emulator_keep(fvk_dev *d, const emulator_step *s);

static int emulator_reversed;       /* for all devices: the order of blocks and threads */
static atomic_long emulator_launches, emulator_damage; /* blocks whose guards were overwritten */

static int emulator_say(fvk_dev *d, int code, const char *text)
{
    snprintf(d->message, sizeof d->message, "%s", text);
    return code;
}

static int emulator_info(int index, fvk_info *out, char *why, size_t why_bytes)
{
    snprintf(why, why_bytes, "1 device");
    if (index > 0) return FVK_UNSUPPORTED;
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "emulator");
    out->memory_bytes = EMULATED_BYTES;
    return FVK_OK;
}

static int emulator_open(int index, fvk_dev **out, char *why, size_t why_bytes)
{
    fvk_info info;
    *out = NULL;
    if (emulator_info(index, &info, why, why_bytes) != FVK_OK) return FVK_UNSUPPORTED;
    fvk_dev *d = calloc(1, sizeof *d);
    if (!d) return FVK_NO_MEMORY;
    d->mapped = mmap(NULL, EMULATED_BYTES + EMULATED_PAGE, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (d->mapped == MAP_FAILED) {
        snprintf(why, why_bytes, "no addresses");
        free(d);
        return FVK_NO_MEMORY;
    }
    d->base = d->mapped + (EMULATED_PAGE - (uintptr_t)d->mapped % EMULATED_PAGE) % EMULATED_PAGE;
    (void)madvise(d->base, EMULATED_BYTES, MADV_HUGEPAGE); /* opened and closed at each launch */
    *out = d;
    return FVK_OK;
}

static void emulator_close(fvk_dev *d)
{
    if (d->blocks) emulator_damage++; /* not freed */
    munmap(d->mapped, EMULATED_BYTES + EMULATED_PAGE);
    free(d);
}

static const char *emulator_error(const fvk_dev *d) { return d->message; }

static void emulator_allow(fvk_dev *d, int prot)
{
    const size_t whole = (d->used + EMULATED_PAGE - 1) / EMULATED_PAGE * EMULATED_PAGE;
    if (whole && mprotect(d->base, whole, prot) != 0) abort();
}

static void *emulator_alloc(fvk_dev *d, size_t bytes)
{
    const size_t whole = (bytes + 2 * EMULATED_GUARD + 4095) / 4096 * 4096;
    if (d->recording) {
        emulator_say(d, FVK_FAILED, "memory in a recording");
        return NULL;
    }
    if (d->blocks == EMULATED_BLOCKS || whole > EMULATED_BYTES - d->used) {
        emulator_say(d, FVK_NO_MEMORY, "out of memory");
        return NULL;
    }
    uint8_t *p = d->base + d->used;
    d->used += whole;
    emulator_allow(d, PROT_READ | PROT_WRITE);
    memset(p, 0xA5, whole);
    memset(p + EMULATED_GUARD, 0, bytes);
    emulator_allow(d, PROT_NONE);
    d->start[d->blocks] = (size_t)(p + EMULATED_GUARD - d->base);
    d->bytes[d->blocks++] = bytes;
    return p + EMULATED_GUARD;
}

static void emulator_free(fvk_dev *d, void *ptr)
{
    uint8_t *p = ptr;
    int i = 0;
    if (p && d->recording) emulator_damage++; /* a GPU would wait, which ends the recording */
    if (!p) return;
    while (i < d->blocks && d->start[i] != (size_t)(p - d->base)) i++;
    if (i == d->blocks) {
        emulator_damage++;
        return;
    }
    emulator_allow(d, PROT_READ | PROT_WRITE);
    int bad = 0;
    for (size_t k = 0; k < EMULATED_GUARD; k++)
        bad |= p[-1 - (ptrdiff_t)k] != 0xA5 || p[d->bytes[i] + k] != 0xA5;
    emulator_damage += bad;
    emulator_allow(d, PROT_NONE);
    d->blocks--;
    d->start[i] = d->start[d->blocks];
    d->bytes[i] = d->bytes[d->blocks];
    if (d->blocks == 0) d->used = 0;
}

/* Does [p, p + bytes) lie in one block? */
static int emulator_owns(const fvk_dev *d, const void *p, size_t bytes)
{
    const size_t at = (size_t)((const uint8_t *)p - d->base);
    for (int i = 0; i < d->blocks; i++)
        if (at >= d->start[i] && at + bytes <= d->start[i] + d->bytes[i]) return 1;
    return 0;
}

static int emulator_is_its(fvk_dev *d, const void *p) { return emulator_owns(d, p, 1); }

static int emulator_move(fvk_dev *d, void *dst, const void *src, size_t bytes, int to, int from)
{
    if (d->recording) return emulator_say(d, FVK_FAILED, "a copy in a recording");
    if (emulator_owns(d, dst, bytes) != to || emulator_owns(d, src, bytes) != from)
        return emulator_say(d, FVK_FAILED, "a copy between the wrong sides");
    emulator_allow(d, PROT_READ | PROT_WRITE);
    memmove(dst, src, bytes);
    emulator_allow(d, PROT_NONE);
    return FVK_OK;
}

static int emulator_sync(fvk_dev *d)
{
    if (d->recording) return emulator_say(d, FVK_FAILED, "waiting in a recording");
    const int32_t bits = d->fault;
    d->fault = 0;
    if (bits & FVK_FAULT_ID)
        return emulator_say(d, FVK_BAD_INPUT, "an id, index or label is outside its table");
    if (bits & FVK_FAULT_TAU) return emulator_say(d, FVK_BAD_INPUT, "soft_rate: tau is not above 0");
    if (bits & FVK_FAULT_FINITE) return emulator_say(d, FVK_NOT_FINITE, "features are not finite");
    return bits ? emulator_say(d, FVK_BAD_INPUT, "sdpa: visible keys") : FVK_OK;
}

static int emulator_to_device(fvk_dev *d, void *dst, const void *src, size_t bytes)
{
    return emulator_move(d, dst, src, bytes, 1, 0);
}
static int emulator_to_host(fvk_dev *d, void *dst, const void *src, size_t bytes)
{
    const int code = emulator_move(d, dst, src, bytes, 0, 1);
    return code == FVK_OK ? emulator_sync(d) : code;
}
static int emulator_on_device(fvk_dev *d, void *dst, const void *src, size_t bytes)
{
    return emulator_move(d, dst, src, bytes, 1, 1);
}

static int emulator_zero(fvk_dev *d, void *p, size_t bytes)
{
    if (d->recording) return emulator_say(d, FVK_FAILED, "clearing in a recording");
    if (!emulator_owns(d, p, bytes)) return emulator_say(d, FVK_FAILED, "not device memory");
    emulator_allow(d, PROT_READ | PROT_WRITE);
    memset(p, 0, bytes);
    emulator_allow(d, PROT_NONE);
    return FVK_OK;
}

static int32_t *emulator_fault(fvk_dev *d) { return &d->fault; }

#define EMULATED(name)                                                             \
    static void emulated_##name(const void *args, int block, int blocks)           \
    {                                                                              \
        name##_body(args, block, blocks, emulator_reversed);                       \
    }
FVK_LIST(EMULATED)
#undef EMULATED

static int emulator_launch(fvk_dev *d, fvk_kernel k, int64_t blocks, const void *args,
                           size_t bytes)
{
    static const struct {
        void (*run)(const void *, int, int);
        size_t bytes;
    } table[] = {
#define ENTRY(name) { emulated_##name, sizeof(fvk_##name##_args) },
        FVK_LIST(ENTRY)
#undef ENTRY
    };
    if ((unsigned)k >= FVK_KERNELS || bytes != table[k].bytes || blocks < 1)
        return emulator_say(d, FVK_FAILED, "launch");
    if (d->recording) {
        emulator_step keep = { .kernel = k, .blocks = blocks, .bytes = bytes };
        if (bytes > sizeof keep.args) return emulator_say(d, FVK_FAILED, "arguments");
        memcpy(keep.args, args, bytes);
        return emulator_keep(d, &keep);
    }
    emulator_launches++;
    emulator_allow(d, PROT_READ | PROT_WRITE);
    for (int64_t b = 0; b < blocks; b++)
        table[k].run(args, (int)(emulator_reversed ? blocks - 1 - b : b), (int)blocks);
    emulator_allow(d, PROT_NONE);
    return FVK_OK;
}

/* ---- Products: the definition ---------------------------------------------------------------- */

struct fvk_product { fvk_gemm s; };
static atomic_long emulator_products, emulator_fused, emulator_fp8; /* made; of them with more than a bias in f32 */

/* What the real one would refuse by its documents, or was told to. */
static const char *emulator_refusal(const fvk_dev *d, const fvk_gemm *g)
{
    const int more = g->then || g->sums || (g->bias && g->c_bf16);
    if (more && d->off & FVK_OFF_EPILOGUES) return "no epilogues";
    if (g->scales && (d->off & FVK_OFF_SCALES || g->kind != FVK_GEMM_FP8)) return "no scales";
    if (g->sums && g->bias) return "bias and sums";
    if (g->kind == FVK_GEMM_INT8 &&
        (d->off & FVK_OFF_INT8 || !g->b_trans || g->a_trans || (g->M | g->N | g->K) % 4 || more || g->bias))
        return "no such int8 product";
    if (g->kind == FVK_GEMM_FP8 &&
        (d->off & FVK_OFF_FP8 || !g->b_trans || g->a_trans || g->N % 16 || g->K % 16 || g->sums))
        return "no such fp8 product";
    return NULL;
}

static int emulator_gemm_create(fvk_dev *d, const fvk_gemm *g, fvk_product **out)
{
    *out = NULL;
    if (emulator_refusal(d, g)) return emulator_say(d, FVK_UNSUPPORTED, emulator_refusal(d, g));
    *out = malloc(sizeof **out);
    if (!*out) return emulator_say(d, FVK_NO_MEMORY, "out of memory");
    (*out)->s = *g;
    emulator_products++;
    emulator_fp8 += g->kind == FVK_GEMM_FP8;
    emulator_fused += g->then || g->sums || g->kind || (g->bias && g->c_bf16);
    return FVK_OK;
}
static void emulator_gemm_destroy(fvk_dev *d, fvk_product *g)
{
    (void)d;
    free(g);
}

static size_t emulator_span(int64_t rows, int64_t columns, int64_t ld, int64_t batch, int64_t step)
{
    return (size_t)((rows - 1) * (ld ? ld : columns) + columns + (batch > 1 ? (batch - 1) * step : 0));
}

static int emulator_has_operands(const fvk_dev *d, const fvk_gemm *s, const fvk_operands *o)
{
    const size_t e = s->kind ? 1 : s->ab_bf16 ? 2 : 4;
    const size_t f = s->kind != FVK_GEMM_INT8 && s->c_bf16 ? 2 : 4;
    const int64_t ar = s->a_trans ? s->K : s->M, ac = s->a_trans ? s->M : s->K;
    const int64_t br = s->b_trans ? s->N : s->K, bc = s->b_trans ? s->K : s->N;
    return emulator_owns(d, o->a, emulator_span(ar, ac, s->lda, s->batch, s->a_step) * e) &&
           emulator_owns(d, o->b, emulator_span(br, bc, s->ldb, s->batch, s->b_step) * e) &&
           emulator_owns(d, o->c, emulator_span(s->M, s->N, s->ldc, s->batch, s->c_step) * f) &&
           (!s->bias || emulator_owns(d, o->bias, (size_t)s->N * f)) &&
           (!s->sums || emulator_owns(d, o->bias, (size_t)s->M * f)) &&
           (!s->scales || (emulator_owns(d, o->a_scale, (size_t)s->M * 4) &&
                           emulator_owns(d, o->b_scale, (size_t)s->N * 4)));
}

static float emulator_number(const fvk_gemm *s, const void *p, int64_t i)
{
    const fvk_in x = { p, s->ab_bf16 };
    if (s->kind == FVK_GEMM_FP8) return fvk_from_e4m3(((const uint8_t *)p)[i]);
    return fvk_get(x, i);
}

static int64_t emulator_at_a(const fvk_gemm *s, int64_t n, int64_t i, int64_t k)
{
    const int64_t lda = s->lda ? s->lda : s->a_trans ? s->M : s->K;
    return n * s->a_step + (s->a_trans ? k * lda + i : i * lda + k);
}
static int64_t emulator_at_b(const fvk_gemm *s, int64_t n, int64_t k, int64_t j)
{
    const int64_t ldb = s->ldb ? s->ldb : s->b_trans ? s->K : s->N;
    return n * s->b_step + (s->b_trans ? j * ldb + k : k * ldb + j);
}
static int64_t emulator_at_c(const fvk_gemm *s, int64_t n, int64_t i, int64_t j)
{
    return n * s->c_step + i * (s->ldc ? s->ldc : s->N) + j;
}

static void emulator_whole(const fvk_gemm *s, const fvk_operands *o, int64_t n, int64_t i, int64_t j)
{
    const int64_t at = emulator_at_c(s, n, i, j);
    int64_t whole = 0;
    for (int64_t k = 0; k < s->K; k++)
        whole += ((const int8_t *)o->a)[emulator_at_a(s, n, i, k)] *
                 ((const int8_t *)o->b)[emulator_at_b(s, n, k, j)];
    if (whole > INT32_MAX || whole < INT32_MIN) abort(); /* where the real one would wrap */
    ((int32_t *)o->c)[at] = (int32_t)whole + (s->accumulate ? ((int32_t *)o->c)[at] : 0);
}

/* What becomes of a sum. */
static void emulator_put(const fvk_gemm *s, const fvk_operands *o, int64_t n, int64_t i, int64_t j,
                         float sum)
{
    const int64_t at = emulator_at_c(s, n, i, j);
    const fvk_out y = { o->c, s->c_bf16, s->accumulate };
    const fvk_in bias = { o->bias, s->c_bf16 };
    if (s->scales) sum *= o->a_scale[i] * o->b_scale[j];
    if (s->bias) sum += fvk_get(bias, j);
    if (s->then == FVK_THEN_RELU && sum < 0) sum = 0;
    if (s->then == FVK_THEN_GELU)
        sum = 0.5f * sum * (1 + tanhf(0.79788456f * (sum + 0.044715f * sum * sum * sum)));
    fvk_put(y, at, sum);
}

/* One of a batch: b as rows of f32, then row by row of c, so that the compiler makes vectors of it;
 * the sums of a number are added in the order of k. */
static void emulator_product(const fvk_gemm *s, const fvk_operands *o, int64_t n)
{
    float *b = malloc((size_t)((s->K + 1) * s->N) * sizeof *b), *sum = b + s->K * s->N;
    if (!b) abort();
    for (int64_t k = 0; k < s->K; k++)
        for (int64_t j = 0; j < s->N; j++)
            b[k * s->N + j] = emulator_number(s, o->b, emulator_at_b(s, n, k, j));
    for (int64_t i = 0; i < s->M; i++) {
        memset(sum, 0, (size_t)s->N * sizeof *sum);
        for (int64_t k = 0; k < s->K; k++) {
            const float x = emulator_number(s, o->a, emulator_at_a(s, n, i, k));
            for (int64_t j = 0; j < s->N; j++) sum[j] += x * b[k * s->N + j];
        }
        for (int64_t j = 0; j < s->N; j++) emulator_put(s, o, n, i, j, sum[j]);
    }
    free(b);
}

static void emulator_sums(const fvk_gemm *s, const fvk_operands *o)
{
    const int64_t lda = s->lda ? s->lda : s->a_trans ? s->M : s->K;
    const fvk_out y = { (void *)(uintptr_t)o->bias, s->c_bf16, 0 };
    for (int64_t i = 0; i < s->M; i++) {
        float sum = 0;
        for (int64_t k = 0; k < s->K; k++)
            sum += emulator_number(s, o->a, s->a_trans ? k * lda + i : i * lda + k);
        fvk_put(y, i, sum);
    }
}

static int emulator_gemm_scaled(fvk_dev *d, fvk_product *p, const fvk_operands *o)
{
    const fvk_gemm *s = &p->s;
    if (!emulator_has_operands(d, s, o))
        return emulator_say(d, FVK_FAILED, "product: not device memory");
    if (d->recording) {
        const emulator_step keep = { .kernel = FVK_KERNELS, .product = p, .operands = *o };
        return emulator_keep(d, &keep);
    }
    emulator_allow(d, PROT_READ | PROT_WRITE);
    for (int64_t n = 0; n < (s->batch > 1 ? s->batch : 1); n++) {
        if (s->kind != FVK_GEMM_INT8) emulator_product(s, o, n);
        for (int64_t i = 0; i < s->M && s->kind == FVK_GEMM_INT8; i++)
            for (int64_t j = 0; j < s->N; j++) emulator_whole(s, o, n, i, j);
    }
    if (s->sums) emulator_sums(s, o);
    emulator_allow(d, PROT_NONE);
    return FVK_OK;
}

static int emulator_gemm_run(fvk_dev *d, fvk_product *p, const void *a, const void *b,
                             const void *bias, void *c)
{
    const fvk_operands o = { a, b, bias, NULL, NULL, c };
    return emulator_gemm_scaled(d, p, &o);
}

/* ---- Convolutions and attention of a library: the definition ---------------------------------- */

struct fvk_library { fvk_conv conv; fvk_flash flash; int is_conv; };
static long emulator_libraries;

static int emulator_library(fvk_dev *d, const fvk_conv *c, const fvk_flash *a, fvk_library **out)
{
    *out = NULL;
    if (d->off & FVK_OFF_CUDNN) return emulator_say(d, FVK_UNSUPPORTED, "no library");
    *out = calloc(1, sizeof **out);
    if (!*out) return emulator_say(d, FVK_NO_MEMORY, "out of memory");
    if (c) (*out)->conv = *c;
    else (*out)->flash = *a;
    (*out)->is_conv = c != NULL;
    emulator_libraries++;
    return FVK_OK;
}
/* As the real one: weights' gradients of bf16 maps, and f32 results of them, have no engine. */
static int emulator_conv_create(fvk_dev *d, const fvk_conv *c, fvk_library **out)
{
    *out = NULL;
    if (c->x_bf16 != c->w_bf16 || c->x_bf16 != c->y_bf16)
        return emulator_say(d, FVK_UNSUPPORTED, "no such convolution");
    return emulator_library(d, c, NULL, out);
}
static int emulator_attention_create(fvk_dev *d, const fvk_flash *a, fvk_library **out)
{
    *out = NULL;
    if (a->hd % 8 || a->hd > 128) return emulator_say(d, FVK_UNSUPPORTED, "no such heads");
    return emulator_library(d, NULL, a, out);
}
static void emulator_library_destroy(fvk_dev *d, fvk_library *l)
{
    (void)d;
    free(l);
}

/* One number of what is written. */
static float emulator_conv_at(const fvk_conv *c, void *const *p, int64_t i)
{
    const fvk_in x = { p[0], c->x_bf16 }, w = { p[1], c->w_bf16 }, y = { p[2], c->y_bf16 };
    const int64_t wide = c->what == FVK_CONV_FORWARD ? c->O : c->C, k = i % wide, place = i / wide;
    float sum = 0;
    if (c->what == FVK_CONV_FORWARD)
        for (int64_t t = 0; t < c->kh * c->kw; t++) {
            const int64_t r = place / c->w % c->h * c->stride + t / c->kw - c->top;
            const int64_t s = place % c->w * c->stride + t % c->kw - c->left;
            if (r < 0 || r >= c->H || s < 0 || s >= c->W) continue;
            const int64_t at = ((place / (c->h * c->w) * c->H + r) * c->W + s) * c->C;
            for (int64_t n = 0; n < c->C; n++)
                sum += fvk_get(x, at + n) * fvk_get(w, (k * c->kh * c->kw + t) * c->C + n);
        }
    if (c->what == FVK_CONV_DX)
        for (int64_t t = 0; t < c->kh * c->kw; t++) {
            const int64_t r = place / c->W % c->H + c->top - t / c->kw;
            const int64_t s = place % c->W + c->left - t % c->kw;
            if (r < 0 || r % c->stride || r / c->stride >= c->h) continue;
            if (s < 0 || s % c->stride || s / c->stride >= c->w) continue;
            const int64_t at = (place / (c->H * c->W) * c->h + r / c->stride) * c->w + s / c->stride;
            for (int64_t o = 0; o < c->O; o++)
                sum += fvk_get(y, at * c->O + o) * fvk_get(w, (o * c->kh * c->kw + t) * c->C + k);
        }
    if (c->what == FVK_CONV_DW)
        for (int64_t q = 0; q < c->B * c->h * c->w; q++) { /* place is (o, tap) */
            const int64_t t = place % (c->kh * c->kw), o = place / (c->kh * c->kw);
            const int64_t r = q / c->w % c->h * c->stride + t / c->kw - c->top;
            const int64_t s = q % c->w * c->stride + t % c->kw - c->left;
            if (r < 0 || r >= c->H || s < 0 || s >= c->W) continue;
            sum += fvk_get(y, q * c->O + o) *
                   fvk_get(x, ((q / (c->h * c->w) * c->H + r) * c->W + s) * c->C + k);
        }
    return sum;
}

static int emulator_conv(fvk_dev *d, const fvk_conv *c, void *const *p)
{
    const int64_t n[3] = { c->B * c->H * c->W * c->C, c->O * c->kh * c->kw * c->C,
                           c->B * c->h * c->w * c->O };
    const int half[3] = { c->x_bf16, c->w_bf16, c->y_bf16 };
    const int to = c->what == FVK_CONV_FORWARD ? 2 : c->what == FVK_CONV_DX ? 0 : 1;
    const fvk_out y = { p[to], half[to], 0 };
    for (int i = 0; i < 3; i++)
        if (!emulator_owns(d, p[i], (size_t)n[i] * (half[i] ? 2 : 4)))
            return emulator_say(d, FVK_FAILED, "convolution: not device memory");
    emulator_allow(d, PROT_READ | PROT_WRITE);
    for (int64_t i = 0; i < n[to]; i++) fvk_put(y, i, emulator_conv_at(c, p, i));
    emulator_allow(d, PROT_NONE);
    return FVK_OK;
}

/* Query t of head i of sequence b: chances of keys -> w [S], their logarithm's sum. */
static float emulator_chances(const fvk_flash *a, void *const *p, int64_t b, int64_t i, int64_t t, float *w)
{
    const fvk_in q = { p[0], 1 }, k = { p[1], 1 };
    float top = -INFINITY, sum = 0;
    for (int64_t s = 0; s < a->S; s++) {
        w[s] = 0;
        for (int64_t n = 0; n < a->hd; n++)
            w[s] += fvk_get(q, (b * a->T + t) * a->q_row + i * a->hd + n) *
                    fvk_get(k, (b * a->S + s) * a->k_row + i * a->hd + n);
        w[s] *= a->scale;
        if (w[s] > top) top = w[s];
    }
    for (int64_t s = 0; s < a->S; s++) sum += w[s] = expf(w[s] - top);
    for (int64_t s = 0; s < a->S; s++) w[s] /= sum;
    return top + logf(sum);
}

static void emulator_attend(const fvk_flash *a, void *const *p, int64_t b, int64_t i, float *w)
{
    const fvk_in v = { p[2], 1 };
    const fvk_out o = { p[3], 1, 0 };
    for (int64_t t = 0; t < a->T; t++) {
        const float lse = emulator_chances(a, p, b, i, t, w);
        if (a->keeps_lse) ((float *)p[4])[(b * a->h + i) * a->T + t] = lse;
        for (int64_t n = 0; n < a->hd; n++) {
            float sum = 0;
            for (int64_t s = 0; s < a->S; s++)
                sum += w[s] * fvk_get(v, (b * a->S + s) * a->v_row + i * a->hd + n);
            fvk_put(o, ((b * a->T + t) * a->h + i) * a->hd + n, sum);
        }
    }
}

/* Sums of a head: dq, dk, dv [tokens, hd] in `g`, one after another. */
static void emulator_attend_back(const fvk_flash *a, void *const *p, int64_t b, int64_t i, float *w, float *g)
{
    const fvk_in q = { p[0], 1 }, k = { p[1], 1 }, v = { p[2], 1 }, o = { p[3], 1 }, go = { p[5], 1 };
    float *gq = g, *gk = g + a->T * a->hd, *gv = gk + a->S * a->hd;
    memset(g, 0, (size_t)((a->T + 2 * a->S) * a->hd) * sizeof *g);
    for (int64_t t = 0; t < a->T; t++) {
        const int64_t row = ((b * a->T + t) * a->h + i) * a->hd;
        const int64_t qr = (b * a->T + t) * a->q_row + i * a->hd;
        const float lse = emulator_chances(a, p, b, i, t, w);
        float delta = 0;
        if (fabsf(lse - ((float *)p[4])[(b * a->h + i) * a->T + t]) > 0.01f) abort(); /* not its own */
        for (int64_t n = 0; n < a->hd; n++) delta += fvk_get(go, row + n) * fvk_get(o, row + n);
        for (int64_t s = 0; s < a->S; s++) {
            const int64_t kr = (b * a->S + s) * a->k_row + i * a->hd, vr = (b * a->S + s) * a->v_row + i * a->hd;
            float dp = 0;
            for (int64_t n = 0; n < a->hd; n++) dp += fvk_get(go, row + n) * fvk_get(v, vr + n);
            const float ds = w[s] * (dp - delta) * a->scale;
            for (int64_t n = 0; n < a->hd; n++) {
                gv[s * a->hd + n] += w[s] * fvk_get(go, row + n);
                gk[s * a->hd + n] += ds * fvk_get(q, qr + n);
                gq[t * a->hd + n] += ds * fvk_get(k, kr + n);
            }
        }
    }
    for (int part = 0; part < 3; part++) {
        const int64_t tokens = part ? a->S : a->T, each = part == 0 ? a->q_row : part == 1 ? a->k_row : a->v_row;
        const fvk_out to = { p[6 + part], 1, 0 };
        const float *from = part == 0 ? gq : part == 1 ? gk : gv;
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t n = 0; n < a->hd; n++)
                fvk_put(to, (b * tokens + t) * each + i * a->hd + n, from[t * a->hd + n]);
    }
}

static int emulator_flash(fvk_dev *d, const fvk_flash *a, void *const *p)
{
    const int n = a->backward ? 10 : a->keeps_lse ? 5 : 4;
    for (int i = 0; i < n; i++)
        if (!emulator_owns(d, p[i], 16)) return emulator_say(d, FVK_FAILED, "attention: not device memory");
    float *w = malloc((size_t)a->S * sizeof *w);
    float *g = malloc((size_t)((a->T + 2 * a->S) * a->hd) * sizeof *g);
    if (!w || !g) abort();
    emulator_allow(d, PROT_READ | PROT_WRITE);
    for (int64_t b = 0; b < a->B; b++)
        for (int64_t i = 0; i < a->h; i++)
            if (a->backward) emulator_attend_back(a, p, b, i, w, g);
            else emulator_attend(a, p, b, i, w);
    emulator_allow(d, PROT_NONE);
    free(w);
    free(g);
    return FVK_OK;
}

static int emulator_library_run(fvk_dev *d, fvk_library *l, void *const *p)
{
    if (d->recording) {
        emulator_step keep = { .kernel = FVK_KERNELS, .library = l };
        memcpy(keep.pointers, p, (l->is_conv ? 3u : l->flash.backward ? 10u : 5u) * sizeof *p);
        return emulator_keep(d, &keep);
    }
    for (int i = 0; i < (l->is_conv ? 3 : 4); i++)
        if ((uintptr_t)p[i] % 16) return emulator_say(d, FVK_UNSUPPORTED, "not aligned");
    return l->is_conv ? emulator_conv(d, &l->conv, p) : emulator_flash(d, &l->flash, p);
}

static int emulator_set(fvk_dev *d, int what, int64_t value)
{
    if (what == FVK_SET_OFF) d->off = (uint32_t)value;
    if (what == FVK_SET_TF32) d->tf32 = value != 0;
    return what >= FVK_SET_OFF && what <= FVK_SET_TF32 ? FVK_OK : FVK_UNSUPPORTED;
}

/* ---- Graphs ---------------------------------------------------------------------------------- */

static int emulator_keep(fvk_dev *d, const emulator_step *s)
{
    fvk_graph *g = d->recording;
    if (g->n == g->room) {
        emulator_step *more = realloc(g->step, (size_t)(2 * g->room + 64) * sizeof *more);
        if (!more) return emulator_say(d, FVK_NO_MEMORY, "out of memory");
        g->step = more;
        g->room = 2 * g->room + 64;
    }
    g->step[g->n++] = *s;
    return FVK_OK;
}

static void emulator_graph_destroy(fvk_dev *d, fvk_graph *g)
{
    (void)d;
    free(g->step);
    free(g);
}

static int emulator_graph_begin(fvk_dev *d)
{
    if (d->recording) return emulator_say(d, FVK_FAILED, "a recording in a recording");
    d->recording = calloc(1, sizeof *d->recording);
    return d->recording ? FVK_OK : emulator_say(d, FVK_NO_MEMORY, "out of memory");
}

static int emulator_graph_end(fvk_dev *d, fvk_graph **out)
{
    fvk_graph *g = d->recording;
    if (!g) return emulator_say(d, FVK_FAILED, "no recording");
    d->recording = NULL;
    if (out) *out = g;
    else emulator_graph_destroy(d, g);
    return FVK_OK;
}

static int emulator_graph_run(fvk_dev *d, fvk_graph *g)
{
    int code = FVK_OK;
    emulator_replays++;
    for (int i = 0; i < g->n && code == FVK_OK; i++) {
        const emulator_step *s = &g->step[i];
        code = s->library ? emulator_library_run(d, s->library, s->pointers)
               : s->kernel == FVK_KERNELS
                   ? emulator_gemm_scaled(d, s->product, &s->operands)
                   : emulator_launch(d, s->kernel, s->blocks, s->args, s->bytes);
    }
    return code;
}

/* ---- Ranks: threads of this process ---------------------------------------------------------- */

#define EMULATED_RANKS 8

/* Ranks come, each with its array; the last one lets all go on. */
typedef struct emulator_hub {
    int32_t pid, size;
    int arrived;
    long round;
    const float *given[EMULATED_RANKS];
} emulator_hub;
static emulator_hub emulator_hubs[16];
static int emulator_hub_count, emulator_no_ranks; /* no_ranks: there is no library */
static atomic_long emulator_rank_sums;
static pthread_mutex_t emulator_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t emulator_wake = PTHREAD_COND_INITIALIZER;

struct fvk_ranks { emulator_hub *hub; int rank; };

static void emulator_meet(emulator_hub *h)
{
    pthread_mutex_lock(&emulator_lock);
    const long round = h->round;
    if (++h->arrived == h->size) {
        h->arrived = 0;
        h->round++;
        pthread_cond_broadcast(&emulator_wake);
    }
    while (h->round == round) pthread_cond_wait(&emulator_wake, &emulator_lock);
    pthread_mutex_unlock(&emulator_lock);
}

static int emulator_ranks_id(fvk_dev *d, uint8_t id[FVK_RANKS_ID])
{
    if (emulator_no_ranks) return emulator_say(d, FVK_UNSUPPORTED, "no library");
    if (!id) return FVK_OK;
    pthread_mutex_lock(&emulator_lock);
    const int32_t number[2] = { (int32_t)getpid(), emulator_hub_count++ % 16 };
    emulator_hubs[number[1]] = (emulator_hub){ .pid = number[0] };
    pthread_mutex_unlock(&emulator_lock);
    memcpy(id, number, sizeof number);
    return FVK_OK;
}

/* Ranks of other processes cannot meet here. */
static int emulator_ranks_open(fvk_dev *d, const uint8_t id[FVK_RANKS_ID], int rank, int size,
                               fvk_ranks **out)
{
    int32_t number[2];
    memcpy(number, id, sizeof number);
    *out = NULL;
    if (number[0] != (int32_t)getpid() || size > EMULATED_RANKS)
        return emulator_say(d, FVK_UNSUPPORTED, "ranks of other processes");
    fvk_ranks *r = calloc(1, sizeof *r);
    if (!r) return emulator_say(d, FVK_NO_MEMORY, "out of memory");
    *r = (fvk_ranks){ &emulator_hubs[number[1]], rank };
    pthread_mutex_lock(&emulator_lock);
    r->hub->size = size;
    pthread_mutex_unlock(&emulator_lock);
    *out = r;
    return FVK_OK;
}

static int emulator_ranks_sum(fvk_dev *d, fvk_ranks *r, float *x, int64_t n)
{
    emulator_hub *h = r->hub;
    float *mine = malloc((size_t)n * sizeof *mine);
    if (!mine || !emulator_owns(d, x, (size_t)n * sizeof *x)) {
        free(mine);
        return emulator_say(d, FVK_FAILED, "a sum that is not of device memory");
    }
    emulator_allow(d, PROT_READ | PROT_WRITE);
    memcpy(mine, x, (size_t)n * sizeof *x);
    h->given[r->rank] = mine;
    emulator_meet(h);
    for (int64_t i = 0; i < n; i++) {
        float sum = h->given[0][i];
        for (int k = 1; k < h->size; k++) sum += h->given[k][i];
        x[i] = sum;
    }
    emulator_allow(d, PROT_NONE);
    emulator_meet(h);
    if (r->rank == 0) emulator_rank_sums++;
    free(mine);
    return FVK_OK;
}

static void emulator_ranks_close(fvk_dev *d, fvk_ranks *r)
{
    (void)d;
    free(r);
}

static const fvk_api emulator_api = {
    FVK_ABI, FVK_KERNELS, emulator_info, emulator_open, emulator_close, emulator_error,
    emulator_alloc, emulator_free, emulator_is_its, emulator_to_device, emulator_to_host, emulator_on_device,
    emulator_zero, emulator_sync, emulator_fault, emulator_launch, emulator_gemm_create,
    emulator_gemm_run, emulator_gemm_scaled, emulator_gemm_destroy, emulator_graph_begin,
    emulator_graph_end, emulator_graph_run, emulator_graph_destroy, emulator_set,
    emulator_conv_create, emulator_attention_create, emulator_library_run, emulator_library_destroy,
    emulator_ranks_id, emulator_ranks_open, emulator_ranks_sum, emulator_ranks_close
};

#endif
