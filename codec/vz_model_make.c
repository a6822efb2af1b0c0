/* vz_model_make.c - from a trained network to a model file: vocabulary, calibration, the integer
 * network, and its state after the first source.
 *
 * The state comes from the integer network, so that a stream goes on from it as if it had read those
 * bytes. Calibration reads the first CALIBRATION tokens of each source; the modality of a
 * source that names none is found on its first GUESS tokens. */
#include "nn_export.h"

#include <math.h>
#include <string.h>

#define CALIBRATION ((size_t)12288)
#define GUESS ((size_t)1024)
#define PRIME_TOKENS                                                                               \
    ((size_t)65536) /* the last ones of a source: a state forgets what was before */

typedef struct maker {
    fv_ctx *ctx;
    const vz_make *o;
    oz_net net;
    nn_float *f;
    vz_model m;
    oz_tokenizer tok;
    int32_t *paths; /* nn_vocab_paths */
    int32_t *calibration;
    size_t calibrated;
    int32_t prefix[VZ_MODEL_PRIMES]; /* token that says the modality of a source */
    void *memory; /* of the state */
    uint8_t *state;
} maker;

static fv_status check(fv_ctx *ctx, const vz_make *o)
{
    if (!o->name || strlen(o->name) >= VZ_MODEL_NAME)
        return fv_fail(ctx, FV_ERR_ARG, "model: its name is missing or longer than 31 bytes");
    if (o->sources < 1 || o->sources > VZ_MODEL_PRIMES)
        return fv_fail(ctx, FV_ERR_ARG, "model: %d sources, 1 to %d can be", o->sources,
                       VZ_MODEL_PRIMES);
    if (o->adapt_rate < 0 || o->adapt_rate > 24)
        return fv_fail(ctx, FV_ERR_ARG, "model: rate of adaptation %d, 0 to 24 can be",
                       o->adapt_rate);
    for (int i = 0; i < o->sources; i++) {
        const vz_prime_source *s = &o->source[i];
        if (s->text_bytes > VZ_MODEL_PRIMING || (unsigned)s->kind >= VZ_KINDS)
            return fv_fail(ctx, FV_ERR_ARG,
                           "model: source %d is of no kind, or its text is larger than 16 MiB", i);
    }
    return FV_OK;
}

static fv_status open_net(maker *k, const fv_model *from)
{
    oz_config c;
    FV_TRY(oz_config_read(k->ctx, from, &c));
    FV_TRY(oz_net_create(k->ctx, &k->net, &c));
    FV_TRY(fv_params_alloc(k->net.params));
    FV_TRY(fv_params_load(k->net.params, from, ""));
    FV_TRY(nn_float_open(k->ctx, &k->f, &k->net));
    if (c.outputs == 256) FV_TRY(nn_vocab_bytes(k->ctx, &k->m.vocab));
    else FV_TRY(nn_vocab_load(k->ctx, &k->m.vocab, from));
    k->tok = c.outputs == 256 ? oz_bytes : oz_pieces(&k->m.vocab);
    if (k->m.vocab.size == c.outputs) return FV_OK;
    return fv_fail(k->ctx, FV_ERR_MODEL,
                   "model: the network has %d outputs, its vocabulary %d pieces", c.outputs,
                   k->m.vocab.size);
}

/* ---- Which modality a source is of ----------------------------------------------------------- */

/* Bit m: the network was trained on modality m; all if it does not say. */
static uint32_t modalities_of(const maker *k, const fv_model *from)
{
    const char *recipe = fv_model_meta(from, "fovea.train.recipe");
    uint32_t found = 0;
    for (int i = 0; i < OZ_MODALITIES; i++) {
        char word[32];
        snprintf(word, sizeof word, "%s:", oz_modality_name[i]);
        if (recipe && strstr(recipe, word)) found |= 1u << i;
    }
    const int known = k->net.cfg.vocab - k->tok.outputs;
    const uint32_t all = known < OZ_MODALITIES ? (1u << known) - 1 : (1u << OZ_MODALITIES) - 1;
    return found & all ? found & all : all;
}

/* Nats that the network needs for the tokens. */
static double cost_of(maker *k, int32_t prefix, const uint16_t *token, size_t count)
{
    const int depth = k->m.vocab.max_depth;
    double sum = 0;
    nn_float_reset(k->f);
    nn_float_step(k->f, prefix);
    for (size_t t = 0; t < count; t++) {
        const int32_t *path = k->paths + (size_t)token[t] * (size_t)depth;
        for (int d = 0; d < k->m.vocab.depth[token[t]]; d++) {
            const double x = nn_float_logit(k->f, path[d] >> 1);
            sum += log1p(exp(path[d] & 1 ? -x : x));
        }
        nn_float_step(k->f, token[t]);
    }
    return sum;
}

/* Tokens of a source; the caller frees them. */
static fv_status tokens_of(const maker *k, const vz_prime_source *s, uint16_t **out, size_t *count)
{
    *out = fv_calloc(k->ctx, s->size, sizeof **out);
    if (!*out) return FV_ERR_OOM;
    *count = oz_encode(&k->tok, s->bytes, s->size, *out);
    return FV_OK;
}

static fv_status guess(maker *k, const vz_prime_source *s, uint32_t candidates, int32_t *out)
{
    uint16_t *token;
    size_t count;
    double best = INFINITY;
    FV_TRY(tokens_of(k, s, &token, &count));
    for (int i = 0; i < OZ_MODALITIES; i++) {
        const int32_t prefix = k->tok.outputs + i;
        if (!(candidates >> i & 1)) continue;
        const double cost = cost_of(k, prefix, token, count < GUESS ? count : GUESS);
        if (cost >= best) continue;
        best = cost;
        *out = prefix;
    }
    fv_free(k->ctx, token);
    return best < INFINITY ? FV_OK
                           : fv_fail(k->ctx, FV_ERR_MODEL, "model: the network has no prefixes");
}

static fv_status find_prefixes(maker *k, const fv_model *from)
{
    const uint32_t candidates = modalities_of(k, from);
    for (int s = 0; s < k->o->sources; s++) {
        const vz_prime_source *source = &k->o->source[s];
        int m = 0;
        if (source->size == 0) continue;
        if (!source->modality) {
            FV_TRY(guess(k, source, candidates, &k->prefix[s]));
            continue;
        }
        while (m < OZ_MODALITIES && strcmp(source->modality, oz_modality_name[m]) != 0) m++;
        k->prefix[s] = k->tok.outputs + m;
        if (m == OZ_MODALITIES || k->prefix[s] >= k->net.cfg.vocab)
            return fv_fail(k->ctx, FV_ERR_UNKNOWN, "model: the network knows no modality \"%.40s\"",
                           source->modality);
    }
    return FV_OK;
}

/* ---- The network and its state --------------------------------------------------------------- */

static fv_status calibrate(maker *k)
{
    k->calibration =
        fv_calloc(k->ctx, (size_t)k->o->sources * (CALIBRATION + 1), sizeof *k->calibration);
    if (!k->calibration) return FV_ERR_OOM;
    for (int i = 0; i < k->o->sources; i++) {
        uint16_t *token;
        size_t count;
        if (k->o->source[i].size == 0) continue;
        k->calibration[k->calibrated++] = k->prefix[i];
        FV_TRY(tokens_of(k, &k->o->source[i], &token, &count));
        for (size_t t = 0; t < count && t < CALIBRATION; t++)
            k->calibration[k->calibrated++] = token[t];
        fv_free(k->ctx, token);
    }
    return nn_export(k->ctx, &k->m.net, k->f, k->calibration, k->calibrated);
}

/* State after all of a source. */
static fv_status prime(maker *k, int i)
{
    const vz_prime_source *s = &k->o->source[i];
    nn_int_state st;
    uint16_t *token;
    size_t count;
    FV_TRY(tokens_of(k, s, &token, &count));
    nn_int_state_init(&st, k->m.net, k->memory, false);
    nn_int_step(&st, k->prefix[i]);
    for (size_t t = count > PRIME_TOKENS ? count - PRIME_TOKENS : 0; t < count; t++)
        nn_int_step(&st, token[t]);
    nn_int_state_save(&st, k->state);
    fv_free(k->ctx, token);
    k->m.prime[i].state = k->state;
    return fv_report(k->ctx, "priming", 1, 1,
                     oz_modality_name[k->prefix[i] - k->tok.outputs]);
}

static fv_status make_net(maker *k, const fv_model *from)
{
    const vz_make *o = k->o;
    FV_TRY(open_net(k, from));
    k->paths = fv_calloc(k->ctx, (size_t)k->m.vocab.size * (size_t)k->m.vocab.max_depth,
                         sizeof *k->paths);
    if (!k->paths) return FV_ERR_OOM;
    nn_vocab_paths(&k->m.vocab, k->paths);
    FV_TRY(find_prefixes(k, from));
    FV_TRY(calibrate(k));
    if (o->adapt_rate) k->m.net->adapt_rate = o->adapt_rate;
    k->memory = fv_calloc(k->ctx, 1, nn_int_state_bytes(k->m.net, false));
    k->state = fv_calloc(k->ctx, 1, nn_int_state_saved_bytes(&k->m.net->cfg));
    if (!k->memory || !k->state) return FV_ERR_OOM;
    for (int i = 0; i < o->sources; i++)
        if (o->source[i].size > 0) return prime(k, i);
    return FV_OK;
}

fv_status vz_model_make(fv_ctx *ctx, const fv_model *from, const vz_make *o, vz_buf *out)
{
    maker k = {.ctx = ctx, .o = o, .m = {.id = o->id, .primes = o->sources}};
    fv_status s = check(ctx, o);
    if (s != FV_OK) return s;
    memcpy(k.m.name, o->name, strlen(o->name));
    for (int i = 0; i < o->sources; i++)
        k.m.prime[i] = (vz_model_prime){o->source[i].kind, NULL, o->source[i].text,
                                        o->source[i].text_bytes};
    if (from) s = make_net(&k, from);
    if (s == FV_OK) s = vz_model_write(ctx, &k.m, out);
    fv_free(ctx, k.state);
    fv_free(ctx, k.memory);
    fv_free(ctx, k.calibration);
    fv_free(ctx, k.paths);
    nn_int_model_destroy(ctx, &k.m.net);
    nn_vocab_close(&k.m.vocab);
    nn_float_close(&k.f);
    oz_net_destroy(&k.net);
    return s;
}
