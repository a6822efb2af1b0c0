/* test_rdvq_pixels.c - pictures to nearest codes and tokens to pictures: regions give what the
 * whole picture gives, any size works, threads change nothing, memory has its bounds. */
#include "rdvq_pixels.h"

#include "alloc_fail.h"
#include "rdvq_fixture.h"
#include "test.h"

static fv_ctx *ctx;
static char model_path[512];
static const uint64_t plenty = (uint64_t)1 << 32;

typedef struct opened { fv_model *file; rdvq_pixels *p; } opened;

static fv_status open_model(fv_ctx *c, opened *o)
{
    memset(o, 0, sizeof *o);
    FV_TRY(fv_model_open(c, &o->file, model_path, NULL));
    const fv_status s = rdvq_pixels_open(c, &o->p, o->file);
    if (s != FV_OK) fv_model_close(&o->file);
    return s;
}

static void close_model(opened *o)
{
    rdvq_pixels_close(&o->p);
    fv_model_close(&o->file);
}

static fv_status write_model(int groups, fv_dtype type)
{
    const rdvq_config c = rdvq_small_config(groups);
    return rdvq_write_model(ctx, &c, 3, type, model_path);
}

/* ---- Regions against the whole -------------------------------------------------------------- */

typedef struct tokens { rdvq_grid g; rdvq_map map; uint16_t *token; } tokens;

static fv_status random_tokens(const rdvq_pixels *p, int w, int h, tokens *t)
{
    uint64_t seed = (uint64_t)w * 7 + (uint64_t)h;
    FV_TRY(rdvq_grid_of(ctx, &p->net.cfg, w, h, &t->g));
    rdvq_map_of(&t->g, &p->net.slices, &t->map);
    const int64_t n = t->map.first[t->map.layers];
    t->token = fv_alloc(ctx, (size_t)n * sizeof *t->token);
    if (!t->token) return FV_ERR_OOM;
    for (int64_t i = 0; i < n; i++) t->token[i] = (uint16_t)(test_next(&seed) % 64);
    return n == rdvq_coded_tokens(&t->g, &p->net.slices) ? FV_OK : FV_ERR_INTERNAL;
}

/* The part (x, y, w, h) within a budget. */
static fv_status paint(fv_ctx *c, const rdvq_pixels *p, const tokens *t, const int part[4],
                       uint64_t budget, int channels, int depth, fv_image *out, rdvq_work *work)
{
    const rdvq_paint how = { &t->g, t->token, 5, part[0], part[1], budget, depth };
    memset(work, 0, sizeof *work);
    FV_TRY(fv_image_create(c, out, part[2], part[3], channels, depth > 8 ? 16 : 8));
    const fv_status s = rdvq_paint_picture(c, p, &how, out, work);
    if (s != FV_OK) fv_image_free(c, out);
    return s;
}

/* The least power of two that is enough. */
static uint64_t least_budget(const rdvq_pixels *p, const tokens *t, const int part[4])
{
    for (uint64_t b = 65536;; b *= 2) {
        fv_image img;
        rdvq_work work;
        if (b == plenty) return b;
        if (paint(ctx, p, t, part, b, 3, 8, &img, &work) != FV_OK) continue;
        fv_image_free(ctx, &img);
        return b;
    }
}

static void regions_of(int w, int h, int groups)
{
    opened o;
    tokens t;
    fv_image whole, parts;
    rdvq_work once, often;
    const int all[4] = { 0, 0, w, h };
    OK(ctx, write_model(groups, FV_F32));
    OK(ctx, open_model(ctx, &o));
    OK(ctx, random_tokens(o.p, w, h, &t));
    OK(ctx, paint(ctx, o.p, &t, all, plenty, 3, 16, &whole, &once));
    const uint64_t least = least_budget(o.p, &t, all);
    OK(ctx, paint(ctx, o.p, &t, all, least, 3, 16, &parts, &often));
    CHECK(often.memory <= least && least <= rdvq_pixels_least(o.p, &t.g));
    CHECK_MSG(often.flop > once.flop, "%g %g", often.flop, once.flop); /* it was several */
    const int d = rdvq_difference(&whole, &parts);
    CHECK_MSG(d <= 257, "%d of 65535", d); /* one level of 8 bits */
    fv_image_free(ctx, &parts);
    /* A halo that is too small is seen. */
    o.p->reach_out -= 2;
    OK(ctx, paint(ctx, o.p, &t, all, least, 3, 16, &parts, &often));
    CHECK_MSG(rdvq_difference(&whole, &parts) > 600, "%d", rdvq_difference(&whole, &parts));
    fv_image_free(ctx, &parts);
    fv_image_free(ctx, &whole);
    fv_free(ctx, t.token);
    close_model(&o);
}
static void regions_give_what_the_whole_picture_gives(void)
{
    regions_of(700, 523, 1);
    regions_of(523, 1000, 2);
}

static void part_is_cut_out_of_the_whole(void)
{
    static const int part[][4] = { { 0, 0, 1, 1 }, { 399, 399, 1, 1 }, { 31, 33, 64, 200 },
                                   { 250, 100, 150, 31 } };
    const int all[4] = { 0, 0, 400, 400 };
    opened o;
    tokens t;
    fv_image whole, piece, cut;
    rdvq_work work;
    OK(ctx, write_model(1, FV_F32));
    OK(ctx, open_model(ctx, &o));
    OK(ctx, random_tokens(o.p, 400, 400, &t));
    OK(ctx, paint(ctx, o.p, &t, all, plenty, 3, 8, &whole, &work));
    const int64_t n = t.map.first[t.map.layers];
    uint16_t *const complete = t.token;
    for (size_t i = 0; i < FV_ARRAY_LEN(part); i++) {
        /* Tokens beyond the reach do not count. */
        int r[4];
        t.token = fv_calloc(ctx, (size_t)n, sizeof *t.token);
        CHECK(t.token);
        rdvq_reach(o.p, &t.g, part[i], r);
        for (int k = 0; k < t.map.layers; k++) {
            const int s = o.p->net.slices.layer[k].scale;
            for (int y = r[1] << s; y < (r[1] + r[3]) << s; y++)
                for (int x = r[0] << s; x < (r[0] + r[2]) << s; x++) {
                    const int64_t at = t.map.first[k] + (int64_t)y * t.map.width[k] + x;
                    t.token[at] = complete[at];
                }
        }
        OK(ctx, paint(ctx, o.p, &t, part[i], plenty, 3, 8, &piece, &work));
        OK(ctx, fv_image_crop(ctx, &cut, &whole, part[i][0], part[i][1], part[i][2], part[i][3]));
        CHECK_MSG(rdvq_difference(&piece, &cut) <= 1, "part %zu", i);
        fv_image_free(ctx, &piece);
        fv_image_free(ctx, &cut);
        fv_free(ctx, t.token);
    }
    fv_image_free(ctx, &whole);
    fv_free(ctx, complete);
    close_model(&o);
}

/* ---- Analysis -------------------------------------------------------------------------------- */

/* Tokens whose nearest code differs, in parts of a million. */
static int differing(const rdvq_nearest *a, const rdvq_nearest *b, int64_t n)
{
    int64_t differ = 0;
    for (int64_t i = 0; i < n; i++) differ += a->code[i * a->count] != b->code[i * b->count];
    return (int)(differ * 1000000 / n);
}

static void analysis_by_regions_finds_the_same_codes(void)
{
    const int w = 700, h = 650;
    opened o;
    fv_image img;
    rdvq_nearest whole, parts;
    rdvq_work once = { 0, 0, 0 }, often = { 0, 0, 0 };
    rdvq_grid g;
    fv_status s = FV_ERR_OOM;
    OK(ctx, write_model(2, FV_F32));
    OK(ctx, open_model(ctx, &o));
    OK(ctx, rdvq_grid_of(ctx, &o.p->net.cfg, w, h, &g));
    OK(ctx, rdvq_make_picture(ctx, &img, w, h, 3, 8, 1));
    OK(ctx, rdvq_analyse_picture(ctx, o.p, &img, plenty, &whole, &once));
    for (uint64_t b = 65536; s != FV_OK && b < plenty; b *= 2)
        s = rdvq_analyse_picture(ctx, o.p, &img, b, &parts, &often);
    OK(ctx, s);
    CHECK(often.flop > once.flop && often.memory <= rdvq_pixels_least(o.p, &g));
    const int64_t n = rdvq_coded_tokens(&g, &o.p->net.slices);
    CHECK_MSG(differing(&whole, &parts, n) < 300, "%d", differing(&whole, &parts, n));
    rdvq_nearest_free(ctx, &parts);
    o.p->reach_in = 1;
    for (uint64_t b = 65536; b < plenty; b *= 2)
        if (rdvq_analyse_picture(ctx, o.p, &img, b, &parts, &often) == FV_OK) break;
    CHECK(differing(&whole, &parts, n) > 3000);
    rdvq_nearest_free(ctx, &parts);
    rdvq_nearest_free(ctx, &whole);
    fv_image_free(ctx, &img);
    close_model(&o);
}

/* Of one window, by the tape that training uses. */
static void nearest_codes_are_those_of_training(void)
{
    const int64_t dim[4] = { 1, 128, 128, 3 };
    static float x[128 * 128 * 3];
    opened o;
    fv_image img;
    rdvq_nearest near;
    rdvq_work work = { 0, 0, 0 };
    rdvq_map map;
    rdvq_grid g;
    fv_tape *t;
    fv_plan *plan;
    fv_t z[RDVQ_SCALES], index;
    OK(ctx, write_model(2, FV_BF16));
    OK(ctx, open_model(ctx, &o));
    OK(ctx, rdvq_make_picture(ctx, &img, 128, 128, 3, 8, 2));
    OK(ctx, rdvq_analyse_picture(ctx, o.p, &img, plenty, &near, &work));
    OK(ctx, rdvq_grid_of(ctx, &o.p->net.cfg, 128, 128, &g));
    rdvq_map_of(&g, &o.p->net.slices, &map);
    fv_image_to_float(&img, -1, 1, x);
    OK(ctx, fv_tape_create(ctx, &t, o.p->params, FV_INFER, FV_F32));
    rdvq_analyse(t, &o.p->net, fv_input(t, "x", FV_F32, 4, dim), z);
    const fv_t rows = rdvq_unit(t, rdvq_to_windows(t, &o.p->net, z));
    (void)fv_vq_nearest(t, rows, rdvq_codes(t, &o.p->net), &index);
    fv_output(t, "index", index);
    OK(ctx, fv_plan_finish(ctx, &plan, &t, NULL));
    OK(ctx, fv_plan_bind(plan, "x", x));
    OK(ctx, fv_plan_forward(plan));
    const int32_t *want = fv_plan_value(plan, "index").data;
    int differ = 0;
    for (int p = 0; p < o.p->net.slices.tokens; p++) {
        int row, column;
        const int k = rdvq_layer_of(&o.p->net.slices, p);
        CHECK(rdvq_place(&g, &o.p->net.slices, 0, p, &row, &column));
        const int64_t at = map.first[k] + (int64_t)row * map.width[k] + column;
        differ += near.code[at * near.count] != want[p];
        for (int i = 1; i < near.count; i++)
            CHECK(near.distance[at * near.count + i] >= near.distance[at * near.count + i - 1]);
    }
    CHECK_MSG(differ <= 20, "%d", differ); /* bf16 here, f32 there */
    fv_plan_destroy(&plan);
    rdvq_nearest_free(ctx, &near);
    fv_image_free(ctx, &img);
    close_model(&o);
}

/* The formula of FORMAT-rdvq.md, from the picture in 16 bits; 10 bits are spread over 16. */
static void pictures_are_dithered_by_place(void)
{
    opened o;
    tokens t;
    fv_image fine, out[2];
    rdvq_work work;
    const int part[4] = { 37, 11, 150, 90 };
    int above = 0, below = 0;
    OK(ctx, write_model(1, FV_F32));
    OK(ctx, open_model(ctx, &o));
    OK(ctx, random_tokens(o.p, 200, 120, &t));
    OK(ctx, paint(ctx, o.p, &t, part, plenty, 3, 16, &fine, &work));
    OK(ctx, paint(ctx, o.p, &t, part, plenty, 3, 8, &out[0], &work));
    OK(ctx, paint(ctx, o.p, &t, part, plenty, 3, 10, &out[1], &work));
    for (int i = 0; i < 150 * 90 * 3; i++) {
        const int c = i % 3, x = i / 3 % 150, y = i / 3 / 150;
        const uint32_t place = 3242174889u * (uint32_t)(x + 37) + 2447445414u * (uint32_t)(y + 11) +
                               1431655765u * (uint32_t)c;
        const double add = (place >> 8) / 16777216.0;
        const double v = ((const uint16_t *)fvi_image_row(&fine, y))[3 * x + c] / 65535.0;
        const int eight = ((const uint8_t *)fvi_image_row(&out[0], y))[3 * x + c];
        const int ten = ((const uint16_t *)fvi_image_row(&out[1], y))[3 * x + c];
        const int level = (int)(ten * 1023.0 / 65535 + 0.5);
        CHECK(ten == (int)(level * 65535.0 / 1023 + 0.5));
        CHECK(fabs(level + 0.5 - (v * 1023 + add)) < 0.53);
        CHECK(fabs(eight + 0.5 - (v * 255 + add)) < 0.51);
        above += eight > v * 255 + 0.6; /* not rounded */
        below += eight < v * 255 - 0.6;
    }
    CHECK_MSG(above > 1000 && below > 1000, "%d %d", above, below);
    fv_image_free(ctx, &fine);
    for (int i = 0; i < 2; i++) fv_image_free(ctx, &out[i]);
    fv_free(ctx, t.token);
    close_model(&o);
}

/* ---- Sizes, types, threads ------------------------------------------------------------------ */

/* There and back, with the nearest codes. */
static fv_status round_trip(fv_ctx *c, const rdvq_pixels *p, const fv_image *img, fv_image *out)
{
    rdvq_nearest near;
    rdvq_work work = { 0, 0, 0 };
    tokens t;
    const int all[4] = { 0, 0, img->width, img->height };
    FV_TRY(rdvq_grid_of(c, &p->net.cfg, img->width, img->height, &t.g));
    rdvq_map_of(&t.g, &p->net.slices, &t.map);
    FV_TRY(rdvq_analyse_picture(c, p, img, plenty, &near, &work));
    const int64_t n = t.map.first[t.map.layers];
    t.token = fv_alloc(c, (size_t)n * sizeof *t.token);
    for (int64_t i = 0; t.token && i < n; i++) t.token[i] = near.code[i * near.count];
    const fv_status s =
        t.token ? paint(c, p, &t, all, plenty, img->channels, img->depth, out, &work) : FV_ERR_OOM;
    fv_free(c, t.token);
    rdvq_nearest_free(c, &near);
    return s;
}

static void pictures_of_any_size_go_there_and_back(void)
{
    static const int size[][2] = { { 1, 1 }, { 7, 3 }, { 63, 65 }, { 257, 511 }, { 1, 300 },
                                   { 256, 256 } };
    opened o;
    OK(ctx, write_model(1, FV_I8));
    OK(ctx, open_model(ctx, &o));
    for (size_t i = 0; i < FV_ARRAY_LEN(size); i++)
        for (int channels = 1; channels <= 4; channels++) {
            fv_image img, back;
            OK(ctx, rdvq_make_picture(ctx, &img, size[i][0], size[i][1], channels,
                                      channels % 2 ? 8 : 16, i));
            OK(ctx, round_trip(ctx, o.p, &img, &back));
            CHECK(back.width == size[i][0] && back.height == size[i][1]);
            fv_image_free(ctx, &img);
            fv_image_free(ctx, &back);
        }
    close_model(&o);
}

static void same_pictures_for_1_and_2_threads(void)
{
    fv_image img, back[2];
    OK(ctx, write_model(1, FV_BF16));
    OK(ctx, rdvq_make_picture(ctx, &img, 333, 222, 3, 8, 4));
    fv_ctx *c[2];
    for (int i = 0; i < 2; i++) {
        fv_ctx_options opts = FV_CTX_OPTIONS_INIT;
        opened o;
        opts.threads = i + 1;
        OK(ctx, fv_ctx_create(&c[i], &opts));
        OK(c[i], open_model(c[i], &o));
        OK(c[i], round_trip(c[i], o.p, &img, &back[i]));
        close_model(&o);
    }
    CHECK(rdvq_difference(&back[0], &back[1]) == 0);
    for (int i = 0; i < 2; i++) {
        fv_image_free(c[i], &back[i]);
        fv_ctx_destroy(&c[i]);
    }
    fv_image_free(ctx, &img);
}

/* A model that another context opened. */
static void model_is_shared_by_contexts(void)
{
    opened o;
    fv_image img, a, b;
    fv_ctx *other;
    OK(ctx, write_model(1, FV_F32));
    OK(ctx, open_model(ctx, &o));
    OK(ctx, fv_ctx_create(&other, NULL));
    OK(ctx, rdvq_make_picture(ctx, &img, 130, 90, 3, 8, 4));
    OK(other, round_trip(other, o.p, &img, &b));
    OK(ctx, round_trip(ctx, o.p, &img, &a));
    CHECK(rdvq_difference(&a, &b) == 0);
    fv_image_free(other, &b);
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &img);
    fv_ctx_destroy(&other);
    close_model(&o);
}

/* ---- Bounds ---------------------------------------------------------------------------------- */

static void too_little_memory_is_refused(void)
{
    opened o;
    tokens t;
    fv_image img;
    rdvq_work work;
    const int all[4] = { 0, 0, 600, 600 };
    OK(ctx, write_model(1, FV_F32));
    OK(ctx, open_model(ctx, &o));
    OK(ctx, random_tokens(o.p, 600, 600, &t));
    CHECK(paint(ctx, o.p, &t, all, 1000, 3, 8, &img, &work) == FV_ERR_OOM);
    CHECK(strstr(fv_ctx_error(ctx), "memory limit"));
    fv_free(ctx, t.token);
    close_model(&o);
}

static void other_models_are_refused(void)
{
    rdvq_config c = rdvq_small_config(1);
    opened o;
    fv_status s;
    OK(ctx, rdvq_preset(ctx, "rdvq-official", &c));
    for (int i = 0; i < c.levels; i++) {
        c.enc_width[i] = c.dec_width[i] = 4;
        c.enc_blocks[i] = c.dec_blocks[i] = 1;
    }
    c.head = c.norm_groups = 2;
    c.codes = 16;
    c.width = 16;
    c.depth = 1;
    c.heads = 2;
    c.ffn = 16;
    OK(ctx, rdvq_write_model(ctx, &c, 1, FV_F32, model_path));
    CHECK(open_model(ctx, &o) == FV_ERR_UNSUPPORTED);
    /* Metadata that promises another width than the tensors have. */
    rdvq_config small = rdvq_small_config(1), lie;
    fv_model *file;
    OK(ctx, rdvq_write_model(ctx, &small, 1, FV_F32, model_path));
    OK(ctx, fv_model_open(ctx, &file, model_path, NULL));
    OK(ctx, rdvq_config_read(ctx, file, &lie));
    lie.dec_width[2]++;
    fv_meta meta;
    OK(ctx, rdvq_config_meta(ctx, &lie, &meta));
    fv_pack pack;
    OK(ctx, fv_pack_create(ctx, &pack));
    OK(ctx, fv_meta_write(&meta, pack.writer));
    OK(ctx, fv_pack_copy(&pack, file, "", ""));
    const char *path = temp_path("lie.safetensors");
    OK(ctx, fv_model_writer_finish(pack.writer, path, 1));
    fv_pack_free(&pack);
    fv_meta_free(ctx, &meta);
    fv_model_close(&file);
    OK(ctx, fv_model_open(ctx, &file, path, NULL));
    s = rdvq_pixels_open(ctx, &o.p, file);
    CHECK_MSG(s == FV_ERR_MODEL && !o.p, "%s", fv_status_name(s));
    fv_model_close(&file);
}

static fv_status whole_job(fv_ctx *c)
{
    opened o;
    fv_image img = { 0 }, back = { 0 };
    FV_TRY(open_model(c, &o));
    fv_status s = rdvq_make_picture(c, &img, 60, 40, 3, 8, 1);
    if (s == FV_OK) s = round_trip(c, o.p, &img, &back);
    fv_image_free(c, &img);
    fv_image_free(c, &back);
    close_model(&o);
    return s;
}

static void memory_that_runs_out_leaves_nothing_behind(void)
{
    fv_status s = FV_ERR_OOM;
    OK(ctx, write_model(1, FV_BF16));
    for (int64_t n = 0; s != FV_OK; n += 1 + n / 16) {
        alloc_fail heap = { .left = ALLOC_ALL };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ctx_options opts = FV_CTX_OPTIONS_INIT;
        fv_ctx *c;
        opts.alloc = &al;
        opts.threads = 1;
        CHECK(n < 100000 && fv_ctx_create(&c, &opts) == FV_OK);
        const int64_t live = heap.live;
        heap.left = n;
        s = whole_job(c);
        heap.left = ALLOC_ALL;
        CHECK_MSG(s == FV_OK || s == FV_ERR_OOM, "%s: %s", fv_status_name(s), fv_ctx_error(c));
        fv_ctx_destroy(&c);
        CHECK_MSG(heap.live == 0 && live >= 0, "allocation %lld", (long long)n);
    }
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 1; /* pictures are too small for more */
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    temp_dir_make("fv_rdvq_pixels");
    snprintf(model_path, sizeof model_path, "%s", temp_path("model.safetensors"));
    RUN(regions_give_what_the_whole_picture_gives);
    RUN(part_is_cut_out_of_the_whole);
    RUN(analysis_by_regions_finds_the_same_codes);
    RUN(nearest_codes_are_those_of_training);
    RUN(pictures_are_dithered_by_place);
    RUN(pictures_of_any_size_go_there_and_back);
    RUN(same_pictures_for_1_and_2_threads);
    RUN(model_is_shared_by_contexts);
    RUN(too_little_memory_is_refused);
    RUN(other_models_are_refused);
    RUN(memory_that_runs_out_leaves_nothing_behind);
    fv_ctx_destroy(&ctx);
    return test_end();
}
