/* test_pssr_train.c - `engine = pssr`: the update as tape code is that of fdu.c, with its
 * gradients; what losses say of bright pixels in place of texture; clips of stills and of real
 * video; the base learns a picture by heart; both stages, the same model after any interruption;
 * recipes that are refused. */

#include "pssr_train.h"
#include "tar_writer.h"
#include "sr.h"
#include "test.h"
#include "training.h"
#include "vq_train.h"

static fv_ctx *ctx;

/* ---- The update on the tape ------------------------------------------------------------------ */

enum { W = 20, H = 13, PIXELS = W * H };

/* Plan of the change for draft and base RGB [1, H, W, 3]; loss: its mean times `u`. */
static fv_plan *change_plan(fv_params *params, fv_fdu_mode mode)
{
    const int64_t dim[4] = { 1, H, W, 3 }, one[4] = { 1, H, W, 1 };
    fv_tape *t;
    fv_plan *p = NULL;
    if (fv_tape_create(ctx, &t, params, FV_TRAIN, FV_F32) != FV_OK) exit(1);
    const fv_t c = fv_input_grad(t, "base", FV_F32, 4, dim);
    const fv_t d = fv_input_grad(t, "draft", FV_F32, 4, dim);
    const fv_t change = pssr_fdu_change(t, mode, pssr_luma(t, c), pssr_luma(t, d));
    fv_output(t, "change", change);
    fv_output(t, "loss", fvi_loss_dot(t, change, fv_input(t, "u", FV_F32, 4, one)));
    if (fv_plan_finish(ctx, &p, &t, NULL) != FV_OK) exit(1);
    return p;
}

static void update_in(fv_fdu_mode mode)
{
    static float base[3 * PIXELS], draft[3 * PIXELS], u[PIXELS], out[3 * PIXELS];
    fv_params *params = NULL;
    fv_fdu *f = NULL;
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    test_fill(base, 3 * PIXELS, 1);
    test_fill(draft, 3 * PIXELS, 2);
    for (int i = 0; i < 3 * PIXELS; i++) { /* within [0.3, 0.7]: nothing is clamped */
        base[i] = 0.5f + 0.1f * base[i];
        draft[i] = 0.5f + 0.15f * draft[i];
    }
    test_fill(u, PIXELS, 3);
    OK(ctx, fv_params_create(ctx, &params));
    fv_plan *p = change_plan(params, mode);
    OK(ctx, fv_plan_bind(p, "base", base));
    OK(ctx, fv_plan_bind(p, "draft", draft));
    OK(ctx, fv_plan_bind(p, "u", u));
    OK(ctx, fv_plan_forward(p));
    o.mode = mode;
    OK(ctx, fv_fdu_create(ctx, &f, W, H, &o));
    OK(ctx, fv_fdu_run(f, base, draft, out));
    const float *change = fv_plan_value(p, "change").data;
    double most = 0, moved = 0;
    for (int i = 0; i < 3 * PIXELS; i++) {
        const int x = i / 3 % W, y = i / 3 / W, edge = mode == FV_FDU_GAIN ? 4 : 0;
        if (x < edge || y < edge || x >= W - edge || y >= H - edge) continue; /* seen otherwise */
        most = test_worst(most, (double)out[i] - base[i] - change[i / 3]);
        moved = fmax(moved, fabs((double)change[i / 3]));
    }
    CHECK_MSG(most <= 1e-6 && moved > 0.02, "differs by %g, moves by %g", most, moved);
    OK(ctx, fv_plan_backward(p, "loss", 1.0f));
    static float gradient[2][3 * PIXELS];
    memcpy(gradient[0], fv_plan_grad(p, "base").data, sizeof gradient[0]);
    memcpy(gradient[1], fv_plan_grad(p, "draft").data, sizeof gradient[1]);
    /* Along the gradient g the loss rises by |g|^2, kinks of single pixels aside. */
    for (int k = 0; k < 2; k++) {
        float *x = k ? draft : base, value[2];
        double square = 0, largest = 0;
        for (int i = 0; i < 3 * PIXELS; i++) {
            square += (double)gradient[k][i] * gradient[k][i];
            largest = fmax(largest, fabs((double)gradient[k][i]));
        }
        const float step = (float)(1e-4 / largest);
        for (int side = 0; side < 2; side++) {
            for (int i = 0; i < 3 * PIXELS; i++) x[i] += (side ? -2 : 1) * step * gradient[k][i];
            OK(ctx, fv_plan_forward(p));
            value[side] = *(const float *)fv_plan_value(p, "loss").data;
        }
        for (int i = 0; i < 3 * PIXELS; i++) x[i] += step * gradient[k][i];
        NEAR((value[0] - value[1]) / (2 * step) / square, 1, 0.01);
    }
    fv_plan_destroy(&p);
    fv_params_destroy(&params);
    fv_fdu_close(&f);
}

static void the_update_is_that_of_fdu(void)
{
    update_in(FV_FDU_LERP);
    if (!test_bad) update_in(FV_FDU_GAIN);
}

/* ---- Bright pixels --------------------------------------------------------------------------- */

enum { SIDE = 64, AREA = SIDE * SIDE };

/* Grain with the original's spectrum, or single bright pixels, both with its energy, on a slope. */
static void make_texture(float *rgb, bool has_specks, uint64_t seed)
{
    static float d[AREA];
    double sum = 0, square = 0;
    test_fill(d, AREA, seed);
    for (int i = 0; i < AREA; i++) { /* of 32 pixels one stands out */
        if (has_specks) d[i] = d[i] > 0.9375f ? 1.0f : 0.0f;
        sum += (double)d[i];
    }
    for (int i = 0; i < AREA; i++) square += ((double)d[i] - sum / AREA) * ((double)d[i] - sum / AREA);
    for (int i = 0; i < 3 * AREA; i++) {
        const double detail = (d[i / 3] - sum / AREA) * 0.06 / sqrt(square / AREA);
        rgb[i] = (float)(0.3 + 0.3 * (i / 3 % SIDE) / SIDE + detail);
    }
}

/* Losses of a draft whose detail takes the place of a smooth base's. */
static void losses_of(const pssr_loss *w, float *draft, float *base, float *hq, float *out)
{
    const int64_t dim[4] = { 1, SIDE, SIDE, 3 };
    static const char *const name[3] = { "draft", "base", "hq" };
    float *const value[3] = { draft, base, hq };
    fv_t in[3], refined;
    pssr_anchor a;
    fv_tape *t;
    fv_plan *p;
    OK(ctx, fv_tape_create(ctx, &t, NULL, FV_INFER, FV_F32));
    for (int i = 0; i < 3; i++) in[i] = fv_input(t, name[i], FV_F32, 4, dim);
    pssr_anchor_make(t, w, in[1], in[2], &a);
    fv_output(t, "loss", pssr_draft_loss(t, w, &a, in[0], &refined));
    OK(ctx, fv_plan_finish(ctx, &p, &t, NULL));
    for (int i = 0; i < 3; i++) OK(ctx, fv_plan_bind(p, name[i], value[i]));
    OK(ctx, fv_plan_forward(p));
    *out = *(const float *)fv_plan_value(p, "loss").data;
    fv_plan_destroy(&p);
}

/* Amplitudes in patches of 64 hardly tell grain from single bright pixels of the same energy. The
 * texture does, and likes both better than none; peaks are in the bright pixels alone, and cost more
 * at weight 1 than they win at the spectrum's 0.1. */
static void bright_pixels_are_no_texture(void)
{
    static float hq[3 * AREA], grain[3 * AREA], specks[3 * AREA], base[3 * AREA];
    static const pssr_loss all[3] = {
        { .spectrum = 1, .patch = 64 },
        { .texture = 1, .patch = 64, .scales = 3 },
        { .peaks = 1, .patch = 64 },
    };
    float cost[3][4];
    make_texture(hq, false, 1);
    make_texture(grain, false, 2);
    make_texture(specks, true, 3);
    for (int i = 0; i < 3 * AREA; i++) base[i] = (float)(0.3 + 0.3 * (i / 3 % SIDE) / SIDE);
    for (int k = 0; k < 3; k++) {
        losses_of(&all[k], grain, base, hq, &cost[k][0]);
        losses_of(&all[k], specks, base, hq, &cost[k][1]);
        losses_of(&all[k], hq, base, hq, &cost[k][2]);
        losses_of(&all[k], base, base, hq, &cost[k][3]);
    }
    CHECK_MSG(cost[0][1] < 1.1f * cost[0][0], "spectrum %g and %g", (double)cost[0][0],
              (double)cost[0][1]);
    CHECK_MSG(cost[1][2] < cost[1][0] && cost[1][0] < 0.95f * cost[1][1] &&
              cost[1][1] < cost[1][3], "texture: original %g, grain %g, bright pixels %g, base %g",
              (double)cost[1][2], (double)cost[1][0], (double)cost[1][1], (double)cost[1][3]);
    CHECK_MSG(cost[2][1] > 50 * cost[2][0] && cost[2][2] == 0 && cost[2][3] == 0,
              "peaks: original %g, grain %g, bright pixels %g, base %g", (double)cost[2][2],
              (double)cost[2][0], (double)cost[2][1], (double)cost[2][3]);
    CHECK(0.1f * (cost[0][3] - cost[0][1]) < cost[2][1]); /* what amplitudes pay for them */
    CHECK(pssr_scales(16) == 1 && pssr_scales(18) == 2 && pssr_scales(128) == 4);
}

/* ---- Clips ----------------------------------------------------------------------------------- */

enum { CLIP_SIDE = 32, CLIP_FRAMES = 3, CLIPS = 2, CLIP_AREA = CLIP_SIDE * CLIP_SIDE };

static void frames_of_a_still_follow_its_path(void)
{
    const int source = pssr_clips_source(CLIP_SIDE);
    static float still[CLIPS * 3 * 40 * 40], frame[CLIP_FRAMES][CLIPS][3 * CLIP_AREA];
    static float flow[2 * CLIP_AREA], none[2 * CLIP_AREA];
    double along = 0, across = 0;
    pssr_clips c = { 0 };
    CHECK(source == 40);
    for (int i = 0; i < CLIPS * 3 * 1600; i++)
        still[i] = (float)(0.5 * sin(0.3 * (i / 3 % 40)) + 0.4 * cos(0.25 * (i / 120)));
    OK(ctx, pssr_clips_create(ctx, &c, CLIPS, CLIP_FRAMES, CLIP_SIDE, 5));
    c.o.light = 0;
    for (uint32_t first = 0; first < 12; first += CLIPS) {
        OK(ctx, pssr_clips_make(&c, still, first, &frame[0][0][0]));
        for (int b = 0; b < CLIPS; b++) {
            fv_clip_path path;
            double e[2];
            OK(ctx, fv_clip_draw(ctx, &c.o, first + (uint32_t)b, &path));
            OK(ctx, fv_clip_flow(ctx, &path, 0, 1, flow, CLIP_SIDE, CLIP_SIDE));
            OK(ctx, fv_warping_error(ctx, frame[0][b], frame[1][b], CLIP_SIDE, CLIP_SIDE, flow,
                                     NULL, &e[0], NULL));
            OK(ctx, fv_warping_error(ctx, frame[0][b], frame[1][b], CLIP_SIDE, CLIP_SIDE, none,
                                     NULL, &e[1], NULL));
            along += e[0];
            across += e[1];
        }
    }
    CHECK_MSG(along < 0.02 * across && across > 1e-3, "along %g, across %g", along, across);
    pssr_clips_free(&c);
    pssr_clips_free(&c); /* accepts zeros */
}

/* Two folders of frames: red is the number of the frame, green the folder, blue the column. */
static void make_video(const char *path)
{
    static uint8_t ppm[70 * 66 * 3 + 64];
    tar t = { 0 };
    for (int i = 0; i < 12; i++) {
        char name[32];
        size_t n = (size_t)sprintf((char *)ppm, "P6 70 66 255\n");
        for (int p = 0; p < 70 * 66; p++) {
            ppm[n++] = (uint8_t)(20 * (i % 6));
            ppm[n++] = (uint8_t)(i < 6 ? 0 : 200);
            ppm[n++] = (uint8_t)(p % 70);
        }
        snprintf(name, sizeof name, "%s/f%d.ppm", i < 6 ? "a" : "b", 7 + i % 6); /* f9, f10 */
        put_entry(&t, "", name, '0', ppm, n);
    }
    save_tar(&t, temp_path(path));
}

static void real_video_is_shown_frame_by_frame(void)
{
    const char *const path[1] = { temp_path("video.tar") };
    static float still[CLIPS * 3 * 40 * 40], frame[CLIP_FRAMES][CLIPS][3 * CLIP_AREA];
    pssr_clips c = { 0 };
    int back = 0, halved = 0, mirrored = 0, folders = 0;
    OK(ctx, pssr_clips_create(ctx, &c, CLIPS, CLIP_FRAMES, CLIP_SIDE, 5));
    OK(ctx, pssr_clips_video(&c, path, 1, 1));
    CHECK(c.starts == 8); /* no clip runs on from one folder into the next */
    for (uint32_t first = 0; first < 40; first += CLIPS) {
        OK(ctx, pssr_clips_make(&c, still, first, &frame[0][0][0]));
        for (int b = 0; b < CLIPS; b++) {
            const float step = 255 / 20.0f * (frame[1][b][0] - frame[0][b][0]);
            const float wide = 255 * (frame[0][b][3 * 31 + 2] - frame[0][b][2]);
            const int by = fabsf(wide) > 40 ? 2 : 1;
            NEAR(fabsf(step), 1, 1e-3);
            NEAR(frame[2][b][0] - frame[1][b][0], frame[1][b][0] - frame[0][b][0], 1e-5);
            NEAR(frame[2][b][1], frame[0][b][1], 0);
            NEAR(fabsf(wide), 31 * by, 1e-3);
            CHECK(memcmp(&frame[0][b][0], &frame[0][b][3 * CLIP_SIDE], 3 * CLIP_SIDE * 4) == 0);
            back += step < 0;
            halved += by == 2;
            mirrored += wide < 0;
            folders += frame[0][b][1] > 0.5f;
        }
    }
    CHECK_MSG(back % 40 && halved % 40 && mirrored % 40 && folders % 40, "%d %d %d %d of 40", back,
              halved, mirrored, folders);
    pssr_clips_free(&c);
    OK(ctx, pssr_clips_create(ctx, &c, CLIPS, 7, CLIP_SIDE, 5));
    CHECK(pssr_clips_video(&c, path, 1, 1) == FV_ERR_ARG); /* folders of 6 frames */
    pssr_clips_free(&c);
}

/* All of a clip has one degradation, but noise of its own in every frame. */
static void a_clip_is_degraded_alike(void)
{
    const pssr_pairs_options o = { CLIPS, CLIP_FRAMES, CLIP_SIDE, 3, 0 };
    static fv_degrade_list list[2]; /* zeros behind the steps */
    pssr_pairs p = { 0 };
    const int each = 3 * CLIP_AREA / 16;
    bool differ = false;
    OK(ctx, pssr_pairs_create(ctx, &p, &o));
    for (int i = 0; i < p.count * 3 * CLIP_AREA; i++) p.hq[i] = 0.5f;
    pssr_pairs_kind(&p, 0, FV_DEGRADE_PSSR);
    pssr_pairs_kind(&p, 1, FV_DEGRADE_TWO_STAGE);
    OK(ctx, pssr_pairs_degrade(&p, 8));
    for (int b = 0; b < CLIPS; b++) {
        OK(ctx, fv_degrade_draw(p.degrade, &p.job[b], &list[0]));
        OK(ctx, fv_degrade_draw(p.degrade, &p.job[2 * CLIPS + b], &list[1]));
        CHECK(p.job[2 * CLIPS + b].frame == 2 && p.job[2 * CLIPS + b].sample == 8u + (unsigned)b);
        CHECK(list[0].count > 4 && memcmp(&list[0], &list[1], sizeof list[0]) == 0);
        CHECK(memcmp(p.small + b * each, p.small + (2 * CLIPS + b) * each, (size_t)each * 4) != 0);
    }
    OK(ctx, fv_degrade_draw(p.degrade, &p.job[0], &list[0]));
    OK(ctx, fv_degrade_draw(p.degrade, &p.job[1], &list[1]));
    differ = memcmp(&list[0], &list[1], sizeof list[0]) != 0;
    CHECK(differ);
    pssr_pairs_free(&p);
}

/* ---- Stages ---------------------------------------------------------------------------------- */

/* Pictures of waves and edges, 48 x 48. `copies` of the same one, of which one is held out, or 4
 * different ones. */
static void make_data(const char *path, bool is_same)
{
    static const char *const names[] = { "t0.ppm", "h35.ppm", "t1.ppm", "t2.ppm", "t3.ppm" };
    static uint8_t ppm[48 * 48 * 3 + 64];
    tar t = { 0 };
    for (int i = 0; i < (is_same ? 2 : 5); i++) {
        size_t n = (size_t)sprintf((char *)ppm, "P6 48 48 255\n");
        const int kind = is_same ? 0 : i;
        for (int p = 0; p < 48 * 48 * 3; p++) {
            const int x = p / 3 % 48, y = p / 3 / 48, c = p % 3;
            const double wave = sin(0.9 * x + 0.2 * (kind + 1) * y + c) + cos(0.4 * y - 0.1 * x);
            ppm[n++] = (uint8_t)(110 + 30 * wave + ((x + (kind + 1) * y) / 13 % 2 ? 60 : 0));
        }
        put_entry(&t, "", names[i], '0', ppm, n);
    }
    save_tar(&t, temp_path(path));
}

static fv_status train(fv_ctx *c, const char *out, const char *init, int resume, const char *more)
{
    const char *recipe = "engine = pssr\npreset = nano\ndata = four.tar\nworkers = -1\nflip = no\n"
                         "crop = 48\nbatch = 1\nlr = 2e-3\nema = 0.9\nprecision = f32\n"
                         "export = f32\neval_pictures = 0\nwarmup = 1\nsave_every = 2\nsteps = 4\n"
                         "native_max = 1\nlog_every = 1\n";
    return train_recipe(c, fv_pssr_train, recipe, more, out, init, resume);
}

static double number(const char *model, const char *key)
{
    fv_model *m;
    double v = NAN;
    if (fv_model_open(ctx, &m, temp_path(model), NULL) != FV_OK) exit(1);
    if (fv_model_meta(m, key)) v = atof(fv_model_meta(m, key));
    fv_model_close(&m);
    return v;
}

#define HELD_OUT "eval_pictures = 1\neval_size = 48\neval_every = 1000\n"

static void the_base_learns_a_picture_by_heart(void)
{
    OK(ctx, train(ctx, "heart", NULL, 0, "data = one.tar\nclean = 1\nsteps = 200\nlr = 3e-3\n"
                                         "save_every = 1000\nlog_every = 100\n" HELD_OUT));
    const double bicubic = number("heart", "fovea.train.bicubic_db");
    const double base = number("heart", "fovea.train.base_db");
    CHECK_MSG(bicubic < 35 && base > 40, "bicubic %g, base %g dB", bicubic, base);
}

/* Does any value of the tensors whose names begin with `part` differ? */
static bool moved(const char *one, const char *two, const char *part)
{
    fv_model *a, *b;
    bool differ = false;
    if (fv_model_open(ctx, &a, temp_path(one), NULL) != FV_OK) exit(1);
    if (fv_model_open(ctx, &b, temp_path(two), NULL) != FV_OK) exit(1);
    for (int i = 0; i < fv_model_count(a); i++) {
        fv_tensor x, y;
        if (strncmp(fv_model_name(a, i), part, strlen(part)) != 0) continue;
        fv_model_tensor(a, i, &x);
        if (!fv_model_find(b, fv_model_name(a, i), &y)) exit(1);
        differ = differ || memcmp(x.data, y.data, (size_t)fv_tensor_count(&x) * 4) != 0;
    }
    fv_model_close(&a);
    fv_model_close(&b);
    return differ;
}

#define DRAFT "stage = draft\n"

static void the_draft_moves_and_the_base_stays(void)
{
    OK(ctx, train(ctx, "base", NULL, 0, "steps = 4\n"));
    OK(ctx, train(ctx, "one", "base", 0, DRAFT "steps = 2\n" HELD_OUT));
    OK(ctx, train(ctx, "two", "one", 0, DRAFT "steps = 3\n"));
    CHECK(!moved("base", "one", "base.") && !moved("base", "two", "base."));
    CHECK(moved("one", "two", "draft."));
    fv_model *m;
    pssr_config c;
    OK(ctx, fv_model_open(ctx, &m, temp_path("base"), NULL));
    OK(ctx, pssr_config_read(ctx, m, &c));
    fv_model_close(&m);
    CHECK(c.times == 1 && c.channels == 32);
    OK(ctx, fv_model_open(ctx, &m, temp_path("one"), NULL));
    OK(ctx, pssr_config_read(ctx, m, &c));
    fv_model_close(&m);
    CHECK(c.times == 4);
    /* Base and draft are as the measured loss allows. */
    CHECK(number("one", "fovea.train.psnr_db") > number("one", "fovea.train.base_db") - 0.5);
}

/* features = no: the weights of the base's features stay 0, the rest of the draft learns. */
static void a_draft_may_see_nothing_of_the_base(void)
{
    fv_model *m;
    fv_tensor t;
    int looked = 0;
    OK(ctx, train(ctx, "alone", "base", 0, DRAFT "steps = 2\nfeatures = no\n"));
    OK(ctx, train(ctx, "onward", "alone", 0, DRAFT "steps = 4\nfeatures = no\n"));
    CHECK(moved("alone", "onward", "draft."));
    OK(ctx, train(ctx, "still", "alone", 0, DRAFT "steps = 1\nlr = 1e-30\nema = 0\nfeatures = no\n"));
    CHECK(!moved("alone", "still", "draft."));
    OK(ctx, fv_model_open(ctx, &m, temp_path("onward"), NULL));
    for (int i = 0; i < fv_model_count(m); i++) {
        const char *name = fv_model_name(m, i), *end = strstr(name, ".feature.weight");
        if (!end || strncmp(name, "draft.", 6) != 0) continue;
        fv_model_tensor(m, i, &t);
        looked++;
        for (int64_t k = 0; k < fv_tensor_count(&t); k++)
            if (((const float *)t.data)[k] != 0) looked = -1000;
    }
    fv_model_close(&m);
    CHECK_MSG(looked > 0, "%d", looked);
    CHECK(train(ctx, "none", "base", 0, "features = no\n") == FV_ERR_UNKNOWN); /* has no draft */
}

/* The file says which update its draft is for, `gen sr` follows, and a later stage keeps to it. */
static void a_draft_of_gains_is_one(void)
{
    fv_model *m;
    OK(ctx, train(ctx, "gains", "base", 0, DRAFT "steps = 2\nupdate = gain\n"));
    OK(ctx, fv_model_open(ctx, &m, temp_path("gains"), NULL));
    CHECK(strcmp(fv_model_meta(m, "fovea.pssr.fdu"), "gain") == 0);
    fv_model_close(&m);
    OK(ctx, train(ctx, "pixels", "base", 0, DRAFT "steps = 2\n"));
    CHECK(moved("gains", "pixels", "draft."));
    OK(ctx, train(ctx, "loyal", "base", 0, DRAFT "steps = 2\nfidelity = 9\n"));
    CHECK(moved("loyal", "pixels", "draft."));
    OK(ctx, train(ctx, "more", "gains", 0, DRAFT "steps = 1\nupdate = gain\n"));
    CHECK(train(ctx, "none", "gains", 0, DRAFT "steps = 1\n") == FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "update = gain"));
    CHECK(train(ctx, "none", "base", 0, DRAFT "update = ref\n") == FV_ERR_UNKNOWN);
}

/* Steps where none are asked for are of the file; training is the same with and without. */
static void a_model_has_steps_of_its_own(void)
{
    fv_model *m;
    fv_sr *sr;
    fv_sr_info info;
    OK(ctx, train(ctx, "all", "base", 0, DRAFT "steps = 2\n"));
    OK(ctx, train(ctx, "own", "base", 0, DRAFT "steps = 2\nown_steps = 2\n"));
    CHECK(!moved("all", "own", "draft."));
    OK(ctx, fv_model_open(ctx, &m, temp_path("own"), NULL));
    OK(ctx, fv_sr_open(ctx, &sr, m, FV_F32));
    fv_sr_get_info(sr, &info);
    CHECK(info.steps == 4 && info.own_steps == 2);
    fv_sr_close(&sr);
    fv_model_close(&m);
    CHECK(train(ctx, "none", "base", 0, DRAFT "own_steps = 5\n") == FV_ERR_ARG);
}

static void a_discriminator_moves_the_draft(void)
{
    fv_model *m;
#define GAN DRAFT "steps = 3\ngan = 5\ngan_channels = 8\nclip = 0\n"
    OK(ctx, train(ctx, "with", "base", 0, GAN "gan_from = 0.3\n"));
    OK(ctx, train(ctx, "later", "base", 0, GAN "gan_from = 1\n"));
    CHECK(moved("with", "later", "draft."));
    OK(ctx, fv_model_open(ctx, &m, temp_path("with"), NULL));
    for (int i = 0; i < fv_model_count(m); i++)
        CHECK(strncmp(fv_model_name(m, i), "gan.", 4) != 0);
    fv_model_close(&m);
}

#define CLIP "preset = nano-video\nframes = 2\n"

/* The loss of a later frame reaches back to the frame before. */
static void gradients_flow_back_in_time(void)
{
    const int64_t dim[4] = { 1, 4, 4, PSSR_STATE };
    fv_params *params = NULL;
    pssr_config cfg;
    pssr_tables tables;
    pssr_graph g;
    pssr_net net;
    fv_t zhat[1], z[2];
    fv_tape *t;
    fv_plan *p;
    static float x[2][16 * PSSR_STATE], u[32 * PSSR_STATE];
    OK(ctx, pssr_preset(ctx, "nano-video", &cfg));
    OK(ctx, fv_params_create(ctx, &params));
    pssr_net_add(&net, params, &cfg, "", PSSR_BASE, 0);
    OK(ctx, fv_params_alloc(params));
    pssr_net_init(&net, 1);
    fv_params_init_normal(params, net.base.head.w, 2, 0.1f);
    OK(ctx, fv_tape_create(ctx, &t, params, FV_TRAIN, FV_F32));
    pssr_graph_begin(&g, t, &net, 1, 0);
    z[0] = fv_input_grad(t, "first", FV_F32, 4, dim);
    z[1] = fv_input(t, "second", FV_F32, 4, dim);
    pssr_refine_clip(&g, z, 2, 0, zhat);
    const int64_t both[4] = { 2, 4, 4, PSSR_STATE };
    fv_output(t, "loss", fvi_loss_dot(t, zhat[0], fv_input(t, "u", FV_F32, 4, both)));
    OK(ctx, fv_plan_finish(ctx, &p, &t, NULL));
    OK(ctx, pssr_tables_create(ctx, &tables, &cfg, 1));
    OK(ctx, pssr_tables_bind(&tables, p));
    test_fill(x[0], 2 * 16 * PSSR_STATE, 4);
    for (int i = 16 * PSSR_STATE; i < 32 * PSSR_STATE; i++) u[i] = 1; /* the second frame alone */
    OK(ctx, fv_plan_bind(p, "first", x[0]));
    OK(ctx, fv_plan_bind(p, "second", x[1]));
    OK(ctx, fv_plan_bind(p, "u", u));
    OK(ctx, fv_plan_forward(p));
    OK(ctx, fv_plan_backward(p, "loss", 1.0f));
    const float *gradient = fv_plan_grad(p, "first").data;
    double most = 0;
    for (int i = 0; i < 16 * PSSR_STATE; i++) most = fmax(most, fabs((double)gradient[i]));
    CHECK_MSG(most > 1e-7, "%g", most);
    fv_plan_destroy(&p);
    pssr_tables_free(ctx, &tables);
    fv_params_destroy(&params);
}

static void enlarge(const char *model, fv_image *out)
{
    fv_image in;
    fv_model *m;
    fv_sr *sr;
    fv_sr_options o = FV_SR_OPTIONS_INIT;
    if (fv_image_create(ctx, &in, 24, 16, 3, 8) != FV_OK) exit(1);
    for (int i = 0; i < 16 * 24 * 3; i++)
        ((uint8_t *)in.pixels)[(size_t)(i / 72) * in.stride_bytes + (size_t)(i % 72)] =
            (uint8_t)(i * 37);
    if (fv_model_open(ctx, &m, temp_path(model), NULL) != FV_OK ||
        fv_sr_open(ctx, &sr, m, FV_F32) != FV_OK ||
        fv_sr_image(ctx, sr, &in, &o, out, NULL) != FV_OK)
        exit(1);
    fv_image_free(ctx, &in);
    fv_sr_close(&sr);
    fv_model_close(&m);
}

/* At its first step a model of video makes of pictures what the model of pictures made that it
 * begins with; then it moves. */
static void a_model_of_pictures_becomes_one_of_video(void)
{
    fv_image from, to;
    OK(ctx, train(ctx, "video", "base", 0, CLIP "steps = 1\nlr = 1e-30\nema = 0\n"));
    CHECK(!moved("base", "video", "base."));
    CHECK(number("video", "fovea.pssr.video") == 1 && isnan(number("base", "fovea.pssr.video")));
    enlarge("base", &from);
    enlarge("video", &to);
    CHECK(from.height == 64 && memcmp(from.pixels, to.pixels, from.stride_bytes * 64) == 0);
    fv_image_free(ctx, &from);
    fv_image_free(ctx, &to);
    OK(ctx, train(ctx, "other", "base", 0, CLIP "steps = 2\n" HELD_OUT));
    CHECK(moved("base", "other", "base.") && number("other", "fovea.train.base_db") > 10);
}

typedef struct part { const char *init, *stage; } part;
static fv_status go_on(fv_ctx *c, void *user)
{
    const part *p = user;
    return train(c, "parts", p->init, 1, p->stage);
}

static void check_stops(const char *init, const char *stage)
{
    fv_ctx *c = make_context(0, 1);
    int stops = 0;
    temp_remove_tree(temp_path("run-whole"));
    temp_remove_tree(temp_path("run-parts"));
    const unsigned begin = micros();
    OK(c, train(c, "whole", init, 0, stage));
    OK(c, stop_and_go(c, go_on, &(part){ init, stage }, micros() - begin, 2, &stops));
    CHECK_MSG(stops > 1, "%d stops", stops);
    CHECK(!moved("whole", "parts", ""));
    fv_ctx_destroy(&c);
}

static void stopped_runs_end_the_same(void)
{
    check_stops(NULL, "steps = 12\ndegrade = both\nclean = 0.3\nclean_first = 0.2\n");
    check_stops("base", DRAFT "steps = 8\ngan = 1\ngan_channels = 8\n");
    check_stops("base", DRAFT CLIP "steps = 4\ngan = 1\ngan_channels = 8\ngan_from = 0\n"
                "texture = 1\npeaks = 1\nvideo = video.tar\nvideo_share = 0.5\nclean = 0\n"
                "degrade = both\n");
}

static void bad_recipes_are_refused(void)
{
    static const struct { const char *init, *more; fv_status status; const char *text; } bad[] = {
        { NULL, DRAFT, FV_ERR_ARG, "--init" },
        { NULL, "stage = tokenizer\n", FV_ERR_UNKNOWN, "stage" },
        { NULL, "degrade = much\n", FV_ERR_UNKNOWN, "two-stage" },
        { NULL, "preset = huge\n", FV_ERR_UNKNOWN, "nano tiny" },
        { NULL, "preset = nano-video\n", FV_ERR_ARG, "frames" },
        { NULL, "preset = nano-video\nframes = 1\n", FV_ERR_ARG, "clips" },
        { NULL, "frames = 2\n", FV_ERR_ARG, "pssr-nano-video" },
        { NULL, CLIP "video = none.tar\n", FV_ERR_NOT_FOUND, "none.tar" },
        { NULL, "preset = nano-video\nframes = 9\nvideo = four.tar\n", FV_ERR_ARG, "folder" },
        { NULL, "video = four.tar\n", FV_ERR_UNKNOWN, "video" }, /* pictures see none */
        { NULL, "texture = 1\n", FV_ERR_UNKNOWN, "texture" },
        { "base", DRAFT "crop = 16\ntexture = 1\n", FV_ERR_ARG, "32" },
        { NULL, "crop = 50\n", FV_ERR_ARG, "16" },
        { NULL, "low = 1\n", FV_ERR_UNKNOWN, "low" }, /* has no draft */
        { NULL, "pixel = 0\nspectrum = 0\n", FV_ERR_ARG, "weight 0" },
        { "base", DRAFT "gan = 1\ngan_layers = 5\n", FV_ERR_ARG, "discriminator" },
        { "base", "preset = tiny\n", FV_ERR_MODEL, "channels" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const fv_status s = train(ctx, "none", bad[i].init, 0, bad[i].more);
        CHECK_MSG(s == bad[i].status && strstr(fv_ctx_error(ctx), bad[i].text), "%s: %s: %s",
                  bad[i].more, fv_status_name(s), fv_ctx_error(ctx));
    }
}

int main(void)
{
    temp_dir_make("pssr-train");
    ctx = make_context(0, 1);
    make_data("one.tar", true);
    make_data("four.tar", false);
    make_video("video.tar");
    RUN(the_update_is_that_of_fdu);
    RUN(bright_pixels_are_no_texture);
    RUN(frames_of_a_still_follow_its_path);
    RUN(real_video_is_shown_frame_by_frame);
    RUN(a_clip_is_degraded_alike);
    RUN(gradients_flow_back_in_time);
    RUN(the_base_learns_a_picture_by_heart);
    RUN(the_draft_moves_and_the_base_stays);
    RUN(a_draft_may_see_nothing_of_the_base);
    RUN(a_draft_of_gains_is_one);
    RUN(a_model_has_steps_of_its_own);
    RUN(a_discriminator_moves_the_draft);
    RUN(a_model_of_pictures_becomes_one_of_video);
    RUN(bad_recipes_are_refused);
    RUN(stopped_runs_end_the_same);
    fv_ctx_destroy(&ctx);
    return test_end();
}
