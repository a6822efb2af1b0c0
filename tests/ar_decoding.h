/* ar_decoding.h - the decoding loops over a network of hashed logits (ar_scripted.h), with books of
 * every step, and plain decoding to compare with. */
#ifndef TEST_AR_DECODING_H
#define TEST_AR_DECODING_H

#include "ar_scripted.h"
#include "test.h"

static fv_ctx *ctx;

#define MAX_LOG 512

typedef struct recorder {
    const script *script; /* the books that must agree with the log; may be NULL */
    const char *broken;
    bool is_drafting;
    int n;
    ar_step_log log[MAX_LOG];
    uint64_t allocations;
    fv_ctx *ctx;
} recorder;

/* Invariants of a step: keys of all tokens but those just skipped; a pair for each token and for
 * the root, where anything can be drafted. */
static inline void record(void *user, const ar_step_log *l)
{
    recorder *r = user;
    fv_memory_stats m;
    fv_ctx_memory(r->ctx, &m);
    if (r->n == 0) r->allocations = m.allocations;
    if (m.allocations != r->allocations) r->broken = "memory allocated in the loop";
    if (r->n > 0 && l->skipped && r->log[r->n - 1].skipped && r->log[r->n - 1].image == l->image)
        r->broken = "two skips in a row";
    if (r->script) {
        const script_image *i = &r->script->image[l->image];
        const bool is_end = l->length + 1 >= r->script->tokens;
        if (i->n != l->length - (l->skipped ? l->chain : 0) && !is_end)
            r->broken = "tokens committed";
        if (r->is_drafting && i->pairs != l->length + 1 && l->length + 2 < r->script->tokens)
            r->broken = "pairs of the draft";
    }
    if (r->n < MAX_LOG) r->log[r->n++] = *l;
}

static inline ar_decode_options options(void)
{
    ar_decode_options o;
    ar_decode_defaults(&o);
    return o;
}

/* The definition: one pass a token. */
static inline void plain(const script *s, const ar_sampling *sampling, int image, ar_noise noise,
                         int32_t *token)
{
    ar_dists d;
    float *logits = malloc((size_t)s->vocab * sizeof *logits);
    uint64_t h = script_condition(s, image);
    if (ar_dists_create(ctx, &d, s->vocab, 1) != FV_OK || !logits) abort();
    for (int t = 0; t < s->tokens; t++) {
        script_target_logits(s, h, logits);
        ar_dist_make(&d, 0, logits, sampling);
        token[t] = d.d[0].id[ar_draw(&d, 0, sampling, noise, t)];
        h = script_after(h, token[t]);
    }
    ar_dists_free(&d);
    free(logits);
}

/* Decodes with books kept; a message where something is wrong, also if the tokens are not those of
 * plain decoding (exact). */
static inline const char *decode(script *s, const ar_decode_options *o, bool exact,
                                 ar_counters *c, recorder *r)
{
    static char message[400];
    recorder own = { 0 };
    int32_t token[8 * SCRIPT_TOKENS], expected[SCRIPT_TOKENS];
    ar_noise noise[8];
    ar_counters counters = { 0 };
    const ar_lm lm = script_lm(s);
    if (!r) r = &own;
    if (!c) c = &counters;
    r->script = s;
    r->ctx = ctx;
    r->is_drafting = !o->is_plain && !o->jacobi && !o->cost;
    const ar_decode_log log = { record, r };
    for (int i = 0; i < s->images; i++) noise[i] = (ar_noise){ 11 + s->salt, (uint32_t)i };
    s->broken = NULL;
    if (ar_decode(ctx, &lm, o, s->images, noise, token, c, &log) != FV_OK) {
        snprintf(message, sizeof message, "%s; contract: %s", fv_ctx_error(ctx),
                 s->broken ? s->broken : "held");
        return message;
    }
    if (s->broken) return s->broken;
    if (r->broken) return r->broken;
    if (c->tokens != (int64_t)s->images * s->tokens) return "count of tokens";
    for (int i = 0; i < s->images && exact; i++) {
        plain(s, &o->sampling, i, noise[i], expected);
        for (int t = 0; t < s->tokens; t++) {
            if (token[i * s->tokens + t] == expected[t]) continue;
            snprintf(message, sizeof message, "image %d: token %d is %d, plainly %d", i, t,
                     token[i * s->tokens + t], expected[t]);
            return message;
        }
    }
    return NULL;
}

#endif
