/* vz_bytes_case.h - the model of bytes (codec/cm.c) as a vz_case, so that its tests use what
 * vz_fixture.h has for coders. The model takes segments and skips those of other coders: here their
 * bytes come back as they were.
 *
 * One case at a time: the segments are those of the last vz_bytes_case. */
#ifndef VZ_BYTES_CASE_H
#define VZ_BYTES_CASE_H

#include "vz_fixture.h"

static struct {
    const vz_segment *segs;
    int count;
    const uint8_t *data;
} vz_bytes_block;

static inline fv_status vz_bytes_encode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                                        const uint8_t *data, size_t size, vz_buf *out, bool *fits)
{
    (void)param;
    (void)size;
    *fits = true;
    return vz_cm_encode(ctx, o, vz_bytes_block.segs, vz_bytes_block.count, data, out);
}

static inline fv_status vz_bytes_decode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                                        const uint8_t *code, size_t code_size, uint8_t *back,
                                        size_t size)
{
    const vz_segment *segs = vz_bytes_block.segs;
    const int count = vz_bytes_block.count;
    (void)param;
    (void)size;
    const fv_status s = vz_cm_decode(ctx, o, segs, count, code, code_size, back);
    if (s == FV_ERR_FORMAT) return FV_ERR_INTERNAL; /* any bytes are a code, if there are enough */
    for (int i = 0, at = 0; i < count; at += (int)segs[i++].size)
        if (!vz_kind_is_cm(segs[i].kind))
            memcpy(back + at, vz_bytes_block.data + at, (size_t)segs[i].size);
    return s;
}

static inline uint64_t vz_bytes_memory(const vz_cm_options *o, uint32_t param, uint64_t size)
{
    (void)param;
    return vz_cm_memory(o, size);
}

static inline vz_case vz_bytes_case(int level, int memory_log2, const vz_segment *segs, int count,
                                    const uint8_t *data, size_t size)
{
    static const vz_coder coder = {VZ_BINARY, "bytes", vz_bytes_encode, vz_bytes_decode,
                                   vz_bytes_memory};
    vz_bytes_block.segs = segs;
    vz_bytes_block.count = count;
    vz_bytes_block.data = data;
    return (vz_case){&coder, {level, memory_log2, NULL}, 0, data, size};
}

#endif
