/* test_perceptual.c - LPIPS and DISTS with random weights at small width: value and gradient
 * against the definitions in double, as plain loops; what `fovea convert` takes and refuses. */
#include "convert_fixture.h"
#include "engine.h"

/* ---- Networks -------------------------------------------------------------------------------- */

typedef struct layer { int index, stage, kernel, stride, pad; } layer;
static const layer vgg[13] = {
    { 0, 0, 3, 1, 1 },  { 2, 0, 3, 1, 1 },  { 5, 1, 3, 1, 1 },  { 7, 1, 3, 1, 1 },
    { 10, 2, 3, 1, 1 }, { 12, 2, 3, 1, 1 }, { 14, 2, 3, 1, 1 }, { 17, 3, 3, 1, 1 },
    { 19, 3, 3, 1, 1 }, { 21, 3, 3, 1, 1 }, { 24, 4, 3, 1, 1 }, { 26, 4, 3, 1, 1 },
    { 28, 4, 3, 1, 1 } };
static const layer alex[5] = { { 0, 0, 11, 4, 2 }, { 3, 1, 5, 1, 2 }, { 6, 2, 3, 1, 1 },
                               { 8, 3, 3, 1, 1 }, { 10, 4, 3, 1, 1 } };
static const int width[5] = { 4, 5, 6, 7, 8 };

typedef struct kind {
    const char *name;
    bool is_dists, is_alex;
    int layers;
    const layer *layer;
} kind;
static const kind kinds[3] = { { "LPIPS", false, false, 13, vgg },
                               { "LPIPS", false, true, 5, alex },
                               { "DISTS", true, false, 13, vgg } };

static double random_value(const char *name, int64_t i) /* [-1, 1) */
{
    uint64_t seed = fv_crc32(0, name, strlen(name)) + 2654435761u * (uint64_t)(i + 1);
    (void)test_next(&seed);
    return (double)test_next(&seed) / 2147483648.0 - 1;
}

static double weight(const kind *k, int l, int64_t i)
{
    char name[32];
    const int in = l ? width[k->layer[l - 1].stage] : 3, side = k->layer[l].kernel;
    snprintf(name, sizeof name, "w%d", l);
    return (float)(sqrt(5.0 / (in * side * side)) * random_value(name, i));
}

static double bias(int l, int64_t i)
{
    char name[32];
    snprintf(name, sizeof name, "b%d", l);
    return (float)(0.1 * random_value(name, i));
}

/* Of channel i of stage k, 0 for LPIPS the first of the network, for DISTS the picture. */
static double share(const char *name, int stage, int64_t i)
{
    char full[32];
    snprintf(full, sizeof full, "%s%d", name, stage);
    return (float)(0.6 + 0.5 * random_value(full, i));
}

/* ---- Files ----------------------------------------------------------------------------------- */

enum { TORCHVISION, WHOLE };

static void put(fv_model_writer *w, const char *name, int ndim, const int64_t *dim, float *values)
{
    fv_tensor t = { .data = values, .dtype = FV_F32, .ndim = ndim };
    memcpy(t.dim, dim, (size_t)ndim * sizeof *dim);
    OK(ctx, fv_model_writer_tensor(w, name, &t));
}

static float pool[200000];
static size_t used;
static float *room(size_t n)
{
    used += n;
    if (used > FV_ARRAY_LEN(pool)) exit(1);
    return pool + used - n;
}

static void put_features(fv_model_writer *w, const kind *k, int layout)
{
    for (int l = 0; l < k->layers; l++) {
        const layer *y = &k->layer[l];
        const int in = l ? width[k->layer[l - 1].stage] : 3, out = width[y->stage];
        const int64_t dim[4] = { out, in, y->kernel, y->kernel };
        const int n = out * in * y->kernel * y->kernel;
        char name[64];
        float *v = room((size_t)n), *b = room((size_t)out);
        for (int i = 0; i < n; i++) v[i] = (float)weight(k, l, i);
        for (int i = 0; i < out; i++) b[i] = (float)bias(l, i);
        if (layout == TORCHVISION) snprintf(name, 64, "features.%d.weight", y->index);
        else snprintf(name, 64, "%s%d.%d.weight", k->is_dists ? "stage" : "net.slice",
                      y->stage + 1, y->index);
        put(w, name, 4, dim, v);
        strcpy(strrchr(name, '.'), ".bias");
        put(w, name, 1, dim, b);
    }
}

static void put_shares(fv_model_writer *w, const kind *k)
{
    for (int part = 0; part < 2 && k->is_dists; part++) {
        const int64_t dim[4] = { 1, 33, 1, 1 };
        float *v = room(33);
        for (int s = 0, at = 0; s < 6; s++)
            for (int i = 0; i < (s ? width[s - 1] : 3); i++)
                v[at++] = (float)share(part ? "beta" : "alpha", s, i);
        put(w, part ? "beta" : "alpha", 4, dim, v);
    }
    for (int s = 0; s < 5 && !k->is_dists; s++) {
        const int64_t dim[4] = { 1, width[s], 1, 1 };
        char name[64];
        float *v = room((size_t)width[s]);
        for (int i = 0; i < width[s]; i++) v[i] = (float)share("lin", s, i);
        snprintf(name, sizeof name, "lin%d.model.1.weight", s);
        put(w, name, 4, dim, v);
    }
}

/* Files "net" and "weights", or the two in one, with what else such files hold. */
static void write_sources(const kind *k, int layout)
{
    const int64_t few = 3;
    for (int file = 0; file < 2; file++) {
        fv_model_writer *w;
        used = 0;
        OK(ctx, fv_model_writer_create(ctx, &w));
        if (file == 0) put_features(w, k, layout);
        if (file == 1 || layout == WHOLE) put_shares(w, k);
        if (file == 0) put(w, layout == TORCHVISION ? "classifier.0.bias" : k->is_dists ? "mean" :
                           "scaling_layer.shift", 1, &few, room(3));
        if (file == 0 && layout == WHOLE && k->is_dists)
            put(w, "stage2.4.filter", 1, &few, room(3));
        OK(ctx, fv_model_writer_finish(w, temp_path(file ? "weights" : "net"), 1));
        fv_model_writer_destroy(&w);
    }
}

static fv_status convert(const char *net, const char *weights, fv_dtype type, const char *out)
{
    char path[3][300];
    fv_model *n, *w = NULL;
    snprintf(path[0], sizeof path[0], "%s", temp_path(net));
    snprintf(path[2], sizeof path[2], "%s", temp_path(out));
    if (weights) snprintf(path[1], sizeof path[1], "%s", temp_path(weights));
    n = open_file(path[0]);
    if (weights) w = open_file(path[1]);
    const fv_status s = n && (w || !weights) ? fv_perceptual_convert(ctx, n, w, type, path[2], 1) :
                                               FV_ERR_IO;
    fv_model_close(&n);
    fv_model_close(&w);
    return s;
}

/* ---- The definitions ------------------------------------------------------------------------- */

typedef struct map { int h, w, c; double *v; } map;

static map new_map(int h, int w, int c)
{
    const map m = { h, w, c, calloc((size_t)(h * w * c), sizeof(double)) };
    if (!m.v) exit(1);
    return m;
}

static double at(const map *m, int y, int x, int c)
{
    return y < 0 || x < 0 || y >= m->h || x >= m->w ? 0 : m->v[(y * m->w + x) * m->c + c];
}

static map convolve(const kind *k, int l, const map *in)
{
    static double w[4096];
    const layer *y = &k->layer[l];
    const int n = y->kernel;
    for (int i = 0; i < width[y->stage] * in->c * n * n; i++) w[i] = weight(k, l, i);
    map out = new_map((in->h + 2 * y->pad - n) / y->stride + 1,
                      (in->w + 2 * y->pad - n) / y->stride + 1, width[y->stage]);
    for (int i = 0; i < out.h * out.w * out.c; i++) {
        const int o = i % out.c, ox = i / out.c % out.w, oy = i / out.c / out.w;
        double sum = bias(l, o);
        for (int c = 0; c < in->c; c++)
            for (int j = 0; j < n * n; j++)
                sum += w[(o * in->c + c) * n * n + j] *
                       at(in, oy * y->stride - y->pad + j / n, ox * y->stride - y->pad + j % n, c);
        out.v[i] = sum > 0 ? sum : 0;
    }
    return out;
}

static map pooled(const kind *k, const map *in)
{
    const int size = k->is_dists || k->is_alex ? 3 : 2, pad = k->is_dists;
    map out = new_map((in->h + 2 * pad - size) / 2 + 1, (in->w + 2 * pad - size) / 2 + 1, in->c);
    for (int i = 0; i < out.h * out.w * out.c; i++) {
        const int c = i % out.c, ox = i / out.c % out.w, oy = i / out.c / out.w;
        double most = 0, sum = 1e-12; /* behind a ReLU */
        for (int j = 0; j < size * size; j++) {
            const double v = at(in, 2 * oy - pad + j / size, 2 * ox - pad + j % size, c);
            most = fmax(most, v);
            sum += v * v * (j / 3 == 1 ? 2 : 1) * (j % 3 == 1 ? 2 : 1) / 16.0;
        }
        out.v[i] = k->is_dists ? sqrt(sum) : most;
    }
    return out;
}

static int stages_of(const kind *k, const double *rgb, int h, int w, map out[6])
{
    static const double lpips[2][3] = { { -.030, -.088, -.188 }, { .458, .448, .450 } };
    static const double dists[2][3] = { { 0.485, 0.456, 0.406 }, { 0.229, 0.224, 0.225 } };
    map x = new_map(h, w, 3);
    int n = 0;
    if (k->is_dists) {
        out[n] = new_map(h, w, 3);
        for (int i = 0; i < h * w * 3; i++) out[n].v[i] = (rgb[i] + 1) / 2;
        n++;
    }
    for (int i = 0; i < h * w * 3; i++)
        x.v[i] = k->is_dists ? ((rgb[i] + 1) / 2 - dists[0][i % 3]) / dists[1][i % 3] :
                               (rgb[i] - lpips[0][i % 3]) / lpips[1][i % 3];
    for (int l = 0; l < k->layers; l++) {
        const int stage = k->layer[l].stage;
        if (l > 0 && stage != k->layer[l - 1].stage) {
            map p = k->is_alex && stage > 2 ? new_map(x.h, x.w, x.c) : pooled(k, &x);
            if (k->is_alex && stage > 2) memcpy(p.v, x.v, (size_t)(x.h * x.w * x.c) * sizeof *x.v);
            out[n++] = x;
            x = p;
        }
        const map y = convolve(k, l, &x);
        free(x.v);
        x = y;
    }
    out[n++] = x;
    return n;
}

static double stage_distance(const kind *k, int s, const map *a, const map *b, double total)
{
    const int T = a->h * a->w, C = a->c;
    double sum = 0;
    for (int t = 0; t < T && !k->is_dists; t++) {
        double na = 0, nb = 0;
        for (int c = 0; c < C; c++) na += pow(a->v[t * C + c], 2);
        for (int c = 0; c < C; c++) nb += pow(b->v[t * C + c], 2);
        for (int c = 0; c < C; c++)
            sum += share("lin", s, c) / T * pow(a->v[t * C + c] / (sqrt(na) + 1e-10) -
                                                b->v[t * C + c] / (sqrt(nb) + 1e-10), 2);
    }
    for (int c = 0; c < C && k->is_dists; c++) {
        double ma = 0, mb = 0, va = 0, vb = 0, ab = 0;
        for (int t = 0; t < T; t++) ma += a->v[t * C + c] / T;
        for (int t = 0; t < T; t++) mb += b->v[t * C + c] / T;
        for (int t = 0; t < T; t++) va += pow(a->v[t * C + c] - ma, 2) / T;
        for (int t = 0; t < T; t++) vb += pow(b->v[t * C + c] - mb, 2) / T;
        for (int t = 0; t < T; t++) ab += a->v[t * C + c] * b->v[t * C + c] / T;
        sum -= share("alpha", s, c) / total * (2 * ma * mb + 1e-6) / (ma * ma + mb * mb + 1e-6);
        sum -= share("beta", s, c) / total * (2 * (ab - ma * mb) + 1e-6) / (va + vb + 1e-6);
    }
    return sum;
}

static double definition(const kind *k, const double *a, const double *b, int h, int w)
{
    map fa[6], fb[6];
    double total = 0, sum = k->is_dists;
    for (int s = 0; s < 6; s++)
        for (int c = 0; c < (s ? width[s - 1] : 3); c++)
            total += share("alpha", s, c) + share("beta", s, c);
    const int n = stages_of(k, a, h, w, fa);
    (void)stages_of(k, b, h, w, fb);
    for (int s = 0; s < n; s++) {
        sum += stage_distance(k, s, &fa[s], &fb[s], total);
        free(fa[s].v);
        free(fb[s].v);
    }
    return sum;
}

/* ---- Value and gradient ---------------------------------------------------------------------- */

#define HIGH 37
#define WIDE 33
#define FLOATS (HIGH * WIDE * 3)

static void make_picture(fv_image *img, const char *name, int channels, double noise, double *rgb)
{
    OK(ctx, fv_image_create(ctx, img, WIDE, HIGH, channels, 8));
    for (int y = 0; y < HIGH; y++)
        for (int i = 0; i < WIDE * channels; i++) {
            const int c = i % channels, x = i / channels;
            const double v = 128 + 80 * sin(0.2 * x + c) * cos(0.13 * y - c) +
                             noise * random_value(name, y * 1000 + i);
            const int p = (int)fmin(fmax(v, 0), 255);
            ((uint8_t *)img->pixels)[(size_t)y * img->stride_bytes + (size_t)i] = (uint8_t)p;
            if (c < 3) rgb[(y * WIDE + x) * 3 + c] = p / 127.5 - 1;
            for (int other = 1; other < 3 && channels == 1; other++)
                rgb[(y * WIDE + x) * 3 + other] = p / 127.5 - 1;
        }
}

static fv_status open_kind(const kind *k, fv_model **file, fv_perceptual **p)
{
    write_sources(k, TORCHVISION);
    FV_TRY(convert("net", "weights", FV_F32, "out"));
    FV_TRY(fv_model_open(ctx, file, temp_path("out"), NULL));
    return fv_perceptual_open(ctx, p, *file);
}

static void values_are_the_definitions(void)
{
    static double rgb[2][FLOATS];
    for (int i = 0; i < 6; i++) {
        const kind *k = &kinds[i % 3];
        const int channels = i < 3 ? 3 : 1;
        fv_image a, b;
        fv_model *file = NULL;
        fv_perceptual *p = NULL;
        double d, same;
        OK(ctx, open_kind(k, &file, &p));
        CHECK(strcmp(fv_perceptual_name(p), k->name) == 0);
        CHECK(fv_perceptual_side(p) == (k->is_alex ? 31 : 16));
        make_picture(&a, "a", channels, 10, rgb[0]);
        make_picture(&b, "b", channels, 60, rgb[1]);
        OK(ctx, fv_perceptual_distance(ctx, p, &a, &b, &d));
        OK(ctx, fv_perceptual_distance(ctx, p, &a, &a, &same));
        const double want = definition(k, rgb[0], rgb[1], HIGH, WIDE);
        printf("# %s: %.7f, by definition %.7f\n", k->name, d, want);
        CHECK(want > 1e-3 && fabs(d - want) < 2e-6 * (1 + want));
        CHECK(fabs(same) < 1e-6);
        fv_image_free(ctx, &a);
        fv_image_free(ctx, &b);
        fv_perceptual_close(&p);
        fv_model_close(&file);
    }
}

static fv_status loss_plan(fv_perceptual *p, fv_plan **plan)
{
    const int64_t dim[4] = { 2, HIGH, WIDE, 3 };
    fv_tape *t;
    FV_TRY(fv_tape_create(ctx, &t, fv_perceptual_params(p), FV_TRAIN, FV_F32));
    const fv_t a = fv_input_grad(t, "a", FV_F32, 4, dim), b = fv_input(t, "b", FV_F32, 4, dim);
    fv_output(t, "loss", fv_loss_perceptual(t, p, a, b));
    return fv_plan_finish(ctx, plan, &t, NULL);
}

/* Both pictures of the batch, in both orders; differences of the definition. */
static void gradients_are_differences(void)
{
    static double rgb[2][FLOATS];
    static float a[2 * FLOATS], b[2 * FLOATS];
    for (int i = 0; i < 3; i++) {
        const kind *k = &kinds[i];
        fv_image img[2];
        fv_model *file = NULL;
        fv_perceptual *p = NULL;
        fv_plan *plan = NULL;
        OK(ctx, open_kind(k, &file, &p));
        OK(ctx, loss_plan(p, &plan));
        for (int j = 0; j < 2; j++) make_picture(&img[j], j ? "b" : "a", 3, j ? 60 : 10, rgb[j]);
        for (int j = 0; j < 2 * FLOATS; j++) {
            a[j] = (float)rgb[j / FLOATS][j % FLOATS];
            b[j] = (float)rgb[1 - j / FLOATS][j % FLOATS];
        }
        OK(ctx, fv_plan_bind(plan, "a", a));
        OK(ctx, fv_plan_bind(plan, "b", b));
        OK(ctx, fv_plan_forward(plan));
        OK(ctx, fv_plan_backward(plan, "loss", 1.0f));
        const double loss = *(const float *)fv_plan_value(plan, "loss").data;
        const double want = 0.5 * (definition(k, rgb[0], rgb[1], HIGH, WIDE) +
                                   definition(k, rgb[1], rgb[0], HIGH, WIDE));
        CHECK(fabs(loss - want) < 2e-6 * (1 + want));
        const float *g = fv_plan_grad(plan, "a").data;
        double worst = 0, largest = 0;
        for (int j = 0; j < 24; j++) {
            const int which = j % 2, at_pixel = (j * 1231 + 17) % FLOATS;
            double *x = &rgb[which][at_pixel];
            const double keep = *x, h = 1e-6;
            *x = keep + h;
            const double up = definition(k, rgb[which], rgb[1 - which], HIGH, WIDE);
            *x = keep - h;
            const double down = definition(k, rgb[which], rgb[1 - which], HIGH, WIDE);
            *x = keep;
            const double slope = 0.5 * (up - down) / (2 * h);
            worst = test_worst(worst, fabs(slope - g[which * FLOATS + at_pixel]));
            largest = fmax(largest, fabs(slope));
        }
        printf("# %s: gradients to %g, off by %g\n", k->name, largest, worst);
        CHECK(largest > 1e-6 && worst < 1e-4 * largest);
        for (int j = 0; j < 2; j++) fv_image_free(ctx, &img[j]);
        fv_plan_destroy(&plan);
        fv_perceptual_close(&p);
        fv_model_close(&file);
    }
}

static void pictures_have_to_fit(void)
{
    fv_model *file = NULL;
    fv_perceptual *p = NULL;
    fv_image a, b, small;
    double d;
    OK(ctx, open_kind(&kinds[1], &file, &p));
    OK(ctx, fv_image_create(ctx, &a, 40, 40, 3, 8));
    OK(ctx, fv_image_create(ctx, &b, 40, 41, 3, 8));
    OK(ctx, fv_image_create(ctx, &small, 30, 40, 3, 8));
    CHECK(fv_perceptual_distance(ctx, p, &a, &b, &d) == FV_ERR_ARG);
    CHECK(fv_perceptual_distance(ctx, p, &small, &small, &d) == FV_ERR_ARG);
    OK(ctx, fv_perceptual_distance(ctx, p, &a, &a, &d));
    OK(ctx, fv_perceptual_distance(ctx, p, &b, &b, &d)); /* another size: another plan */
    fv_image_free(ctx, &a);
    fv_image_free(ctx, &b);
    fv_image_free(ctx, &small);
    fv_perceptual_close(&p);
    fv_model_close(&file);
}

/* ---- Converter ------------------------------------------------------------------------------- */

static void layouts_give_the_same_bits(void)
{
    for (int i = 0; i < 3; i++) {
        uint8_t hash[2][32];
        for (int layout = 0; layout < 2; layout++) {
            write_sources(&kinds[i], layout);
            OK(ctx, convert("net", layout == WHOLE ? NULL : "weights", FV_BF16, "out"));
            fv_model *m = open_file(temp_path("out")), *net = open_file(temp_path("net"));
            CHECK(m && !fv_perceptual_is_checkpoint(m) && fv_perceptual_is_checkpoint(net));
            fv_model_hash(m, hash[layout]);
            fv_model_close(&m);
            fv_model_close(&net);
        }
        CHECK(memcmp(hash[0], hash[1], 32) == 0);
    }
}

static void refused(const char *net, const char *weights, fv_status want, const char *said)
{
    const fv_status s = convert(net, weights, FV_F32, "none");
    CHECK_MSG(s == want && strstr(fv_ctx_error(ctx), said), "%s: %s: %s", said, fv_status_name(s),
              fv_ctx_error(ctx));
    CHECK(access(temp_path("none"), F_OK) != 0);
}

static void edited(const char *file, edit e, fv_status want, const char *said)
{
    write_edited(temp_path(file), temp_path("bad"), e);
    const bool is_net = strcmp(file, "net") == 0;
    refused(is_net ? "bad" : "net", is_net ? "weights" : "bad", want, said);
}

static void wrong_files_are_refused_by_name(void)
{
    write_sources(&kinds[0], TORCHVISION);
    refused("net", NULL, FV_ERR_MODEL, "--weights");
    refused("weights", "weights", FV_ERR_MODEL, "features.0.weight");
    edited("net", (edit){ .drop = "features.14.weight" }, FV_ERR_MODEL, "features.14.weight");
    edited("net", (edit){ .drop = "features.28.bias" }, FV_ERR_MODEL, "features.28.bias");
    edited("net", (edit){ .add = "features.30.weight" }, FV_ERR_MODEL, "features.30.weight");
    edited("net", (edit){ .flatten = "features.7.weight" }, FV_ERR_MODEL,
           "features.7.weight is 225, expected 5x5x3x3");
    edited("net", (edit){ .flatten = "features.10.weight" }, FV_ERR_MODEL, "features.10.weight");
    edited("net", (edit){ .as_integers = "features.2.bias" }, FV_ERR_MODEL, "features.2.bias");
    edited("net", (edit){ .infinite = "features.19.weight" }, FV_ERR_NUMERIC, "features.19.weight");
    edited("weights", (edit){ .drop = "lin3.model.1.weight" }, FV_ERR_MODEL, "lin3.model.1.weight");
    edited("weights", (edit){ .flatten = "lin4.model.1.weight" }, FV_ERR_MODEL, "expected 1x8x1x1");
    edited("weights", (edit){ .add = "lin5.model.1.weight" }, FV_ERR_MODEL, "lin5.model.1.weight");
    edited("weights", (edit){ .infinite = "lin0.model.1.weight" }, FV_ERR_NUMERIC, "lin.0");
    write_sources(&kinds[2], TORCHVISION);
    edited("weights", (edit){ .drop = "beta" }, FV_ERR_MODEL, "beta");
    edited("weights", (edit){ .flatten = "alpha" }, FV_ERR_MODEL, "expected 1x33x1x1");
    edited("weights", (edit){ .infinite = "alpha" }, FV_ERR_NUMERIC, "alpha");
    OK(ctx, convert("net", "weights", FV_F32, "out"));
    write_edited(temp_path("out"), temp_path("bad"), (edit){ .key = "fovea.kind", .value = "dit" });
    fv_model *m = open_file(temp_path("bad"));
    fv_perceptual *p;
    CHECK(fv_perceptual_open(ctx, &p, m) == FV_ERR_MODEL && !p);
    CHECK(strstr(fv_ctx_error(ctx), "of kind dit") != NULL);
    fv_model_close(&m);
    write_edited(temp_path("out"), temp_path("bad"), (edit){ .drop = "beta.3" });
    m = open_file(temp_path("bad"));
    CHECK(fv_perceptual_open(ctx, &p, m) == FV_ERR_MODEL && !p);
    CHECK(strstr(fv_ctx_error(ctx), "beta.3") != NULL);
    fv_model_close(&m);
}

static fv_status convert_whole(const fv_model *m)
{
    return fv_perceptual_convert(ctx, m, NULL, FV_BF16, temp_path("out"), 1);
}

static void memory_may_run_out(void)
{
    char path[300];
    for (int i = 0; i < 3; i += 2) {
        write_sources(&kinds[i], WHOLE);
        snprintf(path, sizeof path, "%s", temp_path("net"));
        fail_each_allocation(path, convert_whole);
    }
}

int main(void)
{
    temp_dir_make("perceptual");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(values_are_the_definitions);
    RUN(gradients_are_differences);
    RUN(pictures_have_to_fit);
    RUN(layouts_give_the_same_bits);
    RUN(wrong_files_are_refused_by_name);
    RUN(memory_may_run_out);
    fv_ctx_destroy(&ctx);
    return test_end();
}
