/* fovea_mpi.c - links of kernels/comm.c over MPI, as a module of its own.
 *
 * libfovea_mpi.so is opened by a program that mpirun started, and by no other: so neither the
 * library nor the programs need MPI to be built, installed or started, and a distribution can ship
 * the module apart. It calls nothing of fovea.
 *
 * Only point-to-point messages are used: which bytes go where, and in which order sums are made, is
 * decided in comm.c. While it waits a rank looks for its message, at first without a break and then
 * with short sleeps, for the other ranks may need its core. */
#include "fovea_mpi.h"

#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define TAG 1
#define SPIN 2000     /* looks without a break, a few hundred microseconds */
#define NAP 50000L    /* nanoseconds */

static MPI_Comm world;

static int fail(int code, const char *what, char *why, size_t size)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(code, text, &n);
    snprintf(why, size, "%s: %.100s", what, text);
    return 1;
}

static int wait_for_both(MPI_Request request[2], char *why, size_t why_size)
{
    const struct timespec nap = {0, NAP};
    int done = 0;
    for (long look = 0; !done; look++) {
        MPI_Status state[2];
        const int code = MPI_Testall(2, request, &done, state);
        if (code != MPI_SUCCESS) return fail(code, "waiting", why, why_size);
        if (!done && look > SPIN) nanosleep(&nap, NULL);
    }
    return 0;
}

static int exchange(void *user, int to, const void *send, size_t send_bytes, int from, void *recv,
                    size_t recv_bytes, char *why, size_t why_size)
{
    MPI_Request request[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    int code = MPI_SUCCESS;
    (void)user;
    if (from >= 0)
        code = MPI_Irecv(recv, (int)recv_bytes, MPI_BYTE, from, TAG, world, &request[0]);
    if (code == MPI_SUCCESS && to >= 0)
        code = MPI_Isend(send, (int)send_bytes, MPI_BYTE, to, TAG, world, &request[1]);
    if (code != MPI_SUCCESS) return fail(code, "sending", why, why_size);
    return wait_for_both(request, why, why_size);
}

int fovea_mpi_open(fovea_mpi_link *out, char *why, size_t why_size)
{
    int given = 0, code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given);
    if (code == MPI_SUCCESS) code = MPI_Comm_dup(MPI_COMM_WORLD, &world);
    if (code == MPI_SUCCESS) code = MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
    if (code == MPI_SUCCESS) code = MPI_Comm_rank(world, &out->rank);
    if (code == MPI_SUCCESS) code = MPI_Comm_size(world, &out->size);
    if (code != MPI_SUCCESS) return fail(code, "starting", why, why_size);
    out->exchange = exchange;
    return 0;
}

void fovea_mpi_close(int failed)
{
    if (failed) MPI_Abort(MPI_COMM_WORLD, failed);
    MPI_Comm_free(&world);
    MPI_Finalize();
}
