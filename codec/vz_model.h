/* vz_model.h - private: model files of vzip, .vzm (vz_model.c): the integer network, vocabulary,
 * and for kinds of data a state to begin with and typical bytes. */
#ifndef VZ_MODEL_H
#define VZ_MODEL_H

#include "cm_token.h"
#include "nn_int.h"

#define VZ_MODEL_NAME 32 /* bytes of the name, with the final NUL */
#define VZ_MODEL_PRIMES 16
#define VZ_MODEL_PRIMING ((size_t)16 << 20) /* most priming bytes of a kind */

typedef struct vz_model_prime {
    vz_kind kind;
    const uint8_t *state; /* for nn_int_state_load, or NULL: begins with zeros */
    const uint8_t *text;  /* for the statistics of a block without a past; may be empty */
    size_t text_bytes;
} vz_model_prime;

struct vz_model {
    fv_ctx *ctx; /* of the memory; must outlive the model */
    nn_int_model *net; /* NULL: only texts, no vocabulary and states */
    nn_vocab vocab;
    vz_tree tree; /* of vocab, for the token coder */
    char name[VZ_MODEL_NAME];
    uint32_t id;
    uint8_t hash[16]; /* XXH3-128 of the file: frame headers name the first 8 bytes */
    int primes;
    vz_model_prime prime[VZ_MODEL_PRIMES];
    uint8_t *prime_bytes; /* what they point to; NULL: the maker's memory */
};

/* Everything is copied. Any error leaves *out NULL. FV_ERR_FORMAT, _TRUNCATED, _VERSION, _CHECKSUM,
 * _LIMIT, _MODEL: the file; memory taken is about the size of the file, never more than that and a
 * constant. A model that is open is only read: any number of threads may share it. */
fv_status vz_model_read(fv_ctx *ctx, vz_model **out, const uint8_t *bytes, size_t size);
fv_status vz_model_open(fv_ctx *ctx, vz_model **out, const char *path);
/* The most useful passages of samples that lie one after the other in data (vz_prime_train.c). */
fv_status vz_prime_select(fv_ctx *ctx, const uint8_t *data, const size_t *sizes, size_t samples,
                          size_t want, vz_buf *out);
/* Also a model that was put together by its maker, if net, vocab and prime_bytes are of ctx. */
void vz_model_close(vz_model **m);
/* Appends the file of a model (ctx, hash and prime_bytes are not looked at). */
fv_status vz_model_write(fv_ctx *ctx, const vz_model *m, vz_buf *out);
/* Hash of a model file, what its last 16 bytes should be; size >= 16. */
void vz_model_hash(const uint8_t *bytes, size_t size, uint8_t hash[16]);
/* The first of that kind, whose state counts; there may be more texts of it (vz_prime.c). NULL: the
 * model knows nothing of that kind. */
const vz_model_prime *vz_model_prime_of(const vz_model *m, vz_kind kind);
FV_INLINE uint64_t vz_model_short_hash(const vz_model *m)
{
    return vz_rd32(m->hash) | (uint64_t)vz_rd32(m->hash + 4) << 32;
}

#endif
