/* test_place_parity.c - LIFT and PLACE as published against PyTorch, loss and gradient
 * (tests/parity/place.py), through the public interface. The rest is in check_place.c. */
#include "golden_parity.h"

typedef struct place_case {
    const char *name;
    fv_place_kind kind;
    int K;
    fv_place_reference as;
} place_case;

static fv_status build(const fv_place_options *o, const int64_t *dim, fv_params *params,
                       fv_plan **plan)
{
    fv_tape *t = NULL;
    fv_t parts;
    fv_status s = fv_tape_create(ctx, &t, params, FV_TRAIN, FV_F32);
    if (s != FV_OK) return s;
    const fv_t x = fv_input_grad(t, "x", FV_F32, 4, dim), y = fv_input(t, "y", FV_F32, 4, dim);
    fv_output(t, "loss", fv_loss_place(t, x, y, o, &parts));
    fv_output(t, "parts", parts);
    return fv_plan_finish(ctx, plan, &t, NULL);
}

static void compare(const fv_plan *plan, const float *want, const fv_tensor *grad)
{
    const float *part = fv_plan_value(plan, "parts").data, *g = fv_plan_grad(plan, "x").data;
    const double off = test_rel_max(g, grad->data, fv_tensor_count(grad));
    NEAR(*(const float *)fv_plan_value(plan, "loss").data, want[0], 1e-5 * want[0]);
    NEAR(part[FV_PLACE_COARSE], want[1], 1e-5 * want[1]);
    NEAR(part[FV_PLACE_FINE], want[2], 1e-5 * want[2]);
    NEAR(part[FV_PLACE_W], want[3], 1e-5);
    NEAR(part[FV_PLACE_M], want[4], 1e-5 * want[4]);
    CHECK_MSG(off <= 1e-5, "gradient: %g", off);
}

static void run_case(const fv_model *m, const place_case *c)
{
    char name[48];
    fv_params *params = NULL;
    fv_plan *plan = NULL;
    const fv_tensor x = golden_tensor(m, "x"), y = golden_tensor(m, "y");
    fv_place_options o = fv_place_as(c->as);
    o.kind = c->kind;
    o.group = c->K;
    snprintf(name, sizeof name, "%s.values", c->name);
    const fv_tensor want = golden_tensor(m, name);
    snprintf(name, sizeof name, "%s.grad", c->name);
    const fv_tensor grad = golden_tensor(m, name);
    OK(ctx, fv_params_create(ctx, &params));
    OK(ctx, build(&o, x.dim, params, &plan));
    OK(ctx, fv_plan_bind(plan, "x", x.data));
    OK(ctx, fv_plan_bind(plan, "y", y.data));
    OK(ctx, fv_plan_forward(plan));
    OK(ctx, fv_plan_backward(plan, "loss", 1.0f));
    compare(plan, want.data, &grad);
    if (test_bad) printf("# %s, %s\n", c->name, variant);
    fv_plan_destroy(&plan);
    fv_params_destroy(&params);
}

static void losses_and_gradients_equal_pytorch(void)
{
    static const place_case cases[] = {
        { "k8_pixel", FV_PLACE_GROUPS, 8, FV_PLACE_PIXEL },
        { "k8_sd", FV_PLACE_GROUPS, 8, FV_PLACE_STABLE_DIFFUSION },
        { "k8_dit", FV_PLACE_GROUPS, 8, FV_PLACE_DIT },
        { "k16_pixel", FV_PLACE_GROUPS, 16, FV_PLACE_PIXEL },
        { "k16_sd", FV_PLACE_GROUPS, 16, FV_PLACE_STABLE_DIFFUSION },
        { "k16_dit", FV_PLACE_GROUPS, 16, FV_PLACE_DIT },
        { "k64_pixel", FV_PLACE_GROUPS, 64, FV_PLACE_PIXEL },
        { "k64_sd", FV_PLACE_GROUPS, 64, FV_PLACE_STABLE_DIFFUSION },
        { "k64_dit", FV_PLACE_GROUPS, 64, FV_PLACE_DIT },
        { "channel_pixel", FV_LIFT_CHANNEL, 0, FV_PLACE_PIXEL },
        { "sample_dit", FV_LIFT_SAMPLE, 0, FV_PLACE_DIT },
    };
    fv_model *m = open_golden("place");
    for (size_t i = 0; i < FV_ARRAY_LEN(cases); i++) run_case(m, &cases[i]);
    fv_model_close(&m);
}

static void run_all(void)
{
    RUN(losses_and_gradients_equal_pytorch);
}

int main(void) { return parity_main(run_all); }
