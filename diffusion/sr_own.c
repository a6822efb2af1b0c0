/* sr_own.c - the embedded model of super-resolution (bytes: sr_own.S).
 *
 * Only programs that call this carry the bytes: in the static library it is an object of its own. */
#include "fovea_diffusion.h"

#if defined(__ELF__)
extern const unsigned char fvi_sr_own[], fvi_sr_own_end[];
#else /* other object formats: built without */
static const unsigned char fvi_sr_own[1], *const fvi_sr_own_end = fvi_sr_own;
#endif

const void *fv_sr_default_model(size_t *size)
{
    /* The labels are separate objects for C, so the difference is taken of their addresses. */
    const size_t bytes = (size_t)((uintptr_t)fvi_sr_own_end - (uintptr_t)fvi_sr_own);
    if (size) *size = bytes;
    return bytes ? fvi_sr_own : NULL;
}
