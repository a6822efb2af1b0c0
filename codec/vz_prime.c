/* vz_prime.c - priming: a small block begins with what typical data would have taught the coder.
 *
 * A model holds up to 16 texts, each of one kind (prose, C, markup, ...; vz_model.h). A block names
 * those that suit it, one bit each; before its first byte is coded, their ends are replayed through
 * the context mixing, which is as if they had been coded before the block. A text is sorted so that
 * the most useful part is its end.
 *
 *     bytes replayed = 32 KiB + 4 times the block's bytes, shared equally by the texts named
 *
 * so that a block never waits long for them: learning costs what coding costs. */
#include "vz_model.h"

#include <pthread.h>
#include <string.h>

#define LEAST ((uint64_t)32 << 10)
#define TIMES 4u

/* Bytes of each text that is named, at most. */
static uint64_t share_of(const vz_prior *p, uint64_t size)
{
    int named = 0;
    for (int i = 0; i < p->model->primes; i++) named += (int)(p->primes >> i & 1);
    return named ? (LEAST + TIMES * size) / (uint64_t)named : 0;
}

int vz_prime_list(const vz_cm_options *o, uint64_t size, vz_cm_prime list[VZ_PRIMES])
{
    const vz_prior *p = o->prior;
    int n = 0;
    if (!p || !p->model || !p->primes || size == 0) return 0;
    const uint64_t share = share_of(p, size);
    for (int i = 0; i < p->model->primes; i++) {
        const vz_model_prime *t = &p->model->prime[i];
        if (!(p->primes >> i & 1) || t->text_bytes == 0) continue;
        const size_t bytes = t->text_bytes < share ? t->text_bytes : (size_t)share;
        list[n++] = (vz_cm_prime){t->kind, 0, t->text + (t->text_bytes - bytes), bytes};
    }
    return n;
}

uint64_t vz_prime_bytes(const vz_cm_options *o, uint64_t size)
{
    vz_cm_prime list[VZ_PRIMES];
    const int n = vz_prime_list(o, size, list);
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) sum += list[i].size;
    return sum;
}

/* Fast levels learn texts only for blocks that are coded in an instant. */
static uint64_t limit_of(int level) { return level <= 2 ? VZ_PRIME_BELOW / 16 : VZ_PRIME_BELOW; }

uint64_t vz_prime_bytes_max(const vz_cm_options *o, uint64_t size)
{
    const vz_prior *p = o->prior;
    uint64_t sum = 0;
    if (!p || !p->model || size >= limit_of(o->level)) return 0;
    for (int i = 0; i < p->model->primes; i++) sum += p->model->prime[i].text_bytes;
    return sum < LEAST + TIMES * size ? sum : LEAST + TIMES * size;
}

uint32_t vz_prime_texts(const vz_model *m)
{
    uint32_t bits = 0;
    for (int i = 0; i < m->primes && i < VZ_MODEL_PRIMES; i++)
        bits |= (uint32_t)(m->prime[i].kind == VZ_TEXT) << i;
    return bits;
}

/* ---- Which text suits a block ---------------------------------------------------------------- */

/* Of each class of segments the one that holds most of the block's pieces of PIECE bytes, by hash. */
#define PIECE 6
#define SAMPLE ((size_t)32768) /* bytes of the block that are looked at */
#define MARKS_LOG2 16
#define HELD_AT_LEAST 50u /* one in so many, or nothing suits */

/* A mark: upper half, the hash of the block's piece, never 0; lower half, which texts have it. */
static uint32_t *mark_of(uint32_t *marks, const uint8_t *p, uint32_t *tag)
{
    const uint64_t v = vz_rd32(p) | (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40;
    const uint64_t h = v * 0x9e3779b97f4a7c15u;
    *tag = (uint32_t)(h >> 16 & 0xffff0000u) | 0x10000u;
    return marks + (h >> (64 - MARKS_LOG2));
}

/* Texts of a class serve segments of that class. */
enum { TEXT, CODE, OTHER, CLASSES };
static int class_of(vz_kind k)
{
    return k == VZ_TEXT ? TEXT : k == VZ_X86 || k == VZ_ARM64 ? CODE : OTHER;
}

/* Which classes are a quarter of the context mixing's part of the block, or more. */
static uint32_t classes_of(const vz_segment *segs, int count)
{
    uint64_t bytes[CLASSES] = {0}, sum = 0;
    uint32_t classes = 0;
    for (int i = 0; i < count; i++) {
        if (!vz_kind_is_cm(segs[i].kind)) continue;
        bytes[class_of(segs[i].kind)] += segs[i].size;
        sum += segs[i].size;
    }
    for (int i = 0; i < CLASSES; i++)
        if (bytes[i] > 0 && bytes[i] * 4 >= sum) classes |= 1u << i;
    return classes;
}

/* One bit of mark for each text that has the piece; `candidates`: bits of the texts. */
static void mark_texts(const vz_prior *p, uint32_t candidates, uint32_t *marks)
{
    uint32_t tag;
    for (int i = 0; i < p->model->primes; i++) {
        const vz_model_prime *t = &p->model->prime[i];
        if (!(candidates >> i & 1)) continue;
        for (size_t k = 0; k + PIECE <= t->text_bytes; k++) {
            uint32_t *m = mark_of(marks, t->text + k, &tag);
            if ((*m & 0xffff0000u) == tag) *m |= 1u << i;
        }
    }
}

/* The best of each class: held[i] of n pieces are in text i. */
static uint32_t best_texts(const vz_prior *p, uint32_t candidates, const uint32_t *held, size_t n)
{
    uint32_t chosen = 0;
    for (int c = 0; c < CLASSES; c++) {
        int best = -1;
        for (int i = 0; i < p->model->primes; i++)
            if ((candidates >> i & 1) && class_of(p->model->prime[i].kind) == c &&
                (best < 0 || held[i] > held[best]))
                best = i;
        if (best >= 0 && held[best] * HELD_AT_LEAST > n) chosen |= 1u << best;
    }
    return chosen;
}

fv_status vz_prime_choose(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data, size_t size,
                          const vz_segment *segs, int count, uint32_t *chosen)
{
    uint32_t held[VZ_PRIMES] = {0}, candidates = 0, tag;
    const uint32_t classes = classes_of(segs, count);
    const vz_prior *p = o->prior;
    *chosen = 0;
    if (size >= limit_of(o->level)) return FV_OK;
    for (int i = 0; i < p->model->primes; i++)
        if (classes >> class_of(p->model->prime[i].kind) & 1) candidates |= p->allowed & 1u << i;
    if (!candidates || size < PIECE) return FV_OK;
    uint32_t *marks = fv_calloc(ctx, (size_t)1 << MARKS_LOG2, sizeof *marks);
    if (!marks) return FV_ERR_OOM;
    const size_t n = (size < SAMPLE ? size : SAMPLE) - PIECE + 1;
    for (size_t k = 0; k < n; k++) {
        uint32_t *m = mark_of(marks, data + k, &tag);
        *m = tag;
    }
    mark_texts(p, candidates, marks);
    for (size_t k = 0; k < n; k++) {
        const uint32_t m = *mark_of(marks, data + k, &tag);
        for (int i = 0; i < p->model->primes && (m & 0xffff0000u) == tag; i++) held[i] += m >> i & 1;
    }
    *chosen = best_texts(p, candidates, held, n);
    fv_free(ctx, marks);
    return FV_OK;
}

/* ---- The model that is part of the library (prime_model.S) ------------------------------------ */

#if defined(__ELF__)
extern const unsigned char fvi_prime_model[], fvi_prime_model_end[];
#else /* other object formats: built without */
static const unsigned char fvi_prime_model[1], *const fvi_prime_model_end = fvi_prime_model;
#endif
static vz_model *embedded;
static pthread_once_t embedded_once = PTHREAD_ONCE_INIT;

/* Unpacked once for the whole process, in a context of its own that lives as long as it does: all
 * threads share it. The two labels are separate objects for C, so the difference is taken of their
 * addresses. */
static void open_embedded(void)
{
    const size_t size = (size_t)((uintptr_t)fvi_prime_model_end - (uintptr_t)fvi_prime_model);
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *ctx = NULL;
    o.device = FV_DEVICE_CPU;
    o.threads = 1;
    if (size == 0 || fv_ctx_create(&ctx, &o) != FV_OK) return;
    if (vz_model_read(ctx, &embedded, fvi_prime_model, size) != FV_OK) fv_ctx_destroy(&ctx);
}

const vz_model *vz_prime_model(void)
{
    return pthread_once(&embedded_once, open_embedded) == 0 ? embedded : NULL;
}
