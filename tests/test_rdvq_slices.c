/* test_rdvq_slices.c - RDVQ: order of tokens, mask, pairing, coarse context, windows, metadata. */
#include "rdvq.h"
#include "temp_dir.h"
#include "test.h"

static fv_ctx *ctx;
static rdvq_config xs, official, product;
static rdvq_slices own, theirs, more;

/* ---- Order and mask -------------------------------------------------------------------------- */

static void order_is_the_formula_of_the_method(void)
{
    for (int p = 0; p < theirs.tokens; p++) {
        const int k = p < 16 ? 0 : p < 80 ? 1 : 2, at = p - (k == 0 ? 0 : k == 1 ? 16 : 80);
        const int y = at / (4 << k), x = at % (4 << k);
        const int h = k == 2 ? 4 : 2, w = k == 0 ? 2 : 4, first = k == 0 ? 0 : k == 1 ? 4 : 12;
        CHECK(theirs.slice_of[p] == first + y % h * w + x % w);
    }
    CHECK(theirs.tokens == 336 && theirs.slices == 28 && theirs.layers == 3);
}

static void own_order_is_dispersed(void)
{
    static const int cell[4][4] = { { 0, 8, 2, 10 }, { 12, 4, 14, 6 }, { 3, 11, 1, 9 },
                                    { 15, 7, 13, 5 } };
    static const int flat[2][4] = { { 0, 4, 1, 5 }, { 6, 2, 7, 3 } };
    for (int y = 0; y < 16; y++)
        for (int x = 0; x < 16; x++)
            CHECK(own.slice_of[80 + 16 * y + x] == 12 + cell[y % 4][x % 4]);
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++) CHECK(own.slice_of[16 + 8 * y + x] == 4 + flat[y % 2][x % 4]);
    CHECK(own.slice_of[0] == 0 && own.slice_of[5] == 1 && own.slice_of[1] == 2 &&
          own.slice_of[4] == 3);
}

/* Every position once; slices of 4, 8, 16 tokens; raster order inside. */
static void check_lists(const rdvq_slices *s)
{
    for (int i = 0; i < s->tokens; i++) CHECK(s->rank[s->list[i]] == i);
    for (int j = 0; j < s->slices; j++) {
        const int n = s->first[j + 1] - s->first[j];
        const rdvq_layer *l = &s->layer[rdvq_layer_of(s, s->list[s->first[j]])];
        CHECK(n * l->slices == l->tokens && j >= l->first_slice && j < l->first_slice + l->slices);
        for (int i = s->first[j]; i < s->first[j + 1]; i++) {
            CHECK(s->slice_of[s->list[i]] == j);
            CHECK(i == s->first[j] || s->list[i] > s->list[i - 1]);
        }
    }
    CHECK(s->first[0] == 0 && s->first[s->slices] == s->tokens);
}

static void lists_hold_every_position_once(void)
{
    check_lists(&own);
    check_lists(&theirs);
    check_lists(&more);
    CHECK(more.tokens == 592 && more.slices == 44 && more.layers == 4);
    CHECK(more.layer[3].scale == 2 && more.layer[3].group == 1);
}

/* o(q) > o(k), or slice 0 to itself; own: o(q) >= o(k). Against every pair. */
static void visible_places_are_the_mask(void)
{
    for (int q = 0; q < 336; q++)
        for (int k = 0; k < 336; k++) {
            const int a = theirs.slice_of[q], b = theirs.slice_of[k];
            CHECK((theirs.rank[k] < theirs.visible[a]) == (a > b || (a == 0 && b == 0)));
            CHECK((own.rank[k] < own.visible[own.slice_of[q]]) ==
                  (own.slice_of[q] >= own.slice_of[k]));
        }
}

/* The query of a token is made of a token of the slice before, in the same cell. */
static void check_pairs(const rdvq_slices *s)
{
    for (int p = 0; p < s->tokens; p++) {
        const rdvq_layer *l = &s->layer[rdvq_layer_of(s, p)];
        const int from = s->pair[p], at = p - l->first_token, b = from - l->first_token;
        if (s->slice_of[p] == l->first_slice) {
            CHECK(from == -1);
            continue;
        }
        CHECK(rdvq_layer_of(s, from) == rdvq_layer_of(s, p));
        CHECK(s->slice_of[from] == s->slice_of[p] - 1);
        CHECK(at / l->side / l->cell_h == b / l->side / l->cell_h);
        CHECK(at % l->side / l->cell_w == b % l->side / l->cell_w);
    }
}

static void queries_pair_with_the_slice_before(void)
{
    check_pairs(&own);
    check_pairs(&theirs);
    check_pairs(&more);
}

static void every_number_of_slices_makes_a_table(void)
{
    for (int n = 1; n <= 16; n *= 2) {
        rdvq_config c = xs;
        rdvq_slices s;
        for (int k = 0; k < RDVQ_SCALES; k++) c.slices[k] = n;
        OK(ctx, rdvq_config_check(ctx, &c));
        for (c.is_official = 0; c.is_official < 2; c.is_official++) {
            rdvq_slices_build(&c, &s);
            check_lists(&s);
            check_pairs(&s);
            CHECK(s.slices == 3 * n);
        }
    }
}

/* ---- Coarse context and rotation ------------------------------------------------------------- */

/* Cubic convolution kernel, a = -0.75. */
static double cubic(double x)
{
    const double a = -0.75;
    x = fabs(x);
    if (x < 1) return (a + 2) * x * x * x - (a + 3) * x * x + 1;
    return x < 2 ? a * (x * x * x - 5 * x * x + 8 * x - 4) : 0;
}

static void bicubic_taps_are_the_kernel(void)
{
    for (int n = 1; n <= 8; n *= 2)
        for (int i = 0; i < 2 * n; i++) {
            int index[4], tap[4];
            double want[8] = { 0 }, got[8] = { 0 };
            const double at = (i + 0.5) / 2 - 0.5;
            rdvq_bicubic(n, i, index, tap);
            for (int k = -4; k < n + 4; k++)
                want[k < 0 ? 0 : k >= n ? n - 1 : k] += cubic(at - k);
            for (int k = 0; k < 4; k++) {
                CHECK(index[k] >= 0 && index[k] < n);
                got[index[k]] += tap[k] / 256.0;
            }
            for (int k = 0; k < n; k++) CHECK(got[k] == want[k]); /* dyadic: exact */
        }
}

static void coarse_context_lies_in_the_layer_before(void)
{
    int from[RDVQ_TAPS], tap[RDVQ_TAPS];
    for (int p = 0; p < more.tokens; p++) {
        const int k = rdvq_layer_of(&more, p);
        int sum = 0;
        rdvq_coarse(&more, p, from, tap);
        for (int i = 0; i < RDVQ_TAPS; i++) {
            sum += tap[i];
            CHECK(rdvq_layer_of(&more, from[i]) == (k ? k - 1 : 0));
        }
        CHECK(sum == (k ? 65536 : 0));
        if (k == 3) CHECK(from[0] == p - 256 && tap[0] == 65536);
    }
    /* a ramp down the rows is what the taps of one side make of it */
    for (int y = 0; y < 16; y++) {
        int index[4], side[4];
        double v = 0, want = 0;
        rdvq_coarse(&own, 80 + 16 * y + 5, from, tap);
        rdvq_bicubic(8, y, index, side);
        for (int i = 0; i < RDVQ_TAPS; i++) v += tap[i] / 65536.0 * ((from[i] - 16) / 8);
        for (int i = 0; i < 4; i++) want += side[i] / 256.0 * index[i];
        CHECK(v == want);
    }
}

static void rotation_follows_the_place(void)
{
    static float a[336 * 2 * 48], b[336 * 2 * 48];
    const int pairs = 128 / 4 / 2;
    rdvq_rope(&xs, &own, a);
    rdvq_rope(&official, &theirs, b);
    for (int i = 0; i < 336; i++) {
        const int p = own.list[i], first = p < 16 ? 0 : p < 80 ? 16 : 80;
        const int side = p < 16 ? 4 : p < 80 ? 8 : 16;
        const double y = 1000.0 * ((p - first) / side) / side;
        const double x = 1000.0 * ((p - first) % side) / side;
        for (int j = 0; j < 8; j++) {
            const double f = pow(1000.0, -2.0 * j / 16);
            NEAR(a[i * 2 * pairs + j], cos(y * f), 1e-6);
            NEAR(a[i * 2 * pairs + pairs + 8 + j], sin(x * f), 1e-6);
        }
    }
    for (int i = 0; i < 336; i++)
        for (int j = 0; j < 96; j++)
            CHECK(theirs.slice_of[theirs.list[i]] > 0 || b[i * 96 + j] == 0);
    CHECK(b[4 * 96] == 1.0f); /* slice 1 begins at row 0 */
}

/* ---- Windows --------------------------------------------------------------------------------- */

static void windows_cover_each_latent_once(void)
{
    static const int sizes[][2] = { { 1, 1 }, { 7, 3 }, { 63, 65 }, { 256, 256 }, { 257, 511 },
                                    { 768, 512 }, { 129, 31 } };
    const rdvq_config *cfg[2] = { &xs, &official };
    const rdvq_slices *tab[2] = { &own, &theirs };
    for (size_t n = 0; n < FV_ARRAY_LEN(sizes); n++)
        for (int m = 0; m < 2; m++) {
            static uint8_t seen[RDVQ_SCALES][128 * 128];
            rdvq_grid g;
            int64_t coded = 0;
            OK(ctx, rdvq_grid_of(ctx, cfg[m], sizes[n][0], sizes[n][1], &g));
            memset(seen, 0, sizeof seen);
            for (int w = 0; w < g.windows_x * g.windows_y; w++)
                for (int p = 0; p < 336; p++) {
                    int row, column;
                    const int s = rdvq_layer_of(tab[m], p);
                    if (!rdvq_place(&g, tab[m], w, p, &row, &column)) continue;
                    coded++;
                    CHECK(seen[s][row * g.map_w[s] + column]++ == 0);
                }
            CHECK(coded == rdvq_coded_tokens(&g, tab[m]));
            CHECK(g.padded_w >= g.width && g.padded_w - g.width < rdvq_stride(cfg[m], 0));
            CHECK(g.left * 2 <= g.padded_w - g.width && (m || g.left == 0));
        }
    rdvq_grid g;
    CHECK(rdvq_grid_of(ctx, &xs, 0, 5, &g) == FV_ERR_LIMIT);
    CHECK(rdvq_grid_of(ctx, &xs, 5, 65536, &g) == FV_ERR_LIMIT);
}

static void noise_is_uniform_and_fixed(void)
{
    double sum = 0, squares = 0;
    for (int y = 0; y < 100; y++)
        for (int x = 0; x < 100; x++) {
            const float v = rdvq_noise(7, 8, x, y, 1);
            CHECK(v >= -1 && v < 1);
            sum += v;
            squares += v * v;
        }
    NEAR(sum / 1e4, 0, 0.03);
    NEAR(squares / 1e4, 1.0 / 3, 0.02);
    CHECK(rdvq_noise(7, 8, 3, 4, 0) != rdvq_noise(7, 8, 4, 3, 0));
    CHECK(rdvq_noise(7, 8, 3, 4, 0) != rdvq_noise(7, 4, 3, 4, 0));
    CHECK(rdvq_noise(7, 8, 3, 4, 0) != rdvq_noise(8, 8, 3, 4, 0));
    /* part of the decoder: these values may never change */
    CHECK(rdvq_noise(0, 8, 0, 0, 0) == -2315591 * 0x1p-23f);
    CHECK(rdvq_noise(1, 4, 1000, 65534, 1) == 17995 * 0x1p-23f);
}

/* ---- Config ---------------------------------------------------------------------------------- */

static void geometry_is_as_published(void)
{
    CHECK(rdvq_stride(&official, 0) == 64 && rdvq_stride(&official, 2) == 16);
    CHECK(rdvq_window(&official) == 256 && rdvq_window(&xs) == 128);
    NEAR(rdvq_ceiling_bpp(&official), 0.0615, 5e-5);
    NEAR(rdvq_ceiling_bpp(&xs), 0.205, 5e-4);
    NEAR(rdvq_ceiling_bpp(&product), 0.36, 2e-3);
}

/* A file with the metadata of c, `key` replaced by `value`, or left out where that is NULL. */
static fv_status read_back(const rdvq_config *c, const char *key, const char *value,
                           rdvq_config *out)
{
    const char *path = temp_path("config.safetensors");
    float one = 1;
    const fv_tensor t = { &one, FV_F32, 1, { 1 } };
    fv_model_writer *w = NULL;
    fv_model *m = NULL;
    fv_meta meta;
    fv_status s = rdvq_config_meta(ctx, c, &meta);
    if (s != FV_OK) return s;
    s = fv_model_writer_create(ctx, &w);
    for (int i = 0; i < meta.pairs && s == FV_OK; i++) {
        const bool is_it = key && strcmp(meta.item[2 * i], key) == 0;
        if (!is_it || value)
            s = fv_model_writer_meta(w, meta.item[2 * i], is_it ? value : meta.item[2 * i + 1]);
    }
    if (s == FV_OK) s = fv_model_writer_tensor(w, "x", &t);
    if (s == FV_OK) s = fv_model_writer_finish(w, path, 1);
    if (s == FV_OK) s = fv_model_open(ctx, &m, path, NULL);
    if (s == FV_OK) s = rdvq_config_read(ctx, m, out);
    fv_model_close(&m);
    fv_model_writer_destroy(&w);
    fv_meta_free(ctx, &meta);
    return s;
}

static void metadata_comes_back(void)
{
    const rdvq_config *all[] = { &xs, &official, &product };
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) {
        rdvq_config c;
        OK(ctx, read_back(all[i], NULL, NULL, &c));
        CHECK(memcmp(&c, all[i], sizeof c) == 0);
    }
}

static void metadata_that_lies_is_refused(void)
{
    static const struct { const char *key, *value; fv_status want; } bad[] = {
        { "fovea.kind", "ar", FV_ERR_MODEL }, { "fovea.kind", NULL, FV_ERR_MODEL },
        { "fovea.version", "2", FV_ERR_VERSION }, { "fovea.rdvq.codes", NULL, FV_ERR_MODEL },
        { "fovea.rdvq.codes", "1000000", FV_ERR_LIMIT },
        { "fovea.rdvq.codes", "1024.5", FV_ERR_MODEL },
        { "fovea.rdvq.groups", "4", FV_ERR_LIMIT }, { "fovea.rdvq.heads", "5", FV_ERR_MODEL },
        { "fovea.rdvq.slices", "4,8", FV_ERR_MODEL },
        { "fovea.rdvq.slices", "4,8,6", FV_ERR_MODEL },
        { "fovea.rdvq.slices", "4,8,16,16", FV_ERR_MODEL },
        { "fovea.rdvq.slices", "4,8,32", FV_ERR_LIMIT },
        { "fovea.rdvq.enc_width", "16,32", FV_ERR_MODEL },
        { "fovea.rdvq.enc_width", "16,32,64,96,-1", FV_ERR_LIMIT },
        { "fovea.rdvq.enc_width", "", FV_ERR_MODEL },
        { "fovea.rdvq.enc_width", "1,2,3,4,5,6,7,8", FV_ERR_MODEL },
        { "fovea.rdvq.dec_blocks", "1,2,4,1,99", FV_ERR_LIMIT },
        { "fovea.rdvq.pad_token", "1024", FV_ERR_LIMIT },
        { "fovea.rdvq.official", "2", FV_ERR_LIMIT },
        { "fovea.rdvq.strict_mask", "-1", FV_ERR_LIMIT },
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        rdvq_config c;
        const fv_status s = read_back(&xs, bad[i].key, bad[i].value, &c);
        CHECK_MSG(s == bad[i].want, "%s = %s: %s", bad[i].key, bad[i].value ? bad[i].value : "none",
                  fv_status_name(s));
    }
    rdvq_config c;
    CHECK(read_back(&official, "fovea.rdvq.norm_groups", "24", &c) == FV_ERR_MODEL);
    CHECK(rdvq_preset(ctx, "rdvq-xl", &c) == FV_ERR_UNKNOWN);
}

int main(void)
{
    temp_dir_make("rdvq");
    if (fv_ctx_create(&ctx, NULL) != FV_OK || rdvq_preset(ctx, "rdvq-xs", &xs) != FV_OK ||
        rdvq_preset(ctx, "RDVQ-official", &official) != FV_OK)
        return 1;
    product = xs;
    product.groups = 2;
    rdvq_slices_build(&xs, &own);
    rdvq_slices_build(&official, &theirs);
    rdvq_slices_build(&product, &more);
    RUN(order_is_the_formula_of_the_method);
    RUN(own_order_is_dispersed);
    RUN(lists_hold_every_position_once);
    RUN(visible_places_are_the_mask);
    RUN(queries_pair_with_the_slice_before);
    RUN(every_number_of_slices_makes_a_table);
    RUN(bicubic_taps_are_the_kernel);
    RUN(coarse_context_lies_in_the_layer_before);
    RUN(rotation_follows_the_place);
    RUN(windows_cover_each_latent_once);
    RUN(noise_is_uniform_and_fixed);
    RUN(geometry_is_as_published);
    RUN(metadata_comes_back);
    RUN(metadata_that_lies_is_refused);
    fv_ctx_destroy(&ctx);
    return test_end();
}
