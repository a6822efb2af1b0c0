/* fovea_ar.h - visual autoregressive generation: LlamaGen-compatible models, speculative decoding
 * (VVS), training, conversion.
 *
 * One model file (safetensors with fovea.* metadata) is one fv_ar: a GPT over the codes of a VQ
 * tokenizer, that tokenizer, and a draft head that guesses ahead. */
#ifndef FOVEA_AR_H
#define FOVEA_AR_H

#include "fovea.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Models ---------------------------------------------------------------------------------- */

/* ---- Generating ------------------------------------------------------------------------------ */

/* ---- Tokenizers ------------------------------------------------------------------------------ */

/* ---- Training and conversion ----------------------------------------------------------------- */

#ifdef __cplusplus
}
#endif
#endif
