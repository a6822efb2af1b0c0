/* rdvq_add.h - private: registering the parameters of RDVQ (rdvq_net.c, rdvq_entropy.c). */
#ifndef FV_RDVQ_ADD_H
#define FV_RDVQ_ADD_H

#include "rdvq.h"

typedef struct rdvq_adder {
    rdvq_net *n;
    const char *prefix;
    uint32_t flags; /* of all that is added */
} rdvq_adder;

/* PREFIX + name (printf) + ".weight" and ".bias"; vectors and tables without a suffix. */
rdvq_conv rdvq_add_conv(rdvq_adder *a, int out, int in, int k, const char *name, ...)
    FV_PRINTF(5, 6);
rdvq_conv rdvq_add_norm(rdvq_adder *a, int width, const char *name, ...) FV_PRINTF(3, 4);
fv_pid rdvq_add_matrix(rdvq_adder *a, int out, int in, const char *name, ...) FV_PRINTF(4, 5);
fv_pid rdvq_add_vector(rdvq_adder *a, int n, uint32_t flags, const char *name, ...)
    FV_PRINTF(4, 5);
fv_pid rdvq_add_table(rdvq_adder *a, int rows, int columns, const char *name);

/* The entropy model's part of rdvq_net_add and rdvq_net_init. */
void rdvq_entropy_add(rdvq_adder *a);
void rdvq_entropy_init(rdvq_net *n, uint64_t seed);

#endif
