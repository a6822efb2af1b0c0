/* cm_token_tree.c - the vocabulary of the token coder: tree of decisions, and the cheapest way to
 * cut a text into pieces.
 *
 * A tree whose leaves are in order is known from their depths alone: leaf i covers 2^(32 - depth)
 * numbers of 32 bits, from where leaf i - 1 ends, and its way from the root is the first of them.
 * It is a tree without gaps if every leaf begins at a multiple of its size and the last one ends at
 * 2^32. Against the balanced tree one that follows the frequencies saves 0.5 % of the bytes and
 * 12 % of the decisions; neighbours by context (what stands before and after) instead of by their
 * bytes save 0.6 % of the bytes [measured on eight files].
 *
 * Any way to cut a text can be decoded, so the encoder may look ahead: against the longest piece
 * first, the way with the fewest decisions saves 0.3 % of the bytes and 2 % of the time. The trie
 * is one hash table of edges; nodes 1 .. 256 are the single bytes. */
#include "cm_token.h"

#include <string.h>

#define NODES_MAX ((size_t)VZ_PIECES_MAX * VZ_PIECE_BYTES + 257)

/* ---- Trie ------------------------------------------------------------------------------------ */

static uint32_t edge_at(const vz_pieces *p, uint32_t key)
{
    uint32_t at = key * 0x9e3779b1u >> 7 & p->edge_mask;
    while (p->edge[at].key != key && p->edge[at].key != 0) at = (at + 1) & p->edge_mask;
    return at;
}

static uint32_t extend(vz_pieces *p, uint32_t node, uint8_t byte)
{
    const uint32_t key = node << 8 | byte;
    vz_trie_edge *e = &p->edge[edge_at(p, key)];
    if (e->key == 0) {
        *e = (vz_trie_edge){key, p->trie_nodes};
        p->piece_of[p->trie_nodes++] = -1;
    }
    return e->node;
}

static fv_status fill_trie(vz_pieces *p)
{
    int single = 0;
    p->trie_nodes = 257;
    for (int i = 0; i < 257; i++) p->piece_of[i] = -1;
    for (uint32_t id = 0; id < p->count; id++) {
        const uint8_t *s = p->text + p->begin[id];
        const uint32_t n = vz_piece_length(p, id);
        uint32_t node = 1u + s[0];
        for (uint32_t i = 1; i < n; i++) node = extend(p, node, s[i]);
        if (p->piece_of[node] >= 0)
            return fv_fail(p->ctx, FV_ERR_MODEL, "vocabulary: pieces %d and %u are the same",
                           (int)p->piece_of[node], (unsigned)id);
        p->piece_of[node] = (int32_t)id;
        single += n == 1;
    }
    if (single == 256) return FV_OK;
    return fv_fail(p->ctx, FV_ERR_MODEL, "vocabulary: %d of the 256 single bytes are missing",
                   256 - single);
}

static fv_status make_trie(vz_pieces *p, size_t bytes)
{
    size_t slots = 1024;
    while (slots < 2 * bytes) slots *= 2; /* no more edges than bytes: at most half full */
    p->edge_mask = (uint32_t)(slots - 1);
    p->edge = fv_calloc(p->ctx, slots, sizeof *p->edge);
    p->piece_of = fv_alloc(p->ctx, (bytes + 257) * sizeof *p->piece_of);
    return p->edge && p->piece_of ? fill_trie(p) : FV_ERR_OOM;
}

void vz_pieces_parse(const vz_pieces *p, const uint8_t *data, size_t n, uint32_t *cost,
                     uint16_t *take)
{
    cost[n] = 0;
    for (size_t at = n; at-- > 0;) {
        uint32_t node = 1u + data[at], best = UINT32_MAX;
        for (size_t end = at + 1;; end++) {
            const int32_t id = p->piece_of[node];
            if (id >= 0 && p->depth[id] + cost[end] <= best) {
                best = p->depth[id] + cost[end];
                take[at] = (uint16_t)id;
            }
            if (end == n) break;
            node = p->edge[edge_at(p, node << 8 | data[end])].node;
            if (node == 0) break;
        }
        cost[at] = best;
    }
}

/* ---- Tree ------------------------------------------------------------------------------------ */

static fv_status find_paths(vz_pieces *p)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        const uint32_t d = p->depth[i];
        if (d < 1 || d > VZ_PIECE_DEPTH || at + ((uint64_t)1 << (32 - d)) > (uint64_t)1 << 32 ||
            (at & (((uint64_t)1 << (32 - d)) - 1)) != 0)
            return fv_fail(p->ctx, FV_ERR_MODEL, "vocabulary: the depth of piece %u, %u, does not "
                           "fit into the tree", (unsigned)i, (unsigned)d);
        p->path[i] = (uint32_t)at;
        at += (uint64_t)1 << (32 - d);
    }
    if (at == (uint64_t)1 << 32) return FV_OK;
    return fv_fail(p->ctx, FV_ERR_MODEL, "vocabulary: the tree has a gap after the last piece");
}

/* Subtrees of four levels: one for each inner node at a depth that is a multiple of four. Leaves
 * are sorted, so those below one node are neighbours. */
static uint32_t count_lines(const vz_pieces *p)
{
    uint32_t lines = 1;
    for (uint32_t k = 4; k < VZ_PIECE_DEPTH; k += 4) {
        uint32_t before = UINT32_MAX;
        for (uint32_t i = 0; i < p->count; i++) {
            const uint32_t prefix = p->path[i] >> (32 - k);
            if (p->depth[i] <= k || prefix == before) continue;
            lines++;
            before = prefix;
        }
    }
    return lines;
}

/* Nodes near the root have a row of the mixer each, deeper ones share one with their level. */
static uint16_t rank_of(uint32_t path, uint32_t depth)
{
    if (depth >= 8) return (uint16_t)(248 + depth);
    return (uint16_t)(1u << depth | (depth ? path >> (32 - depth) : 0));
}

static fv_status make_tree(vz_pieces *p)
{
    FV_TRY(find_paths(p));
    p->nodes = count_lines(p) * 16;
    p->branch = fv_calloc(p->ctx, p->nodes, sizeof *p->branch);
    if (!p->branch) return FV_ERR_OOM;
    uint32_t lines = 1;
    for (uint32_t i = 0; i < p->count; i++) {
        uint32_t node = 1;
        for (uint32_t k = 0; k < p->depth[i]; k++) {
            vz_branch *b = &p->branch[node];
            const uint32_t bit = p->path[i] >> (31 - k) & 1;
            b->rank = rank_of(p->path[i], k);
            if (bit && !b->next[1]) b->split = (uint16_t)i;
            if (k + 1 == p->depth[i]) b->next[bit] = VZ_LEAF | i;
            else if (!b->next[bit])
                b->next[bit] =
                    k % 4 == 3 ? lines++ << 4 | 1 : (node & ~15u) | (node & 15) * 2 | bit;
            node = b->next[bit];
        }
    }
    return FV_OK;
}

/* ---- Opening --------------------------------------------------------------------------------- */

void vz_pieces_close(vz_pieces *p)
{
    if (!p->ctx) return;
    fv_free(p->ctx, p->text);
    fv_free(p->ctx, p->begin);
    fv_free(p->ctx, p->path);
    fv_free(p->ctx, p->depth);
    fv_free(p->ctx, p->branch);
    fv_free(p->ctx, p->edge);
    fv_free(p->ctx, p->piece_of);
    memset(p, 0, sizeof *p);
}

static fv_status balanced_depths(vz_pieces *p)
{
    uint32_t bits = 8;
    while (1u << bits < p->count) bits++;
    if (1u << bits != p->count)
        return fv_fail(p->ctx, FV_ERR_MODEL, "vocabulary: %u pieces are not a power of two, and "
                       "their depths are not given", (unsigned)p->count);
    memset(p->depth, (int)bits, p->count);
    return FV_OK;
}

static fv_status copy_pieces(vz_pieces *p, const uint8_t *text, size_t bytes,
                             const uint8_t *length, const uint8_t *depth)
{
    const size_t n = p->count;
    p->text = fv_alloc(p->ctx, bytes);
    p->begin = fv_alloc(p->ctx, (n + 1) * sizeof *p->begin);
    p->path = fv_alloc(p->ctx, n * sizeof *p->path);
    p->depth = fv_alloc(p->ctx, n);
    if (!p->text || !p->begin || !p->path || !p->depth) return FV_ERR_OOM;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        p->begin[i] = (uint32_t)at;
        if (length[i] < 1 || length[i] > VZ_PIECE_BYTES || length[i] > bytes - at)
            return fv_fail(p->ctx, FV_ERR_MODEL, "vocabulary: piece %u has a length of %u bytes",
                           (unsigned)i, (unsigned)length[i]);
        at += length[i];
    }
    p->begin[n] = (uint32_t)at;
    if (at != bytes)
        return fv_fail(p->ctx, FV_ERR_MODEL, "vocabulary: %u bytes do not belong to a piece",
                       (unsigned)(bytes - at));
    memcpy(p->text, text, bytes);
    if (!depth) return balanced_depths(p);
    memcpy(p->depth, depth, n);
    return FV_OK;
}

fv_status vz_pieces_open(fv_ctx *ctx, vz_pieces *p, const uint8_t *text, size_t bytes,
                         const uint8_t *length, const uint8_t *depth, size_t count)
{
    fv_status s;
    memset(p, 0, sizeof *p);
    if (count < 256 || count > VZ_PIECES_MAX || bytes > NODES_MAX)
        return fv_fail(ctx, FV_ERR_MODEL, "vocabulary: %llu pieces, allowed are 256 to %d",
                       (unsigned long long)count, VZ_PIECES_MAX);
    p->ctx = ctx;
    p->count = (uint32_t)count;
    FV_TRY_GOTO(copy_pieces(p, text, bytes, length, depth));
    FV_TRY_GOTO(make_trie(p, bytes));
    FV_TRY_GOTO(make_tree(p));
    return FV_OK;
fail:
    vz_pieces_close(p);
    return s;
}
