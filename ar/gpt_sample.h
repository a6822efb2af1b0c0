/* gpt_sample.h - plain sampling through the tape: sheets during training, and what step by step
 * decoding with caches is compared with in tests. */
#ifndef FV_GPT_SAMPLE_H
#define FV_GPT_SAMPLE_H

#include "ar_decode.h"
#include "gpt_model.h"

typedef struct gpt_sampler gpt_sampler;

/* For `images` pictures at a time of a model of classes. The net may train in between. */
fv_status gpt_sampler_create(fv_ctx *ctx, gpt_sampler **out, const gpt_net *n, int images,
                             fv_dtype precision);
void gpt_sampler_destroy(gpt_sampler **s);
/* labels [images] -> codes [images, grid * grid]. Guidance (if cfg > 1), draws and noise as the
 * engine's; picture i has number first + i. */
fv_status gpt_sampler_run(gpt_sampler *s, const int32_t *labels, float cfg, const ar_sampling *how,
                          ar_noise first, int32_t *codes);

#endif
