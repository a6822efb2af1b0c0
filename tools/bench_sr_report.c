/* bench_sr_report.c - fovea bench sr: what it prints and writes. */
#include "bench_sr.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_csv.h"
#include "bench_sheet.h"

const char *const sr_measure_name[SR_MEASURES] = {"Y-PSNR",   "SSIM",  "GMSD", "WD",
                                                  "spectrum", "LPIPS", "DISTS"};
static const char *const measure_key[SR_MEASURES] = {"psnr_y_db", "ssim",  "gmsd", "wd",
                                                     "spectrum",  "lpips", "dists"};

static double mean_of(const sr_bench *b, int way, int measure)
{
    return b->way[way].sum[measure] / b->done;
}

/* The way of the model's base: T = 1. */
static int base_way(const sr_bench *b)
{
    int i = 0;
    while (b->way[i].steps != 1) i++;
    return i;
}

static double motion_of(const sr_bench *b, double sum)
{
    return b->clips ? sum / b->way[base_way(b)].motion : NAN;
}

static double ratio_of_times(const sr_bench *b, int t)
{
    return b->speed[t].network / b->speed[0].network;
}

static double ratio_of_flop(const sr_bench *b, int t)
{
    return b->speed[t].flop / b->speed[0].flop;
}

static double share_of(const sr_bench *b, int t)
{
    return b->speed[t].flop / b->speed[t].network / b->product_rate;
}

static void print_number(double v, int width, int digits)
{
    if (isnan(v)) printf("%*s", width, "-");
    else printf("%*.*f", width, digits, v);
}

static void print_quality(const sr_bench *b)
{
    static const int digits[SR_MEASURES] = {2, 4, 4, 4, 3, 4, 4};
    int columns = SR_LPIPS;
    for (int k = 0; k < CLI_PERCEPTUALS; k++) columns += b->nets.net[k] != NULL;
    printf("%-18s", "way");
    for (int m = 0; m < SR_MEASURES; m++)
        if (m < SR_LPIPS || b->nets.net[m - SR_LPIPS]) printf("%10s", sr_measure_name[m]);
    printf("%10s%9s\n", "gain dB", "motion");
    for (int i = 0; i < b->ways; i++) {
        printf("%-18s", b->way[i].name);
        for (int m = 0; m < SR_MEASURES; m++)
            if (m < SR_LPIPS || b->nets.net[m - SR_LPIPS])
                print_number(mean_of(b, i, m), 10, digits[m]);
        printf("%+10.2f", mean_of(b, i, SR_PSNR_Y) - mean_of(b, 1, SR_PSNR_Y));
        print_number(motion_of(b, b->way[i].motion), 9, 3);
        printf("\n");
    }
    if (b->clips) {
        printf("%-18s%*s", "original", 10 * columns + 10, "");
        print_number(motion_of(b, b->original_motion), 9, 3);
        printf("\n");
    }
}

void sr_print_text(const sr_bench *b)
{
    char cpu[128];
    cli_cpu_name(cpu, sizeof cpu);
    printf("%s, %s, %d threads, %s\n", b->info.name, fv_dtype_name(b->precision),
           fv_ctx_threads(b->ctx), cpu);
    printf("%d picture%s, %s, made %d times smaller; gain: Y-PSNR over bicubic;\n"
           "motion: error along known motion, base = 1, %d clip%s\n\n",
           b->done, b->done == 1 ? "" : "s", b->a->is_degraded ? "degraded" : "clean", SR_SCALE,
           b->clips, b->clips == 1 ? "" : "s");
    print_quality(b);
    printf("\n%d x %d to %d x %d, medians of %d rounds\n", b->timed_width, b->timed_height,
           SR_SCALE * b->timed_width, SR_SCALE * b->timed_height, b->a->rounds);
    printf("%-8s%12s%12s%12s%12s%10s\n", "steps", "s", "time / T=1", "FLOP / T=1", "% product",
           "MiB");
    for (int t = 0; t < b->info.steps; t++)
        printf("T = %-4d%12.3f%12.2f%12.2f%12.0f%10.0f\n", t + 1, b->speed[t].seconds,
               ratio_of_times(b, t), ratio_of_flop(b, t), 100 * share_of(b, t),
               (double)b->speed[t].memory / 1048576);
    printf(
        "\n%% product: rate of the networks, of that of a product 4096 x 1152 x 128 (%.0f GFLOP/s)"
        "\n",
        1e-9 * b->product_rate);
}

void sr_print_json(const sr_bench *b)
{
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "bench", "sr");
    cli_json_string(&j, "model", b->info.name);
    cli_json_string(&j, "precision", fv_dtype_name(b->precision));
    cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(b->ctx));
    cli_json_u64(&j, "pictures", (uint64_t)b->done);
    cli_json_u64(&j, "clips", (uint64_t)b->clips);
    cli_json_bool(&j, "degraded", b->a->is_degraded);
    cli_json_number(&j, "products_per_second", b->product_rate);
    cli_json_number(&j, "original_motion", motion_of(b, b->original_motion));
    cli_json_key(&j, "ways");
    for (int i = 0; i < b->ways; i++) {
        cli_json w;
        fputs(i ? ", " : "[", stdout);
        cli_json_open(&w, stdout);
        cli_json_string(&w, "name", b->way[i].name);
        for (int m = 0; m < SR_MEASURES; m++) cli_json_number(&w, measure_key[m], mean_of(b, i, m));
        cli_json_number(&w, "motion", motion_of(b, b->way[i].motion));
        cli_json_close(&w);
    }
    printf("]");
    cli_json_key(&j, "speed");
    for (int t = 0; t < b->info.steps; t++) {
        cli_json w;
        fputs(t ? ", " : "[", stdout);
        cli_json_open(&w, stdout);
        cli_json_u64(&w, "steps", (uint64_t)t + 1);
        cli_json_number(&w, "seconds", b->speed[t].seconds);
        cli_json_number(&w, "network_seconds", b->speed[t].network);
        cli_json_number(&w, "flop", b->speed[t].flop);
        cli_json_number(&w, "time_ratio", ratio_of_times(b, t));
        cli_json_number(&w, "flop_ratio", ratio_of_flop(b, t));
        cli_json_number(&w, "product_share", share_of(b, t));
        cli_json_u64(&w, "memory_bytes", b->speed[t].memory);
        cli_json_close(&w);
    }
    printf("]");
    cli_json_close(&j);
}

/* ---- Files ----------------------------------------------------------------------------------- */

int sr_write_csv(const sr_bench *b)
{
    bench_csv c;
    const int code = bench_csv_open(&c, "picture,way");
    if (code != CLI_OK) return code;
    bench_csv_titles(&c, measure_key, SR_MEASURES);
    for (int i = 0; i < b->done; i++)
        for (int k = 0; k < b->ways; k++) {
            bench_csv_quoted(&c, b->files[b->done_file[i]]);
            fputc(',', c.to);
            bench_csv_quoted(&c, b->way[k].name);
            bench_csv_numbers(&c, sr_values(b, i, k), SR_MEASURES);
        }
    return bench_csv_close(&c, b->a->csv);
}

int sr_write_sheet(sr_bench *b)
{
    bench_row row[SR_WAYS + 1];
    memset(row, 0, sizeof row);
    int n = 0;
    for (int i = 0; i < b->ways; i++) {
        const sr_way *w = &b->way[i];
        snprintf(row[n].label, sizeof row[n].label, "%s", w->name);
        snprintf(row[n].numbers, sizeof row[n].numbers, "%.2f dB", w->sum[SR_PSNR_Y] / b->done);
        row[n++].image = w->crop;
    }
    snprintf(row[n].label, sizeof row[n].label, "original");
    row[n++].image = b->crop;
    return bench_write_sheet(b->ctx, row, n, b->crops, b->a->sheet, b->a->common.force);
}
