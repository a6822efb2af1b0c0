/* omnizip_fixture.h - networks with the random weights of tests/parity/omnizip_net.py. */
#ifndef OMNIZIP_FIXTURE_H
#define OMNIZIP_FIXTURE_H

#include "omnizip.h"
#include "test.h"

/* Scale and mean of a tensor's random values: scale_of() of the script. */
static inline void oz_fixture_scale(const char *name, const fv_tensor *t, float *scale, float *mean)
{
    const size_t n = strlen(name);
    const char *tail = strrchr(name, '.');
    *mean = 0;
    if (t->ndim == 2) {
        *scale = strstr(name, "noise")   ? 0.5f
                 : strstr(name, "embed") ? 1.0f
                                         : (float)(1.7 / sqrt((double)t->dim[1]));
        return;
    }
    *scale = 1.5f;
    if ((n >= 11 && strcmp(name + n - 11, "norm.weight") == 0) ||
        (strstr(name, "ln") && strcmp(tail, ".weight") == 0)) {
        *scale = 0.3f;
        *mean = 1;
    } else if (strcmp(tail, ".bias") == 0) {
        *scale = 0.3f;
    } else if (strstr(name, ".mix_")) {
        *scale = *mean = 0.5f;
    } else if (strcmp(tail, ".decay") == 0) {
        *scale = 3;
        *mean = -3;
    } else if (strcmp(tail, ".mix") == 0) {
        *scale = 0.5f;
        *mean = 0.75f;
    }
}

static inline void oz_fixture_fill(oz_net *net)
{
    for (int i = 0; i < fv_params_count(net->params); i++) {
        const fv_tensor t = fv_params_tensor(net->params, i);
        const char *name = fv_params_name(net->params, i);
        uint64_t seed = 0xcbf29ce484222325u;
        float *w = t.data, scale, mean;
        for (const char *c = name; *c; c++) seed = (seed ^ (uint8_t)*c) * 0x100000001b3u;
        oz_fixture_scale(name, &t, &scale, &mean);
        test_fill(w, fv_tensor_count(&t), seed);
        for (int64_t k = 0; k < fv_tensor_count(&t); k++) w[k] = w[k] * scale + mean;
    }
    fv_params_touch(net->params);
}

#endif
