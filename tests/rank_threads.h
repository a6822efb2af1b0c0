/* rank_threads.h - ranks for tests: threads of this process, each with a context of its own, that
 * talk over pairs of sockets. A rank that ends closes its ends, so that others see it is gone. */
#ifndef RANK_THREADS_H
#define RANK_THREADS_H

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fovea.h"

#define RANKS_MOST 5

typedef struct rank_thread {
    int rank, size, fd[RANKS_MOST]; /* to each other rank; -1: none */
    fv_ctx *ctx;
    fv_comm *comm;
    void (*body)(struct rank_thread *t, void *user);
    void *user;
} rank_thread;

/* Moves what is possible now; -1: the other end is gone. */
static inline ssize_t rank_move(int fd, void *at, size_t n, int is_send)
{
    const ssize_t r = is_send ? send(fd, at, n, MSG_NOSIGNAL | MSG_DONTWAIT)
                              : recv(fd, at, n, MSG_DONTWAIT);
    if (r > 0) return r;
    return r < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

static int rank_exchange(void *user, int to, const void *out, size_t out_bytes, int from, void *in,
                         size_t in_bytes, char *why, size_t why_size)
{
    rank_thread *t = user;
    char *o = (char *)(uintptr_t)out, *i = in;
    if (to < 0) out_bytes = 0;
    if (from < 0) in_bytes = 0;
    while (out_bytes || in_bytes) {
        struct pollfd p[2];
        nfds_t n = 0;
        if (out_bytes) p[n++] = (struct pollfd){t->fd[to], POLLOUT, 0};
        if (in_bytes) p[n++] = (struct pollfd){t->fd[from], POLLIN, 0};
        if (poll(p, n, 20000) == 0) {
            snprintf(why, why_size, "nothing for 20 s");
            return 1;
        }
        const ssize_t sent = out_bytes ? rank_move(t->fd[to], o, out_bytes, 1) : 0;
        const ssize_t got = in_bytes ? rank_move(t->fd[from], i, in_bytes, 0) : 0;
        if (sent < 0 || got < 0) {
            snprintf(why, why_size, "it is gone");
            return 1;
        }
        o += sent;
        out_bytes -= (size_t)sent;
        i += got;
        in_bytes -= (size_t)got;
    }
    return 0;
}

static inline void rank_leave(rank_thread *t)
{
    for (int r = 0; r < t->size; r++) {
        if (t->fd[r] >= 0) (void)close(t->fd[r]);
        t->fd[r] = -1;
    }
}

static void *rank_main(void *user)
{
    rank_thread *t = user;
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_comm_link link = FV_COMM_LINK_INIT;
    o.threads = 1;
    link.rank = t->rank;
    link.size = t->size;
    link.user = t;
    link.exchange = rank_exchange;
    if (fv_ctx_create(&t->ctx, &o) == FV_OK) {
        if (fv_comm_create(t->ctx, &t->comm, &link) == FV_OK) {
            fv_ctx_set_comm(t->ctx, t->comm);
            t->body(t, t->user);
        } else {
            printf("# rank %d: %s\n", t->rank, fv_ctx_error(t->ctx));
        }
        fv_comm_destroy(&t->comm);
        fv_ctx_destroy(&t->ctx);
    }
    rank_leave(t);
    return NULL;
}

/* Runs body on `size` ranks, at most RANKS_MOST, and waits for all; user[r] is rank r's. */
static inline int rank_run(int size, void (*body)(rank_thread *t, void *user), void *const *user)
{
    rank_thread t[RANKS_MOST];
    pthread_t id[RANKS_MOST];
    for (int a = 0; a < size; a++) {
        t[a] = (rank_thread){.rank = a, .size = size, .body = body, .user = user[a]};
        for (int b = 0; b < RANKS_MOST; b++) t[a].fd[b] = -1;
    }
    for (int a = 0; a < size; a++)
        for (int b = 0; b < a; b++) {
            int pair[2];
            if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 0;
            t[a].fd[b] = pair[0];
            t[b].fd[a] = pair[1];
        }
    for (int a = 0; a < size; a++)
        if (pthread_create(&id[a], NULL, rank_main, &t[a]) != 0) return 0;
    for (int a = 0; a < size; a++) (void)pthread_join(id[a], NULL);
    return 1;
}

#endif
