/* bench_sr_speed.c - fovea bench sr: time of every number of steps, and of a matrix product. */
#include "bench_sr.h"

#include <stdlib.h>

#include "fovea_tool.h"

static fv_status product_rate(sr_bench *b, double *rate)
{
    const gemm_case g = {.name = "conv", .M = 4096, .N = 128, .K = 1152, .repeat = 1};
    gemm_result r;
    const fv_status s = gemm_measure(b->ctx, &g, b->precision, 0.05, &r);
    if (s == FV_OK) *rate = gemm_flop(&g) / r.median;
    return s;
}

typedef struct speed_samples {
    double total[SR_STEPS][SR_ROUNDS], network[SR_STEPS][SR_ROUNDS], rate[SR_ROUNDS];
} speed_samples;

/* Round -1 packs weights and counts for nothing. */
static fv_status time_round(sr_bench *b, const fv_image *small, int round, speed_samples *to)
{
    double rate = 0;
    fv_status s = product_rate(b, &rate);
    for (int t = 0; t < b->info.steps && s == FV_OK; t++) {
        const sr_way w = {.steps = t + 1, .fdu = -1};
        fv_image made = {0};
        fv_sr_stats st = {0};
        if (cli_interrupted()) return FV_ERR_CANCELLED;
        s = sr_enlarge(b, &w, small, &made, &st);
        fv_image_free(b->ctx, &made);
        b->speed[t].flop = st.flop;
        if (st.peak_bytes > b->speed[t].memory) b->speed[t].memory = st.peak_bytes;
        if (round < 0) continue;
        to->total[t][round] = st.seconds;
        to->network[t][round] = st.network_seconds;
    }
    if (round >= 0) to->rate[round] = rate;
    return s;
}

fv_status sr_run_speed(sr_bench *b, const fv_image *small)
{
    const int n = b->a->rounds;
    speed_samples *v = malloc(sizeof *v);
    fv_status s = v ? FV_OK : FV_ERR_OOM;
    b->timed_width = small->width;
    b->timed_height = small->height;
    for (int r = -1; r < n && s == FV_OK; r++) {
        cli_progress_title("times, round %d/%d", r < 0 ? 0 : r + 1, n);
        s = time_round(b, small, r, v);
    }
    for (int t = 0; t < b->info.steps && s == FV_OK; t++) {
        b->speed[t].seconds = cli_quantile(v->total[t], n, 0.5);
        b->speed[t].network = cli_quantile(v->network[t], n, 0.5);
    }
    if (s == FV_OK) b->product_rate = cli_quantile(v->rate, n, 0.5);
    free(v);
    return s;
}
