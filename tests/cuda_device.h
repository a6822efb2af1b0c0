/* cuda_device.h - where a check of the CUDA backend runs: on the emulator, or, with `--device cuda`, on
 * the first GPU through the library's module.
 *
 *     int main(int argc, char **argv)
 *     {
 *         const int code = device_open(argc, argv, 0, 0, &cpu, &gpu);
 *         if (code >= 0) return code;
 *         RUN(ops_match);
 *         RUN_EMULATED(short_memory_is_told);
 *         return device_close(&cpu, &gpu);
 *     }
 *
 * The GPU's table is wrapped: launches, graphs and blocks of memory are counted on both, so that a
 * check looks at the same numbers. --only TEXT runs the tests with TEXT in their names, --data FOLDER is
 * where tests/ lies when the program was moved. Without a GPU all is skipped, and why is said. */
#ifndef CUDA_DEVICE_H
#define CUDA_DEVICE_H

#include "cuda_emulator.h"

#include <stdatomic.h>

#include "cuda_ops.h"
#include "test.h"

static bool on_gpu;
static const char *device_data = FV_TEST_DIR;

/* ---- The GPU's table, with counters ---------------------------------------------------------- */

static const fvk_api *device_api; /* the module's */
static fvk_api device_counted;
static fv_ctx *device_holder; /* keeps the module open */
static atomic_long device_blocks, device_launched, device_replayed;

static void *counted_alloc(fvk_dev *d, size_t bytes)
{
    void *p = device_api->alloc(d, bytes);
    if (p) device_blocks++;
    return p;
}
static void counted_free(fvk_dev *d, void *p)
{
    if (p) device_blocks--;
    device_api->free(d, p);
}
static int counted_launch(fvk_dev *d, fvk_kernel k, int64_t blocks, const void *args, size_t bytes)
{
    device_launched++;
    return device_api->launch(d, k, blocks, args, bytes);
}
static int counted_run(fvk_dev *d, fvk_graph *g)
{
    device_replayed++;
    return device_api->graph_run(d, g);
}

static inline long device_launches(void) { return on_gpu ? (long)device_launched : emulator_launches; }
static inline long device_replays(void) { return on_gpu ? (long)device_replayed : emulator_replays; }
/* Blocks of memory that were not freed. */
static inline long device_left(const fv_ctx *gpu)
{
    return on_gpu ? (long)device_blocks : fvi_cuda_of(gpu)->dev->blocks;
}
/* Nothing was written beside a block (on a GPU compute-sanitizer looks for that). */
static inline bool device_is_whole(void) { return emulator_damage == 0; }
static inline bool device_is_clean(const fv_ctx *gpu)
{
    return device_is_whole() && device_left(gpu) == 0;
}

/* Of what only the emulator can do: short memory, orders of threads, a device that fails. */
#define RUN_EMULATED(name)                                 \
    do {                                                   \
        if (on_gpu) SKIP(name, "for the emulator alone");  \
        else RUN(name);                                    \
    } while (0)

/* ---- Contexts -------------------------------------------------------------------------------- */

static int device_usage(const char *program, const char *word)
{
    fprintf(stderr, "%s: %s: usage: [--device emulator|cuda] [--only TEXT] [--data FOLDER]\n",
            program, word);
    return 2;
}

static int device_arguments(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value) return device_usage(argv[0], argv[i]);
        if (strcmp(argv[i], "--device") == 0) {
            on_gpu = strcmp(value, "cuda") == 0;
            if (!on_gpu && strcmp(value, "emulator") != 0) return device_usage(argv[0], value);
        } else if (strcmp(argv[i], "--only") == 0) {
            *test_only() = value;
        } else if (strcmp(argv[i], "--data") == 0) {
            device_data = value;
        } else {
            return device_usage(argv[0], argv[i]);
        }
    }
    return -1;
}

/* The table to attach; NULL: there is no GPU. */
static const fvk_api *device_table(fv_ctx *cpu)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_cuda_info info;
    if (!on_gpu) return &emulator_api;
    if (fv_cuda_device(cpu, 0, &info) != FV_OK) return NULL;
    printf("# %s, compute %d.%d, CUDA %d, driver %d\n", info.name, (int)info.major, (int)info.minor,
           (int)info.runtime, (int)info.driver);
    o.device = FV_DEVICE_CUDA;
    const fv_status s = fv_ctx_create(&device_holder, &o);
    if (s != FV_OK) {
        printf("not ok - there is a GPU, but no context on it: %s\n", fv_status_name(s));
        exit(1);
    }
    device_api = fvi_cuda_of(device_holder)->api;
    device_counted = *device_api;
    device_counted.alloc = counted_alloc;
    device_counted.free = counted_free;
    device_counted.launch = counted_launch;
    device_counted.graph_run = counted_run;
    return &device_counted;
}

/* Both contexts, with so many threads (0: all cores) and without these extensions of the CPU. -1: go
 * on; otherwise the exit code. */
static inline int device_open(int argc, char **argv, uint32_t disable, int threads, fv_ctx **cpu,
                              fv_ctx **gpu)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    const int code = device_arguments(argc, argv);
    if (code >= 0) return code;
    o.device = FV_DEVICE_CPU;
    o.threads = threads;
    o.cpu_disable = disable;
    if (fv_ctx_create(cpu, &o) != FV_OK || fv_ctx_create(gpu, &o) != FV_OK) return 1;
    const fvk_api *api = device_table(*cpu);
    if (!api) {
        SKIP(all, fv_ctx_error(*cpu));
        fv_ctx_destroy(gpu);
        fv_ctx_destroy(cpu);
        return test_end();
    }
    if (fvi_cuda_attach(*gpu, api, NULL) == FV_OK) return -1;
    printf("not ok - %s\n", fv_ctx_error(*gpu));
    return 1;
}

static inline int device_close(fv_ctx **cpu, fv_ctx **gpu)
{
    fv_ctx_destroy(gpu);
    fv_ctx_destroy(&device_holder);
    fv_ctx_destroy(cpu);
    return device_is_whole() ? test_end() : 1;
}

#endif
