/* nn_vocab.c - pieces of bytes, their tree, and text as their ids.
 *
 * The trie is one hash table of edges (node, byte) -> node; nodes 1 .. 256 are the single bytes,
 * which all exist, so that the first byte needs no look-up. Both sides of an archive run only
 * integer code here, on what the model file says.
 *
 * A tree whose leaves are in order follows from their depths: leaf i covers 2^(32 - depth) numbers
 * of 32 bits from where leaf i - 1 ends, and its path is the first of them. There are no gaps if
 * every leaf begins at a multiple of its size and the last one ends at 2^32.
 *
 * Text is cut so that it takes the fewest decisions, found from its end backwards: since pieces
 * have at most 16 bytes, 16 costs are kept. */
#include "nn_vocab.h"

#include <string.h>

typedef struct nn_edge {
    uint32_t key; /* node << 8 | byte; 0: free, since nodes begin at 1 */
    uint32_t node;
} nn_edge;

/* Fibonacci hashing; the upper bits of the product are the good ones. */
static uint32_t edge_slot(const nn_vocab *v, uint32_t key)
{
    return (uint32_t)((key * 2654435769u) >> 7) & (v->slots - 1);
}

static uint32_t follow(const nn_vocab *v, uint32_t node, uint8_t byte)
{
    const uint32_t key = node << 8 | byte;
    for (uint32_t at = edge_slot(v, key);; at = (at + 1) & (v->slots - 1)) {
        if (v->edge[at].key == key) return v->edge[at].node;
        if (v->edge[at].key == 0) return 0;
    }
}

/* The node behind `node` over `byte`, made if it is not there. */
static uint32_t extend(nn_vocab *v, uint32_t node, uint8_t byte)
{
    const uint32_t key = node << 8 | byte;
    uint32_t at = edge_slot(v, key);
    while (v->edge[at].key != 0 && v->edge[at].key != key) at = (at + 1) & (v->slots - 1);
    if (v->edge[at].key == 0) {
        v->edge[at] = (nn_edge){key, v->nodes};
        v->id_of[v->nodes++] = -1;
    }
    return v->edge[at].node;
}

static fv_status insert_pieces(nn_vocab *v)
{
    int single = 0;
    v->nodes = 257;
    for (int i = 0; i < 257; i++) v->id_of[i] = -1;
    for (int id = 0; id < v->size; id++) {
        const uint8_t *p = v->text + v->begin[id];
        const int n = nn_vocab_length(v, id);
        uint32_t node = 1u + p[0];
        for (int i = 1; i < n; i++) node = extend(v, node, p[i]);
        if (v->id_of[node] >= 0)
            return fv_fail(v->ctx, FV_ERR_MODEL, "vocabulary: pieces %d and %d are the same",
                           (int)v->id_of[node], id);
        v->id_of[node] = id;
        single += n == 1;
    }
    if (single == 256) return FV_OK;
    return fv_fail(v->ctx, FV_ERR_MODEL, "vocabulary: %d of the 256 single bytes are missing",
                   256 - single);
}

fv_status nn_vocab_build(fv_ctx *ctx, nn_vocab *v, const uint8_t *text, size_t text_bytes,
                         const uint8_t *length, size_t size)
{
    size_t sum = 0;
    memset(v, 0, sizeof *v);
    v->ctx = ctx;
    if (size < 256 || size > 2u << NN_VOCAB_MAX_BITS)
        return fv_fail(ctx, FV_ERR_MODEL, "vocabulary: %zu pieces are too few or too many", size);
    for (size_t i = 0; i < size; i++) {
        if (length[i] < 1 || length[i] > NN_VOCAB_MAX_PIECE)
            return fv_fail(ctx, FV_ERR_MODEL, "vocabulary: piece %zu has %d bytes, not 1 to 16", i,
                           (int)length[i]);
        sum += length[i];
    }
    if (sum != text_bytes)
        return fv_fail(ctx, FV_ERR_MODEL, "vocabulary: lengths sum to %zu, there are %zu bytes",
                       sum, text_bytes);
    v->size = (int)size;
    while ((size_t)1 << v->bits < size) v->bits++;
    for (v->slots = 1024; v->slots < 2 * sum;) v->slots *= 2;
    v->text = fv_alloc(ctx, text_bytes);
    v->begin = fv_calloc(ctx, size + 1, sizeof *v->begin);
    v->edge = fv_calloc(ctx, v->slots, sizeof *v->edge);
    v->id_of = fv_calloc(ctx, sum + 257, sizeof *v->id_of); /* a node for each byte at most */
    fv_status s = FV_ERR_OOM;
    if (v->text && v->begin && v->edge && v->id_of) {
        memcpy(v->text, text, text_bytes);
        for (size_t i = 0; i < size; i++) v->begin[i + 1] = v->begin[i] + length[i];
        s = insert_pieces(v);
    }
    if (s != FV_OK) nn_vocab_close(v);
    return s;
}

/* ---- Tree ------------------------------------------------------------------------------------ */

static fv_status find_paths(nn_vocab *v)
{
    const uint64_t end = (uint64_t)1 << 32;
    uint64_t at = 0;
    for (int i = 0; i < v->size; i++) {
        const int d = v->depth[i];
        const uint64_t leaf = d >= 1 && d <= NN_VOCAB_MAX_DEPTH ? end >> d : 0;
        if (leaf == 0 || at + leaf > end || at % leaf != 0)
            return fv_fail(v->ctx, FV_ERR_MODEL,
                           "vocabulary: the depth of piece %d, %d, does not fit into the tree", i,
                           d);
        v->path[i] = (uint32_t)at;
        v->max_depth = d > v->max_depth ? d : v->max_depth;
        at += leaf;
    }
    if (at == end) return FV_OK;
    return fv_fail(v->ctx, FV_ERR_MODEL, "vocabulary: the tree has a gap after the last piece");
}

static fv_status make_tree(nn_vocab *v, const uint8_t *depth)
{
    v->depth = fv_alloc(v->ctx, (size_t)v->size);
    v->path = fv_calloc(v->ctx, (size_t)v->size, sizeof *v->path);
    if (!v->depth || !v->path) return FV_ERR_OOM;
    if (depth) memcpy(v->depth, depth, (size_t)v->size);
    else memset(v->depth, v->bits, (size_t)v->size);
    return find_paths(v);
}

/* Decision `at` of the pieces [first, end), which share the ones before, and all further ones. */
static void fill_paths(const nn_vocab *v, int32_t *paths, int first, int end, int at)
{
    int split = first;
    if (end - first < 2) return;
    while (!(v->path[split] >> (31 - at) & 1)) split++; /* no gaps: there is one on the right */
    for (int i = first; i < end; i++)
        paths[(size_t)i * (size_t)v->max_depth + (size_t)at] = 2 * split + (i >= split);
    fill_paths(v, paths, first, split, at + 1);
    fill_paths(v, paths, split, end, at + 1);
}

void nn_vocab_paths(const nn_vocab *v, int32_t *paths)
{
    memset(paths, 0, (size_t)v->size * (size_t)v->max_depth * sizeof *paths);
    fill_paths(v, paths, 0, v->size, 0);
}

/* ---- Opening --------------------------------------------------------------------------------- */

fv_status nn_vocab_open(fv_ctx *ctx, nn_vocab *v, const uint8_t *text, size_t text_bytes,
                        const uint8_t *length, size_t size)
{
    return nn_vocab_open_tree(ctx, v, text, text_bytes, length, NULL, size);
}

fv_status nn_vocab_open_tree(fv_ctx *ctx, nn_vocab *v, const uint8_t *text, size_t text_bytes,
                             const uint8_t *length, const uint8_t *depth, size_t size)
{
    memset(v, 0, sizeof *v);
    if (size < (size_t)1 << NN_VOCAB_MIN_BITS || size > (size_t)1 << NN_VOCAB_MAX_BITS ||
        (!depth && (size & (size - 1)) != 0))
        return fv_fail(ctx, FV_ERR_MODEL,
                       "vocabulary: %zu pieces, expected 256 to 16384, and without depths a power "
                       "of two", size);
    FV_TRY(nn_vocab_build(ctx, v, text, text_bytes, length, size));
    const fv_status s = make_tree(v, depth);
    if (s != FV_OK) nn_vocab_close(v);
    return s;
}

fv_status nn_vocab_load(fv_ctx *ctx, nn_vocab *v, const fv_model *m)
{
    fv_tensor text, length, depth = {.data = NULL};
    memset(v, 0, sizeof *v);
    if (!fv_model_find(m, "vocab.text", &text) || !fv_model_find(m, "vocab.length", &length))
        return fv_fail(ctx, FV_ERR_MODEL,
                       "vocabulary: vocab.text or vocab.length is missing in the model");
    if (text.dtype != FV_U8 || length.dtype != FV_U8 || text.ndim != 1 || length.ndim != 1)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "vocabulary: vocab.text and vocab.length must be u8 with one dimension");
    if (fv_model_find(m, "vocab.depth", &depth) &&
        (depth.dtype != FV_U8 || depth.ndim != 1 || depth.dim[0] != length.dim[0]))
        return fv_fail(ctx, FV_ERR_MODEL, "vocabulary: vocab.depth must be u8 [%lld]",
                       (long long)length.dim[0]);
    return nn_vocab_open_tree(ctx, v, text.data, (size_t)text.dim[0], length.data, depth.data,
                              (size_t)length.dim[0]);
}

static fv_status copy_model(fv_model_writer *w, const fv_model *m)
{
    for (int i = 0; i < fv_model_meta_count(m); i++) {
        const char *key, *value;
        fv_model_meta_at(m, i, &key, &value);
        FV_TRY(fv_model_writer_meta(w, key, value));
    }
    for (int i = 0; i < fv_model_count(m); i++) {
        fv_tensor t;
        fv_model_tensor(m, i, &t);
        FV_TRY(fv_model_writer_tensor(w, fv_model_name(m, i), &t));
    }
    return FV_OK;
}

fv_status nn_vocab_write(fv_ctx *ctx, const nn_vocab *v, const char *with, const char *path)
{
    fv_model *m = NULL;
    fv_model_writer *w = NULL;
    uint8_t *length = fv_alloc(ctx, (size_t)v->size);
    fv_status s = length ? fv_model_writer_create(ctx, &w) : FV_ERR_OOM;
    for (int i = 0; s == FV_OK && i < v->size; i++) length[i] = (uint8_t)nn_vocab_length(v, i);
    const fv_tensor text = {.dtype = FV_U8, .ndim = 1, .dim = {v->begin[v->size]}, .data = v->text};
    const fv_tensor lengths = {.dtype = FV_U8, .ndim = 1, .dim = {v->size}, .data = length};
    const fv_tensor depths = {.dtype = FV_U8, .ndim = 1, .dim = {v->size}, .data = v->depth};
    if (s == FV_OK && with) s = fv_model_open(ctx, &m, with, NULL);
    if (s == FV_OK && with) s = copy_model(w, m);
    if (s == FV_OK) s = fv_model_writer_tensor(w, "vocab.text", &text);
    if (s == FV_OK) s = fv_model_writer_tensor(w, "vocab.length", &lengths);
    if (s == FV_OK) s = fv_model_writer_tensor(w, "vocab.depth", &depths);
    if (s == FV_OK) s = fv_model_writer_finish(w, path, 1);
    fv_model_writer_destroy(&w);
    fv_model_close(&m);
    fv_free(ctx, length);
    return s;
}

fv_status nn_vocab_bytes(fv_ctx *ctx, nn_vocab *v)
{
    uint8_t text[256], length[256];
    for (int i = 0; i < 256; i++) {
        text[i] = (uint8_t)i;
        length[i] = 1;
    }
    return nn_vocab_open(ctx, v, text, 256, length, 256);
}

void nn_vocab_close(nn_vocab *v)
{
    fv_free(v->ctx, v->text);
    fv_free(v->ctx, v->begin);
    fv_free(v->ctx, v->depth);
    fv_free(v->ctx, v->path);
    fv_free(v->ctx, v->edge);
    fv_free(v->ctx, v->id_of);
    memset(v, 0, sizeof *v);
}

void nn_vocab_hash(const nn_vocab *v, char hex[65])
{
    fv_sha256 h;
    uint8_t sum[32];
    fv_sha256_init(&h);
    for (int i = 0; i < v->size; i++) {
        const uint8_t head[2] = {(uint8_t)nn_vocab_length(v, i), v->depth[i]};
        fv_sha256_update(&h, head, 2);
        fv_sha256_update(&h, v->text + v->begin[i], head[0]);
    }
    fv_sha256_final(&h, sum);
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = "0123456789abcdef"[sum[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[sum[i] & 15];
    }
    hex[64] = 0;
}

int nn_vocab_next(const nn_vocab *v, const uint8_t *p, size_t n)
{
    uint32_t node = 1u + p[0];
    int best = v->id_of[node];
    for (size_t i = 1; i < n; i++) {
        node = follow(v, node, p[i]);
        if (node == 0) break;
        if (v->id_of[node] >= 0) best = v->id_of[node];
    }
    return best;
}

/* Ties: the longest. */
void nn_vocab_cut(const nn_vocab *v, const uint8_t *bytes, size_t n, uint16_t *take)
{
    uint32_t cost[NN_VOCAB_MAX_PIECE + 1] = {0}; /* of what begins k + 1 bytes on */
    for (size_t at = n; at-- > 0;) {
        uint32_t node = 1u + bytes[at], best = UINT32_MAX;
        for (size_t k = 0;; k++) {
            const int32_t id = v->id_of[node];
            if (id >= 0 && v->depth[id] + cost[k] <= best) {
                best = v->depth[id] + cost[k];
                take[at] = (uint16_t)id;
            }
            if (at + k + 1 == n || k + 1 == NN_VOCAB_MAX_PIECE) break;
            node = follow(v, node, bytes[at + k + 1]);
            if (node == 0) break;
        }
        memmove(cost + 1, cost, NN_VOCAB_MAX_PIECE * sizeof *cost);
        cost[0] = best;
    }
}

size_t nn_vocab_encode(const nn_vocab *v, const uint8_t *bytes, size_t n, uint16_t *out)
{
    size_t count = 0;
    for (size_t from = 0; from < n;) {
        const size_t window = n - from < NN_VOCAB_WINDOW ? n - from : NN_VOCAB_WINDOW;
        uint16_t *const take = out + from; /* never before what was written: count <= from */
        nn_vocab_cut(v, bytes + from, window, take);
        for (size_t at = 0; at < window;) {
            const uint16_t id = take[at];
            at += (size_t)nn_vocab_length(v, id);
            out[count++] = id;
        }
        from += window;
    }
    return count;
}

size_t nn_vocab_decode(const nn_vocab *v, const uint16_t *id, size_t n, uint8_t *out)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t len = (size_t)nn_vocab_length(v, id[i]);
        memcpy(out + at, v->text + v->begin[id[i]], len);
        at += len;
    }
    return at;
}
