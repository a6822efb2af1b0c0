/* vz_records.h - tables in binary data (vz_records.c). */
#ifndef VZ_RECORDS_H
#define VZ_RECORDS_H

#include "internal.h"

/* What binary data begins with: a table of records, or none for so many bytes. */
fv_status vz_records_next(fv_ctx *ctx, const uint8_t *data, size_t size, vz_segment *out);
/* Is it, at five places, a table that is half wide integers and floating point? Such tables look
 * like sound or machine code to those who look for these. */
bool vz_records_are_numbers(const uint8_t *data, size_t size);

#endif
