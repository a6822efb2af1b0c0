/* nn_int_fixture.h - integer networks of drawn numbers. */
#ifndef NN_INT_FIXTURE_H
#define NN_INT_FIXTURE_H

#include "nn_int.h"
#include "test.h"

static uint64_t nn_seed = 7;

/* For nn_int_visit; user: a bool. Everything that a field allows, or (true) mostly its ends. */
static inline fv_status nn_wild_field(void *user, const nn_int_field *f)
{
    const bool extreme = *(const bool *)user;
    uint8_t *at = nn_int_field_data(f);
    for (size_t i = 0; i < f->count; i++, at += f->bytes) {
        const uint32_t r = test_next(&nn_seed);
        const uint64_t span = (uint64_t)(f->hi - f->lo) + 1;
        int64_t v = f->lo + (int64_t)(((uint64_t)test_next(&nn_seed) << 32 | r) % span);
        if (extreme && r % 4) v = r & 64 ? f->lo : f->hi;
        const int8_t v8 = (int8_t)v;
        const int16_t v16 = (int16_t)v;
        const int32_t v32 = (int32_t)v;
        memcpy(at,
               f->bytes == 1   ? (const void *)&v8
               : f->bytes == 2 ? (const void *)&v16
               : f->bytes == 4 ? (const void *)&v32
                               : (const void *)&v,
               (size_t)f->bytes);
    }
    return FV_OK;
}

#endif
