/* vz_text_units.c - text of a block in pieces of the model's vocabulary, with or without its
 * network, or in bytes: which, and the shared stream of pieces. */
#include "cm_token.h"
#include "vz_model.h"

#define NET_READS ((size_t)8 << 10) /* of the texts that are learnt, by the network */

/* ---- The stream ------------------------------------------------------------------------------ */

typedef struct setup {
    vz_cm_prime text[VZ_PRIMES];
    vz_token_model model;
    vz_token_net *net;
} setup;

static uint64_t bytes_of(const vz_segment *segs, int count, bool *has_net)
{
    uint64_t sum = 0;
    *has_net = false;
    for (int i = 0; i < count; i++) {
        if (segs[i].kind != VZ_PIECES) continue;
        sum += segs[i].size;
        *has_net |= segs[i].param != 0;
    }
    return sum;
}

static void set_up(setup *u, const vz_cm_options *o, uint64_t size)
{
    const int texts = vz_prime_list(o, size, u->text);
    u->net = NULL;
    u->model = (vz_token_model){.tree = &o->prior->model->tree, .text = u->text, .texts = texts,
                                .prior_reads = NET_READS};
}

static fv_status set_up_for(fv_ctx *ctx, setup *u, const vz_cm_options *o, const vz_segment *segs,
                            int count)
{
    bool has_net;
    set_up(u, o, bytes_of(segs, count, &has_net));
    if (!has_net) return FV_OK;
    FV_TRY(vz_token_net_open(ctx, &u->net, o->prior));
    u->model.prior = vz_token_net_prior(u->net);
    return FV_OK;
}

uint64_t vz_pieces_memory(const vz_cm_options *o, uint64_t size, bool has_net)
{
    setup u;
    set_up(&u, o, size);
    return vz_token_memory(o, &u.model, size) +
           (has_net ? vz_token_net_memory(o->prior->model) : 0);
}

fv_status vz_pieces_encode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                           const uint8_t *data, vz_buf *out)
{
    setup u;
    FV_TRY(set_up_for(ctx, &u, o, segs, count));
    fv_status s = vz_token_encode(ctx, o, &u.model, segs, count, data, out);
    s = vz_token_net_check(ctx, u.net, s);
    vz_token_net_close(ctx, &u.net);
    return s;
}

fv_status vz_pieces_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                           const uint8_t *code, size_t code_size, uint8_t *data)
{
    setup u;
    FV_TRY(set_up_for(ctx, &u, o, segs, count));
    fv_status s = vz_token_decode(ctx, o, &u.model, segs, count, code, code_size, data);
    s = vz_token_net_check(ctx, u.net, s);
    vz_token_net_close(ctx, &u.net);
    return s;
}

/* ---- Bytes or pieces ------------------------------------------------------------------------- */

/* The network takes twice the time of the rest, so all levels but the last use it only where all is
 * over soon: in blocks that are smaller than this. */
static const uint64_t net_below[FV_VZIP_LEVEL_ULTRA + 1] = {
    0, 0, 0, 128 << 10, 128 << 10, 256 << 10, 256 << 10, 256 << 10, 256 << 10, 256 << 10, UINT64_MAX};
/* Bytes of the sample: a part of the text, between bounds. With the tables of a small file. */
#define TRIED_PART 16
#define TRIED_LEAST ((size_t)16 << 10)
#define TRIED_MOST ((size_t)64 << 10)
#define TRIED_LOG2 24
#define TRIED_FROM ((uint64_t)1 << 20) /* less text is in pieces without a trial, but where the
                                        * strongest model of bytes stands against pieces without
                                        * network */

static const uint8_t *sample_of(const uint8_t *data, const vz_segment *segs, int count,
                                uint64_t text, size_t *size)
{
    const uint64_t part = text / TRIED_PART < TRIED_MOST ? text / TRIED_PART : TRIED_MOST;
    const size_t most = part < TRIED_LEAST ? TRIED_LEAST : (size_t)part;
    const uint8_t *best = data;
    uint64_t largest = 0;
    for (int i = 0; i < count; data += segs[i++].size)
        if (segs[i].kind == VZ_TEXT && segs[i].size > largest) {
            largest = segs[i].size;
            best = data;
        }
    *size = largest < most ? (size_t)largest : most;
    return best + (size_t)(largest - *size) / 2;
}

/* Is a part of the text smaller in bytes? */
static fv_status are_bytes_smaller(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data,
                                   size_t size, bool has_net, bool *are)
{
    const vz_prior none = {o->prior->model, 0, 0, o->prior->lanes};
    const int log2 = o->memory_log2 < TRIED_LOG2 ? o->memory_log2 : TRIED_LOG2;
    const vz_cm_options plain = {o->level, log2, &none};
    const vz_segment bytes = {VZ_TEXT, 0, size}, pieces = {VZ_PIECES, has_net, size};
    vz_buf a, b;
    vz_buf_init(&a, ctx);
    vz_buf_init(&b, ctx);
    fv_status s = vz_cm_encode(ctx, &plain, &bytes, 1, data, &a);
    if (s == FV_OK) s = vz_pieces_encode(ctx, &plain, &pieces, 1, data, &b);
    *are = a.size < b.size;
    vz_buf_free(&a);
    vz_buf_free(&b);
    return s;
}

fv_status vz_text_units(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data,
                        vz_segment *segs, int count)
{
    uint64_t text = 0, all = 0;
    size_t size;
    bool are_bytes = false;
    if (!o->prior || !o->prior->model->net) return FV_OK;
    for (int i = 0; i < count; i++) {
        text += segs[i].kind == VZ_TEXT ? segs[i].size : 0;
        all += segs[i].size;
    }
    if (text == 0) return FV_OK;
    const bool has_net = (o->prior->allowed & VZ_ALLOW_NET) && all < net_below[o->level];
    const uint8_t *sample = sample_of(data, segs, count, text, &size);
    if (text >= TRIED_FROM || (!has_net && o->level >= 6))
        FV_TRY(are_bytes_smaller(ctx, o, sample, size, has_net, &are_bytes));
    for (int i = 0; i < count && !are_bytes; i++) {
        if (segs[i].kind != VZ_TEXT) continue;
        segs[i].kind = VZ_PIECES;
        segs[i].param = has_net;
    }
    return FV_OK;
}
