/* vz_fixture.h - what the tests of vzip share: contexts, noise, streams in memory, and what every
 * coder must stand, whatever it codes: one code for every vector width, memory as declared, each
 * allocation failing in turn, cut and changed codes.
 *
 * A vz_case is a coder with something to code. The models of bytes (vz_bytes_case.h), of pieces and
 * of pictures have other arguments than a vz_coder, in which their tests wrap them.
 *
 * Functions that return nothing are tests: they fail the one that is running, as CHECK does. */
#ifndef VZ_FIXTURE_H
#define VZ_FIXTURE_H

#include "sanitized.h"
#include "../codec/internal.h"
#include "alloc_fail.h"
#include "test.h"

/* ---- Contexts, numbers, noise ---------------------------------------------------------------- */

/* threads 0: all; disable: sets of instructions that are not used. The caller destroys it. */
static inline fv_ctx *vz_test_ctx(int threads, uint32_t disable)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = threads;
    o.cpu_disable = disable;
    fv_ctx *ctx = NULL;
    if (fv_ctx_create(&ctx, &o) != FV_OK) abort();
    return ctx;
}

/* NULL if the heap does not even suffice for a context. */
static inline fv_ctx *vz_failing_ctx(alloc_fail *heap, int threads)
{
    const fv_allocator al = alloc_fail_allocator(heap);
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.alloc = &al;
    o.threads = threads;
    fv_ctx *ctx = NULL;
    return fv_ctx_create(&ctx, &o) == FV_OK ? ctx : NULL;
}

/* For the end of main: the exit code of the tests and of this context, which goes. */
static inline int vz_test_end(fv_ctx **ctx)
{
    fv_memory_stats m;
    fv_ctx_memory(*ctx, &m);
    if (m.current_bytes) printf("# %llu bytes leaked\n", (unsigned long long)m.current_bytes);
    fv_ctx_destroy(ctx);
    return test_end() || m.current_bytes;
}

static inline bool vz_test_is_full(int argc, char **argv)
{
    return argc > 1 && strcmp(argv[1], "--full") == 0;
}

static inline void put_number(uint8_t *p, uint32_t v, int bytes, bool is_big)
{
    for (int i = 0; i < bytes; i++) p[is_big ? bytes - 1 - i : i] = (uint8_t)(v >> (8 * i));
}

static inline void put_noise(uint8_t *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(test_next(&seed) >> 13);
}

/* ---- Coders ---------------------------------------------------------------------------------- */

typedef struct vz_case {
    const vz_coder *coder;
    vz_cm_options o;
    uint32_t param;
    const uint8_t *data;
    size_t size;
} vz_case;

static inline fv_status vz_case_encode(fv_ctx *ctx, const vz_case *t, vz_buf *b, bool *fits)
{
    return t->coder->encode(ctx, &t->o, t->param, t->data, t->size, b, fits);
}

static inline fv_status vz_case_decode(fv_ctx *ctx, const vz_case *t, const uint8_t *code,
                                       size_t code_size, uint8_t *back)
{
    return t->coder->decode(ctx, &t->o, t->param, code, code_size, back, t->size);
}

/* FV_ERR_INTERNAL: decoded to something else. *size: of the code, 0 if the coder declined. */
static inline fv_status vz_case_run(fv_ctx *ctx, const vz_case *t, size_t *size, uint32_t *crc)
{
    uint8_t *back = malloc(t->size + 1);
    bool fits = false;
    vz_buf b;
    vz_buf_init(&b, ctx);
    if (!back) abort();
    memset(back, 0xa5, t->size + 1);
    fv_status s = vz_case_encode(ctx, t, &b, &fits);
    if (s == FV_OK && fits) s = vz_case_decode(ctx, t, b.data, b.size, back);
    if (s == FV_OK && fits && t->size && memcmp(back, t->data, t->size) != 0) s = FV_ERR_INTERNAL;
    if (back[t->size] != 0xa5) s = FV_ERR_INTERNAL;
    *size = fits ? b.size : 0;
    if (crc) *crc = fv_crc32(0, b.data, b.size);
    vz_buf_free(&b);
    free(back);
    return s;
}

/* Size of the code; 0 when the coder declined; -1 when something went wrong. */
static inline int64_t vz_round_trip(fv_ctx *ctx, vz_case t, uint32_t *crc)
{
    size_t size;
    return vz_case_run(ctx, &t, &size, crc) == FV_OK ? (int64_t)size : -1;
}

static inline void same_code_for_every_vector_width(vz_case t)
{
    static const uint32_t MASKS[] = {0, FV_CPU_AVX512, FV_CPU_AVX512 | FV_CPU_AVX2};
    uint32_t crc[3] = {0, 0, 0};
    for (int m = 0; m < 3; m++) {
        fv_ctx *ctx = vz_test_ctx(0, MASKS[m]);
        const int64_t coded = vz_round_trip(ctx, t, &crc[m]);
        fv_ctx_destroy(&ctx);
        CHECK(coded > 0);
    }
    CHECK_MSG(crc[0] == crc[1] && crc[0] == crc[2], "level %d", t.o.level);
}

static inline void memory_is_as_declared(vz_case t)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    uint8_t *back = malloc(t.size + 1);
    bool fits = false;
    fv_memory_stats m = {0};
    vz_buf b;
    vz_buf_init(&b, ctx);
    fv_status s = back ? vz_case_encode(ctx, &t, &b, &fits) : FV_ERR_OOM;
    if (s == FV_OK && fits) s = vz_case_decode(ctx, &t, b.data, b.size, back);
    fv_ctx_memory(ctx, &m);
    /* The code grows in a buffer that is not counted: twice it while it is copied. */
    const uint64_t allowed = t.coder->memory(&t.o, t.param, t.size) + 2 * b.capacity;
    vz_buf_free(&b);
    fv_ctx_destroy(&ctx);
    free(back);
    CHECK(s == FV_OK && fits);
    CHECK_MSG(m.peak_bytes <= allowed, "level %d, %zu bytes of data: %llu bytes, declared %llu",
              t.o.level, t.size, (unsigned long long)m.peak_bytes, (unsigned long long)allowed);
}

/* The first allocation fails, then the second, ... until coding and decoding succeed. */
static inline void each_allocation_may_fail(vz_case t)
{
    fv_status s = FV_ERR_OOM;
    size_t size = 0;
    for (int left = 0; left < 200 && s != FV_OK; left++) {
        alloc_fail heap = {.left = ALLOC_ALL};
        fv_ctx *ctx = vz_failing_ctx(&heap, 0);
        CHECK(ctx);
        const int64_t before = heap.live;
        heap.left = left;
        s = vz_case_run(ctx, &t, &size, NULL);
        const bool is_clean = heap.live == before;
        heap.left = ALLOC_ALL;
        fv_ctx_destroy(&ctx);
        CHECK_MSG(is_clean && heap.live == 0, "allocation %d", left);
        CHECK_MSG(s == FV_OK || s == FV_ERR_OOM, "allocation %d: %s", left, fv_status_name(s));
    }
    CHECK(s == FV_OK && size > 0);
}

static inline bool is_bad_code(fv_status s, bool is_cut)
{
    return s == FV_ERR_TRUNCATED || s == FV_ERR_FORMAT || (s == FV_OK && !is_cut);
}

/* Cut codes are noticed; changed ones are noticed or decode to something. */
static inline void wrong_codes_are_survived(vz_case t)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    uint8_t *back = malloc(t.size + 1);
    bool fits = false;
    vz_buf b;
    vz_buf_init(&b, ctx);
    bool is_good = back && vz_case_encode(ctx, &t, &b, &fits) == FV_OK && fits && b.size > 20 &&
                   is_bad_code(vz_case_decode(ctx, &t, NULL, 0, back), true);
    for (size_t cut = 0; is_good && cut < b.size - 8; cut += 1 + cut / 3)
        is_good = is_bad_code(vz_case_decode(ctx, &t, b.data, cut, back), true);
    /* All bits of the first bytes, a bit of each of the next ones, some of the others. */
    for (size_t i = 0; is_good && i < b.size * 8; i += i < 96 ? 1 : i < 512 ? 7 : 53) {
        b.data[i / 8] ^= (uint8_t)(1 << i % 8);
        is_good = is_bad_code(vz_case_decode(ctx, &t, b.data, b.size, back), false);
        b.data[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    vz_buf_free(&b);
    free(back);
    fv_memory_stats m;
    fv_ctx_memory(ctx, &m);
    fv_ctx_destroy(&ctx);
    CHECK(is_good);
    CHECK(m.current_bytes == 0);
}

/* ---- Archives -------------------------------------------------------------------------------- */

static inline fv_vzip_options vz_test_options(int level, uint64_t block)
{
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    o.level = level;
    o.block_bytes = block;
    return o;
}

static inline bool unpacks_to(fv_ctx *ctx, const uint8_t *vz, size_t size, const void *data,
                              size_t n)
{
    uint8_t *back;
    size_t got;
    if (fv_vzip_decompress(ctx, vz, size, n + 1, NULL, &back, &got) != FV_OK) return false;
    const bool is_same = got == n && (n == 0 || memcmp(back, data, n) == 0);
    fv_free(ctx, back);
    return is_same;
}

/* The first archive is kept; later ones are compared with it. */
static inline bool is_as_the_first(vz_buf *first, const uint8_t *vz, size_t size)
{
    if (first->size == 0) vz_buf_put(first, vz, size);
    return first->status == FV_OK && first->size == size && memcmp(first->data, vz, size) == 0;
}

/* Any status but OK, or the right bytes. */
static inline void damage_is_seen_or_harmless(fv_ctx *c, const uint8_t *vz, size_t size,
                                              const void *data, size_t n, size_t where)
{
    uint8_t *back;
    size_t got;
    const fv_status s = fv_vzip_decompress(c, vz, size, n, NULL, &back, &got);
    if (s != FV_OK) {
        CHECK(back == NULL && got == 0 && fv_ctx_error(c)[0]);
        CHECK_MSG((s >= 20 && s < 40) || s == FV_ERR_OOM, "%s", fv_status_name(s));
        return;
    }
    const bool is_same = got == n && memcmp(back, data, n) == 0;
    fv_free(c, back);
    CHECK_MSG(is_same, "silently wrong: bit %zu", where);
}

static inline void each_flip_is_seen_or_harmless(fv_ctx *c, uint8_t *vz, size_t size,
                                                 const void *data, size_t n)
{
    for (size_t bit = 0; bit < 8 * size && !test_bad; bit += TEST_SANITIZED ? 3 : 1) {
        vz[bit / 8] ^= (uint8_t)(1u << bit % 8);
        damage_is_seen_or_harmless(c, vz, size, data, n, bit);
        vz[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* Streams in memory whose reads are short, in changing lengths. */
typedef struct pipe_io {
    const uint8_t *in;
    size_t left, step; /* step 0: as much as is asked for */
    uint8_t *out;
    size_t written, room;
    int fail_read, fail_write; /* at so many calls; 0 = never */
} pipe_io;

static inline int64_t pipe_read(void *user, void *to, size_t size)
{
    pipe_io *p = user;
    if (p->fail_read && --p->fail_read == 0) return -1;
    size_t n = p->step ? 1 + p->left % p->step : size;
    if (n > size) n = size;
    if (n > p->left) n = p->left;
    if (n) memcpy(to, p->in, n);
    p->in += n;
    p->left -= n;
    return (int64_t)n;
}

static inline int pipe_write(void *user, const void *from, size_t n)
{
    pipe_io *p = user;
    if (p->fail_write && --p->fail_write == 0) return 1;
    if (n > p->room - p->written) return 1;
    memcpy(p->out + p->written, from, n);
    p->written += n;
    return 0;
}

static inline fv_vzip_io pipe_both(pipe_io *p)
{
    return (fv_vzip_io){pipe_read, pipe_write, p};
}

/* What fv_vzip_recover makes of an archive in memory. */
typedef struct recovered {
    const uint8_t *vz;
    pipe_io io;
    int damages;
    fv_vzip_damage damage[64]; /* the first of them */
    uint64_t lost;
    fv_vzip_stats stats;
} recovered;

static inline int recovered_read(void *user, uint64_t offset, void *to, size_t n)
{
    memcpy(to, ((const recovered *)user)->vz + offset, n);
    return 0;
}

static inline int recovered_write(void *user, const void *from, size_t n)
{
    return pipe_write(&((recovered *)user)->io, from, n);
}

static inline void recovered_damage(void *user, const fv_vzip_damage *d)
{
    recovered *r = user;
    if (r->damages < 64) r->damage[r->damages] = *d;
    r->damages++;
}

static inline fv_status vz_test_recover(fv_ctx *ctx, recovered *r, const uint8_t *vz, size_t size,
                                        uint8_t *out, size_t room)
{
    const fv_vzip_source source = {recovered_read, size, r};
    const fv_vzip_io io = {NULL, recovered_write, r};
    *r = (recovered){.vz = vz, .io = {.out = out, .room = room}};
    return fv_vzip_recover(ctx, &source, &io, room, NULL, recovered_damage, &r->lost, &r->stats);
}

/* All that a program does: packs, unpacks, reads 100 bytes at `at`. */
static inline fv_status whole_job(fv_ctx *c, const uint8_t *data, size_t n, uint64_t block,
                                  size_t at)
{
    const fv_vzip_options o = vz_test_options(1, block);
    uint8_t *vz = NULL, *back = NULL, part[100];
    size_t size, got;
    fv_vzip_archive *a = NULL;
    fv_status s = fv_vzip_compress(c, data, n, &o, &vz, &size);
    if (s == FV_OK) s = fv_vzip_decompress(c, vz, size, n, NULL, &back, &got);
    if (s == FV_OK && (got != n || memcmp(back, data, n) != 0)) s = FV_ERR_INTERNAL;
    if (s == FV_OK) s = fv_vzip_open_memory(c, &a, vz, size, NULL);
    if (s == FV_OK) s = fv_vzip_read(c, a, at, sizeof part, part, &got);
    if (s == FV_OK && memcmp(part, data + at, sizeof part) != 0) s = FV_ERR_INTERNAL;
    fv_vzip_close(&a);
    fv_free(c, back);
    fv_free(c, vz);
    return s;
}

/* Each of the first 60 allocations of it, then each step-th, fails until it succeeds. */
static inline void each_allocation_of_a_job_may_fail(const uint8_t *data, size_t n, uint64_t block,
                                                     size_t at, int step)
{
    for (int64_t left = 0;; left += left < 60 ? 1 : step) {
        alloc_fail heap = {.left = left};
        fv_ctx *c = vz_failing_ctx(&heap, 2);
        if (!c) continue;
        const fv_status s = whole_job(c, data, n, block, at);
        const bool has_message = fv_ctx_error(c)[0] != 0;
        fv_ctx_destroy(&c);
        CHECK_MSG(heap.live == 0, "allocation %d: %d blocks left", (int)left, (int)heap.live);
        if (s == FV_OK) break;
        CHECK_MSG(s == FV_ERR_OOM && has_message, "allocation %d: %s", (int)left,
                  fv_status_name(s));
        CHECK(left < 5000);
    }
}

#endif
