/* default_model.c - the embedded model and its sensitivity table (bytes: default_model.S).
 *
 * Only programs that call these functions carry the bytes: in the static library they are an object
 * of their own. */
#include "fovea_diffusion.h"

#if defined(__ELF__)
extern const unsigned char fvi_default_model[], fvi_default_model_end[];
extern const unsigned char fvi_default_table[], fvi_default_table_end[];
#else /* other object formats: built without */
static const unsigned char fvi_default_model[1], *const fvi_default_model_end = fvi_default_model;
static const unsigned char fvi_default_table[1], *const fvi_default_table_end = fvi_default_table;
#endif

/* The two labels are separate objects for C, so the difference is taken of their addresses. */
static const void *range(const unsigned char *first, const unsigned char *end, size_t *size)
{
    const size_t bytes = (size_t)((uintptr_t)end - (uintptr_t)first);
    if (size) *size = bytes;
    return bytes ? first : NULL;
}

const void *fv_dit_default_model(size_t *size)
{
    return range(fvi_default_model, fvi_default_model_end, size);
}

const void *fv_dit_default_table(size_t *size)
{
    return range(fvi_default_table, fvi_default_table_end, size);
}
