/* vz_genes.h - shared by the files of the coder of FASTA and FASTQ.
 *
 * All of it is part of the format: a change of any number changes the bytes. */
#ifndef VZ_GENES_H
#define VZ_GENES_H

#include "cm_parts.h"

/* Either an encoder or a decoder: one function walks the model for both. */
typedef struct vz_genes_bits {
    vz_encoder *e;
    vz_decoder *d;
} vz_genes_bits;
FV_INLINE int vz_genes_bit(const vz_genes_bits *b, uint32_t p16, int bit)
{
    if (!b->e) return vz_decode_bit(b->d, p16);
    vz_encode_bit(b->e, p16, bit);
    return bit;
}

/* Bases 0..3 (A C G T, so that 3 - x is the complement). side: NULL, or below VZ_GENES_SIDES for
 * each base: how sure the sequencer was of it. */
#define VZ_GENES_SIDES 24
uint64_t vz_bases_memory(const vz_cm_options *o, uint64_t count);
fv_status vz_bases_code(fv_ctx *ctx, const vz_cm_options *o, const vz_genes_bits *b, uint8_t *bases,
                        size_t count, const uint8_t *side);

/* Qualities 0..93 of reads whose lengths are given, and for each whether its base is an N. */
#define VZ_QUALITY_MAX 93
uint64_t vz_quality_memory(const vz_cm_options *o, uint64_t count);
fv_status vz_quality_code(fv_ctx *ctx, const vz_cm_options *o, const vz_genes_bits *b,
                          const uint32_t *lengths, size_t reads, uint8_t *quality, uint8_t *is_n);

#endif
