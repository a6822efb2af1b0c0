/* vzip_bench.h - shared by the files of `vzip bench`, which `fovea bench vzip` is, too. */
#ifndef FOVEA_VZIP_BENCH_H
#define FOVEA_VZIP_BENCH_H

#include "bench_process.h"
#include "fovea_codec.h"

/* All of it, from the words behind `name` to the exit code. */
int vzip_bench(int argc, char **argv, const char *name);

/* ---- vzip_bench_peers.c: one file through one program and back ------------------------------ */

typedef enum bench_state {
    BENCH_OK,
    BENCH_MISSING,  /* not installed */
    BENCH_OTHER,    /* not for files of this kind */
    BENCH_FAILED,   /* it said no, or died */
    BENCH_DIFFERENT /* what comes back is not what went in */
} bench_state;

/* What a file is, as far as programs care: told from its first bytes. */
typedef enum bench_kind { BENCH_ANY, BENCH_PICTURE, BENCH_SOUND } bench_kind;

/* Words of a program's call, see bench_fill_words; NULL ends them. */
typedef struct bench_peer {
    const char *name; /* as --peers names it */
    const char *title;
    bench_kind kind;
    bool has_threads, has_pipes; /* pipes: results come from standard output */
    const char *packed;          /* name of the file between */
    const char *pack[BENCH_WORDS], *unpack[BENCH_WORDS];
} bench_peer;
extern const bench_peer bench_peers[];
extern const int bench_peer_count;

/* A way to compress: a level of ours, or a peer. */
typedef struct bench_coder {
    char title[32];
    int level;              /* 0: a peer */
    const bench_peer *peer; /* NULL: ours */
    const char *lacks;      /* program that is not installed, NULL: none */
} bench_coder;

typedef struct bench_result {
    bench_state state;
    uint64_t original, packed;
    bench_time pack, unpack;
    char why[120]; /* for the states that need a word */
} bench_result;

typedef struct bench_place {
    fv_ctx *ctx;
    const char *folder; /* ours alone: files come and go in it */
    int threads;
    /* of the file at hand */
    const char *in, *out; /* names in the folder */
    bench_kind kind;
    uint64_t size;
} bench_place;
/* A file becomes the one that the following calls take. An exit code, message written. */
int bench_take(bench_place *at, const char *path);
/* That file through one coder and back. */
void bench_run(const bench_place *at, const bench_coder *c, bench_result *r);

#endif
