/* deflate_frozen.c - zlib's deflate, frozen, so that compressed pictures come back bit for bit.
 *
 * PNG and zip hold deflate streams. vzip keeps what they hold and the parameters with which this
 * code makes the same stream again. The system's zlib will not do: zlib-ng and others make
 * different bytes by design. Never change what this file computes: archives depend on it.
 *
 * Derived from deflate.c and trees.c of zlib 1.3.1, altered: one call over all input, output into a
 * growing buffer, tables built in the state, no streams, dictionaries, flushes, stored level or
 * checksums. The output of levels 1 to 9 has been the same since 1.2.0.
 *
 *   Copyright (C) 1995-2024 Jean-loup Gailly and Mark Adler
 *
 *   This software is provided 'as-is', without any express or implied warranty.  In no event will
 * the authors be held liable for any damages arising from the use of this software.
 *
 *   Permission is granted to anyone to use this software for any purpose, including commercial
 *   applications, and to alter it and redistribute it freely, subject to the following
 * restrictions:
 *
 *   1. The origin of this software must not be misrepresented; you must not claim that you wrote
 * the original software. If you use this software in a product, an acknowledgment in the product
 *      documentation would be appreciated but is not required.
 *   2. Altered source versions must be plainly marked as such, and must not be misrepresented as
 *      being the original software.
 *   3. This notice may not be removed or altered from any source distribution. */
#include "deflate_frozen.h"

#include <string.h>

#define MIN_MATCH 3
#define MAX_MATCH 258
#define MIN_LOOKAHEAD (MAX_MATCH + MIN_MATCH + 1)
#define TOO_FAR 4096
#define MAX_BITS 15
#define L_CODES 286
#define D_CODES 30
#define BL_CODES 19
#define LITERALS 256
#define HEAP_SIZE (2 * L_CODES + 1)
#define END_BLOCK 256
#define REP_3_6 16
#define REPZ_3_10 17
#define REPZ_11_138 18
enum { STRATEGY_DEFAULT, STRATEGY_FILTERED, STRATEGY_HUFFMAN, STRATEGY_RLE, STRATEGY_FIXED };

typedef struct ct {
    uint16_t fc; /* frequency, then code */
    uint16_t dl; /* father, then length */
} ct;
typedef struct static_tree {
    const ct *tree;
    const uint8_t *extra;
    int extra_base, elems, max_length;
} static_tree;
typedef struct tree_desc {
    ct *tree;
    int max_code;
    static_tree stat;
} tree_desc;

static const uint8_t EXTRA_L[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                    2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint8_t EXTRA_D[D_CODES] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                         6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
static const uint8_t EXTRA_BL[BL_CODES] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 7};
static const uint8_t BL_ORDER[BL_CODES] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                           11, 4,  12, 3, 13, 2, 14, 1, 15};
/* good, lazy, nice, chain by level */
static const uint16_t CONFIG[10][4] = {{0, 0, 0, 0},        {4, 4, 8, 4},      {4, 5, 16, 8},
                                       {4, 6, 32, 32},      {4, 4, 16, 16},    {8, 16, 32, 32},
                                       {8, 16, 128, 128},   {8, 32, 128, 256}, {32, 128, 258, 1024},
                                       {32, 258, 258, 4096}};

typedef struct state {
    vz_buf *out;
    const uint8_t *in;
    size_t in_left;
    int strategy;
    uint32_t w_size, w_mask, window_size, hash_mask, hash_shift;
    uint32_t ins_h, strstart, match_start, match_length, prev_match, prev_length, lookahead;
    uint32_t good_match, max_lazy, max_chain;
    int32_t nice_match;
    bool match_available;
    int64_t block_start;
    uint8_t *window;
    uint16_t *prev, *head, *sym_d;
    uint8_t *sym_lc;
    uint32_t hash_size, sym_next, sym_end;
    ct dyn_ltree[HEAP_SIZE], dyn_dtree[2 * D_CODES + 1], bl_tree[2 * BL_CODES + 1];
    ct static_ltree[L_CODES + 2], static_dtree[D_CODES];
    tree_desc l_desc, d_desc, bl_desc;
    uint16_t bl_count[MAX_BITS + 1];
    int heap[HEAP_SIZE], heap_len, heap_max;
    uint8_t depth[HEAP_SIZE];
    uint32_t opt_len, static_len;
    uint64_t bits;
    int bit_count;
    uint8_t length_code[256], dist_code[512];
    int base_length[29], base_dist[D_CODES];
} state;

/* ---- Bits ------------------------------------------------------------------------------------ */

static void send_bits(state *s, uint32_t value, int length)
{
    s->bits |= (uint64_t)value << s->bit_count;
    s->bit_count += length;
    while (s->bit_count >= 8) {
        vz_buf_byte(s->out, (uint8_t)s->bits);
        s->bits >>= 8;
        s->bit_count -= 8;
    }
}
static void send_code(state *s, int c, const ct *tree)
{
    send_bits(s, tree[c].fc, tree[c].dl);
}
static void windup(state *s)
{
    if (s->bit_count > 0) send_bits(s, 0, 8 - s->bit_count);
}
static uint32_t reverse(uint32_t code, int len)
{
    uint32_t r = 0;
    for (int i = 0; i < len; i++) r |= (code >> i & 1) << (len - 1 - i);
    return r;
}

/* ---- Trees
 * --------------------------------------------------------------------------------------- */

static void gen_codes(ct *tree, int max_code, const uint16_t *bl_count)
{
    uint16_t next[MAX_BITS + 1];
    uint32_t code = 0;
    for (int bits = 1; bits <= MAX_BITS; bits++) {
        code = (code + bl_count[bits - 1]) << 1;
        next[bits] = (uint16_t)code;
    }
    for (int n = 0; n <= max_code; n++)
        if (tree[n].dl != 0) tree[n].fc = (uint16_t)reverse(next[tree[n].dl]++, tree[n].dl);
}

static void build_static(state *s)
{
    uint16_t count[MAX_BITS + 1] = {0};
    int length = 0, dist = 0, code;
    for (code = 0; code < 28; code++) {
        s->base_length[code] = length;
        for (int n = 0; n < 1 << EXTRA_L[code]; n++) s->length_code[length++] = (uint8_t)code;
    }
    s->length_code[255] = 28;
    s->base_length[28] = 0;
    for (code = 0; code < 16; code++) {
        s->base_dist[code] = dist;
        for (int n = 0; n < 1 << EXTRA_D[code]; n++) s->dist_code[dist++] = (uint8_t)code;
    }
    dist >>= 7;
    for (; code < D_CODES; code++) {
        s->base_dist[code] = dist << 7;
        for (int n = 0; n < 1 << (EXTRA_D[code] - 7); n++)
            s->dist_code[256 + dist++] = (uint8_t)code;
    }
    for (int n = 0; n < L_CODES + 2; n++) {
        const int bits = n < 144 ? 8 : n < 256 ? 9 : n < 280 ? 7 : 8;
        s->static_ltree[n].dl = (uint16_t)bits;
        count[bits]++;
    }
    gen_codes(s->static_ltree, L_CODES + 1, count);
    for (int n = 0; n < D_CODES; n++) {
        s->static_dtree[n].dl = 5;
        s->static_dtree[n].fc = (uint16_t)reverse((uint32_t)n, 5);
    }
    const static_tree l = {s->static_ltree, EXTRA_L, LITERALS + 1, L_CODES, MAX_BITS};
    const static_tree d = {s->static_dtree, EXTRA_D, 0, D_CODES, MAX_BITS};
    const static_tree b = {NULL, EXTRA_BL, 0, BL_CODES, 7};
    s->l_desc = (tree_desc){s->dyn_ltree, 0, l};
    s->d_desc = (tree_desc){s->dyn_dtree, 0, d};
    s->bl_desc = (tree_desc){s->bl_tree, 0, b};
}

static int dist_code_of(const state *s, uint32_t d)
{
    return d < 256 ? s->dist_code[d] : s->dist_code[256 + (d >> 7)];
}

static void init_block(state *s)
{
    for (int n = 0; n < L_CODES; n++) s->dyn_ltree[n].fc = 0;
    for (int n = 0; n < D_CODES; n++) s->dyn_dtree[n].fc = 0;
    for (int n = 0; n < BL_CODES; n++) s->bl_tree[n].fc = 0;
    s->dyn_ltree[END_BLOCK].fc = 1;
    s->opt_len = s->static_len = 0;
    s->sym_next = 0;
}

static bool smaller(const state *s, const ct *tree, int n, int m)
{
    return tree[n].fc < tree[m].fc || (tree[n].fc == tree[m].fc && s->depth[n] <= s->depth[m]);
}

static void down_heap(state *s, const ct *tree, int k)
{
    const int v = s->heap[k];
    for (int j = k << 1; j <= s->heap_len; j <<= 1) {
        if (j < s->heap_len && smaller(s, tree, s->heap[j + 1], s->heap[j])) j++;
        if (smaller(s, tree, v, s->heap[j])) break;
        s->heap[k] = s->heap[j];
        k = j;
    }
    s->heap[k] = v;
}

static void gen_bitlen(state *s, const tree_desc *desc)
{
    ct *tree = desc->tree;
    const static_tree *st = &desc->stat;
    int h, overflow = 0;
    memset(s->bl_count, 0, sizeof s->bl_count);
    tree[s->heap[s->heap_max]].dl = 0;
    for (h = s->heap_max + 1; h < HEAP_SIZE; h++) {
        const int n = s->heap[h];
        int bits = tree[tree[n].dl].dl + 1, extra = 0;
        if (bits > st->max_length) {
            bits = st->max_length;
            overflow++;
        }
        tree[n].dl = (uint16_t)bits;
        if (n > desc->max_code) continue;
        s->bl_count[bits]++;
        if (n >= st->extra_base) extra = st->extra[n - st->extra_base];
        s->opt_len += (uint32_t)tree[n].fc * (uint32_t)(bits + extra);
        if (st->tree) s->static_len += (uint32_t)tree[n].fc * (uint32_t)(st->tree[n].dl + extra);
    }
    if (overflow == 0) return;
    do {
        int bits = st->max_length - 1;
        while (s->bl_count[bits] == 0) bits--;
        s->bl_count[bits]--;
        s->bl_count[bits + 1] = (uint16_t)(s->bl_count[bits + 1] + 2);
        s->bl_count[st->max_length]--;
        overflow -= 2;
    } while (overflow > 0);
    for (int bits = st->max_length; bits != 0; bits--) {
        int n = s->bl_count[bits];
        while (n != 0) {
            const int m = s->heap[--h];
            if (m > desc->max_code) continue;
            if (tree[m].dl != bits) {
                s->opt_len += ((uint32_t)bits - tree[m].dl) * tree[m].fc;
                tree[m].dl = (uint16_t)bits;
            }
            n--;
        }
    }
}

static void build_tree(state *s, tree_desc *desc)
{
    ct *tree = desc->tree;
    const int elems = desc->stat.elems;
    int max_code = -1, node = elems;
    s->heap_len = 0;
    s->heap_max = HEAP_SIZE;
    for (int n = 0; n < elems; n++) {
        if (tree[n].fc != 0) {
            s->heap[++s->heap_len] = max_code = n;
            s->depth[n] = 0;
        } else {
            tree[n].dl = 0;
        }
    }
    while (s->heap_len < 2) {
        const int n = s->heap[++s->heap_len] = max_code < 2 ? ++max_code : 0;
        tree[n].fc = 1;
        s->depth[n] = 0;
        s->opt_len--;
        if (desc->stat.tree) s->static_len -= desc->stat.tree[n].dl;
    }
    desc->max_code = max_code;
    for (int n = s->heap_len / 2; n >= 1; n--) down_heap(s, tree, n);
    do {
        const int n = s->heap[1];
        s->heap[1] = s->heap[s->heap_len--];
        down_heap(s, tree, 1);
        const int m = s->heap[1];
        s->heap[--s->heap_max] = n;
        s->heap[--s->heap_max] = m;
        tree[node].fc = (uint16_t)(tree[n].fc + tree[m].fc);
        s->depth[node] = (uint8_t)((s->depth[n] >= s->depth[m] ? s->depth[n] : s->depth[m]) + 1);
        tree[n].dl = tree[m].dl = (uint16_t)node;
        s->heap[1] = node++;
        down_heap(s, tree, 1);
    } while (s->heap_len >= 2);
    s->heap[--s->heap_max] = s->heap[1];
    gen_bitlen(s, desc);
    gen_codes(tree, max_code, s->bl_count);
}

/* Lengths of a tree as runs: counted in bl_tree, or sent. */
static void walk_tree(state *s, ct *tree, int max_code, bool is_sending)
{
    int prevlen = -1, nextlen = tree[0].dl, count = 0;
    int max_count = nextlen == 0 ? 138 : 7, min_count = nextlen == 0 ? 3 : 4;
    if (!is_sending) tree[max_code + 1].dl = 0xffff; /* guard */
    for (int n = 0; n <= max_code; n++) {
        const int curlen = nextlen;
        nextlen = tree[n + 1].dl;
        if (++count < max_count && curlen == nextlen) continue;
        if (!is_sending) {
            if (count < min_count) {
                s->bl_tree[curlen].fc = (uint16_t)(s->bl_tree[curlen].fc + count);
            } else if (curlen != 0) {
                if (curlen != prevlen) s->bl_tree[curlen].fc++;
                s->bl_tree[REP_3_6].fc++;
            } else {
                s->bl_tree[count <= 10 ? REPZ_3_10 : REPZ_11_138].fc++;
            }
        } else if (count < min_count) {
            do send_code(s, curlen, s->bl_tree);
            while (--count != 0);
        } else if (curlen != 0) {
            if (curlen != prevlen) {
                send_code(s, curlen, s->bl_tree);
                count--;
            }
            send_code(s, REP_3_6, s->bl_tree);
            send_bits(s, (uint32_t)count - 3, 2);
        } else if (count <= 10) {
            send_code(s, REPZ_3_10, s->bl_tree);
            send_bits(s, (uint32_t)count - 3, 3);
        } else {
            send_code(s, REPZ_11_138, s->bl_tree);
            send_bits(s, (uint32_t)count - 11, 7);
        }
        count = 0;
        prevlen = curlen;
        max_count = nextlen == 0 ? 138 : curlen == nextlen ? 6 : 7;
        min_count = nextlen == 0 || curlen == nextlen ? 3 : 4;
    }
}

static void send_all_trees(state *s, int blcodes)
{
    send_bits(s, (uint32_t)s->l_desc.max_code + 1 - 257, 5);
    send_bits(s, (uint32_t)s->d_desc.max_code, 5);
    send_bits(s, (uint32_t)blcodes - 4, 4);
    for (int rank = 0; rank < blcodes; rank++) send_bits(s, s->bl_tree[BL_ORDER[rank]].dl, 3);
    walk_tree(s, s->dyn_ltree, s->l_desc.max_code, true);
    walk_tree(s, s->dyn_dtree, s->d_desc.max_code, true);
}

static void compress_block(state *s, const ct *ltree, const ct *dtree)
{
    for (uint32_t i = 0; i < s->sym_next; i++) {
        uint32_t dist = s->sym_d[i];
        const int lc = s->sym_lc[i];
        if (dist == 0) {
            send_code(s, lc, ltree);
            continue;
        }
        int code = s->length_code[lc];
        send_code(s, code + LITERALS + 1, ltree);
        if (EXTRA_L[code]) send_bits(s, (uint32_t)(lc - s->base_length[code]), EXTRA_L[code]);
        dist--;
        code = dist_code_of(s, dist);
        send_code(s, code, dtree);
        if (EXTRA_D[code]) send_bits(s, dist - (uint32_t)s->base_dist[code], EXTRA_D[code]);
    }
    send_code(s, END_BLOCK, ltree);
}

static void flush_block(state *s, bool is_last)
{
    const uint8_t *buf = s->block_start >= 0 ? s->window + s->block_start : NULL;
    const uint32_t stored = (uint32_t)((int64_t)s->strstart - s->block_start);
    int blcodes;
    build_tree(s, &s->l_desc);
    build_tree(s, &s->d_desc);
    walk_tree(s, s->dyn_ltree, s->l_desc.max_code, false);
    walk_tree(s, s->dyn_dtree, s->d_desc.max_code, false);
    build_tree(s, &s->bl_desc);
    for (blcodes = BL_CODES - 1; blcodes >= 3; blcodes--)
        if (s->bl_tree[BL_ORDER[blcodes]].dl != 0) break;
    s->opt_len += 3 * ((uint32_t)blcodes + 1) + 5 + 5 + 4;
    uint32_t opt_bytes = (s->opt_len + 3 + 7) >> 3;
    const uint32_t static_bytes = (s->static_len + 3 + 7) >> 3;
    if (static_bytes <= opt_bytes || s->strategy == STRATEGY_FIXED) opt_bytes = static_bytes;
    if (stored + 4 <= opt_bytes && buf) {
        send_bits(s, is_last, 3);
        windup(s);
        send_bits(s, stored & 0xffff, 16);
        send_bits(s, ~stored & 0xffff, 16);
        vz_buf_put(s->out, buf, stored);
    } else if (static_bytes == opt_bytes) {
        send_bits(s, (1 << 1) + (uint32_t)is_last, 3);
        compress_block(s, s->static_ltree, s->static_dtree);
    } else {
        send_bits(s, (2 << 1) + (uint32_t)is_last, 3);
        send_all_trees(s, blcodes + 1);
        compress_block(s, s->dyn_ltree, s->dyn_dtree);
    }
    init_block(s);
    if (is_last) windup(s);
    s->block_start = s->strstart;
}

static bool tally(state *s, uint32_t dist, uint32_t lc)
{
    s->sym_d[s->sym_next] = (uint16_t)dist;
    s->sym_lc[s->sym_next++] = (uint8_t)lc;
    if (dist == 0) {
        s->dyn_ltree[lc].fc++;
    } else {
        s->dyn_ltree[s->length_code[lc] + LITERALS + 1].fc++;
        s->dyn_dtree[dist_code_of(s, dist - 1)].fc++;
    }
    return s->sym_next == s->sym_end;
}

/* ---- Window and matches
 * ---------------------------------------------------------------------------- */

static void update_hash(state *s, uint32_t c)
{
    s->ins_h = (s->ins_h << s->hash_shift ^ c) & s->hash_mask;
}

static uint32_t insert_string(state *s, uint32_t at)
{
    update_hash(s, s->window[at + MIN_MATCH - 1]);
    const uint32_t head = s->prev[at & s->w_mask] = s->head[s->ins_h];
    s->head[s->ins_h] = (uint16_t)at;
    return head;
}

static void slide(uint16_t *p, uint32_t n, uint32_t w_size)
{
    for (uint32_t i = 0; i < n; i++) p[i] = (uint16_t)(p[i] >= w_size ? p[i] - w_size : 0);
}

static void fill_window(state *s)
{
    do {
        uint32_t more = s->window_size - s->lookahead - s->strstart;
        if (s->strstart >= s->w_size + (s->w_size - MIN_LOOKAHEAD)) {
            memcpy(s->window, s->window + s->w_size, s->w_size);
            s->match_start -= s->w_size;
            s->strstart -= s->w_size;
            s->block_start -= s->w_size;
            slide(s->head, s->hash_size, s->w_size);
            slide(s->prev, s->w_size, s->w_size);
            more += s->w_size;
        }
        if (s->in_left == 0) break;
        const uint32_t n = s->in_left < more ? (uint32_t)s->in_left : more;
        memcpy(s->window + s->strstart + s->lookahead, s->in, n);
        s->in += n;
        s->in_left -= n;
        s->lookahead += n;
        if (s->lookahead >= MIN_MATCH) {
            s->ins_h = s->window[s->strstart];
            update_hash(s, s->window[s->strstart + 1]);
        }
    } while (s->lookahead < MIN_LOOKAHEAD && s->in_left != 0);
}

/* False at the end of the input. */
static bool fill(state *s)
{
    /* When the window slides decides whether a block can still be stored, so each way has its own.
     */
    const uint32_t least = s->strategy == STRATEGY_HUFFMAN ? 1
                           : s->strategy == STRATEGY_RLE   ? MAX_MATCH + 1
                                                           : MIN_LOOKAHEAD;
    if (s->lookahead < least) fill_window(s);
    return s->lookahead > 0;
}

static uint32_t longest_match(state *s, uint32_t cur)
{
    uint32_t chain = s->max_chain;
    const uint8_t *scan = s->window + s->strstart;
    int best = (int)s->prev_length, nice = s->nice_match;
    const uint32_t reach = s->w_size - MIN_LOOKAHEAD;
    const uint32_t limit = s->strstart > reach ? s->strstart - reach : 0;
    if (s->prev_length >= s->good_match) chain >>= 2;
    if ((uint32_t)nice > s->lookahead) nice = (int)s->lookahead;
    do {
        const uint8_t *match = s->window + cur;
        if (match[best] != scan[best] || match[best - 1] != scan[best - 1] || *match != *scan ||
            match[1] != scan[1])
            continue;
        int len = 2;
        while (len < MAX_MATCH && scan[len] == match[len]) len++;
        if (len > best) {
            s->match_start = cur;
            best = len;
            if (len >= nice) break;
        }
    } while ((cur = s->prev[cur & s->w_mask]) > limit && --chain != 0);
    return (uint32_t)best <= s->lookahead ? (uint32_t)best : s->lookahead;
}

static bool is_near(const state *s, uint32_t head)
{
    return head != 0 && s->strstart - head <= s->w_size - MIN_LOOKAHEAD;
}

/* ---- The ways to parse: one step each; true when a block is full
 * ------------------------------------- */

static bool step_fast(state *s)
{
    bool is_full;
    const uint32_t head = s->lookahead >= MIN_MATCH ? insert_string(s, s->strstart) : 0;
    if (is_near(s, head)) s->match_length = longest_match(s, head);
    if (s->match_length < MIN_MATCH) {
        is_full = tally(s, 0, s->window[s->strstart]);
        s->lookahead--;
        s->strstart++;
        return is_full;
    }
    is_full = tally(s, s->strstart - s->match_start, s->match_length - MIN_MATCH);
    s->lookahead -= s->match_length;
    if (s->match_length <= s->max_lazy && s->lookahead >= MIN_MATCH) {
        s->match_length--;
        do {
            s->strstart++;
            insert_string(s, s->strstart);
        } while (--s->match_length != 0);
        s->strstart++;
    } else {
        s->strstart += s->match_length;
        s->match_length = 0;
        s->ins_h = s->window[s->strstart];
        update_hash(s, s->window[s->strstart + 1]);
    }
    return is_full;
}

static void step_slow(state *s)
{
    const uint32_t head = s->lookahead >= MIN_MATCH ? insert_string(s, s->strstart) : 0;
    s->prev_length = s->match_length;
    s->prev_match = s->match_start;
    s->match_length = MIN_MATCH - 1;
    if (s->prev_length < s->max_lazy && is_near(s, head)) {
        s->match_length = longest_match(s, head);
        if (s->match_length <= 5 &&
            (s->strategy == STRATEGY_FILTERED ||
             (s->match_length == MIN_MATCH && s->strstart - s->match_start > TOO_FAR)))
            s->match_length = MIN_MATCH - 1;
    }
    if (s->prev_length >= MIN_MATCH && s->match_length <= s->prev_length) {
        const uint32_t max_insert = s->strstart + s->lookahead - MIN_MATCH;
        const bool is_full = tally(s, s->strstart - 1 - s->prev_match, s->prev_length - MIN_MATCH);
        s->lookahead -= s->prev_length - 1;
        s->prev_length -= 2;
        do
            if (++s->strstart <= max_insert) insert_string(s, s->strstart);
        while (--s->prev_length != 0);
        s->match_available = false;
        s->match_length = MIN_MATCH - 1;
        s->strstart++;
        if (is_full) flush_block(s, false);
    } else if (s->match_available) {
        if (tally(s, 0, s->window[s->strstart - 1])) flush_block(s, false);
        s->strstart++;
        s->lookahead--;
    } else {
        s->match_available = true;
        s->strstart++;
        s->lookahead--;
    }
}

static bool step_rle(state *s)
{
    s->match_length = 0;
    if (s->lookahead >= MIN_MATCH && s->strstart > 0) {
        const uint8_t *scan = s->window + s->strstart - 1, prev = *scan;
        uint32_t n = 0;
        while (n < MAX_MATCH && scan[n + 1] == prev) n++;
        if (n >= MIN_MATCH) s->match_length = n < s->lookahead ? n : s->lookahead;
    }
    if (s->match_length >= MIN_MATCH) {
        const bool is_full = tally(s, 1, s->match_length - MIN_MATCH);
        s->lookahead -= s->match_length;
        s->strstart += s->match_length;
        s->match_length = 0;
        return is_full;
    }
    s->lookahead--;
    return tally(s, 0, s->window[s->strstart++]);
}

/* ---- All of it
 * ------------------------------------------------------------------------------------- */

bool vz_frozen_valid(const vz_frozen *f)
{
    return f->level >= 1 && f->level <= 9 && f->strategy >= 0 && f->strategy <= STRATEGY_FIXED &&
           f->mem_level >= 1 && f->mem_level <= 9 && f->window_bits >= 9 && f->window_bits <= 15;
}

static size_t slack(size_t n)
{
    return n + MAX_MATCH + 8;
}

uint64_t vz_frozen_memory(void)
{
    return sizeof(state) + slack(65536) + 2 * (32768 + 65536) + 3 * 32768 + 5 * 64;
}

static fv_status create(fv_ctx *ctx, const vz_frozen *f, state **out)
{
    const uint32_t w = 1u << f->window_bits, hash_bits = (uint32_t)f->mem_level + 7;
    const uint32_t symbols = 1u << (f->mem_level + 6);
    /* 2-byte arrays first, so that all are aligned. */
    const size_t words = (size_t)w + ((size_t)1 << hash_bits) + symbols;
    state *s = fv_calloc(ctx, 1, sizeof *s + 2 * words + symbols + slack(2 * (size_t)w));
    *out = s;
    if (!s) return FV_ERR_OOM;
    s->prev = (uint16_t *)(s + 1);
    s->head = s->prev + w;
    s->sym_d = s->head + ((size_t)1 << hash_bits);
    s->sym_lc = (uint8_t *)(s->sym_d + symbols);
    s->window = s->sym_lc + symbols;
    s->sym_end = symbols - 1;
    s->strategy = f->strategy;
    s->w_size = w;
    s->w_mask = w - 1;
    s->window_size = 2 * w;
    s->hash_size = 1u << hash_bits;
    s->hash_mask = s->hash_size - 1;
    s->hash_shift = (hash_bits + MIN_MATCH - 1) / MIN_MATCH;
    s->good_match = CONFIG[f->level][0];
    s->max_lazy = CONFIG[f->level][1];
    s->nice_match = CONFIG[f->level][2];
    s->max_chain = CONFIG[f->level][3];
    s->match_length = s->prev_length = MIN_MATCH - 1;
    build_static(s);
    init_block(s);
    return FV_OK;
}

/* One step of the parse; flushes full blocks. */
static void step(state *s, const vz_frozen *f)
{
    bool is_full = false;
    if (f->strategy == STRATEGY_HUFFMAN) {
        is_full = tally(s, 0, s->window[s->strstart]);
        s->lookahead--;
        s->strstart++;
    } else if (f->strategy == STRATEGY_RLE) {
        is_full = step_rle(s);
    } else if (f->level <= 3) {
        is_full = step_fast(s);
    } else {
        step_slow(s);
    }
    if (is_full) flush_block(s, false);
}

fv_status vz_frozen_deflate(fv_ctx *ctx, const vz_frozen *f, const uint8_t *data, size_t size,
                            const uint8_t *target, size_t target_size, size_t allowed, vz_buf *out,
                            bool *same)
{
    state *s;
    size_t checked = 0, wrong = 0;
    const size_t start = out->size;
    *same = true;
    FV_TRY(create(ctx, f, &s));
    s->out = out;
    s->in = data;
    s->in_left = size;
    fv_status st = FV_OK;
    for (uint32_t steps = 1; fill(s) && st == FV_OK && *same; steps++) {
        step(s, f);
        if (target) {
            for (; start + checked < out->size && wrong <= allowed; checked++)
                wrong += checked >= target_size || out->data[start + checked] != target[checked];
            *same = wrong <= allowed;
        }
        if (steps % 65536 == 0 && fv_ctx_cancelled(ctx))
            st = fv_fail(ctx, FV_ERR_CANCELLED, "vzip: cancelled");
        if (st == FV_OK) st = out->status;
    }
    if (st == FV_OK && *same) {
        if (s->match_available) tally(s, 0, s->window[s->strstart - 1]);
        flush_block(s, true);
        if (target) {
            for (; start + checked < out->size && wrong <= allowed; checked++)
                wrong += checked >= target_size || out->data[start + checked] != target[checked];
            *same = wrong <= allowed;
        }
        st = out->status;
    }
    fv_free(ctx, s);
    return st;
}
