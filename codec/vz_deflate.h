/* vz_deflate.h - finding what VZ_DEFLATE codes. PNG files: vz_png_detect of internal.h. */
#ifndef VZ_DEFLATE_H
#define VZ_DEFLATE_H

#include "internal.h"

#define VZ_PNG_HEAD 33    /* signature and IHDR */
#define VZ_STREAMS_FROM 6 /* the level */

/* Does a PNG that may be coded begin there? Its param. */
bool vz_png_head(const uint8_t *p, size_t n, uint32_t *param);
/* A member of a zip archive whose header (30 bytes) says how long it is: *size with the header. */
bool vz_zip_head(const uint8_t *p, size_t n, uint32_t *param, uint64_t *size);

/* Bytes of the gzip, zlib or zip header at data together with the deflate stream behind it, 0:
 * none. Inflates, so levels below VZ_STREAMS_FROM find nothing, and takes what that made from *budget. */
size_t vz_stream_detect(fv_ctx *ctx, const uint8_t *data, size_t size, int level, uint32_t *param,
                        uint64_t *budget);

#endif
