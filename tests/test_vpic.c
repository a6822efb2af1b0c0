/* test_vpic.c - pictures to .rdvq files and back by small random models: any size and kind of
 * picture, parts, prefixes, files that are cut or damaged, sizes that are asked for, limits,
 * threads. */
#include "fovea_codec.h"

#include <pthread.h>

#include "alloc_fail.h"
#include "rdvq_fixture.h"
#include "sanitized.h"
#include "test.h"

static fv_ctx *ctx;
static fv_vpic_model *small, *large; /* one and two product codes */
static char small_path[512], large_path[512];

static fv_status make_model(int groups, const char *nominal, char path[512])
{
    const rdvq_config c = rdvq_small_config(groups);
    const char *first = temp_path("float.safetensors");
    fv_model *m;
    snprintf(path, 512, "%s", temp_path(groups > 1 ? "large.safetensors" : "small.safetensors"));
    FV_TRY(rdvq_write_model_rate(ctx, &c, 3, nominal, first));
    FV_TRY(fv_model_open(ctx, &m, first, NULL));
    const fv_status s = fv_rdvq_convert(ctx, m, FV_BF16, path, 1);
    fv_model_close(&m);
    return s;
}

/* ---- There and back ------------------------------------------------------------------------- */

static fv_vpic_limits limits_with(const fv_vpic_model *const *list, int count)
{
    fv_vpic_limits l = FV_VPIC_LIMITS_INIT;
    l.max_pixels = 1 << 24;
    l.models = list;
    l.model_count = count;
    return l;
}

typedef struct coded { uint8_t *bytes; size_t size; fv_vpic_stats st; } coded;

static fv_status encode(fv_ctx *c, const fv_image *img, const fv_vpic_model *m,
                        const fv_vpic_options *with, coded *out)
{
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    if (with) o = *with;
    o.models = &m;
    o.model_count = 1;
    return fv_vpic_encode(c, img, &o, &out->bytes, &out->size, &out->st);
}

static fv_status decode(fv_ctx *c, const coded *f, const fv_vpic_model *m, fv_image *out,
                        fv_vpic_stats *st)
{
    const fv_vpic_limits l = limits_with(&m, 1);
    return fv_vpic_decode(c, f->bytes, f->size, &l, out, st);
}

static uint32_t alpha_at(const fv_image *img, int x, int y)
{
    const uint8_t *row = fvi_image_row(img, y);
    const int i = x * img->channels + img->channels - 1;
    return img->depth == 8 ? row[i] : ((const uint16_t *)(const void *)row)[i];
}

static void one_picture(int w, int h, int channels, int depth, const fv_vpic_model *m)
{
    fv_image img, back;
    fv_vpic_info info;
    fv_vpic_stats st;
    coded f;
    OK(ctx, rdvq_make_picture(ctx, &img, w, h, channels, depth, 1));
    OK(ctx, encode(ctx, &img, m, NULL, &f));
    OK(ctx, fv_vpic_read_info(ctx, f.bytes, f.size, &info));
    CHECK(info.width == w && info.height == h && info.channels == channels);
    CHECK(info.depth == depth && info.whole_bytes == f.size && f.st.bytes == f.size);
    CHECK(info.slices == f.st.slices && !info.is_truncated);
    OK(ctx, decode(ctx, &f, m, &back, &st));
    CHECK(back.width == w && back.height == h && back.channels == channels &&
          back.depth == depth);
    CHECK(st.slices_decoded == info.slices && !st.is_truncated && st.short_tiles == 0);
    CHECK(st.tokens == f.st.tokens);
    for (int y = 0; channels % 2 == 0 && y < h; y++)
        for (int x = 0; x < w; x++) CHECK(alpha_at(&img, x, y) == alpha_at(&back, x, y));
    /* [spec] within 0.1 % and 6 bytes a segment of what the model says */
    uint64_t layers = 0;
    for (int k = 0; k < info.layers; k++) layers += info.layer_bytes[k];
    const double slack = 6 * info.layers * info.tiles_x * info.tiles_y;
    CHECK(layers == f.st.segment_bytes);
    NEAR((double)layers, f.st.bits / 8, f.st.bits / 8000 + slack);
    fv_image_free(ctx, &img);
    fv_image_free(ctx, &back);
    fv_free(ctx, f.bytes);
}

static void pictures_of_any_kind_come_back(void)
{
    static const int size[][2] = { { 1, 1 }, { 7, 3 }, { 63, 65 }, { 256, 256 }, { 257, 511 },
                                   { 768, 512 }, { 1, 600 } };
    for (size_t i = 0; i < FV_ARRAY_LEN(size) && !test_bad; i++)
        one_picture(size[i][0], size[i][1], 3, 8, i % 2 ? small : large);
    for (int channels = 1; channels <= 4 && !test_bad; channels++)
        for (int depth = 8; depth <= 16 && !test_bad; depth += 8)
            one_picture(100, 70, channels, depth, small);
}

/* The decoder finds the tokens that the encoder had: its picture is that of the encoder's tokens.
 * */
static void tokens_are_those_of_the_encoder(void)
{
    fv_image img, back, again;
    coded f;
    OK(ctx, rdvq_make_picture(ctx, &img, 300, 200, 3, 8, 2));
    OK(ctx, encode(ctx, &img, small, NULL, &f));
    OK(ctx, decode(ctx, &f, small, &back, NULL));
    OK(ctx, decode(ctx, &f, small, &again, NULL));
    CHECK(rdvq_difference(&back, &again) == 0);
    fv_image_free(ctx, &again);
    fv_free(ctx, f.bytes);
    /* Every token counts: with other weights of bits the picture is another one. */
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    o.quality = 1;
    OK(ctx, encode(ctx, &img, small, &o, &f));
    OK(ctx, decode(ctx, &f, small, &again, NULL));
    CHECK(rdvq_difference(&back, &again) > 0);
    fv_image_free(ctx, &again);
    fv_image_free(ctx, &back);
    fv_image_free(ctx, &img);
    fv_free(ctx, f.bytes);
}

static void metadata_comes_back(void)
{
    fv_image img, back;
    fv_vpic_info info;
    coded f;
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    OK(ctx, rdvq_make_picture(ctx, &img, 40, 30, 4, 8, 2));
    OK(ctx, fvi_image_set_icc(ctx, &img, "a profile", 9));
    OK(ctx, fvi_image_set_exif(ctx, &img, "II*\0exif", 8));
    OK(ctx, fv_image_add_text(ctx, &img, "Comment", "not kept"));
    OK(ctx, fv_image_add_text(ctx, &img, FVI_XMP_KEY, "<x:xmpmeta>\xc3\xa9t\xc3\xa9</x:xmpmeta>"));
    OK(ctx, encode(ctx, &img, small, NULL, &f));
    OK(ctx, fv_vpic_read_info(ctx, f.bytes, f.size, &info));
    CHECK(info.colour == 5 && info.icc_bytes > 0 && info.exif_bytes > 0 && info.alpha_bytes > 0);
    CHECK(info.xmp_bytes > 0);
    CHECK(f.st.chunk_bytes == info.icc_bytes + info.exif_bytes + info.xmp_bytes +
                                  info.alpha_bytes);
    OK(ctx, decode(ctx, &f, small, &back, NULL));
    CHECK(back.icc_bytes == 9 && memcmp(back.icc, "a profile", 9) == 0);
    CHECK(back.exif_bytes == 8 && memcmp(back.exif, "II*\0exif", 8) == 0);
    CHECK(back.text_count == 1 && fv_image_text(&back, FVI_XMP_KEY) &&
          strcmp(fv_image_text(&back, FVI_XMP_KEY), fv_image_text(&img, FVI_XMP_KEY)) == 0);
    fv_image_free(ctx, &back);
    fv_free(ctx, f.bytes);
    o.drop_metadata = 1;
    OK(ctx, encode(ctx, &img, small, &o, &f));
    OK(ctx, decode(ctx, &f, small, &back, NULL));
    CHECK(!back.icc && !back.exif && !back.text_count && back.channels == 4);
    fv_image_free(ctx, &back);
    fv_image_free(ctx, &img);
    fv_free(ctx, f.bytes);
}

static void same_file_and_picture_for_1_and_2_threads(void)
{
    fv_image img, back[2];
    coded f[2];
    fv_ctx *c[2];
    OK(ctx, rdvq_make_picture(ctx, &img, 700, 300, 3, 8, 3));
    for (int i = 0; i < 2; i++) {
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        o.threads = i + 1;
        OK(ctx, fv_ctx_create(&c[i], &o));
        OK(c[i], encode(c[i], &img, small, NULL, &f[i]));
        OK(c[i], decode(c[i], &f[i], small, &back[i], NULL));
    }
    CHECK(f[0].size == f[1].size && memcmp(f[0].bytes, f[1].bytes, f[0].size) == 0);
    CHECK(rdvq_difference(&back[0], &back[1]) == 0);
    for (int i = 0; i < 2; i++) {
        fv_image_free(c[i], &back[i]);
        fv_free(c[i], f[i].bytes);
        fv_ctx_destroy(&c[i]);
    }
    fv_image_free(ctx, &img);
}

typedef struct worker { const fv_image *img; const coded *want; bool is_same; } worker;

static void *work(void *user)
{
    worker *w = user;
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *c;
    coded f;
    fv_image back;
    o.threads = 1;
    if (fv_ctx_create(&c, &o) != FV_OK) return NULL;
    if (encode(c, w->img, small, NULL, &f) == FV_OK) {
        if (decode(c, &f, small, &back, NULL) == FV_OK) {
            w->is_same = f.size == w->want->size && !memcmp(f.bytes, w->want->bytes, f.size);
            fv_image_free(c, &back);
        }
        fv_free(c, f.bytes);
    }
    fv_ctx_destroy(&c);
    return NULL;
}

static void model_is_shared_by_threads(void)
{
    enum { N = 3 };
    fv_image img;
    coded f;
    pthread_t thread[N];
    worker w[N];
    fv_vpic_model *own = small, *fresh;
    OK(ctx, rdvq_make_picture(ctx, &img, 200, 150, 3, 8, 3));
    OK(ctx, encode(ctx, &img, small, NULL, &f));
    OK(ctx, fv_vpic_model_open(ctx, &fresh, small_path)); /* nothing is packed yet */
    small = fresh;
    for (int i = 0; i < N; i++) {
        w[i] = (worker){ &img, &f, false };
        CHECK(pthread_create(&thread[i], NULL, work, &w[i]) == 0);
    }
    for (int i = 0; i < N; i++) pthread_join(thread[i], NULL);
    small = own;
    fv_vpic_model_close(&fresh);
    for (int i = 0; i < N; i++) CHECK(w[i].is_same);
    fv_free(ctx, f.bytes);
    fv_image_free(ctx, &img);
}

/* ---- Parts and prefixes --------------------------------------------------------------------- */

static void region_is_cut_out_of_the_whole(void)
{
    static const int region[][4] = { { 0, 0, 1, 1 }, { 599, 499, 1, 1 }, { 100, 50, 200, 130 },
                                     { 250, 250, 20, 20 }, { 0, 0, 600, 500 } };
    fv_image img, whole, part, cut;
    coded f;
    fv_vpic_stats st;
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    const fv_vpic_model *m = small;
    fv_vpic_limits l = limits_with(&m, 1);
    o.tile_log2 = 8;
    OK(ctx, rdvq_make_picture(ctx, &img, 600, 500, 4, 8, 5));
    OK(ctx, encode(ctx, &img, small, &o, &f));
    CHECK(f.st.tiles == 6);
    OK(ctx, decode(ctx, &f, small, &whole, NULL));
    for (size_t i = 0; i < FV_ARRAY_LEN(region); i++) {
        const int *r = region[i];
        memcpy(l.region, r, sizeof l.region);
        OK(ctx, fv_vpic_decode(ctx, f.bytes, f.size, &l, &part, &st));
        OK(ctx, fv_image_crop(ctx, &cut, &whole, r[0], r[1], r[2], r[3]));
        CHECK_MSG(rdvq_difference(&part, &cut) <= 1, "region %zu", i);
        CHECK(st.tiles <= 6 && (i > 1 || st.tiles < 6));
        CHECK(st.pixels == (uint64_t)r[2] * (uint64_t)r[3]);
        fv_image_free(ctx, &part);
        fv_image_free(ctx, &cut);
    }
    static const int bad[][4] = { { -1, 0, 5, 5 }, { 0, 0, 0, 5 }, { 596, 0, 5, 5 },
                                  { 0, 2147483647, 1, 2147483647 } };
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        memcpy(l.region, bad[i], sizeof l.region);
        CHECK(fv_vpic_decode(ctx, f.bytes, f.size, &l, &part, &st) == FV_ERR_ARG);
    }
    fv_image_free(ctx, &whole);
    fv_image_free(ctx, &img);
    fv_free(ctx, f.bytes);
}

/* A file of n slices, and n slices of a file of all: the same picture, completed in the same way.
 * */
static void prefixes_are_completed_in_one_way(void)
{
    static const int n[] = { 1, 3, 4, 5, 12, 20, 28, 30, 44 };
    const fv_vpic_model *m = large;
    for (int sampled = 0; sampled < 2; sampled++) {
        fv_image img, a, b;
        coded all, some;
        fv_vpic_stats st;
        fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
        fv_vpic_limits l = limits_with(&m, 1);
        uint64_t before = 0;
        o.sampled = sampled;
        o.seed = 7;
        OK(ctx, rdvq_make_picture(ctx, &img, 300, 140, 3, 8, 6));
        o.quality = 100;
        OK(ctx, encode(ctx, &img, large, &o, &all));
        for (size_t i = 0; i < FV_ARRAY_LEN(n); i++) {
            o.slices = n[i];
            OK(ctx, encode(ctx, &img, large, &o, &some));
            CHECK(some.size > before && some.size <= all.size);
            before = some.size;
            OK(ctx, decode(ctx, &some, large, &a, &st));
            CHECK(st.slices == n[i] && st.slices_decoded == n[i]);
            l.slices = n[i];
            OK(ctx, fv_vpic_decode(ctx, all.bytes, all.size, &l, &b, &st));
            CHECK_MSG(rdvq_difference(&a, &b) == 0, "%d slices", n[i]);
            CHECK(st.slices == 44 && st.slices_decoded == n[i]);
            fv_image_free(ctx, &a);
            fv_image_free(ctx, &b);
            fv_free(ctx, some.bytes);
        }
        fv_free(ctx, all.bytes);
        fv_image_free(ctx, &img);
    }
}

static void seed_decides_what_is_drawn(void)
{
    fv_image img, back[3];
    coded f;
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    OK(ctx, rdvq_make_picture(ctx, &img, 130, 140, 3, 8, 6));
    o.slices = 5;
    o.sampled = 1;
    for (int i = 0; i < 3; i++) {
        o.seed = i < 2 ? 1 : 2;
        OK(ctx, encode(ctx, &img, small, &o, &f));
        OK(ctx, decode(ctx, &f, small, &back[i], NULL));
        fv_free(ctx, f.bytes);
    }
    CHECK(rdvq_difference(&back[0], &back[1]) == 0 && rdvq_difference(&back[1], &back[2]) > 0);
    for (int i = 0; i < 3; i++) fv_image_free(ctx, &back[i]);
    fv_image_free(ctx, &img);
}

/* ---- Damage ---------------------------------------------------------------------------------- */

static void cut_file_gives_what_it_holds(void)
{
    fv_image img, back;
    coded f;
    fv_vpic_stats st;
    fv_vpic_info info;
    const fv_vpic_model *m = small;
    fv_vpic_limits l = limits_with(&m, 1);
    int before = 0;
    OK(ctx, rdvq_make_picture(ctx, &img, 150, 60, 3, 8, 6));
    OK(ctx, encode(ctx, &img, small, NULL, &f));
    OK(ctx, fv_vpic_read_info(ctx, f.bytes, f.size, &info));
    const size_t step = TEST_SANITIZED ? 13 : 1;
    for (size_t n = 0; n < f.size; n += n + step < f.size - 8 ? step : 1) {
        uint8_t *copy = malloc(n ? n : 1); /* a sanitizer sees reads beyond the end */
        memcpy(copy, f.bytes, n);
        l.strict = 0;
        const fv_status s = fv_vpic_decode(ctx, copy, n, &l, &back, &st);
        if (n < info.header_bytes) {
            CHECK(s == FV_ERR_TRUNCATED || (n == 0 && s == FV_ERR_FORMAT));
        } else {
            CHECK_MSG(s == FV_OK, "%zu: %s", n, fv_ctx_error(ctx));
            CHECK(st.is_truncated && st.slices_decoded >= before);
            CHECK(st.short_tiles == (n < f.size - 4));
            before = st.slices_decoded;
            fv_image_free(ctx, &back);
            l.strict = 1;
            CHECK(fv_vpic_decode(ctx, copy, n, &l, &back, &st) == FV_ERR_TRUNCATED);
        }
        free(copy);
    }
    CHECK(before == 28);
    fv_image_free(ctx, &img);
    fv_free(ctx, f.bytes);
}

static void damage_is_found(void)
{
    fv_image img, back;
    coded f;
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    OK(ctx, rdvq_make_picture(ctx, &img, 150, 60, 3, 8, 6));
    o.segment_crcs = 1;
    OK(ctx, encode(ctx, &img, small, &o, &f));
    for (size_t i = 0; i < 8 * f.size; i += 7) {
        f.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        const fv_status s = decode(ctx, &f, small, &back, NULL);
        f.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        if (s == FV_OK) fv_image_free(ctx, &back);
        CHECK_MSG(s != FV_OK, "bit %zu", i);
    }
    fv_image_free(ctx, &img);
    fv_free(ctx, f.bytes);
}

/* With all checksums right: the coder's end state gives it away. */
static void damage_behind_right_checksums_is_found(void)
{
    fv_image img, back;
    coded f;
    fv_vpic_info info;
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    OK(ctx, rdvq_make_picture(ctx, &img, 150, 60, 3, 8, 6));
    o.segment_crcs = -1;
    OK(ctx, encode(ctx, &img, small, &o, &f));
    OK(ctx, fv_vpic_read_info(ctx, f.bytes, f.size, &info));
    int found = 0, tried = 0;
    for (size_t i = info.header_bytes; i < f.size - 4; i += 5, tried++) {
        f.bytes[i] ^= 0x10;
        const uint32_t crc = fv_crc32c(0, f.bytes, f.size - 4);
        for (int k = 0; k < 4; k++) f.bytes[f.size - 4 + (size_t)k] = (uint8_t)(crc >> 8 * k);
        const fv_status s = decode(ctx, &f, small, &back, NULL);
        if (s == FV_OK) fv_image_free(ctx, &back);
        else CHECK(s == FV_ERR_FORMAT || s == FV_ERR_CHECKSUM);
        found += s != FV_OK;
        f.bytes[i] ^= 0x10;
    }
    CHECK(tried > 10 && found == tried);
    fv_image_free(ctx, &img);
    fv_free(ctx, f.bytes);
}

/* A whole segment that ends before the slices that are asked for, behind right checksums. */
static void missing_slices_are_damage(void)
{
    fv_image img, back;
    coded f;
    fv_vpic_info info;
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    const fv_vpic_model *m = small;
    fv_vpic_limits l = limits_with(&m, 1);
    OK(ctx, rdvq_make_picture(ctx, &img, 60, 60, 3, 8, 6));
    o.segment_crcs = -1;
    OK(ctx, encode(ctx, &img, small, &o, &f));
    OK(ctx, fv_vpic_read_info(ctx, f.bytes, f.size, &info));
    CHECK(info.layers == 3 && info.layer_bytes[2] < 128);
    l.slices = 20;
    l.strict = 1;
    OK(ctx, fv_vpic_decode(ctx, f.bytes, f.size, &l, &back, NULL));
    fv_image_free(ctx, &back);
    /* The last segment keeps four bytes; its length is the last byte of the index. */
    f.size -= info.layer_bytes[2] - 4;
    f.bytes[info.header_bytes - 1] = 4;
    const uint32_t crc = fv_crc32c(0, f.bytes, f.size - 4);
    for (int k = 0; k < 4; k++) f.bytes[f.size - 4 + (size_t)k] = (uint8_t)(crc >> 8 * k);
    CHECK(fv_vpic_decode(ctx, f.bytes, f.size, &l, &back, NULL) == FV_ERR_FORMAT);
    CHECK(strstr(fv_ctx_error(ctx), "slices where 20"));
    fv_image_free(ctx, &img);
    fv_free(ctx, f.bytes);
}

/* ---- Limits and models ---------------------------------------------------------------------- */

static void wrong_model_is_refused(void)
{
    fv_image img, back;
    coded f;
    OK(ctx, rdvq_make_picture(ctx, &img, 50, 60, 3, 8, 6));
    OK(ctx, encode(ctx, &img, small, NULL, &f));
    CHECK(decode(ctx, &f, large, &back, NULL) == FV_ERR_MODEL && !back.pixels);
    CHECK(strstr(fv_ctx_error(ctx), "hash"));
    const fv_vpic_model *both[2] = { large, small };
    const fv_vpic_limits l = limits_with(both, 2);
    OK(ctx, fv_vpic_decode(ctx, f.bytes, f.size, &l, &back, NULL));
    fv_image_free(ctx, &back);
    fv_image_free(ctx, &img);
    fv_free(ctx, f.bytes);
}

static void limits_are_kept(void)
{
    fv_image img, back;
    coded f;
    const fv_vpic_model *m = small;
    fv_vpic_limits l = limits_with(&m, 1);
    fv_memory_stats before, after;
    OK(ctx, rdvq_make_picture(ctx, &img, 500, 600, 3, 8, 6));
    OK(ctx, encode(ctx, &img, small, NULL, &f));
    l.max_pixels = 500 * 600 - 1;
    CHECK(fv_vpic_decode(ctx, f.bytes, f.size, &l, &back, NULL) == FV_ERR_LIMIT);
    l.max_pixels = 0;
    CHECK(fv_vpic_decode(ctx, f.bytes, f.size, &l, &back, NULL) == FV_ERR_ARG);
    l.max_pixels = 500 * 600;
    l.memory_bytes = 1 << 20;
    fv_ctx_memory_reset_peak(ctx);
    fv_ctx_memory(ctx, &before);
    CHECK(fv_vpic_decode(ctx, f.bytes, f.size, &l, &back, NULL) == FV_ERR_OOM);
    CHECK(strstr(fv_ctx_error(ctx), "MiB"));
    fv_ctx_memory(ctx, &after);
    CHECK(after.peak_bytes - before.current_bytes < 100000); /* refused before it was taken */
    CHECK(after.current_bytes == before.current_bytes);
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    coded none;
    o.memory_bytes = 1 << 20;
    CHECK(encode(ctx, &img, small, &o, &none) == FV_ERR_OOM && !none.bytes);
    o.memory_bytes = 0;
    o.quality = 101;
    CHECK(encode(ctx, &img, small, &o, &none) == FV_ERR_ARG);
    o.quality = NAN;
    CHECK(encode(ctx, &img, small, &o, &none) == FV_ERR_ARG);
    o.quality = 0;
    o.tile_log2 = 7;
    CHECK(encode(ctx, &img, small, &o, &none) == FV_ERR_ARG);
    o.tile_log2 = 0;
    o.slices = -1;
    CHECK(encode(ctx, &img, small, &o, &none) == FV_ERR_ARG);
    fv_image_free(ctx, &img);
    fv_free(ctx, f.bytes);
}

/* Copies of a picture with transparency count, and nothing is taken before they are counted; what
 * is told is no less than what was taken, and not the sum over models that were tried. */
static void memory_is_counted(void)
{
    fv_image img;
    coded f;
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    fv_memory_stats before, after;
    const fv_vpic_model *both[2] = { large, small };
    uint64_t most = 0;
    OK(ctx, rdvq_make_picture(ctx, &img, 1000, 1000, 4, 16, 6));
    o.memory_bytes = (uint64_t)90 << 20;
    fv_ctx_memory_reset_peak(ctx);
    fv_ctx_memory(ctx, &before);
    CHECK(encode(ctx, &img, small, &o, &f) == FV_ERR_OOM);
    fv_ctx_memory(ctx, &after);
    CHECK(after.peak_bytes - before.current_bytes < 100000);
    o.memory_bytes = 0;
    fv_ctx_memory_reset_peak(ctx);
    OK(ctx, encode(ctx, &img, small, &o, &f));
    fv_ctx_memory(ctx, &after);
    CHECK_MSG(after.peak_bytes - before.current_bytes < f.st.memory_bytes + (16 << 20), "%llu %llu",
              (unsigned long long)(after.peak_bytes - before.current_bytes),
              (unsigned long long)f.st.memory_bytes);
    fv_free(ctx, f.bytes);
    fv_image_free(ctx, &img);
    OK(ctx, rdvq_make_picture(ctx, &img, 384, 300, 3, 8, 6));
    for (int i = 0; i < 2; i++) {
        OK(ctx, encode(ctx, &img, both[i], &o, &f));
        if (f.st.memory_bytes > most) most = f.st.memory_bytes;
        fv_free(ctx, f.bytes);
    }
    o.size = 1;
    o.models = both;
    o.model_count = 2;
    OK(ctx, fv_vpic_encode(ctx, &img, &o, &f.bytes, &f.size, &f.st));
    CHECK(f.st.memory_bytes <= most && f.st.memory_bytes > 0);
    fv_free(ctx, f.bytes);
    fv_image_free(ctx, &img);
}

static void models_say_what_they_are(void)
{
    fv_vpic_model_info a, b;
    fv_vpic_model *none;
    fv_vpic_model_get_info(small, &a);
    fv_vpic_model_get_info(large, &b);
    CHECK(a.hash != b.hash && strcmp(a.name, "small") == 0 && a.id == 0);
    CHECK(a.layers == 3 && a.slices == 28 && b.layers == 4 && b.slices == 44 && a.window == 128);
    CHECK(a.parameters > 1000 && a.bytes > 1000 && a.codes == 64);
    NEAR(a.nominal_bpp, 0.05, 1e-9);
    CHECK(fv_vpic_model_open(ctx, &none, temp_path("float.safetensors")) == FV_ERR_MODEL && !none);
    CHECK(fv_vpic_model_open(ctx, &none, temp_path("nothing")) == FV_ERR_NOT_FOUND);
    CHECK(fv_vpic_model_open_own(ctx, &none, fv_vpic_own_count()) == FV_ERR_ARG);
    CHECK(fv_vpic_model_open_own(ctx, &none, -1) == FV_ERR_ARG);
    CHECK(fv_vpic_own_count() == (FV_EMBED ? 4 : 0));
    double before = 0;
    for (int i = 0; i < fv_vpic_own_count(); i++) {
        OK(ctx, fv_vpic_model_open_own(ctx, &none, i));
        fv_vpic_model_get_info(none, &a);
        CHECK(a.nominal_bpp > before && strncmp(a.name, "rdvq_xs_", 8) == 0);
        before = a.nominal_bpp;
        fv_vpic_model_close(&none);
    }
}

/* ---- Rate ------------------------------------------------------------------------------------ */

static fv_status encode_ladder(const fv_image *img, const fv_vpic_options *with, coded *out)
{
    const fv_vpic_model *both[2] = { large, small };
    fv_vpic_options o = *with;
    o.models = both;
    o.model_count = 2;
    return fv_vpic_encode(ctx, img, &o, &out->bytes, &out->size, &out->st);
}

static void weight_of_bits_lowers_the_rate(void)
{
    fv_image img;
    coded f;
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    OK(ctx, rdvq_make_picture(ctx, &img, 400, 300, 3, 8, 6));
    double before = 0;
    for (o.quality = 1; o.quality <= 100; o.quality += 33) {
        OK(ctx, encode(ctx, &img, small, &o, &f));
        CHECK_MSG(f.st.bits > before, "quality %g: %g bits", o.quality, f.st.bits);
        before = f.st.bits;
        fv_free(ctx, f.bytes);
    }
    fv_image_free(ctx, &img);
}

static void size_is_reached_within_2_percent(void)
{
    fv_image img, back;
    coded least, most, f;
    const fv_vpic_model *both[2] = { large, small };
    const fv_vpic_limits l = limits_with(both, 2);
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    OK(ctx, rdvq_make_picture(ctx, &img, 384, 300, 3, 8, 6));
    o.size = 1; /* not possible: as near as can be */
    OK(ctx, encode_ladder(&img, &o, &least));
    o.size = 1 << 30;
    OK(ctx, encode_ladder(&img, &o, &most));
    CHECK(least.size < most.size && least.st.slices == 1 && most.st.mu == 0);
    for (int i = 1; i < 8; i++) {
        o.size = least.size + (most.size - least.size) * (size_t)i / 8;
        OK(ctx, encode_ladder(&img, &o, &f));
        OK(ctx, fv_vpic_decode(ctx, f.bytes, f.size, &l, &back, NULL));
        fv_image_free(ctx, &back);
        /* Where slices are left out steps are larger. */
        const double low = f.st.slices == 28 || f.st.slices == 44 ? 0.98 : 0.8;
        CHECK_MSG(f.size <= o.size && (double)f.size >= low * (double)o.size,
                  "%zu of %llu, %s, mu %g, %d slices, %d passes", f.size,
                  (unsigned long long)o.size, f.st.model, f.st.mu, f.st.slices, f.st.passes);
        fv_free(ctx, f.bytes);
    }
    o.bpp = 8.0 * (double)(most.size / 2) / (384 * 300);
    o.size = 0;
    OK(ctx, encode_ladder(&img, &o, &f));
    CHECK(f.size <= most.size / 2);
    fv_free(ctx, f.bytes);
    fv_free(ctx, least.bytes);
    fv_free(ctx, most.bytes);
    fv_image_free(ctx, &img);
}

/* ---- Memory and stopping -------------------------------------------------------------------- */

static fv_status whole_job(fv_ctx *c)
{
    fv_vpic_model *m;
    fv_image img = { 0 }, back = { 0 };
    coded f = { 0 };
    FV_TRY(fv_vpic_model_open(c, &m, small_path));
    fv_status s = rdvq_make_picture(c, &img, 40, 30, 4, 8, 1);
    if (s == FV_OK) s = encode(c, &img, m, NULL, &f);
    if (s == FV_OK) s = decode(c, &f, m, &back, NULL);
    fv_image_free(c, &img);
    fv_image_free(c, &back);
    fv_free(c, f.bytes);
    fv_vpic_model_close(&m);
    return s;
}

static void memory_that_runs_out_leaves_nothing_behind(void)
{
    fv_status s = FV_ERR_OOM;
    for (int64_t n = 0; s != FV_OK; n += 1 + n / 16) {
        alloc_fail heap = { .left = ALLOC_ALL };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *c;
        o.alloc = &al;
        o.threads = 1;
        CHECK(n < 100000 && fv_ctx_create(&c, &o) == FV_OK);
        heap.left = n;
        s = whole_job(c);
        heap.left = ALLOC_ALL;
        CHECK_MSG(s == FV_OK || s == FV_ERR_OOM, "%s: %s", fv_status_name(s), fv_ctx_error(c));
        fv_ctx_destroy(&c);
        CHECK_MSG(heap.live == 0, "allocation %lld", (long long)n);
    }
}

static int stop_at(void *user, const fv_progress *p)
{
    int *left = user;
    (void)p;
    return --*left < 0;
}

static void jobs_can_be_stopped(void)
{
    fv_image img, back;
    coded f;
    int left = 0, stopped = 0;
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *c;
    o.progress = stop_at;
    o.user = &left;
    OK(ctx, fv_ctx_create(&c, &o));
    OK(ctx, rdvq_make_picture(ctx, &img, 300, 300, 3, 8, 6));
    for (int n = 0; n < 20; n++) {
        left = n;
        const fv_status s = encode(c, &img, small, NULL, &f);
        CHECK(s == FV_OK || (s == FV_ERR_CANCELLED && !f.bytes));
        stopped += s != FV_OK;
        if (s == FV_OK) fv_free(c, f.bytes);
    }
    CHECK(stopped >= 2 && stopped < 20);
    left = 1000;
    OK(c, encode(c, &img, small, NULL, &f));
    left = 0;
    CHECK(decode(c, &f, small, &back, NULL) == FV_ERR_CANCELLED && !back.pixels);
    fv_free(c, f.bytes);
    fv_image_free(ctx, &img);
    fv_ctx_destroy(&c);
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 1; /* pictures are too small for more */
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    temp_dir_make("fv_vpic");
    if (make_model(1, "0.05", small_path) != FV_OK || make_model(2, "0.1", large_path) != FV_OK ||
        fv_vpic_model_open(ctx, &small, small_path) != FV_OK ||
        fv_vpic_model_open(ctx, &large, large_path) != FV_OK) {
        printf("not ok 0 - models: %s\n", fv_ctx_error(ctx));
        return 1;
    }
    RUN(pictures_of_any_kind_come_back);
    RUN(tokens_are_those_of_the_encoder);
    RUN(metadata_comes_back);
    RUN(same_file_and_picture_for_1_and_2_threads);
    RUN(model_is_shared_by_threads);
    RUN(region_is_cut_out_of_the_whole);
    RUN(prefixes_are_completed_in_one_way);
    RUN(seed_decides_what_is_drawn);
    RUN(cut_file_gives_what_it_holds);
    RUN(damage_is_found);
    RUN(damage_behind_right_checksums_is_found);
    RUN(missing_slices_are_damage);
    RUN(wrong_model_is_refused);
    RUN(limits_are_kept);
    RUN(memory_is_counted);
    RUN(models_say_what_they_are);
    RUN(weight_of_bits_lowers_the_rate);
    RUN(size_is_reached_within_2_percent);
    RUN(memory_that_runs_out_leaves_nothing_behind);
    RUN(jobs_can_be_stopped);
    fv_vpic_model_close(&small);
    fv_vpic_model_close(&large);
    fv_ctx_destroy(&ctx);
    return test_end();
}
