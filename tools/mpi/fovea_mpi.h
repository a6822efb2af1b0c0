/* fovea_mpi.h - what libfovea_mpi.so exports. Programs open it with dlopen (fovea_mpi.c says why). */
#ifndef FOVEA_MPI_H
#define FOVEA_MPI_H

#include <stddef.h>

#define FOVEA_MPI_FILE "libfovea_mpi.so"

/* rank, size and exchange as in fv_comm_link. */
typedef struct fovea_mpi_link {
    int rank, size;
    int (*exchange)(void *user, int to, const void *send, size_t send_bytes, int from, void *recv,
                    size_t recv_bytes, char *why, size_t why_size);
} fovea_mpi_link;

/* Once in a process, and on the thread that exchanges. Nonzero: failed, `why` says it. */
int fovea_mpi_open(fovea_mpi_link *out, char *why, size_t why_size);
typedef int (*fovea_mpi_open_fn)(fovea_mpi_link *out, char *why, size_t why_size);
/* Once. Waits for the other ranks; failed != 0: ends them all with that exit status instead. */
void fovea_mpi_close(int failed);
typedef void (*fovea_mpi_close_fn)(int failed);

#endif
