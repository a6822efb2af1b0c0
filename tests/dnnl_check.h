/* dnnl_check.h - what check_conv.c and check_matmul.c share: the tests run twice, as the machine
 * is, and in a child process where oneDNN may use AVX2 only: the paths of older CPUs are seen.
 *
 *     static void every_test(void) { RUN(...); ... }
 *     int main(void) { return dnnl_check_main(every_test); } */
#ifndef DNNL_CHECK_H
#define DNNL_CHECK_H

#include <sys/wait.h>
#include <unistd.h>

#include <oneapi/dnnl/dnnl.h>

#include "tape.h"
#include "test.h"

static bool bf16_offered, int8_offered; /* by oneDNN in this process */
static fv_ctx *one, *two, *three;       /* contexts with 1, 2 and 3 threads */

/* The definition of what oneDNN fuses behind a product. */
static double activate(fv_act a, double v)
{
    switch (a) {
    case FV_ACT_RELU: return v > 0 ? v : 0;
    case FV_ACT_LRELU: return v > 0 ? v : 0.2 * v;
    case FV_ACT_SILU: return v / (1 + exp(-v));
    case FV_ACT_SIGMOID: return 1 / (1 + exp(-v));
    case FV_ACT_TANH: return tanh(v);
    case FV_ACT_GELU_TANH:
        return 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
    case FV_ACT_GELU_ERF: return 0.5 * v * (1 + erf(v * 0.7071067811865476));
    default: return v;
    }
}

static int dnnl_check_run(void (*tests)(void), bool avx2_only)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    if (avx2_only && dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2) != dnnl_success) return 1;
    printf("# oneDNN %s\n", avx2_only ? "limited to AVX2" : "as the machine is");
    o.threads = 1;
    if (fv_ctx_create(&one, &o) != FV_OK) return 1;
    o.threads = 2;
    if (fv_ctx_create(&two, &o) != FV_OK) return 1;
    o.threads = 3;
    if (fv_ctx_create(&three, &o) != FV_OK) return 1;
    bf16_offered = fv_ctx_cpu(one) & FV_CPU_AVX512;
    int8_offered = fv_ctx_cpu(one) & FV_CPU_AVX512VNNI;
    if (avx2_only && (fv_ctx_cpu(one) & ~(uint32_t)FV_CPU_AVX2)) return 1;
    tests();
    fv_ctx_destroy(&three);
    fv_ctx_destroy(&one);
    fv_ctx_destroy(&two);
    return test_end();
}

static int dnnl_check_main(void (*tests)(void))
{
    /* The limit holds for a process and must come first; fork before any thread exists. */
    fflush(stdout);
    const pid_t child = fork();
    if (child < 0) return 1;
    if (child == 0) {
        const int code = dnnl_check_run(tests, true);
        fflush(stdout);
        _exit(code);
    }
    int status = 1;
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status)) status = 1;
    const int own = dnnl_check_run(tests, false);
    return own != 0 || status != 0;
}

#endif
