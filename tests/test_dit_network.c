/* test_dit_network.c - networks on a tape for trainers outside of diffusion/: the same values as the
 * engine's own forward pass, its hidden states, networks of other sizes, batches of training states,
 * and the files that come out. */
#include "dit_fixture.h"
#include "fovea_diffusion.h"
#include "random_model.h"
#include "temp_dir.h"

static fv_ctx *ctx;

typedef struct taped {
    fv_model *file;
    fv_dit_net *net;
    fv_plan *plan;
    fv_dit_batch batch;
} taped;

static void close_all(taped *n)
{
    fv_plan_destroy(&n->plan);
    fv_dit_batch_free(ctx, &n->batch);
    fv_dit_net_close(&n->net);
    fv_model_close(&n->file);
}

/* Frozen network of a file with every hidden state as output "hK". */
static fv_status open_taped(taped *n, const char *path, int B)
{
    fv_dit_sizes s;
    fv_tape *t;
    fv_t hidden[9];
    const int64_t rows = B;
    memset(n, 0, sizeof *n);
    FV_TRY(fv_model_open(ctx, &n->file, path, NULL));
    FV_TRY(fv_dit_net_open(ctx, &n->net, n->file));
    FV_TRY(fv_params_load(fv_dit_net_params(n->net), n->file, ""));
    fv_dit_net_get_sizes(n->net, &s);
    FV_TRY(fv_dit_batch_create(ctx, &n->batch, n->net, B));
    const int64_t z[4] = { B, s.input_size, s.input_size, s.channels };
    FV_TRY(fv_tape_create(ctx, &t, fv_dit_net_params(n->net), FV_INFER, FV_F32));
    fv_output(t, "out", fv_dit_net_forward(n->net, t, fv_input(t, "z", FV_F32, 4, z),
                                           fv_input(t, "t", FV_F32, 1, &rows),
                                           fv_input(t, "y", FV_I32, 1, &rows), hidden));
    for (int l = 0; l <= s.depth; l++) {
        char name[8];
        snprintf(name, sizeof name, "h%d", l);
        fv_output(t, name, hidden[l]);
    }
    FV_TRY(fv_plan_finish(ctx, &n->plan, &t, NULL));
    FV_TRY(fv_dit_net_bind(n->net, n->plan));
    FV_TRY(fv_plan_bind(n->plan, "z", n->batch.z));
    FV_TRY(fv_plan_bind(n->plan, "t", n->batch.time));
    return fv_plan_bind(n->plan, "y", n->batch.label);
}

static void make_file(const char *preset, const char *name)
{
    dit_config c;
    if (random_config(ctx, preset, 3, 2, &c) != FV_OK || random_model(ctx, &c, 7, temp_path(name)) != FV_OK)
        exit(1);
}

static void fill(fv_dit_batch *b)
{
    test_fill(b->z, b->count * b->values, 3);
    for (int i = 0; i < b->count; i++) {
        b->time[i] = 0.2f + 0.3f * (float)i;
        b->label[i] = i;
    }
}

static void same_as_the_engine(const char *preset)
{
    taped n;
    fixture f = { .ctx = ctx };
    dit_config c;
    make_file(preset, "m");
    OK(ctx, open_taped(&n, temp_path("m"), 2));
    OK(ctx, random_config(ctx, preset, 3, 2, &c));
    OK(ctx, random_net(ctx, &f.net, &c, 7, 0.12f));
    if (f.net.pos >= 0) dit_pos_table(&c, fv_params_tensor(f.net.params, f.net.pos).data);
    OK(ctx, fixture_build(&f, 2, FV_TRAIN, FV_F32, 1));
    fill(&n.batch);
    memcpy(f.x, n.batch.z, (size_t)(2 * n.batch.values) * 4);
    memcpy(f.time, n.batch.time, 8);
    memcpy(f.label, n.batch.label, 8);
    OK(ctx, fv_plan_forward(n.plan));
    OK(ctx, fv_plan_forward(f.plan));
    static const char *const name[] = { "h0", "h1", "h2", "out" };
    static const char *const stage[] = { "tokens_in", "block0", "block1", NULL };
    for (int k = 0; k < 4; k++) {
        const fv_tensor a = fv_plan_value(n.plan, name[k]);
        fv_tensor b = fv_plan_value(f.plan, "out");
        for (int i = 0; stage[k] && i < f.stages; i++)
            if (strcmp(f.stage_name[i], stage[k]) == 0) b = fv_plan_value_of(f.plan, f.stage[i]);
        double worst = 0, most = 0;
        CHECK(a.data && b.data && fv_tensor_count(&a) == fv_tensor_count(&b));
        for (int64_t i = 0; i < fv_tensor_count(&a); i++) {
            const double y = ((const float *)b.data)[i];
            worst = test_worst(worst, ((const float *)a.data)[i] - y);
            most = fmax(most, fabs(y));
        }
        CHECK_MSG(most > 0.01 && worst <= 1e-5 * most, "%s: %g of %g", name[k], worst, most);
    }
    fixture_free(&f);
    close_all(&n);
}

static void forward_of_an_f_model_is_the_engines(void) { same_as_the_engine("F32"); }
static void forward_of_an_official_dit_is_the_engines(void) { same_as_the_engine("DiT-S/2"); }

/* ---- Other sizes ----------------------------------------------------------------------------- */

/* A network with fewer heads than its width holds is written, read, sampled. */
static void networks_may_have_lost_heads(void)
{
    taped n;
    fv_dit_net *thin = NULL;
    fv_dit_sizes s, back;
    fv_model *file;
    fv_dit *dit;
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    static float state[16 * 16 * 3];
    const char *meta[2] = { "fovea.note", "thin" };
    make_file("F32", "m");
    OK(ctx, open_taped(&n, temp_path("m"), 1));
    fv_dit_net_get_sizes(n.net, &s);
    CHECK(s.heads == 2 && s.head_dim == 32 && s.width == 64);
    s.heads = 1;
    s.hidden = 80;
    OK(ctx, fv_dit_net_like(ctx, &thin, n.net, &s, "thin"));
    fv_dit_net_get_sizes(thin, &back);
    CHECK(back.heads == 1 && back.head_dim == 32 && back.hidden == 80);
    CHECK(fv_dit_net_flop(thin) < fv_dit_net_flop(n.net));
    OK(ctx, fv_params_alloc(fv_dit_net_params(thin)));
    fv_dit_net_init(thin, 1, 0.02f);
    OK(ctx, fv_dit_net_export(ctx, thin, FV_F32, meta, 1, NULL, temp_path("thin"), 0));
    OK(ctx, fv_model_open(ctx, &file, temp_path("thin"), NULL));
    CHECK(strcmp(fv_model_meta(file, "fovea.head_dim"), "32") == 0);
    CHECK(strcmp(fv_model_meta(file, "fovea.note"), "thin") == 0);
    CHECK(fv_model_meta(n.file, "fovea.head_dim") == NULL);
    OK(ctx, fv_dit_open(ctx, &dit, file, NULL));
    o.steps = 3;
    OK(ctx, fv_generate_state(ctx, dit, &o, NULL, state, NULL));
    double sum = 0;
    for (int i = 0; i < 16 * 16 * 3; i++) sum += fabs((double)state[i]);
    CHECK(isfinite(sum) && sum > 1);
    fv_dit_close(&dit);
    fv_model_close(&file);
    fv_dit_net_close(&thin);
    s.head_dim = 30;
    CHECK(fv_dit_net_like(ctx, &thin, n.net, &s, NULL) == FV_ERR_MODEL && !thin);
    CHECK(strstr(fv_ctx_error(ctx), "heads of 30"));
    s.width = 1 << 30; /* for sanitizers: nothing is computed of it */
    s.hidden = 0;
    CHECK(fv_dit_net_like(ctx, &thin, n.net, &s, NULL) == FV_ERR_LIMIT && !thin);
    close_all(&n);
}

/* ---- Batches --------------------------------------------------------------------------------- */

enum { ROWS = 400, VALUES = 16 * 16 * 3 };

static void states_of_an_f_model_lie_on_the_line(void)
{
    static float x[ROWS * VALUES];
    static int32_t label[ROWS];
    taped n;
    fv_dit_draw d = { 5, -0.8f, 0.8f, 0.25f };
    fv_dit_batch again;
    int dropped = 0;
    make_file("F32", "m");
    OK(ctx, open_taped(&n, temp_path("m"), ROWS));
    test_fill(x, ROWS * VALUES, 1);
    for (int i = 0; i < ROWS; i++) label[i] = i % 3;
    fv_dit_batch_make(ctx, n.net, &d, x, label, 1000, &n.batch);
    const fv_dit_batch *b = &n.batch;
    double square = 0;
    for (int i = 0; i < ROWS; i++) {
        const float t = b->time[i];
        CHECK(t > 0 && t < 1 && (b->label[i] == i % 3 || b->label[i] == 3));
        dropped += b->label[i] == 3;
        NEAR(b->rate[i], 1 / fmax(1 - (double)t, 0.05), 1e-4 * b->rate[i]);
        NEAR(b->weight[i], (double)b->rate[i] * b->rate[i], 1e-4 * b->weight[i]);
        for (int k = 0; k < VALUES; k++) {
            const double eps = (b->z[i * VALUES + k] - t * x[i * VALUES + k]) / (1 - (double)t);
            square += eps * eps / ROWS / VALUES;
        }
    }
    NEAR(square, 1, 0.05);
    CHECK(dropped > 70 && dropped < 130); /* of 100 expected, deviation 8.7 */
    CHECK(memcmp(b->target, x, sizeof x) == 0);
    /* Row 7 of the run is the same wherever its batch begins; without dropping it keeps its label. */
    OK(ctx, fv_dit_batch_create(ctx, &again, n.net, 3));
    d.label_drop = 0;
    fv_dit_batch_make(ctx, n.net, &d, x + 7 * VALUES, label + 7, 1007, &again);
    CHECK(memcmp(again.z, b->z + 7 * VALUES, VALUES * sizeof(float)) == 0);
    CHECK(again.time[0] == b->time[7] && again.label[0] == 7 % 3);
    fv_dit_batch_free(ctx, &again);
    close_all(&n);
}

static void states_of_an_official_dit_are_noised_latents(void)
{
    static float x[ROWS * 16 * 16 * 4];
    static int32_t label[ROWS];
    taped n;
    const fv_dit_draw d = { 5, 0, 0, 0 };
    double abar[DIT_TIMESTEPS], mean = 0;
    make_file("DiT-S/2", "m");
    OK(ctx, open_taped(&n, temp_path("m"), ROWS));
    const int64_t values = n.batch.values;
    CHECK(values == 16 * 16 * 4);
    test_fill(x, ROWS * values, 1);
    fv_dit_batch_make(ctx, n.net, &d, x, label, 0, &n.batch);
    dit_alpha_bars(abar);
    for (int i = 0; i < ROWS; i++) {
        const int t = (int)n.batch.time[i];
        CHECK(t >= 0 && t < DIT_TIMESTEPS && (float)t == n.batch.time[i]);
        mean += (double)t / ROWS;
        for (int64_t k = i * values; k < (i + 1) * values; k++)
            NEAR(n.batch.z[k], sqrt(abar[t]) * x[k] + sqrt(1 - abar[t]) * n.batch.target[k], 1e-5);
        CHECK(n.batch.rate[i] == 1 && n.batch.weight[i] == 1);
    }
    NEAR(mean, 500, 60); /* deviation 14 */
    close_all(&n);
}

int main(void)
{
    temp_dir_make("dit-network");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(forward_of_an_f_model_is_the_engines);
    RUN(forward_of_an_official_dit_is_the_engines);
    RUN(networks_may_have_lost_heads);
    RUN(states_of_an_f_model_lie_on_the_line);
    RUN(states_of_an_official_dit_are_noised_latents);
    fv_ctx_destroy(&ctx);
    temp_dir_remove();
    return test_end();
}
