/* vz_deflate.h - finding what VZ_DEFLATE codes. PNG files: vz_png_detect of internal.h. */
#ifndef VZ_DEFLATE_H
#define VZ_DEFLATE_H

#include "internal.h"

/* Bytes of the gzip, zlib or zip header at data together with the deflate stream behind it, 0:
 * none. Inflates, so levels below 6 find nothing, and takes what that made from *budget. */
size_t vz_stream_detect(fv_ctx *ctx, const uint8_t *data, size_t size, int level, uint32_t *param,
                        uint64_t *budget);

#endif
