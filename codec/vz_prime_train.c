/* vz_prime_train.c - the typical bytes of many samples: passages whose 8-byte pieces occur in many
 * of them (the cover method of zstd's dictionary builder; Liao, Petri, Moffat, Wirth: "Effective
 * Construction of Relative Lempel-Ziv Dictionaries", 2016).
 *
 *     count in how many samples each piece occurs
 *     cut all bytes into epochs; from each take the passage whose pieces not yet covered occur most
 *     the passages, the most useful one last, because replay begins at the end for small blocks
 *
 * Passages of about 1 KiB are long enough that contexts of high order and whole lines are learnt
 * from them; in text they begin and end at lines. */
#include "vz_model.h"

#include <string.h>

#define PIECE 8
#define PASSAGE ((size_t)1024)
#define PASSES 4 /* over all samples */

typedef struct cover {
    const uint8_t *data;
    size_t size;
    int log2; /* of the tables, by hash of a piece */
    uint16_t *count; /* samples that hold it, less one; 0 once covered */
    uint16_t *inside; /* times in the window */
    uint32_t *sample; /* that it was last seen in, plus one */
} cover;

typedef struct passage {
    size_t at, size;
    uint64_t score;
} passage;

static uint32_t piece_at(const cover *c, size_t at)
{
    uint64_t v = 0;
    memcpy(&v, c->data + at, PIECE);
    return (uint32_t)(v * 0x9e3779b97f4a7c15u >> (64 - c->log2));
}

static void count_pieces(cover *c, const size_t *sizes, size_t samples)
{
    size_t at = 0;
    for (size_t s = 0; s < samples; s++) {
        const size_t end = at + sizes[s];
        for (; at + PIECE <= end; at++) {
            const uint32_t h = piece_at(c, at);
            if (c->sample[h] == s + 1) continue;
            if (c->sample[h] && c->count[h] < UINT16_MAX) c->count[h]++;
            c->sample[h] = (uint32_t)s + 1;
        }
        at = end;
    }
}

/* The best window in [begin, end). */
static passage best_of(cover *c, size_t begin, size_t end)
{
    passage best = {begin, 0, 0};
    uint64_t score = 0;
    size_t first = begin;
    if (end + PIECE > c->size) end = c->size >= PIECE ? c->size - PIECE : 0;
    for (size_t at = begin; at < end; at++) {
        const uint32_t h = piece_at(c, at);
        if (c->inside[h]++ == 0) score += c->count[h];
        if (at - first >= PASSAGE - PIECE) {
            const uint32_t old = piece_at(c, first++);
            if (--c->inside[old] == 0) score -= c->count[old];
        }
        if (score > best.score) best = (passage){first, at + PIECE - first, score};
    }
    for (; first < end; first++) c->inside[piece_at(c, first)] = 0;
    return best;
}

/* Whole lines, if there are any; then its pieces count no more. */
static void take(cover *c, passage *p)
{
    const uint8_t *from = c->data + p->at;
    size_t skip = 0, size = p->size;
    while (skip < size / 2 && p->at + skip > 0 && from[(ptrdiff_t)skip - 1] != '\n') skip++;
    if (skip == size / 2) skip = 0;
    while (size > p->size / 2 && from[size - 1] != '\n') size--;
    if (size <= p->size / 2 || size <= skip) size = p->size;
    p->at += skip;
    p->size = size - skip;
    for (size_t i = 0; i + PIECE <= p->size; i++) c->count[piece_at(c, p->at + i)] = 0;
}

/* Passages into list[0 .. room), *count of them with at most `want` bytes. */
static void choose(cover *c, size_t want, passage *list, size_t room, size_t *count)
{
    size_t taken = 0, epoch = c->size / (want / PASSAGE / PASSES + 1) + 1, idle = 0;
    if (epoch < 4 * PASSAGE) epoch = 4 * PASSAGE;
    const size_t epochs = (c->size - 1) / epoch + 1;
    *count = 0;
    for (size_t e = 0; taken < want && *count < room && idle <= epochs; e = (e + 1) % epochs) {
        const size_t end = (e + 1) * epoch < c->size ? (e + 1) * epoch : c->size;
        passage p = best_of(c, e * epoch, end);
        idle++;
        if (p.score == 0) continue;
        take(c, &p);
        if (p.size > want - taken) { /* the end of it */
            p.at += p.size - (want - taken);
            p.size = want - taken;
        }
        taken += p.size;
        list[(*count)++] = p;
        idle = 0;
    }
}

static void sort_by_score(passage *list, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        const passage p = list[i];
        size_t k = i;
        for (; k > 0 && list[k - 1].score > p.score; k--) list[k] = list[k - 1];
        list[k] = p;
    }
}

fv_status vz_prime_select(fv_ctx *ctx, const uint8_t *data, const size_t *sizes, size_t samples,
                          size_t want, vz_buf *out)
{
    cover c = {.data = data, .log2 = 22};
    size_t count = 0;
    const size_t room = 2 * (want / PASSAGE) + 16;
    for (size_t i = 0; i < samples; i++) c.size += sizes[i];
    if (c.size <= want) {
        vz_buf_put(out, data, c.size);
        return out->status;
    }
    const size_t cells = (size_t)1 << c.log2;
    passage *list = fv_calloc(ctx, room, sizeof *list);
    c.count = fv_calloc(ctx, cells, sizeof *c.count);
    c.inside = fv_calloc(ctx, cells, sizeof *c.inside);
    c.sample = fv_calloc(ctx, cells, sizeof *c.sample);
    fv_status s = list && c.count && c.inside && c.sample ? FV_OK : FV_ERR_OOM;
    if (s == FV_OK) {
        count_pieces(&c, sizes, samples);
        choose(&c, want, list, room, &count);
        sort_by_score(list, count);
        for (size_t i = 0; i < count; i++) vz_buf_put(out, data + list[i].at, list[i].size);
        s = out->status;
    }
    fv_free(ctx, c.sample);
    fv_free(ctx, c.inside);
    fv_free(ctx, c.count);
    fv_free(ctx, list);
    return s;
}
