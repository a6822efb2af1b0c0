/* test_cuda_ops.c - the CUDA backend on a GPU: the rows of cuda_cases.h against the CPU, as a table.
 * Without a device it says why and is skipped; check_cuda.c then has what can be shown without. */
#include "cuda_cases.h"

static fv_ctx *cpu, *gpu;

static int compare_all(void)
{
    int bad = 0;
    printf("%-78s %10s %10s\n", "op", "error", "forward us");
    for (int n = 0; n < row_count; n++)
        for (int dt = 0; dt < 4; dt++)
            for (int add = 0; add <= !rows[n].no_gradient; add++) {
                const run_spec s = { gpu, &rows[n], dt, add };
                char text[160];
                double seconds = 0;
                if (!has_types(&rows[n], dt)) continue;
                const double worst = compare_row(&s, cpu, &seconds);
                row_text(&s, text, sizeof text);
                printf("%-78s %10.2g %10.1f%s\n", text, worst, 1e6 * seconds,
                       worst <= bound_of(&s) ? "" : "  FAILED");
                bad += !(worst <= bound_of(&s));
            }
    return bad;
}

static void ops_and_gradients_match_the_cpu(void) { CHECK(compare_all() == 0); }

/* 9 MiB and a bit: several pinned buffers each way. */
static void large_copies_arrive(void)
{
    const size_t n = (9u << 20) + 3;
    uint8_t *a = malloc(n), *b = malloc(n), *d = fv_dev_alloc(gpu, n, 1);
    CHECK(a && b && d);
    for (size_t i = 0; i < n; i++) a[i] = (uint8_t)(i * 131 >> 3);
    OK(gpu, fv_dev_copy(gpu, b, d, n, FV_COPY_TO_HOST));
    for (size_t i = 0; i < n; i++) CHECK(b[i] == 0);
    OK(gpu, fv_dev_copy(gpu, d, a, n, FV_COPY_TO_DEVICE));
    OK(gpu, fv_dev_copy(gpu, b, d, n, FV_COPY_TO_HOST));
    CHECK(memcmp(a, b, n) == 0);
    fv_dev_free(gpu, d);
    free(a);
    free(b);
}

static fv_ctx *cpu_context(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *ctx = NULL;
    o.device = FV_DEVICE_CPU;
    o.threads = 1;
    o.cpu_disable = ~0u;
    if (fv_ctx_create(&ctx, &o) != FV_OK) exit(1);
    return ctx;
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_cuda_info info;
    cpu = cpu_context();
    add_rows();
    if (fv_cuda_device(cpu, 0, &info) != FV_OK) {
        SKIP(ops_and_gradients_match_the_cpu, fv_ctx_error(cpu));
        SKIP(large_copies_arrive, fv_ctx_error(cpu));
    } else {
        printf("# %s, compute %d.%d, CUDA %d, driver %d\n", info.name, (int)info.major,
               (int)info.minor, (int)info.runtime, (int)info.driver);
        o.device = FV_DEVICE_CUDA;
        if (fv_ctx_create(&gpu, &o) != FV_OK) return 1;
        take_small_pieces(gpu);
        RUN(ops_and_gradients_match_the_cpu);
        RUN(large_copies_arrive);
    }
    fv_ctx_destroy(&gpu);
    fv_ctx_destroy(&cpu);
    return test_end();
}
