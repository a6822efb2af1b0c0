/* test_pssr_train.c - `engine = pssr`: the update as tape code is that of fdu.c, with its
 * gradients; the base learns a picture by heart; both stages, the same model after any
 * interruption; recipes that are refused. */

#include "pssr_train.h"
#include "tar_writer.h"
#include "test.h"
#include "training.h"
#include "vq_train.h"

static fv_ctx *ctx;

/* ---- The update on the tape ------------------------------------------------------------------ */

enum { W = 20, H = 13, PIXELS = W * H };

/* Plan of the change for draft and base RGB [1, H, W, 3]; loss: its mean times `u`. */
static fv_plan *change_plan(fv_params *params)
{
    const int64_t dim[4] = { 1, H, W, 3 }, one[4] = { 1, H, W, 1 };
    fv_tape *t;
    fv_plan *p = NULL;
    if (fv_tape_create(ctx, &t, params, FV_TRAIN, FV_F32) != FV_OK) exit(1);
    const fv_t c = fv_input_grad(t, "base", FV_F32, 4, dim);
    const fv_t d = fv_input_grad(t, "draft", FV_F32, 4, dim);
    const fv_t change = pssr_fdu_change(t, pssr_luma(t, c), pssr_luma(t, d));
    fv_output(t, "change", change);
    fv_output(t, "loss", fvi_loss_dot(t, change, fv_input(t, "u", FV_F32, 4, one)));
    if (fv_plan_finish(ctx, &p, &t, NULL) != FV_OK) exit(1);
    return p;
}

static void the_update_is_that_of_fdu(void)
{
    static float base[3 * PIXELS], draft[3 * PIXELS], u[PIXELS], out[3 * PIXELS];
    fv_params *params = NULL;
    fv_fdu *f = NULL;
    test_fill(base, 3 * PIXELS, 1);
    test_fill(draft, 3 * PIXELS, 2);
    for (int i = 0; i < 3 * PIXELS; i++) { /* within [0.3, 0.7]: nothing is clamped */
        base[i] = 0.5f + 0.1f * base[i];
        draft[i] = 0.5f + 0.15f * draft[i];
    }
    test_fill(u, PIXELS, 3);
    OK(ctx, fv_params_create(ctx, &params));
    fv_plan *p = change_plan(params);
    OK(ctx, fv_plan_bind(p, "base", base));
    OK(ctx, fv_plan_bind(p, "draft", draft));
    OK(ctx, fv_plan_bind(p, "u", u));
    OK(ctx, fv_plan_forward(p));
    OK(ctx, fv_fdu_create(ctx, &f, W, H, NULL));
    OK(ctx, fv_fdu_run(f, base, draft, out));
    const float *change = fv_plan_value(p, "change").data;
    double most = 0, moved = 0;
    for (int i = 0; i < 3 * PIXELS; i++) {
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
    OK(c, train(c, "whole", init, 0, stage));
    OK(c, stop_and_go(c, go_on, &(part){ init, stage }, 150000, 2, &stops));
    CHECK_MSG(stops > 1, "%d stops", stops);
    CHECK(!moved("whole", "parts", ""));
    fv_ctx_destroy(&c);
}

static void stopped_runs_end_the_same(void)
{
    check_stops(NULL, "steps = 12\ndegrade = both\nclean = 0.3\nclean_first = 0.2\n");
    check_stops("base", DRAFT "steps = 8\ngan = 1\ngan_channels = 8\n");
}

static void bad_recipes_are_refused(void)
{
    static const struct { const char *init, *more; fv_status status; const char *text; } bad[] = {
        { NULL, DRAFT, FV_ERR_ARG, "--init" },
        { NULL, "stage = tokenizer\n", FV_ERR_UNKNOWN, "stage" },
        { NULL, "degrade = much\n", FV_ERR_UNKNOWN, "two-stage" },
        { NULL, "preset = huge\n", FV_ERR_UNKNOWN, "nano tiny" },
        { NULL, "preset = nano-video\n", FV_ERR_ARG, "clips" },
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
    RUN(the_update_is_that_of_fdu);
    RUN(the_base_learns_a_picture_by_heart);
    RUN(the_draft_moves_and_the_base_stays);
    RUN(a_discriminator_moves_the_draft);
    RUN(bad_recipes_are_refused);
    RUN(stopped_runs_end_the_same);
    fv_ctx_destroy(&ctx);
    return test_end();
}
