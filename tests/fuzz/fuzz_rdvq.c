/* fuzz_rdvq.c - bytes of RDVQ's tokens, and the integers of model files.
 *
 * '{' first: a safetensors header alone (fuzz_header.h), opened as an entropy model. Else byte 0
 * says what: bit 0 tokens are made of the bytes and come back; otherwise the bytes are segments:
 *     byte 0   bits 1, 2, 3: is layer 0, 1, 2 cut; bit 4: completion is drawn; bit 5: two windows
 *     byte 1   slices
 *     byte 2   rows and columns of cells that are coded, 4 bits each
 *     byte 3, 4  lengths of the first two segments
 * What decodes from whole segments must give the same bytes again. */
#include "fuzz_ctx.h"
#include "fuzz_header.h"
#include "rdvq_code.h"
#include "rdvq_int_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TOKENS 336

/* One model and coder for all inputs, outside of the context whose leaks are counted. */
static rdvq_coder *coder(const rdvq_int **m)
{
    static rdvq_int *model;
    static rdvq_coder *c;
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *ctx;
    rdvq_config cfg = rdvq_tiny(1);
    o.threads = 1;
    cfg.width = cfg.ffn = 16;
    cfg.depth = cfg.heads = 1;
    cfg.slices[0] = 1;
    cfg.slices[1] = 2;
    cfg.slices[2] = 2;
    if (!c && (fv_ctx_create(&ctx, &o) != FV_OK || rdvq_int_random(ctx, &model, &cfg, 1) != FV_OK ||
               rdvq_coder_open(ctx, &c, model, 2) != FV_OK))
        exit(1);
    *m = model;
    return c;
}

static void open_model(fv_ctx *ctx, fv_model *file)
{
    rdvq_int *m = NULL;
    (void)!rdvq_int_open(ctx, &m, file);
    rdvq_int_close(&m);
    if (fv_rdvq_is_model(file)) (void)!fv_rdvq_convert(ctx, file, FV_I8, "/dev/null", 1);
}

static void mark(uint8_t *is_coded, const rdvq_slices *s, uint8_t part)
{
    for (int w = 0; w < 2; w++)
        for (int p = 0; p < TOKENS; p++) {
            const rdvq_layer *l = &s->layer[rdvq_layer_of(s, p)];
            const int at = p - l->first_token, row = at / l->side, column = at % l->side;
            is_coded[w * TOKENS + p] = row * 16 / l->side <= part >> 4 &&
                                       column * 16 / l->side <= (part & 15);
        }
}

static void encode(fv_ctx *ctx, rdvq_coder *c, const rdvq_tile *t, int slices, int32_t *tokens,
                   vz_buf seg[RDVQ_MAX_LAYERS])
{
    for (int k = 0; k < RDVQ_MAX_LAYERS; k++) vz_buf_init(&seg[k], ctx);
    if (rdvq_tile_encode(c, t, slices, NULL, tokens, seg, NULL) != FV_OK) abort();
}

static void check_bytes(fv_ctx *ctx, rdvq_coder *c, const rdvq_tile *t, int slices, int32_t *tokens,
                        const rdvq_segment *want)
{
    vz_buf seg[RDVQ_MAX_LAYERS];
    encode(ctx, c, t, slices, tokens, seg);
    for (int k = 0; k < RDVQ_SCALES; k++) {
        if (seg[k].size > 0 && (seg[k].size != want[k].size ||
                                memcmp(seg[k].data, want[k].bytes, want[k].size) != 0))
            abort();
        vz_buf_free(&seg[k]);
    }
}

static void decode_bytes(fv_ctx *ctx, const uint8_t *data, size_t size)
{
    const rdvq_int *m;
    rdvq_coder *c = coder(&m);
    static uint8_t is_coded[2 * TOKENS];
    static int32_t tokens[2 * TOKENS];
    const rdvq_tile t = { data[0] & 32 ? 2 : 1, is_coded };
    const rdvq_complete draw = { data[0] >> 4 & 1, data[1], data[2] };
    const int slices = data[1] % (m->slices.slices + 1);
    rdvq_segment seg[RDVQ_MAX_LAYERS] = { { NULL, 0, 0 } };
    const uint8_t *p = data + 5, *end = data + size;
    int decoded = 0;
    bool is_cut = false;
    mark(is_coded, &m->slices, data[2]);
    for (int k = 0; k < RDVQ_SCALES; k++) {
        const size_t left = (size_t)(end - p), n = k < 2 && data[3 + k] < left ? data[3 + k] : left;
        seg[k] = (rdvq_segment){ p, n, data[0] >> (1 + k) & 1 };
        is_cut = is_cut || seg[k].is_cut;
        p += n;
    }
    if (rdvq_tile_decode(c, &t, slices, seg, &draw, tokens, &decoded) != FV_OK) return;
    for (int i = 0; i < t.windows * TOKENS; i++)
        if (tokens[i] < 0 || tokens[i] >= m->cfg.codes) abort();
    if (decoded > slices || (!is_cut && decoded != slices)) abort();
    if (!is_cut) check_bytes(ctx, c, &t, slices, tokens, seg);
}

static void encode_tokens(fv_ctx *ctx, const uint8_t *data, size_t size)
{
    const rdvq_int *m;
    rdvq_coder *c = coder(&m);
    static uint8_t is_coded[2 * TOKENS];
    static int32_t tokens[2 * TOKENS], back[2 * TOKENS];
    const rdvq_tile t = { data[0] & 32 ? 2 : 1, is_coded };
    const int slices = data[1] % (m->slices.slices + 1);
    rdvq_segment seg[RDVQ_MAX_LAYERS] = { { NULL, 0, 0 } };
    vz_buf b[RDVQ_MAX_LAYERS];
    int decoded = 0;
    mark(is_coded, &m->slices, data[2]);
    for (int i = 0; i < 2 * TOKENS; i++) tokens[i] = data[(size_t)i % size] % m->cfg.codes;
    encode(ctx, c, &t, slices, tokens, b);
    for (int k = 0; k < RDVQ_MAX_LAYERS; k++) seg[k] = (rdvq_segment){ b[k].data, b[k].size, 0 };
    if (rdvq_tile_decode(c, &t, slices, seg, NULL, back, &decoded) != FV_OK) abort();
    for (int i = 0; i < t.windows * TOKENS; i++)
        if (is_coded[i] && m->slices.slice_of[i % TOKENS] < slices && back[i] != tokens[i]) abort();
    for (int k = 0; k < RDVQ_MAX_LAYERS; k++) vz_buf_free(&b[k]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && data[0] == '{') return fuzz_model(data, size, (uint64_t)64 << 20, open_model);
    if (size < 5) return 0;
    fv_ctx *ctx = fuzz_ctx(0);
    if (data[0] & 1) encode_tokens(ctx, data, size);
    else decode_bytes(ctx, data, size);
    fuzz_check_leaks(ctx);
    return 0;
}
