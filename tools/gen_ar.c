/* gen_ar.c - gen with an autoregressive model: way of decoding, pictures, what is said of them.
 *
 * --mode names the way. --speedup R takes the measured one that loses least of those that are R
 * times as fast (fv_ar_choose_point); a model that was not measured has lossless speculative
 * decoding only, and what that brings here is asked of the cost model, which sees the machine.
 *
 * Without both, pictures are those of decoding token by token, made the way that fv_ar_auto names:
 * the fastest measured one, else speculation that measures passes first. */
#include "ar_counters.h"
#include "gen_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SLACK 0.97 /* of --speedup, as measured points have it */
#define TRIAL 8    /* pictures that show what speculation brings; as many as share a pass */

/* ---- Options --------------------------------------------------------------------------------- */

static int refuse_dit_options(const gen_args *a)
{
    const struct {
        bool is_given;
        const char *name, *lacks;
    } option[] = {
        {a->sampling.steps != 0, "--steps", "sampling steps"},
        {a->sampling.sampler != NULL, "--sampler", "sampler"},
        {a->accel != NULL, "--accel", "features to reuse; see --mode"},
        {a->guard > 0, "--guard", "plan"},
        {a->polish != 0, "--polish", "plan"},
        {a->cache_mem != NULL, "--cache-mem", "features to reuse"},
        {a->table != NULL, "--table", "sensitivity table"},
        {a->plan_in != NULL, "--plan-in", "plan; see --mode"},
        {a->plan_out != NULL, "--plan-out", "plan; see --mode"},
        {a->decoder != NULL, "--decoder", "autoencoder; see --tokenizer"},
    };
    for (size_t i = 0; i < sizeof option / sizeof *option; i++)
        if (option[i].is_given)
            return cli_fail(CLI_USAGE, "%s: an autoregressive model has no %s", option[i].name,
                            option[i].lacks);
    return CLI_OK;
}

static fv_dtype kv_type(const char *name)
{
    return !name || strcmp(name, "f32") == 0 ? FV_F32 : name[0] == 'b' ? FV_BF16 : FV_I8;
}

static int set_method(gen_run *r, const char *text, const char *what)
{
    const fv_status s = fv_ar_method_parse(r->ctx, text, &r->ar.o.mode, &r->ar.expert);
    r->ar.o.expert = &r->ar.expert;
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, what);
}

static int check(gen_run *r)
{
    const gen_args *a = r->a;
    const fv_ar_generate_options init = FV_AR_GENERATE_OPTIONS_INIT;
    fv_ar_generate_options *o = &r->ar.o;
    const int code = refuse_dit_options(a);
    if (code != CLI_OK) return code;
    if (a->mode && a->speedup > 0)
        return cli_fail(CLI_USAGE, "--speedup and --mode exclude each other");
    *o = init;
    o->seed = a->seed;
    o->cfg = (float)a->sampling.cfg;
    o->kv = kv_type(a->kv);
    o->temperature = a->temperature > 0 ? (float)a->temperature : 0;
    o->greedy = a->temperature == 0;
    o->top_k = a->top_k == 0 ? -1 : a->top_k > 0 ? a->top_k : 0;
    o->top_p = (float)a->top_p;
    return a->mode ? set_method(r, a->mode, "--mode") : CLI_OK;
}

/* ---- Model ----------------------------------------------------------------------------------- */

static int check_caption(const gen_run *r)
{
    const bool wants = r->model.classes == 0;
    if (r->a->caption && !wants)
        return cli_fail(CLI_USAGE, "--caption: %s generates from classes", r->model.label);
    if (!r->a->caption && wants)
        return cli_fail(CLI_USAGE,
                        "%s generates from captions: give features of a text encoder "
                        "with --caption FILE",
                        r->model.label);
    return CLI_OK;
}

static int open_weights(gen_run *r, fv_dtype precision)
{
    const fv_ar_mode mode = r->a->mode ? r->ar.o.mode : FV_AR_AUTO;
    const bool no_draft = mode == FV_AR_PLAIN || mode == FV_AR_JACOBI;
    return gen_open_weights(r->ctx, &r->model, r->a->tokenizer, precision, no_draft);
}

static int open_model(gen_run *r)
{
    const fv_ar_mode mode = r->a->mode ? r->ar.o.mode : FV_AR_AUTO;
    const int code = open_weights(r, cli_precision(r->ctx, &r->a->common));
    if (code != CLI_OK) return code;
    if ((mode == FV_AR_SD || mode == FV_AR_VVS) && !r->model.ar_info.has_draft)
        return cli_fail(CLI_BAD_INPUT,
                        "%s: it has no draft head, which --mode %s needs; ar and "
                        "jacobi do without",
                        r->model.label, fv_ar_mode_name(mode));
    if (!r->model.ar_info.has_tokenizer)
        return cli_fail(CLI_BAD_INPUT,
                        "%s: it has no tokenizer; give the one that it was trained "
                        "with: --tokenizer FILE",
                        r->model.label);
    return check_caption(r);
}

/* The tensor called caption, or the only one of the file. */
static bool find_features(const fv_model *file, fv_tensor *out)
{
    if (fv_model_find(file, "caption", out)) return true;
    if (fv_model_count(file) != 1) return false;
    fv_model_tensor(file, 0, out);
    return true;
}

static int take_features(gen_run *r, const fv_model *file)
{
    const fv_ar_info *info = &r->model.ar_info;
    gen_ar_work *w = &r->ar;
    fv_tensor t;
    if (!find_features(file, &t))
        return cli_fail(CLI_BAD_INPUT, "%s: no tensor \"caption\", and more than one",
                        r->a->caption);
    if (t.ndim != 2 || t.dim[1] != info->caption_width || t.dim[0] < 1 ||
        t.dim[0] > info->caption_tokens)
        return cli_fail(CLI_BAD_INPUT, "%s: features [n, %d] are needed, n from 1 to %d",
                        r->a->caption, info->caption_width, info->caption_tokens);
    const int64_t n = fv_tensor_count(&t);
    w->features = malloc((size_t)n * sizeof *w->features);
    w->caption = calloc((size_t)r->count, sizeof *w->caption);
    w->caption_tokens = calloc((size_t)r->count, sizeof *w->caption_tokens);
    if (!w->features || !w->caption || !w->caption_tokens)
        return cli_fail(CLI_FAILED, "out of memory");
    const fv_status s = fv_convert(r->ctx, t.dtype, t.data, n, FV_F32, w->features);
    if (s != FV_OK) return cli_report(r->ctx, s, r->a->caption);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(w->features[i]))
            return cli_fail(CLI_BAD_INPUT, "%s: a feature is not finite", r->a->caption);
    for (int i = 0; i < r->count; i++) {
        w->caption[i] = w->features;
        w->caption_tokens[i] = (int)t.dim[0];
    }
    w->o.captions = w->caption;
    w->o.caption_tokens = w->caption_tokens;
    return CLI_OK;
}

static int read_caption(gen_run *r)
{
    fv_model *file = NULL;
    const fv_status s = fv_model_open(r->ctx, &file, r->a->caption, NULL);
    const int code = s == FV_OK ? take_features(r, file) : cli_report(r->ctx, s, r->a->caption);
    fv_model_close(&file);
    return code;
}

/* ---- Way of decoding ------------------------------------------------------------------------- */

static int out_of_reach(const gen_run *r, double most)
{
    return cli_fail(CLI_FAILED,
                    "--speedup %gx: lossless decoding reaches about %.2fx here; "
                    "measure faster ways with: fovea bench ar %s --store OUT",
                    r->a->speedup, most > 1 ? most : 1.0, r->model.path);
}

/* Does the cost model, which has seen pictures of this run, say that it is as fast as asked? */
static int check_expected(const gen_run *r)
{
    const double most = r->ar.stats.switched_off ? 1.0 : r->ar.stats.expected_speedup;
    return most < SLACK * r->a->speedup ? out_of_reach(r, most) : CLI_OK;
}

/* Has --speedup been asked of a model without measured points? */
static bool is_unmeasured(const gen_run *r) { return r->a->speedup > 1 && !r->ar.point.method; }

/* Many pictures: what is out of reach is refused after the first ones. */
static int try_some(gen_run *r)
{
    fv_ar_generate_options o = r->ar.o;
    o.count = TRIAL;
    const fv_status s = fv_ar_generate_tokens(r->ctx, r->model.ar, &o, r->ar.tokens, &r->ar.stats);
    return s == FV_OK ? check_expected(r) : cli_report(r->ctx, s, r->model.label);
}

static void note_point(const gen_run *r)
{
    const fv_ar_point *p = &r->ar.point;
    fv_ar_point plain;
    fv_ar_get_point(r->model.ar, 0, &plain);
    const char *weights = fv_weights_name(p->weights);
    if (p->is_lossless)
        cli_note("--speedup %gx: %s in %s, lossless, measured %.2fx, %.2f tokens a pass",
                 r->a->speedup, p->method, weights, (double)p->speedup,
                 (double)p->tokens_per_pass);
    else
        cli_note("--speedup %gx: %s in %s, measured %.2fx, %.2f tokens a pass; accuracy %.1f %% "
                 "instead of %.1f %%, distance %.3g instead of %.3g",
                 r->a->speedup, p->method, weights, (double)p->speedup, (double)p->tokens_per_pass,
                 100 * (double)p->accuracy, 100 * (double)plain.accuracy, (double)p->distance,
                 (double)plain.distance);
}

/* The weights of a point may be of another type than those that are open. */
static int take_point(gen_run *r, int i)
{
    fv_ar_point *p = &r->ar.point;
    fv_ar_get_point(r->model.ar, i, p);
    if (p->weights != r->model.precision) {
        fv_ar_close(&r->model.ar);
        fv_model_close(&r->model.decoder);
        const int code = open_weights(r, p->weights);
        if (code != CLI_OK) return code;
        fv_ar_get_point(r->model.ar, i, p);
    }
    return set_method(r, p->method, r->model.label);
}

/* Of all points, or of those with the weights that --precision names. */
static int choose_point(gen_run *r)
{
    const fv_dtype *only = r->a->common.precision ? &r->model.precision : NULL;
    fv_ar_point fastest;
    int reached;
    const int i = fv_ar_choose_point(r->model.ar, r->a->speedup, only, &reached);
    if (i < 0)
        return cli_fail(CLI_FAILED, "--speedup %gx: nothing was measured with --precision %s",
                        r->a->speedup, r->a->common.precision);
    fv_ar_get_point(r->model.ar, i, &fastest);
    if (!reached)
        return cli_fail(CLI_FAILED,
                        "--speedup %gx: out of reach; the maximum that was measured is "
                        "%.2fx (%s)",
                        r->a->speedup, (double)fastest.speedup, fastest.method);
    const int code = take_point(r, i);
    if (code == CLI_OK) note_point(r);
    return code;
}

static int choose_lossless(gen_run *r)
{
    const fv_status s = fv_ar_auto(r->ctx, r->model.ar, &r->ar.o.mode, &r->ar.expert);
    r->ar.o.expert = &r->ar.expert;
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, r->model.label);
}

static int choose_way(gen_run *r)
{
    if (r->a->mode) return CLI_OK;
    if (r->a->speedup > 0 && fv_ar_point_count(r->model.ar) > 0) return choose_point(r);
    if (r->a->speedup > 1 && !r->model.ar_info.has_draft) return out_of_reach(r, 1.0);
    return choose_lossless(r);
}

static int prepare(gen_run *r)
{
    gen_ar_work *w = &r->ar;
    const size_t each = (size_t)r->model.ar_info.tokens;
    int code = choose_way(r);
    if (code != CLI_OK) return code;
    if (r->a->has_compare && w->o.mode == FV_AR_PLAIN && w->point.method)
        return cli_fail(CLI_USAGE, "--compare: what --speedup takes here is decoding token by token "
                                   "with weights of another type, and ways with the same weights "
                                   "are compared");
    if (r->a->has_compare && w->o.mode == FV_AR_PLAIN)
        return cli_fail(CLI_USAGE, "--compare: this is decoding token by token itself; choose "
                                   "another way with --mode or --speedup");
    if (fv_ar_method_text(r->ctx, w->o.mode, &w->expert, &w->method) != FV_OK)
        return cli_report(r->ctx, FV_ERR_OOM, NULL);
    w->o.count = r->count;
    w->o.classes = r->classes;
    if (r->a->caption && (code = read_caption(r)) != CLI_OK) return code;
    w->tokens = calloc((size_t)r->count, each * sizeof *w->tokens);
    if (r->a->has_compare) w->plain_tokens = calloc((size_t)r->count, each * sizeof *w->tokens);
    if (!w->tokens || (r->a->has_compare && !w->plain_tokens))
        return cli_fail(CLI_FAILED, "out of memory");
    return is_unmeasured(r) && r->count > TRIAL ? try_some(r) : CLI_OK;
}

/* ---- Pictures -------------------------------------------------------------------------------- */

static fv_status make(void *user, bool is_plain, fv_image *images, double *seconds)
{
    gen_run *r = user;
    gen_ar_work *w = &r->ar;
    fv_ar_generate_options o = w->o;
    int32_t *tokens = is_plain ? w->plain_tokens : w->tokens;
    fv_ar_stats *stats = is_plain ? &w->plain : &w->stats;
    if (is_plain) o.mode = FV_AR_PLAIN;
    fv_status s = fv_ar_generate_tokens(r->ctx, r->model.ar, &o, tokens, stats);
    if (s != FV_OK) return s;
    const double start = cli_now();
    s = fv_ar_decode_tokens(r->ctx, r->model.ar, o.count, tokens, images);
    stats->decode_seconds = cli_now() - start;
    stats->seconds += stats->decode_seconds;
    *seconds = stats->seconds;
    return s;
}

static double share_of_equal(const int32_t *a, const int32_t *b, size_t n)
{
    size_t equal = 0;
    for (size_t i = 0; i < n; i++) equal += a[i] == b[i];
    return (double)equal / (double)n;
}

/* What does not fit the model is found when it is used. */
static int report_run(const gen_run *r, fv_status s)
{
    const bool is_mode = r->a->mode && cli_exit_code(s) == CLI_USAGE;
    return cli_report(r->ctx, s, is_mode ? "--mode" : r->model.label);
}

static int generate(gen_run *r)
{
    gen_ar_work *w = &r->ar;
    const gen_pair pair = {r->count, make, r};
    const size_t n = (size_t)r->count * (size_t)r->model.ar_info.tokens;
    if (r->a->has_compare) {
        const int code = gen_compare(r->ctx, &r->model, &pair, r->images, &r->comparison,
                                     r->a->sheet ? &r->sheet : NULL);
        r->seconds = r->comparison.fast_seconds;
        w->equal_tokens = share_of_equal(w->tokens, w->plain_tokens, n);
        return code;
    }
    const fv_status s = make(r, false, r->images, &r->seconds);
    if (s != FV_OK) return report_run(r, s);
    return is_unmeasured(r) && r->count <= TRIAL ? check_expected(r) : CLI_OK;
}

static int finish(gen_run *r)
{
    (void)r;
    return CLI_OK;
}

/* ---- What is said about them ----------------------------------------------------------------- */

/* What counts: given, or the model's. */
typedef struct sampling {
    double cfg, temperature, top_p;
    int top_k; /* 0 = all */
} sampling;

static sampling sampling_of(const gen_run *r)
{
    const fv_ar_generate_options *o = &r->ar.o;
    const fv_ar_info *i = &r->model.ar_info;
    sampling s = {gen_plain_number(o->cfg > 0 ? o->cfg : i->cfg),
                  gen_plain_number(o->temperature > 0 ? o->temperature : i->temperature),
                  gen_plain_number(o->top_p > 0 ? o->top_p : i->top_p), i->top_k};
    if (o->greedy) s.temperature = 0;
    if (o->top_k) s.top_k = o->top_k > 0 ? o->top_k : 0;
    return s;
}

/* How many tokens a pass brings follows the machine where the tree does; then the picture does not
 * say it, and its bytes are the same everywhere. */
static void describe(const gen_run *r, gen_texts *t)
{
    const gen_ar_work *w = &r->ar;
    const sampling s = sampling_of(r);
    const char *precision = fv_dtype_name(r->model.precision);
    const bool is_fixed = !(w->expert.is_adaptive && w->o.mode == FV_AR_SD);
    char pass[48] = "";
    if (is_fixed) snprintf(pass, sizeof pass, ", Tokens per pass: %.3f", w->stats.tokens_per_pass);
    snprintf(t->human, sizeof t->human,
             "%s\nMode: %s, CFG scale: %g, Seed: %s, Size: %dx%d, Temperature: %g, Top-k: %d, "
             "Top-p: %g, Model: %s, Model hash: %.10s, Precision: %s%s, Version: %s",
             t->class_text, w->method, s.cfg, t->seed, r->model.image_size, r->model.image_size,
             s.temperature, s.top_k, s.top_p, t->name, r->model.hash, precision, pass, t->software);
    gen_text(t, "fovea.mode", "%s", w->method);
    gen_text(t, "fovea.cfg", "%g", s.cfg);
    gen_text(t, "fovea.temperature", "%g", s.temperature);
    gen_text(t, "fovea.top_k", "%d", s.top_k);
    gen_text(t, "fovea.top_p", "%g", s.top_p);
    gen_text(t, "fovea.speedup", "%g", r->a->speedup > 1 ? r->a->speedup : 1.0);
    gen_text(t, "fovea.lossless", "%s", w->stats.is_lossless ? "yes" : "no");
    gen_text(t, "fovea.precision", "%s", precision);
    gen_text(t, "fovea.kv", "%s", fv_dtype_name(w->o.kv));
    if (is_fixed) gen_text(t, "fovea.tokens_per_pass", "%.3f", w->stats.tokens_per_pass);
}

static double rows_per_pass(const fv_ar_stats *s)
{
    return s->verifies ? (double)s->target_rows / (double)s->verifies : 0;
}

static void print_json_times(const fv_ar_stats *s, cli_json *j)
{
    cli_json_number(j, "prefill_seconds", s->prefill_seconds);
    cli_json_number(j, "draft_seconds", s->draft_seconds);
    cli_json_number(j, "verify_seconds", s->verify_seconds);
    cli_json_number(j, "select_seconds", s->select_seconds);
    cli_json_number(j, "decode_seconds", s->decode_seconds);
}

/* Of the tokens alone, as measured points have it. */
static double token_speedup(const gen_run *r)
{
    const fv_ar_stats *fast = &r->ar.stats, *plain = &r->ar.plain;
    return (plain->seconds - plain->decode_seconds) / (fast->seconds - fast->decode_seconds);
}

static void print_json(const gen_run *r, cli_json *j)
{
    const gen_ar_work *w = &r->ar;
    const fv_ar_stats *st = &w->stats;
    const sampling s = sampling_of(r);
    const bool c = r->a->has_compare, has_point = w->point.method != NULL;
    cli_json_string(j, "mode", w->method);
    cli_json_number(j, "cfg", s.cfg);
    cli_json_number(j, "temperature", s.temperature);
    cli_json_number(j, "top_k", s.top_k);
    cli_json_number(j, "top_p", s.top_p);
    cli_json_string(j, "kv", fv_dtype_name(w->o.kv));
    cli_json_number(j, "speedup_measured", c ? r->comparison.speedup : NAN);
    cli_json_number(j, "speedup_tokens", c ? token_speedup(r) : NAN);
    cli_json_number(j, "speedup_stored", has_point ? (double)w->point.speedup : NAN);
    cli_json_number(j, "speedup_expected", st->expected_speedup > 0 ? st->expected_speedup : NAN);
    cli_json_number(j, "accuracy_stored", has_point ? (double)w->point.accuracy : NAN);
    cli_json_number(j, "distance_stored", has_point ? (double)w->point.distance : NAN);
    cli_json_number(j, "equal_tokens", c ? w->equal_tokens : NAN);
    cli_json_bool(j, "lossless", st->is_lossless);
    cli_json_bool(j, "switched_off", st->switched_off);
    cli_json_number(j, "tokens_per_pass", st->tokens_per_pass);
    cli_json_number(j, "tokens_per_pass_exact", c ? w->plain.tokens_per_pass : NAN);
    cli_json_number(j, "rows_per_pass", rows_per_pass(st));
    ar_json_counters(j, st);
    print_json_times(st, j);
    cli_json_u64(j, "weight_bytes", st->weight_bytes);
    cli_json_u64(j, "cache_bytes", st->cache_bytes);
}

static void about(const gen_run *r, char *out, size_t size)
{
    snprintf(out, size, "%s, %.2f tokens a pass", r->ar.method, r->ar.stats.tokens_per_pass);
}

static void print_accepted(const fv_ar_stats *s)
{
    char text[400] = "";
    size_t used = 0;
    for (int i = 0; i <= FV_AR_STATS_DEPTH; i++)
        if (s->accepted[i] && used < sizeof text)
            used +=
                (size_t)snprintf(text + used, sizeof text - used, "%s%d%s: %lld", used ? ", " : "",
                                 i, i == FV_AR_STATS_DEPTH ? "+" : "", (long long)s->accepted[i]);
    if (used) cli_detail("steps by guesses accepted: %s", text);
}

static void print_details(const gen_run *r)
{
    const gen_ar_work *w = &r->ar;
    const fv_ar_stats *s = &w->stats;
    if (r->a->has_compare && r->out != GEN_OUT_STDOUT)
        printf("tokens %.2fx, %.2f a pass (%.2f), %.4g %% of them equal\n", token_speedup(r),
               s->tokens_per_pass, w->plain.tokens_per_pass, 100 * w->equal_tokens);
    if (s->switched_off) cli_detail("guessing ahead does not pay here and was switched off");
    else if (s->expected_speedup > 0)
        cli_detail("by costs %.2fx as fast as token by token", s->expected_speedup);
    cli_detail("%lld tokens, %lld prefills, %lld passes of %.1f rows, %lld skipped, %lld draft "
               "passes",
               (long long)s->tokens, (long long)s->prefills, (long long)s->verifies,
               rows_per_pass(s), (long long)s->skips, (long long)s->draft_passes);
    print_accepted(s);
    ar_talk_of_guesses(s, "");
    cli_detail("prefill %.3f s, drafting %.3f s, checking %.3f s, choosing %.3f s, pixels %.3f s",
               s->prefill_seconds, s->draft_seconds, s->verify_seconds, s->select_seconds,
               s->decode_seconds);
    cli_detail("weights %.1f MiB, keys and values %.1f MiB, resident %.1f MiB",
               (double)s->weight_bytes / GEN_MIB, (double)s->cache_bytes / GEN_MIB,
               (double)cli_resident_peak() / GEN_MIB);
}

static void end(gen_run *r)
{
    gen_ar_work *w = &r->ar;
    fv_free(r->ctx, w->method);
    free(w->tokens);
    free(w->plain_tokens);
    free(w->caption);
    free(w->caption_tokens);
    free(w->features);
}

const gen_kind gen_kind_ar = {check,    open_model, prepare, generate,      finish,
                              describe, print_json, about,   print_details, end};
