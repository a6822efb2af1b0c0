/* test_rdvq_golden.c - files of the shipped models that lie in golden/rdvq: on every kind of vector
 * unit each has the tokens that it had when it was made, these give the same bytes again, and the
 * picture is what it was within what the arithmetic of pixels may change (without vectors, which is
 * slow, the smallest one only).
 *
 *     test_rdvq_golden [make]
 *
 * With "make" the files are written anew and the checksums printed. That is a change of the format
 * or of a shipped model, and must never happen after a release: files may only be added.
 *
 * NAME.ref: means of the picture's alpha and colours in GRID x GRID cells, a byte each. */
#include "../codec/rdvq_int_net.h"
#include "../codec/rdvq_vpic.h"
#include "fovea_codec.h"
#include "image_codec.h"
#include "test.h"

#define FOLDER FV_TEST_DIR "/golden/rdvq/"
#define PHOTOS FV_TEST_DIR "/data/photos/"
#define MODELS FV_TEST_DIR "/../codec/models/rdvq_xs_"
enum { GRID = 8, ROOM = 16384, MODEL_COUNT = 4 };

static const char *const model_files[MODEL_COUNT] = { "04", "08", "10", "18" };

typedef struct golden {
    const char *name, *photo;
    int crop[4], channels, depth;
    double bpp, quality;
    int tile_log2, crcs, slices;
    uint32_t tokens; /* CRC-32C of the tokens of all tiles, i32 little-endian */
} golden;

static const golden files[] = {
    { "low", "000_extreme-desert-hike.webp", { 0, 0, 512, 342 }, 3, 8, .bpp = 0.03,
      .tokens = 0xd2b35315 },
    { "middle", "015_lake-sherburne.webp", { 0, 0, 512, 288 }, 3, 8, .bpp = 0.08,
      .tokens = 0x3f6654b5 },
    { "high", "005_fragrant-chamomile.webp", { 40, 30, 223, 161 }, 3, 8, .quality = 100,
      .tokens = 0xa85244f8 },
    { "alpha_tiles", "009_taipei-city.webp", { 17, 9, 300, 270 }, 4, 8, .bpp = 0.1, .tile_log2 = 8,
      .crcs = 1, .tokens = 0xa06c6145 },
    { "grey_drawn", "004_sunset-beach.webp", { 100, 60, 130, 70 }, 1, 16, .quality = 30,
      .slices = 9, .tokens = 0x4b3e52a4 },
};

/* ---- Making them ----------------------------------------------------------------------------- */

static void make_disc(fv_image *img)
{
    for (int y = 0; y < img->height; y++)
        for (int x = 0; x < img->width; x++) {
            const int dx = x - 150, dy = y - 130, far = dx * dx + dy * dy;
            uint8_t *p = (uint8_t *)fvi_image_row(img, y) + 4 * x;
            p[3] = far < 10000 ? 255 : far < 14000 ? (uint8_t)((14000 - far) / 16) : 0;
        }
}

static fv_status make_picture(fv_ctx *c, const golden *g, fv_image *out)
{
    char path[1024];
    fv_image whole;
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    o.channels = g->channels;
    o.depth = g->depth;
    snprintf(path, sizeof path, PHOTOS "%s", g->photo);
    FV_TRY(fv_image_read(c, &whole, path, &o));
    fv_status s = fv_image_crop(c, out, &whole, g->crop[0], g->crop[1], g->crop[2], g->crop[3]);
    fv_image_free(c, &whole);
    if (s != FV_OK) return s;
    if (g->channels == 4) make_disc(out);
    if (g->depth == 16) {
        s = fvi_image_set_icc(c, out, "no real profile", 15);
        if (s == FV_OK) s = fvi_image_set_exif(c, out, "II*\0golden", 10);
        if (s == FV_OK) s = fv_image_add_text(c, out, FVI_XMP_KEY, "<x:xmpmeta/>");
    }
    if (s != FV_OK) fv_image_free(c, out);
    return s;
}

static fv_status encode(fv_ctx *c, const golden *g, fv_vpic_model *const *models, uint8_t **out,
                        size_t *size)
{
    const fv_vpic_model *list[MODEL_COUNT];
    fv_image img;
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    for (int i = 0; i < MODEL_COUNT; i++) list[i] = models[i];
    o.models = list;
    o.model_count = MODEL_COUNT;
    o.bpp = g->bpp;
    o.quality = g->quality;
    o.tile_log2 = g->tile_log2;
    o.segment_crcs = g->crcs;
    o.slices = g->slices;
    o.sampled = g->slices > 0;
    o.seed = 5;
    FV_TRY(make_picture(c, g, &img));
    const fv_status s = fv_vpic_encode(c, &img, &o, out, size, NULL);
    fv_image_free(c, &img);
    return s;
}

/* ---- Reading them ---------------------------------------------------------------------------- */

static fv_status decode(fv_ctx *c, fv_vpic_model *const *models, const uint8_t *bytes, size_t size,
                        fv_image *out)
{
    const fv_vpic_model *list[MODEL_COUNT];
    fv_vpic_limits l = FV_VPIC_LIMITS_INIT;
    for (int i = 0; i < MODEL_COUNT; i++) list[i] = models[i];
    l.max_pixels = 1 << 20;
    l.strict = 1;
    l.models = list;
    l.model_count = MODEL_COUNT;
    return fv_vpic_decode(c, bytes, size, &l, out, NULL);
}

typedef struct again {
    fv_ctx *c;
    rdvq_file f;
    rdvq_tiling t;
    vz_buf *segment, out;
    uint32_t crc; /* of tokens */
} again;

static fv_status tile_again(again *a, int tile)
{
    const rdvq_head *h = &a->f.head;
    const rdvq_complete complete = { (h->flags & RDVQ_IS_SAMPLED) != 0, h->seed, (uint32_t)tile };
    const rdvq_tile in = { rdvq_tiling_go(&a->t, tile, NULL), a->t.is_coded };
    rdvq_segment seg[RDVQ_MAX_LAYERS] = { { NULL, 0, 0 } };
    int decoded = 0;
    for (int k = 0; k < h->layers; k++) {
        rdvq_bytes span;
        bool is_cut;
        FV_TRY(rdvq_file_segment(a->c, &a->f, k, tile, &span, &is_cut));
        seg[k] = (rdvq_segment){ span.data, span.size, is_cut };
    }
    FV_TRY(rdvq_tile_decode(a->t.coder, &in, h->slices, seg, &complete, a->t.code, &decoded));
    if (decoded != h->slices) return fv_fail(a->c, FV_ERR_INTERNAL, "slices are missing");
    for (int i = 0; i < in.windows * a->t.tokens; i++) {
        const uint32_t v = (uint32_t)a->t.code[i];
        const uint8_t b[4] = { (uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16),
                               (uint8_t)(v >> 24) };
        a->crc = fv_crc32c(a->crc, b, 4);
    }
    return rdvq_tile_encode(a->t.coder, &in, h->slices, NULL, a->t.code,
                            a->segment + tile * RDVQ_MAX_LAYERS, NULL);
}

static fv_status all_again(again *a, size_t n)
{
    rdvq_head h = a->f.head;
    for (size_t i = 0; i < n; i++) vz_buf_init(&a->segment[i], a->c);
    for (int i = 0; i < h.tiles_x * h.tiles_y; i++) FV_TRY(tile_again(a, i));
    return rdvq_file_write(a->c, &h, a->f.chunk, a->segment, &a->out);
}

/* The tokens' checksum; and they become the same bytes. 0: it failed, or they do not. */
static uint32_t tokens_of(fv_ctx *c, const fv_vpic_model *m, const uint8_t *bytes, size_t size)
{
    again a = { .c = c };
    if (rdvq_file_open(c, &a.f, bytes, size, 1 << 20) != FV_OK) return 0;
    vz_buf_init(&a.out, c);
    const size_t n = (size_t)(a.f.head.tiles_x * a.f.head.tiles_y) * RDVQ_MAX_LAYERS;
    a.segment = fv_calloc(c, n, sizeof *a.segment);
    fv_status s = a.segment ? rdvq_tiling_open(c, &a.t, m, &a.f.head) : FV_ERR_OOM;
    if (s == FV_OK) {
        s = all_again(&a, n);
        rdvq_tiling_close(&a.t);
        for (size_t i = 0; i < n; i++) vz_buf_free(&a.segment[i]);
    }
    const bool is_same = s == FV_OK && a.out.size == size && !memcmp(a.out.data, bytes, size);
    if (s != FV_OK) printf("# %s\n", fv_ctx_error(c));
    else if (!is_same) printf("# tokens give other bytes\n");
    fv_free(c, a.segment);
    vz_buf_free(&a.out);
    rdvq_file_close(c, &a.f);
    return is_same ? a.crc : 0;
}

static const fv_vpic_model *model_of(fv_vpic_model *const *models, const uint8_t *bytes)
{
    for (int i = 0; i < MODEL_COUNT; i++)
        if (memcmp(bytes + 12, (const uint8_t[4]){ (uint8_t)models[i]->hash,
                                                   (uint8_t)(models[i]->hash >> 8),
                                                   (uint8_t)(models[i]->hash >> 16),
                                                   (uint8_t)(models[i]->hash >> 24) }, 4) == 0)
            return models[i];
    return NULL;
}

/* ---- Pixels ---------------------------------------------------------------------------------- */

static double sample_of(const fv_image *img, int y, int i)
{
    const void *row = fvi_image_row(img, y);
    return img->depth == 8 ? ((const uint8_t *)row)[i] : ((const uint16_t *)row)[i] / 257.0;
}

static void means_of(const fv_image *img, uint8_t out[4 * GRID * GRID])
{
    double sum[4 * GRID * GRID] = { 0 };
    int n[GRID * GRID] = { 0 };
    for (int y = 0; y < img->height; y++)
        for (int x = 0; x < img->width; x++) {
            const int cell = y * GRID / img->height * GRID + x * GRID / img->width;
            n[cell]++;
            for (int c = 0; c < img->channels; c++)
                sum[4 * cell + c] += sample_of(img, y, x * img->channels + c);
        }
    for (int i = 0; i < 4 * GRID * GRID; i++) out[i] = (uint8_t)(sum[i] / n[i / 4] + 0.5);
}

/* Means within 2 levels; no less alpha than there was. */
static void check_pixels(const golden *g, const fv_image *img, const uint8_t *want)
{
    uint8_t have[4 * GRID * GRID];
    CHECK(img->width == g->crop[2] && img->height == g->crop[3]);
    CHECK(img->channels == g->channels && img->depth == g->depth);
    means_of(img, have);
    for (int i = 0; i < 4 * GRID * GRID; i++)
        CHECK_MSG(abs(have[i] - want[i]) <= (i % 4 == 3 ? 0 : 2), "%s: cell %d is %d, was %d",
                  g->name, i / 4, have[i], want[i]);
    if (g->depth == 16)
        CHECK(img->icc_bytes == 15 && img->exif_bytes == 10 && img->text_count == 1);
}

/* ---- All ------------------------------------------------------------------------------------- */

static size_t load(const char *name, const char *suffix, uint8_t to[ROOM])
{
    char path[1024];
    snprintf(path, sizeof path, FOLDER "%s%s", name, suffix);
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    const size_t n = fread(to, 1, ROOM, f);
    fclose(f);
    return n;
}

static bool store(const char *name, const char *suffix, const void *bytes, size_t size)
{
    char path[1024];
    snprintf(path, sizeof path, FOLDER "%s%s", name, suffix);
    FILE *f = fopen(path, "wb");
    if (!f) return false;
    const bool ok = fwrite(bytes, 1, size, f) == size;
    return fclose(f) == 0 && ok;
}

typedef struct unit { fv_ctx *ctx; fv_vpic_model *model[MODEL_COUNT]; } unit;

static void open_unit(unit *u, uint32_t disable)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 1;
    o.cpu_disable = disable;
    memset(u, 0, sizeof *u);
    CHECK(fv_ctx_create(&u->ctx, &o) == FV_OK);
    for (int i = 0; u->ctx && i < MODEL_COUNT; i++) {
        char path[1024];
        snprintf(path, sizeof path, MODELS "%s.safetensors", model_files[i]);
        OK(u->ctx, fv_vpic_model_open(u->ctx, &u->model[i], path));
    }
}

static void close_unit(unit *u)
{
    for (int i = 0; i < MODEL_COUNT; i++) fv_vpic_model_close(&u->model[i]);
    fv_ctx_destroy(&u->ctx);
}

static void file_on(const unit *u, const golden *g)
{
    static uint8_t bytes[ROOM], want[ROOM];
    const size_t size = load(g->name, ".rdvq", bytes);
    fv_image img;
    CHECK_MSG(size > 16 && size < ROOM && load(g->name, ".ref", want) == 4 * GRID * GRID, "%s",
              g->name);
    const fv_vpic_model *m = model_of(u->model, bytes);
    CHECK_MSG(m, "%s: its model is not shipped any more", g->name);
    const uint32_t crc = tokens_of(u->ctx, m, bytes, size);
    CHECK_MSG(crc == g->tokens, "%s, %s: tokens %08x", g->name, m->entropy->ops->name,
              (unsigned)crc);
    if (m->entropy->ops == &rdvq_int_ops_c && g->crop[2] * g->crop[3] > 10000) return; /* slow */
    OK(u->ctx, decode(u->ctx, u->model, bytes, size, &img));
    check_pixels(g, &img, want);
    fv_image_free(u->ctx, &img);
}

static void files_on(uint32_t disable, const char *ops)
{
    unit u;
    open_unit(&u, disable);
    const char *name = u.model[0] ? u.model[0]->entropy->ops->name : "";
    const bool has = strcmp(name, ops) == 0;
    if (!has) printf("# this CPU has no %s\n", ops);
    for (size_t i = 0; i < FV_ARRAY_LEN(files) && !test_bad && has; i++) file_on(&u, &files[i]);
    close_unit(&u);
}

static const uint32_t all_vectors =
    FV_CPU_AVX2 | FV_CPU_AVX512 | FV_CPU_AVX512VNNI | FV_CPU_AVX512BF16;

static void files_are_the_same_on_vnni(void) { files_on(0, "avx512vnni"); }
static void files_are_the_same_on_avx512(void)
{
    files_on(FV_CPU_AVX512VNNI | FV_CPU_AVX512BF16, "avx512");
}
static void files_are_the_same_on_avx2(void) { files_on(all_vectors ^ FV_CPU_AVX2, "avx2"); }
static void files_are_the_same_without_vectors(void) { files_on(all_vectors, "c"); }

static void make_files(void)
{
    unit u;
    open_unit(&u, 0);
    for (size_t i = 0; i < FV_ARRAY_LEN(files) && !test_bad; i++) {
        uint8_t *bytes, means[4 * GRID * GRID];
        size_t size;
        fv_image img;
        OK(u.ctx, encode(u.ctx, &files[i], u.model, &bytes, &size));
        OK(u.ctx, decode(u.ctx, u.model, bytes, size, &img));
        means_of(&img, means);
        CHECK(size < ROOM && store(files[i].name, ".rdvq", bytes, size));
        CHECK(store(files[i].name, ".ref", means, sizeof means));
        printf("# %s: %zu bytes, tokens 0x%08x\n", files[i].name, size,
               (unsigned)tokens_of(u.ctx, model_of(u.model, bytes), bytes, size));
        fv_image_free(u.ctx, &img);
        fv_free(u.ctx, bytes);
    }
    close_unit(&u);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "make") == 0) {
        RUN(make_files);
        return test_end();
    }
    RUN(files_are_the_same_on_vnni);
    RUN(files_are_the_same_on_avx512);
    RUN(files_are_the_same_on_avx2);
    RUN(files_are_the_same_without_vectors);
    return test_end();
}
