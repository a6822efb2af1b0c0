/* vz_coders.c - the coders of single segments, one for each kind that context mixing does not take.
 *
 * A new coder is one line here; its number in vz_kind is what archives store. */
#include "internal.h"

const vz_coder *vz_coder_of(vz_kind kind)
{
    static const vz_coder *const coders[] = {&vz_image_coder, &vz_deflate_coder, &vz_audio_coder,
                                             &vz_genes_coder};
    for (size_t i = 0; i < FV_ARRAY_LEN(coders); i++)
        if (coders[i]->kind == kind) return coders[i];
    return NULL;
}
