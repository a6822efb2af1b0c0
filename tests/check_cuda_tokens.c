/* check_cuda_tokens.c - RDVQ's integer entropy model on the emulated GPU against the CPU: the same
 * bytes of segments, the same tokens back, whatever the weights, the windows and the choice of codes;
 * and what happens when the device's memory is short. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "cuda_device.h"

#include "rdvq_code.h"
#include "rdvq_int_fixture.h"
#include "test.h"

static fv_ctx *cpu, *gpu;

/* A picture's windows as one tile, with a coder of each side. */
typedef struct scene {
    const rdvq_int *m;
    rdvq_tile tile;
    uint8_t *is_coded;
    int32_t *tokens[2];
    rdvq_coder *coder[2];
    vz_buf seg[2][RDVQ_MAX_LAYERS];
    size_t bytes; /* of all segments */
} scene;

static size_t places_of(const scene *s)
{
    return (size_t)(s->tile.windows * s->m->slices.tokens);
}

static void scene_open(scene *s, const rdvq_int *m, int width, int height)
{
    rdvq_grid g;
    int row, column;
    uint64_t seed = 11;
    memset(s, 0, sizeof *s);
    s->m = m;
    OK(cpu, rdvq_grid_of(cpu, &m->cfg, width, height, &g));
    s->tile.windows = g.windows_x * g.windows_y;
    s->tile.is_coded = s->is_coded = calloc(places_of(s), 1);
    for (int i = 0; i < (int)places_of(s); i++)
        s->is_coded[i] = rdvq_place(&g, &m->slices, i / m->slices.tokens, i % m->slices.tokens,
                                    &row, &column);
    for (int c = 0; c < 2; c++) {
        fv_ctx *ctx = c ? gpu : cpu;
        s->tokens[c] = calloc(places_of(s), sizeof *s->tokens[c]);
        for (int k = 0; k < RDVQ_MAX_LAYERS; k++) vz_buf_init(&s->seg[c][k], ctx);
        OK(ctx, rdvq_coder_open(ctx, &s->coder[c], m, s->tile.windows));
    }
    for (size_t i = 0; i < places_of(s); i++)
        s->tokens[0][i] = s->tokens[1][i] =
            (int32_t)(test_next(&seed) % (uint32_t)m->cfg.codes);
}

static void scene_close(scene *s)
{
    for (int c = 0; c < 2; c++) {
        rdvq_coder_close(&s->coder[c]);
        for (int k = 0; k < RDVQ_MAX_LAYERS; k++) vz_buf_free(&s->seg[c][k]);
        free(s->tokens[c]);
    }
    free(s->is_coded);
    CHECK(device_is_clean(gpu));
}

/* The cheapest of four codes: prices are looked at, as by the encoder. */
static int32_t cheapest(void *user, int window, int position, const rdvq_prices *p)
{
    const scene *s = user;
    int32_t best = 0;
    uint32_t least = UINT32_MAX;
    for (int i = 0; i < 4; i++) {
        const int32_t code = (window * 7 + position * 3 + i * 5) % s->m->cfg.codes;
        const uint32_t price = rdvq_price(p, code);
        if (price < least) least = price, best = code;
    }
    return best;
}

static void encode_both(scene *s, int slices, bool chooses)
{
    const rdvq_chooser choose = { cheapest, s };
    double bits[2];
    s->bytes = 0;
    for (int c = 0; c < 2; c++) {
        for (int k = 0; k < RDVQ_MAX_LAYERS; k++) s->seg[c][k].size = 0;
        OK(c ? gpu : cpu, rdvq_tile_encode(s->coder[c], &s->tile, slices, chooses ? &choose : NULL,
                                           s->tokens[c], s->seg[c], &bits[c]));
    }
    CHECK(bits[0] == bits[1]);
    for (int k = 0; k < RDVQ_MAX_LAYERS; k++) {
        CHECK(s->seg[0][k].size == s->seg[1][k].size);
        if (s->seg[0][k].size > 0)
            CHECK(memcmp(s->seg[0][k].data, s->seg[1][k].data, s->seg[0][k].size) == 0);
        s->bytes += s->seg[0][k].size;
    }
    CHECK(memcmp(s->tokens[0], s->tokens[1], places_of(s) * sizeof *s->tokens[0]) == 0);
}

/* What the CPU wrote, read by both; cut behind `layer` where that is not -1. */
static void decode_both(scene *s, int slices, int layer)
{
    const rdvq_complete draw = { 1, 5, 0 };
    int32_t *back[2];
    int decoded[2];
    for (int c = 0; c < 2; c++) {
        rdvq_segment seg[RDVQ_MAX_LAYERS];
        for (int k = 0; k < RDVQ_MAX_LAYERS; k++)
            seg[k] = layer >= 0 && k >= layer
                         ? (rdvq_segment){ s->seg[0][k].data, s->seg[0][k].size / 2, 1 }
                         : (rdvq_segment){ s->seg[0][k].data, s->seg[0][k].size, 0 };
        back[c] = calloc(places_of(s), sizeof *back[c]);
        OK(c ? gpu : cpu, rdvq_tile_decode(s->coder[c], &s->tile, slices, seg, &draw, back[c],
                                           &decoded[c]));
    }
    CHECK(decoded[0] == decoded[1] && (layer >= 0 || decoded[0] == slices));
    CHECK(memcmp(back[0], back[1], places_of(s) * sizeof *back[0]) == 0);
    for (size_t i = 0; layer < 0 && slices == s->m->slices.slices && i < places_of(s); i++)
        if (s->is_coded[i] && back[1][i] != s->tokens[0][i]) CHECK(!"tokens come back");
    free(back[0]);
    free(back[1]);
}

static void compare(const rdvq_int *m, int width, int height)
{
    scene s;
    scene_open(&s, m, width, height);
    const long before = device_launches();
    encode_both(&s, m->slices.slices, false);
    printf("# %d x %d, %d windows, %d codes: %zu bytes, %ld launches\n", width, height,
           s.tile.windows, m->cfg.codes, s.bytes, device_launches() - before);
    CHECK(s.bytes > 0 && device_launches() - before > m->slices.slices);
    decode_both(&s, m->slices.slices, -1);
    decode_both(&s, m->slices.slices, 2);
    encode_both(&s, m->slices.slices, true);
    decode_both(&s, m->slices.slices, -1);
    encode_both(&s, 9, false);
    decode_both(&s, 9, -1);
    scene_close(&s);
}

static void both_orders(const rdvq_int *m, int width, int height)
{
    compare(m, width, height);
    emulator_reversed = 1;
    compare(m, width, height);
    emulator_reversed = 0;
}

/* Trained-like weights of 8 and of 16 bits, windows that leave the picture. */
static void segments_of_a_network(void)
{
    for (int bits = 8; bits <= 16; bits += 8) {
        rdvq_pair p;
        rdvq_config c = rdvq_tiny(1);
        c.code_width = bits == 8 ? 4 : 5; /* columns that are no multiple of four */
        c.codes = bits == 8 ? 64 : 96;
        OK(cpu, rdvq_pair_make(cpu, &p, &c, 2, bits));
        CHECK(p.m->layer[0].qkv.bits == bits);
        both_orders(p.m, 300, 130);
        compare(p.m, 9, 9);
        rdvq_pair_free(&p);
    }
}

/* Any integers: sums near their limits, other widths, several groups. */
static void segments_of_any_integers(void)
{
    rdvq_config c = rdvq_tiny(3);
    rdvq_int *m = NULL;
    c.width = 96;
    c.heads = 2;
    c.ffn = 112;
    c.codes = 400;
    c.strict_mask = 1;
    OK(cpu, rdvq_int_random(cpu, &m, &c, 7));
    compare(m, 140, 100);
    rdvq_int_close(&m);
}

/* More rows than the device takes at a time, and than it makes logits of. */
static void many_windows(void)
{
    rdvq_config c = rdvq_tiny(1);
    rdvq_int *m = NULL;
    scene s;
    OK(cpu, rdvq_int_random(cpu, &m, &c, 3));
    scene_open(&s, m, 128 * 30 - 20, 128 * 20);
    CHECK(s.tile.windows == 600);
    encode_both(&s, 2, false);
    CHECK(s.bytes > 600);
    scene_close(&s);
    rdvq_int_close(&m);
}

static void short_memory_is_told(void)
{
    rdvq_config c = rdvq_tiny(1);
    rdvq_int *m = NULL;
    rdvq_coder *coder = NULL;
    OK(cpu, rdvq_int_random(cpu, &m, &c, 1));
    void *all = fv_dev_alloc(gpu, 1, EMULATED_BYTES - ((size_t)1 << 20));
    CHECK(all);
    CHECK(rdvq_coder_open(gpu, &coder, m, 64) == FV_ERR_OOM && !coder);
    CHECK(strstr(fv_ctx_error(gpu), "--device cpu"));
    fv_dev_free(gpu, all);
    OK(gpu, rdvq_coder_open(gpu, &coder, m, 64));
    rdvq_coder_close(&coder);
    rdvq_int_close(&m);
    CHECK(device_is_clean(gpu));
}

int main(int argc, char **argv)
{
    const int code = device_open(argc, argv, 0, 2, &cpu, &gpu);
    if (code >= 0) return code;
    RUN(segments_of_a_network);
    RUN(segments_of_any_integers);
    RUN(many_windows);
    RUN_EMULATED(short_memory_is_told);
    return device_close(&cpu, &gpu);
}
