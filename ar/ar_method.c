/* ar_method.c - ways of decoding as text, and the measured ones that a model file carries.
 *
 * "vvs:interval=3,rule=lantern,delta=0.2" is a mode with those fields of fv_ar_expert that differ
 * from the defaults. One syntax serves the program, benchmarks and files.
 *
 * fovea.ar.points holds a line for each measured method:
 *     METHOD@WEIGHTS SPEEDUP TOKENS_PER_PASS ACCURACY DISTANCE LOSSLESS
 * with WEIGHTS f32, bf16 or int8. The first is plain decoding. Numbers are JSON's. */
#include "ar_model.h"

#include <stddef.h>
#include <string.h>

#include "class_names.h"
#include "method_text.h"

#define MAX_POINTS 64
#define MAX_POINTS_TEXT 65536
#define SPEEDUP_SLACK 0.97f /* what a speed contract allows */
#define ADAPTIVE "sd:adaptive=1"

/* ---- Keys ------------------------------------------------------------------------------------ */

#define INT(name, field, lo, hi) \
    { { name, lo, hi, 0, true, NULL }, offsetof(fv_ar_expert, field), false }
#define REAL(name, field, lo, hi) \
    { { name, lo, hi, 0, false, NULL }, offsetof(fv_ar_expert, field), true }
#define WORD(name, field, words) \
    { { name, 0, 0, 0, true, words }, offsetof(fv_ar_expert, field), false }

typedef struct key {
    fv_method_key key;
    size_t offset;
    bool is_real;
} key;

static const key speculative[] = {
    WORD("draft", draft, "gumbel|chain|static|eagle2|pq"),
    INT("depth", depth, 1, AR_MAX_DEPTH),
    INT("children", top_k, 1, AR_MAX_RANK),
    INT("nodes", nodes, 2, AR_MAX_NODES),
    WORD("shape", shape, "mc_sim|naive|balanced|chain5"),
    WORD("rule", rule, "exact|lantern|lantern++|cool|gsd"),
    REAL("delta", delta, 0, 1e6),
    REAL("lambda", lambda, 0, 1e6),
    INT("group", group, 1, AR_MAX_GROUP),
    INT("neighbours", neighbours, 1, AR_MAX_VOCAB),
    INT("compat", lantern_compat, 0, 1),
    INT("reference", is_reference, 0, 1),
    INT("uniform", is_uniform, 0, 1),
    INT("adaptive", is_adaptive, 0, 1),
    REAL("echo", echo, 0, 1),
    /* VVS alone: */
    WORD("schedule", is_dynamic, "uniform|dynamic"),
    INT("interval", interval, 2, 1000000),
    REAL("threshold", threshold, -1, 2),
    REAL("decay", decay, 0, 1),
    INT("stride", stride, 1, AR_MAX_NODES),
    INT("warm_up", warm_up, 0, 1000000),
    WORD("selector", selector, "random|confidence|coupled"),
    WORD("truncation", no_truncation, "on|off"),
    INT("stale_verify", stale[0], -1, AR_MAX_NODES),
    INT("stale_skip", stale[1], 0, AR_MAX_NODES),
    WORD("post", post, "restore|relaxed|strict"),
    INT("keep_stale", keep_stale_draft, 0, 1),
};
#define VVS_ALONE 12

static const key jacobi[] = {
    INT("window", window, 1, AR_MAX_NODES - 1),
    WORD("first", above, "random|above"),
};

static const key plain[] = { INT("uniform", is_uniform, 0, 1) };

#define MOST_KEYS FV_ARRAY_LEN(speculative)

static int keys_of(fv_ar_mode mode, const key **out)
{
    switch (mode) {
    case FV_AR_SD: *out = speculative; return (int)MOST_KEYS - VVS_ALONE;
    case FV_AR_VVS: *out = speculative; return (int)MOST_KEYS;
    case FV_AR_JACOBI: *out = jacobi; return (int)FV_ARRAY_LEN(jacobi);
    case FV_AR_AUTO:
    case FV_AR_PLAIN: break;
    }
    *out = plain;
    return (int)FV_ARRAY_LEN(plain);
}

/* Enums are read and written as the int that they are as large as. */
static double get(const fv_ar_expert *e, const key *k)
{
    const char *at = (const char *)e + k->offset;
    float f;
    int i;
    if (k->is_real) {
        memcpy(&f, at, sizeof f);
        return (double)f;
    }
    memcpy(&i, at, sizeof i);
    return i;
}

static void set(fv_ar_expert *e, const key *k, double v)
{
    char *at = (char *)e + k->offset;
    const float f = (float)v;
    const int i = (int)v;
    if (k->is_real)
        memcpy(at, &f, sizeof f);
    else
        memcpy(at, &i, sizeof i);
}

/* ---- Text ------------------------------------------------------------------------------------ */

static fv_status find_mode(fv_ctx *ctx, const char *name, fv_ar_mode *out)
{
    int nearest = 1, least = 1000;
    *out = fv_ar_mode_find(name);
    if (*out != FV_AR_AUTO) return FV_OK;
    for (int i = 1; fv_ar_mode_name((fv_ar_mode)i); i++) {
        const int d = fv_name_distance(name, fv_ar_mode_name((fv_ar_mode)i));
        if (d >= least) continue;
        least = d;
        nearest = i;
    }
    return fv_fail(ctx, FV_ERR_UNKNOWN, "mode \"%s\" is unknown; nearest is \"%s\" (there are ar, "
                   "sd, vvs, jacobi)", name, fv_ar_mode_name((fv_ar_mode)nearest));
}

/* The keys of a mode in words, for messages. */
static void list_keys(const key *k, int n, char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? ", " : "", k[i].key.name);
}

fv_status fv_ar_method_parse(fv_ctx *ctx, const char *text, fv_ar_mode *mode, fv_ar_expert *expert)
{
    char name[FV_METHOD_TEXT_MAX], about[512], *options;
    const fv_ar_expert defaults = FV_AR_EXPERT_INIT;
    fv_method_key table[MOST_KEYS];
    double value[MOST_KEYS];
    bool is_given[MOST_KEYS];
    const key *k;
    if (!text || !mode || !expert)
        return fv_fail(ctx, FV_ERR_ARG, "mode: text or the place for the result is missing");
    FV_TRY(fv_method_split(ctx, text, name, &options));
    FV_TRY(find_mode(ctx, name, mode));
    const int n = keys_of(*mode, &k);
    list_keys(k, n, about, sizeof about);
    for (int i = 0; i < n; i++) {
        table[i] = k[i].key;
        table[i].value = get(&defaults, &k[i]);
    }
    fv_method_text m = { .ctx = ctx, .name = name, .about = about, .key = table, .keys = n,
                         .value = value, .is_given = is_given };
    FV_TRY(fv_method_read(&m, options));
    *expert = defaults;
    for (int i = 0; i < n; i++) set(expert, &k[i], value[i]);
    return FV_OK;
}

/* The shortest number that reads as the same float; never in the locale of the process. */
static fv_status add_real(fv_ctx *ctx, fv_text *t, float v)
{
    fv_text number;
    double back = 0;
    fv_status s = FV_OK;
    fv_text_init(&number, ctx);
    for (int digits = 1; digits <= 9 && s == FV_OK; digits++) {
        number.size = 0;
        fv_text_printf(&number, "%.*g", digits, (double)v);
        s = number.status;
        if (s == FV_OK) s = fv_meta_parse(ctx, "mode", number.data, false, &back);
        if ((float)back == v) break;
    }
    if (s == FV_OK) fv_text_printf(t, "%s", number.data);
    fv_text_free(&number);
    return s;
}

static fv_status add_value(fv_ctx *ctx, fv_text *t, const key *k, double v)
{
    char word[32];
    if (k->is_real) return add_real(ctx, t, (float)v);
    if (k->key.words) {
        fv_method_word(k->key.words, (int)v, word, sizeof word);
        fv_text_printf(t, "%s", word);
    } else {
        fv_text_printf(t, "%.0f", v);
    }
    return t->status;
}

fv_status fv_ar_method_text(fv_ctx *ctx, fv_ar_mode mode, const fv_ar_expert *expert, char **out)
{
    const fv_ar_expert defaults = FV_AR_EXPERT_INIT;
    const char *name = fv_ar_mode_name(mode);
    fv_ar_expert e = defaults;
    const key *k;
    fv_text t;
    fv_status s = FV_OK;
    char mark = ':';
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "mode: no place for the text");
    *out = NULL;
    if (!name) return fv_fail(ctx, FV_ERR_ARG, "mode %d has no name", (int)mode);
    FV_TRY(FV_TAKE_OPTIONS(ctx, &e, expert, "mode"));
    fv_text_init(&t, ctx);
    fv_text_printf(&t, "%s", name);
    const int n = keys_of(mode, &k);
    for (int i = 0; i < n && s == FV_OK; i++) {
        const double v = get(&e, &k[i]);
        if (v == get(&defaults, &k[i])) continue;
        fv_text_printf(&t, "%c%s=", mark, k[i].key.name);
        s = add_value(ctx, &t, &k[i], v);
        mark = ',';
    }
    if (s == FV_OK) s = t.status;
    if (s == FV_OK)
        *out = t.data;
    else
        fv_text_free(&t);
    return s;
}

/* ---- Measured points ------------------------------------------------------------------------- */

struct ar_points {
    fv_ar_point point[MAX_POINTS];
    int count;
    char text[]; /* cut at its blanks */
};

static fv_status bad_line(fv_ctx *ctx, int line)
{
    return fv_fail(ctx, FV_ERR_MODEL, "model: line %d of %s is not a measured method", line,
                   AR_POINTS_KEY);
}

/* The word at *at, which is cut; "" at the end. */
static char *next_word(char **at)
{
    char *word = *at, *blank = strchr(word, ' ');
    if (blank) *blank = 0;
    *at = blank ? blank + 1 : word + strlen(word);
    return word;
}

/* Cuts "@bf16" off. */
static bool read_weights(char *method, fv_dtype *out)
{
    char *at = strchr(method, '@');
    if (!at) return false;
    *at = 0;
    return fv_weights_find(at + 1, out) != 0;
}

static fv_status read_point(fv_ctx *ctx, char *line, int number, fv_ar_point *p)
{
    double v[5];
    fv_ar_mode mode;
    fv_ar_expert e;
    char *method = next_word(&line);
    p->method = method;
    if (!read_weights(method, &p->weights)) return bad_line(ctx, number);
    fv_status s = fv_ar_method_parse(ctx, p->method, &mode, &e);
    for (int i = 0; i < 5 && s == FV_OK; i++) {
        s = fv_meta_parse(ctx, AR_POINTS_KEY, next_word(&line), i == 4, &v[i]);
        if (s == FV_OK && !(v[i] >= 0 && v[i] <= 1e6)) s = FV_ERR_MODEL;
    }
    if (s == FV_ERR_OOM) return s;
    if (s != FV_OK) return bad_line(ctx, number);
    if (*line || !(v[0] > 0)) return bad_line(ctx, number);
    p->speedup = (float)v[0];
    p->tokens_per_pass = (float)v[1];
    p->accuracy = (float)v[2];
    p->distance = (float)v[3];
    p->is_lossless = v[4] != 0;
    return FV_OK;
}

fv_status ar_points_read(fv_ctx *ctx, const fv_model *m, ar_points **out)
{
    const char *text = fv_model_meta(m, AR_POINTS_KEY);
    *out = NULL;
    if (!text || !*text) return FV_OK;
    const size_t n = strlen(text);
    if (n > MAX_POINTS_TEXT) return bad_line(ctx, 1);
    ar_points *p = fv_calloc(ctx, 1, sizeof *p + n + 1);
    if (!p) return FV_ERR_OOM;
    memcpy(p->text, text, n + 1);
    fv_status s = FV_OK;
    for (char *line = p->text; line && *line && s == FV_OK;) {
        char *end = strchr(line, '\n');
        if (end) *end++ = 0;
        s = p->count == MAX_POINTS ? bad_line(ctx, p->count + 1)
                                   : read_point(ctx, line, p->count + 1, &p->point[p->count]);
        p->count++;
        line = end;
    }
    if (s != FV_OK) {
        fv_free(ctx, p);
        return s;
    }
    *out = p;
    return FV_OK;
}

int fv_ar_point_count(const fv_ar *a) { return a->points ? a->points->count : 0; }

void fv_ar_get_point(const fv_ar *a, int i, fv_ar_point *out)
{
    memset(out, 0, sizeof *out);
    if (i >= 0 && i < fv_ar_point_count(a)) *out = a->points->point[i];
}

/* What a method costs: a point of accuracy weighs as much as a tenth of the distance. */
static float loss_of(const fv_ar_point *p, const fv_ar_point *exact)
{
    if (p->is_lossless) return 0;
    const float points = 100 * (exact->accuracy - p->accuracy);
    const float tenths =
        exact->distance > 0 ? 10 * (p->distance / exact->distance - 1) : 0;
    return 1e-6f + (points > 0 ? points : 0) + (tenths > 0 ? tenths : 0);
}

int fv_ar_choose_point(const fv_ar *a, double speedup, const fv_dtype *only, int *reached)
{
    const int n = fv_ar_point_count(a);
    int best = -1, fastest = -1;
    for (int i = 0; i < n; i++) {
        const fv_ar_point *p = &a->points->point[i], *b = best < 0 ? NULL : &a->points->point[best];
        if (only && p->weights != *only) continue;
        if (fastest < 0 || p->speedup > a->points->point[fastest].speedup) fastest = i;
        if (p->speedup < SPEEDUP_SLACK * (float)speedup) continue;
        const float loss = loss_of(p, &a->points->point[0]);
        const float least = b ? loss_of(b, &a->points->point[0]) : 0;
        if (!b || loss < least || (loss == least && p->speedup > b->speedup)) best = i;
    }
    if (reached) *reached = best >= 0;
    return best < 0 ? fastest : best;
}

/* Plain decoding with weights of another type than point 0 makes other pictures than that, but those
 * of plain decoding with these weights. */
static int fastest_exact(const fv_ar *a)
{
    int best = -1;
    for (int i = 0; i < fv_ar_point_count(a); i++) {
        const fv_ar_point *p = &a->points->point[i];
        const bool is_exact = p->is_lossless || strcmp(p->method, "ar") == 0;
        if (p->weights != a->weights->type || !is_exact) continue;
        if (best < 0 || p->speedup > a->points->point[best].speedup) best = i;
    }
    return best;
}

fv_status fv_ar_auto(fv_ctx *ctx, const fv_ar *a, fv_ar_mode *mode, fv_ar_expert *expert)
{
    if (!a) return fv_fail(ctx, FV_ERR_ARG, "mode: the model is missing");
    const int i = fastest_exact(a);
    const char *method = i >= 0 ? a->points->point[i].method : a->has_draft ? ADAPTIVE : "ar";
    FV_TRY(fv_ar_method_parse(ctx, method, mode, expert));
    if ((*mode != FV_AR_SD && *mode != FV_AR_VVS) || a->has_draft) return FV_OK;
    return fv_ar_method_parse(ctx, "ar", mode, expert); /* the head was left out on opening */
}

static fv_status points_text(fv_ctx *ctx, const fv_ar_point *p, int count, fv_text *t)
{
    for (int i = 0; i < count; i++) {
        fv_ar_mode mode;
        fv_ar_expert e;
        FV_TRY(fv_ar_method_parse(ctx, p[i].method, &mode, &e));
        if (i == 0 && mode != FV_AR_PLAIN)
            return fv_fail(ctx, FV_ERR_ARG, "points: the first is not plain decoding but %s",
                           p[i].method);
        if (!fv_weights_name(p[i].weights))
            return fv_fail(ctx, FV_ERR_ARG, "points: weights are f32, bf16 or int8");
        fv_text_printf(t, "%s@%s %.4g %.4g %.5g %.5g %d\n", p[i].method,
                       fv_weights_name(p[i].weights), (double)p[i].speedup,
                       (double)p[i].tokens_per_pass, (double)p[i].accuracy,
                       (double)p[i].distance, p[i].is_lossless != 0);
    }
    return t->status;
}

static fv_status copy_meta(fv_ctx *ctx, const fv_model *m, fv_meta *out)
{
    for (int i = 0; i < fv_model_meta_count(m); i++) {
        const char *name, *value;
        fv_model_meta_at(m, i, &name, &value);
        FV_TRY(fv_meta_add(ctx, out, name, value));
    }
    return FV_OK;
}

fv_status fv_ar_store_points(fv_ctx *ctx, const fv_model *file, const fv_ar_point *points,
                             int count, const char *path, int overwrite)
{
    fv_pack pack = { 0 };
    fv_meta meta = { 0 };
    fv_text text;
    ar_config cfg;
    if (!file || !path || (count > 0 && !points) || count < 0 || count > MAX_POINTS)
        return fv_fail(ctx, FV_ERR_ARG, "points: file, path or points missing, or more than %d",
                       MAX_POINTS);
    FV_TRY(ar_config_read(ctx, file, &cfg));
    if (!cfg.has_gpt) return fv_fail(ctx, FV_ERR_MODEL, "points: the file holds no generator");
    fv_text_init(&text, ctx);
    fv_status s = points_text(ctx, points, count, &text);
    if (s == FV_OK) s = copy_meta(ctx, file, &meta);
    if (s == FV_OK) s = fv_meta_add(ctx, &meta, AR_POINTS_KEY, count ? text.data : "");
    if (s == FV_OK) s = fv_pack_create(ctx, &pack);
    if (s == FV_OK) s = fv_pack_copy(&pack, file, "", "");
    if (s == FV_OK) s = fv_meta_write(&meta, pack.writer);
    if (s == FV_OK) s = fv_model_writer_finish(pack.writer, path, overwrite);
    fv_pack_free(&pack);
    fv_meta_free(ctx, &meta);
    fv_text_free(&text);
    return s;
}
