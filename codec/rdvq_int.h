/* rdvq_int.h - private: the entropy model of RDVQ in integers, as files for use hold it.
 *
 * rdvq_entropy.c's transformer for own models, with weights of 8 bits (16 where a file says so),
 * activations of 16 and exact sums: the probabilities of tokens are the same bits on every CPU and
 * compiler, for any number of threads and windows, whether a window is computed slice by slice or
 * at once. Tensors rdvq.int.* of the model file; formats and proofs in rdvq_int_net.h. */
#ifndef FV_RDVQ_INT_H
#define FV_RDVQ_INT_H

#include "rdvq.h"

/* Immutable after open: any number of threads and contexts; its memory belongs to ctx. */
typedef struct rdvq_int rdvq_int;

/* From tensors rdvq.int.* and the metadata. Every number is checked against the range that the
 * arithmetic needs. FV_ERR_MODEL: not such a file, or a tensor is missing or out of range. m may be
 * closed afterwards. */
fv_status rdvq_int_open(fv_ctx *ctx, rdvq_int **out, const fv_model *m);
void rdvq_int_close(rdvq_int **m);
const rdvq_config *rdvq_int_config(const rdvq_int *m);
const rdvq_slices *rdvq_int_slices(const rdvq_int *m);
/* Of the canonical blob: config, slices, mask, weights, tables. Two files with equal hashes give
 * equal probabilities, whatever their transforms are. */
void rdvq_int_hash(const rdvq_int *m, uint8_t sha256[32]);
/* Memory that it takes. */
uint64_t rdvq_int_bytes(const rdvq_int *m);

#endif
