/* bench_gpu.h - the verb `fovea bench gpu`, and what its two files share. */
#ifndef FOVEA_BENCH_GPU_H
#define FOVEA_BENCH_GPU_H

#include "bench_process.h"
#include "cli.h"

/* argv[0] is the verb. Returns an exit code of cli.h. */
int bench_gpu(int argc, char **argv);

#define GPU_LINES 96

/* An op, or what a whole engine does; 0 or NAN: not known. */
typedef struct gpu_line {
    char name[32], shape[48];
    const char *type;
    double seconds, flop, bytes, roofline;
    double rate;      /* in `unit` */
    const char *unit; /* NULL: none */
} gpu_line;

typedef struct gpu_bench {
    cli_common common;
    cli_list only;
    const char *dit, *vpic;
    bool is_quick, is_small;
    double seconds;
    int vzip_mib;
    fv_ctx *ctx;
    double bf16, f32, bandwidth; /* ceilings: FLOP/s, bytes/s; 0 = not measured */
    char folder[BENCH_FOLDER];   /* for models that are made; "": none */
    gpu_line line[GPU_LINES];
    int lines;
} gpu_bench;

/* One line more, which the caller fills. Never NULL: the last is used again when there is no room. */
gpu_line *gpu_add(gpu_bench *b, const char *name, const char *type);

/* bench_gpu_engines.c: whole engines. An exit code; the message was written. */
int gpu_dit_forward(gpu_bench *b);
int gpu_dit_sampling(gpu_bench *b);
int gpu_ar(gpu_bench *b);
int gpu_vpic(gpu_bench *b);
int gpu_vzip(gpu_bench *b);

#endif
