/* vpic_bench_report.c - what vpic bench says: tables, JSON, CSV. */
#include "bench_csv.h"
#include "vpic_bench.h"

#include <math.h>
#include <string.h>

#define MIB 1048576.0

/* ---- Text ------------------------------------------------------------------------------------ */

static void put_value(double v, int digits)
{
    if (isfinite(v)) printf("  %7.*f", digits, v);
    else printf("  %7s", "-");
}

static void print_measure(const pic_bench *b, int measure)
{
    const pic_measure *m = &pic_measures[measure];
    printf("%s (%s is better)\n%-18s", m->name, m->more_is_better ? "more" : "less",
           "bits per pixel");
    for (int i = 0; i < PIC_RATES; i++) printf("  %7.2f", pic_rates[i]);
    puts("   from      to");
    for (int k = 0; k < b->coder_count; k++) {
        const pic_curve *c = &b->curve[k];
        printf("%-18s", b->coder[k].title);
        if (c->n == 0) {
            printf("  %s\n", b->coder[k].why);
            continue;
        }
        for (int i = 0; i < PIC_RATES; i++)
            put_value(pic_value_at(c, pic_rates[i], measure), m->digits);
        printf("  %6.3f  %6.3f\n", c->p[0].bpp, c->p[c->n - 1].bpp);
    }
    putchar('\n');
}

static void print_times(const pic_bench *b)
{
    const int ref = pic_reference(b);
    const pic_point *r = ref >= 0 ? pic_timed(&b->curve[ref]) : NULL;
    if (!r) return;
    printf("times, %s = 1; %d thread%s where a program has them\n", b->coder[ref].title, b->threads,
           b->threads == 1 ? "" : "s");
    printf("%-18s  %7s  %7s  %7s  %7s  %7s\n", "coder", "enc CPU", "dec CPU", "enc s", "dec s",
           "MiB");
    for (int k = 0; k < b->coder_count; k++) {
        const pic_point *p = pic_timed(&b->curve[k]);
        if (!p) continue;
        printf("%-18s", b->coder[k].title);
        put_value(bench_ratio(p->pack_cpu, r->pack_cpu), 2);
        put_value(bench_ratio(p->unpack_cpu, r->unpack_cpu), 2);
        put_value(bench_ratio(p->pack_wall, r->pack_wall), 2);
        put_value(bench_ratio(p->unpack_wall, r->unpack_wall), 2);
        put_value((double)p->memory / MIB, 1);
        putchar('\n');
    }
}

void pic_print_text(const pic_bench *b)
{
    double pixels = 0;
    for (int i = 0; i < b->done; i++) pixels += (double)b->width[i] * b->height[i];
    printf("%d picture%s, %.2f million pixels\n\n", b->done, b->done == 1 ? "" : "s",
           pixels * 1e-6);
    for (int m = 0; m < PIC_MEASURES; m++) print_measure(b, m);
    print_times(b);
    for (int k = 0; k < b->coder_count; k++)
        if (b->coder[k].failures)
            printf("%s: %d failure%s, settings with one are left out: %s\n", b->coder[k].title,
                   b->coder[k].failures, b->coder[k].failures == 1 ? "" : "s", b->coder[k].why);
    pic_print_gates(b);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void json_point(const pic_coder *coder, const pic_point *p)
{
    char setting[32];
    cli_json j;
    pic_setting_name(coder, p->setting, setting, sizeof setting);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "setting", setting);
    cli_json_number(&j, "bpp", p->bpp);
    for (int m = 0; m < PIC_MEASURES; m++)
        cli_json_number(&j, pic_measures[m].key, p->value[m]);
    cli_json_number(&j, "encode_cpu_s_per_megapixel", p->pack_cpu);
    cli_json_number(&j, "encode_wall_s_per_megapixel", p->pack_wall);
    cli_json_number(&j, "decode_cpu_s_per_megapixel", p->unpack_cpu);
    cli_json_number(&j, "decode_wall_s_per_megapixel", p->unpack_wall);
    cli_json_u64(&j, "memory_bytes", p->memory);
    cli_json_close(&j);
}

static void json_at(const pic_curve *c, double bpp)
{
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_number(&j, "bpp", bpp);
    for (int m = 0; m < PIC_MEASURES; m++)
        cli_json_number(&j, pic_measures[m].key, pic_value_at(c, bpp, m));
    cli_json_close(&j);
}

static void json_coder(const pic_bench *b, int k)
{
    const pic_curve *c = &b->curve[k];
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "coder", b->coder[k].title);
    cli_json_string(&j, "not_installed", b->coder[k].lacks);
    cli_json_u64(&j, "failures", (uint64_t)b->coder[k].failures);
    cli_json_key(&j, "points");
    putchar('[');
    for (int i = 0; i < c->n; i++) {
        if (i) putchar(',');
        json_point(&b->coder[k], &c->p[i]);
    }
    putchar(']');
    cli_json_key(&j, "at");
    putchar('[');
    for (int i = 0; i < PIC_RATES; i++) {
        if (i) putchar(',');
        json_at(c, pic_rates[i]);
    }
    putchar(']');
    cli_json_close(&j);
}

void pic_print_json(const pic_bench *b)
{
    const int ref = pic_reference(b);
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_u64(&j, "pictures", (uint64_t)b->done);
    cli_json_u64(&j, "threads", (uint64_t)b->threads);
    cli_json_string(&j, "time_reference", ref >= 0 ? b->coder[ref].title : NULL);
    cli_json_key(&j, "coders");
    putchar('[');
    for (int k = 0; k < b->coder_count; k++) {
        if (k) putchar(',');
        json_coder(b, k);
    }
    putchar(']');
    pic_json_gates(b, &j);
    cli_json_close(&j);
}

/* ---- CSV ------------------------------------------------------------------------------------- */

static void csv_line(const pic_bench *b, int picture, int coder, int setting, bench_csv *c)
{
    const pic_result *r = pic_result_of(b, picture, coder, setting);
    char name[32];
    if (!r->is_done) return;
    pic_setting_name(&b->coder[coder], setting, name, sizeof name);
    bench_csv_quoted(c, b->files[picture]);
    putc(',', c->to);
    bench_csv_quoted(c, b->coder[coder].title);
    fprintf(c->to, ",%s,%d,%d,%llu,%.6g,%.6g,%.6g,%.6g,%.6g", name,
            b->width[picture], b->height[picture], (unsigned long long)r->bytes, r->bpp,
            r->m.psnr, r->m.ms_ssim, r->m.gmsd, r->m.texture);
    fprintf(c->to, ",%.6g,%.6g,%llu,%.6g,%.6g,%llu\n", r->pack.cpu, r->pack.wall,
            (unsigned long long)r->pack.memory, r->unpack.cpu, r->unpack.wall,
            (unsigned long long)r->unpack.memory);
}

int pic_write_csv(const pic_bench *b)
{
    bench_csv c;
    const int code = bench_csv_open(
        &c, "file,coder,setting,width,height,bytes,bpp,psnr_db,ms_ssim,gmsd,wd,encode_cpu_s,"
            "encode_wall_s,encode_memory_bytes,decode_cpu_s,decode_wall_s,decode_memory_bytes\n");
    if (code != CLI_OK) return code;
    for (int i = 0; i < b->done; i++)
        for (int k = 0; k < b->coder_count; k++)
            for (int s = 0; s < b->coder[k].settings; s++) csv_line(b, i, k, s, &c);
    return bench_csv_close(&c, b->a->csv);
}
