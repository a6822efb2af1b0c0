/* test_rdvq_parity.c - RDVQ's transforms and entropy model, official and own, against PyTorch
 * modules at small width (tests/parity/rdvq_small.py). Weights and pictures are functions of a hash
 * that both sides compute; the golden file holds results in double precision. */
#include "golden_parity.h"
#include "rdvq_convert.h"
#include "rdvq_random.h"
#include "temp_dir.h"

static void fill_picture(float *x, int side)
{
    const uint32_t seed = fv_crc32(0, "picture", 7);
    for (int i = 0; i < side * side * 3; i++) {
        const int c = i % 3, at = i / 3;
        x[i] = (float)(0.6 * sin(0.11 * (at % side) + 0.07 * (at / side) * (c + 1)) +
                       0.3 * noise_at(seed, (uint32_t)i));
    }
}

typedef struct run {
    rdvq_net net;
    rdvq_tables tables;
    fv_params *params;
    fv_plan *plan;
    float *x, *noise[2];
    int side;
} run;

static fv_status record(run *r, fv_tape *t)
{
    const int64_t image[4] = { 1, r->side, r->side, 3 }, windows[3] = { 1, 1, 1 };
    fv_t z[RDVQ_SCALES], q[RDVQ_SCALES], noise[2] = { 0, 0 }, index;
    rdvq_analyse(t, &r->net, fv_input(t, "x", FV_F32, 4, image), z);
    const fv_t rows = rdvq_to_windows(t, &r->net, z);
    fv_output(t, "latents", rows);
    const fv_t u = fv_vq_nearest(t, rdvq_unit(t, rows), rdvq_codes(t, &r->net), &index);
    fv_output(t, "index", index);
    rdvq_from_windows(t, &r->net, u, windows, q);
    for (int k = 0; k < 2 && r->net.cfg.noise; k++) {
        const int64_t s = r->side / (k ? 4 : 8), dim[4] = { 1, s, s, r->net.cfg.noise };
        noise[k] = fv_input(t, k ? "noise4" : "noise8", FV_F32, 4, dim);
    }
    fv_output(t, "y", rdvq_synthesise(t, &r->net, q, noise));
    fv_output(t, "logits", rdvq_logits(t, &r->net, u));
    return fv_tape_status(t);
}

/* file NULL: the weights of its names; else those of the file, which must have that config. */
static fv_status fill(run *r, const rdvq_config *c, const fv_model *file)
{
    rdvq_config read;
    if (file) {
        FV_TRY(rdvq_config_read(ctx, file, &read));
        memset(read.name, 0, sizeof read.name);
        read.pad_token = 0;
        if (memcmp(&read, c, sizeof read) != 0) return FV_ERR_MODEL;
    }
    FV_TRY(fv_params_create(ctx, &r->params));
    rdvq_net_add(&r->net, r->params, c, file || !c->is_official ? RDVQ_PREFIX : "", 0);
    if (file) FV_TRY(fv_params_load(r->params, file, ""));
    FV_TRY(fv_params_alloc(r->params));
    for (fv_pid id = 0; id < fv_params_count(r->params) && !file; id++) fill_param(r->params, id);
    fv_params_touch(r->params);
    return FV_OK;
}

static fv_status start(run *r, bool is_official, const fv_model *file)
{
    const rdvq_config c = small_config(is_official);
    fv_tape *t = NULL;
    memset(r, 0, sizeof *r);
    r->side = rdvq_window(&c);
    FV_TRY(rdvq_config_check(ctx, &c));
    FV_TRY(fill(r, &c, file));
    FV_TRY(rdvq_tables_create(ctx, &r->tables, &r->net));
    FV_TRY(fv_tape_create(ctx, &t, r->params, FV_INFER, FV_F32));
    (void)record(r, t); /* a failure sticks in the tape */
    FV_TRY(fv_plan_finish(ctx, &r->plan, &t, NULL));
    FV_TRY(rdvq_tables_bind(&r->tables, r->plan));
    r->x = fv_calloc(ctx, (size_t)(r->side * r->side * 3), sizeof(float));
    if (!r->x) return FV_ERR_OOM;
    fill_picture(r->x, r->side);
    for (int k = 0; k < 2 && c.noise; k++) {
        const int stride = k ? 4 : 8, at[4] = { 0, 0, r->side / stride, r->side / stride };
        r->noise[k] = fv_calloc(ctx, (size_t)(at[2] * at[3] * c.noise), sizeof(float));
        if (!r->noise[k]) return FV_ERR_OOM;
        rdvq_fill_noise(&r->net, 9, stride, at, r->noise[k]);
        FV_TRY(fv_plan_bind(r->plan, k ? "noise4" : "noise8", r->noise[k]));
    }
    FV_TRY(fv_plan_bind(r->plan, "x", r->x));
    return fv_plan_forward(r->plan);
}

static void stop(run *r)
{
    fv_plan_destroy(&r->plan);
    fv_params_destroy(&r->params);
    rdvq_tables_free(ctx, &r->tables);
    fv_free(ctx, r->x);
    fv_free(ctx, r->noise[0]);
    fv_free(ctx, r->noise[1]);
}

/* Largest gap over the largest value; `at` maps an index of the golden tensor to ours. */
static double gap(const fv_tensor *want, const float *got, int64_t (*at)(int64_t, const run *),
                  const run *r)
{
    double worst = 0, scale = 0;
    for (int64_t i = 0; i < fv_tensor_count(want); i++) {
        const double w = ((const float *)want->data)[i];
        worst = fmax(worst, fabs(w - got[at ? at(i, r) : i]));
        scale = fmax(scale, fabs(w));
    }
    return worst / scale;
}

/* Golden logits are by position, ours in coding order. */
static int64_t logit_at(int64_t i, const run *r)
{
    const int V = r->net.cfg.codes;
    return r->net.slices.rank[i / V] * (int64_t)V + i % V;
}

/* Golden pictures hold pixels (3 + 8 y, 5 + 8 x). */
static int64_t pixel_at(int64_t i, const run *r)
{
    const int64_t n = r->side / 8, c = i % 3, x = i / 3 % n, y = i / 3 / n;
    return ((3 + 8 * y) * r->side + 5 + 8 * x) * 3 + c;
}

static void compare(const char *name, const run *r)
{
    fv_model *g = open_golden("rdvq_small_io");
    char full[32];
    fv_tensor want[5];
    const char *const part[5] = { "latents", "index", "margin", "logits", "picture" };
    for (int i = 0; i < 5; i++) {
        snprintf(full, sizeof full, "%s.%s", name, part[i]);
        want[i] = golden_tensor(g, full);
    }
    const int32_t *index = fv_plan_value(r->plan, "index").data;
    const double latents = gap(&want[0], fv_plan_value(r->plan, "latents").data, NULL, r);
    const double logits = gap(&want[3], fv_plan_value(r->plan, "logits").data, logit_at, r);
    const double picture = gap(&want[4], fv_plan_value(r->plan, "y").data, pixel_at, r);
    int differ = 0;
    for (int i = 0; i < r->net.slices.tokens; i++)
        differ += index[i] != ((const int32_t *)want[1].data)[i] &&
                  ((const float *)want[2].data)[i] >= 1e-5f;
    fv_model_close(&g);
    /* Queries are up to 100 times as long as keys: attention passes on as much more rounding. */
    CHECK_MSG(latents <= 1e-5 && logits <= 4e-5 && picture <= 1e-5 && differ == 0,
              "%s: latents %g, logits %g, picture %g, %d codes differ", name, latents, logits,
              picture, differ);
}

static void both(bool is_official, const fv_model *file)
{
    run r;
    const fv_status s = start(&r, is_official, file);
    if (s == FV_OK) compare(is_official ? "official" : "own", &r);
    stop(&r);
    OK(ctx, s);
}
static void official_model_is_pytorchs(void) { both(true, NULL); }
static void own_model_is_pytorchs(void) { both(false, NULL); }

static void a_converted_checkpoint_is_pytorchs(void)
{
    fv_model *in = NULL, *out = NULL;
    OK(ctx, write_checkpoint(ctx, "model.module.", temp_path("in")));
    OK(ctx, fv_model_open(ctx, &in, temp_path("in"), NULL));
    OK(ctx, rdvq_convert_official(ctx, in, 2, FV_F32, temp_path("out"), 1));
    OK(ctx, fv_model_open(ctx, &out, temp_path("out"), NULL));
    both(true, out);
    fv_model_close(&in);
    fv_model_close(&out);
}

static void tests(void)
{
    RUN(official_model_is_pytorchs);
    RUN(own_model_is_pytorchs);
    RUN(a_converted_checkpoint_is_pytorchs);
}

int main(void)
{
    temp_dir_make("rdvq-parity");
    return parity_main(tests);
}
