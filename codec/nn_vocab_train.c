/* nn_vocab_train.c - pieces learned by byte-pair encoding [Sennrich et al. 2016, on bytes].
 *
 * The samples are cut into words: a run of letters (bytes from 128 on are letters) or of other
 * marks, each with one space before it if there is one; or a digit; or a run of spaces; or line
 * ends with the indentation behind them. No piece crosses the border of two words, so that a piece
 * says something about what follows it; pieces of two digits cost 0.3 % [measured on eight files].
 * The most frequent pair of neighbours within words is joined, again and again; ties go to the
 * older pair. A pair whose bytes are already a piece joins to that piece.
 *
 * Encoding does not replay the merges, so some pieces turn out useless: a quarter more is learned
 * than wanted, and the pieces that longest match uses least on the samples are dropped in two
 * rounds. */
#include <stdlib.h>
#include <string.h>

#include "nn_vocab.h"

#define SAMPLE_BYTES ((size_t)48 << 20) /* more makes no better pieces, only more words */
#define BLOCK_BYTES ((size_t)64 << 10)
#define MAX_WORD 32
#define MAX_WORDS ((uint32_t)1 << 22)
#define MAX_PIECES (((size_t)5 << NN_VOCAB_MAX_BITS) / 4)

/* ---- Blocks of the samples ------------------------------------------------------------------- */

nn_blocks nn_blocks_of(const nn_sample *sample, size_t count, size_t limit)
{
    nn_blocks b = {sample, count, limit, 0, 0, 0, 0, 0};
    for (size_t i = 0; i < count; i++) b.total += sample[i].size;
    return b;
}

bool nn_blocks_next(nn_blocks *b, nn_sample *block)
{
    while (b->i < b->count) {
        const nn_sample *s = &b->sample[b->i];
        const size_t n = s->size - b->at < BLOCK_BYTES ? s->size - b->at : BLOCK_BYTES;
        *block = (nn_sample){s->bytes + b->at, n};
        b->seen += n;
        b->at += n;
        if (b->at == s->size) {
            b->i++;
            b->at = 0;
        }
        /* the share of what was taken follows that of what was seen */
        const double due = (double)b->limit * ((double)b->seen / (double)b->total);
        if (n == 0 || (b->total > b->limit && (double)b->taken >= due)) continue;
        b->taken += n;
        return true;
    }
    return false;
}

/* ---- Words and how often they occur ---------------------------------------------------------- */

typedef enum kind { LETTER, DIGIT, MARK, BLANK, LINE_END } kind;

static kind kind_of(uint8_t c)
{
    if (c >= 128 || (c | 32u) - 'a' < 26u || c == '_') return LETTER;
    if (c - '0' + 0u < 10u) return DIGIT;
    if (c == ' ' || c == '\t') return BLANK;
    return c == '\n' || c == '\r' ? LINE_END : MARK;
}

static size_t run_of(const uint8_t *p, size_t n, kind k)
{
    size_t i = 0;
    while (i < n && i < MAX_WORD && kind_of(p[i]) == k) i++;
    return i;
}

/* Length of the word at p, of n >= 1 bytes. */
static size_t word_at(const uint8_t *p, size_t n)
{
    const kind k = kind_of(p[0]);
    if (k == LINE_END) {
        const size_t ends = run_of(p, n, LINE_END);
        return ends + run_of(p + ends, n - ends, BLANK);
    }
    if (k == DIGIT) return 1;
    if (k != BLANK) return run_of(p, n, k);
    const size_t blanks = run_of(p, n, BLANK);
    const bool more = blanks < n && p[blanks - 1] == ' ';
    if (!more || kind_of(p[blanks]) > MARK || kind_of(p[blanks]) == DIGIT) return blanks;
    /* the last space belongs to what follows */
    return blanks > 1 ? blanks - 1 : 1 + run_of(p + 1, n - 1, kind_of(p[1]));
}

typedef struct word {
    uint32_t hash, count;
    uint32_t at; /* of its bytes; later of its symbols */
    uint8_t n;
} word;

typedef struct words {
    word *slot; /* hashed; count 0: free */
    uint32_t slots, used;
    uint8_t *text;
    uint32_t text_used, text_size;
} words;

static uint32_t hash_of(const uint8_t *p, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 16777619u;
    return h ^ h >> 15;
}

static fv_status words_grow(fv_ctx *ctx, words *w)
{
    const uint32_t slots = w->slots ? 2 * w->slots : 65536;
    word *fresh = fv_calloc(ctx, slots, sizeof *fresh);
    if (!fresh) return FV_ERR_OOM;
    for (uint32_t i = 0; i < w->slots; i++) {
        if (w->slot[i].count == 0) continue;
        uint32_t at = w->slot[i].hash & (slots - 1);
        while (fresh[at].count != 0) at = (at + 1) & (slots - 1);
        fresh[at] = w->slot[i];
    }
    fv_free(ctx, w->slot);
    w->slot = fresh;
    w->slots = slots;
    return FV_OK;
}

static fv_status words_add(fv_ctx *ctx, words *w, const uint8_t *p, size_t n)
{
    const uint32_t hash = hash_of(p, n);
    if (2 * w->used >= w->slots) FV_TRY(words_grow(ctx, w));
    uint32_t at = hash & (w->slots - 1);
    for (; w->slot[at].count != 0; at = (at + 1) & (w->slots - 1)) {
        const word *x = &w->slot[at];
        if (x->hash != hash || x->n != n || memcmp(w->text + x->at, p, n) != 0) continue;
        w->slot[at].count += w->slot[at].count < UINT32_MAX;
        return FV_OK;
    }
    if (w->used >= MAX_WORDS) return FV_OK; /* of what is no text: enough was seen */
    if (w->text_size - w->text_used < n) {
        const uint32_t size = w->text_size ? 2 * w->text_size : 1u << 20;
        uint8_t *text = fv_realloc(ctx, w->text, w->text_used, size);
        if (!text) return FV_ERR_OOM;
        w->text = text;
        w->text_size = size;
    }
    memcpy(w->text + w->text_used, p, n);
    w->slot[at] = (word){hash, 1, w->text_used, (uint8_t)n};
    w->text_used += (uint32_t)n;
    w->used++;
    return FV_OK;
}

static fv_status count_words(fv_ctx *ctx, words *w, const nn_sample *sample, size_t count)
{
    nn_sample block;
    for (nn_blocks b = nn_blocks_of(sample, count, SAMPLE_BYTES); nn_blocks_next(&b, &block);) {
        FV_TRY(fv_report(ctx, "counting words", b.seen, b.total, NULL));
        for (size_t at = 0; at < block.size;) {
            size_t n = word_at(block.bytes + at, block.size - at);
            if (n > MAX_WORD) n = MAX_WORD;
            FV_TRY(words_add(ctx, w, block.bytes + at, n));
            at += n;
        }
    }
    return FV_OK;
}

/* ---- Pairs ----------------------------------------------------------------------------------- */

typedef struct pair {
    uint32_t key; /* left << 16 | right; pairs of symbols 0, 0 have key 0 */
    uint32_t touched;
    int64_t count;
    uint32_t list; /* of the words that had it: index into `occurs`, 0 = end */
} pair;
typedef struct occur {
    uint32_t word, next;
} occur;
typedef struct ranked {
    int64_t count;
    uint32_t pair;
} ranked;

/* Arrays that grow: [used] of [size] elements. */
typedef struct array {
    void *p;
    size_t used, size;
} array;

static fv_status reserve(fv_ctx *ctx, array *a, size_t more, size_t element)
{
    if (a->size - a->used >= more) return FV_OK;
    const size_t size = a->size < 512 ? 1024 : 2 * a->size;
    size_t bytes;
    if (!fv_mul_size(size, element, &bytes)) return FV_ERR_OOM;
    void *p = fv_realloc(ctx, a->p, a->used * element, bytes);
    if (!p) return FV_ERR_OOM;
    a->p = p;
    a->size = size;
    return FV_OK;
}

typedef struct bpe {
    fv_ctx *ctx;
    word *word; /* [words]: n symbols from symbol[at] */
    uint32_t words;
    uint16_t *symbol;
    array pairs, occurs, heap, touched; /* pair, occur, ranked, uint32_t */
    uint32_t *slot;                     /* hash of pairs: index + 1 */
    uint32_t slots;
    uint8_t text[MAX_PIECES][NN_VOCAB_MAX_PIECE], length[MAX_PIECES];
    size_t pieces;
    uint16_t piece_slot[65536]; /* hash of pieces' bytes: number + 1 */
} bpe;

static uint32_t pair_slot(const bpe *b, uint32_t key)
{
    return (uint32_t)((key * 2654435769u) >> 5) & (b->slots - 1);
}

static fv_status pairs_rehash(bpe *b)
{
    const pair *p = b->pairs.p;
    const uint32_t slots = b->slots ? 2 * b->slots : 65536;
    fv_free(b->ctx, b->slot);
    b->slot = fv_calloc(b->ctx, slots, sizeof *b->slot);
    if (!b->slot) return FV_ERR_OOM;
    b->slots = slots;
    for (size_t i = 0; i < b->pairs.used; i++) {
        uint32_t at = pair_slot(b, p[i].key);
        while (b->slot[at]) at = (at + 1) & (slots - 1);
        b->slot[at] = (uint32_t)i + 1;
    }
    return FV_OK;
}

/* `count` more (or less) of the pair in word w. */
static fv_status pair_change(bpe *b, uint16_t left, uint16_t right, uint32_t w, int64_t count)
{
    const uint32_t key = (uint32_t)left << 16 | right;
    if (2 * b->pairs.used >= b->slots) FV_TRY(pairs_rehash(b));
    FV_TRY(reserve(b->ctx, &b->pairs, 1, sizeof(pair)));
    FV_TRY(reserve(b->ctx, &b->occurs, 2, sizeof(occur)));
    FV_TRY(reserve(b->ctx, &b->touched, 1, sizeof(uint32_t)));
    pair *const pairs = b->pairs.p;
    uint32_t at = pair_slot(b, key);
    while (b->slot[at] && pairs[b->slot[at] - 1].key != key) at = (at + 1) & (b->slots - 1);
    if (!b->slot[at]) {
        pairs[b->pairs.used++] = (pair){key, 0, 0, 0};
        b->slot[at] = (uint32_t)b->pairs.used;
    }
    pair *const p = &pairs[b->slot[at] - 1];
    p->count += count;
    if (count < 0) return FV_OK;
    occur *const o = b->occurs.p;
    if (b->occurs.used == 0) b->occurs.used = 1; /* 0 means end */
    if (p->list == 0 || o[p->list].word != w) {
        o[b->occurs.used] = (occur){w, p->list};
        p->list = (uint32_t)b->occurs.used++;
    }
    if (p->touched) return FV_OK;
    p->touched = 1;
    ((uint32_t *)b->touched.p)[b->touched.used++] = b->slot[at] - 1;
    return FV_OK;
}

/* Higher count first, then the older pair. */
static bool comes_before(ranked a, ranked b)
{
    return a.count != b.count ? a.count > b.count : a.pair < b.pair;
}

static void sift_down(ranked *h, size_t n, size_t i)
{
    for (size_t k; (k = 2 * i + 1) < n; i = k) {
        if (k + 1 < n && comes_before(h[k + 1], h[k])) k++;
        if (!comes_before(h[k], h[i])) return;
        const ranked t = h[i];
        h[i] = h[k];
        h[k] = t;
    }
}

static fv_status heap_push(bpe *b, ranked r)
{
    FV_TRY(reserve(b->ctx, &b->heap, 1, sizeof(ranked)));
    ranked *h = b->heap.p;
    size_t i = b->heap.used++;
    for (; i > 0 && comes_before(r, h[(i - 1) / 2]); i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = r;
    return FV_OK;
}

/* Pairs that became more frequent enter the heap (again): entries with an old count are put right
 * when they come out. */
static fv_status push_touched(bpe *b)
{
    pair *const p = b->pairs.p;
    for (size_t i = 0; i < b->touched.used; i++) {
        const uint32_t k = ((uint32_t *)b->touched.p)[i];
        p[k].touched = 0;
        FV_TRY(heap_push(b, (ranked){p[k].count, k}));
    }
    b->touched.used = 0;
    return FV_OK;
}

/* The most frequent pair; false if none occurs twice. */
static bool best_pair(bpe *b, uint32_t *out)
{
    const pair *p = b->pairs.p;
    while (b->heap.used > 0) {
        ranked *h = b->heap.p;
        const ranked top = h[0];
        const int64_t now = p[top.pair].count;
        if (now == top.count && now >= 2) {
            *out = top.pair;
            return true;
        }
        h[0] = now < top.count && now >= 2 ? (ranked){now, top.pair} : h[--b->heap.used];
        sift_down(h, b->heap.used, 0);
    }
    return false;
}

/* ---- Merging --------------------------------------------------------------------------------- */

/* The piece of these bytes, new if need be. */
static uint16_t piece_of(bpe *b, const uint8_t *p, size_t n)
{
    uint32_t at = hash_of(p, n) & 65535u;
    for (; b->piece_slot[at]; at = (at + 1) & 65535u) {
        const size_t i = b->piece_slot[at] - 1u;
        if (b->length[i] == n && memcmp(b->text[i], p, n) == 0) return (uint16_t)i;
    }
    memcpy(b->text[b->pieces], p, n);
    b->length[b->pieces] = (uint8_t)n;
    b->piece_slot[at] = (uint16_t)++b->pieces;
    return (uint16_t)(b->pieces - 1);
}

static fv_status merge_in_word(bpe *b, uint32_t w, uint16_t left, uint16_t right, uint16_t to)
{
    word *const x = &b->word[w];
    uint16_t *const s = b->symbol + x->at;
    const int64_t c = x->count;
    for (int i = 0; i + 1 < x->n; i++) {
        if (s[i] != left || s[i + 1] != right) continue;
        if (i > 0) {
            FV_TRY(pair_change(b, s[i - 1], left, w, -c));
            FV_TRY(pair_change(b, s[i - 1], to, w, c));
        }
        if (i + 2 < x->n) {
            FV_TRY(pair_change(b, right, s[i + 2], w, -c));
            FV_TRY(pair_change(b, to, s[i + 2], w, c));
        }
        FV_TRY(pair_change(b, left, right, w, -c));
        s[i] = to;
        x->n--;
        memmove(s + i + 1, s + i + 2, (size_t)(x->n - i - 1) * sizeof *s);
    }
    return FV_OK;
}

static fv_status merge_pair(bpe *b, uint32_t k)
{
    uint8_t text[2 * NN_VOCAB_MAX_PIECE];
    pair *p = (pair *)b->pairs.p + k;
    const uint16_t left = (uint16_t)(p->key >> 16), right = (uint16_t)p->key;
    const size_t n1 = b->length[left], n2 = b->length[right];
    uint32_t at = p->list;
    p->list = 0;
    if (n1 + n2 > NN_VOCAB_MAX_PIECE) {
        p->count = 0; /* never: the heap drops it */
        return FV_OK;
    }
    memcpy(text, b->text[left], n1);
    memcpy(text + n1, b->text[right], n2);
    const uint16_t to = piece_of(b, text, n1 + n2);
    while (at) { /* lists grow while words change, but never this one: left right is gone */
        const occur o = ((occur *)b->occurs.p)[at];
        FV_TRY(merge_in_word(b, o.word, left, right, to));
        at = o.next;
    }
    ((pair *)b->pairs.p)[k].count = 0;
    return push_touched(b);
}

/* Words that occur once tell little and are many. */
static fv_status take_words(bpe *b, const words *w)
{
    const uint32_t least = w->used > 100000 ? 2 : 1;
    size_t symbols = 0;
    for (uint32_t i = 0; i < w->slots; i++) {
        if (w->slot[i].count < least) continue;
        b->words++;
        symbols += w->slot[i].n;
    }
    b->word = fv_calloc(b->ctx, (size_t)b->words + 1, sizeof *b->word);
    b->symbol = fv_calloc(b->ctx, symbols + 1, sizeof *b->symbol);
    if (!b->word || !b->symbol) return FV_ERR_OOM;
    uint32_t n = 0, at = 0;
    for (uint32_t i = 0; i < w->slots; i++) {
        const word *x = &w->slot[i];
        if (x->count < least) continue;
        b->word[n] = *x;
        b->word[n].at = at;
        for (int k = 0; k < x->n; k++) b->symbol[at++] = w->text[x->at + (uint32_t)k];
        for (int k = 0; k + 1 < x->n; k++) {
            const uint8_t *t = w->text + x->at + k;
            FV_TRY(pair_change(b, t[0], t[1], n, x->count));
        }
        n++;
    }
    return push_touched(b);
}

static fv_status learn(bpe *b, const words *w, size_t want)
{
    uint32_t k = 0;
    for (int i = 0; i < 256; i++) {
        const uint8_t byte = (uint8_t)i;
        (void)piece_of(b, &byte, 1);
    }
    FV_TRY(take_words(b, w));
    while (b->pieces < want && best_pair(b, &k)) {
        if (b->pieces % 64 == 0) FV_TRY(fv_report(b->ctx, "joining pairs", b->pieces, want, NULL));
        FV_TRY(merge_pair(b, k));
    }
    return FV_OK;
}

static void bpe_free(fv_ctx *ctx, bpe *b)
{
    if (!b) return;
    fv_free(ctx, b->word);
    fv_free(ctx, b->symbol);
    fv_free(ctx, b->pairs.p);
    fv_free(ctx, b->occurs.p);
    fv_free(ctx, b->heap.p);
    fv_free(ctx, b->touched.p);
    fv_free(ctx, b->slot);
    fv_free(ctx, b);
}

/* ---- From merges to a vocabulary ------------------------------------------------------------- */

typedef struct use {
    uint64_t count;
    uint32_t id;
} use;

/* Single bytes first, then by use; ties by id. */
static int by_use(const void *a, const void *b)
{
    const use *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* v becomes the `keep` pieces of v that longest match uses most, single bytes in any case. */
static fv_status keep_most_used(nn_vocab *v, const nn_sample *sample, size_t count, size_t keep)
{
    use *u = fv_calloc(v->ctx, (size_t)v->size, sizeof *u);
    uint8_t *text = fv_alloc(v->ctx, v->begin[v->size]);
    uint8_t *length = fv_alloc(v->ctx, (size_t)v->size);
    nn_sample block;
    nn_vocab fresh;
    size_t bytes = 0;
    fv_status s = u && text && length ? FV_OK : FV_ERR_OOM;
    for (int i = 0; s == FV_OK && i < v->size; i++)
        u[i] = (use){nn_vocab_length(v, i) == 1 ? UINT64_MAX / 2 : 0, (uint32_t)i};
    for (nn_blocks b = nn_blocks_of(sample, count, SAMPLE_BYTES / 2);
         s == FV_OK && nn_blocks_next(&b, &block);) {
        for (size_t at = 0; at < block.size;) {
            const int id = nn_vocab_next(v, block.bytes + at, block.size - at);
            u[id].count++;
            at += (size_t)nn_vocab_length(v, id);
        }
        s = fv_report(v->ctx, "choosing pieces", b.seen, b.total, NULL);
    }
    if (s == FV_OK) qsort(u, (size_t)v->size, sizeof *u, by_use);
    for (size_t i = 0; s == FV_OK && i < keep; i++) {
        const int n = nn_vocab_length(v, (int)u[i].id);
        memcpy(text + bytes, v->text + v->begin[u[i].id], (size_t)n);
        length[i] = (uint8_t)n;
        bytes += (size_t)n;
    }
    if (s == FV_OK) s = nn_vocab_build(v->ctx, &fresh, text, bytes, length, keep);
    fv_free(v->ctx, u);
    fv_free(v->ctx, text);
    fv_free(v->ctx, length);
    if (s != FV_OK) return s;
    nn_vocab_close(v);
    *v = fresh;
    return FV_OK;
}

/* v with piece id at rank to[id], and the tree of depth[rank]. */
static fv_status rearrange(nn_vocab *v, const uint16_t *to, const uint8_t *depth)
{
    uint8_t *text = fv_alloc(v->ctx, v->begin[v->size]);
    uint8_t *length = fv_alloc(v->ctx, (size_t)v->size);
    uint16_t *from = fv_calloc(v->ctx, (size_t)v->size, sizeof *from);
    nn_vocab fresh = {0};
    fv_status s = FV_ERR_OOM;
    if (text && length && from) {
        size_t bytes = 0;
        for (int i = 0; i < v->size; i++) from[to[i]] = (uint16_t)i;
        for (int i = 0; i < v->size; i++) {
            length[i] = (uint8_t)nn_vocab_length(v, from[i]);
            memcpy(text + bytes, v->text + v->begin[from[i]], length[i]);
            bytes += length[i];
        }
        s = nn_vocab_open_tree(v->ctx, &fresh, text, bytes, length, depth, (size_t)v->size);
    }
    fv_free(v->ctx, text);
    fv_free(v->ctx, length);
    fv_free(v->ctx, from);
    if (s != FV_OK) return s;
    nn_vocab_close(v);
    *v = fresh;
    return FV_OK;
}

/* All pieces that were learned, more than wanted, as v. */
static fv_status learn_pieces(fv_ctx *ctx, nn_vocab *v, size_t want, const nn_sample *sample,
                              size_t count)
{
    words w = {0};
    bpe *b = fv_calloc(ctx, 1, sizeof *b);
    fv_status s = b ? count_words(ctx, &w, sample, count) : FV_ERR_OOM;
    if (s == FV_OK) {
        b->ctx = ctx;
        s = w.slots ? learn(b, &w, want) : FV_OK;
    }
    if (s == FV_OK && b->pieces < want)
        s = fv_fail(ctx, FV_ERR_ARG,
                    "vocabulary: the data have %zu pieces that repeat, %zu are needed: use a "
                    "smaller vocabulary or more data",
                    b->pieces, want);
    if (s == FV_OK) {
        size_t bytes = 0;
        uint8_t *text = (uint8_t *)b->text; /* closed up in place */
        for (size_t i = 0; i < b->pieces; i++) {
            memmove(text + bytes, b->text[i], b->length[i]);
            bytes += b->length[i];
        }
        s = nn_vocab_build(ctx, v, text, bytes, b->length, b->pieces);
    }
    fv_free(ctx, w.slot);
    fv_free(ctx, w.text);
    bpe_free(ctx, b);
    return s;
}

fv_status nn_vocab_train(fv_ctx *ctx, nn_vocab *v, int bits, const nn_sample *sample, size_t count,
                         nn_order order)
{
    memset(v, 0, sizeof *v);
    if (bits < NN_VOCAB_MIN_BITS || bits > NN_VOCAB_MAX_BITS)
        return fv_fail(ctx, FV_ERR_ARG, "vocabulary: 2^%d pieces, expected 256 to 16384", bits);
    if (bits == NN_VOCAB_MIN_BITS) return nn_vocab_bytes(ctx, v);
    const size_t want = (size_t)1 << bits;
    fv_status s = learn_pieces(ctx, v, want + want / 4, sample, count);
    if (s == FV_OK) s = keep_most_used(v, sample, count, want + want / 8);
    if (s == FV_OK) s = keep_most_used(v, sample, count, want);
    uint16_t *to = s == FV_OK ? fv_calloc(ctx, want, sizeof *to) : NULL;
    uint8_t *depth = s == FV_OK ? fv_alloc(ctx, want) : NULL;
    if (s == FV_OK && (!to || !depth)) s = FV_ERR_OOM;
    if (s == FV_OK) s = nn_vocab_arrange(v, sample, count, order, to, depth);
    if (s == FV_OK) s = rearrange(v, to, depth);
    fv_free(ctx, to);
    fv_free(ctx, depth);
    if (s != FV_OK) nn_vocab_close(v);
    return s;
}
