/* test_rdvq_train.c - `engine = rdvq`: native crops, the three stages, the same model after any
 * interruption, k-means. With --full the learning smoke test of rdvq-xs on eight crops, minutes. */

#include "fovea_codec.h"
#include "rdvq.h"
#include "tar_writer.h"
#include "test.h"
#include "training.h"
#include "vq_train.h"

static fv_ctx *ctx;

/* Pictures of smooth colours with edges and a little grain, 192 x 150. */
#define PICTURES 8
#define WIDE 192
#define HIGH 150
static void make_data(void)
{
    static uint8_t ppm[WIDE * HIGH * 3 + 64];
    tar t = { 0 };
    uint64_t seed = 6;
    for (int i = 0; i < PICTURES; i++) {
        size_t n = (size_t)sprintf((char *)ppm, "P6 %d %d 255\n", WIDE, HIGH);
        for (int p = 0; p < WIDE * HIGH * 3; p++) {
            const int x = p / 3 % WIDE, y = p / 3 / WIDE, c = p % 3;
            const double wave = sin(0.02 * (i + 2) * x + 0.03 * y * (c + 1)) +
                                cos(0.05 * (y - x * i));
            const int edge = (x * (i + 1) + 2 * y) / 60 % 2 ? 50 : 0;
            ppm[n++] = (uint8_t)(90 + 30 * wave + edge + (int)(test_next(&seed) >> 8) % 8);
        }
        char path[32];
        snprintf(path, sizeof path, "%d.ppm", i);
        put_entry(&t, "", path, '0', ppm, n);
    }
    save_tar(&t, temp_path("data.tar"));
}

/* ---- Native crops ---------------------------------------------------------------------------- */

static fv_status open_crops(fv_dataset **d, float native_max, int size, int workers)
{
    const char *source = temp_path("data.tar");
    fv_dataset_options o = FV_DATASET_OPTIONS_INIT;
    o.sources = &source;
    o.source_count = 1;
    o.image_size = size;
    o.channels = 3;
    o.random_crop = 1;
    o.native_max = native_max;
    o.seed = 5;
    o.workers = workers;
    return fv_dataset_open(ctx, d, &o);
}

/* At native_max 1 every crop is a piece of its picture, pixel for pixel. */
static void native_crops_are_pieces_of_the_picture(void)
{
    static float whole[PICTURES][HIGH * HIGH * 3];
    fv_dataset *d, *all;
    fv_batch b;
    int32_t label;
    OK(ctx, open_crops(&all, 1, HIGH, -1)); /* centre squares of full height */
    for (uint64_t i = 0; i < PICTURES; i++) OK(ctx, fv_dataset_get(all, i, whole[i], &label));
    fv_dataset_close(&all);
    OK(ctx, open_crops(&d, 1, 32, 1));
    int found = 0;
    for (uint64_t step = 0; step < 4; step++) {
        OK(ctx, fv_dataset_batch(d, step, 8, &b));
        for (int k = 0; k < 8; k++)
            for (int at = 0; at < (HIGH - 31) * (HIGH - 31); at++) {
                const float *w = whole[b.ids[k]] + (at / (HIGH - 31) * HIGH + at % (HIGH - 31)) * 3;
                bool same = true;
                for (int y = 0; y < 32 && same; y++)
                    same = memcmp(w + y * HIGH * 3, b.images + (k * 32 + y) * 96, 96 * 4) == 0;
                found += same;
            }
    }
    CHECK_MSG(found >= 12, "%d of 32", found); /* the others reach beyond the centre square */
    fv_dataset_close(&d);
}

static void native_crops_are_a_function_of_the_step(void)
{
    fv_dataset *one, *two;
    fv_batch a, b;
    static float first[4 * 32 * 32 * 3];
    OK(ctx, open_crops(&one, 3, 32, -1));
    OK(ctx, open_crops(&two, 3, 32, 2));
    OK(ctx, fv_dataset_batch(one, 0, 4, &a));
    memcpy(first, a.images, sizeof first);
    for (uint64_t step = 0; step < 6; step++) {
        OK(ctx, fv_dataset_batch(one, step, 4, &a));
        OK(ctx, fv_dataset_batch(two, step, 4, &b));
        CHECK(memcmp(a.images, b.images, sizeof first) == 0);
        CHECK(step == 0 || memcmp(a.images, first, sizeof first) != 0);
    }
    fv_dataset_close(&one);
    fv_dataset_close(&two);
    CHECK(open_crops(&one, 0.5f, 32, 1) == FV_ERR_ARG);
    OK(ctx, open_crops(&one, 1, 400, 1)); /* smaller pictures are shown whole */
    OK(ctx, fv_dataset_batch(one, 0, 2, &a));
    fv_dataset_close(&one);
}

/* ---- Stages ---------------------------------------------------------------------------------- */

static fv_status train(fv_ctx *c, const char *out, const char *init, int resume, const char *more)
{
    const char *recipe =
        "engine = rdvq\npreset = rdvq-xs\ndata = data.tar\nworkers = -1\nnative_max = 1.5\n"
        "codes = 32\nbatch = 1\nlr = 2e-3\nema = 0.9\nprecision = f32\nexport = f32\n"
        "eval_pictures = 0\nrestart_batches = 2\nkmeans_at = 2\nwarmup = 1\n"
        "restart_every = 2\nsave_every = 3\nlog_every = 1\n";
    return train_recipe(c, fv_rdvq_train, recipe, more, out, init, resume);
}

/* Does any value of the tensors whose names have `part` in them differ? */
static bool moved(const char *one, const char *two, const char *part)
{
    fv_model *a, *b;
    bool differ = false;
    if (fv_model_open(ctx, &a, temp_path(one), NULL) != FV_OK) exit(1);
    if (fv_model_open(ctx, &b, temp_path(two), NULL) != FV_OK) exit(1);
    for (int i = 0; i < fv_model_count(a); i++) {
        fv_tensor x, y;
        if (!strstr(fv_model_name(a, i), part)) continue;
        fv_model_tensor(a, i, &x);
        if (!fv_model_find(b, fv_model_name(a, i), &y)) exit(1);
        differ = differ || memcmp(x.data, y.data, (size_t)fv_tensor_count(&x) * 4) != 0;
    }
    fv_model_close(&a);
    fv_model_close(&b);
    return differ;
}

#define STAGE_1 "stage = tokenizer\nsteps = 6\n"
#define STAGE_2 "stage = entropy\nsteps = 3\n"
#define STAGE_3 "stage = joint\nsteps = 4\nlambda = 2\n"

static void each_stage_moves_its_own_part(void)
{
    OK(ctx, train(ctx, "s1", NULL, 0, STAGE_1));
    OK(ctx, train(ctx, "s2", "s1", 0, STAGE_2));
    OK(ctx, train(ctx, "s3", "s2", 0, STAGE_3));
    CHECK(moved("s1", "s2", "rdvq.entropy"));
    CHECK(!moved("s1", "s2", "coder") && !moved("s1", "s2", "codebook"));
    CHECK(moved("s2", "s3", "rdvq.entropy") && moved("s2", "s3", "rdvq.encoder"));
    CHECK(moved("s2", "s3", "rdvq.decoder") && !moved("s2", "s3", "codebook"));
    fv_model *m;
    rdvq_config c;
    OK(ctx, fv_model_open(ctx, &m, temp_path("s3"), NULL));
    OK(ctx, rdvq_config_read(ctx, m, &c));
    CHECK(c.codes == 32 && c.width == 128);
    fv_model_close(&m);
}

/* What ablations compare with: an encoder that does not know the rate, a codebook made afresh. */
static void the_rate_reaches_the_encoder_only_by_relaxation(void)
{
    OK(ctx, train(ctx, "low", "s2", 0, STAGE_3 "clip = 0\nlambda_share = 0\nrelaxation = no\n"));
    OK(ctx, train(ctx, "high", "s2", 0, STAGE_3 "lambda = 200\nclip = 0\nlambda_share = 0\n"
                                                "relaxation = no\n"));
    CHECK(!moved("low", "high", "coder"));
    OK(ctx, train(ctx, "soft", "s2", 0, STAGE_3 "clip = 0\nlambda_share = 0\n"));
    CHECK(moved("low", "soft", "rdvq.encoder") && moved("low", "soft", "rdvq.decoder"));
}

typedef struct part { const char *init, *stage; } part;
static fv_status go_on(fv_ctx *c, void *user)
{
    const part *p = user;
    return train(c, "parts", p->init, 1, p->stage);
}

/* Stopped at moments of the clock again and again, also in k-means and restarts. */
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
    CHECK(same_tensors(ctx, "whole", "parts"));
    fv_ctx_destroy(&c);
}

/* LPIPS with random weights, VGG-16 of 4 channels. */
static void write_lpips(const char *path)
{
    static const int layers[13] = { 0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28 };
    static const char *const meta[][2] = { { "fovea.kind", "perceptual" }, { "fovea.version", "1" },
                                           { "fovea.perceptual.metric", "lpips" },
                                           { "fovea.perceptual.net", "vgg16" } };
    static float weights[4 * 4 * 9], ones[4] = { 1, 1, 1, 1 };
    const fv_tensor vector = { .data = ones, .ndim = 1, .dim = { 4 } };
    fv_tensor three = vector;
    uint64_t seed = 3;
    char name[64];
    fv_model_writer *w;
    three.dim[0] = 3;
    for (int i = 0; i < 4 * 4 * 9; i++)
        weights[i] = (float)test_next(&seed) / 4294967296.0f - 0.45f;
    OK(ctx, fv_model_writer_create(ctx, &w));
    for (size_t i = 0; i < FV_ARRAY_LEN(meta); i++)
        OK(ctx, fv_model_writer_meta(w, meta[i][0], meta[i][1]));
    OK(ctx, fv_model_writer_tensor(w, "input.shift", &three));
    OK(ctx, fv_model_writer_tensor(w, "input.scale", &three));
    for (int i = 0; i < 13; i++) {
        const fv_tensor t = { .data = weights, .ndim = 4, .dim = { 4, i ? 4 : 3, 3, 3 } };
        snprintf(name, sizeof name, "features.%d.weight", layers[i]);
        OK(ctx, fv_model_writer_tensor(w, name, &t));
        snprintf(name, sizeof name, "features.%d.bias", layers[i]);
        OK(ctx, fv_model_writer_tensor(w, name, &vector));
    }
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "fovea.perceptual.width%d", i);
        OK(ctx, fv_model_writer_meta(w, name, "4"));
        snprintf(name, sizeof name, "lin.%d", i);
        OK(ctx, fv_model_writer_tensor(w, name, &vector));
    }
    OK(ctx, fv_model_writer_finish(w, path, 1));
    fv_model_writer_destroy(&w);
}

/* It moves the pictures, also beside a discriminator, and is neither exported nor in
 * checkpoints. */
static void lpips_moves_the_pictures(void)
{
    char more[400];
    fv_model *m;
    write_lpips(temp_path("lpips"));
    snprintf(more, sizeof more, STAGE_3 "lpips = 2\nlpips_model = %s\n", temp_path("lpips"));
    OK(ctx, train(ctx, "without", "s2", 0, STAGE_3));
    OK(ctx, train(ctx, "near", "s2", 0, more));
    CHECK(moved("without", "near", "rdvq.decoder") && moved("without", "near", "rdvq.encoder"));
    OK(ctx, fv_model_open(ctx, &m, temp_path("near"), NULL));
    for (int i = 0; i < fv_model_count(m); i++)
        CHECK(strncmp(fv_model_name(m, i), "rdvq.", 5) == 0);
    fv_model_close(&m);
    strcat(more, "gan = 0.5\ngan_channels = 8\ngan_from = 0.5\n");
    OK(ctx, train(ctx, "both", "s2", 0, more));
    CHECK(moved("near", "both", "rdvq.decoder"));
    CHECK(train(ctx, "none", "s2", 0, STAGE_3 "lpips = 2\n") == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(ctx), "lpips_model") != NULL);
    CHECK(train(ctx, "none", "s1", 0, STAGE_2 "lpips = 2\n") == FV_ERR_UNKNOWN); /* no picture */
    CHECK(strstr(fv_ctx_error(ctx), "lpips") != NULL);
    snprintf(more, sizeof more,
             STAGE_3 "lpips = 2\nlpips_model = %s\nmse = 0\nssim = 0\ntexture = 0\n",
             temp_path("lpips"));
    OK(ctx, train(ctx, "alone", "s2", 0, more));
    CHECK(moved("without", "alone", "rdvq.decoder"));
    CHECK(train(ctx, "none", "s2", 0, STAGE_3 "mse = 0\nssim = 0\ntexture = 0\n") == FV_ERR_ARG);
    snprintf(more, sizeof more, STAGE_3 "lpips = 2\nlpips_model = %s\n", temp_path("s2"));
    CHECK(train(ctx, "none", "s2", 0, more) == FV_ERR_MODEL);
}

/* It joins in at its time, moves the pictures, is not exported; a stopped run ends the same. */
static void a_discriminator_joins_in(void)
{
#define GAN "gan = 0.5\ngan_match = 10\ngan_channels = 8\n"
    fv_model *m;
    OK(ctx, train(ctx, "with", "s2", 0, STAGE_3 GAN "gan_from = 0.5\n"));
    OK(ctx, train(ctx, "later", "s2", 0, STAGE_3 GAN "gan_from = 1\n"));
    CHECK(moved("with", "later", "rdvq.decoder"));
    OK(ctx, fv_model_open(ctx, &m, temp_path("with"), NULL));
    for (int i = 0; i < fv_model_count(m); i++)
        CHECK(strncmp(fv_model_name(m, i), "rdvq.", 5) == 0);
    fv_model_close(&m);
    check_stops("s2", STAGE_3 GAN "gan_from = 0.5\n");
}

static void a_codebook_can_be_made_afresh(void)
{
    static const char fewer[] = "stage = tokenizer\nsteps = 3\ncodes = 16\nlr = 1e-30\nema = 0\n";
    static const char two[] = "stage = tokenizer\nsteps = 3\ngroups = 2\nlr = 1e-30\nema = 0\n";
    fv_model *m;
    rdvq_config c;
    OK(ctx, train(ctx, "few", "s1", 0, fewer));
    OK(ctx, fv_model_open(ctx, &m, temp_path("few"), NULL));
    OK(ctx, rdvq_config_read(ctx, m, &c));
    fv_model_close(&m);
    CHECK(c.codes == 16);
    CHECK(!moved("s1", "few", "encoder.level") && !moved("s1", "few", "decoder.latent.2"));
    OK(ctx, train(ctx, "two", "s1", 0, two));
    CHECK(!moved("s1", "two", "encoder.level"));
    CHECK(train(ctx, "bad", "s1", 0, STAGE_1 "codes = 16\nkmeans_at = 0\n") == FV_ERR_MODEL);
}

static void mistakes_are_named(void)
{
    CHECK(train(ctx, "bad", NULL, 0, "stage = third\nsteps = 1\n") == FV_ERR_UNKNOWN);
    CHECK(train(ctx, "bad", NULL, 0, STAGE_2) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(ctx), "--init") != NULL);
    CHECK(train(ctx, "bad", NULL, 0, STAGE_1 "crop = 100\n") == FV_ERR_ARG);
    CHECK(train(ctx, "bad", NULL, 0, STAGE_1 "mse = 0\nssim = 0\ntexture = 0\n") == FV_ERR_ARG);
    CHECK(train(ctx, "bad", NULL, 0, STAGE_1 "colour = 1\n") == FV_ERR_UNKNOWN);
    CHECK(train(ctx, "bad", "s1", 0, STAGE_2 "groups = 2\n") == FV_ERR_MODEL);
    CHECK(train(ctx, "bad", "s1", 0, STAGE_2 "gan = 0.5\n") == FV_ERR_UNKNOWN);
    CHECK(train(ctx, "bad", "s2", 0, STAGE_3 "gan = 0.5\ngan_match = -1\n") == FV_ERR_ARG);
    CHECK(train(ctx, "bad", "data.tar", 0, STAGE_2) == FV_ERR_FORMAT);
}

static void a_tokenizer_that_is_stopped_ends_the_same(void) { check_stops(NULL, STAGE_1); }
static void so_does_a_joint_run(void) { check_stops("s2", STAGE_3); }

/* ---- k-means --------------------------------------------------------------------------------- */

/* Latents around a few directions: every code ends on one of them, and all are found. */
static void kmeans_finds_the_directions(void)
{
    enum { K = 12, D = 8, ROWS = 600 };
    static float centre[K][D], rows[ROWS * D], codes[K * D], again[K * D];
    const int64_t dim[2] = { K, D };
    fv_params *params;
    fv_opt *opt;
    fv_ctx *two = make_context(0, 2);
    OK(ctx, fv_params_create(ctx, &params));
    const fv_pid id = fv_params_add(params, "codes", 2, dim, 0);
    OK(ctx, fv_params_alloc(params));
    OK(ctx, fv_opt_create(ctx, &opt, params, NULL));
    for (int i = 0; i < ROWS; i++) {
        double length = 0;
        if (i < K) fv_rand_normal(1, FV_STREAM_USER, (uint32_t)i, 0, D, centre[i]);
        for (int d = 0; d < D; d++) {
            float n;
            fv_rand_normal(2, FV_STREAM_USER, (uint32_t)i, (uint64_t)d, 1, &n);
            rows[i * D + d] = centre[i % K][d] + 0.02f * n;
            length += (double)rows[i * D + d] * rows[i * D + d];
        }
        for (int d = 0; d < D; d++) rows[i * D + d] /= (float)sqrt(length);
    }
    const fvi_vq_restart r = { opt, id, NULL, rows, ROWS, 3, 7 };
    OK(ctx, fvi_vq_kmeans(ctx, &r, 20, codes));
    OK(two, fvi_vq_kmeans(two, &r, 20, again));
    CHECK(memcmp(codes, again, sizeof codes) == 0);
    double error = 0;
    for (int i = 0; i < ROWS; i++) {
        double best = -1;
        for (int v = 0; v < K; v++) {
            double dot = 0;
            for (int d = 0; d < D; d++) dot += (double)rows[i * D + d] * codes[v * D + d];
            best = dot > best ? dot : best;
        }
        error += (1 - best) / ROWS;
    }
    CHECK_MSG(error < 0.08, "mean gap %g", error); /* random codes: about 0.35 */
    OK(ctx, fvi_opt_set(opt, id, codes));
    CHECK(memcmp(fv_params_tensor(params, id).data, codes, sizeof codes) == 0);
    fv_opt_destroy(&opt);
    fv_params_destroy(&params);
    fv_ctx_destroy(&two);
}

/* ---- Learning, at length --------------------------------------------------------------------- */

static double meta_of(const char *name, const char *key)
{
    fv_model *m;
    if (fv_model_open(ctx, &m, temp_path(name), NULL) != FV_OK) return -1;
    const char *text = fv_model_meta(m, key);
    const double v = text ? strtod(text, NULL) : -1;
    fv_model_close(&m);
    return v;
}

/* First and last loss of metrics.csv. */
static void losses(const char *out, double *first, double *last)
{
    char path[200], line[256];
    snprintf(path, sizeof path, "%s/run-%s/metrics.csv", temp_dir, out);
    FILE *f = fopen(path, "r");
    *first = *last = -1;
    if (!f) return;
    if (!fgets(line, sizeof line, f)) line[0] = 0;
    while (fgets(line, sizeof line, f)) {
        double step, loss;
        if (sscanf(line, "%lf,%lf", &step, &loss) != 2) continue;
        if (*first < 0) *first = loss;
        *last = loss;
    }
    fclose(f);
}

static void rdvq_xs_learns_eight_crops(void)
{
    static const char *const common =
        "codes = 64\nbatch = 4\neval_pictures = 8\neval_every = 100000\neval_size = 256\n"
        "save_every = 1000\nkmeans_at = 40\nrestart_every = 20\nprecision = bf16\n";
    char text[512];
    double first, last, bpp[2];
    fv_ctx *c = make_context(0, 2);
    snprintf(text, sizeof text, "%sstage = tokenizer\nsteps = 200\n", common);
    OK(c, train(c, "l1", NULL, 0, text));
    losses("l1", &first, &last);
    CHECK_MSG(first > 0 && last < 0.6 * first, "loss %g to %g", first, last);
    CHECK_MSG(meta_of("l1", "fovea.train.codes_used") > 0.25, "codes");
    snprintf(text, sizeof text, "%sstage = entropy\nsteps = 100\n", common);
    OK(c, train(c, "l2", "l1", 0, text));
    for (int k = 0; k < 2; k++) {
        snprintf(text, sizeof text, "%sstage = joint\nsteps = 100\nlambda = %d\n", common, 4 << k);
        OK(c, train(c, k ? "l4" : "l3", "l2", 0, text));
        bpp[k] = meta_of(k ? "l4" : "l3", "fovea.train.bpp");
    }
    CHECK_MSG(bpp[1] > 0 && bpp[1] < bpp[0], "%g bpp, twice the lambda: %g", bpp[0], bpp[1]);
    fv_ctx_destroy(&c);
}

int main(int argc, char **argv)
{
    temp_dir_make("rdvq-train");
    make_data();
    ctx = make_context(0, 1);
    RUN(native_crops_are_pieces_of_the_picture);
    RUN(native_crops_are_a_function_of_the_step);
    RUN(kmeans_finds_the_directions);
    RUN(each_stage_moves_its_own_part);
    RUN(the_rate_reaches_the_encoder_only_by_relaxation);
    RUN(lpips_moves_the_pictures);
    RUN(a_discriminator_joins_in);
    RUN(a_codebook_can_be_made_afresh);
    RUN(mistakes_are_named);
    RUN(a_tokenizer_that_is_stopped_ends_the_same);
    RUN(so_does_a_joint_run);
    if (argc > 1 && strcmp(argv[1], "--full") == 0) RUN(rdvq_xs_learns_eight_crops);
    else SKIP(rdvq_xs_learns_eight_crops, "minutes: with --full");
    fv_ctx_destroy(&ctx);
    return test_end();
}
