/* accel_methods.c - published accelerations by name: "toca:N=3,r0=0.07" becomes a plan.
 *
 * A table lists the methods with their options; what a method does at each evaluation is in
 * accel_baselines.c (known beforehand) and accel_policy.c (decided while sampling). All of them end
 * in the same rows of the same engine, so that comparisons are side by side.
 *
 * FLOP ratios are counted as papers count them, for a network that computes its modulations at
 * every evaluation: 2 per multiply-add, norms and activations free. A module that is not computed
 * saves its products and, in official DiTs, the shift and scale of its input; its gate is needed
 * still. A forecast from n outputs is n multiply-adds a value. DiT-XL/2 with guidance, 50 steps:
 * 23.72 T exact, 8.555 T for FORA with N = 3, where the papers print 23.735 and 8.559 (0.05 % off:
 * what they count of the norms). This engine computes modulations for many evaluations at once and
 * counts what it ran in fv_generate_stats. */
#include "class_names.h"
#include "accel_methods.h"

#include <string.h>

#define KEY_N(v) { "N", 1, -1, v, true, NULL }
#define KEY_REAL_N(v) { "N", 1, -1, v, false, NULL }
#define KEY_ANCHORS { "anchors", 1, -1, 0, true, NULL }
#define KEY_ORDER(v) { "order", 1, DIT_HISTORY - 1, v, true, NULL }
#define KEY_LITE { "lite", 0, 1, 0, true, NULL }
#define KEY_END { NULL, 0, 0, 0, false, NULL }

static const fvi_method_entry entry[] = {
    { "fora", "N=3 | anchors=K", "arXiv 2407.01425",
      "every N-th evaluation in full, the others reuse all modules",
      { KEY_N(3), KEY_ANCHORS, KEY_END }, fvi_make_fora },
    { "toca", "N=3, r0=0.07", "arXiv 2410.05317",
      "between full evaluations attention is reused and the MLPs compute some tokens",
      { KEY_REAL_N(3), { "r0", 0, 1, 0.07, false, NULL }, KEY_END }, fvi_make_toca },
    { "duca", "N=3, r0=0.05", "arXiv 2412.18911",
      "ToCa at every second evaluation, the others skip the network",
      { KEY_REAL_N(3), { "r0", 0, 1, 0.05, false, NULL }, KEY_END }, fvi_make_duca },
    { "taylorseer", "N=4 | anchors=K, order=1..4, form=official|newton, lite=0|1",
      "arXiv 2503.06923", "modules (lite: the last hidden state) by Taylor series in time",
      { KEY_N(4), KEY_ANCHORS, KEY_ORDER(2), { "form", 0, 1, 0, true, "official|newton" },
        KEY_LITE },
      fvi_make_taylorseer },
    { "teacache", "threshold=0.1", "arXiv 2411.19108",
      "skips the network until the first block's input has changed enough",
      { { "threshold", 0, 1e6, 0.1, false, NULL }, KEY_END }, fvi_make_teacache },
    { "rfc", "threshold=0.1, order=1|2", "RFC, from its description",
      "forecasts of what the blocks add, as far as the first block's input has moved",
      { { "threshold", 0, 1e6, 0.1, false, NULL }, { "order", 1, 2, 2, true, NULL }, KEY_END },
      fvi_make_rfc },
    { "speca", "threshold=0.1, decay=0.01, min=2, max=5, order=1..4", "arXiv 2509.11628",
      "TaylorSeer's modules until the last block, computed on the draft, is too far from it",
      { { "threshold", 0, 1e6, 0.1, false, NULL }, { "decay", 1e-9, 1, 0.01, false, NULL },
        { "min", 0, -1, 2, true, NULL }, { "max", 1, -1, 5, true, NULL }, KEY_ORDER(4) },
      fvi_make_speca },
    { "clusca", "N=4 | anchors=K, order=1..4, clusters=16, spread=0.005", "arXiv 2509.10312",
      "TaylorSeer's modules, and a token of each cluster of tokens computed in the MLPs",
      { KEY_N(4), KEY_ANCHORS, KEY_ORDER(2),
        { "clusters", 1, FVI_MOST_CLUSTERS, 16, true, NULL },
        { "spread", 0, 1, 0.005, false, NULL } },
      fvi_make_clusca },
    { "cem", "anchors=K", "arXiv 2512.23258",
      "reuse between full evaluations placed by dynamic programming on cumulated errors",
      { KEY_ANCHORS, KEY_END }, fvi_make_cem },
    { "procache", "anchors=K, r0=0.07", "ProCache, from its description",
      "gaps that shrink, and ToCa's tokens in the last quarter of the blocks",
      { KEY_ANCHORS, { "r0", 0, 1, 0.07, false, NULL }, KEY_END }, fvi_make_procache },
    { "dpcache", "anchors=K", "DPCache, from its description",
      "linear forecasts of the last hidden state between evaluations placed by a programme",
      { KEY_ANCHORS, KEY_END }, fvi_make_dpcache },
    { "hicache", "N=4 | anchors=K, order=1..4, sigma=0.9", "HiCache, from its description",
      "TaylorSeer's differences with scaled Hermite polynomials",
      { KEY_N(4), KEY_ANCHORS, KEY_ORDER(2), { "sigma", 0, 1, 0.9, false, NULL }, KEY_END },
      fvi_make_hicache },
    { "spectrum", "N=4 | anchors=K, degree=4, ridge=0.1", "Spectrum, from its description",
      "the last hidden state by ridge regression on Chebyshev polynomials",
      { KEY_N(4), KEY_ANCHORS, { "degree", 1, DIT_HISTORY - 1, 4, true, NULL },
        { "ridge", 0, 1e6, 0.1, false, NULL }, KEY_END },
      fvi_make_spectrum },
};
#define METHODS ((int)FV_ARRAY_LEN(entry))

const char *fv_accel_method_name(int i, const char **options, const char **source,
                                 const char **about)
{
    if (i < 0 || i >= METHODS) return NULL;
    if (options) *options = entry[i].options;
    if (source) *source = entry[i].source;
    if (about) *about = entry[i].about;
    return entry[i].name;
}

static const char *const mode_name[] = {
    [FV_ACCEL_DPX] = "dpx",
    [FV_ACCEL_SODA] = "soda",
    [FV_ACCEL_SODA_PAPER] = "soda-paper",
    [FV_ACCEL_DCS] = "dcs",
    [FV_ACCEL_FIXED] = "fixed",
    [FV_ACCEL_EXACT] = "exact",
};

const char *fv_accel_mode_name(fv_accel_mode mode)
{
    return (size_t)mode < FV_ARRAY_LEN(mode_name) ? mode_name[mode] : NULL;
}

int fv_accel_mode_find(const char *name, fv_accel_mode *out)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(mode_name); i++)
        if (mode_name[i] && strcmp(name, mode_name[i]) == 0) {
            *out = (fv_accel_mode)i;
            return 1;
        }
    return 0;
}

/* ---- Reading a request ---------------------------------------------------------------------- */

static int key_count(const fvi_method_entry *e)
{
    int n = 0;
    while (n < FVI_METHOD_KEYS && e->key[n].name) n++;
    return n;
}

static fv_status find_method(fvi_method *m, const char *name)
{
    int nearest = 0, least = 1000;
    for (int i = 0; i < METHODS; i++) {
        const int d = fv_name_distance(name, entry[i].name);
        if (d < least) {
            least = d;
            nearest = i;
        }
        if (d) continue;
        m->entry = &entry[i];
        return FV_OK;
    }
    return fv_fail(m->ctx, FV_ERR_UNKNOWN, "method \"%s\" is unknown; nearest is \"%s\"", name,
                   entry[nearest].name);
}

static fv_status read_spec(fvi_method *m, const char *spec)
{
    char name[FV_METHOD_TEXT_MAX], *options;
    FV_TRY(fv_method_split(m->ctx, spec, name, &options));
    FV_TRY(find_method(m, name));
    fv_method_text text = { .ctx = m->ctx, .name = m->entry->name, .about = m->entry->options,
                            .key = m->entry->key, .keys = key_count(m->entry), .top = m->T,
                            .value = m->value, .is_given = m->is_given };
    FV_TRY(fv_method_read(&text, options));
    if (fvi_method_given(m, "N") && fvi_method_given(m, "anchors"))
        return fv_fail(m->ctx, FV_ERR_ARG, "%s: N and anchors exclude each other",
                       m->entry->name);
    return FV_OK;
}

static int find_key(const fvi_method *m, const char *key)
{
    return fv_method_find_key(m->entry->key, key_count(m->entry), key);
}

double fvi_method_value(const fvi_method *m, const char *key)
{
    const int k = find_key(m, key);
    return k < 0 ? 0 : m->value[k];
}

bool fvi_method_given(const fvi_method *m, const char *key)
{
    const int k = find_key(m, key);
    return k >= 0 && m->is_given[k];
}

/* ---- Accounting ----------------------------------------------------------------------------- */

typedef struct costs {
    double row, module[2], skip[3]; /* multiply-adds */
    double value;                   /* values of a module's output */
} costs;

static costs count_costs(const fv_dit *d)
{
    const dit_config *c = &d->net.cfg;
    const double N = dit_tokens(c), D = c->width, H = c->hidden, out = c->out_channels;
    const double input_mod = c->family == DIT_F ? 0 : 2 * D * D; /* shift and scale of a module */
    const double patch = (double)c->patch * c->patch;
    const double last = 256 * D + 3 * D * D + N * D * patch * out; /* condition and final layer */
    costs k = { .row = d->row_flop / 2, .value = N * D };
    k.module[DIT_ATTN] = 4 * N * D * D + 2 * N * N * D + input_mod;
    k.module[DIT_MLP] = N * D * H * (c->family == DIT_F ? 3 : 2) + input_mod;
    k.skip[DIT_SKIP_OUTPUT] = 0;
    k.skip[DIT_SKIP_HIDDEN] = last;
    k.skip[DIT_SKIP_RESIDUAL] = last + N * D * patch * c->channels;
    return k;
}

static int weights_in(const float *w)
{
    int n = 0;
    for (int i = 0; i < DIT_HISTORY; i++) n += w[i] != 0;
    return n > 0 ? n : 1;
}

static double eval_cost(const fv_dit *d, const costs *c, const fv_accel *a, int e)
{
    const dit_row row = dit_accel_row(a, e);
    const dit_config *cfg = &d->net.cfg;
    if (row.skip_weight)
        return c->skip[a->skip] +
               weights_in(row.skip_weight) *
                   (a->skip == DIT_SKIP_OUTPUT
                        ? (double)cfg->input_size * cfg->input_size * cfg->out_channels
                        : c->value);
    double sum = c->row;
    for (int k = 0; k < 2 * a->depth; k++) {
        const int action = row.action[k];
        if (action == DIT_FULL) continue;
        const double share = action == DIT_PRUNE ? (double)dit_pruned_tokens(cfg, row.pruned[k]) /
                                                       dit_tokens(cfg)
                                                 : 0;
        sum -= c->module[k % 2] * (1 - share);
        sum += c->value * (action == DIT_REUSE ? 1 : weights_in(row.weight + k * DIT_HISTORY));
    }
    return sum;
}

double fvi_method_flop_ratio(const fv_dit *d, const dit_schedule *s, const fv_accel *a)
{
    const costs c = count_costs(d);
    double exact = 0, plan = 0;
    for (int e = 0; e < a->evals; e++) {
        const double rows = dit_schedule_guided(s, e) ? 2 : 1;
        exact += rows * c.row;
        plan += rows * eval_cost(d, &c, a, e);
    }
    return plan > 0 ? exact / plan : 1;
}

/* ---- Plans ---------------------------------------------------------------------------------- */

static fv_status open_method(fvi_method *m, const fv_generate_options *o, const char *spec)
{
    FV_TRY(dit_schedule_create(m->ctx, &m->schedule, &m->d->net.cfg, o));
    m->T = m->schedule.evals;
    m->K = 2 * m->d->net.cfg.depth;
    FV_TRY(read_spec(m, spec));
    if (m->sens) FV_TRY(fv_sens_match(m->ctx, m->sens, m->d, o));
    m->must = fv_calloc(m->ctx, (size_t)m->T, 1);
    m->full = fv_calloc(m->ctx, (size_t)m->T, 1);
    m->at = fv_calloc(m->ctx, (size_t)m->T, sizeof *m->at);
    if (!m->must || !m->full || !m->at) return FV_ERR_OOM;
    for (int e = 1; e < m->T; e++)
        m->must[e] =
            dit_schedule_guided(&m->schedule, e) != dit_schedule_guided(&m->schedule, e - 1);
    return fvi_accel_create(m->ctx, &m->plan, m->T, m->K / 2);
}

static void describe(fvi_method *m, const char *spec)
{
    fv_accel *a = m->plan;
    const bool fits = strlen(spec) < sizeof a->mode;
    snprintf(a->mode, sizeof a->mode, "%s", fits ? spec : m->entry->name);
    memcpy(a->model_hash, m->d->hash, sizeof a->model_hash);
    a->sampler = m->schedule.kind;
    a->steps = m->schedule.steps;
    a->cfg = m->schedule.cfg;
    a->flop_ratio = a->policy && !a->policy->keeps_rows
                        ? 1
                        : fvi_method_flop_ratio(m->d, &m->schedule, a);
    a->predicted_speedup = a->flop_ratio;
}

fv_status fv_accel_method(fv_ctx *ctx, fv_accel **out, const fv_dit *d,
                          const fv_generate_options *opts, const fv_sens *sens, const char *spec)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    fvi_method m = { .ctx = ctx, .d = d, .sens = sens };
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "method: no place for the result");
    *out = NULL;
    if (!d || !opts || !spec)
        return fv_fail(ctx, FV_ERR_ARG, "method: model, options or description missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "method"));
    fv_status s = open_method(&m, &o, spec);
    if (s == FV_OK) s = m.entry->make(&m);
    if (s == FV_OK) describe(&m, spec);
    fv_free(ctx, m.must);
    fv_free(ctx, m.full);
    fv_free(ctx, m.at);
    dit_schedule_destroy(ctx, &m.schedule);
    if (s == FV_OK) *out = m.plan;
    else fv_accel_free(&m.plan);
    return s;
}
