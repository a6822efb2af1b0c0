/* test_rdvq_code.c - tokens of RDVQ as bytes: round trips over grids of all kinds, prefixes, cuts
 * at every byte, damage, completion, prices, choosers, golden segments; the same bytes for any
 * number of threads, windows a call and variant of the CPU. --full: a picture of 4096 x 2160 too;
 * --bench: speed of the presets beside that of their products alone, which is all it does. */
#include "alloc_fail.h"
#include "rdvq_code.h"
#include "rdvq_golden_segments.h"
#include "rdvq_int_fixture.h"
#include "test.h"

#include <time.h>

static fv_ctx *ctx;
static uint64_t seed = 5;

/* A picture's windows as one tile, with tokens that the model finds likely. */
typedef struct scene {
    const rdvq_int *m;
    rdvq_coder *coder;
    rdvq_tile tile;
    uint8_t *is_coded;
    int32_t *tokens, *back;
    vz_buf seg[RDVQ_MAX_LAYERS];
    double bits;
    int coded;
} scene;

static void scene_free(scene *s)
{
    rdvq_coder_close(&s->coder);
    free(s->is_coded);
    free(s->tokens);
    free(s->back);
    for (int k = 0; k < RDVQ_MAX_LAYERS; k++) vz_buf_free(&s->seg[k]);
}

static void scene_clear(scene *s)
{
    for (int k = 0; k < RDVQ_MAX_LAYERS; k++) {
        vz_buf_free(&s->seg[k]);
        vz_buf_init(&s->seg[k], ctx);
    }
}

/* Tokens drawn by the model itself, or any. */
static fv_status scene_make(scene *s, const rdvq_int *m, int width, int height, bool is_random)
{
    const rdvq_segment none[RDVQ_MAX_LAYERS] = { { NULL, 0, 0 } };
    const rdvq_complete draw = { 1, 77, 3 };
    const int T = m->slices.tokens;
    rdvq_grid g;
    int row, column, decoded;
    memset(s, 0, sizeof *s);
    scene_clear(s);
    FV_TRY(rdvq_grid_of(ctx, &m->cfg, width, height, &g));
    const size_t n = (size_t)(g.windows_x * g.windows_y * T);
    s->m = m;
    s->tile.windows = g.windows_x * g.windows_y;
    s->tile.is_coded = s->is_coded = calloc(n, 1);
    s->tokens = calloc(n, sizeof *s->tokens);
    s->back = calloc(n, sizeof *s->back);
    for (int w = 0; w < s->tile.windows; w++)
        for (int p = 0; p < T; p++) {
            s->is_coded[w * T + p] = rdvq_place(&g, &m->slices, w, p, &row, &column);
            s->coded += s->is_coded[w * T + p];
        }
    FV_TRY(rdvq_coder_open(ctx, &s->coder, m, s->tile.windows));
    FV_TRY(rdvq_tile_decode(s->coder, &s->tile, 0, none, &draw, s->tokens, &decoded));
    for (size_t i = 0; i < n && is_random; i++)
        if (s->is_coded[i])
            s->tokens[i] = (int32_t)(test_next(&seed) % (uint32_t)m->cfg.codes);
    return FV_OK;
}

static fv_status scene_encode(scene *s, int slices)
{
    scene_clear(s);
    return rdvq_tile_encode(s->coder, &s->tile, slices, NULL, s->tokens, s->seg, &s->bits);
}

/* cut: bytes kept of segment `layer`; -1: all. Segments behind it are empty. */
static fv_status scene_decode(scene *s, int slices, int layer, size_t cut,
                              const rdvq_complete *complete, int *decoded)
{
    rdvq_segment seg[RDVQ_MAX_LAYERS];
    for (int k = 0; k < RDVQ_MAX_LAYERS; k++) {
        seg[k] = (rdvq_segment){ s->seg[k].data, s->seg[k].size, 0 };
        if (layer >= 0 && k == layer) seg[k] = (rdvq_segment){ s->seg[k].data, cut, 1 };
        if (layer >= 0 && k > layer) seg[k] = (rdvq_segment){ NULL, 0, 1 };
    }
    const size_t n = (size_t)(s->tile.windows * s->m->slices.tokens);
    memset(s->back, 0xff, n * sizeof *s->back);
    return rdvq_tile_decode(s->coder, &s->tile, slices, seg, complete, s->back, decoded);
}

/* Are the tokens of slices below n those that were coded? */
static bool same_up_to(const scene *s, int n)
{
    const int T = s->m->slices.tokens;
    for (int i = 0; i < s->tile.windows * T; i++) {
        if (!s->is_coded[i]) {
            if (s->back[i] != s->m->cfg.pad_token) return false;
        } else if (s->m->slices.slice_of[i % T] < n && s->back[i] != s->tokens[i]) {
            return false;
        }
        if (s->back[i] < 0 || s->back[i] >= s->m->cfg.codes) return false;
    }
    return true;
}

static size_t bytes_of(const scene *s)
{
    size_t n = 0;
    for (int k = 0; k < s->m->slices.layers; k++) n += s->seg[k].size;
    return n;
}

static rdvq_int *model_of(int groups, int codes)
{
    rdvq_config c = rdvq_tiny(groups);
    rdvq_int *m = NULL;
    c.codes = codes;
    if (rdvq_int_random(ctx, &m, &c, 1) != FV_OK) abort();
    return m;
}

/* ---- Round trips ----------------------------------------------------------------------------- */

static void round_trip(const rdvq_int *m, int width, int height, bool is_random)
{
    scene s;
    int decoded = 0;
    OK(ctx, scene_make(&s, m, width, height, is_random));
    OK(ctx, scene_encode(&s, m->slices.slices));
    OK(ctx, scene_decode(&s, m->slices.slices, -1, 0, NULL, &decoded));
    CHECK_MSG(decoded == m->slices.slices && same_up_to(&s, decoded), "%d x %d", width, height);
    /* test of the size: within 0.1 % and 6 bytes a segment */
    const double bytes = (double)bytes_of(&s), want = s.bits / 8;
    CHECK_MSG(fabs(bytes - want) <= 0.001 * want + 6 * m->slices.layers, "%g bytes, %g estimated",
              bytes, want);
    CHECK(bytes <= 8.0 * m->slices.layers + 4.0 * s.coded);
    scene_free(&s);
}

static void tokens_come_back_from_all_grids(void)
{
    static const int size[][2] = { { 1, 1 }, { 7, 3 }, { 63, 65 }, { 128, 128 }, { 257, 511 },
                                   { 33, 400 }, { 768, 512 } };
    for (int k = 0; k < 6; k++) {
        rdvq_int *m = model_of(1 + k % 3, k < 3 ? 64 : k < 4 ? 1008 : 16);
        for (size_t i = 0; i < FV_ARRAY_LEN(size) && !test_bad; i++)
            round_trip(m, size[i][0], size[i][1], k & 1);
        rdvq_int_close(&m);
    }
}

/* --full */
static void tokens_come_back_from_a_large_picture(void)
{
    rdvq_int *m = model_of(1, 64);
    round_trip(m, 4096, 2160, false);
    rdvq_int_close(&m);
}

static void likely_tokens_cost_less(void)
{
    rdvq_int *m = model_of(1, 64);
    scene a, b;
    OK(ctx, scene_make(&a, m, 256, 256, false));
    OK(ctx, scene_make(&b, m, 256, 256, true));
    OK(ctx, scene_encode(&a, m->slices.slices));
    OK(ctx, scene_encode(&b, m->slices.slices));
    CHECK_MSG(a.bits < 5.5 * a.coded && b.bits > 6.2 * b.coded, "%g and %g bits of a token",
              a.bits / a.coded, b.bits / b.coded);
    scene_free(&a);
    scene_free(&b);
    rdvq_int_close(&m);
}

/* ---- The same bytes whatever computes them --------------------------------------------------- */

static uint32_t crc_of(const scene *s)
{
    uint32_t crc = 0;
    for (int k = 0; k < s->m->slices.layers; k++)
        crc = fv_crc32(crc, s->seg[k].data, s->seg[k].size);
    return crc;
}

static void threads_and_cpus_change_nothing(void)
{
    static const uint32_t off[] = { 0, FV_CPU_AVX512VNNI, FV_CPU_AVX512VNNI | FV_CPU_AVX512,
                                    FV_CPU_AVX512VNNI | FV_CPU_AVX512 | FV_CPU_AVX2 };
    fv_ctx *const before = ctx;
    const rdvq_config c = rdvq_tiny(2);
    uint32_t want = 0;
    for (int k = 0; k < 12; k++) {
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        rdvq_int *m;
        scene s;
        int decoded;
        o.threads = 1 << k % 3;
        o.cpu_disable = off[k / 3];
        OK(before, fv_ctx_create(&ctx, &o));
        OK(ctx, rdvq_int_random(ctx, &m, &c, 1));
        OK(ctx, scene_make(&s, m, 300, 200, false));
        OK(ctx, scene_encode(&s, m->slices.slices));
        if (k == 0) want = crc_of(&s);
        CHECK_MSG(crc_of(&s) == want, "%d threads, %s", o.threads, m->ops->name);
        OK(ctx, scene_decode(&s, m->slices.slices, -1, 0, NULL, &decoded));
        CHECK(same_up_to(&s, m->slices.slices));
        scene_free(&s);
        rdvq_int_close(&m);
        fv_ctx_destroy(&ctx);
    }
    ctx = before;
}

/* A window codes the same tokens with the same prices wherever it stands in a tile. */
static void windows_do_not_see_each_other(void)
{
    rdvq_int *m = model_of(1, 64);
    const int T = m->slices.tokens;
    scene all, one;
    double bits = 0;
    OK(ctx, scene_make(&all, m, 512, 384, false));
    OK(ctx, scene_encode(&all, m->slices.slices));
    OK(ctx, scene_make(&one, m, 128, 128, false));
    for (int w = 0; w < all.tile.windows; w++) {
        memcpy(one.tokens, all.tokens + w * T, (size_t)T * sizeof *one.tokens);
        OK(ctx, scene_encode(&one, m->slices.slices));
        bits += one.bits;
    }
    NEAR(bits, all.bits, 1e-6 * bits);
    scene_free(&all);
    scene_free(&one);
    rdvq_int_close(&m);
}

/* ---- Prefixes and cuts ----------------------------------------------------------------------- */

static void prefixes_are_completed(void)
{
    rdvq_int *m = model_of(2, 64);
    const size_t n = (size_t)m->slices.tokens;
    int32_t *first = malloc(n * sizeof *first);
    scene s;
    OK(ctx, scene_make(&s, m, 128, 90, false));
    for (int slices = 0; slices <= m->slices.slices; slices++) {
        const rdvq_complete draw = { 1, 9, 1 }, other = { 1, 10, 1 };
        int decoded = -1;
        OK(ctx, scene_encode(&s, slices));
        for (int k = 0; k < m->slices.layers; k++)
            CHECK((s.seg[k].size > 0) == (slices > m->slices.layer[k].first_slice));
        for (int round = 0; round < 2; round++) { /* the same completion twice */
            OK(ctx, scene_decode(&s, slices, -1, 0, round ? NULL : &draw, &decoded));
            CHECK(decoded == slices && same_up_to(&s, slices));
            memcpy(first, s.back, n * sizeof *first);
            OK(ctx, scene_decode(&s, slices, -1, 0, round ? NULL : &draw, &decoded));
            CHECK(memcmp(first, s.back, n * sizeof *first) == 0);
        }
        OK(ctx, scene_decode(&s, slices, -1, 0, &draw, &decoded));
        memcpy(first, s.back, n * sizeof *first);
        OK(ctx, scene_decode(&s, slices, -1, 0, &other, &decoded));
        CHECK((memcmp(first, s.back, n * sizeof *first) == 0) == (slices == m->slices.slices));
    }
    free(first);
    scene_free(&s);
    rdvq_int_close(&m);
}

/* Fewer slices than were coded: the segment goes on, so it counts as cut. */
static void a_decoder_may_stop_early(void)
{
    rdvq_int *m = model_of(1, 64);
    scene s;
    int decoded;
    OK(ctx, scene_make(&s, m, 200, 200, true));
    OK(ctx, scene_encode(&s, m->slices.slices));
    for (int slices = 0; slices < m->slices.slices; slices++) {
        int layer = 0;
        while (layer + 1 < m->slices.layers && m->slices.layer[layer + 1].first_slice < slices)
            layer++;
        OK(ctx, scene_decode(&s, slices, layer, s.seg[layer].size, NULL, &decoded));
        CHECK_MSG(decoded == slices && same_up_to(&s, slices), "%d of %d", decoded, slices);
    }
    scene_free(&s);
    rdvq_int_close(&m);
}

static void cuts_keep_what_came_before(void)
{
    rdvq_int *m = model_of(1, 64);
    scene s;
    OK(ctx, scene_make(&s, m, 60, 50, true));
    OK(ctx, scene_encode(&s, m->slices.slices));
    for (int k = 0; k < m->slices.layers; k++) {
        const rdvq_layer *l = &m->slices.layer[k];
        int before = l->first_slice;
        for (size_t cut = 0; cut <= s.seg[k].size && !test_bad; cut++) {
            int decoded = -1;
            OK(ctx, scene_decode(&s, m->slices.slices, k, cut, NULL, &decoded));
            CHECK_MSG(decoded >= before && decoded <= l->first_slice + l->slices,
                      "layer %d, %zu bytes: %d slices", k, cut, decoded);
            CHECK(same_up_to(&s, decoded));
            before = decoded;
            /* the same bytes, said to be all: an error */
            rdvq_segment seg[RDVQ_MAX_LAYERS];
            for (int i = 0; i < RDVQ_MAX_LAYERS; i++)
                seg[i] = (rdvq_segment){ s.seg[i].data, i == k ? cut : s.seg[i].size, 0 };
            CHECK((rdvq_tile_decode(s.coder, &s.tile, m->slices.slices, seg, NULL, s.back,
                                    &decoded) == FV_OK) == (cut == s.seg[k].size));
        }
        CHECK(before == l->first_slice + l->slices);
    }
    scene_free(&s);
    rdvq_int_close(&m);
}

static void damage_is_found(void)
{
    rdvq_int *m = model_of(1, 64);
    scene s;
    int decoded, missed = 0;
    OK(ctx, scene_make(&s, m, 128, 128, false));
    OK(ctx, scene_encode(&s, m->slices.slices));
    for (int round = 0; round < 300; round++) {
        vz_buf *b = &s.seg[round % m->slices.layers];
        const size_t at = test_next(&seed) % b->size;
        const uint8_t bit = (uint8_t)(1u << test_next(&seed) % 8);
        b->data[at] ^= bit;
        const fv_status r = scene_decode(&s, m->slices.slices, -1, 0, NULL, &decoded);
        missed += r == FV_OK;
        CHECK(r == FV_OK || r == FV_ERR_FORMAT);
        b->data[at] ^= bit;
    }
    CHECK_MSG(missed == 0, "%d of 300", missed);
    rdvq_segment seg[RDVQ_MAX_LAYERS] = { { NULL, 0, 0 } };
    for (int k = 0; k < m->slices.layers; k++) {
        vz_buf_byte(&s.seg[k], 0); /* stray bytes */
        seg[k] = (rdvq_segment){ s.seg[k].data, s.seg[k].size, 0 };
    }
    CHECK(rdvq_tile_decode(s.coder, &s.tile, m->slices.slices, seg, NULL, s.back, &decoded) ==
          FV_ERR_FORMAT);
    scene_free(&s);
    rdvq_int_close(&m);
}

/* ---- Prices ---------------------------------------------------------------------------------- */

typedef struct chooser {
    int codes, calls, last_slice, window;
    const rdvq_slices *s;
    double bits;
    bool in_order, sums_to_one;
} chooser;

/* The cheapest of four. */
static int32_t cheapest(void *user, int window, int position, const rdvq_prices *p)
{
    chooser *c = user;
    const int slice = c->s->slice_of[position];
    int32_t best = -1;
    uint32_t least = UINT32_MAX;
    double sum = 0;
    if (slice < c->last_slice || (slice == c->last_slice && window < c->window))
        c->in_order = false;
    c->last_slice = slice;
    c->window = window;
    for (int i = 0; i < 4; i++) {
        const int32_t code = (int32_t)((position * 7 + i * 11) % c->codes);
        if (rdvq_price(p, code) < least) least = rdvq_price(p, code), best = code;
    }
    if (c->calls++ % 50 == 0) {
        for (int k = 0; k < c->codes; k++) sum += exp2(-(double)rdvq_price(p, k) / 65536);
        c->sums_to_one = c->sums_to_one && fabs(sum - 1) < 1e-4;
    }
    c->bits += least / 65536.0;
    return best;
}

static void a_chooser_pays_what_it_is_told(void)
{
    rdvq_int *m = model_of(2, 1008);
    scene s;
    int decoded;
    chooser c = { m->cfg.codes, 0, 0, 0, &m->slices, 0, true, true };
    const rdvq_chooser choose = { cheapest, &c };
    OK(ctx, scene_make(&s, m, 300, 170, false));
    OK(ctx, rdvq_tile_encode(s.coder, &s.tile, m->slices.slices, &choose, s.tokens, s.seg,
                             &s.bits));
    CHECK(c.calls == s.coded && c.in_order && c.sums_to_one);
    NEAR(s.bits, c.bits, 1e-6 * c.bits);
    NEAR((double)bytes_of(&s), c.bits / 8, 0.001 * c.bits / 8 + 6 * m->slices.layers);
    OK(ctx, scene_decode(&s, m->slices.slices, -1, 0, NULL, &decoded));
    CHECK(same_up_to(&s, m->slices.slices));
    scene_free(&s);
    rdvq_int_close(&m);
}

static void wrong_calls_are_refused(void)
{
    rdvq_int *m = model_of(1, 64);
    scene s;
    rdvq_coder *c = NULL;
    rdvq_tile t;
    int decoded;
    OK(ctx, scene_make(&s, m, 128, 128, false));
    CHECK(rdvq_coder_open(ctx, &c, m, 0) == FV_ERR_ARG && !c);
    CHECK(scene_encode(&s, m->slices.slices + 1) == FV_ERR_ARG);
    CHECK(scene_encode(&s, -1) == FV_ERR_ARG);
    t = (rdvq_tile){ 2, s.is_coded };
    CHECK(rdvq_tile_encode(s.coder, &t, 1, NULL, s.tokens, s.seg, NULL) == FV_ERR_ARG);
    s.tokens[3] = 64;
    CHECK(scene_encode(&s, m->slices.slices) == FV_ERR_ARG);
    s.tokens[3] = -1;
    CHECK(scene_encode(&s, m->slices.slices) == FV_ERR_ARG);
    s.tokens[3] = 63;
    OK(ctx, scene_encode(&s, m->slices.slices));
    OK(ctx, scene_decode(&s, m->slices.slices, -1, 0, NULL, &decoded));
    CHECK(rdvq_coder_memory(m, 16, 2) > 16 * 2 * rdvq_int_cache_size(m));
    CHECK(rdvq_coder_memory(m, 1 << 30, 2) > (uint64_t)1 << 40);
    rdvq_coder_close(&c);
    scene_free(&s);
    rdvq_int_close(&m);
}

/* ---- For ever -------------------------------------------------------------------------------- */

static void golden_segments_decode(void)
{
    rdvq_int *m = model_of(2, 64);
    rdvq_segment seg[RDVQ_MAX_LAYERS] = { { NULL, 0, 0 } };
    uint8_t bytes[4 * 592];
    scene s;
    int decoded, at = 0;
    OK(ctx, scene_make(&s, m, 128, 100, false));
    for (int k = 0; k < m->slices.layers; k++) {
        seg[k] = (rdvq_segment){ golden_bytes + at, (size_t)golden_sizes[k], 0 };
        at += golden_sizes[k];
    }
    CHECK(at == (int)sizeof golden_bytes && m->slices.tokens == 592);
    OK(ctx, rdvq_tile_decode(s.coder, &s.tile, m->slices.slices, seg, NULL, s.back, &decoded));
    for (int i = 0; i < 592; i++)
        for (int b = 0; b < 4; b++) bytes[4 * i + b] = (uint8_t)((uint32_t)s.back[i] >> (8 * b));
    CHECK(fv_crc32(0, bytes, sizeof bytes) == GOLDEN_TOKENS);
    OK(ctx, scene_encode(&s, m->slices.slices)); /* drawn as those were */
    for (int k = 0; k < m->slices.layers; k++)
        CHECK(s.seg[k].size == seg[k].size &&
              memcmp(s.seg[k].data, seg[k].bytes, seg[k].size) == 0);
    scene_free(&s);
    rdvq_int_close(&m);
}

/* The first allocation fails, then the second, ... */
static void coding_survives_lack_of_memory(void)
{
    rdvq_int *m = model_of(1, 64);
    fv_status r = FV_ERR_OOM;
    scene s;
    OK(ctx, scene_make(&s, m, 128, 128, false));
    for (int n = 0; r == FV_ERR_OOM && n < 100; n++) {
        alloc_fail heap = { .left = ALLOC_ALL };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        rdvq_coder *c = NULL;
        vz_buf seg[RDVQ_MAX_LAYERS];
        fv_ctx *poor;
        o.alloc = &al;
        OK(ctx, fv_ctx_create(&poor, &o));
        const int64_t before = heap.live;
        heap.left = n;
        for (int k = 0; k < RDVQ_MAX_LAYERS; k++) vz_buf_init(&seg[k], poor);
        r = rdvq_coder_open(poor, &c, m, 1);
        if (r == FV_OK)
            r = rdvq_tile_encode(c, &s.tile, m->slices.slices, NULL, s.tokens, seg, NULL);
        heap.left = ALLOC_ALL;
        for (int k = 0; k < RDVQ_MAX_LAYERS; k++) vz_buf_free(&seg[k]);
        rdvq_coder_close(&c);
        CHECK(r == FV_OK || r == FV_ERR_OOM);
        CHECK(heap.live == before);
        fv_ctx_destroy(&poor);
    }
    CHECK(r == FV_OK);
    scene_free(&s);
    rdvq_int_close(&m);
}

/* ---- Speed (--bench) ------------------------------------------------------------------------- */

static double processor_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The products of weights alone, in blocks of rows as the coder has them. */
static void floor_of(const rdvq_int *m, int windows)
{
    static int16_t x[RDVQ_ROWS * 1024];
    static int32_t out[RDVQ_ROWS * 4096];
    for (int rows = windows * m->slices.tokens; rows > 0; rows -= RDVQ_ROWS)
        for (int l = 0; l <= m->cfg.depth; l++) {
            const rdvq_int_layer *y = &m->layer[l];
            const rdvq_matrix *const all[] = { &y->qkv, &y->wo, &y->w13, &y->w2 };
            for (int k = 0; k < (l < m->cfg.depth ? 4 : 1); k++) {
                const rdvq_matrix *a = l < m->cfg.depth ? all[k] : &m->output;
                const rdvq_dots d = { a->w, a->rows / 16, a->columns / 2, a->columns / 2, NULL, 0 };
                m->ops->dots(out, a->rows, &d, x, a->columns, RDVQ_ROWS);
            }
        }
}

static void bench(const char *preset)
{
    rdvq_config c;
    rdvq_int *m;
    scene s;
    double best[3] = { 1e9, 1e9, 1e9 };
    int decoded;
    OK(ctx, rdvq_preset(ctx, preset, &c));
    OK(ctx, rdvq_int_random(ctx, &m, &c, 1));
    OK(ctx, scene_make(&s, m, 512, 512, false));
    for (int round = 0; round < 7; round++) {
        double at = processor_time();
        OK(ctx, scene_encode(&s, m->slices.slices));
        best[0] = fmin(best[0], processor_time() - at);
        at = processor_time();
        OK(ctx, scene_decode(&s, m->slices.slices, -1, 0, NULL, &decoded));
        best[1] = fmin(best[1], processor_time() - at);
        at = processor_time();
        floor_of(m, s.tile.windows);
        best[2] = fmin(best[2], processor_time() - at);
    }
    CHECK(same_up_to(&s, m->slices.slices));
    printf("# %s, %s: a second of one processor codes %.2f, decodes %.2f Mpixel; products alone "
           "%.2f (%.0f %%)\n", preset, m->ops->name, 512 * 512e-6 / best[0], 512 * 512e-6 / best[1],
           512 * 512e-6 / best[2], 100 * best[2] / best[1]);
    scene_free(&s);
    rdvq_int_close(&m);
}
static void rdvq_xs_is_fast(void) { bench("rdvq-xs"); }
static void rdvq_s_is_fast(void) { bench("rdvq-s"); }

int main(int argc, char **argv)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    if (argc == 2 && strcmp(argv[1], "--bench") == 0) {
        RUN(rdvq_xs_is_fast);
        RUN(rdvq_s_is_fast);
        fv_ctx_destroy(&ctx);
        return test_end();
    }
    RUN(tokens_come_back_from_all_grids);
    if (argc == 2 && strcmp(argv[1], "--full") == 0) RUN(tokens_come_back_from_a_large_picture);
    RUN(likely_tokens_cost_less);
    RUN(threads_and_cpus_change_nothing);
    RUN(windows_do_not_see_each_other);
    RUN(prefixes_are_completed);
    RUN(a_decoder_may_stop_early);
    RUN(cuts_keep_what_came_before);
    RUN(damage_is_found);
    RUN(a_chooser_pays_what_it_is_told);
    RUN(wrong_calls_are_refused);
    RUN(golden_segments_decode);
    RUN(coding_survives_lack_of_memory);
    fv_ctx_destroy(&ctx);
    return test_end();
}
