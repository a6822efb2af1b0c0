/* accel_file.c - plans as text (.fvplan).
 *
 *     fvplan 2
 *     model 4f0c...            SHA-256 of the model
 *     sampler euler            more "key value" lines; unknown keys are ignored
 *     skip output              or hidden, residual (dit_skip), -of-anchors: from full ones alone
 *     score mean               or stale, toca, drift (dit_score)
 *     ...
 *     0 FFFFFFFF               a line an evaluation, two characters a block: attention, MLP
 *     1 FFFFFFFF               F computed in full, . reused, L linear forecast;
 *     2 .LL1.L.3               MLP of 1 2 3: tokens / 8, / 4, / 2 are computed, others forecast
 *     w 2 1 2 2 -1             weights of the L and 1 2 3 among modules 1 to 2 of evaluation 2,
 *     w 2 3 7 1                newest output first; those up to 5 that are left out are 0
 *     3 ssssssss               a skipped evaluation; what is done when there is nothing to
 *     v 3 1.5 -0.5             forecast from (s in full, or as above), and its weights
 *     end 1a2b3c4d             CRC32C of everything before this line
 *
 * Plans of F and . alone are written as version 1, which has no other lines. Lines starting with #
 * are comments. Each w line follows its evaluation, in order of modules, and together they cover
 * every forecast. Numbers have nine digits, so that a float comes back as it was.
 *
 * The file is not trusted: a plan only says which of a few safe things to do, but its sizes decide
 * allocations, so the text must be long enough for them; and weights are bounded, so that they
 * cannot make an infinity of an ordinary output. */
#include "soda.h"

#include <math.h>
#include <string.h>

#define MAX_FILE ((uint64_t)64 << 20)
#define MAX_DEPTH 256
#define MAX_WEIGHT 1e4
#define WEIGHT_LINE 160 /* characters of the numbers of a w line */

/* dit_skip; then the same forecast from evaluations in full alone. */
static const char *const skip_names[] = { "output", "hidden", "residual", "output-of-anchors",
                                          "hidden-of-anchors", "residual-of-anchors" };
static const char *const score_names[] = { "mean", "stale", "toca", "drift" };

/* Does the action take weights? */
static bool is_forecast(int action)
{
    return action == DIT_LINEAR || action == DIT_PRUNE;
}

/* ---- Writing -------------------------------------------------------------------------------- */

static bool is_first_version(const fv_accel *a)
{
    const size_t n = (size_t)a->evals * 2 * (size_t)a->depth;
    for (int e = 0; e < a->evals; e++)
        if (a->skipped[e]) return false;
    for (size_t i = 0; i < n; i++)
        if (is_forecast(a->action[i])) return false;
    return true;
}

static bool is_storable(const float *w)
{
    for (int i = 0; i < DIT_HISTORY; i++)
        if (!(fabs((double)w[i]) <= MAX_WEIGHT)) return false; /* NaN too */
    return true;
}

/* What the reader would refuse. */
static fv_status check_storable(fv_ctx *ctx, const fv_accel *a)
{
    const size_t K = 2 * (size_t)a->depth;
    if (a->policy)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED,
                       "plan: \"%s\" decides while it runs, so there is nothing to write", a->mode);
    if (a->depth > MAX_DEPTH)
        return fv_fail(ctx, FV_ERR_LIMIT, "plan: %d blocks, at most %d can be written", a->depth,
                       MAX_DEPTH);
    for (int e = 0; e < a->evals; e++) {
        if (a->skipped[e] && !is_storable(a->skip_weight + (size_t)e * DIT_HISTORY))
            return fv_fail(ctx, FV_ERR_ARG, "plan: evaluation %d has a weight beyond %g", e,
                           MAX_WEIGHT);
        for (size_t k = 0; k < K; k++) {
            const size_t at = (size_t)e * K + k;
            if (!is_forecast(a->action[at])) continue;
            if (!is_storable(a->weight + at * DIT_HISTORY))
                return fv_fail(ctx, FV_ERR_ARG, "plan: module %d of evaluation %d has a weight "
                               "beyond %g", (int)k, e, MAX_WEIGHT);
            if (a->action[at] == DIT_PRUNE && (k % 2 == DIT_ATTN || a->pruned[at] >= DIT_PRUNED))
                return fv_fail(ctx, FV_ERR_ARG, "plan: module %d of evaluation %d cannot be pruned "
                               "like this", (int)k, e);
        }
    }
    return FV_OK;
}

static void write_weights(fv_text *t, const float *w)
{
    for (int i = 0, n = dit_reach(w); i < n; i++) fv_text_printf(t, " %.9g", (double)w[i]);
    fv_text_printf(t, "\n");
}

/* As they are read back. */
static bool is_same(const float *v, const float *w)
{
    const int n = dit_reach(w);
    return dit_reach(v) == n && memcmp(v, w, (size_t)n * sizeof *w) == 0;
}

/* Neighbours of equal weights share a line, also across modules that take none. */
static void write_forecasts(fv_text *t, const fv_accel *a, int e)
{
    const int K = 2 * a->depth;
    const uint8_t *action = a->action + (size_t)e * (size_t)K;
    const float *w = a->weight + (size_t)e * (size_t)K * DIT_HISTORY;
    for (int k = 0; k < K;) {
        int next = k + 1, last = k;
        if (is_forecast(action[k])) {
            for (; next < K; next++) {
                if (!is_forecast(action[next])) continue;
                if (!is_same(w + next * DIT_HISTORY, w + k * DIT_HISTORY)) break;
                last = next;
            }
            fv_text_printf(t, "w %d %d %d", e, k, last);
            write_weights(t, w + k * DIT_HISTORY);
        }
        k = next;
    }
}

static void write_row(fv_text *t, const fv_accel *a, int e)
{
    const size_t K = 2 * (size_t)a->depth;
    char row[2 * MAX_DEPTH + 1];
    for (size_t k = 0; k < K; k++) {
        const size_t at = (size_t)e * K + k;
        const int action = a->action[at];
        row[k] = action == DIT_REUSE    ? '.'
                 : action == DIT_LINEAR ? 'L'
                 : action == DIT_PRUNE  ? (char)('1' + a->pruned[at])
                 : a->skipped[e]        ? 's'
                                        : 'F';
    }
    row[K] = 0;
    fv_text_printf(t, "%d %s\n", e, row);
    write_forecasts(t, a, e);
    if (!a->skipped[e]) return;
    fv_text_printf(t, "v %d", e);
    write_weights(t, a->skip_weight + (size_t)e * DIT_HISTORY);
}

static void plan_text(fv_text *t, const fv_accel *a)
{
    char hash[65];
    const bool is_first = is_first_version(a);
    fv_hex(a->model_hash, sizeof a->model_hash, hash);
    fv_text_printf(
        t, "fvplan %d\nmodel %s\nsampler %s\nsteps %d\nevaluations %d\nblocks %d\ncfg %.9g\n",
        is_first ? 1 : 2, hash, fv_sampler_name(a->sampler), a->steps, a->evals, a->depth,
        (double)a->cfg);
    fv_text_printf(t, "mode %s\nspeedup %.9g\nflop_ratio %.9g\n", a->mode, a->predicted_speedup,
                   a->flop_ratio);
    if (!is_first && a->step_history)
        fv_text_printf(t, "skip %s\n", skip_names[(int)a->skip + (a->past_of_anchors ? 3 : 0)]);
    if (!is_first && a->prunes) fv_text_printf(t, "score %s\n", score_names[a->score]);
    fv_text_printf(t, "# F computed in full, . reused%s; attention and MLP of each block\n",
                   is_first ? "" : ", L forecast, 1 2 3 pruned, s skipped");
    for (int e = 0; e < a->evals; e++) write_row(t, a, e);
}

fv_status fvi_accel_text(fv_ctx *ctx, const fv_accel *a, char **text, size_t *size)
{
    fv_text t;
    *text = NULL;
    FV_TRY(check_storable(ctx, a));
    fv_text_init(&t, ctx);
    plan_text(&t, a);
    if (t.status == FV_OK) fv_text_printf(&t, "end %08x\n", (unsigned)fv_crc32c(0, t.data, t.size));
    if (t.status == FV_OK) *text = fv_strdup(ctx, t.data);
    const fv_status s = t.status != FV_OK ? t.status : *text ? FV_OK : FV_ERR_OOM;
    *size = t.size;
    fv_text_free(&t);
    return s;
}

fv_status fv_accel_write(fv_ctx *ctx, const fv_accel *a, const char *path, int overwrite)
{
    char *text;
    size_t size = 0;
    FV_TRY(fvi_accel_text(ctx, a, &text, &size));
    const fv_status s = fv_write_file(ctx, path, text, size, overwrite);
    fv_free(ctx, text);
    return s;
}

/* ---- Reading -------------------------------------------------------------------------------- */

typedef struct cursor {
    fv_ctx *ctx;
    const char *at, *end;
    int line, version;
} cursor;

/* Key and value of the next line that is not a comment; views into the text. */
typedef struct entry {
    const char *key, *value;
    size_t key_bytes, value_bytes;
} entry;

static fv_status bad(const cursor *c, const char *what)
{
    return fv_fail(c->ctx, FV_ERR_FORMAT, "plan: line %d: %s", c->line, what);
}

static bool next_line(cursor *c, entry *x)
{
    while (c->at < c->end) {
        const char *line = c->at, *stop = memchr(line, '\n', (size_t)(c->end - line));
        if (!stop) return false; /* every line ends with a newline */
        c->at = stop + 1;
        c->line++;
        if (line == stop || *line == '#') continue;
        const char *space = memchr(line, ' ', (size_t)(stop - line));
        x->key = line;
        x->key_bytes = (size_t)((space ? space : stop) - line);
        x->value = space ? space + 1 : stop;
        x->value_bytes = (size_t)(stop - x->value);
        return true;
    }
    return false;
}

static bool is_key(const entry *x, const char *key)
{
    return x->key_bytes == strlen(key) && memcmp(x->key, key, x->key_bytes) == 0;
}

/* Numbers as JSON writes them: strict, and the same in every locale. */
static fv_status get_number(const cursor *c, const entry *x, double lo, double hi, double *out)
{
    fv_json_doc *doc;
    double v = NAN;
    if (x->value_bytes > 40) return bad(c, "not a number");
    const fv_status s = fv_json_parse(c->ctx, &doc, x->value, x->value_bytes, 4);
    if (s != FV_OK) return s == FV_ERR_OOM ? s : bad(c, "not a number");
    if (fv_json_root(doc)->type == FV_JSON_NUMBER) v = fv_json_root(doc)->num;
    fv_json_free(&doc);
    if (!(v >= lo && v <= hi)) return bad(c, "a number is out of range");
    *out = v;
    return FV_OK;
}

static fv_status get_int(const cursor *c, const entry *x, int lo, int hi, int *out)
{
    double v = 0;
    FV_TRY(get_number(c, x, lo, hi, &v));
    if (v != floor(v)) return bad(c, "not a whole number");
    *out = (int)v;
    return FV_OK;
}

static fv_status get_hash(const cursor *c, const entry *x, uint8_t out[32])
{
    static const char digits[] = "0123456789abcdef";
    if (x->value_bytes != 64) return bad(c, "a model hash has 64 digits");
    for (int i = 0; i < 32; i++) {
        const char *hi = memchr(digits, x->value[2 * i], 16),
                   *lo = memchr(digits, x->value[2 * i + 1], 16);
        if (!hi || !lo) return bad(c, "a model hash has digits 0-9a-f");
        out[i] = (uint8_t)((hi - digits) * 16 + (lo - digits));
    }
    return FV_OK;
}

/* Short text, made printable. */
static void get_word(const entry *x, char *out, size_t size)
{
    size_t n = 0;
    for (; n < x->value_bytes && n + 1 < size; n++)
        out[n] = x->value[n] >= ' ' && x->value[n] < 127 ? x->value[n] : '_';
    out[n] = 0;
}

static int find_name(const entry *x, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (x->value_bytes == strlen(names[i]) && memcmp(x->value, names[i], x->value_bytes) == 0)
            return (int)i;
    return -1;
}

static fv_status header_entry(const cursor *c, const entry *x, fv_accel *h, bool *has_hash)
{
    double v = 0;
    char word[32];
    if (is_key(x, "model")) {
        *has_hash = true;
        return get_hash(c, x, h->model_hash);
    }
    if (is_key(x, "sampler")) {
        get_word(x, word, sizeof word);
        h->sampler = fv_sampler_find(word);
        return h->sampler == FV_SAMPLER_AUTO ? bad(c, "unknown sampler") : FV_OK;
    }
    if (is_key(x, "mode")) {
        get_word(x, h->mode, sizeof h->mode);
        return FV_OK;
    }
    if (is_key(x, "steps")) return get_int(c, x, 1, FVI_SENS_MAX_EVALS, &h->steps);
    if (is_key(x, "evaluations")) return get_int(c, x, 1, FVI_SENS_MAX_EVALS, &h->evals);
    if (is_key(x, "blocks")) return get_int(c, x, 1, MAX_DEPTH, &h->depth);
    if (is_key(x, "speedup")) return get_number(c, x, 0, 1e6, &h->predicted_speedup);
    if (is_key(x, "flop_ratio")) return get_number(c, x, 0, 1e6, &h->flop_ratio);
    if (c->version > 1 && is_key(x, "skip")) {
        const int i = find_name(x, skip_names, FV_ARRAY_LEN(skip_names));
        h->skip = (dit_skip)(i % 3);
        h->past_of_anchors = i >= 3;
        return i < 0 ? bad(c, "unknown kind of skip") : FV_OK;
    }
    if (c->version > 1 && is_key(x, "score")) {
        const int i = find_name(x, score_names, FV_ARRAY_LEN(score_names));
        h->score = (dit_score)i;
        return i < 0 ? bad(c, "unknown score") : FV_OK;
    }
    if (!is_key(x, "cfg")) return FV_OK;
    FV_TRY(get_number(c, x, 0, 1000, &v));
    h->cfg = (float)v;
    return FV_OK;
}

static fv_status read_header(cursor *c, entry *x, fv_accel *h)
{
    bool has_hash = false;
    if (!next_line(c, x) || !is_key(x, "fvplan"))
        return fv_fail(c->ctx, FV_ERR_FORMAT, "plan: not a plan (.fvplan)");
    FV_TRY(get_int(c, x, 0, 1000000, &c->version));
    if (c->version != 1 && c->version != 2)
        return fv_fail(c->ctx, FV_ERR_VERSION,
                       "plan: version %d, this library reads versions 1 and 2", c->version);
    for (;;) {
        if (!next_line(c, x))
            return fv_fail(c->ctx, FV_ERR_TRUNCATED, "plan: the text ends in its header");
        if (x->key[0] >= '0' && x->key[0] <= '9') break;
        if (is_key(x, "end")) return bad(c, "a plan without evaluations");
        FV_TRY(header_entry(c, x, h, &has_hash));
    }
    if (has_hash && h->evals && h->depth && h->steps && h->sampler) return FV_OK;
    return bad(c, "model, sampler, steps, evaluations or blocks is missing");
}

/* Whole numbers first, then 1 to DIT_HISTORY weights; the missing ones are 0. */
static fv_status get_weights(const cursor *c, const entry *x, int *whole, int wholes,
                             float w[DIT_HISTORY])
{
    char list[WEIGHT_LINE + 3];
    fv_json_doc *doc;
    fv_status s = FV_OK;
    int n = 0;
    if (x->value_bytes > WEIGHT_LINE) return bad(c, "a line of weights is too long");
    list[0] = '[';
    for (size_t i = 0; i < x->value_bytes; i++)
        list[1 + i] = x->value[i] == ' ' ? ',' : x->value[i] == ',' ? ' ' : x->value[i];
    list[1 + x->value_bytes] = ']';
    s = fv_json_parse(c->ctx, &doc, list, x->value_bytes + 2, 16);
    if (s != FV_OK) return s == FV_ERR_OOM ? s : bad(c, "not a list of numbers");
    memset(w, 0, DIT_HISTORY * sizeof *w);
    const fv_json *v = fv_json_first(doc, fv_json_root(doc));
    for (; v && s == FV_OK; v = fv_json_next(doc, v), n++) {
        const double most = n < wholes ? FVI_SENS_MAX_EVALS : MAX_WEIGHT;
        if (v->type != FV_JSON_NUMBER || !(fabs(v->num) <= most) || n >= wholes + DIT_HISTORY ||
            (n < wholes && v->num != floor(v->num)))
            s = bad(c, "a number is out of range");
        else if (n < wholes) whole[n] = (int)v->num;
        else w[n - wholes] = (float)v->num;
    }
    fv_json_free(&doc);
    if (s != FV_OK) return s;
    return n > wholes ? FV_OK : bad(c, "weights are missing");
}

static fv_status read_row(const cursor *c, const entry *x, fv_accel *a, int e)
{
    static const char chars[] = "F.L123s";
    static const uint8_t action[] = { DIT_FULL,  DIT_REUSE, DIT_LINEAR, DIT_PRUNE,
                                      DIT_PRUNE, DIT_PRUNE, DIT_FULL };
    const size_t K = 2 * (size_t)a->depth, known = c->version == 1 ? 2 : sizeof action;
    char number[16];
    const int n = snprintf(number, sizeof number, "%d", e);
    bool has_full = false;
    if (x->key_bytes != (size_t)n || memcmp(x->key, number, (size_t)n) != 0)
        return bad(c, "evaluations must be in order");
    if (x->value_bytes != K) return bad(c, "two characters a block are needed");
    for (size_t k = 0; k < K; k++) {
        const char *p = memchr(chars, x->value[k], known);
        const size_t at = (size_t)e * K + k;
        if (!p) return bad(c, c->version == 1 ? "actions are F and ." : "unknown action");
        a->action[at] = action[p - chars];
        a->pruned[at] = *p >= '1' && *p <= '3' ? (uint8_t)(*p - '1') : 0;
        if (a->action[at] == DIT_PRUNE && k % 2 == DIT_ATTN)
            return bad(c, "attention cannot be pruned");
        if (*p == 's') a->skipped[e] = 1;
        if (*p == 'F') has_full = true;
    }
    return has_full && a->skipped[e] ? bad(c, "F and s exclude each other") : FV_OK;
}

/* One w line; *from is the first module that it may speak of, then the one after its last. */
static fv_status read_forecast(const cursor *c, const entry *x, fv_accel *a, int e, int *from)
{
    const size_t row = (size_t)e * 2 * (size_t)a->depth;
    float w[DIT_HISTORY];
    int at[3] = { 0 };
    FV_TRY(get_weights(c, x, at, 3, w));
    if (at[0] != e) return bad(c, "weights of another evaluation");
    if (at[1] < *from || at[2] < at[1] || at[2] >= 2 * a->depth)
        return bad(c, "modules must be in order");
    for (int k = *from; k <= at[2]; k++) {
        const bool takes = is_forecast(a->action[row + (size_t)k]);
        if (k < at[1] ? takes : !takes && (k == at[1] || k == at[2]))
            return bad(c, "weights must be those of the forecasts, without gaps");
        if (takes) memcpy(a->weight + (row + (size_t)k) * DIT_HISTORY, w, sizeof w);
    }
    *from = at[2] + 1;
    return FV_OK;
}

/* The lines of one evaluation; x holds its first, then what follows it. */
static fv_status read_evaluation(cursor *c, entry *x, fv_accel *a, int e, bool *has_line)
{
    const int K = 2 * a->depth;
    bool is_skipped = false;
    int from = 0, whole = 0;
    FV_TRY(read_row(c, x, a, e));
    for (*has_line = next_line(c, x); *has_line; *has_line = next_line(c, x)) {
        if (c->version == 1 || (!is_key(x, "w") && !is_key(x, "v"))) break;
        if (is_skipped) return bad(c, "weights after those of the evaluation");
        if (is_key(x, "w")) {
            FV_TRY(read_forecast(c, x, a, e, &from));
            continue;
        }
        FV_TRY(get_weights(c, x, &whole, 1, a->skip_weight + (size_t)e * DIT_HISTORY));
        if (whole != e) return bad(c, "weights of another evaluation");
        is_skipped = true;
    }
    for (; from < K; from++)
        if (is_forecast(a->action[(size_t)e * (size_t)K + (size_t)from]))
            return bad(c, "the weights of a forecast are missing");
    for (int k = 0; is_skipped && !a->skipped[e] && k < K; k++)
        if (a->action[(size_t)e * (size_t)K + (size_t)k] == DIT_FULL)
            return bad(c, "F and skipping exclude each other");
    if (a->skipped[e] && !is_skipped) return bad(c, "the weights of a skip are missing");
    a->skipped[e] = is_skipped;
    return FV_OK;
}

static fv_status read_rows(cursor *c, entry *x, fv_accel *a, bool *has_line)
{
    *has_line = true;
    for (int e = 0; e < a->evals; e++) {
        if (!*has_line)
            return fv_fail(c->ctx, FV_ERR_TRUNCATED, "plan: %d of %d evaluations", e, a->evals);
        FV_TRY(read_evaluation(c, x, a, e, has_line));
    }
    fvi_accel_count(a);
    return a->anchor[0] ? FV_OK
                        : fv_fail(c->ctx, FV_ERR_FORMAT,
                                  "plan: the first evaluation must be computed in full");
}

static fv_status read_end(const cursor *c, const entry *x, bool has_line, const char *text)
{
    char want[9];
    if (!has_line)
        return fv_fail(c->ctx, FV_ERR_TRUNCATED, "plan: the last line is missing");
    if (!is_key(x, "end")) return bad(c, "more evaluations than announced");
    snprintf(want, sizeof want, "%08x", (unsigned)fv_crc32c(0, text, (size_t)(x->key - text)));
    if (x->value_bytes != 8 || memcmp(x->value, want, 8) != 0)
        return fv_fail(c->ctx, FV_ERR_CHECKSUM,
                       "plan: the checksum differs: the file is damaged or was edited");
    return c->at == c->end ? FV_OK : bad(c, "text after the end");
}

/* What the header says of a plan, into an empty one. */
static void take_header(fv_accel *a, const fv_accel *h)
{
    memcpy(a->model_hash, h->model_hash, sizeof a->model_hash);
    memcpy(a->mode, h->mode, sizeof a->mode);
    a->sampler = h->sampler;
    a->steps = h->steps;
    a->cfg = h->cfg;
    a->predicted_speedup = h->predicted_speedup;
    a->flop_ratio = h->flop_ratio;
    a->skip = h->skip;
    a->past_of_anchors = h->past_of_anchors;
    a->score = h->score;
}

fv_status fvi_accel_parse(fv_ctx *ctx, fv_accel **out, const char *text, size_t size)
{
    cursor c = { ctx, text, text + size, 0, 0 };
    entry x = { 0 };
    fv_accel head = { 0 }, *a;
    bool has_line = false;
    *out = NULL;
    FV_TRY(read_header(&c, &x, &head));
    /* The lines must exist before memory is taken for them. */
    if ((size_t)head.evals * 2 * (size_t)head.depth > size)
        return fv_fail(ctx, FV_ERR_TRUNCATED, "plan: the text is too short for %d evaluations",
                       head.evals);
    FV_TRY(fvi_accel_create(ctx, &a, head.evals, head.depth));
    take_header(a, &head);
    fv_status s = read_rows(&c, &x, a, &has_line);
    if (s == FV_OK) s = read_end(&c, &x, has_line, text);
    if (s == FV_OK) *out = a;
    else fv_accel_free(&a);
    return s;
}

fv_status fv_accel_read(fv_ctx *ctx, fv_accel **out, const fv_dit *d, const char *path)
{
    uint8_t *bytes;
    size_t size;
    *out = NULL;
    FV_TRY(fv_read_file(ctx, path, MAX_FILE, &bytes, &size));
    fv_status s = fvi_accel_parse(ctx, out, (const char *)bytes, size);
    fv_free(ctx, bytes);
    if (s == FV_OK && d && (memcmp((*out)->model_hash, d->hash, sizeof d->hash) != 0 ||
                            (*out)->depth != d->net.cfg.depth)) {
        fv_accel_free(out);
        s = fv_fail(ctx, FV_ERR_MODEL, "plan: made for another model: plan again with this one");
    }
    return s == FV_OK ? s : fv_fail_in(ctx, s, "%s", path);
}
