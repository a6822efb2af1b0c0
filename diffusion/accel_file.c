/* accel_file.c - plans as text (.fvplan).
 *
 *     fvplan 1
 *     model 4f0c...            SHA-256 of the model
 *     sampler euler            more "key value" lines; unknown keys are ignored
 *     ...
 *     0 FFFFFFFFFFFFFFFF       one line an evaluation, two characters a block: attention, MLP;
 *     1 ................       F computed in full, . reused
 *     end 1a2b3c4d             CRC32C of everything before this line
 * Lines starting with # are comments. The file is not trusted: a plan only says which of two safe
 * things to do, but its sizes decide allocations, so the text must be long enough for them. */
#include "soda.h"

#include <math.h>
#include <string.h>

#define MAX_FILE ((uint64_t)64 << 20)
#define MAX_DEPTH 256

/* ---- Plans as objects ----------------------------------------------------------------------- */

void fv_accel_free(fv_accel **aa)
{
    if (!aa || !*aa) return;
    fv_accel *a = *aa;
    *aa = NULL;
    void *mem[] = { a->action, a->weight, a->pruned, a->anchor, a->skipped, a->skip_weight };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(a->ctx, mem[i]);
    fv_free(a->ctx, a);
}

fv_status fvi_accel_create(fv_ctx *ctx, fv_accel **out, int evals, int depth)
{
    const size_t T = (size_t)evals, n = T * (size_t)depth * 2;
    *out = NULL;
    fv_accel *a = fv_calloc(ctx, 1, sizeof *a);
    if (!a) return FV_ERR_OOM;
    a->ctx = ctx;
    a->evals = evals;
    a->depth = depth;
    a->action = fv_calloc(ctx, n, 1); /* DIT_FULL */
    a->weight = fv_calloc(ctx, n, DIT_HISTORY * sizeof(float));
    a->pruned = fv_calloc(ctx, n, 1);
    a->anchor = fv_calloc(ctx, T, 1);
    a->skipped = fv_calloc(ctx, T, 1);
    a->skip_weight = fv_calloc(ctx, T, DIT_HISTORY * sizeof(float));
    if (!a->action || !a->weight || !a->pruned || !a->anchor || !a->skipped || !a->skip_weight) {
        fv_accel_free(&a);
        return FV_ERR_OOM;
    }
    *out = a;
    return FV_OK;
}

static int reach(const float *w)
{
    int n = DIT_HISTORY;
    while (n > 1 && w[n - 1] == 0.0f) n--;
    return n;
}

void fvi_accel_count(fv_accel *a)
{
    const size_t K = 2 * (size_t)a->depth;
    a->anchors = a->step_history = 0;
    a->history = 1;
    a->prunes = false;
    for (int e = 0; e < a->evals; e++) {
        bool is_full = !a->skipped[e];
        for (size_t k = 0; !a->skipped[e] && k < K; k++) {
            const size_t at = (size_t)e * K + k;
            const int action = a->action[at], n = reach(a->weight + at * DIT_HISTORY);
            is_full = is_full && action == DIT_FULL;
            a->prunes |= action == DIT_PRUNE;
            if ((action == DIT_LINEAR || action == DIT_PRUNE) && n > a->history) a->history = n;
        }
        const int n = reach(a->skip_weight + (size_t)e * DIT_HISTORY);
        if (a->skipped[e] && n > a->step_history) a->step_history = n;
        a->anchor[e] = is_full;
        a->anchors += is_full;
    }
}

dit_row dit_accel_row(const fv_accel *a, int e)
{
    dit_row row = { NULL, NULL, NULL, NULL };
    if (!a) return row;
    const size_t at = (size_t)e * 2 * (size_t)a->depth;
    row.action = a->action + at;
    row.weight = a->weight + at * DIT_HISTORY;
    row.pruned = a->pruned + at;
    if (a->skipped[e]) row.skip_weight = a->skip_weight + (size_t)e * DIT_HISTORY;
    return row;
}

void dit_runner_options_for(const fv_accel *a, dit_runner_options *o)
{
    if (!a) return;
    o->keep_outputs = true;
    o->history = a->history;
    o->step_history = a->step_history;
    o->skip = a->skip;
    o->prunes = a->prunes;
    o->score = a->score;
    o->probes = a->policy != NULL;
}

void fv_accel_get_info(const fv_accel *a, fv_accel_info *out)
{
    out->steps = a->evals;
    out->anchors = a->anchors;
    out->predicted_speedup = a->predicted_speedup;
    out->flop_ratio = a->flop_ratio;
    out->mode = a->mode;
}

const uint8_t *fv_accel_anchors(const fv_accel *a)
{
    return a->anchor;
}

/* ---- Writing -------------------------------------------------------------------------------- */

static void plan_text(fv_text *t, const fv_accel *a)
{
    const size_t K = 2 * (size_t)a->depth;
    char hash[65], row[2 * MAX_DEPTH + 1];
    fv_hex(a->model_hash, sizeof a->model_hash, hash);
    fv_text_printf(
        t, "fvplan 1\nmodel %s\nsampler %s\nsteps %d\nevaluations %d\nblocks %d\ncfg %.9g\n", hash,
        fv_sampler_name(a->sampler), a->steps, a->evals, a->depth, (double)a->cfg);
    fv_text_printf(t, "mode %s\nspeedup %.9g\nflop_ratio %.9g\n", a->mode, a->predicted_speedup,
                   a->flop_ratio);
    fv_text_printf(t, "# F computed in full, . reused; attention and MLP of each block\n");
    for (int e = 0; e < a->evals; e++) {
        for (size_t k = 0; k < K; k++)
            row[k] = a->action[(size_t)e * K + k] == DIT_REUSE ? '.' : 'F';
        row[K] = 0;
        fv_text_printf(t, "%d %s\n", e, row);
    }
}

fv_status fvi_accel_text(fv_ctx *ctx, const fv_accel *a, char **text, size_t *size)
{
    fv_text t;
    *text = NULL;
    if (a->depth > MAX_DEPTH)
        return fv_fail(ctx, FV_ERR_LIMIT, "plan: %d blocks, at most %d can be written", a->depth,
                       MAX_DEPTH);
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
    int line;
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
    if (!is_key(x, "cfg")) return FV_OK;
    FV_TRY(get_number(c, x, 0, 1000, &v));
    h->cfg = (float)v;
    return FV_OK;
}

static fv_status read_header(cursor *c, entry *x, fv_accel *h)
{
    bool has_hash = false;
    int version = 0;
    if (!next_line(c, x) || !is_key(x, "fvplan"))
        return fv_fail(c->ctx, FV_ERR_FORMAT, "plan: not a plan (.fvplan)");
    FV_TRY(get_int(c, x, 0, 1000000, &version));
    if (version != 1)
        return fv_fail(c->ctx, FV_ERR_VERSION, "plan: version %d, this library reads version 1",
                       version);
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

static fv_status read_rows(cursor *c, entry *x, fv_accel *a)
{
    const size_t K = 2 * (size_t)a->depth;
    for (int e = 0; e < a->evals; e++) {
        char number[16];
        const int n = snprintf(number, sizeof number, "%d", e);
        if (e > 0 && !next_line(c, x))
            return fv_fail(c->ctx, FV_ERR_TRUNCATED, "plan: %d of %d evaluations", e, a->evals);
        if (x->key_bytes != (size_t)n || memcmp(x->key, number, (size_t)n) != 0)
            return bad(c, "evaluations must be in order");
        if (x->value_bytes != K) return bad(c, "two characters a block are needed");
        for (size_t k = 0; k < K; k++) {
            if (x->value[k] != 'F' && x->value[k] != '.') return bad(c, "actions are F and .");
            a->action[(size_t)e * K + k] = x->value[k] == '.' ? DIT_REUSE : DIT_FULL;
        }
    }
    fvi_accel_count(a);
    return a->anchor[0] ? FV_OK
                        : fv_fail(c->ctx, FV_ERR_FORMAT,
                                  "plan: the first evaluation must be computed in full");
}

static fv_status read_end(cursor *c, entry *x, const char *text)
{
    char want[9];
    if (!next_line(c, x))
        return fv_fail(c->ctx, FV_ERR_TRUNCATED, "plan: the last line is missing");
    if (!is_key(x, "end")) return bad(c, "more evaluations than announced");
    snprintf(want, sizeof want, "%08x", (unsigned)fv_crc32c(0, text, (size_t)(x->key - text)));
    if (x->value_bytes != 8 || memcmp(x->value, want, 8) != 0)
        return fv_fail(c->ctx, FV_ERR_CHECKSUM,
                       "plan: the checksum differs: the file is damaged or was edited");
    return c->at == c->end ? FV_OK : bad(c, "text after the end");
}

fv_status fvi_accel_parse(fv_ctx *ctx, fv_accel **out, const char *text, size_t size)
{
    cursor c = { ctx, text, text + size, 0 };
    entry x = { 0 };
    fv_accel head = { 0 }, *a;
    *out = NULL;
    FV_TRY(read_header(&c, &x, &head));
    /* The lines must exist before memory is taken for them. */
    if ((size_t)head.evals * 2 * (size_t)head.depth > size)
        return fv_fail(ctx, FV_ERR_TRUNCATED, "plan: the text is too short for %d evaluations",
                       head.evals);
    FV_TRY(fvi_accel_create(ctx, &a, head.evals, head.depth));
    head.ctx = ctx;
    head.action = a->action;
    head.anchor = a->anchor;
    *a = head;
    fv_status s = read_rows(&c, &x, a);
    if (s == FV_OK) s = read_end(&c, &x, text);
    if (s == FV_OK)
        *out = a;
    else
        fv_accel_free(&a);
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
    if (s == FV_OK && (memcmp((*out)->model_hash, d->hash, sizeof d->hash) != 0 ||
                       (*out)->depth != d->net.cfg.depth)) {
        fv_accel_free(out);
        s = fv_fail(ctx, FV_ERR_MODEL, "plan: made for another model: plan again with this one");
    }
    return s == FV_OK ? s : fv_fail_in(ctx, s, "%s", path);
}
