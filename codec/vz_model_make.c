/* vz_model_make.c - from a trained network to a model file: vocabulary, calibration, the integer
 * network, and the state of each kind after its typical bytes.
 *
 * The states come from the integer network, so that a stream goes on from them as if it had read
 * those bytes. Calibration reads the first CALIBRATION tokens of each source. */
#include "nn_export.h"

#include <string.h>

#define CALIBRATION ((size_t)12288)
#define PRIME_TOKENS                                                                               \
    ((size_t)65536) /* the last ones of a source: a state forgets what was before */

typedef struct maker {
    fv_ctx *ctx;
    const vz_make *o;
    oz_net net;
    nn_float *f;
    vz_model m;
    oz_tokenizer tok;
    int32_t *calibration;
    size_t calibrated;
    void *memory; /* of the state */
    uint8_t *states;
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
        if (s->size == 0 || s->keep > VZ_MODEL_PRIMING || (unsigned)s->kind >= VZ_KINDS)
            return fv_fail(ctx, FV_ERR_ARG,
                           "model: source %d is empty, of no kind, or keeps more than 16 MiB", i);
        for (int k = 0; k < i; k++)
            if (o->source[k].kind == s->kind)
                return fv_fail(ctx, FV_ERR_ARG, "model: sources %d and %d are of one kind", k, i);
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

static fv_status prefix_of(const maker *k, const vz_prime_source *s, int32_t *out)
{
    for (int i = 0; i < OZ_MODALITIES; i++) {
        if (!s->modality || strcmp(s->modality, oz_modality_name[i]) != 0) continue;
        *out = k->tok.outputs + i;
        if (*out < k->net.cfg.vocab) return FV_OK;
    }
    return fv_fail(k->ctx, FV_ERR_UNKNOWN, "model: the network knows no modality \"%.40s\"",
                   s->modality ? s->modality : "");
}

/* Tokens of a source; the caller frees them. */
static fv_status tokens_of(const maker *k, const vz_prime_source *s, uint16_t **out, size_t *count)
{
    *out = fv_calloc(k->ctx, s->size, sizeof **out);
    if (!*out) return FV_ERR_OOM;
    *count = oz_encode(&k->tok, s->bytes, s->size, *out);
    return FV_OK;
}

static fv_status calibrate(maker *k)
{
    k->calibration =
        fv_calloc(k->ctx, (size_t)k->o->sources * (CALIBRATION + 1), sizeof *k->calibration);
    if (!k->calibration) return FV_ERR_OOM;
    for (int i = 0; i < k->o->sources; i++) {
        uint16_t *token;
        size_t count;
        FV_TRY(prefix_of(k, &k->o->source[i], &k->calibration[k->calibrated++]));
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
    uint8_t *state = k->states + (size_t)i * nn_int_state_saved_bytes(&k->m.net->cfg);
    nn_int_state st;
    uint16_t *token;
    int32_t prefix;
    size_t count;
    FV_TRY(prefix_of(k, s, &prefix));
    FV_TRY(tokens_of(k, s, &token, &count));
    nn_int_state_init(&st, k->m.net, k->memory, false);
    nn_int_step(&st, prefix);
    for (size_t t = count > PRIME_TOKENS ? count - PRIME_TOKENS : 0; t < count; t++)
        nn_int_step(&st, token[t]);
    nn_int_state_save(&st, state);
    fv_free(k->ctx, token);
    const size_t keep = s->keep < s->size ? s->keep : s->size;
    k->m.prime[i] = (vz_model_prime){s->kind, state, s->bytes + (s->size - keep), keep};
    return fv_report(k->ctx, "priming", (uint64_t)i + 1, (uint64_t)k->o->sources, s->modality);
}

fv_status vz_model_make(fv_ctx *ctx, const fv_model *from, const vz_make *o, vz_buf *out)
{
    maker k = {.ctx = ctx, .o = o, .m = {.id = o->id, .primes = o->sources}};
    fv_status s;
    FV_TRY_GOTO(check(ctx, o));
    memcpy(k.m.name, o->name, strlen(o->name));
    FV_TRY_GOTO(open_net(&k, from));
    FV_TRY_GOTO(calibrate(&k));
    if (o->adapt_rate) k.m.net->adapt_rate = o->adapt_rate;
    k.memory = fv_calloc(ctx, 1, nn_int_state_bytes(k.m.net, false));
    k.states = fv_calloc(ctx, (size_t)o->sources, nn_int_state_saved_bytes(&k.m.net->cfg));
    s = k.memory && k.states ? FV_OK : FV_ERR_OOM;
    for (int i = 0; i < o->sources && s == FV_OK; i++) s = prime(&k, i);
    if (s == FV_OK) s = vz_model_write(ctx, &k.m, out);
fail:
    fv_free(ctx, k.states);
    fv_free(ctx, k.memory);
    fv_free(ctx, k.calibration);
    nn_int_model_destroy(ctx, &k.m.net);
    nn_vocab_close(&k.m.vocab);
    nn_float_close(&k.f);
    oz_net_destroy(&k.net);
    return s;
}
