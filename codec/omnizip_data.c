/* omnizip_data.c - training data of the OmniZip network: files of bytes by modality, as tokens.
 *
 *     data = text:corpora/text.tar.xz, gene:corpora/gene.tar.xz, speech:digits/
 *
 * Sources are folders, tar, tar.gz and tar.xz. A file is one document, with two exceptions: a WAV
 * file's samples without its header, and a picture (PNG, JPEG, WebP, PNM), which is decoded and cut
 * into patches of 16 x 16 pixels, channels interleaved, row after row, each a document, as the
 * paper does it; zeros pad the right and bottom edges.
 *
 * Held out: files with CRC32(path) mod 20 == 7, as in the picture data sets. Where a modality has
 * no such file, the last twentieth of each of its documents.
 *
 * A document begins with the prefix token of its modality, which predicts its first token; it is
 * read in pieces of T tokens. Documents are shuffled once by the seed. */
#include "omnizip.h"

#include <string.h>

#include "archive.h"

#define SPLIT_MODULUS 20
#define SPLIT_HELDOUT 7
#define PATCH 16

/* New ones at the end: the order numbers the prefixes of models. */
const char *const oz_modality_name[OZ_MODALITIES] = {"image",    "medical", "tactile", "speech",
                                                     "database", "gene",    "text",    "code"};

/* ---- Tokens ---------------------------------------------------------------------------------- */

const oz_tokenizer oz_bytes = {256, OZ_MODALITIES, NULL};

oz_tokenizer oz_pieces(const nn_vocab *v)
{
    const oz_tokenizer t = {v->size, OZ_MODALITIES, v};
    return t;
}

size_t oz_encode(const oz_tokenizer *t, const uint8_t *bytes, size_t size, uint16_t *out)
{
    if (t->vocab) return nn_vocab_encode(t->vocab, bytes, size, out);
    for (size_t i = 0; i < size; i++) out[i] = bytes[i];
    return size;
}

int oz_token_bytes(const oz_tokenizer *t, int token)
{
    return t->vocab ? nn_vocab_length(t->vocab, token) : 1;
}

/* ---- Streams --------------------------------------------------------------------------------- */

/* Room for `more` further items; the array may move. */
static fv_status grow(fv_ctx *ctx, void **p, int64_t used, int64_t more, int64_t *capacity,
                      size_t size)
{
    size_t bytes;
    if (used + more <= *capacity) return FV_OK;
    const int64_t cap = 2 * *capacity > used + more ? 2 * *capacity : used + more;
    if (!fv_mul_size((size_t)cap, size, &bytes)) return fv_fail(ctx, FV_ERR_OOM, "data: too large");
    void *q = fv_realloc(ctx, *p, (size_t)used * size, bytes);
    if (!q) return FV_ERR_OOM;
    *p = q;
    *capacity = cap;
    return FV_OK;
}

static fv_status add_document(oz_data *d, oz_stream *s, const uint8_t *bytes, size_t size)
{
    if (size == 0) return FV_OK;
    FV_TRY(
        grow(d->ctx, (void **)&s->token, s->tokens, (int64_t)size, &s->capacity, sizeof *s->token));
    FV_TRY(grow(d->ctx, (void **)&s->doc, s->docs, 1, &s->doc_capacity, sizeof *s->doc));
    const int64_t n = (int64_t)oz_encode(d->tok, bytes, size, s->token + s->tokens);
    s->doc[s->docs++] = (oz_document){s->tokens, n};
    s->tokens += n;
    s->bytes += (int64_t)size;
    return FV_OK;
}

/* Samples of a WAV file; false if it is none. */
static bool wav_samples(const uint8_t *p, size_t size, const uint8_t **data, size_t *count)
{
    if (size < 12 || memcmp(p, "RIFF", 4) != 0 || memcmp(p + 8, "WAVE", 4) != 0) return false;
    for (size_t at = 12; size - at >= 8;) {
        const size_t n = (size_t)p[at + 4] | (size_t)p[at + 5] << 8 | (size_t)p[at + 6] << 16 |
                         (size_t)p[at + 7] << 24;
        const size_t left = size - at - 8, chunk = n < left ? n : left;
        if (memcmp(p + at, "data", 4) == 0) {
            *data = p + at + 8;
            *count = chunk;
            return true;
        }
        at += 8 + chunk + (chunk & 1);
        if (at > size) return false;
    }
    return false;
}

/* A picture as patches: each a document. */
static fv_status add_picture(oz_data *d, oz_stream *s, const uint8_t *bytes, size_t size,
                             uint64_t max_bytes)
{
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    fv_image img;
    uint8_t patch[PATCH * PATCH * 4];
    o.depth = 8;
    FV_TRY(fv_image_decode(d->ctx, &img, bytes, size, &o));
    const size_t C = (size_t)img.channels;
    fv_status st = FV_OK;
    for (int y = 0; y < img.height && st == FV_OK; y += PATCH)
        for (int x = 0; x < img.width && st == FV_OK; x += PATCH) {
            if ((uint64_t)s->bytes + PATCH * PATCH * C > max_bytes) break;
            memset(patch, 0, sizeof patch);
            const size_t columns = (size_t)(img.width - x < PATCH ? img.width - x : PATCH);
            for (int r = 0; r < PATCH && y + r < img.height; r++)
                memcpy(patch + (size_t)r * PATCH * C,
                       (const uint8_t *)img.pixels + (size_t)(y + r) * img.stride_bytes +
                           (size_t)x * C,
                       columns * C);
            st = add_document(d, s, patch, PATCH * PATCH * C);
        }
    fv_image_free(d->ctx, &img);
    return st;
}

static bool is_held_out(const fvi_member *file)
{
    return fv_crc32(0, file->path, strlen(file->path)) % SPLIT_MODULUS == SPLIT_HELDOUT;
}

static fv_status add_file(oz_data *d, const oz_data_options *o, int m, const fvi_member *file,
                          nn_sample f)
{
    oz_stream *s = is_held_out(file) ? &d->held[m] : &d->train[m];
    if ((uint64_t)s->bytes >= o->max_bytes) return FV_OK;
    if (fv_image_sniff(f.bytes, f.size) != FV_IMAGE_UNKNOWN)
        return add_picture(d, s, f.bytes, f.size, o->max_bytes);
    (void)wav_samples(f.bytes, f.size, &f.bytes, &f.size);
    const uint64_t left = o->max_bytes - (uint64_t)s->bytes;
    return add_document(d, s, f.bytes, f.size < left ? f.size : (size_t)left);
}

/* Number of the modality that `source` names, and what stands behind the colon; -1: wrong. */
static int modality_of(const char *source, const char **path)
{
    const char *colon = strchr(source, ':');
    if (!colon || !colon[1]) return -1;
    *path = colon + 1;
    for (int m = 0; m < OZ_MODALITIES; m++)
        if (strncmp(source, oz_modality_name[m], (size_t)(colon - source)) == 0 &&
            !oz_modality_name[m][colon - source])
            return m;
    return -1;
}

/* What happens to each file of a source. */
typedef fv_status file_fn(oz_data *d, const oz_data_options *o, int m, const fvi_member *file,
                          nn_sample f);

static fv_status visit_source(oz_data *d, const oz_data_options *o, const char *source, file_fn *fn)
{
    const char *name = NULL;
    const int m = modality_of(source, &name);
    if (m < 0)
        return fv_fail(
            d->ctx, FV_ERR_ARG,
            "recipe: data: \"%.80s\" is not modality:path, with image, medical, tactile, "
            "speech, database, gene, text or code",
            source);
    char *path = name[0] == '/' || !o->data_dir ? fv_strdup(d->ctx, name)
                                                : fv_format(d->ctx, "%s/%s", o->data_dir, name);
    if (!path) return FV_ERR_OOM;
    fvi_archive *a = NULL;
    fv_status s = fvi_archive_open(d->ctx, &a, path, NULL);
    for (fvi_member file = {NULL, 0}; s == FV_OK;) {
        uint8_t *bytes;
        size_t size;
        s = fvi_archive_next(a, &file);
        if (s != FV_OK || !file.path) break;
        s = fvi_archive_read(a, &bytes, &size);
        if (s != FV_OK) break;
        s = fn(d, o, m, &file, (nn_sample){bytes, size});
        fv_free(d->ctx, bytes);
        if (s != FV_OK) s = fv_fail_in(d->ctx, s, "%s", file.path);
    }
    fvi_archive_close(&a);
    fv_free(d->ctx, path);
    return s;
}

static int64_t bytes_so_far(const oz_data *d)
{
    int64_t sum = 0;
    for (int m = 0; m < OZ_MODALITIES; m++) sum += d->train[m].bytes + d->held[m].bytes;
    return sum;
}

static fv_status add_source(oz_data *d, const oz_data_options *o, const char *source)
{
    const int64_t before = bytes_so_far(d);
    FV_TRY(visit_source(d, o, source, add_file));
    fv_text_printf(&d->manifest, "%s %lld bytes\n", source, (long long)(bytes_so_far(d) - before));
    return d->manifest.status;
}

/* ---- What a vocabulary is learned from ------------------------------------------------------- */

static bool has_words(int m)
{
    static const char *const name[] = {"text", "code", "database"};
    for (size_t i = 0; i < FV_ARRAY_LEN(name); i++)
        if (strcmp(oz_modality_name[m], name[i]) == 0) return true;
    return false;
}

static fv_status sample_file(oz_data *d, const oz_data_options *o, int m, const fvi_member *file,
                             nn_sample f)
{
    oz_sample *s = &d->sample;
    const uint8_t *samples;
    size_t count;
    const int64_t most =
        (int64_t)o->max_bytes < OZ_SAMPLE_BYTES ? (int64_t)o->max_bytes : OZ_SAMPLE_BYTES;
    if (!has_words(m) || is_held_out(file) || s->of[m] >= most) return FV_OK;
    if (fv_image_sniff(f.bytes, f.size) != FV_IMAGE_UNKNOWN) return FV_OK;
    if (wav_samples(f.bytes, f.size, &samples, &count)) return FV_OK;
    const int64_t left = most - s->of[m], n = (int64_t)f.size < left ? (int64_t)f.size : left;
    FV_TRY(grow(d->ctx, (void **)&s->bytes, s->used, n, &s->capacity, 1));
    if (n > 0) memcpy(s->bytes + s->used, f.bytes, (size_t)n);
    s->used += n;
    s->of[m] += n;
    return FV_OK;
}

fv_status oz_data_sample(oz_data *d, const oz_data_options *o, uint8_t **bytes, size_t *size)
{
    fv_status s = FV_OK;
    for (int i = 0; s == FV_OK && i < o->source_count; i++)
        s = visit_source(d, o, o->sources[i], sample_file);
    if (s != FV_OK) fv_free(d->ctx, d->sample.bytes);
    *bytes = s == FV_OK ? d->sample.bytes : NULL;
    *size = s == FV_OK ? (size_t)d->sample.used : 0;
    memset(&d->sample, 0, sizeof d->sample);
    return s;
}

/* ---- Split, order, pieces -------------------------------------------------------------------- */

/* The last twentieth of each document becomes one of `held`, if it has at least a byte. */
static fv_status hold_out_tails(oz_data *d, oz_stream *train, oz_stream *held)
{
    for (int64_t i = 0; i < train->docs; i++) {
        oz_document *t = &train->doc[i];
        const int64_t n = t->n / SPLIT_MODULUS;
        if (n == 0) continue;
        FV_TRY(grow(d->ctx, (void **)&held->token, held->tokens, n, &held->capacity,
                    sizeof *held->token));
        FV_TRY(grow(d->ctx, (void **)&held->doc, held->docs, 1, &held->doc_capacity,
                    sizeof *held->doc));
        memcpy(held->token + held->tokens, train->token + t->first + t->n - n,
               (size_t)n * sizeof *held->token);
        held->doc[held->docs++] = (oz_document){held->tokens, n};
        held->tokens += n;
        t->n -= n;
        for (int64_t k = 0; k < n; k++) {
            const int bytes = oz_token_bytes(d->tok, train->token[t->first + t->n + k]);
            train->bytes -= bytes;
            held->bytes += bytes;
        }
    }
    return FV_OK;
}

static fv_status cut_pieces(oz_data *d, oz_stream *s, int T, uint64_t seed)
{
    int64_t count = 0;
    for (int64_t i = 0; i < s->docs; i++) count += (s->doc[i].n + T - 1) / T;
    s->piece = fv_calloc(d->ctx, (size_t)count + 1, sizeof *s->piece);
    s->begins = fv_calloc(d->ctx, (size_t)count + 1, 1);
    if (!s->piece || !s->begins) return FV_ERR_OOM;
    for (int64_t i = 0; i < s->docs; i++) {
        const oz_document doc = s->doc[fv_rand_permute(seed, 0, (uint64_t)s->docs, (uint64_t)i)];
        for (int64_t at = 0; at < doc.n; at += T) {
            s->begins[s->pieces] = at == 0;
            s->piece[s->pieces++] = (oz_document){doc.first + at, doc.n - at < T ? doc.n - at : T};
        }
    }
    return FV_OK;
}

fv_status oz_data_open(oz_data *d, const oz_data_options *o)
{
    fv_text_init(&d->manifest, d->ctx);
    for (int i = 0; i < o->source_count; i++) {
        FV_TRY(fv_report(d->ctx, "reading data", (uint64_t)i, (uint64_t)o->source_count,
                         o->sources[i]));
        FV_TRY(add_source(d, o, o->sources[i]));
    }
    for (int m = 0; m < OZ_MODALITIES; m++) {
        if (d->train[m].docs == 0 && d->held[m].docs == 0) continue;
        if (d->held[m].docs == 0) FV_TRY(hold_out_tails(d, &d->train[m], &d->held[m]));
        FV_TRY(cut_pieces(d, &d->train[m], o->T, o->seed));
        FV_TRY(cut_pieces(d, &d->held[m], o->T, o->seed));
        if (d->train[m].pieces == 0)
            return fv_fail(d->ctx, FV_ERR_ARG, "recipe: data: nothing of %s is left to train on",
                           oz_modality_name[m]);
        d->modality[d->used++] = m;
    }
    if (d->used) return FV_OK;
    return fv_fail(d->ctx, FV_ERR_ARG, "recipe: data: the sources hold no bytes");
}

static void stream_free(fv_ctx *ctx, oz_stream *s)
{
    fv_free(ctx, s->token);
    fv_free(ctx, s->doc);
    fv_free(ctx, s->piece);
    fv_free(ctx, s->begins);
}

void oz_data_close(oz_data *d)
{
    for (int m = 0; m < OZ_MODALITIES; m++) {
        stream_free(d->ctx, &d->train[m]);
        stream_free(d->ctx, &d->held[m]);
    }
    fv_text_free(&d->manifest);
}

int64_t oz_fill_row(const oz_data *d, const oz_stream *s, int modality, int64_t p, int T,
                    int32_t *ids, int32_t *labels)
{
    const oz_document piece = s->piece[p];
    const int32_t prefix = d->tok->outputs + modality;
    int64_t bytes = 0;
    for (int t = 0; t < T; t++) {
        const bool inside = t < piece.n;
        labels[t] = inside ? s->token[piece.first + t] : -1;
        if (t > 0) ids[t] = t <= piece.n ? s->token[piece.first + t - 1] : prefix;
        else ids[t] = s->begins[p] ? prefix : s->token[piece.first - 1];
        if (inside) bytes += oz_token_bytes(d->tok, labels[t]);
    }
    return bytes;
}
