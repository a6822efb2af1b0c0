/* check_cuda.c - the CUDA backend without a GPU: its kernel bodies, compiled for this CPU
 * (cuda_emulator.h), op by op against the CPU's ops (cuda_cases.h), and what it refuses. With
 * --device cuda the same on a GPU (cuda_device.h). */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "cuda_device.h"

#include "cuda_cases.h"

static fv_ctx *cpu, *gpu;

static void compare_all(bool add)
{
    int bad = 0;
    for (int n = 0; n < row_count; n++)
        for (int dt = 0; dt < 4; dt++) {
            const run_spec s = { gpu, &rows[n], dt, add };
            char text[160];
            if (!has_types(&rows[n], dt) || (add && rows[n].no_gradient)) continue;
            const double worst = compare_row(&s, cpu, NULL);
            if (worst <= bound_of(&s)) continue;
            row_text(&s, text, sizeof text);
            printf("# %s: %g from the CPU, bound %g\n", text, worst, bound_of(&s));
            bad++;
        }
    CHECK_MSG(bad == 0, "%d rows differ", bad);
    CHECK(device_is_whole());
}
static void ops_and_gradients_match_the_cpu(void) { compare_all(false); }
static void gradients_are_added(void) { compare_all(true); }

static void turn_off(fv_ctx *ctx, uint32_t parts)
{
    const fvi_cuda *c = fvi_cuda_of(ctx);
    OK(ctx, fvi_cuda_status(ctx, c->api->set(c->dev, FVK_SET_OFF, parts), "setting"));
}

/* Without what a library may refuse: passes of our own in its place. */
static void all_is_there_without_epilogues(void)
{
    const long before = emulator_fused, libraries = emulator_libraries;
    turn_off(gpu, ~0u);
    compare_all(false);
    compare_all(true);
    CHECK(on_gpu || (emulator_fused == before && emulator_libraries == libraries));
    turn_off(gpu, 0);
    compare_all(false);
    CHECK(on_gpu || (emulator_fused > before && emulator_libraries > libraries + 20));
}

/* All 256 numbers, and what lies between two neighbours. */
static void e4m3_rounds_to_the_nearest(void)
{
    CHECK(fvk_from_e4m3(0x7e) == 448 && fvk_from_e4m3(1) == 0.001953125f && fvk_from_e4m3(0x38) == 1);
    CHECK(fvk_to_e4m3(1e9f) == 0x7e && fvk_to_e4m3(-INFINITY) == 0xfe && fvk_to_e4m3(460) == 0x7e);
    CHECK((fvk_to_e4m3(NAN) & 0x7f) == 0x7f && isnan(fvk_from_e4m3(0xff)));
    for (int h = 0; h < 0x7e; h++) {
        const float a = fvk_from_e4m3((uint8_t)h), b = fvk_from_e4m3((uint8_t)(h + 1));
        CHECK(b > a && fvk_to_e4m3(a) == h && fvk_to_e4m3(-a) == (h | 0x80));
        CHECK(fvk_to_e4m3(a + 0.49f * (b - a)) == h && fvk_to_e4m3(a + 0.51f * (b - a)) == h + 1);
        CHECK(fvk_to_e4m3(a + 0.5f * (b - a)) == h + h % 2); /* even */
    }
}

/* Bits of everything that a row writes, blocks and threads forward and backward. */
static void order_of_threads_changes_no_bit(void)
{
    int bad = 0;
    turn_off(gpu, FVK_OFF_CUDNN); /* kernels of our own */
    for (int n = 0; n < row_count; n++) {
        const row *r = &rows[n];
        const run_spec s = { gpu, r, n & 1 ? 3 : 0, true };
        run_data d[2];
        for (int k = 0; k < 2; k++) {
            emulator_reversed = k;
            run_row(&s, &d[k]);
        }
        emulator_reversed = 0;
        int differ = d[0].status != FV_OK || d[1].status != FV_OK;
        for (int k = 0; k < FVI_MAX_OUT && !differ; k++)
            differ |= d[0].out[k] && memcmp(d[0].out[k], d[1].out[k],
                                            (size_t)elements(&r->out[k]) * sizeof(float)) != 0;
        for (int k = 0; k < FVI_MAX_IN && !differ; k++)
            differ |= d[0].gin[k] && memcmp(d[0].gin[k], d[1].gin[k],
                                            (size_t)elements(&r->in[k]) * sizeof(float)) != 0;
        if (differ) printf("# %s (row %d) depends on the order of its threads\n", r->name, n);
        bad += differ;
        free_run(&d[0]);
        free_run(&d[1]);
    }
    turn_off(gpu, 0);
    CHECK(bad == 0);
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void bad_ids_are_told_with_the_result(void)
{
    const int32_t ids[3] = { 0, 7, 1 };
    const fvi_attr attr = { { 0 }, { 0 } };
    float out[12];
    fvi_exec e;
    memset(&e, 0, sizeof e);
    e.ctx = gpu;
    e.attr = &attr;
    e.in[0] = dims(2, 5, 4, 0, 0, 0);
    e.in[1] = dims(1, 3, 0, 0, 0, 0);
    e.in[1].dtype = FV_I32;
    e.out[0] = dims(2, 3, 4, 0, 0, 0);
    e.in[0].data = fv_dev_alloc(gpu, 20, 4);
    e.in[1].data = fv_dev_alloc(gpu, 3, 4);
    e.out[0].data = fv_dev_alloc(gpu, 12, 4);
    OK(gpu, fv_dev_copy(gpu, e.in[1].data, ids, sizeof ids, FV_COPY_TO_DEVICE));
    OK(gpu, gpu->backend->op(FVI_OP_EMBED)->forward(&e));
    CHECK(fv_dev_copy(gpu, out, e.out[0].data, sizeof out, FV_COPY_TO_HOST) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(gpu), "outside its table"));
    OK(gpu, fv_dev_copy(gpu, out, e.out[0].data, sizeof out, FV_COPY_TO_HOST)); /* told once */
    fv_dev_free(gpu, e.in[0].data);
    fv_dev_free(gpu, e.in[1].data);
    fv_dev_free(gpu, e.out[0].data);
}

/* Every op with ids, indices or labels, all of them far outside: told, and nothing is damaged. */
static void all_ops_look_at_their_ids(void)
{
    int ops = 0;
    for (int n = 0; n < row_count; n++) {
        row r = rows[n];
        const run_spec s = { gpu, &r, 0, true };
        run_data d;
        if (!r.ids) continue;
        for (int k = 0; k < 2; k++) {
            r.lower = k ? 100000 : -100000;
            run_row(&s, &d);
            CHECK_MSG(d.status == FV_ERR_ARG, "%s: %s", r.name, fv_status_name(d.status));
            CHECK(strstr(fv_ctx_error(gpu), "outside its table"));
            free_run(&d);
        }
        ops++;
    }
    CHECK(ops > 4 && device_is_whole());
}

static void features_that_are_not_finite_are_told(void)
{
    row r;
    int n = 0;
    while (n < row_count && rows[n].op != FVI_OP_LOSS_MASKED) n++;
    CHECK(n < row_count);
    r = rows[n];
    const run_spec s = { gpu, &r, 0, false };
    run_data d;
    r.attr.f[0] = INFINITY; /* of the bounds */
    run_row(&s, &d);
    CHECK(d.status == FV_ERR_NUMERIC);
    CHECK(strstr(fv_ctx_error(gpu), "not finite"));
    free_run(&d);
}

static fv_status build(fv_ctx *ctx, fv_t (*net)(fv_tape *t))
{
    fv_tape *t = NULL;
    fv_plan *p = NULL;
    fv_status s = fv_tape_create(ctx, &t, NULL, FV_INFER, FV_F32);
    if (s == FV_OK) {
        fv_output(t, "y", net(t));
        s = fv_plan_finish(ctx, &p, &t, NULL);
    }
    fv_plan_destroy(&p);
    return s;
}
static fv_t small_net(fv_tape *t)
{
    const int64_t dim[2] = { 3, 4 };
    return fv_affine(t, fv_activate(t, fv_input(t, "x", FV_F32, 2, dim), FV_ACT_SILU), 2, 1);
}

/* An op that the CPU has and the device has not, as a table of such a device. */
static const fvi_op_def *no_activation(fvi_op op)
{
    return op == FVI_OP_ACT ? NULL : fvi_backend_cuda.op(op);
}

static void ops_without_a_kernel_are_refused_when_a_plan_is_built(void)
{
    fvi_cuda *d = (fvi_cuda *)(uintptr_t)fvi_cuda_of(gpu);
    OK(gpu, build(gpu, small_net));
    d->backend.op = no_activation;
    CHECK(build(gpu, small_net) == FV_ERR_UNSUPPORTED);
    CHECK(strstr(fv_ctx_error(gpu), "op act has no CUDA kernel yet"));
    d->backend.op = fvi_backend_cuda.op;
}

/* What a device must have of ops: all that the CPU has, each with a gradient where that has one, what
 * both passes are told alike, and a row here that compares it. No exceptions. */
static void every_op_of_the_core_is_there(void)
{
    int ops = 0, gradients = 0, lacking = 0;
    for (int op = 0; op < FVI_OP_COUNT; op++) {
        const fvi_op_def *c = fvi_cpu_op((fvi_op)op), *g = gpu->backend->op((fvi_op)op);
        bool is_run = false, is_turned = false;
        for (int n = 0; n < row_count; n++) {
            is_run |= rows[n].op == (fvi_op)op;
            is_turned |= rows[n].op == (fvi_op)op && !rows[n].no_gradient;
        }
        CHECK_MSG(c != NULL, "op %d has no entry of the CPU", op);
        if (!c) continue;
        const char *lack = !g || !g->forward                       ? "is not on the device"
                           : c->backward && !g->backward           ? "has no gradient on the device"
                           : strcmp(c->name, g->name) != 0         ? "has another name"
                           : !is_run                               ? "has no row that compares it"
                           : c->backward && !is_turned             ? "has no row with gradients"
                           : g->bwd_reads_in & ~c->bwd_reads_in ||
                                   g->bwd_reads_out & ~c->bwd_reads_out ? "reads more in backward"
                                                                        : NULL;
        if (lack) printf("# op %s %s\n", c->name, lack);
        lacking += lack != NULL;
        ops++;
        gradients += c->backward != NULL;
    }
    printf("# %d ops of the core, %d with gradients: %d lack something on the device\n", ops,
           gradients, lacking);
    CHECK(lacking == 0);
}

/* Why there is no device is said; a machine that has one is described. */
static void a_missing_device_has_a_reason(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *ctx = NULL;
    fv_cuda_info info;
    o.device = FV_DEVICE_CUDA;
    const fv_status s = fv_cuda_device(cpu, 0, &info);
    if (s == FV_OK) {
        CHECK(info.name[0] && info.memory_bytes > 0);
        return;
    }
    CHECK(s == FV_ERR_DEVICE);
    printf("# %s\n", fv_ctx_error(cpu));
    CHECK(strstr(fv_ctx_error(cpu), "module") || strstr(fv_ctx_error(cpu), "driver") ||
          strstr(fv_ctx_error(cpu), "device"));
    CHECK(fv_ctx_create(&ctx, &o) == FV_ERR_DEVICE && !ctx);
    o.device = FV_DEVICE_AUTO;
    OK(cpu, fv_ctx_create(&ctx, &o));
    CHECK(fv_ctx_device(ctx) == FV_DEVICE_CPU);
    fv_ctx_destroy(&ctx);
}

static void plans_run_on_device_memory(void)
{
    const float x[12] = { -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 };
    float y[12];
    fv_tape *t = NULL;
    fv_plan *p = NULL;
    OK(gpu, fv_tape_create(gpu, &t, NULL, FV_INFER, FV_F32));
    fv_output(t, "y", small_net(t));
    OK(gpu, fv_plan_finish(gpu, &p, &t, NULL));
    float *in = fv_dev_alloc(gpu, 12, 4);
    CHECK(in);
    OK(gpu, fv_dev_copy(gpu, in, x, sizeof x, FV_COPY_TO_DEVICE));
    OK(gpu, fv_plan_bind(p, "x", in));
    const long before = device_launches();
    OK(gpu, fv_plan_forward(p));
    CHECK(device_launches() == before + 2);
    OK(gpu, fv_dev_copy(gpu, y, fv_plan_value(p, "y").data, sizeof y, FV_COPY_TO_HOST));
    for (int i = 0; i < 12; i++) NEAR(y[i], 2 * x[i] / (1 + exp(-x[i])) + 1, 1e-5);
    /* Not its memory; some GPUs can read that of the host. */
    CHECK(on_gpu || fv_dev_copy(gpu, y, x, sizeof y, FV_COPY_TO_HOST) == FV_ERR_DEVICE);
    CHECK(fv_plan_bind(p, "x", y) == FV_ERR_UNSUPPORTED); /* nor a plan's */
    CHECK(strstr(fv_ctx_error(gpu), "host's memory"));
    fv_plan_destroy(&p);
    fv_dev_free(gpu, in);
}

/* f32 is multiplied in f32 but where TF32 is asked for. */
static void tf32_is_off_unless_asked_for(void)
{
    for (int asked = 0; asked < 2; asked++) {
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *ctx = NULL;
        o.device = FV_DEVICE_CPU;
        o.cuda_tf32 = asked != 0;
        if (fv_ctx_create(&ctx, &o) != FV_OK) {
            CHECK(!"a context");
            return;
        }
        OK(ctx, fvi_cuda_attach(ctx, &emulator_api, NULL));
        CHECK(fvi_cuda_of(ctx)->dev->tf32 == (asked != 0));
        fv_ctx_destroy(&ctx);
    }
}

int main(int argc, char **argv)
{
    const int code = device_open(argc, argv, ~0u, 1, &cpu, &gpu);
    if (code >= 0) return code;
    take_small_pieces(gpu);
    add_rows();
    RUN(ops_and_gradients_match_the_cpu);
    RUN(gradients_are_added);
    RUN(all_is_there_without_epilogues);
    RUN(e4m3_rounds_to_the_nearest);
    RUN(order_of_threads_changes_no_bit);
    RUN(bad_ids_are_told_with_the_result);
    RUN(all_ops_look_at_their_ids);
    RUN(features_that_are_not_finite_are_told);
    RUN(ops_without_a_kernel_are_refused_when_a_plan_is_built);
    RUN(a_missing_device_has_a_reason);
    RUN(plans_run_on_device_memory);
    RUN(tf32_is_off_unless_asked_for);
    RUN(every_op_of_the_core_is_there);
    return device_close(&cpu, &gpu);
}
