/* dit_shapes.h - configuration of a DiT from tensor shapes; shared by dit_config.c and
 * dit_convert.c. */
#ifndef FV_DIT_SHAPES_H
#define FV_DIT_SHAPES_H

#include "internal.h"

#define DIT_MAX_DEPTH 256
#define DIT_MAX_WIDTH 16384
#define DIT_MAX_SIZE 4096
#define DIT_MAX_TOKENS 65536
#define DIT_MAX_CLASSES 10000000

/* Shapes that fix an official DiT (data is not read). pos.ndim 0: the file has no position table.
 */
typedef struct dit_shapes {
    fv_tensor patch;   /* [D, C, p, p]     */
    fv_tensor classes; /* [classes + 0/1, D] */
    fv_tensor fc1;     /* [hidden, D]      */
    fv_tensor out;     /* [p*p*Cout, D]    */
    fv_tensor pos;     /* [1, N, D]        */
    int depth;
} dit_shapes;

/* `hints` may carry the numbers that shapes do not tell: metadata heads, classes, image. */
fv_status dit_config_from_shapes(fv_ctx *ctx, const dit_shapes *s, const fv_model *hints,
                                 dit_config *out);
/* Every number in range, sizes consistent, products far from overflow. */
fv_status dit_config_check(fv_ctx *ctx, const dit_config *c);

#endif
