/* test_token.c - the token coder: vocabularies that are none are refused, texts are cut the
 * cheapest way, every class returns its input, one code for every vector width, memory as declared,
 * truncated and wrong code survived. */
#include "cm_token.h"
#include "vz_fixture.h"

static const int LEVELS[] = {1, 3, 9};
static const char *const WORDS[] = {"th", "the", "he", " the", "e ", "one ", "two", " three", "in",
                                    "INFO", "\": \"", "\n\t", "left", "right", " right", "ri"};
#define WORD_COUNT FV_ARRAY_LEN(WORDS)
#define COUNT (256 + WORD_COUNT)
#define TEXT_BYTES (3 * NN_VOCAB_WINDOW / 2)

/* Words at depth 5, bytes at depth 9: half of the tree each. */
typedef struct list {
    uint8_t text[COUNT * NN_VOCAB_MAX_PIECE], length[COUNT], depth[COUNT];
    size_t bytes, count;
} list;

static void add_piece(list *l, const void *bytes, size_t n, int depth)
{
    memcpy(l->text + l->bytes, bytes, n);
    l->length[l->count] = (uint8_t)n;
    l->depth[l->count++] = (uint8_t)depth;
    l->bytes += n;
}

static list good_list(void)
{
    list l = {.count = 0};
    for (size_t i = 0; i < WORD_COUNT; i++) add_piece(&l, WORDS[i], strlen(WORDS[i]), 5);
    for (int i = 0; i < 256; i++) {
        const uint8_t c = (uint8_t)i;
        add_piece(&l, &c, 1, 9);
    }
    return l;
}

/* A vocabulary and its tree. */
typedef struct pieces {
    nn_vocab vocab;
    vz_tree tree;
} pieces;

static fv_status open_list(fv_ctx *ctx, pieces *p, const list *l)
{
    memset(p, 0, sizeof *p);
    FV_TRY(nn_vocab_open_tree(ctx, &p->vocab, l->text, l->bytes, l->length, l->depth, l->count));
    const fv_status s = vz_tree_open(ctx, &p->tree, &p->vocab);
    if (s != FV_OK) nn_vocab_close(&p->vocab);
    return s;
}

static void close_pieces(pieces *p)
{
    vz_tree_close(&p->tree);
    nn_vocab_close(&p->vocab);
}

static void open_pieces(fv_ctx *ctx, pieces *p)
{
    const list l = good_list();
    if (open_list(ctx, p, &l) != FV_OK) abort();
}

static void make_text(uint8_t *p, size_t n, uint64_t seed)
{
    static const char TEXT[] = "{\"id\": 17, \"name\": \"left, right\"},\n"
                               "\tthe one in the right INFO two three\n"
                               "2024-01-02 03:04:05 INFO <b>x</b> one two three\n";
    for (size_t i = 0; i < n; i++) {
        const uint32_t r = test_next(&seed);
        p[i] = r % 97 == 0 ? (uint8_t)(r >> 9)
                           : (uint8_t)TEXT[(i + (r % 41 == 0)) % (sizeof TEXT - 1)];
    }
}

/* ---- Vocabulary ------------------------------------------------------------------------------ */

static bool is_refused(fv_ctx *ctx, const list *l)
{
    pieces p;
    return open_list(ctx, &p, l) == FV_ERR_MODEL && p.vocab.text == NULL;
}

static void lists_that_are_no_vocabulary_are_refused(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    bool ok = true;
    for (int fault = 0; fault < 10; fault++) {
        list l = good_list();
        switch (fault) {
        case 0: l.depth[3] = 6; break;                   /* a gap, later ones out of place */
        case 1: l.depth[0] = 0; break;
        case 2: l.depth[COUNT - 1] = 8; break;           /* more than the tree holds */
        case 3: l.depth[COUNT - 1] = 10; break;          /* a gap at the end */
        case 4: l.depth[COUNT - 1] = 200; break;
        case 5: l.length[0] = 17; break;
        case 6: l.length[COUNT - 1] = 0; break;
        case 7: l.text[l.bytes - 1] = l.text[l.bytes - 2]; break; /* a byte twice, one missing */
        case 8: l.bytes--; break;
        default: l.count = 255;
        }
        ok = ok && is_refused(ctx, &l);
    }
    list l = good_list();
    memcpy(l.text, "he", 2); /* "he" twice */
    ok = ok && is_refused(ctx, &l);
    nn_vocab v;
    ok = ok && nn_vocab_open(ctx, &v, l.text, l.bytes, l.length, l.count) == FV_ERR_MODEL;
    fv_ctx_destroy(&ctx);
    CHECK(ok);
}

static void every_piece_is_a_leaf_of_its_depth(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    pieces p;
    open_pieces(ctx, &p);
    static bool is_seen[COUNT];
    bool ok = true;
    memset(is_seen, 0, sizeof is_seen);
    for (uint32_t i = 0; i < (uint32_t)p.vocab.size; i++) {
        uint32_t node = 1;
        for (uint32_t k = 0; k < p.vocab.depth[i]; k++) {
            ok = ok && node < p.tree.nodes && (node & 15) != 0;
            const vz_branch *b = &p.tree.branch[ok ? node : 1];
            const uint32_t bit = p.vocab.path[i] >> (31 - k) & 1;
            ok = ok && b->rank < VZ_RANKS && b->split >= 1 && (b->split <= i) == bit;
            is_seen[b->split % COUNT] = true;
            node = b->next[bit];
        }
        ok = ok && node == (VZ_LEAF | i);
    }
    for (uint32_t i = 1; i < (uint32_t)p.vocab.size; i++) ok = ok && is_seen[i];
    close_pieces(&p);
    fv_ctx_destroy(&ctx);
    CHECK(ok);
}

static void text_is_cut_the_cheapest_way(void)
{
    static const char TEXT[] = "one three";
    fv_ctx *ctx = vz_test_ctx(0, 0);
    pieces p;
    open_pieces(ctx, &p);
    uint16_t take[sizeof TEXT];
    const size_t n = sizeof TEXT - 1;
    nn_vocab_cut(&p.vocab, (const uint8_t *)TEXT, n, take);
    char back[sizeof TEXT + NN_VOCAB_MAX_PIECE] = "";
    uint32_t decisions = 0;
    size_t at = 0;
    while (at < n) {
        const size_t length = (size_t)nn_vocab_length(&p.vocab, take[at]);
        memcpy(back + at, p.vocab.text + p.vocab.begin[take[at]], length);
        decisions += p.vocab.depth[take[at]];
        at += length;
    }
    close_pieces(&p);
    fv_ctx_destroy(&ctx);
    CHECK(at == n && memcmp(back, TEXT, n) == 0);
    CHECK(decisions == 3 * 9 + 5); /* o|n|e| three; the longest piece first: one |th|r|e|e, 37 */
}

/* ---- Coder ----------------------------------------------------------------------------------- */

/* The model of pieces as a coder. Other segments come from elsewhere. */
static struct {
    const vz_token_model *model;
    const vz_segment *segs;
    int count;
    const uint8_t *data;
} block;

static fv_status encode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *data,
                        size_t size, vz_buf *out, bool *fits)
{
    (void)param;
    (void)size;
    *fits = true;
    return vz_token_encode(ctx, o, block.model, block.segs, block.count, data, out);
}

static fv_status decode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *code,
                        size_t code_size, uint8_t *back, size_t size)
{
    (void)param;
    (void)size;
    FV_TRY(vz_token_decode(ctx, o, block.model, block.segs, block.count, code, code_size, back));
    for (int i = 0, at = 0; i < block.count; at += (int)block.segs[i++].size)
        if (block.segs[i].kind != VZ_PIECES)
            memcpy(back + at, block.data + at, (size_t)block.segs[i].size);
    return FV_OK;
}

static uint64_t memory(const vz_cm_options *o, uint32_t param, uint64_t size)
{
    (void)param;
    return vz_token_memory(o, block.model, size);
}

static const vz_coder CODER = {VZ_PIECES, "pieces", encode, decode, memory};

/* Valid until the next one is made. */
static vz_case case_of(int level, const vz_token_model *m, const vz_segment *segs, int count,
                       const uint8_t *data, size_t size)
{
    block.model = m;
    block.segs = segs;
    block.count = count;
    block.data = data;
    return (vz_case){&CODER, {level, 20, NULL}, 0, data, size};
}

static void every_class_returns_its_input(void)
{
    static const size_t SIZES[] = {0, 1, 2, 3, 7, 100, 5000, TEXT_BYTES};
    static uint8_t data[2 * NN_VOCAB_WINDOW];
    fv_ctx *ctx = vz_test_ctx(0, 0);
    pieces p;
    open_pieces(ctx, &p);
    const vz_cm_prime text = {VZ_PIECES, 0, data, 3000};
    const vz_token_model m = {.tree = &p.tree, .text = &text, .texts = 1};
    const vz_token_model bare = {.tree = &p.tree};
    bool ok = true;
    for (size_t l = 0; l < FV_ARRAY_LEN(LEVELS); l++)
        for (size_t s = 0; s < FV_ARRAY_LEN(SIZES); s++) {
            const vz_segment g = {VZ_PIECES, 0, SIZES[s]};
            make_text(data, sizeof data, s + 1);
            if (s % 3 == 2)
                for (size_t i = 0; i < 100; i++) data[i] = (uint8_t)(i * 37);
            for (int k = 0; k < 2; k++)
                ok = ok && vz_round_trip(ctx, case_of(LEVELS[l], k ? &m : &bare, &g, 1, data,
                                                      SIZES[s]), NULL) >= 0;
        }
    close_pieces(&p);
    fv_ctx_destroy(&ctx);
    CHECK(ok);
}

static void other_segments_are_skipped(void)
{
    static uint8_t data[6000];
    const vz_segment segs[] = {{VZ_PIECES, 0, 2000}, {VZ_BINARY, 0, 500}, {VZ_PIECES, 0, 0},
                               {VZ_X86, 0, 1500}, {VZ_PIECES, 0, 2000}};
    fv_ctx *ctx = vz_test_ctx(0, 0);
    pieces p;
    open_pieces(ctx, &p);
    const vz_token_model m = {.tree = &p.tree};
    make_text(data, sizeof data, 5);
    for (size_t i = 0; i < 2000; i++) data[4000 + i] = "words and words "[i % 16]; /* prose */
    bool ok = true;
    for (int level = 1; level <= 9; level++)
        ok = ok && vz_round_trip(ctx, case_of(level, &m, segs, 5, data, sizeof data), NULL) > 0;
    close_pieces(&p);
    fv_ctx_destroy(&ctx);
    CHECK(ok);
}

static void code_is_the_same_for_every_vector_width(void)
{
    static uint8_t data[4000];
    const vz_segment g = {VZ_PIECES, 0, sizeof data};
    fv_ctx *ctx = vz_test_ctx(0, 0);
    pieces p;
    open_pieces(ctx, &p);
    const vz_token_model m = {.tree = &p.tree};
    make_text(data, sizeof data, 9);
    for (size_t l = 0; l < FV_ARRAY_LEN(LEVELS); l++)
        same_code_for_every_vector_width(case_of(LEVELS[l], &m, &g, 1, data, sizeof data));
    close_pieces(&p);
    fv_ctx_destroy(&ctx);
}

/* Knows the decisions of one piece and is sure of them. */
typedef struct oracle {
    const nn_vocab *vocab;
    uint32_t next, told;
} oracle;
static void oracle_logits(void *user, uint32_t split, int16_t out[VZ_CM_EXTRA])
{
    const oracle *o = user;
    out[0] = split <= o->next ? 1500 : -1500;
    out[1] = 0;
}
static void oracle_piece(void *user, uint32_t id)
{
    oracle *o = user;
    o->told++;
    o->next = (id * 5 + 1) % (uint32_t)o->vocab->size;
}

static void a_prior_that_is_right_is_believed(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    pieces p;
    open_pieces(ctx, &p);
    static uint8_t data[4000];
    oracle who = {&p.vocab, 0, 0};
    size_t size = 0;
    for (uint32_t id = 0; size < sizeof data - NN_VOCAB_MAX_PIECE;) {
        const size_t length = (size_t)nn_vocab_length(&p.vocab, (int)id);
        memcpy(data + size, p.vocab.text + p.vocab.begin[id], length);
        size += length;
        id = (id * 5 + 1) % (uint32_t)p.vocab.size;
    }
    const vz_segment g = {VZ_PIECES, 0, size};
    const vz_cm_options o = {3, 20, NULL};
    const vz_token_model bare = {.tree = &p.tree};
    const vz_token_model m = {.tree = &p.tree, .prior = {.user = &who, .logits = oracle_logits,
                              .piece = oracle_piece}};
    vz_buf a, b;
    vz_buf_init(&a, ctx);
    vz_buf_init(&b, ctx);
    static uint8_t back[sizeof data];
    bool ok = vz_token_encode(ctx, &o, &bare, &g, 1, data, &a) == FV_OK &&
              vz_token_encode(ctx, &o, &m, &g, 1, data, &b) == FV_OK;
    const uint32_t told = who.told;
    who = (oracle){&p.vocab, 0, 0};
    ok = ok && vz_token_decode(ctx, &o, &m, &g, 1, b.data, b.size, back) == FV_OK &&
         memcmp(back, data, size) == 0 && who.told == told && told > 0 && b.size < a.size;
    vz_buf_free(&a);
    vz_buf_free(&b);
    close_pieces(&p);
    fv_ctx_destroy(&ctx);
    CHECK(ok);
}

static void memory_is_at_most_what_was_declared(void)
{
    static uint8_t data[5000];
    const vz_segment g = {VZ_PIECES, 0, 4000};
    const vz_cm_prime text = {VZ_PIECES, 0, data + 4000, 1000};
    fv_ctx *ctx = vz_test_ctx(0, 0);
    pieces p;
    open_pieces(ctx, &p);
    const vz_token_model m = {.tree = &p.tree, .text = &text, .texts = 1};
    make_text(data, sizeof data, 3);
    for (size_t l = 0; l < FV_ARRAY_LEN(LEVELS); l++) {
        vz_case t = case_of(LEVELS[l], &m, &g, 1, data, 4000);
        t.o.memory_log2 = 24;
        memory_is_as_declared(t);
    }
    close_pieces(&p);
    fv_ctx_destroy(&ctx);
}

/* The same with a vocabulary that is opened first. */
static fv_status open_and_encode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                                 const uint8_t *data, size_t size, vz_buf *out, bool *fits)
{
    const list l = good_list();
    pieces p;
    FV_TRY(open_list(ctx, &p, &l));
    const vz_token_model m = {.tree = &p.tree};
    block.model = &m;
    const fv_status s = encode(ctx, o, param, data, size, out, fits);
    block.model = NULL;
    close_pieces(&p);
    return s;
}

static fv_status open_and_decode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                                 const uint8_t *code, size_t code_size, uint8_t *back, size_t size)
{
    const list l = good_list();
    pieces p;
    FV_TRY(open_list(ctx, &p, &l));
    const vz_token_model m = {.tree = &p.tree};
    block.model = &m;
    const fv_status s = decode(ctx, o, param, code, code_size, back, size);
    block.model = NULL;
    close_pieces(&p);
    return s;
}

static void allocations_may_fail(void)
{
    static const vz_coder coder = {VZ_PIECES, "pieces", open_and_encode, open_and_decode, NULL};
    uint8_t data[300];
    const vz_segment g = {VZ_PIECES, 0, sizeof data};
    vz_case t = case_of(3, NULL, &g, 1, data, sizeof data);
    t.coder = &coder;
    make_text(data, sizeof data, 3);
    each_allocation_may_fail(t);
}

static void wrong_code_is_survived(void)
{
    static uint8_t data[2000];
    const vz_segment g = {VZ_PIECES, 0, sizeof data};
    fv_ctx *ctx = vz_test_ctx(0, 0);
    pieces p;
    open_pieces(ctx, &p);
    const vz_token_model m = {.tree = &p.tree};
    make_text(data, sizeof data, 3);
    wrong_codes_are_survived(case_of(3, &m, &g, 1, data, sizeof data));
    close_pieces(&p);
    fv_ctx_destroy(&ctx);
}

int main(void)
{
    RUN(lists_that_are_no_vocabulary_are_refused);
    RUN(every_piece_is_a_leaf_of_its_depth);
    RUN(text_is_cut_the_cheapest_way);
    RUN(every_class_returns_its_input);
    RUN(other_segments_are_skipped);
    RUN(code_is_the_same_for_every_vector_width);
    RUN(a_prior_that_is_right_is_believed);
    RUN(memory_is_at_most_what_was_declared);
    RUN(allocations_may_fail);
    RUN(wrong_code_is_survived);
    return test_end();
}
