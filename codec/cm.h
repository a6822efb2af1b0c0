/* cm.h - the context-mixing coder of a block, shared by the cm*.c files.
 *
 * One bit at a time: every context of the current segment kind owns a slot of bit histories (one
 * byte each, cm_state.c); an adaptive map turns a history into a probability; a mixer whose weights
 * are sums over several contexts (cm_mix_body.h) weighs these, the match models and the direct
 * contexts; SSE stages correct the result. Inside of long repeats a byte is one bit. Contexts are
 * 32-bit hashes, made once per byte by the kind's function.
 *
 * All of it is part of the format: a change of any number here changes the bytes. */
#ifndef VZ_CM_H
#define VZ_CM_H

#include "cm_number.h"

/* What vz_class_of makes of a level. */
typedef enum vz_cm_class { VZ_CM_FAST = 0, VZ_CM_MID = 1, VZ_CM_MAX = 2 } vz_cm_class;

#define VZ_CM_EXTRA 2      /* inputs of a neural prior (cm_token.h) */
/* What a class has. inputs of a context: 1 logit, 2 also the probability itself. The first `runs`
 * contexts from VZ_CM_FIRST_RUN on also keep the byte that came last. */
typedef struct vz_cm_shape {
    int contexts, each, runs, direct, matches, selectors, apms, experts;
} vz_cm_shape;
static const vz_cm_shape vz_cm_shapes[3] = {
    {7, 1, 0, 1, 1, 2, 1, 5}, {14, 2, 0, 1, 2, 4, 3, 6}, {24, 2, 12, 2, 3, 6, 4, 6}};
#define VZ_CM_FIRST_RUN 2
/* Contexts, runs, direct, matches, experts for numbers, constant. */
FV_INLINE int vz_cm_inputs(vz_cm_shape s)
{
    return (s.contexts + s.direct) * s.each + s.runs + 2 * s.matches + s.experts + 1;
}
#define VZ_CM_NO_OPINION 0x80000000u /* in the maps: of the empty history, for ever */
#define VZ_CM_CONTEXTS 24
#define VZ_CM_MATCHES 3
#define VZ_CM_APMS 4
#define VZ_CM_FAMILIES 3   /* text, binary, machine code: statistics that are kept apart */

/* ---- Bit histories (cm_state.c) --------------------------------------------------------------
 * A number stands for (zeros, ones, last bit), both counts bounded; larger numbers have seen more.
 * 0: nothing seen. */
typedef struct vz_states {
    uint8_t next[2][256];
    uint16_t p16[256]; /* first guess of the probability of a 1 */
} vz_states;
void vz_states_init(vz_states *s);

/* ---- Match model (cm_match.c) ---------------------------------------------------------------- */
typedef struct vz_match {
    uint32_t *table, *entry; /* [2^bits] last position after a hash of the last bytes */
    int bits;
    uint32_t factor; /* of the rolling hash; its shift decides how many bytes count */
    uint32_t min_length;
    uint32_t hash, at, length, misses;
    uint32_t expected; /* 256 | byte; 0: no prediction, or it was wrong in this byte */
    uint32_t bucket;
    vz_prob map[32 * 4 * 4], *cell; /* [length][misses][place of the bit] */
} vz_match;
void vz_match_init(vz_match *m, uint32_t *table, int bits, int hash_shift, uint32_t min_length);
/* After byte c, in this order: asks the cache for the entry; then uses it. hist[0 .. pos) is the
 * past. */
void vz_match_seek(vz_match *m, uint32_t c);
void vz_match_byte(vz_match *m, const uint8_t *hist, uint32_t pos);

/* The same in the models of bytes and of pieces. Bytes alike before `at` and `pos`. */
#define VZ_MATCH_LONGEST 65535u
#define VZ_MATCH_VERIFIED 64u
FV_INLINE uint32_t vz_match_common(const uint8_t *hist, uint32_t at, uint32_t pos)
{
    uint32_t n = 0;
    while (n < VZ_MATCH_VERIFIED && n < at && hist[at - 1 - n] == hist[pos - 1 - n]) n++;
    return n;
}
FV_INLINE uint32_t vz_match_misses(uint32_t misses)
{
    uint32_t n = 0;
    for (; misses; misses &= misses - 1) n++;
    return n;
}
/* Confidence is learnt by this: [32 lengths][recent misses]. */
uint32_t vz_match_bucket(uint32_t length, uint32_t misses);

/* Bytes of the segments that `is_ours`, which may be 1 GiB. */
#define VZ_CM_BLOCK_MAX ((uint64_t)1 << 30)
fv_status vz_cm_total(fv_ctx *ctx, const vz_segment *segs, int count, bool (*is_ours)(vz_kind kind),
                      uint64_t *total);

/* ---- What a kind's function may look at ------------------------------------------------------ */
typedef struct vz_text {
    uint32_t word, word_prev, word_prev2, folded; /* hashes of letters; folded ignores case */
    uint32_t number;                   /* hash of the shape of the number being read */
    uint32_t line_start, line_prev;    /* positions */
    uint32_t first;                    /* first bytes of the line */
    uint32_t folded_prev, first_word;
    uint32_t ending;                   /* last 3 bytes of the word before */
    uint32_t indent, field, field_hash, field_start;
    uint32_t key, tag, quote, depth;   /* JSON key or XML tag that we are in */
    uint32_t fields_prev[64], fields_now[64]; /* start of each field in the line above, this one */
    uint32_t column_kind;
} vz_text;
typedef struct vz_code { /* a walk over instructions, cm_code.c */
    uint32_t state, left, immediate, op, modrm, prefix;
    uint32_t instruction;      /* hash of its bytes so far */
    uint32_t ops[8];
    uint32_t position;
} vz_code;
typedef struct vz_stride {
    uint32_t length;           /* bytes of a record; 0: none seen */
    uint32_t last[256], score[4], candidate[4];
    uint32_t start;            /* where the segment began, for the column */
} vz_stride;

#define VZ_ROWS_COLUMNS 64u
typedef struct vz_rows { /* a walk over the rows of a database, cm_rows.c */
    bool is_on;
    uint32_t start, page;      /* of the file, in the history; bytes of a page */
    uint32_t kind, cells, pointer, zone;
    uint32_t phase, slot, column, columns, left, value;
    uint32_t type[VZ_ROWS_COLUMNS];
    uint32_t begin[VZ_ROWS_COLUMNS + 8], above; /* of each slot, the last time; of this, before */
    uint8_t starts[8192];      /* bit i: a cell begins at byte i of the page */
} vz_rows;
bool vz_rows_begin_here(const uint8_t *data, size_t size);
void vz_rows_start(vz_rows *r, const uint8_t *head, uint32_t pos);
void vz_rows_byte(vz_rows *r, uint32_t c, uint32_t pos);

/* What followed a context last, and how often in a row; check is 16 bits of the hash. */
typedef struct vz_run {
    uint16_t check;
    uint8_t count, byte;
} vz_run;
#define VZ_CM_RUN_CELLS 64u /* [16 counts][4 places of the bit] */

/* Statistics of one family. */
typedef struct vz_family {
    uint32_t *maps;            /* [contexts][256] by history: 32-bit probability of a 1 */
    vz_prob *run_maps;         /* [runs][VZ_CM_RUN_CELLS]: that the run's bit is right */
    vz_mixer mixer;
    void *weights;             /* of the mixer */
    vz_apm apm[VZ_CM_APMS];
} vz_family;

struct vz_cm_bits;
typedef struct vz_cm {
    fv_ctx *ctx;
    vz_cm_class strength;
    vz_logistic lg;
    vz_states st;
    vz_slots slots;
    uint8_t *memory;           /* of all arrays */
    size_t zeroed_bytes;
    uint8_t *table;
    int table_log2, match_log2;
    uint8_t *hist;             /* bytes of all segments, transformed, without gaps */
    uint32_t pos, capacity, primed; /* primed: bytes of hist before the block's own */
    vz_kind kind;
    uint32_t param;
    bool is_prose;             /* of a text segment: other contexts instead of fields */
    vz_family family[VZ_CM_FAMILIES], *f;
    const vz_mix_ops *ops;
    const struct vz_cm_bits *bits;
    vz_numbers *numbers;       /* NULL: no table of records will come */
    bool is_number;            /* so is the next byte: a part of a number */
    bool has_layout;           /* the segment is one, and is coded with numbers */

    uint32_t c0, c4, c8;       /* node, last 4 bytes, the 4 before */
    uint32_t order;            /* how many of the contexts have been seen */
    uint32_t hash[VZ_CM_CONTEXTS];
    uint8_t *slot[VZ_CM_CONTEXTS];
    vz_run *run[VZ_CM_CONTEXTS], *run_table;
    vz_prob *run_cell[VZ_CM_CONTEXTS];
    uint32_t open_runs;        /* bit i: the bits so far agree with run i */
    int run_log2;
    vz_prob *direct[2], *direct_cell[2]; /* order 1, and order 2 hashed without check */
    uint32_t direct_base[2];
    int direct_log2;
    vz_match match[VZ_CM_MATCHES];
    int matches;
    vz_match *sure;            /* NULL, or the match whose byte comes next with near certainty */
    vz_prob sure_map[32];      /* by length: that it comes */
    bool is_ready;             /* contexts and slots are those of the next byte */
    uint32_t select[VZ_MIX_SELECTORS]; /* set by the kind's function once per byte */
    uint16_t indirect1[256], indirect2[65536];
    vz_text text;
    vz_code code;
    vz_stride stride;
    vz_rows rows;
    int apm_log2;
    uint32_t apm_base[VZ_CM_APMS];
    uint32_t map_shift;        /* rate of the maps: fast at first */
} vz_cm;

/* ---- Bits (cm_bits_body.h, once per instruction set) ----------------------------------------- */
typedef struct vz_cm_bits {
    /* e NULL: learn only */
    void (*encode[3])(vz_cm *cm, vz_encoder *e, uint32_t c); /* [vz_cm_class] */
    uint32_t (*decode[3])(vz_cm *cm, vz_decoder *d);
} vz_cm_bits;
extern const vz_cm_bits vz_cm_bits_c, vz_cm_bits_avx2, vz_cm_bits_avx512;
/* When byte c is known, in this order: history and contexts, which asks the cache for what the next
 * byte needs, before its last bit is learnt; then its slots (cm.c). */
void vz_cm_see_byte(vz_cm *cm, uint32_t c);
void vz_cm_end_byte(vz_cm *cm, uint32_t c);

/* For tables that are read at random: with pages of 2 MiB an access costs one cache miss instead of
 * two. A hint only, so its failure does not matter. */
void vz_use_large_pages(void *memory, size_t bytes);

/* Before the first bit of a byte that cm->sure did not predict after all (cm.c). */
void vz_cm_unsure(vz_cm *cm);

/* Fill cm->hash[] for the next byte and cm->select[]. */
void vz_cm_text_contexts(vz_cm *cm);
void vz_cm_binary_contexts(vz_cm *cm);
void vz_cm_code_contexts(vz_cm *cm);
/* Look at the byte that was just coded. */
void vz_cm_text_byte(vz_cm *cm, uint32_t c);
bool vz_cm_is_prose(const uint8_t *data, size_t size);
void vz_cm_word_byte(vz_cm *cm, uint32_t c); /* words only: strings in binary data */
void vz_cm_code_byte(vz_cm *cm, uint32_t c);
void vz_cm_stride_byte(vz_cm *cm, uint32_t c);

/* Train on bytes without coding: what a block's past would have left behind. They take room of
 * hist: create() must be asked for it, what does not fit is left out. */
void vz_cm_replay(vz_cm *cm, vz_kind kind, uint32_t param, const uint8_t *data, size_t size);

/* ---- Machine code (cm_exe.c): relative call and jump targets <-> absolute, in place ---------- */
void vz_exe_x86(uint8_t *data, size_t size, bool forward);
void vz_exe_arm64(uint8_t *data, size_t size, bool forward);

#endif
