/* fuzz_vz_model.h - a small model for targets of vzip: a network of any values, 512 pieces, three
 * texts. The same for every run, as archives in the corpus name its hash. */
#ifndef FUZZ_VZ_MODEL_H
#define FUZZ_VZ_MODEL_H

#include <string.h>

#include "fuzz_ctx.h"
#include "vz_models.h"

static inline fv_status fuzz_field(void *user, const nn_int_field *f)
{
    uint32_t *seed = user;
    uint8_t *at = nn_int_field_data(f);
    for (size_t i = 0; i < f->count; i++, at += f->bytes) {
        const uint64_t span = (uint64_t)(f->hi - f->lo) + 1;
        uint64_t r = 0;
        for (int k = 0; k < 3; k++) r = r << 22 ^ (*seed = *seed * 1664525 + 1013904223) >> 6;
        const int64_t v = f->lo + (int64_t)(r % span);
        const int32_t v32 = (int32_t)v;
        const int16_t v16 = (int16_t)v;
        const int8_t v8 = (int8_t)v;
        const void *from = f->bytes == 1   ? (const void *)&v8
                           : f->bytes == 2 ? (const void *)&v16
                           : f->bytes == 4 ? (const void *)&v32
                                           : (const void *)&v;
        memcpy(at, from, (size_t)f->bytes);
    }
    return FV_OK;
}

/* Bytes, and behind each a pair that begins with it. */
static inline fv_status fuzz_vocab(fv_ctx *ctx, nn_vocab *v)
{
    static const uint8_t next[] = "eta oinsr\n";
    static uint8_t text[256 * 3], length[512], depth[512];
    for (int i = 0; i < 256; i++) {
        text[3 * i] = text[3 * i + 1] = (uint8_t)i;
        text[3 * i + 2] = next[i % 10];
        length[2 * i] = 1;
        length[2 * i + 1] = 2;
        /* 1/4, 1/8 and 5/8 of the tree. */
        depth[2 * i] = depth[2 * i + 1] = (uint8_t)(i < 32 ? 8 : i < 96 ? 10 : 9);
    }
    return nn_vocab_open_tree(ctx, v, text, sizeof text, length, depth, 512);
}

static inline void fuzz_write_model(fv_ctx *ctx, vz_buf *file)
{
    static const uint8_t prose[] = "It was the best of times, it was the worst of times. "
                                   "The end.\n",
                         table[] = "\1\0\2\0\3\0\5\0\10\0\15\0\25\0\42\0";
    static uint8_t state[4096];
    const nn_int_config c = {16, 1, 16, 9, 512, 0};
    uint32_t seed = 11;
    vz_model m = {.name = "fuzz", .id = 0xf422, .primes = 3};
    for (size_t i = 0; i < sizeof state; i++) state[i] = (uint8_t)(i * i >> 3);
    m.prime[0] = (vz_model_prime){VZ_TEXT, state, prose, sizeof prose - 1};
    m.prime[1] = (vz_model_prime){VZ_BINARY, NULL, table, sizeof table - 1};
    m.prime[2] = (vz_model_prime){VZ_TEXT, NULL, prose + 9, 30};
    if (nn_int_state_saved_bytes(&c) > sizeof state ||
        nn_int_model_create(ctx, &m.net, &c) != FV_OK ||
        nn_int_visit(m.net, fuzz_field, &seed) != FV_OK || fuzz_vocab(ctx, &m.vocab) != FV_OK ||
        vz_model_write(ctx, &m, file) != FV_OK)
        exit(1);
    nn_int_model_destroy(ctx, &m.net);
    nn_vocab_close(&m.vocab);
}

/* In a context of its own, until the end of the process. */
static inline const fv_vzip_model *fuzz_vz_model(void)
{
    static fv_vzip_model *model;
    fv_ctx *ctx;
    vz_buf file;
    if (model) return model;
    if (fv_ctx_create(&ctx, NULL) != FV_OK) exit(1);
    vz_buf_init(&file, ctx);
    fuzz_write_model(ctx, &file);
    if (fv_vzip_model_open_memory(ctx, &model, file.data, file.size) != FV_OK) exit(1);
    vz_buf_free(&file);
    return model;
}

#endif
