/* cm_token.c - the token coder: memory, contexts of a piece, segments.
 *
 *     code = per text segment one bit of probability 1/2, whether it is prose, then the decisions
 *            of its pieces; range-coded in one go
 *
 * A piece never reaches over the end of its segment. Contexts are the last pieces, the last bytes,
 * and what cm_text.c knows about words, lines and fields. Low orders matter more than for bytes: a
 * context is followed by thousands of pieces, not by 256 bytes, and deep in the tree every context
 * is of a high order anyway.
 *
 * Rejected, measured on six files: two inputs for each context (0.0 to 0.2 % smaller, slower); one
 * line of slots for all subtrees of a context (0.1 % larger for high orders, 1.6 % for all, no
 * faster); more than 27 contexts (0.1 % smaller for 6 more). */
#include "cm_token.h"

#include <string.h>

#define RATE_AT_START 600u
#define SLEEPS_FROM 32u /* bytes of a match */

/* Sizes and rates that the loop over decisions does not need as constants. */
typedef struct plan {
    uint32_t groups[VZ_MIX_SELECTORS];
    int run_log2, match_log2, direct_log2;
    int32_t first_weight, rate; /* of the mixer */
} plan;
#define MATCH_STATES 258u
static const plan PLANS[3] = {
    {{VZ_RANKS, MATCH_STATES, 256}, 18, 19, 19, 14000, 250},
    {{VZ_RANKS, MATCH_STATES, 256, 256 * VZ_TOKEN_DEPTHS}, 18, 19, 19, 7000, 300},
    {{VZ_RANKS, MATCH_STATES, 256, 256 * VZ_TOKEN_DEPTHS, (VZ_TOKEN_CONTEXTS + 1) * VZ_TOKEN_DEPTHS,
      256 * VZ_TOKEN_DEPTHS}, 22, 22, 20, 5000, 300},
};

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Everything whose size depends on the block; 0 bytes: not there. */
typedef struct sizes {
    int table_log2, match_log2, run_log2, direct_log2, apm_log2;
    size_t table, hist, piece_at, match, runs, direct0, direct1, after, maps, mixer, apms;
} sizes;

static sizes sizes_of(const vz_cm_options *o, const vz_tree *tree, uint64_t total)
{
    const int k = vz_class_of(o->level);
    const vz_token_shape s = vz_token_shapes[k];
    sizes z;
    z.table_log2 = vz_log2_within(total * (uint64_t)s.contexts * 32, 16, o->memory_log2);
    z.match_log2 = vz_log2_within(total, 10, PLANS[k].match_log2);
    z.run_log2 = vz_log2_within(total * 2, 10, PLANS[k].run_log2);
    z.direct_log2 = vz_log2_within(total * 4, 12, PLANS[k].direct_log2);
    z.apm_log2 = vz_log2_within(total, 10, 16);
    z.table = (size_t)1 << z.table_log2;
    z.hist = (size_t)total + 8;
    z.piece_at = (size_t)total * sizeof(uint16_t) + 8;
    z.match = sizeof(uint32_t) << z.match_log2;
    z.runs = sizeof(vz_token_run) << z.run_log2;
    z.direct0 = tree->nodes * sizeof(vz_prob);
    z.direct1 = sizeof(vz_prob) << z.direct_log2;
    z.after = (size_t)tree->vocab->size * sizeof(uint32_t);
    z.maps = (size_t)VZ_TOKEN_LEVELS * (size_t)s.contexts * 256 * sizeof(uint32_t);
    z.mixer = vz_mixer_bytes(vz_token_inputs(s), s.selectors, PLANS[k].groups, VZ_RANKS);
    z.apms = (size_t)s.apms * vz_apm_bytes(1u << z.apm_log2);
    return z;
}

static uint64_t with_texts(const vz_token_model *m, uint64_t size)
{
    for (int i = 0; i < m->texts; i++) size += m->text[i].size;
    return size;
}

uint64_t vz_token_memory(const vz_cm_options *o, const vz_token_model *model, uint64_t size)
{
    const sizes z = sizes_of(o, model->tree, with_texts(model, size));
    const uint64_t matches = (uint64_t)vz_token_shapes[vz_class_of(o->level)].matches * z.match;
    return sizeof(vz_token) + sizeof(vz_cm) + z.table + z.hist + z.piece_at + matches + z.runs +
           z.direct0 + z.direct1 + z.after + z.maps + z.mixer + z.apms +
           NN_VOCAB_WINDOW * sizeof(uint16_t) + 4096;
}

static void release(vz_token *t)
{
    if (t->text) fv_free(t->ctx, t->text->hist);
    fv_free(t->ctx, t->text);
    fv_free(t->ctx, t->table);
    fv_free(t->ctx, t->piece_at);
    for (int i = 0; i < VZ_TOKEN_MATCHES; i++) fv_free(t->ctx, t->match[i].table);
    fv_free(t->ctx, t->run_table);
    for (int i = 0; i < 2; i++) fv_free(t->ctx, t->direct[i]);
    fv_free(t->ctx, t->after);
    fv_free(t->ctx, t->maps);
    fv_free(t->ctx, t->mixer_memory);
    fv_free(t->ctx, t->apm_memory);
    fv_free(t->ctx, t);
}

static bool allocate(vz_token *t, const sizes *z)
{
    t->text = fv_calloc(t->ctx, 1, sizeof *t->text);
    if (t->text) t->text->hist = fv_alloc(t->ctx, z->hist);
    t->table = fv_alloc(t->ctx, z->table);
    t->piece_at = fv_alloc(t->ctx, z->piece_at);
    bool ok = t->text && t->text->hist && t->table && t->piece_at;
    if (t->table) {
        vz_use_large_pages(t->table, z->table);
        memset(t->table, 0, z->table);
    }
    for (int i = 0; i < vz_token_shapes[t->strength].matches; i++) {
        t->match[i].table = fv_calloc(t->ctx, 1, z->match);
        ok = ok && t->match[i].table;
    }
    t->run_table = fv_calloc(t->ctx, 1, z->runs);
    t->direct[0] = fv_alloc(t->ctx, z->direct0);
    t->direct[1] = fv_alloc(t->ctx, z->direct1);
    t->after = fv_calloc(t->ctx, 1, z->after);
    t->maps = fv_alloc(t->ctx, z->maps);
    t->mixer_memory = fv_alloc(t->ctx, z->mixer);
    t->apm_memory = fv_alloc(t->ctx, z->apms);
    return ok && t->run_table && t->direct[0] && t->direct[1] && t->after && t->maps &&
           t->mixer_memory && t->apm_memory;
}

static void start_matches(vz_token *t, const sizes *z)
{
    static const int SHIFT[VZ_TOKEN_MATCHES] = {6, 3};
    static const uint32_t LENGTH[VZ_TOKEN_MATCHES] = {5, 12};
    for (int i = 0; i < VZ_TOKEN_MATCHES; i++) {
        vz_token_match *m = &t->match[i];
        m->bits = z->match_log2;
        m->factor = 0x2f0b4c47u << SHIFT[i];
        m->min_length = LENGTH[i];
        for (uint32_t k = 0; k < FV_ARRAY_LEN(m->map); k++)
            m->map[k] = vz_prob_of(40000 + 800 * (k >> 4), 0);
    }
}

/* Everything but the memory. */
static void start_models(vz_token *t, const vz_tree *tree, const sizes *z)
{
    const vz_token_shape s = vz_token_shapes[t->strength];
    const plan *p = &PLANS[t->strength];
    vz_logistic_init(&t->lg);
    vz_states_init(&t->st);
    vz_slots_init(&t->slots, t->table, z->table_log2);
    for (uint32_t i = 0; i < z->maps / sizeof(uint32_t); i++)
        t->maps[i] = i % 256 ? (uint32_t)t->st.p16[i & 255] << 16 : VZ_CM_NO_OPINION;
    for (uint32_t i = 0; i < FV_ARRAY_LEN(t->run_map); i++)
        t->run_map[i] = vz_prob_of(40000 + 1600 * (i / 4 % 16), 0);
    for (uint32_t i = 0; i < tree->nodes; i++) t->direct[0][i] = vz_prob_of(32768, 0);
    for (uint32_t i = 0; i < 1u << z->direct_log2; i++) t->direct[1][i] = vz_prob_of(32768, 0);
    vz_mixer_init(&t->mixer, vz_mix_ops_for(fv_ctx_cpu(t->ctx)), &t->lg, t->mixer_memory,
                  vz_token_inputs(s), s.selectors, p->groups, VZ_RANKS, p->first_weight);
    const size_t row = (size_t)VZ_APM_ROW << z->apm_log2;
    for (int i = 0; i < s.apms; i++)
        vz_apm_init(&t->apm[i], &t->lg, t->apm_memory + (size_t)i * row, 1u << z->apm_log2);
    t->run_log2 = z->run_log2;
    t->direct_log2 = z->direct_log2;
    t->apm_log2 = z->apm_log2;
    start_matches(t, z);
}

static const vz_token_bits *bits_for(uint32_t cpu)
{
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX512) return &vz_token_bits_avx512;
    if (cpu & FV_CPU_AVX2) return &vz_token_bits_avx2;
#else
    (void)cpu;
#endif
    return &vz_token_bits_c;
}

/* ---- Contexts -------------------------------------------------------------------------------- */

/* The bytes above in the line before, and in the field of the same number. 0 behind its end. */
static uint32_t above_of(const vz_cm *c, uint32_t bytes)
{
    const vz_text *t = &c->text;
    uint32_t v = 0, at = t->line_prev + (c->pos - t->line_start);
    for (uint32_t i = 0; i < bytes; i++, at++) v = v << 8 | (at < t->line_start ? c->hist[at] : 0);
    return v;
}
static uint32_t above_field(const vz_cm *c, uint32_t bytes)
{
    const vz_text *t = &c->text;
    const uint32_t start = t->fields_prev[t->field];
    if (start == 0 && t->field > 0) return 0;
    uint32_t v = 0, at = start + (c->pos - t->field_start);
    for (uint32_t i = 0; i < bytes; i++, at++) v = v << 8 | (at < t->line_start ? c->hist[at] : 0);
    return v;
}

/* Context number n has the value v; the number keeps equal values of different contexts apart. */
#define ADD(v) (h[n] = vz_hash2((v), (uint32_t)(n + 1) * 0x3d4d51cbu), n++)

/* Of all classes. The ones at the front have runs. */
static int first_contexts(vz_token *t, uint32_t *h)
{
    const vz_cm *c = t->text;
    const vz_text *x = &c->text;
    const uint32_t c4 = c->c4, c1 = c4 & 0xff, *last = t->last;
    int n = 0;
    ADD(last[0]);
    ADD(vz_hash2(last[0], last[1]));
    ADD(c4 & 0xffffff);
    ADD(vz_hash2(x->word, c1));
    ADD(vz_hash2(t->after[last[0]], last[0]));
    if (c->is_prose) {
        ADD(vz_hash2(c4 & 0xffffff, x->word_prev));
        ADD(vz_hash2(x->word_prev, c1));
    } else {
        ADD(vz_hash2(above_field(c, 3), c1 | x->field << 8));
        ADD(vz_hash2(x->number | x->field << 16, x->key));
    }
    ADD(c1);
    return n;
}

static int middle_contexts(const vz_token *t, uint32_t *h, int n)
{
    const vz_cm *c = t->text;
    const vz_text *x = &c->text;
    const uint32_t c4 = c->c4, c1 = c4 & 0xff, *last = t->last;
    ADD(vz_hash2(vz_hash2(last[0], last[1]), last[2]));
    ADD(c4);
    ADD(vz_hash2(x->word, x->word_prev));
    ADD(0);
    ADD(c4 & 0xffff);
    ADD(vz_hash2(last[1], last[2]));
    if (c->is_prose) {
        ADD(vz_hash2(x->word, x->word_prev2));
        ADD(vz_hash2(x->folded, c1));
        ADD(c4 & 0xffff00);
        ADD(last[1]);
    } else {
        ADD(vz_hash2(above_of(c, 3), c1));
        ADD(vz_hash2(x->field_hash, x->key));
        ADD(vz_hash2(x->first, c->pos - x->line_start));
        ADD(vz_hash2(above_field(c, 2), x->field));
    }
    return n;
}

static void more_contexts(const vz_token *t, uint32_t *h, int n)
{
    const vz_cm *c = t->text;
    const vz_text *x = &c->text;
    const uint32_t c4 = c->c4, c8 = c->c8, c1 = c4 & 0xff, *last = t->last;
    ADD(vz_hash2(vz_hash2(last[0], last[1]), vz_hash2(last[2], last[3])));
    ADD(vz_hash2(c4, c8 & 0xffff));
    ADD(vz_hash2(x->column_kind & 0xffff, c1));
    if (c->is_prose) {
        ADD(vz_hash2(x->folded, x->folded_prev));
        ADD(vz_hash2(x->word, vz_hash2(x->word_prev, x->word_prev2)));
        ADD(vz_hash2(x->word, x->ending | c1 << 24));
        ADD(vz_hash2(x->first, c->pos - x->line_start));
        ADD(vz_hash2(last[1], c1));
        ADD(vz_hash2(above_of(c, 2), c1));
    } else {
        ADD(vz_hash2(x->folded, c1));
        ADD(vz_hash2(x->word_prev, c1));
        ADD(last[1]);
        ADD(c4 & 0xffff00);
        ADD(vz_hash2(x->word, x->word_prev2));
        ADD(vz_hash2(x->field_hash, x->field));
    }
}

static vz_token_run *run_of(const vz_token *t, int i)
{
    return t->run_table + (t->hash[i + VZ_TOKEN_FIRST_RUN] * 0x9e3779b1u >> (32 - t->run_log2));
}

/* Hashes all contexts and asks the cache for what use_contexts will read. */
static void seek_contexts(vz_token *t)
{
    const vz_token_shape s = vz_token_shapes[t->strength];
    const vz_text *x = &t->text->text;
    int n = first_contexts(t, t->hash);
    if (t->strength != VZ_CM_FAST) n = middle_contexts(t, t->hash, n);
    if (t->strength == VZ_CM_MAX) more_contexts(t, t->hash, n);
    for (int i = 0; i < s.contexts; i++) FV_PREFETCH(vz_slots_line(&t->slots, t->hash[i]));
    for (int i = 0; i < s.runs; i++) FV_PREFETCH(run_of(t, i));
    t->direct_line = vz_hash2(t->last[0], 1) >> (32 - t->direct_log2) & ~15u;
    FV_PREFETCH(t->direct[1] + t->direct_line);
    t->apm_base[0] = vz_hash2(t->text->c4 & 0xff, 1);
    t->apm_base[1] = vz_hash2(t->last[0], 2);
    t->apm_base[3] = vz_hash2(t->text->c4 & 0xffffff, 3);
    t->select[0] =
        (x->column_kind & 7) | (x->column_kind >> 1 & 0x38) | (x->column_kind >> 2 & 0xc0);
    t->select[1] = x->field < 31 ? x->field * 8 + (x->column_kind & 7) : 255;
}

static vz_way way_to(const vz_token *t, uint32_t piece)
{
    const vz_way w = {t->vocab->path[piece], true};
    return w;
}

static void use_contexts(vz_token *t)
{
    const vz_token_shape s = vz_token_shapes[t->strength];
    t->order = t->open_runs = 0;
    for (int i = 0; i < s.contexts; i++) {
        t->slot[i] = vz_slots_find(&t->slots, t->hash[i]);
        t->order += t->slot[i][1] != 0;
    }
    for (int i = 0; i < s.runs; i++) {
        const uint16_t check = (uint16_t)t->hash[i + VZ_TOKEN_FIRST_RUN];
        vz_token_run *r = t->run[i] = run_of(t, i);
        if (r->check != check) {
            r->check = check;
            r->count = 0;
        }
        t->run_rest[i] = t->vocab->path[r->piece];
        t->open_runs |= (uint32_t)(r->count > 0) << i;
    }
}

/* ---- Match model: cm_match.c for pieces ------------------------------------------------------ */

/* After a wrong piece the model goes on at the next beginning of a piece that is as far ahead as
 * the text has moved: tables and logs often differ in one field only. */
static void follow_match(const vz_token *t, vz_token_match *m, uint32_t piece, uint32_t length)
{
    const bool is_hit = t->piece_at[m->at] == piece;
    const uint32_t pos = t->text->pos;
    m->misses = (m->misses << 1 | !is_hit) & 0xffff;
    m->length = !is_hit ? 0 : m->length < VZ_MATCH_LONGEST ? m->length + length : m->length;
    m->at += length;
    while (m->at < pos && t->piece_at[m->at] == VZ_NO_PIECE) m->at++;
    if (m->at >= pos || vz_match_misses(m->misses) > 8) m->at = m->length = 0;
}

static void seek_match(vz_token_match *m, const uint8_t *bytes, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++) m->hash = m->hash * m->factor + bytes[i] + 1;
    m->entry = m->table + (m->hash * 0x9e3779b1u >> (32 - m->bits));
    FV_PREFETCH(m->entry);
}

static void use_match(const vz_token *t, vz_token_match *m, uint32_t piece, uint32_t length)
{
    const uint32_t pos = t->text->pos;
    if (m->at) follow_match(t, m, piece, length);
    if (m->length < VZ_MATCH_VERIFIED / 4 && *m->entry) {
        const uint32_t n = vz_match_common(t->text->hist, *m->entry, pos);
        if (n >= m->min_length && n > m->length) {
            m->at = *m->entry;
            m->length = n;
            m->misses = 0;
        }
    }
    *m->entry = pos;
    m->way.is_open = m->at != 0;
    if (m->at) m->way = way_to(t, t->piece_at[m->at]);
    m->bucket = vz_match_bucket(m->length, m->misses);
}

/* ---- One piece ------------------------------------------------------------------------------- */

/* Rates that learn fast from little, slowly from much. */
static void set_rates(vz_token *t)
{
    t->map_shift = t->decisions < 2048 ? 5 : t->decisions < 16384 ? 6 : 7;
    t->mixer.rate = PLANS[t->strength].rate +
                    (int32_t)((RATE_AT_START << 15) / ((1u << 15) + t->decisions / 4));
}

static void add_bytes(vz_token *t, const uint8_t *bytes, uint32_t length)
{
    vz_cm *c = t->text;
    for (uint32_t i = 0; i < length; i++) {
        c->hist[c->pos++] = bytes[i];
        c->c8 = c->c8 << 8 | c->c4 >> 24;
        c->c4 = c->c4 << 8 | bytes[i];
        vz_cm_text_byte(c, bytes[i]);
    }
}

/* In long matches the prior has nothing to add and sleeps; when it wakes it is told the last pieces
 * that it missed. */
static void tell_prior(vz_token *t, int matches)
{
    uint32_t longest = 0;
    if (!t->prior.piece) {
        t->is_asleep = true;
        return;
    }
    for (int i = 0; i < matches; i++)
        if (t->match[i].length > longest) longest = t->match[i].length;
    t->slept++;
    t->is_asleep = longest >= SLEEPS_FROM;
    if (t->is_asleep) return;
    if (t->slept > 4 && t->prior.skip) t->prior.skip(t->prior.user, t->slept - 4);
    for (uint32_t n = t->slept < 4 ? t->slept : 4; n > 0; n--)
        t->prior.piece(t->prior.user, t->last[n - 1]);
    t->slept = 0;
}

void vz_token_see_piece(vz_token *t, uint32_t piece)
{
    const vz_token_shape s = vz_token_shapes[t->strength];
    const uint8_t *bytes = t->vocab->text + t->vocab->begin[piece];
    const uint32_t length = (uint32_t)nn_vocab_length(t->vocab, (int)piece);
    uint16_t *at = t->piece_at + t->text->pos;
    if (length > t->end - t->text->pos) return;
    at[0] = (uint16_t)piece;
    for (uint32_t i = 1; i < length; i++) at[i] = VZ_NO_PIECE;
    add_bytes(t, bytes, length);
    for (int i = 0; i < s.matches; i++) seek_match(&t->match[i], bytes, length);
    t->after[t->last[0]] = t->after[t->last[0]] << 16 | piece;
    for (int i = 3; i > 0; i--) t->last[i] = t->last[i - 1];
    t->last[0] = piece;
    seek_contexts(t);
}

/* After the last decision of a piece that has been seen. */
static void end_piece(vz_token *t, uint32_t piece)
{
    const vz_token_shape s = vz_token_shapes[t->strength];
    const uint32_t length = (uint32_t)nn_vocab_length(t->vocab, (int)piece);
    set_rates(t);
    for (int i = 0; i < s.runs; i++) {
        vz_token_run *r = t->run[i];
        r->count = r->count && r->piece == piece ? r->count + (r->count < 255) : 1;
        r->piece = (uint16_t)piece;
    }
    for (int i = 0; i < s.matches; i++) use_match(t, &t->match[i], piece, length);
    tell_prior(t, s.matches);
    use_contexts(t);
}

/* ---- Segments -------------------------------------------------------------------------------- */

static void start_segment(vz_token *t, bool is_prose)
{
    vz_cm *c = t->text;
    c->is_prose = is_prose;
    memset(&c->text, 0, sizeof c->text);
    c->text.line_start = c->text.line_prev = c->text.field_start = c->pos;
    t->is_asleep = !t->prior.piece || t->slept > 0;
    set_rates(t);
    seek_contexts(t);
    use_contexts(t);
}

/* e NULL: learn only. */
static fv_status encode_segment(vz_token *t, vz_encoder *e, const uint8_t *data, size_t size)
{
    uint16_t *take = fv_alloc(t->ctx, NN_VOCAB_WINDOW * sizeof *take);
    fv_status s = take ? FV_OK : FV_ERR_OOM;
    const bool is_prose = vz_cm_is_prose(data, size);
    if (e) vz_encode_bit(e, 32768, is_prose);
    t->end = t->text->pos + (uint32_t)size;
    start_segment(t, is_prose);
    while (size > 0 && s == FV_OK) {
        const size_t n = size < NN_VOCAB_WINDOW ? size : NN_VOCAB_WINDOW;
        nn_vocab_cut(t->vocab, data, n, take);
        if (t->prior.ahead) t->prior.ahead(t->prior.user, take, n);
        for (size_t at = 0; at < n; at += (size_t)nn_vocab_length(t->vocab, take[at])) {
            t->bits->encode[t->strength](t, e, take[at]);
            end_piece(t, take[at]);
        }
        data += n;
        size -= n;
        if (e) s = fv_report(t->ctx, "coding", t->text->pos, 0, NULL);
    }
    fv_free(t->ctx, take);
    return s;
}

static fv_status decode_segment(vz_token *t, vz_decoder *d, size_t size)
{
    const uint32_t end = t->end = t->text->pos + (uint32_t)size;
    uint32_t report = t->text->pos;
    start_segment(t, vz_decode_bit(d, 32768));
    while (t->text->pos < end) {
        const uint32_t at = t->text->pos, piece = t->bits->decode[t->strength](t, d);
        if (d->past > 4)
            return fv_fail(t->ctx, FV_ERR_TRUNCATED, "vzip: the code of a block ends after %u of "
                           "%u bytes", (unsigned)t->text->pos, (unsigned)t->capacity);
        if (t->text->pos == at)
            return fv_fail(t->ctx, FV_ERR_FORMAT, "vzip: a text reaches over its end after %u "
                           "bytes", (unsigned)t->text->pos);
        end_piece(t, piece);
        if (t->text->pos - report < NN_VOCAB_WINDOW) continue;
        report = t->text->pos;
        FV_TRY(fv_report(t->ctx, "coding", t->text->pos, 0, NULL));
    }
    return FV_OK;
}

/* Learns the model's texts, all but the end of them without the prior, which takes more time. */
static fv_status replay(vz_token *t, const vz_token_model *model)
{
    uint64_t left = with_texts(model, 0);
    for (int i = 0; i < model->texts; i++) {
        const vz_cm_prime *p = &model->text[i];
        const uint64_t unread = left > model->prior_reads ? left - model->prior_reads : 0;
        const size_t first = unread < p->size ? (size_t)unread : p->size;
        t->prior = (vz_token_prior){NULL, NULL, NULL, NULL, NULL};
        if (first > 0) FV_TRY(encode_segment(t, NULL, p->data, first));
        t->prior = model->prior;
        if (first < p->size) FV_TRY(encode_segment(t, NULL, p->data + first, p->size - first));
        left -= p->size;
    }
    t->prior = model->prior;
    return FV_OK;
}

static fv_status create(fv_ctx *ctx, const vz_cm_options *o, const vz_token_model *model,
                        uint64_t size, vz_token **out)
{
    const uint64_t total = with_texts(model, size);
    if (total > VZ_CM_BLOCK_MAX || total < size)
        return fv_fail(ctx, FV_ERR_LIMIT, "vzip: a block of %llu bytes is too large for modelling",
                       (unsigned long long)total);
    const sizes z = sizes_of(o, model->tree, total);
    vz_token *t = fv_calloc(ctx, 1, sizeof *t);
    if (!t) return FV_ERR_OOM;
    t->ctx = ctx;
    t->strength = (vz_cm_class)vz_class_of(o->level);
    t->branch = model->tree->branch;
    t->vocab = model->tree->vocab;
    t->bits = bits_for(fv_ctx_cpu(ctx));
    t->capacity = (uint32_t)total;
    fv_status s = allocate(t, &z) ? FV_OK : FV_ERR_OOM;
    if (s == FV_OK) {
        start_models(t, model->tree, &z);
        s = replay(t, model);
    }
    if (s == FV_OK) *out = t;
    else release(t);
    return s;
}

static bool is_pieces(vz_kind kind) { return kind == VZ_PIECES; }

fv_status vz_token_encode(fv_ctx *ctx, const vz_cm_options *o, const vz_token_model *model,
                          const vz_segment *segs, int count, const uint8_t *data, vz_buf *out)
{
    uint64_t total;
    FV_TRY(vz_cm_total(ctx, segs, count, is_pieces, &total));
    if (total == 0) return FV_OK;
    vz_token *t;
    FV_TRY(create(ctx, o, model, total, &t));
    fv_status s = FV_OK;
    vz_encoder e;
    vz_encoder_init(&e, out);
    for (int i = 0; i < count && s == FV_OK; i++) {
        if (segs[i].kind == VZ_PIECES && segs[i].size > 0)
            s = encode_segment(t, &e, data, (size_t)segs[i].size);
        data += segs[i].size;
    }
    vz_encoder_flush(&e);
    release(t);
    return s == FV_OK ? out->status : s;
}

fv_status vz_token_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_token_model *model,
                          const vz_segment *segs, int count, const uint8_t *code, size_t code_size,
                          uint8_t *data)
{
    uint64_t total;
    FV_TRY(vz_cm_total(ctx, segs, count, is_pieces, &total));
    if (total == 0) return FV_OK;
    vz_token *t;
    FV_TRY(create(ctx, o, model, total, &t));
    fv_status s = FV_OK;
    vz_decoder d;
    vz_decoder_init(&d, code, code_size);
    for (int i = 0; i < count && s == FV_OK; i++) {
        if (segs[i].kind == VZ_PIECES && segs[i].size > 0) {
            const uint8_t *from = t->text->hist + t->text->pos;
            s = decode_segment(t, &d, (size_t)segs[i].size);
            if (s == FV_OK) memcpy(data, from, (size_t)segs[i].size);
        }
        data += segs[i].size;
    }
    release(t);
    return s;
}
