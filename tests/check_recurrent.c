/* check_recurrent.c - cases of the ops of RWKV-7 and of mixtures of experts; see op_harness.h.
 *
 * Experts go through oneDNN and need parameters: they are compared with a double reference through
 * the tape. check_recurrent --bench prints the time of each case. */
#include "op_harness.h"

#define HEAD FV_WKV_HEAD

/* ---- References ------------------------------------------------------------------------------ */

static void ref_wkv(const tc *c, double *const in[], double *out)
{
    const int64_t B = c->in[0].dim[0], T = c->in[0].dim[1], C = c->in[0].dim[2], H = C / HEAD;
    for (int64_t item = 0; item < B * H; item++) {
        const int64_t at = item % H * HEAD;
        double S[HEAD][HEAD] = {{0}};
        for (int i = 0; i < HEAD && in[6]; i++)
            for (int j = 0; j < HEAD; j++) S[i][j] = in[6][(item * HEAD + i) * HEAD + j];
        for (int64_t t = 0; t < T; t++) {
            const int64_t x = (item / H * T + t) * C + at;
            double norm = 0, kk[HEAD];
            for (int j = 0; j < HEAD; j++) norm += in[1][x + j] * in[1][x + j];
            norm = fmax(sqrt(norm), 1e-12);
            for (int j = 0; j < HEAD; j++) kk[j] = in[1][x + j] / norm;
            for (int i = 0; i < HEAD; i++) {
                double sa = 0, y = 0;
                for (int j = 0; j < HEAD; j++) sa -= kk[j] * S[i][j];
                for (int j = 0; j < HEAD; j++) {
                    S[i][j] = S[i][j] * in[3][at + j] + sa * kk[j] * in[4][at + j] +
                              in[2][x + i] * in[1][x + j] * in[5][at + j];
                    y += S[i][j] * in[0][x + j];
                }
                out[x + i] = y;
            }
        }
    }
}

static void ref_wkv_head(const tc *c, double *const in[], double *out)
{
    const int64_t C = c->in[0].dim[2];
    for (int64_t at = 0; at < count(&c->in[0]); at += HEAD) {
        double mean = 0, var = 0, bonus = 0;
        for (int i = 0; i < HEAD; i++) mean += in[0][at + i] / HEAD;
        for (int i = 0; i < HEAD; i++) {
            var += (in[0][at + i] - mean) * (in[0][at + i] - mean) / HEAD;
            bonus += in[1][at + i] * in[2][at + i] * in[6][at % C + i];
        }
        for (int i = 0; i < HEAD; i++)
            out[at + i] = (in[0][at + i] - mean) / sqrt(var + c->attr.f[0]) * in[4][at % C + i] +
                          in[5][at % C + i] + bonus * in[3][at + i];
    }
}

static void ref_lerp(const tc *c, double *const in[], double *out)
{
    const int64_t C = last(&c->in[0]), T = c->in[0].ndim > 1 ? c->in[0].dim[c->in[0].ndim - 2] : 1;
    for (int64_t i = 0; i < count(&c->in[0]); i++) {
        const int64_t r = i / C;
        double b = 0;
        if (in[1])
            b = in[1][i];
        else if (r % T)
            b = in[0][i - C];
        else if (in[3])
            b = in[3][r / T * C + i % C];
        out[i] = in[0][i] + (b - in[0][i]) * in[2][i % C];
    }
}

static void ref_mix2(const tc *c, double *const in[], double *out)
{
    for (int64_t i = 0; i < count(&c->in[0]); i++)
        out[i] = in[2][0] * in[0][i] + in[2][1] * in[1][i];
}

static void two_best(const double *x, int64_t E, int64_t b[3])
{
    b[0] = b[1] = b[2] = -1;
    for (int k = 0; k < 3; k++)
        for (int64_t i = 0; i < E; i++) {
            if (i == b[0] || i == b[1]) continue;
            if (b[k] < 0 || x[i] > x[b[k]]) b[k] = i;
        }
}

static void ref_route(const tc *c, double *const in[], double *out)
{
    const int64_t E = last(&c->in[0]);
    for (int64_t r = 0; r < c->in[0].dim[0]; r++) {
        const double *x = in[0] + r * E;
        int64_t b[3];
        two_best(x, E, b);
        for (int64_t i = 0; i < E; i++) out[r * E + i] = 0;
        double sum = exp(x[b[0]]) + exp(x[b[1]]);
        for (int k = 0; k < 2; k++) out[r * E + b[k]] = exp(x[b[k]]) / sum;
    }
}

static double cv2(const double *x, int64_t E)
{
    double mean = 0, var = 0;
    for (int64_t i = 0; i < E; i++) mean += x[i] / (double)E;
    for (int64_t i = 0; i < E; i++) var += (x[i] - mean) * (x[i] - mean) / (double)(E - 1);
    return var / (mean * mean + 1e-10);
}

static void ref_balance(const tc *c, double *const in[], double *out)
{
    const int64_t E = last(&c->in[0]), R = c->in[0].dim[0];
    double importance[FV_MAX_EXPERTS] = {0}, load[FV_MAX_EXPERTS] = {0}, z = 0;
    for (int64_t r = 0; r < R; r++) {
        const double *noisy = in[1] + r * E;
        double sum = 0;
        int64_t b[3];
        two_best(noisy, E, b);
        for (int64_t i = 0; i < E; i++) {
            const double rival = noisy[i == b[0] || i == b[1] ? b[2] : b[1]];
            importance[i] += in[3][r * E + i];
            load[i] += 0.5 * erfc(-(in[0][r * E + i] - rival) / in[2][r * E + i] / sqrt(2));
            sum += exp(in[0][r * E + i]);
        }
        z += log(sum) * log(sum) / (double)R;
    }
    out[0] = c->attr.f[0] * (cv2(importance, E) + cv2(load, E)) + c->attr.f[1] * z;
}

/* ---- Cases ----------------------------------------------------------------------------------- */

static void wkv_case(int64_t B, int64_t T, int64_t C, bool has_state)
{
    tc *c = add_case(FVI_OP_WKV, "wkv", ref_wkv);
    for (int k = 0; k < 3; k++) add_input(c, k, X, shape(3, B, T, C, 0));
    for (int k = 3; k < 6; k++) add_input(c, k, P, shape(1, C, 0, 0, 0));
    if (has_state) add_input(c, 6, CONST, shape(4, B, C / HEAD, HEAD, HEAD));
    c->positive = 1 << 5;
    c->range = 0.5f; /* decay and rate below 1 in size: the state stays bounded */
    c->out[0] = c->in[0];
    c->out[1] = shape(4, B, C / HEAD, HEAD, HEAD);
    c->out[2] = shape(2, B * (C / HEAD), fvi_wkv_saved(T), 0, 0);
    c = add_case(FVI_OP_WKV_HEAD, "wkv_head", ref_wkv_head);
    for (int k = 0; k < 4; k++) add_input(c, k, X, shape(3, B, T, C, 0));
    for (int k = 4; k < 7; k++) add_input(c, k, P, shape(1, C, 0, 0, 0));
    c->attr.f[0] = 6.4e-4f;
    c->out[0] = c->in[0];
}

static void lerp_case(int64_t B, int64_t T, int64_t C, int kind)
{
    tc *c = add_case(FVI_OP_LERP, "lerp", ref_lerp);
    add_input(c, 0, X, shape(3, B, T, C, 0));
    if (kind == 0) add_input(c, 1, X, c->in[0]);
    add_input(c, 2, P, shape(1, C, 0, 0, 0));
    if (kind == 2) add_input(c, 3, CONST, shape(2, B, C, 0, 0));
    c->out[0] = c->in[0];
}

static void add_recurrent_cases(void)
{
    static const int sizes[] = {1, 3, 16, 20, 96, 257};
    wkv_case(1, 1, 16, false);
    wkv_case(2, 5, 32, true);
    wkv_case(1, 16, 16, true);
    wkv_case(3, 17, 48, true);
    wkv_case(1, 37, 16, false);
    for (size_t s = 0; s < FV_ARRAY_LEN(sizes); s++)
        for (int kind = 0; kind < 3; kind++) lerp_case(1 + kind, 1 + 2 * (int)s, sizes[s], kind);
    lerp_case(3, 400, 4, 1);
    for (int k = 0; k < 3; k++) {
        tc *c = add_case(FVI_OP_MIX2, "mix2", ref_mix2);
        add_input(c, 0, X, shape(2, 3, k == 2 ? 2600 : 7 + k, 0, 0));
        add_input(c, 1, X, c->in[0]);
        add_input(c, 2, P, shape(1, 2, 0, 0, 0));
        c->out[0] = c->in[0];
    }
    for (int E = 3; E < 9; E++) {
        tc *c = add_case(FVI_OP_ROUTE, "route", ref_route);
        add_input(c, 0, P, shape(2, 19, E, 0, 0));
        c->range = 3;
        c->out[0] = c->in[0];
        c->out_role = P;
        c = add_case(FVI_OP_BALANCE, "balance", ref_balance);
        for (int k = 0; k < 4; k++) add_input(c, k, P, shape(2, 19, E, 0, 0));
        c->positive = 1 << 2 | 1 << 3;
        c->attr.f[0] = 0.5f;
        c->attr.f[1] = 0.25f;
        c->out[0] = shape(1, 1, 0, 0, 0);
        c->out[1] = shape(2, 2, E, 0, 0);
        c->out_role = P;
    }
}

/* ---- Single properties ----------------------------------------------------------------------- */

/* Two halves with the state carried over give the bits of the whole. */
static void state_carries_over(void)
{
    enum { T = 40, C = 32, HALF = 23 };
    float x[3][T * C], w[3][C], whole[T * C], parts[T * C], state[2][2 * HEAD * HEAD];
    for (int isa = 0; isa < N_ISA; isa++) {
        if (!isa_ctx[isa]) continue;
        for (int k = 0; k < 3; k++) test_fill(x[k], T * C, (uint64_t)k + 1);
        for (int k = 0; k < 3; k++) test_fill(w[k], C, (uint64_t)k + 9);
        const fvi_attr attr = {{0}, {0}};
        for (int part = 0; part < 3; part++) {
            fvi_exec e;
            memset(&e, 0, sizeof e);
            e.ctx = isa_ctx[isa];
            e.attr = &attr;
            const int first = part == 2 ? HALF : 0, n = part == 0 ? T : part == 1 ? HALF : T - HALF;
            for (int k = 0; k < 3; k++) {
                e.in[k] = shape(3, 1, n, C, 0);
                e.in[k].data = x[k] + first * C;
                e.in[3 + k] = shape(1, C, 0, 0, 0);
                e.in[3 + k].data = w[k];
            }
            e.out[0] = shape(3, 1, n, C, 0);
            e.out[0].data = (part ? parts : whole) + first * C;
            e.out[1] = shape(4, 1, 2, HEAD, HEAD);
            e.out[1].data = state[part & 1];
            if (part == 2) {
                e.in[6] = e.out[1];
                e.in[6].data = state[1];
            }
            OK(e.ctx, fvi_cpu_wkv.forward(&e));
        }
        CHECK(memcmp(whole, parts, sizeof whole) == 0);
    }
}

static void a_key_of_zeros_is_harmless(void)
{
    enum { T = 3 };
    float zero[T * HEAD] = {0}, one[HEAD], x[T * HEAD], y[T * HEAD], g[3][T * HEAD], part[256];
    float state[HEAD * HEAD], saved[T * HEAD + HEAD * HEAD], vec[3][HEAD];
    const fvi_attr attr = {{0}, {0}};
    test_fill(x, T * HEAD, 3);
    for (int i = 0; i < HEAD; i++) one[i] = 0.9f;
    for (int isa = 0; isa < N_ISA; isa++) {
        fvi_exec e;
        if (!isa_ctx[isa]) continue;
        memset(&e, 0, sizeof e);
        memset(state, 0, sizeof state);
        e.ctx = isa_ctx[isa];
        e.attr = &attr;
        for (int k = 0; k < 6; k++) {
            e.in[k] = k < 3 ? shape(3, 1, T, HEAD, 0) : shape(1, HEAD, 0, 0, 0);
            e.in[k].data = k == 1 ? zero : k < 3 ? x : one;
            e.gin[k] = e.in[k];
            e.gin[k].data = k < 3 ? g[k] : vec[k - 3];
        }
        e.out[0] = e.gout[0] = e.in[0];
        e.out[0].data = y;
        e.gout[0].data = x;
        e.out[1] = shape(4, 1, 1, HEAD, HEAD);
        e.out[1].data = state;
        e.out[2] = shape(2, 1, T * HEAD + HEAD * HEAD, 0, 0);
        e.out[2].data = saved;
        e.scratch = part;
        OK(e.ctx, fvi_cpu_wkv.forward(&e));
        OK(e.ctx, fvi_cpu_wkv.backward(&e));
        for (int i = 0; i < T * HEAD; i++)
            CHECK(y[i] == 0 && isfinite(g[1][i]) && fabsf(g[1][i]) < 1e3f);
    }
}

static void equal_logits_go_to_the_lower_index(void)
{
    float logits[2][4] = {{1, 2, 2, 2}, {5, 5, 5, 5}}, gate[2][4];
    const fvi_attr attr = {{0}, {0}};
    fvi_exec e;
    memset(&e, 0, sizeof e);
    e.ctx = isa_ctx[SCALAR];
    e.attr = &attr;
    e.in[0] = e.out[0] = shape(2, 2, 4, 0, 0);
    e.in[0].data = logits;
    e.out[0].data = gate;
    OK(e.ctx, fvi_cpu_route.forward(&e));
    CHECK(gate[0][1] == 0.5f && gate[0][2] == 0.5f && gate[0][0] == 0 && gate[0][3] == 0);
    CHECK(gate[1][0] == 0.5f && gate[1][1] == 0.5f && gate[1][2] == 0 && gate[1][3] == 0);
}

/* ---- Experts --------------------------------------------------------------------------------- */

enum { MK = 12, MH = 20, MN = 8, ME = 4 };
typedef struct moe_data {
    int R;
    bool has_up;
    float *x, *gate, *up, *down, *target;
} moe_data;

static void moe_ref(const moe_data *d, double *y)
{
    const int I = d->has_up ? MH : MK;
    for (int r = 0; r < d->R; r++)
        for (int n = 0; n < MN; n++) y[r * MN + n] = 0;
    for (int r = 0; r < d->R; r++)
        for (int e = 0; e < ME; e++) {
            double h[MH];
            if (d->gate[r * ME + e] == 0) continue;
            for (int i = 0; i < I; i++) {
                double u = 0;
                for (int k = 0; k < MK && d->has_up; k++)
                    u += (double)d->up[(e * MH + i) * MK + k] * d->x[r * MK + k];
                h[i] = d->has_up ? (u > 0 ? u * u : 0) : d->x[r * MK + i];
            }
            for (int n = 0; n < MN; n++)
                for (int i = 0; i < I; i++)
                    y[r * MN + n] +=
                        (double)d->gate[r * ME + e] * d->down[((int64_t)e * MN + n) * I + i] * h[i];
        }
}

static double moe_loss(const moe_data *d)
{
    double *y = malloc((size_t)(d->R * MN) * sizeof *y), sum = 0;
    if (!y) exit(1);
    moe_ref(d, y);
    for (int i = 0; i < d->R * MN; i++) sum += (y[i] - d->target[i]) * (y[i] - d->target[i]);
    free(y);
    return sum / (d->R * MN);
}

typedef struct moe_run {
    fv_params *params;
    fv_plan *plan;
    fv_pid up, down;
} moe_run;

static fv_status moe_build(fv_ctx *ctx, const moe_data *d, moe_run *m, fv_dtype precision)
{
    const int64_t I = d->has_up ? MH : MK, up[2] = {ME * MH, MK}, down[2] = {ME * MN, I};
    const int64_t xs[2] = {d->R, MK}, gs[2] = {d->R, ME}, ys[2] = {d->R, MN};
    fv_tape *t = NULL;
    FV_TRY(fv_params_create(ctx, &m->params));
    m->up = d->has_up ? fv_params_add(m->params, "up", 2, up, 0) : -1;
    m->down = fv_params_add(m->params, "down", 2, down, 0);
    FV_TRY(fv_params_alloc(m->params));
    if (d->has_up)
        memcpy(fv_params_tensor(m->params, m->up).data, d->up, sizeof(float) * ME * MH * MK);
    memcpy(fv_params_tensor(m->params, m->down).data, d->down,
           sizeof(float) * (size_t)(ME * MN * I));
    FV_TRY(fv_tape_create(ctx, &t, m->params, FV_TRAIN, precision));
    const fv_t x = fv_input_grad(t, "x", FV_F32, 2, xs), g = fv_input_grad(t, "g", FV_F32, 2, gs);
    const fv_t goal = fv_input(t, "target", FV_F32, 2, ys);
    const fv_t y = fv_moe(t, x, g, m->up, m->down);
    fv_output(t, "y", y);
    fv_output(t, "loss", fv_loss_mse(t, y, goal, 0));
    fv_status s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(ctx, &m->plan, t, NULL);
    fv_tape_destroy(&t);
    if (s == FV_OK) s = fv_plan_bind(m->plan, "x", d->x);
    if (s == FV_OK) s = fv_plan_bind(m->plan, "g", d->gate);
    if (s == FV_OK) s = fv_plan_bind(m->plan, "target", d->target);
    if (s == FV_OK) s = fv_plan_forward(m->plan);
    return s == FV_OK ? fv_plan_backward(m->plan, "loss", 1.0f) : s;
}

static double moe_gradient_error(const moe_data *d, float *v, const float *got, int n, double *top)
{
    double worst = 0;
    *top = 1e-6;
    for (int p = 0; p < 12; p++) {
        const int i = (p * 7919 + p * p) % n;
        const float keep = v[i], h = 1e-2f;
        v[i] = keep + h;
        const double up = moe_loss(d), hi = v[i];
        v[i] = keep - h;
        const double down = moe_loss(d), lo = v[i];
        v[i] = keep;
        const double want = (up - down) / (hi - lo);
        worst = test_worst(worst, fabs(want - got[i]));
        *top = fmax(*top, fabs(want));
    }
    return worst;
}

static void check_moe(fv_ctx *ctx, int R, bool has_up, fv_dtype precision)
{
    moe_data d = {R, has_up, NULL, NULL, NULL, NULL, NULL};
    const int sizes[5] = {R * MK, R * ME, ME * MH * MK, ME * MN * (has_up ? MH : MK), R * MN};
    float **const all[5] = {&d.x, &d.gate, &d.up, &d.down, &d.target};
    for (int k = 0; k < 5; k++) {
        *all[k] = malloc((size_t)sizes[k] * sizeof(float));
        if (!*all[k]) exit(1);
        test_fill(*all[k], sizes[k], (uint64_t)(k + R));
    }
    for (int i = 0; i < R * ME; i++) /* some experts get no rows at small R */
        d.gate[i] = (i * 7 / 3) % 2 ? 0.0f : 0.5f + 0.5f * d.gate[i];
    moe_run m = {0};
    const double tol = precision == FV_BF16 ? 2e-2 : 1e-5;
    fv_status s = moe_build(ctx, &d, &m, precision);
    CHECK_MSG(s == FV_OK, "%s", fv_ctx_error(ctx));
    double *want = malloc((size_t)(R * MN) * sizeof *want), top = 0, err = 0;
    if (!want) exit(1);
    moe_ref(&d, want);
    const float *y = fv_plan_value(m.plan, "y").data;
    for (int i = 0; i < R * MN; i++) {
        top = fmax(top, fabs(want[i]));
        err = fmax(err, fabs(want[i] - y[i]));
    }
    CHECK_MSG(err <= tol * top, "R %d up %d: %g of %g", R, has_up, err, top);
    const struct {
        float *v;
        const float *got;
        int n;
    } g[4] = {{d.x, fv_plan_grad(m.plan, "x").data, R * MK},
              {d.down, fv_params_grad(m.params, m.down).data, sizes[3]},
              {d.up, has_up ? fv_params_grad(m.params, m.up).data : NULL, sizes[2]},
              {d.gate, fv_plan_grad(m.plan, "g").data, R * ME}};
    for (int k = 0; k < 4; k++) {
        if (!g[k].got) continue;
        if (k == 3) /* a difference at gate 0 would switch the expert on */
            for (int i = 0; i < R * ME; i++)
                if (d.gate[i] == 0) d.gate[i] = 0.25f;
        if (k == 3) {
            fv_params_zero_grad(m.params);
            OK(ctx, fv_plan_forward(m.plan));
            OK(ctx, fv_plan_backward(m.plan, "loss", 1.0f));
        }
        const double e = moe_gradient_error(&d, g[k].v, g[k].got, g[k].n, &top);
        /* a difference over 1e-2 crosses the bend of relu^2: 1e-4 of h */
        CHECK_MSG(e <= (precision == FV_BF16 ? 3e-2 : 2e-3) * top, "R %d up %d input %d: %g of %g",
                  R, has_up, k, e, top);
    }
    fv_plan_destroy(&m.plan);
    fv_params_destroy(&m.params);
    free(want);
    for (int k = 0; k < 5; k++) free(*all[k]);
}

static void experts_match_the_reference(void)
{
    static const int rows[] = {1, 5, 32, 77, 700};
    for (size_t i = 0; i < FV_ARRAY_LEN(rows); i++)
        for (int up = 0; up < 2; up++) {
            check_moe(isa_ctx[SCALAR], rows[i], up, FV_F32);
            if (isa_ctx[AVX512]) check_moe(isa_ctx[AVX512], rows[i], up, FV_BF16);
            if (test_bad) return;
        }
}

int main(int argc, char **argv)
{
    const bool is_bench = argc > 1 && strcmp(argv[1], "--bench") == 0;
    make_contexts(is_bench ? 0 : 1);
    if (is_bench) {
        wkv_case(32, 128, 96, true);
        lerp_case(32, 128, 96, 2);
        return bench();
    }
    add_recurrent_cases();
    RUN_OP_CHECKS();
    RUN(state_carries_over);
    RUN(a_key_of_zeros_is_harmless);
    RUN(equal_logits_go_to_the_lower_index);
    RUN(experts_match_the_reference);
    return op_checks_end();
}
