/* ar_scripted.h - a network for decoding loops without weights: logits are a hash of the tokens in
 * front, so every prefix has some, and anyone can compute them again. It keeps the books of what
 * ar_decode.h asks of a caller; the first breach is in `broken`. */
#ifndef AR_SCRIPTED_H
#define AR_SCRIPTED_H

#include "ar_decode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SCRIPT_TOKENS 144 /* of a picture, at most */
#define SCRIPT_NODES 2048

typedef enum script_drafter { DRAFTS_WELL = 0, DRAFTS_AT_RANDOM, DRAFTS_AGAINST } script_drafter;

typedef struct script_image {
    bool is_started;
    int n, rows, pairs, nodes;
    int32_t token[SCRIPT_TOKENS];
    int32_t row_token[AR_MAX_ROWS], row_parent[AR_MAX_ROWS];
    int32_t pair_token[SCRIPT_TOKENS + AR_MAX_ROWS], pair_feature[SCRIPT_TOKENS + AR_MAX_ROWS];
    int32_t node_token[SCRIPT_NODES], node_parent[SCRIPT_NODES];
} script_image;

typedef struct script {
    int vocab, tokens, images;
    float scale;  /* of the target's logits                            */
    float blur;   /* of the good drafter's                             */
    uint64_t salt;
    bool is_same; /* all pictures have one condition                   */
    script_drafter drafter;
    fv_status fails; /* what a pass returns once `passes` have been made */
    int64_t fails_after, passes;
    script_image *image;
    const char *broken;
} script;

/* ---- Logits ---------------------------------------------------------------------------------- */

static inline uint64_t script_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static inline uint64_t script_condition(const script *s, int image)
{
    return script_mix(s->salt + (s->is_same ? 1 : 1 + (uint64_t)image) * 0x9e3779b97f4a7c15ull);
}

static inline uint64_t script_after(uint64_t h, int32_t token)
{
    return script_mix(h * 31 + (uint64_t)token + 1);
}

/* About normal: the sum of four uniform numbers. */
static inline float script_number(uint64_t h, int v)
{
    const uint64_t x = script_mix(h ^ (uint64_t)(v + 1) * 0xd6e8feb86659fd93ull);
    float sum = 0.0f;
    for (int i = 0; i < 4; i++) sum += (float)(x >> (16 * i) & 0xffff) / 65536.0f;
    return (sum - 2.0f) * 1.7f;
}

/* h: of the condition and all tokens in front. */
static inline void script_target_logits(const script *s, uint64_t h, float *logits)
{
    for (int v = 0; v < s->vocab; v++) logits[v] = s->scale * script_number(h, v);
}

/* `seen` also depends on which features stood where, as a draft head's output does. */
static inline void script_draft_logits(const script *s, uint64_t h, uint64_t seen, float *logits)
{
    for (int v = 0; v < s->vocab; v++) {
        const float own = s->scale * script_number(h, v), other = script_number(seen ^ 0x5555, v);
        if (s->drafter == DRAFTS_WELL) logits[v] = own + s->blur * other;
        else logits[v] = s->drafter == DRAFTS_AT_RANDOM ? s->scale * other : -3.0f * own;
    }
}

/* ---- The network ----------------------------------------------------------------------------- */

static inline bool script_check(script *s, bool holds, const char *what)
{
    if (!holds && !s->broken) s->broken = what;
    return holds;
}

static inline script_image *script_find(script *s, int image)
{
    if (!script_check(s, image >= 0 && image < s->images, "image out of range")) return NULL;
    return &s->image[image];
}

static inline fv_status script_prefill(void *self, int image, float *logits)
{
    script *s = self;
    script_image *m = script_find(s, image);
    if (!m) return FV_ERR_INTERNAL;
    m->is_started = true;
    m->n = m->rows = m->pairs = m->nodes = 0;
    script_target_logits(s, script_condition(s, image), logits);
    return FV_OK;
}

static inline uint64_t script_prefix(const script *s, int image, const int32_t *token, int n)
{
    uint64_t h = script_condition(s, image);
    for (int i = 0; i < n; i++) h = script_after(h, token[i]);
    return h;
}

static inline bool script_pass(script *s, const ar_rows *r)
{
    script_image *m = script_find(s, r->image);
    uint64_t hash[AR_MAX_ROWS];
    int depth[AR_MAX_ROWS];
    if (!m || !script_check(s, m->is_started, "pass before prefill") ||
        !script_check(s, r->n > 0 && r->n <= AR_MAX_ROWS, "number of rows out of range"))
        return false;
    const uint64_t root = script_prefix(s, r->image, m->token, m->n);
    m->rows = r->n;
    for (int i = 0; i < r->n; i++) {
        const int p = r->parent[i];
        if (!script_check(s, p >= -1 && p < i, "parent of a row out of range") ||
            !script_check(s, r->token[i] >= 0 && r->token[i] < s->vocab, "token out of range"))
            return false;
        depth[i] = p < 0 ? 0 : depth[p] + 1;
        if (!script_check(s, m->n + depth[i] < s->tokens, "row behind the end of the picture"))
            return false;
        hash[i] = script_after(p < 0 ? root : hash[p], r->token[i]);
        script_target_logits(s, hash[i], r->logits + (size_t)i * (size_t)s->vocab);
        m->row_token[i] = r->token[i];
        m->row_parent[i] = p;
    }
    return true;
}

static inline fv_status script_target(void *self, int images, const ar_rows *rows)
{
    script *s = self;
    if (s->fails != FV_OK && s->passes++ >= s->fails_after) return s->fails;
    for (int i = 0; i < images; i++) {
        const bool is_next = i == 0 || rows[i].image > rows[i - 1].image;
        if (!script_check(s, is_next, "image twice in a pass") || !script_pass(s, &rows[i]))
            return FV_ERR_INTERNAL;
    }
    return FV_OK;
}

static inline void script_commit(void *self, int image, const int32_t *row, int n)
{
    script *s = self;
    script_image *m = script_find(s, image);
    if (!m || !script_check(s, n > 0 && m->n + n <= s->tokens, "commit of no row or too many"))
        return;
    for (int i = 0; i < n; i++) {
        if (!script_check(s, row[i] >= 0 && row[i] < m->rows, "commit of a row not in the pass") ||
            !script_check(s, m->row_parent[row[i]] == (i ? row[i - 1] : -1), "commit of no path"))
            return;
        m->token[m->n + i] = m->row_token[row[i]];
    }
    m->n += n;
    m->rows = 0;
}

static inline void script_rewind(void *self, int image, int n)
{
    script *s = self;
    script_image *m = script_find(s, image);
    if (m && script_check(s, n >= 0 && n <= m->n, "rewind of too many")) m->n -= n;
}

static inline uint64_t script_seen(const script *s, const script_image *m, int image)
{
    uint64_t h = script_condition(s, image) ^ 0x77;
    for (int i = 0; i < m->pairs; i++)
        h = script_after(script_after(h, m->pair_token[i]), i - 1 - m->pair_feature[i]);
    return h;
}

static inline fv_status script_feed(void *self, int image, int n, const int32_t *token,
                                    const int32_t *feature, float *logits)
{
    script *s = self;
    script_image *m = script_find(s, image);
    if (!m || !script_check(s, n > 0 && m->pairs + n <= s->tokens, "pairs behind the picture"))
        return FV_ERR_INTERNAL;
    for (int i = 0; i < n; i++) {
        const int at = m->pairs;
        if (!script_check(s, token[i] >= 0 && token[i] < s->vocab, "fed token out of range") ||
            !script_check(s, feature[i] >= -1 && feature[i] < m->n, "feature does not exist") ||
            !script_check(s, feature[i] <= at - 1, "feature of the future") ||
            !script_check(s, at >= m->n || token[i] == m->token[at], "fed another token"))
            return FV_ERR_INTERNAL;
        m->pair_token[at] = token[i];
        m->pair_feature[at] = feature[i];
        m->pairs++;
    }
    m->nodes = 0;
    script_draft_logits(s, script_prefix(s, image, m->pair_token, m->pairs),
                        script_seen(s, m, image), logits);
    return FV_OK;
}

static inline fv_status script_nodes(void *self, int image, int n, const int32_t *token,
                                     const int32_t *parent, float *logits)
{
    script *s = self;
    script_image *m = script_find(s, image);
    const int before = m ? m->nodes : 0;
    if (!m || !script_check(s, n > 0 && before + n <= SCRIPT_NODES, "number of draft nodes"))
        return FV_ERR_INTERNAL;
    const uint64_t root = script_prefix(s, image, m->pair_token, m->pairs);
    const uint64_t seen = script_seen(s, m, image);
    for (int i = 0; i < n; i++) {
        int32_t path[SCRIPT_TOKENS];
        int length = 1;
        uint64_t h = root, g = seen;
        if (!script_check(s, parent[i] >= -1 && parent[i] < before, "draft node without parent") ||
            !script_check(s, token[i] >= 0 && token[i] < s->vocab, "drafted token out of range"))
            return FV_ERR_INTERNAL;
        m->node_token[before + i] = path[0] = token[i];
        m->node_parent[before + i] = parent[i];
        for (int p = parent[i]; p >= 0; p = m->node_parent[p]) path[length++] = m->node_token[p];
        if (!script_check(s, m->pairs + length <= s->tokens, "draft node behind the picture"))
            return FV_ERR_INTERNAL;
        while (length-- > 0) {
            h = script_after(h, path[length]);
            g = script_after(g, path[length]);
        }
        script_draft_logits(s, h, g, logits + (size_t)i * (size_t)s->vocab);
    }
    m->nodes += n;
    return FV_OK;
}

static inline void script_draft_rewind(void *self, int image, int n)
{
    script *s = self;
    script_image *m = script_find(s, image);
    if (!m || !script_check(s, n >= 0 && n <= m->pairs, "rewind of too many pairs")) return;
    m->pairs -= n;
    m->nodes = 0;
}

static inline ar_lm script_lm(script *s)
{
    return (ar_lm){ .self = s, .vocab = s->vocab, .tokens = s->tokens, .has_draft = true,
                    .prefill = script_prefill, .target = script_target, .commit = script_commit,
                    .rewind = script_rewind, .draft_feed = script_feed,
                    .draft_nodes = script_nodes, .draft_rewind = script_draft_rewind };
}

static inline script script_create(int vocab, int tokens, int images)
{
    return (script){ .vocab = vocab, .tokens = tokens, .images = images, .scale = 2.0f,
                     .blur = 0.7f, .salt = 1,
                     .image = calloc((size_t)images, sizeof(script_image)) };
}

#endif
