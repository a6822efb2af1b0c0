/* cm.c - the engine of the context-mixing coder: memory, prediction and update of one bit, blocks.
 *
 * Encoder and decoder run the same predict() and update(); only the source of the bit differs.
 *
 *     code = range-coded bits of all segments of the block, one after the other
 *
 * Each text segment begins with one bit of probability 1/2: whether it is prose. Targets in machine
 * code are made absolute first (cm_exe.c). */
#if defined(__linux__)
#define _DEFAULT_SOURCE /* madvise */
#include <sys/mman.h>
#endif

#include "cm.h"

#include <string.h>

#define RATE_AT_START 300u

/* Sizes and rates that the bit loop does not need as constants. */
typedef struct plan {
    uint32_t groups[VZ_MIX_SELECTORS];
    int run_log2, match_log2, apm_log2; /* of the tables, at most */
    int32_t first_weight, rate; /* of the mixer */
} plan;
static const plan PLANS[3] = {
    {{256, 512}, 0, 20, 15, 12000, 120},
    {{256, 512, 256, 2048}, 0, 20, 15, 7000, 60},
    {{256, 512, 256, 2048, 512, 2048}, 22, 22, 16, 5400, 50},
};
/* From these lengths of a match on its byte is coded as one bit, without any context: several times
 * as fast, and no larger where data repeats for long. Shorter limits cost up to 15 % in logs. */
static const uint32_t SURE_LENGTH[3] = {64, 400, 65536};
#define MIX2_CONTEXTS 1u
#define HAS_RECORDS VZ_CM_FAMILIES /* bit of `families`: one is VZ_RECORDS */

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Small inputs get small tables: clearing them would take longer than coding. Two slots of 16 bytes
 * per context and byte is what a file without repetition fills. */
static int table_log2(const vz_cm_options *o, vz_cm_class k, uint64_t total)
{
    return vz_log2_within(total * (uint64_t)vz_cm_shapes[k].contexts * 32, 16, o->memory_log2);
}
#define DIRECT_LOG2(total) vz_log2_within((total) * 16, 12, 20)
#define RUN_LOG2(p, total) vz_log2_within((total) * 2, 10, (p)->run_log2)

/* All memory is one piece, so that large pages hold all of it. With a NULL base only its size is
 * counted. */
typedef struct arena {
    uint8_t *base;
    size_t bytes;
} arena;
static void *take(arena *a, size_t bytes)
{
    void *p = a->base ? a->base + a->bytes : NULL;
    a->bytes += (bytes + 63) / 64 * 64;
    return p;
}

static void place_family(arena *a, const vz_cm *cm, vz_family *f)
{
    const plan *p = &PLANS[cm->strength];
    const vz_cm_shape s = vz_cm_shapes[cm->strength];
    f->maps = take(a, (size_t)s.contexts * 256 * sizeof *f->maps);
    f->run_maps = take(a, (size_t)s.runs * VZ_CM_RUN_CELLS * sizeof(vz_prob));
    f->weights = take(a, vz_mixer_bytes(vz_cm_inputs(s), s.selectors, p->groups, MIX2_CONTEXTS));
    for (int i = 0; i < s.apms; i++) f->apm[i].t = take(a, vz_apm_bytes(1u << cm->apm_log2));
}

/* Sizes for a block of `total` bytes, and places of all arrays. families: bit i set: a segment of
 * family i will come. Returns the bytes. */
static size_t place(vz_cm *cm, const vz_cm_options *o, uint64_t total, uint32_t families,
                    uint8_t *base)
{
    arena a = {base, 0};
    cm->strength = (vz_cm_class)vz_class_of(o->level);
    const plan *p = &PLANS[cm->strength];
    const vz_cm_shape s = vz_cm_shapes[cm->strength];
    cm->matches = s.matches;
    cm->table_log2 = table_log2(o, cm->strength, total);
    cm->match_log2 = vz_log2_within(total, 10, p->match_log2);
    cm->direct_log2 = DIRECT_LOG2(total);
    cm->apm_log2 = vz_log2_within(total, 10, p->apm_log2);
    cm->run_log2 = RUN_LOG2(p, total);
    cm->table = take(&a, (size_t)1 << cm->table_log2);
    if (s.runs) cm->run_table = take(&a, sizeof(vz_run) << cm->run_log2);
    for (int i = 0; i < s.matches; i++)
        cm->match[i].table = take(&a, sizeof(uint32_t) << cm->match_log2);
    cm->zeroed_bytes = a.bytes; /* what begins as zeros */
    cm->direct[0] = take(&a, ((size_t)1 << 16) * sizeof(vz_prob));
    if (s.direct > 1) cm->direct[1] = take(&a, sizeof(vz_prob) << cm->direct_log2);
    for (int i = 0; i < VZ_CM_FAMILIES; i++)
        if (families >> i & 1) place_family(&a, cm, &cm->family[i]);
    if (families >> HAS_RECORDS & 1) cm->numbers = take(&a, sizeof *cm->numbers);
    cm->hist = take(&a, (size_t)total + 8);
    return a.bytes;
}

uint64_t vz_cm_memory(const vz_cm_options *o, uint64_t size)
{
    vz_cm cm; /* for its sizes only */
    size += vz_prime_bytes(o, size);
    if (size > VZ_CM_BLOCK_MAX) size = VZ_CM_BLOCK_MAX;
    memset(&cm, 0, sizeof cm);
    return sizeof cm + place(&cm, o, size, (2u << HAS_RECORDS) - 1, NULL) + 256;
}

static void release(vz_cm *cm)
{
    fv_free(cm->ctx, cm->memory);
    fv_free(cm->ctx, cm);
}

static void start_family(vz_cm *cm, vz_family *f)
{
    const plan *p = &PLANS[cm->strength];
    const vz_cm_shape s = vz_cm_shapes[cm->strength];
    for (int i = 0; i < s.contexts * 256; i++)
        f->maps[i] = i % 256 ? (uint32_t)cm->st.p16[i & 255] << 16 : VZ_CM_NO_OPINION;
    for (uint32_t i = 0; i < (uint32_t)s.runs * VZ_CM_RUN_CELLS; i++)
        f->run_maps[i] = vz_prob_of(40000 + 1600 * (i / 4 % 16), 0);
    vz_mixer_init(&f->mixer, cm->ops, &cm->lg, f->weights, vz_cm_inputs(s), s.selectors, p->groups,
                  MIX2_CONTEXTS, p->first_weight);
    for (int i = 0; i < s.apms; i++)
        vz_apm_init(&f->apm[i], &cm->lg, f->apm[i].t, 1u << cm->apm_log2);
}

static int family_of(vz_kind kind)
{
    return kind == VZ_TEXT ? 0 : kind == VZ_X86 || kind == VZ_ARM64 ? 2 : 1;
}

/* Rates that learn fast from little, slowly from much. */
static uint32_t map_shift(uint32_t pos) { return pos < 512 ? 5 : pos < 4096 ? 6 : 7; }
static int32_t mixer_rate(int32_t rate, uint32_t pos)
{
    return rate + (int32_t)((RATE_AT_START << 15) / ((1u << 15) + pos));
}

void vz_use_large_pages(void *memory, size_t bytes)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const size_t page = (size_t)1 << 21, skip = (page - (uintptr_t)memory % page) % page;
    if (bytes >= 2 * page)
        (void)madvise((uint8_t *)memory + skip, (bytes - skip) / page * page, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)bytes;
#endif
}

static void start_models(vz_cm *cm, uint32_t families)
{
    static const int SHIFT[3][VZ_CM_MATCHES] = {{5, 0, 0}, {6, 3, 0}, {8, 5, 2}};
    static const uint32_t LENGTH[3][VZ_CM_MATCHES] = {{6, 0, 0}, {5, 12, 0}, {4, 7, 16}};
    vz_logistic_init(&cm->lg);
    vz_states_init(&cm->st);
    vz_slots_init(&cm->slots, cm->table, cm->table_log2);
    for (int i = 0; i < cm->matches; i++)
        vz_match_init(&cm->match[i], cm->match[i].table, cm->match_log2,
                      SHIFT[cm->strength][i], LENGTH[cm->strength][i]);
    for (uint32_t k = 0; k < 1u << 16; k++) cm->direct[0][k] = vz_prob_of(32768, 0);
    for (uint32_t k = 0; cm->direct[1] && k < 1u << cm->direct_log2; k++)
        cm->direct[1][k] = vz_prob_of(32768, 0);
    for (int i = 0; i < VZ_CM_FAMILIES; i++)
        if (families >> i & 1) start_family(cm, &cm->family[i]);
    for (int i = 0; i < 32; i++) cm->sure_map[i] = vz_prob_of(65000, 0);
    cm->c0 = 1;
    cm->map_shift = map_shift(0);
}

static const vz_cm_bits *bits_for(uint32_t cpu)
{
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX512) return &vz_cm_bits_avx512;
    if (cpu & FV_CPU_AVX2) return &vz_cm_bits_avx2;
#else
    (void)cpu;
#endif
    return &vz_cm_bits_c;
}

static fv_status create(fv_ctx *ctx, const vz_cm_options *o, uint64_t total, uint32_t families,
                        vz_cm **out)
{
    if (total > VZ_CM_BLOCK_MAX)
        return fv_fail(ctx, FV_ERR_LIMIT, "vzip: a block of %llu bytes is too large for modelling",
                       (unsigned long long)total);
    vz_cm *cm = fv_calloc(ctx, 1, sizeof *cm);
    if (!cm) return FV_ERR_OOM;
    cm->ctx = ctx;
    const size_t bytes = place(cm, o, total, families, NULL);
    cm->memory = fv_alloc(ctx, bytes);
    if (!cm->memory) {
        fv_free(ctx, cm);
        return FV_ERR_OOM;
    }
    vz_use_large_pages(cm->memory, bytes);
    place(cm, o, total, families, cm->memory);
    memset(cm->memory, 0, cm->zeroed_bytes);
    cm->ops = vz_mix_ops_for(fv_ctx_cpu(ctx));
    cm->bits = bits_for(fv_ctx_cpu(ctx));
    cm->capacity = (uint32_t)total;
    start_models(cm, families);
    *out = cm;
    return FV_OK;
}

/* ---- One byte -------------------------------------------------------------------------------- */

static vz_run *run_of(const vz_cm *cm, int i)
{
    const uint32_t h = cm->hash[i + VZ_CM_FIRST_RUN];
    return cm->run_table + (h * 0x9e3779b1u >> (32 - cm->run_log2));
}

static void set_runs(vz_cm *cm)
{
    const int runs = vz_cm_shapes[cm->strength].runs;
    cm->open_runs = 0;
    for (int i = 0; i < runs; i++) {
        const uint32_t h = cm->hash[i + VZ_CM_FIRST_RUN];
        vz_run *r = run_of(cm, i);
        if (r->check != (h & 0xffff)) {
            r->check = (uint16_t)h;
            r->count = 0;
        }
        cm->run[i] = r;
    }
    /* Last, since two of them may share one place. */
    for (int i = 0; i < runs; i++) cm->open_runs |= (uint32_t)(cm->run[i]->count > 0) << i;
}

static void update_runs(vz_cm *cm, uint32_t c)
{
    const int runs = vz_cm_shapes[cm->strength].runs;
    for (int i = 0; i < runs; i++) {
        vz_run *r = cm->run[i];
        if (r->count && r->byte == c) {
            if (r->count < 255) r->count++;
        } else {
            r->count = 1;
            r->byte = (uint8_t)c;
        }
    }
}

/* Asks the cache for what set_slots and set_runs will read. */
static void seek_slots(const vz_cm *cm)
{
    const vz_cm_shape s = vz_cm_shapes[cm->strength];
    for (int i = 0; i < s.contexts; i++) FV_PREFETCH(vz_slots_line(&cm->slots, cm->hash[i]));
    for (int i = 0; i < s.runs; i++) FV_PREFETCH(run_of(cm, i));
}

static void set_slots(vz_cm *cm)
{
    const int n = vz_cm_shapes[cm->strength].contexts;
    cm->order = 0;
    for (int i = 0; i < n; i++) {
        cm->slot[i] = vz_slots_find(&cm->slots, cm->hash[i]);
        cm->order += cm->slot[i][1] != 0;
    }
}

static void next_contexts(vz_cm *cm)
{
    switch (family_of(cm->kind)) {
    case 0: vz_cm_text_contexts(cm); break;
    case 1: vz_cm_binary_contexts(cm); break;
    default: vz_cm_code_contexts(cm);
    }
    cm->direct_base[0] = (cm->c4 & 255) << 8;
    cm->direct_base[1] = vz_hash2(cm->c4 & 0xffff, 0) >> (32 - cm->direct_log2);
    cm->apm_base[0] = vz_hash2(cm->c4 & 0xff, 1);
    cm->apm_base[1] = vz_hash2(cm->c4 & 0xffff, 2);
    cm->apm_base[3] = vz_hash2(cm->c4 & 0xffffff, 3);
    seek_slots(cm);
}

/* A match so long that its byte is coded as one bit: it came or not. */
static vz_match *find_sure(vz_cm *cm)
{
    vz_match *m = &cm->match[cm->matches - 1];
    return m->expected && m->length >= SURE_LENGTH[cm->strength] ? m : NULL;
}

void vz_cm_see_byte(vz_cm *cm, uint32_t c)
{
    cm->hist[cm->pos++] = (uint8_t)c;
    cm->c8 = cm->c8 << 8 | cm->c4 >> 24;
    cm->indirect2[cm->c4 & 0xffff] = (uint16_t)(cm->indirect2[cm->c4 & 0xffff] << 8 | c);
    cm->indirect1[cm->c4 & 255] = (uint16_t)(cm->indirect1[cm->c4 & 255] << 8 | c);
    cm->c4 = cm->c4 << 8 | c;
    cm->c0 = 1;
    for (int i = 0; i < cm->matches; i++) vz_match_seek(&cm->match[i], c);
    if (cm->kind == VZ_TEXT) {
        vz_cm_text_byte(cm, c);
    } else {
        vz_cm_stride_byte(cm, c);
        vz_cm_word_byte(cm, c);
        if (cm->rows.is_on) vz_rows_byte(&cm->rows, c, cm->pos);
        else if (cm->kind == VZ_BINARY && cm->pos - cm->stride.start == 512)
            vz_rows_start(&cm->rows, cm->hist + cm->stride.start, cm->stride.start);
    }
    if (cm->kind == VZ_X86 || cm->kind == VZ_ARM64) vz_cm_code_byte(cm, c);
    if (cm->has_layout) {
        vz_numbers_byte(&cm->lg, cm->numbers, c);
        cm->is_number = cm->numbers->type != VZ_NO_NUMBER;
    }
    if (!cm->sure) next_contexts(cm);
}

void vz_cm_end_byte(vz_cm *cm, uint32_t c)
{
    const bool was_sure = cm->sure != NULL;
    cm->f->mixer.rate = mixer_rate(PLANS[cm->strength].rate, cm->pos - 1);
    cm->map_shift = map_shift(cm->pos - 1);
    if (cm->is_ready) update_runs(cm, c);
    for (int i = 0; i < cm->matches; i++) vz_match_byte(&cm->match[i], cm->hist, cm->pos);
    cm->sure = find_sure(cm);
    cm->is_ready = !cm->sure;
    if (cm->sure) return;
    if (was_sure) next_contexts(cm);
    set_slots(cm);
    set_runs(cm);
}

/* The sure byte did not come: now all contexts are needed, without what predicted it. */
void vz_cm_unsure(vz_cm *cm)
{
    const uint32_t wrong = cm->sure->expected;
    for (int i = 0; i < cm->matches; i++)
        if (cm->match[i].expected == wrong) cm->match[i].expected = 0;
    cm->sure = NULL;
    cm->is_ready = true;
    next_contexts(cm);
    set_slots(cm);
    set_runs(cm);
}

/* ---- Segments -------------------------------------------------------------------------------- */

/* Numbers are on if cm->numbers->layout says so and kind is VZ_RECORDS. */
static void start_numbers(vz_cm *cm, uint64_t size)
{
    cm->has_layout = cm->is_number = false;
    memset(cm->f->mixer.x, 0, (size_t)cm->f->mixer.n * sizeof *cm->f->mixer.x);
    if (cm->kind != VZ_RECORDS || !cm->numbers || cm->numbers->layout.length == 0) return;
    cm->has_layout = true;
    vz_numbers_start(cm->numbers, size);
    cm->is_number = cm->numbers->type != VZ_NO_NUMBER;
}

static void start_segment(vz_cm *cm, vz_kind kind, uint32_t param, bool is_prose, uint64_t size)
{
    cm->is_prose = is_prose;
    cm->kind = kind;
    cm->param = param;
    cm->f = &cm->family[family_of(kind)];
    memset(&cm->text, 0, sizeof cm->text);
    memset(&cm->code, 0, sizeof cm->code);
    memset(&cm->stride, 0, sizeof cm->stride);
    cm->text.line_start = cm->text.line_prev = cm->text.field_start = cm->pos;
    cm->stride.start = cm->pos;
    start_numbers(cm, size);
    cm->rows.is_on = false;
    cm->sure = NULL;
    cm->is_ready = true;
    next_contexts(cm);
    set_slots(cm);
    set_runs(cm);
}

void vz_cm_replay(vz_cm *cm, vz_kind kind, uint32_t param, const uint8_t *data, size_t size)
{
    if (size > cm->capacity - cm->pos) size = cm->capacity - cm->pos;
    if (cm->numbers) cm->numbers->layout.length = 0;
    start_segment(cm, kind, param, kind == VZ_TEXT && vz_cm_is_prose(data, size), size);
    for (size_t k = 0; k < size; k++) cm->bits->encode[cm->strength](cm, NULL, data[k]);
}

static void transform(const vz_cm *cm, const vz_segment *s, uint8_t *data, bool forward)
{
    const size_t size = (size_t)s->size;
    if (s->kind == VZ_X86) vz_exe_x86(data, size, forward);
    if (s->kind == VZ_ARM64) vz_exe_arm64(data, size, forward);
    if (s->kind == VZ_RECORDS) vz_layout_apply(&cm->numbers->layout, data, size, forward);
}

/* What the model brings is learnt as if it had been coded before the block. */
static void replay_primes(vz_cm *cm, const vz_cm_options *o, uint64_t total)
{
    vz_cm_prime list[VZ_PRIMES];
    const int n = vz_prime_list(o, total, list);
    for (int i = 0; i < n; i++)
        vz_cm_replay(cm, list[i].kind, list[i].param, list[i].data, list[i].size);
    cm->primed = cm->pos;
}

/* For `total` bytes of segments, with the primes learnt. */
static fv_status create_primed(fv_ctx *ctx, const vz_cm_options *o, uint64_t total,
                               uint32_t families, vz_cm **out)
{
    vz_cm_prime list[VZ_PRIMES];
    const int n = vz_prime_list(o, total, list);
    for (int i = 0; i < n; i++) families |= 1u << family_of(list[i].kind);
    FV_TRY(create(ctx, o, total + vz_prime_bytes(o, total), families, out));
    replay_primes(*out, o, total);
    return FV_OK;
}

fv_status vz_cm_total(fv_ctx *ctx, const vz_segment *segs, int count, bool (*is_ours)(vz_kind kind),
                      uint64_t *total)
{
    *total = 0;
    for (int i = 0; i < count; i++) {
        if (!is_ours(segs[i].kind)) continue;
        if (segs[i].size > VZ_CM_BLOCK_MAX || *total + segs[i].size > VZ_CM_BLOCK_MAX)
            return fv_fail(ctx, FV_ERR_LIMIT, "vzip: the segments of a block are larger than "
                           "1 GiB");
        *total += segs[i].size;
    }
    return FV_OK;
}

static fv_status total_of(fv_ctx *ctx, const vz_segment *segs, int count, uint64_t *total,
                          uint32_t *families)
{
    *families = 0;
    for (int i = 0; i < count; i++) {
        if (!vz_kind_is_cm(segs[i].kind)) continue;
        *families |= 1u << family_of(segs[i].kind);
        if (segs[i].kind == VZ_RECORDS) *families |= 1u << HAS_RECORDS;
    }
    return vz_cm_total(ctx, segs, count, vz_kind_is_cm, total);
}

#define REPORT_BYTES ((size_t)1 << 15)

/* Bytes of a segment, already in the history's room. */
static fv_status encode_bytes(vz_cm *cm, vz_encoder *e, const uint8_t *data, size_t size)
{
    for (size_t k = 0; k < size; k++) {
        cm->bits->encode[cm->strength](cm, e, data[k]);
        if (cm->pos % REPORT_BYTES == 0)
            FV_TRY(fv_report(cm->ctx, "coding", cm->pos - cm->primed, 0, NULL));
    }
    return e->out->status;
}

fv_status vz_cm_encode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                       const uint8_t *data, vz_buf *out)
{
    uint64_t total;
    uint32_t families;
    FV_TRY(total_of(ctx, segs, count, &total, &families));
    if (total == 0) return FV_OK;
    vz_cm *cm;
    FV_TRY(create_primed(ctx, o, total, families, &cm));
    fv_status s = FV_OK;
    vz_encoder e;
    vz_encoder_init(&e, out);
    for (int i = 0; i < count && s == FV_OK; i++) {
        const vz_segment *g = &segs[i];
        if (vz_kind_is_cm(g->kind) && g->size > 0) {
            uint8_t *copy = cm->hist + cm->pos;
            memcpy(copy, data, (size_t)g->size);
            const bool is_prose = g->kind == VZ_TEXT && vz_cm_is_prose(copy, (size_t)g->size);
            if (g->kind == VZ_TEXT) vz_encode_bit(&e, 32768, is_prose);
            if (g->kind == VZ_RECORDS) {
                vz_layout_cost(copy, (size_t)g->size, g->param, &cm->numbers->layout);
                vz_layout_put(&cm->numbers->layout, &e);
            }
            transform(cm, g, copy, true);
            start_segment(cm, g->kind, g->param, is_prose, g->size);
            s = encode_bytes(cm, &e, copy, (size_t)g->size);
        }
        data += g->size;
    }
    if (s == FV_OK) s = fv_report(ctx, "coding", total, 0, NULL);
    vz_encoder_flush(&e);
    release(cm);
    return s == FV_OK ? out->status : s;
}

static fv_status decode_bytes(vz_cm *cm, vz_decoder *d, size_t size)
{
    for (size_t k = 0; k < size; k++) {
        cm->bits->decode[cm->strength](cm, d);
        if (d->past > 4)
            return fv_fail(cm->ctx, FV_ERR_TRUNCATED, "vzip: the code of a block ends after %u of "
                           "%u bytes", (unsigned)(cm->pos - cm->primed),
                           (unsigned)(cm->capacity - cm->primed));
        if (cm->pos % REPORT_BYTES == 0)
            FV_TRY(fv_report(cm->ctx, "coding", cm->pos - cm->primed, 0, NULL));
    }
    return FV_OK;
}

fv_status vz_cm_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                       const uint8_t *code, size_t code_size, uint8_t *data)
{
    uint64_t total;
    uint32_t families;
    FV_TRY(total_of(ctx, segs, count, &total, &families));
    if (total == 0) return FV_OK;
    vz_cm *cm;
    FV_TRY(create_primed(ctx, o, total, families, &cm));
    fv_status s = FV_OK;
    vz_decoder d;
    vz_decoder_init(&d, code, code_size);
    for (int i = 0; i < count && s == FV_OK; i++) {
        const vz_segment *g = &segs[i];
        if (vz_kind_is_cm(g->kind) && g->size > 0) {
            const uint8_t *from = cm->hist + cm->pos;
            const bool is_prose = g->kind == VZ_TEXT && vz_decode_bit(&d, 32768);
            if (g->kind == VZ_RECORDS) vz_layout_get(&cm->numbers->layout, g->param, &d);
            start_segment(cm, g->kind, g->param, is_prose, g->size);
            s = decode_bytes(cm, &d, (size_t)g->size);
            if (s == FV_OK) {
                memcpy(data, from, (size_t)g->size);
                transform(cm, g, data, false);
            }
        }
        data += g->size;
    }
    if (s == FV_OK) s = fv_report(ctx, "coding", total, 0, NULL);
    release(cm);
    return s;
}
